"""One client's queries and cursors: a request in, answers out, nothing waits.

A token is in use from its START until its last answer. A stream is read by the executor, where it may take its time; a
feed is read at once by whoever wakes it, because what it reads is short and already there. Several CONTINUEs of one
token are answered one after the other; answers of different tokens may overtake each other.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import uuid4

import msgspec

from cdcbridge.engine import wire
from cdcbridge.engine.core import Answer, Atom, Chunk, Cursor, Engine, Plan
from cdcbridge.engine.errors import (
    ClientError,
    CompileError,
    DiskFull,
    ErrorType,
    FileUnreadable,
    FileUnusable,
    QueryError,
)
from cdcbridge.engine.news import News, Topic
from cdcbridge.engine.wire import QueryType, Request

T = TypeVar("T")

BATCH_BYTES = 1 << 20
BATCH_ROWS = 1 << 20
FIRST_BATCH_SCALEDOWN = 4
MAX_CURSORS = 10_000
"""Queries and cursors that one client may have open."""

GLOBAL_OPTIONS = frozenset(
    {
        "array_limit",
        "binary_format",
        "changefeed_queue_size",
        "db",
        "durability",
        "first_batch_scaledown_factor",
        "group_format",
        "identifier_format",
        "ignore_write_hook",
        "max_batch_bytes",
        "max_batch_rows",
        "max_batch_seconds",
        "min_batch_rows",
        "noreply",
        "profile",
        "read_mode",
        "time_format",
    }
)
"""The optional arguments of `run`. A name that is not among them is the client's error."""

_LOG = logging.getLogger("cdcbridge.engine")
_DATUM = 1
_SERVER = msgspec.json.encode({"id": str(uuid4()), "name": "cdcbridge", "proxy": False})
_END = wire.batch((), (), done=True)


class Executor(Protocol):
    """Decides when and where work is done. A session lives in one thread, or under one lock: both call `done` there.

    `done` gets the result or the exception, exactly once. It may be called before the method returns.
    """

    def read(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run `job`, which may take long and does not write. Jobs of one cursor come one after the other."""

    def write(self, plan: Plan, done: Callable[[Answer | Exception], None]) -> None:
        """Run a plan that writes, in the order of the calls; a durable one is done once it is on the disk."""

    def later(self, delay_s: float, job: Callable[[], None]) -> None:
        """Call `job` where the session lives, after a while."""


class Waiter(Protocol):
    """A feed with nothing to give out."""

    @property
    def topics(self) -> frozenset[Topic]:
        """What may change that."""

    def wake(self, seq: int, upto: int) -> None:
        """Entry `seq` is the first about its topics; `upto` is the last entry of the first transaction."""


class Watchers:
    """Waiting feeds by the tables and documents that they look at: a commit wakes only those that could care."""

    def __init__(self) -> None:
        self._waiting: defaultdict[Topic, set[Waiter]] = defaultdict(set)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, waiter: Waiter) -> None:
        """Wake `waiter` at all news about its topics, until it is discarded. Adding twice is fine."""
        for topic in waiter.topics:
            self._waiting[topic].add(waiter)

    def discard(self, waiter: Waiter) -> None:
        """Forget `waiter`, if it is known."""
        for topic in waiter.topics:
            if (others := self._waiting.get(topic)) is not None:
                others.discard(waiter)
                if not others:
                    del self._waiting[topic]

    def wake(self, news: News) -> None:
        """This has become durable."""
        first: dict[Waiter, int] = {}
        waiting = self._waiting
        fewer = news.topics if len(news.topics) < len(waiting) else waiting
        for topic in [topic for topic in fewer if topic in news.topics and topic in waiting]:
            seq = news.topics[topic]
            for waiter in self._waiting[topic]:
                first[waiter] = min(seq, first.get(waiter, seq))
        for waiter, seq in first.items():
            waiter.wake(seq, news.upto)


class _Limits(NamedTuple):
    """How large a batch may get."""

    rows: int = BATCH_ROWS
    bytes: int = BATCH_BYTES
    first_bytes: int = BATCH_BYTES // FIRST_BATCH_SCALEDOWN


class _Opened(NamedTuple):
    """A sequence with its first elements."""

    cursor: Cursor
    chunk: Chunk


class _Query:
    """A token in use. Without a `cursor`, its START has not been answered yet."""

    __slots__ = (
        "asked",
        "cursor",
        "idle",
        "in_place",
        "limits",
        "missed",
        "noreply",
        "over",
        "profile",
        "reading",
        "serving",
        "session",
        "stops",
        "timed",
        "token",
    )

    def __init__(self, session: Session, token: int, options: dict[str, Any]) -> None:
        self.session = session
        self.token = token
        self.noreply = _flag(options, "noreply")
        self.profile = _flag(options, "profile")
        self.limits = _Limits()
        self.cursor: Cursor | None = None
        self.in_place = False
        """The cursor is read by this thread, not by the executor, unless it is far behind."""
        self.idle = False
        """A feed had nothing, and no news has come since."""
        self.missed = False
        """News came while the executor was reading."""
        self.timed = False
        """A feed that lets changes come together is going to be served when its time has come."""
        self.reading = False
        self.serving = False
        self.over = False
        """The last answer has been given."""
        self.asked = 0
        """CONTINUEs without an answer."""
        self.stops = 0
        """STOPs without an answer: they came before the answer to START."""

    @property
    def ready(self) -> bool:
        """Somebody waits for elements, and nobody is fetching them."""
        return self.asked > 0 and self.cursor is not None and not self.reading and not self.over

    @property
    def topics(self) -> frozenset[Topic]:
        return self.cursor.topics if self.cursor is not None else frozenset()

    def wake(self, seq: int, upto: int) -> None:
        self.missed = self.reading
        if self.idle and self.cursor is not None:
            self.idle = False  # only the first news since it was read tells where to go on
            self.cursor.notify(seq, upto)
        self.session.serve(self)


class Session:
    """The queries of one client.

    Nothing that a client sends makes `receive` raise. `send` gets each answer as a whole frame. `progressed` is called
    whenever a query has stopped running, whether it is answered or not. Of the queries that it has open, cursors among
    them, `max_cursors` are served; more are refused.
    """

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        send: Callable[[bytes], None],
        watchers: Watchers,
        progressed: Callable[[], None] = lambda: None,
        max_cursors: int = MAX_CURSORS,
    ) -> None:
        self._max_cursors = max_cursors
        self._engine = engine
        self._executor = executor
        self._send = send
        self._watchers = watchers
        self._progressed = progressed
        self._queries: dict[int, _Query] = {}
        self._unreplied: set[int] = set()
        self._waits: list[tuple[int, set[int]]] = []
        self._held = False
        self._closed = False
        self.running = 0
        """Queries that the executor is working on. Waiting feeds are not among them."""

    def receive(self, token: int, query: bytes) -> None:
        """Take one query. Its answer comes through `send`, now or later."""
        try:
            request = wire.parse(query)
        except QueryError as failure:
            self._answer(token, wire.error(failure))
        else:
            self._dispatch(token, request)

    def hold(self) -> None:
        """The client does not read: cursors stay where they are until `resume`."""
        self._held = True

    def resume(self) -> None:
        """The client reads again."""
        self._held = False
        for query in list(self._queries.values()):
            self.serve(query)

    def close(self) -> None:
        """The client is gone: its cursors are let go, and what still runs is not answered."""
        self._closed = True
        for query in self._queries.values():
            query.over = True
            self._release(query)
        self._queries.clear()
        self._waits.clear()

    def serve(self, query: _Query) -> None:
        """Give out the next elements of a cursor, if somebody waits for them and they can be had."""
        if query.serving:
            return
        # Whoever is called back from here does not start over: a long queue is a loop, no recursion.
        query.serving = True
        while query.ready and not self._held and self._serve_once(query):
            pass
        query.serving = False

    def _serve_once(self, query: _Query) -> bool:
        """Answer one CONTINUE, or have it answered. False: there is nothing to answer it with."""
        assert query.cursor is not None
        if (wait_s := query.cursor.wait_s()) > 0:
            self._serve_later(query, wait_s)
            return False
        query.idle = False
        read = partial(query.cursor.read, query.limits.rows, query.limits.bytes)
        if query.in_place and not query.cursor.is_far_behind:
            return self._was_read(query, attempt(read))
        if query.cursor.is_feed:
            self._watchers.add(query)  # so that nothing is missed that comes while it is read
        query.reading = True
        self.running += 1
        self._executor.read(read, partial(self._was_read_elsewhere, query))
        return True

    def _serve_later(self, query: _Query, wait_s: float) -> None:
        """Changes may come together until then, unless they become too many."""
        self._watchers.add(query)
        if not query.timed:
            query.timed = True
            self._executor.later(wait_s, partial(self._time_has_come, query))

    def _time_has_come(self, query: _Query) -> None:
        query.timed = False
        self.serve(query)

    def _dispatch(self, token: int, request: Request) -> None:
        if request.type in (QueryType.CONTINUE, QueryType.STOP):
            self._go_on(token, request.type)
        elif token in self._queries:
            self._answer(token, wire.error(ClientError(f"ERROR: duplicate token {token}")))
        elif request.type is QueryType.START:
            self._start(token, request)
        elif request.type is QueryType.NOREPLY_WAIT:
            self._waits.append((token, set(self._unreplied)))
            self._answer_waits()
        else:
            self._answer(token, wire.server_info(_SERVER))

    def _start(self, token: int, request: Request) -> None:
        if len(self._queries) >= self._max_cursors:
            problem = f"Too many open cursors on this connection (limit {self._max_cursors}): close some first."
            self._answer(token, wire.error(QueryError(ErrorType.RESOURCE_LIMIT, problem)))
            return
        query = self._queries[token] = _Query(self, token, request.options)
        self.running += 1
        if query.noreply:
            self._unreplied.add(token)
        plan = attempt(partial(self._compile, query, request))
        if isinstance(plan, Exception):
            self._started(query, plan)
        else:
            self._run(query, plan)

    def _compile(self, query: _Query, request: Request) -> Plan:
        query.limits = _limits(request.options)
        return self._engine.compile(request.term, request.options)

    def _run(self, query: _Query, plan: Plan) -> None:
        query.in_place = plan.writes or plan.is_feed
        if plan.writes:
            self._executor.write(plan, partial(self._written, query))
            return
        job = partial(_open, self._engine, plan, query.limits)
        if query.in_place:
            self._started(query, attempt(job))
        else:
            self._executor.read(job, partial(self._started, query))

    def _written(self, query: _Query, result: Answer | Exception) -> None:
        if isinstance(result, Atom | Exception):
            self._started(query, result)
        else:
            self._started(query, attempt(partial(_first_chunk, result, query.limits)))

    def _started(self, query: _Query, result: Atom | _Opened | Exception) -> None:
        """The START of `query` has run. Nobody may be left to hear of it."""
        if isinstance(result, _Opened):
            query.cursor = result.cursor
        if self._closed:
            self._release(query)
        elif isinstance(result, Exception):
            self._finish(query, wire.error(_as_query_error(result), profile=query.profile))
        elif isinstance(result, Atom):
            self._finish(query, wire.atom(result.json, profile=query.profile))
        elif query.noreply or query.stops:
            self._finish(query, _END)
        else:
            self._give(query, result.chunk, profile=query.profile)
            self.serve(query)
        self._stopped_running()

    def _give(self, query: _Query, chunk: Chunk, *, profile: bool = False) -> None:
        notes = query.cursor.notes if query.cursor is not None else ()
        answer = wire.batch(chunk.items, notes, done=chunk.done, profile=profile)
        if chunk.done:
            self._finish(query, answer)
        else:
            self._answer(query.token, answer)

    def _go_on(self, token: int, kind: QueryType) -> None:
        query = self._queries.get(token)
        if query is None or query.noreply:
            self._answer(token, _not_cached(token))
        elif kind is QueryType.CONTINUE:
            query.asked += 1
            self.serve(query)
        elif query.cursor is None:
            query.stops += 1
        else:
            self._stop(query)

    def _stop(self, query: _Query) -> None:
        """Every CONTINUE that waits is answered as if the sequence had ended, and then the STOP itself."""
        query.stops = query.asked
        query.asked = 0
        self._finish(query, _END)

    def _was_read_elsewhere(self, query: _Query, result: Chunk | Exception) -> None:
        query.reading = False
        if query.over:
            self._release(query)
        elif self._was_read(query, result) or query.missed:
            query.missed = False
            self.serve(query)
        self._stopped_running()

    def _was_read(self, query: _Query, result: Chunk | Exception) -> bool:
        if isinstance(result, Chunk) and not result.items and not result.done:
            # An empty answer would be the driver's last: it asks again only when it has been given something.
            self._watchers.add(query)
            query.idle = not query.missed
            return False
        query.asked -= 1
        self._watchers.discard(query)
        if isinstance(result, Exception):
            self._finish(query, wire.error(_as_query_error(result)))
        else:
            self._give(query, result)
        return True

    def _finish(self, query: _Query, answer: bytes) -> None:
        """The last answer of a token, and one for each request that was waiting behind it."""
        del self._queries[query.token]
        query.over = True
        self._release(query)
        if query.noreply:
            self._unreplied.discard(query.token)
            self._answer_waits()
            return
        self._answer(query.token, answer)
        for _ in range(query.asked):
            self._answer(query.token, _not_cached(query.token))
        for _ in range(query.stops):
            self._answer(query.token, _END)

    def _release(self, query: _Query) -> None:
        """Let the cursor go, in the thread that reads it, and only when nobody is reading it."""
        cursor = query.cursor
        if cursor is None or query.reading:
            return
        self._watchers.discard(query)
        if query.in_place:
            _closed(attempt(cursor.close))
        else:
            self._executor.read(cursor.close, _closed)

    def _answer_waits(self) -> None:
        """Answer each NOREPLY_WAIT that has no noreply query before it any more."""
        still: list[tuple[int, set[int]]] = []
        for token, before in self._waits:
            if before & self._unreplied:
                still.append((token, before))
            else:
                self._answer(token, wire.wait_complete())
        self._waits = still

    def _stopped_running(self) -> None:
        self.running -= 1
        self._progressed()

    def _answer(self, token: int, answer: bytes) -> None:
        if not self._closed:
            self._send(wire.frame(token, answer))


def attempt(job: Callable[[], T]) -> T | Exception:
    """The result of `job`, or what it raised: what `done` of an `Executor` gets."""
    try:
        return job()
    except Exception as exc:  # noqa: BLE001 (it becomes the client's answer, or a line in the log)
        return exc


def _open(engine: Engine, plan: Plan, limits: _Limits) -> Atom | _Opened:
    answer = engine.read(plan)
    return answer if isinstance(answer, Atom) else _first_chunk(answer, limits)


def _first_chunk(cursor: Cursor, limits: _Limits) -> _Opened:
    """A feed is answered at once; one that is far behind can have nothing in that time."""
    if cursor.is_far_behind:
        return _Opened(cursor, Chunk([], done=False))
    try:
        return _Opened(cursor, cursor.read(limits.rows, limits.first_bytes))
    except BaseException:
        cursor.close()
        raise


def _closed(result: Exception | None) -> None:
    if result is not None:
        _LOG.error("a cursor could not be closed", exc_info=result)


def _not_cached(token: int) -> bytes:
    return wire.error(ClientError(f"Token {token} not in stream cache."))


def _as_query_error(exc: Exception) -> QueryError:
    """What the client is told. What is not its doing is logged, and told in few words."""
    match exc:
        case QueryError():
            return exc
        case FileUnreadable():
            return QueryError(ErrorType.OP_FAILED, f"The data file cannot be read: {exc}")
        case DiskFull():
            return QueryError(ErrorType.OP_FAILED, f"Nothing was written: {exc}")
        case FileUnusable():
            return QueryError(
                ErrorType.OP_INDETERMINATE, f"The data file is unusable, and what was being written may be lost: {exc}"
            )
        case RecursionError():
            return CompileError("The query is nested too deeply.")
        case _:
            _LOG.error("a query failed by a bug in the engine", exc_info=exc)
            return QueryError(ErrorType.INTERNAL, "The query failed by a bug in the engine; the engine's log has more.")


def _flag(options: dict[str, Any], name: str) -> bool:
    """A flag that has to be known before anything is computed: a literal, bare or as a DATUM term."""
    value = options.get(name)
    return value is True or value == [_DATUM, True]


def _limits(options: dict[str, Any]) -> _Limits:
    """The client's wishes for its batches.

    Raises:
        QueryError: one makes no sense, or there is an option that does not exist.
    """
    for name in options:
        if name not in GLOBAL_OPTIONS:
            raise CompileError(f"Unrecognized global optional argument `{name}`.")
    size = _positive(options, "max_batch_bytes", BATCH_BYTES)
    scaledown = _positive(options, "first_batch_scaledown_factor", FIRST_BATCH_SCALEDOWN)
    return _Limits(_positive(options, "max_batch_rows", BATCH_ROWS), size, max(1, size // scaledown))


def _positive(options: dict[str, Any], name: str, default: int) -> int:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise QueryError(
            ErrorType.QUERY_LOGIC, f"Illegal value for `{name}`: expected a number that is at least 1.", ()
        )
    return int(value)
