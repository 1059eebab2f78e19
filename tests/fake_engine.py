"""An engine without ReQL, for tests of the protocol: the term names what shall happen.

["value", x]          an atom
["stream", n]         a stream of 0 … n-1
["feed", t]           a feed of table t; `FakeEngine.commit` gives it elements
["insert", x]         a write, durable; ["insert soft", x] one that is not
["fail", kind, text]  fails when it runs, as the `QueryError` of that kind
["nonsense"]          does not compile
["bug"]               raises what no engine should
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cdcbridge.engine.core import Answer, Atom, Chunk
from cdcbridge.engine.errors import CompileError, ErrorType, QueryError
from cdcbridge.engine.news import News, Topic
from cdcbridge.engine.session import attempt


def news_of(*topics: Topic, seq: int = 1, upto: int = 1) -> News:
    """News about topics, beginning with an entry, and with the last one of its transaction."""
    news = News()
    news.topics, news.upto = dict.fromkeys(topics, seq), upto
    return news


class FakeCursor:
    """A stream of `items`, or a feed of `topics` that gets its items later. An item may be an exception."""

    notes: tuple[int, ...] = ()

    def __init__(self, items: Sequence[Any] = (), topics: Sequence[Topic] = ()) -> None:
        self.items: deque[Any] = deque(items)
        self.topics = frozenset(topics)
        self.is_feed = bool(topics)
        self.notes = (1,) if topics else ()
        self.closed = 0
        self.is_far_behind = False
        self.delay_s = 0.0
        self.notified: list[tuple[int, int]] = []
        self.on_read: Callable[[], object] = lambda: None
        """Called when a read has found what it gives out."""

    def wait_s(self) -> float:
        return self.delay_s

    def notify(self, seq: int, upto: int) -> None:
        self.notified.append((seq, upto))

    def read(self, max_rows: int, max_bytes: int) -> Chunk:
        assert not self.closed, "read after close"
        items: list[bytes] = []
        while self.items and len(items) < max_rows and sum(map(len, items)) < max_bytes:
            if isinstance(self.items[0], Exception):
                if items:
                    break
                raise self.items.popleft()
            items.append(msgspec.json.encode(self.items.popleft()))
        done = not self.items and not self.is_feed
        self.on_read()
        return Chunk(items, done)

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakePlan:
    term: list[Any]
    durable: bool = True

    @property
    def writes(self) -> bool:
        return str(self.term[0]).startswith("insert")

    @property
    def is_feed(self) -> bool:
        return bool(self.term[0] == "feed")


class FakeEngine:
    """See the module's text. `cursors` are all that it has handed out, `written` what was inserted."""

    wants_checkpoint = False
    forgets = False

    def __init__(self) -> None:
        self.cursors: list[FakeCursor] = []
        self.written: list[Any] = []
        self.groups: list[int] = []
        self.synced = 0
        self.on_write: Callable[[], object] = lambda: None
        self.on_sync: Callable[[], object] = lambda: None
        self.on_stream: Callable[[], object] = lambda: None
        self.compiled = 0
        self.far_behind = False

    def compile(self, term: Any, options: Mapping[str, Any]) -> FakePlan:
        self.compiled += 1
        if term == ["nonsense"]:
            raise CompileError("No such term.", (0,))
        if term == ["deep"]:
            raise RecursionError
        return FakePlan(term, term[0] != "insert soft")

    def read(self, plan: FakePlan) -> Answer:
        match plan.term:
            case ["value", value]:
                return Atom(msgspec.json.encode(value))
            case ["stream", count]:
                self.on_stream()
                return self._opened(FakeCursor(range(count)))
            case ["feed", table]:
                cursor = FakeCursor((), [table])
                cursor.is_far_behind = self.far_behind
                return self._opened(cursor)
            case ["fail", kind, text]:
                raise QueryError(ErrorType[kind], text, (0, "index"))
        raise ZeroDivisionError("a secret document")

    def write(self, plans: Sequence[FakePlan]) -> list[Answer | QueryError]:
        self.on_write()
        self.groups.append(len(plans))
        self.written += [plan.term[1] for plan in plans]
        return [Atom(b'{"inserted":1}') for _ in plans]

    def sync(self) -> News:
        self.on_sync()
        self.synced = len(self.written)
        return news_of(1)

    def checkpoint(self) -> None: ...

    def _opened(self, cursor: FakeCursor) -> FakeCursor:
        self.cursors.append(cursor)
        return cursor


class ManualExecutor:
    """Does nothing until `run` is called, or everything at once if it is `eager`."""

    def __init__(self, engine: FakeEngine, *, eager: bool = True) -> None:
        self.engine = engine
        self.eager = eager
        self.jobs: deque[Callable[[], None]] = deque()
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def later(self, delay_s: float, job: Callable[[], None]) -> None:
        self.timers.append((delay_s, job))

    def read(self, job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._queue(lambda: done(attempt(job)))

    def write(self, plan: Any, done: Callable[[Any], None]) -> None:
        self._queue(lambda: done(self.engine.write([plan])[0]))

    def run(self) -> None:
        while self.jobs:
            self.jobs.popleft()()

    def _queue(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)
        if self.eager:
            self.run()
