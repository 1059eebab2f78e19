"""The engine as one object: queries in, answers out, one data file behind it.

It knows no sockets, threads or event loops; `server.py` and `local.py` decide who calls it when. Their rules:

- `compile` and `write` are called by one thread at a time, under one lock or on one event loop;
- `read`, and reading a cursor, may happen in any thread: each thread has a connection of its own. A cursor is read by
  one thread at a time;
- `sync` and `checkpoint` may be called from any thread, also while `write` runs.

A write is visible to every reader when `write` returns, and durable when a `sync` that began after it returns.
Feeds, and the bridge, see a change when it is durable.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from cdcbridge.engine.errors import CompileError, ErrorType, FileUnusable, QueryError
from cdcbridge.engine.feeds.feed import Feed
from cdcbridge.engine.news import News, Topic
from cdcbridge.engine.reql.access import DatabaseName
from cdcbridge.engine.reql.admin import checked_durability
from cdcbridge.engine.reql.documents import refuse_stray_literal
from cdcbridge.engine.reql.feeds import checked_queue_size
from cdcbridge.engine.reql.indexes import index_function
from cdcbridge.engine.reql.library import compile_query
from cdcbridge.engine.reql.registry import Compiled
from cdcbridge.engine.reql.runtime import PAUSE, Context, Env, Grouped, Settings, Stream, datum, kind_of
from cdcbridge.engine.retention import Retention, Step
from cdcbridge.engine.store import KEEP_ALL, Store, Transaction
from cdcbridge.engine.values import HIGHEST_ARRAY_LIMIT, PSEUDO_TYPE, dumps

InitialValues = Literal["seed", "explicit"]
"""Which feeds begin with initial values where the feed does not say: point and range feeds, or none."""


class Atom(msgspec.Struct, frozen=True):
    """A finished answer: SUCCESS_ATOM with this one JSON value."""

    json: bytes


class Chunk(msgspec.Struct, frozen=True):
    """Some elements of a sequence, each as JSON, in order. `done`: there are no more, now or later."""

    items: list[bytes]
    done: bool


class Cursor(Protocol):
    """A sequence that is read in chunks: a stream, or a feed, which never ends by itself.

    `notes` go into every PARTIAL and SEQUENCE answer (ResponseNote numbers). `is_feed`: an empty chunk that is not
    `done` means "nothing yet": `notify` it when a commit touches one of `topics`, and read again.
    """

    notes: tuple[int, ...]
    is_feed: bool
    topics: frozenset[Topic]

    @property
    def is_far_behind(self) -> bool:
        """Reading may take long: it should be done where nobody waits for it."""

    def wait_s(self) -> float:
        """How long the next batch should wait, so that more comes together."""

    def notify(self, seq: int, upto: int) -> None:
        """The first entry about one of the topics since it was read and had nothing is `seq`; `upto` is the last entry
        of its transaction.
        """

    def read(self, max_rows: int, max_bytes: int) -> Chunk:
        """The next elements: at least one unless the sequence is at its end, or is a feed with nothing new.

        Raises:
            QueryError: an element cannot be made, or the feed's table is gone. Elements before it have been given
                out; the cursor is dead afterwards.
            FileUnreadable: the data file is damaged.
        """

    def close(self) -> None:
        """Let go of what the cursor holds. Closing twice is fine."""


Answer = Atom | Cursor


@dataclass
class Plan:
    """A compiled query. `writes`: it must go through `Engine.write`. `is_feed`: its answer is a feed.

    `durable` is set by `Engine.write`: the query asked to be answered only after a `sync` (durability hard).
    """

    compiled: Compiled
    settings: Settings
    durable: bool = False

    @property
    def writes(self) -> bool:
        return self.compiled.writes

    @property
    def is_feed(self) -> bool:
        return self.compiled.is_feed


class Engine:
    """One open data file, ready for queries."""

    def __init__(self, store: Store, initial_values: InitialValues) -> None:
        self.store = store
        self._defaults = Settings(initial_values=initial_values)

    @classmethod
    def open(cls, path: Path | str, initial_values: InitialValues = "seed", retention: Retention = KEEP_ALL) -> Engine:
        """Open a data file, or make it. `retention` is for `trim`.

        Raises:
            FileInUse: another process has it open.
            FileUnusable: it cannot be read or written, or is something else.
        """
        return cls(Store(Path(path), retention, index_function), initial_values)

    def compile(self, term: Any, options: Mapping[str, Any]) -> Plan:
        """A plan for the parsed JSON of a query and of its global optional arguments.

        Raises:
            QueryError: also its subclasses CompileError and ClientError.
        """
        try:
            settings = self._settings(options)
            return Plan(compile_query(term, settings.array_limit), settings)
        except RecursionError:
            raise CompileError("Query nested too deeply.", ()) from None

    def _settings(self, options: Mapping[str, Any]) -> Settings:
        changes: dict[str, Any] = {}
        for name in ("db", "array_limit", "durability", "changefeed_queue_size"):
            if name in options:
                changes |= _setting(name, self._option(name, options[name]))
        return replace(self._defaults, **changes) if changes else self._defaults

    def _option(self, name: str, term: Any) -> Any:
        compiled = compile_query(term)
        if compiled.writes:
            raise QueryError(ErrorType.QUERY_LOGIC, f"The global optional argument `{name}` cannot write.", ())
        return compiled.run(Env(Context(self.store, self._defaults), {}))

    def read(self, plan: Plan) -> Answer:
        """Run a plan that does not write.

        Raises:
            QueryError: the query fails.
            FileUnreadable: the data file is damaged.
        """
        context = Context(self.store, plan.settings)
        with self.store.reading():
            return _answer(plan.compiled.run(Env(context, {})))

    def write(self, plans: Sequence[Plan]) -> list[Answer | Exception]:
        """Run plans that write, in order, in one transaction; each fails or succeeds alone.

        Raises:
            DiskFull: there is no room; none of the plans happened.
            FileUnusable: the transaction could not be committed; none of the plans happened.
        """
        with self.store.transaction() as transaction:
            return [self._write_one(transaction, plan) for plan in plans]

    def _write_one(self, transaction: Transaction, plan: Plan) -> Answer | Exception:
        context = Context(self.store, plan.settings, transaction)
        catalog = transaction.catalog
        try:
            with transaction.savepoint():
                answer = _answer(plan.compiled.run(Env(context, {})))
                return _held(answer) if isinstance(answer, StreamCursor) else answer
        except (sqlite3.Error, OSError, FileUnusable):
            raise  # the file's trouble is everybody's
        except Exception as error:  # noqa: BLE001 (one query's trouble, even a bug, must not undo the others)
            return error
        finally:
            plan.durable = context.hard or transaction.catalog is not catalog

    def sync(self) -> News:
        """Make everything written so far durable. Returns what has changed, for waking feeds.

        Raises:
            FileUnusable: the disk refused; what was written since the last `sync` may be lost.
        """
        return self.store.sync()

    @property
    def wants_checkpoint(self) -> bool:
        """It is time for `checkpoint`, in a thread that may wait for the disk."""
        return self.store.wants_checkpoint

    def checkpoint(self) -> None:
        """Copy SQLite's write-ahead log into the data file. Loses nothing if it is never called, but the log grows."""
        self.store.checkpoint()

    @property
    def forgets(self) -> bool:
        """The journal is limited: `trim` should be called now and then."""
        return not self.store.retention.keeps_all

    def trim(self) -> Step | None:
        """One short step of forgetting what the journal need not keep; None when that is all. To be called as `write`.

        Raises:
            FileUnusable: it could not be done, and did not happen.
        """
        return self.store.trim()

    def close(self) -> None:
        """Sync, and let the file go. No cursor may be read afterwards."""
        self.store.close()


def _setting(name: str, value: Any) -> dict[str, Any]:
    if name == "db":
        if type(value) is not DatabaseName:
            raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type DATABASE but found {kind_of(value)}.", ())
        return {"database": str(value)}
    if name == "durability":
        return {"soft": checked_durability(datum(value)) == "soft"}
    if name == "changefeed_queue_size":
        return {"changefeed_queue_size": checked_queue_size(datum(value))}
    if type(value) is not int or value < 1:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Illegal array size limit `{value}`.  (Must be >= 1.)", ())
    return {"array_limit": min(value, HIGHEST_ARRAY_LIMIT)}


def _answer(value: Any) -> Answer:
    """The answer that a query's result makes: sequences in batches, everything else at once."""
    if type(value) is Stream and not value.array:
        return StreamCursor(value)
    if type(value) is Grouped:
        return Atom(dumps({PSEUDO_TYPE: "GROUPED_DATA", "data": value.data()}))
    if type(value) is DatabaseName:
        raise QueryError(
            ErrorType.QUERY_LOGIC, "Query result must be of type DATUM, GROUPED_DATA, or STREAM (got DATABASE).", ()
        )
    if callable(value):
        raise QueryError(
            ErrorType.QUERY_LOGIC, "Query result must be of type DATUM, GROUPED_DATA, or STREAM (got FUNCTION).", ()
        )
    answer = dumps(datum(value))
    refuse_stray_literal(answer)
    return Atom(answer)


class StreamCursor:
    """A stream or a feed, read as far as the client wants it."""

    def __init__(self, stream: Stream) -> None:
        self.notes = stream.source.notes
        self.is_feed = stream.is_feed
        self._feeds: tuple[Feed, ...] = stream.feeds
        self.topics: frozenset[Topic] = frozenset().union(*(feed.topics for feed in self._feeds))
        self._context = stream.context
        self._store = stream.context.store
        self._elements: Iterator[bytes] = stream.encoded()
        self._error: QueryError | None = None

    @property
    def is_far_behind(self) -> bool:
        """See `Cursor.is_far_behind`."""
        return any(feed.is_far_behind for feed in self._feeds)

    def wait_s(self) -> float:
        """See `Cursor.wait_s`."""
        return max((feed.wait_s() for feed in self._feeds), default=0.0)

    def notify(self, seq: int, upto: int) -> None:
        """See `Cursor.notify`."""
        for feed in self._feeds:
            feed.notify(seq, upto)

    def read(self, max_rows: int, max_bytes: int) -> Chunk:
        """See `Cursor.read`."""
        if self._error is not None:
            raise self._error
        items: list[bytes] = []
        size = 0
        try:
            with self._store.reading():
                for feed in self._feeds:
                    feed.begin_batch(self._context)
                for number in count(1):
                    if (element := next(self._elements, None)) is None:
                        return Chunk(items, done=True)
                    if element is PAUSE:
                        break
                    items.append(element)
                    size += len(element)
                    if number >= max_rows or size >= max_bytes:
                        break
        except QueryError as error:
            self._error = error
            if not items or error.type is ErrorType.OP_FAILED:
                raise
        for feed in self._feeds if items else ():
            feed.batch_given()
        return Chunk(items, done=False)

    def close(self) -> None:
        """See `Cursor.close`."""
        self._elements = iter(())


class ListCursor:
    """Elements that are all there."""

    notes: tuple[int, ...] = ()
    is_feed = False
    topics: frozenset[Topic] = frozenset()
    is_far_behind = False

    def __init__(self, items: list[bytes]) -> None:
        self._items = deque(items)

    def read(self, max_rows: int, max_bytes: int) -> Chunk:
        """See `Cursor.read`."""
        items: list[bytes] = []
        size = 0
        while self._items and len(items) < max_rows and size < max_bytes:
            items.append(self._items.popleft())
            size += len(items[-1])
        return Chunk(items, done=not self._items)

    def wait_s(self) -> float:
        """See `Cursor.wait_s`."""
        return 0.0

    def notify(self, seq: int, upto: int) -> None:
        """See `Cursor.notify`."""

    def close(self) -> None:
        """See `Cursor.close`."""
        self._items.clear()


def _held(cursor: StreamCursor) -> ListCursor:
    """What a query that writes answers with has to be read before its transaction ends.

    Raises:
        QueryError: it has no end.
    """
    if cursor.is_feed:
        raise QueryError(ErrorType.QUERY_LOGIC, "A query that writes cannot be answered with a changefeed.", ())
    items: list[bytes] = []
    while True:
        chunk = cursor.read(1 << 30, 1 << 40)
        items += chunk.items
        if chunk.done:
            return ListCursor(items)
