"""The engine in this process, behind the official driver: no server, no socket, the same queries.

`open` gives a connection of the driver's own class whose transport is memory. All that a program sees (cursors,
errors, `use`, `noreply_wait`, `next(wait=…)`) is therefore the driver's code, and what answers it is the code that
answers over TCP.

Threads: as with the driver, a connection is used by one thread at a time. Any number of connections, in as many
threads, may have the same file open: they share one engine, which is closed with the last of them. A thread that waits
for a feed is woken by what the others write.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from rethinkdb.errors import ReqlDriverError, ReqlTimeoutError
from rethinkdb.net import Connection, ConnectionInstance

from cdcbridge.engine.core import Answer, Engine, InitialValues, Plan
from cdcbridge.engine.errors import DiskFull, EngineError, FileUnusable
from cdcbridge.engine.news import News
from cdcbridge.engine.session import Session, Watchers, attempt
from cdcbridge.engine.wire import Frames, Query

T = TypeVar("T")

_LOG = logging.getLogger("cdcbridge.engine")


def open(path: Path | str, *, initial_values: InitialValues = "seed") -> LocalConnection:
    """A connection to the engine in this process, with `path` as its data file, which is made when it is missing.

    Close it, or use it in a `with`: the last one that is closed makes everything durable and lets the file go.

    Raises:
        FileInUse: another process has the file open.
        FileUnusable: it cannot be opened or written, or is no data file.
        EngineError: this process has it open with other `initial_values`.
    """
    connection: LocalConnection = LocalConnection(path, initial_values).reconnect(noreply_wait=False)
    return connection


class LocalConnection(Connection):  # type: ignore[misc]
    """The driver's blocking connection, with the engine of this process at its other end."""

    def __init__(self, path: Path | str, initial_values: InitialValues = "seed") -> None:
        self.path = os.path.realpath(path)
        self.initial_values: InitialValues = initial_values
        super().__init__(_LocalInstance, self.path, 0, None, None, "admin", "", 20, {}, 10)


class _LocalInstance(ConnectionInstance):  # type: ignore[misc]
    """What the driver keeps for an open connection."""

    def connect(self, timeout: float) -> LocalConnection:
        parent: LocalConnection = self._parent
        try:
            self._socket = _Transport(_acquire(parent.path, parent.initial_values))
        except EngineError:
            parent._instance = None
            raise
        return parent

    def client_port(self) -> None:
        """None: there is no port."""

    def client_address(self) -> None:
        """None: there is no address."""

    def close(self, noreply_wait: bool = False, token: int | None = None) -> None:
        # A noreply write has happened when `run` returns, so there is nothing to wait for. Waiting for an answer would
        # hang if another thread is reading this connection, as one may whose feed is being closed from here.
        super().close(False, token)


class _Shared:
    """One engine and all connections of this process to it.

    `lock` guards the engine's one-thread-at-a-time methods and the transports. It is let go for what takes long:
    reading streams, and the disk.
    """

    def __init__(self, path: str, initial_values: InitialValues, engine: Engine) -> None:
        self.path = path
        self.initial_values = initial_values
        self.engine = engine
        self.users = 0
        self.lock = threading.Lock()
        self.transports: set[_Transport] = set()
        self._sync_lock = threading.Lock()
        self._untold: deque[News] = deque()
        self._written = 0
        self._synced = 0
        self._failed: FileUnusable | None = None
        self._background = ThreadPoolExecutor(1, "engine-sync")

    def write(self, plan: Plan) -> Answer:
        """Run a plan that writes; with the lock held, which is let go while the disk works.

        Raises:
            QueryError: the plan failed.
            FileUnusable: it may not have been kept.
        """
        if self._failed is not None:
            raise self._failed
        (answer,) = self._watched(partial(self.engine.write, [plan]))
        self._written += 1
        if plan.durable:
            unlocked(self.lock, partial(self._sync, self._written))
        else:
            self._later(partial(self._sync, self._written))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Close the engine, whose last user is gone."""
        self._background.shutdown()
        self.engine.close()

    def _sync(self, upto: int) -> None:
        """Make the first `upto` writes durable. Threads that come meanwhile share the next flush.

        Raises:
            FileUnusable: the disk refused.
        """
        with self._sync_lock:
            if self._synced >= upto:
                return
            if self._failed is not None:
                raise self._failed
            reached = self._written
            self._untold.append(self._watched(self.engine.sync))
            self._synced = reached
        with self.lock:
            self._tell()
        if self.engine.wants_checkpoint:
            self._later(self.engine.checkpoint)

    def _tell(self) -> None:
        """Pass on what has become durable, in that order: a feed goes on where its first news begins."""
        while self._untold:
            news = self._untold.popleft()
            for transport in self.transports:
                transport.touch(news)

    def _later(self, job: Callable[[], None]) -> None:
        """Do disk work that nobody waits for. The next write is told if it fails."""
        self._background.submit(_logged, partial(self._watched, job))

    def _watched(self, job: Callable[[], T]) -> T:
        """Run `job`; once the file has failed, no further write is tried."""
        try:
            return job()
        except DiskFull:
            raise
        except FileUnusable as exc:
            self._failed = exc
            raise


class _DirectExecutor:
    """Runs everything at once, in the thread of the one who asks."""

    def __init__(self, shared: _Shared, later: Callable[[float, Callable[[], None]], None]) -> None:
        self._shared = shared
        self.later = later

    def read(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        done(attempt(partial(unlocked, self._shared.lock, job)))

    def write(self, plan: Plan, done: Callable[[Answer | Exception], None]) -> None:
        done(attempt(partial(self._shared.write, plan)))


class _Transport:
    """What the driver takes for its socket: queries go into a session, and its answers wait here to be read."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._arrived = threading.Condition(shared.lock)
        self._watchers = Watchers()
        executor = _DirectExecutor(shared, self._call_later)
        self._session = Session(shared.engine, executor, self._receive, self._watchers)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        """When to call what, the next one first; the number keeps those of one moment in their order."""
        self._timer_numbers = itertools.count()
        self._frames = Frames()
        self._inbox = bytearray()
        self._news = News()
        self._open = True
        self._busy = False
        """A query is running: the engine must not be closed."""
        with shared.lock:
            shared.transports.add(self)

    def is_open(self) -> bool:
        return self._open

    def close(self) -> None:
        """End it, also for a thread that is waiting in `recvall`."""
        with self._shared.lock:
            self._arrived.wait_for(lambda: not self._busy)
            if not self._open:
                return
            self._open = False
            self._shared.transports.discard(self)
            self._session.close()
            self._arrived.notify_all()
        _release(self._shared)

    def sendall(self, data: bytes) -> None:
        """Take a query. It has run when this returns, unless it is one that waits."""
        with self._shared.lock:
            self._check_open()
            self._frames.receive(data)
            while isinstance(query := self._frames.next(), Query):
                self._run(query)
            if query is not None:  # refused; what follows it is a new query
                self._receive(query.data)
                self._frames = Frames()

    def recvall(self, length: int, deadline: float | None) -> bytes:
        """The next `length` bytes of answers.

        Raises:
            ReqlTimeoutError: they have not come by `deadline`; none are lost.
            ReqlDriverError: the connection is closed.
        """
        with self._shared.lock:
            while len(self._inbox) < length:
                self._check_open()
                if not (self._wake_feeds() or self._run_timers()):
                    self._wait(deadline)
            data = bytes(self._inbox[:length])
            del self._inbox[:length]
            return data

    def touch(self, news: News) -> None:
        """Something has changed: whoever reads this transport reads its feeds. Called with the lock held."""
        if self._watchers:
            self._news.merge(news)
            self._arrived.notify_all()

    def _run(self, query: Query) -> None:
        self._busy = True
        try:
            self._session.receive(query.token, query.json)
        finally:
            self._busy = False
            self._arrived.notify_all()

    def _wake_feeds(self) -> bool:
        news, self._news = self._news, News()
        if news:
            self._watchers.wake(news)
        return bool(news)

    def _call_later(self, delay_s: float, job: Callable[[], None]) -> None:
        """Have `job` called by whoever reads this transport."""
        heapq.heappush(self._timers, (time.time() + delay_s, next(self._timer_numbers), job))

    def _run_timers(self) -> bool:
        if not self._timers or self._timers[0][0] > time.time():
            return False
        heapq.heappop(self._timers)[2]()
        return True

    def _wait(self, deadline: float | None) -> None:
        timeout_s = None if deadline is None else deadline - time.time()
        if timeout_s is not None and timeout_s <= 0:
            raise ReqlTimeoutError
        if self._timers:
            until_next_s = max(0.0, self._timers[0][0] - time.time())
            timeout_s = until_next_s if timeout_s is None else min(timeout_s, until_next_s)
        self._arrived.wait(timeout_s)

    def _receive(self, data: bytes) -> None:
        self._inbox += data
        self._arrived.notify_all()

    def _check_open(self) -> None:
        if not self._open:
            raise ReqlDriverError("Connection is closed.")


_registry: dict[str, _Shared] = {}
_registry_lock = threading.Lock()


def _acquire(path: str, initial_values: InitialValues) -> _Shared:
    with _registry_lock:
        shared = _registry.get(path)
        if shared is None:
            shared = _registry[path] = _Shared(path, initial_values, Engine.open(path, initial_values=initial_values))
        if shared.initial_values != initial_values:
            raise EngineError(f"{path} is already open in this process with initial_values={shared.initial_values!r}")
        shared.users += 1
        return shared


def _release(shared: _Shared) -> None:
    with _registry_lock:
        shared.users -= 1
        if shared.users:
            return
        del _registry[shared.path]
        shared.close()


def _logged(job: Callable[[], None]) -> None:
    """Run `job` where nobody hears of its end."""
    failure = attempt(job)
    if failure is not None and not isinstance(failure, FileUnusable):
        _LOG.error("disk work failed by a bug in the engine", exc_info=failure)


def unlocked(lock: threading.Lock, job: Callable[[], T]) -> T:
    """Run `job` without `lock`, which is held before and after."""
    lock.release()
    try:
        return job()
    finally:
        lock.acquire()
