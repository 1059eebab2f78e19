"""The engine on TCP: sockets, threads and timers around the protocol.

Everything happens on one event loop but for what takes time: streams are read in a few threads, so that a long one
holds up nobody, and one thread waits for the disk. Writes that arrive in one turn of the loop share a transaction, and
all that were written while the disk was busy share its next flush.

A client that does not read what it asked for is not read from either, and its cursors stand still, so that it costs a
bounded amount of memory; a bad one is told why and closed. Neither is felt by the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple, TypeVar, cast

from cdcbridge.engine.core import Answer, Engine, Plan
from cdcbridge.engine.errors import DiskFull, EngineError, FileUnusable
from cdcbridge.engine.handshake import Event, Handshake, Ready
from cdcbridge.engine.news import News
from cdcbridge.engine.retention import Step
from cdcbridge.engine.scram import ITERATIONS, Credentials
from cdcbridge.engine.session import MAX_CURSORS, Session, Watchers, attempt
from cdcbridge.engine.wire import MAX_QUERY_BYTES, Frames, Refused, Send

T = TypeVar("T")

MAX_RUNNING = 128
"""Queries of one client that run at a time, whose answers may all have to be kept. More are left in the socket."""
READERS = 4
TRIM_INTERVAL_S = 0.25
"""How often the journal is looked at for entries that need not be kept."""
HANDSHAKE_TIMEOUT_S = 10.0
CLOSE_GRACE_S = 2.0
"""How long `close` waits for clients to take their last answers."""
UNREAD_LIMIT_BYTES = 4 << 20
SLOW_FLUSH_S = 0.002
GATHER_AT_MOST_S = 0.005

_LOG = logging.getLogger("cdcbridge.engine")


@dataclass(frozen=True)
class Limits:
    """What one client may cost."""

    query_bytes: int = MAX_QUERY_BYTES
    cursors: int = MAX_CURSORS
    unread_bytes: int = UNREAD_LIMIT_BYTES
    """Answers that it may leave unread before it is left waiting."""
    handshake_s: float = HANDSHAKE_TIMEOUT_S


DEFAULT_LIMITS = Limits()


class PasswordNeeded(EngineError):
    """Listening on `host` would let in everybody who can reach it."""

    def __init__(self, host: str) -> None:
        super().__init__(f"listening on {host} needs an admin password: others than this machine can reach it")
        self.host = host


class Server:
    """Serves `engine` to RethinkDB's drivers.

    With `tls` it speaks nothing else. `iterations` make guessing passwords from a recorded handshake slow.

    `on_durable` are called in the loop with what has become different on the disk, before the feeds are
    woken. `on_fatal` is called once, when the data file has become unusable: from then on writes are refused, reads go
    on. The engine itself stays the caller's: it is not closed here.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        password: str = "",
        iterations: int = ITERATIONS,
        tls: ssl.SSLContext | None = None,
        limits: Limits = DEFAULT_LIMITS,
        close_grace_s: float = CLOSE_GRACE_S,
        on_fatal: Callable[[FileUnusable], None] | None = None,
    ) -> None:
        self.on_durable: list[Callable[[News], None]] = []
        self.watchers = Watchers()
        self.engine = engine
        self.limits = limits
        self._tls = tls
        self._close_grace_s = close_grace_s
        self._has_password = bool(password)
        self._credentials = Credentials(password, salt=secrets.token_bytes(16), iterations=iterations)
        self._on_fatal = on_fatal or _nothing
        self._executor: LoopExecutor | None = None
        self._listener: asyncio.Server | None = None
        self._clients: set[_Client] = set()
        self._all_gone = asyncio.Event()

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 picks a free one. When this returns, clients can connect.

        Raises:
            PasswordNeeded: `host` is not this machine's own, and there is no password.
            OSError: the address cannot be had.
        """
        if not self._has_password and not is_loopback(host):
            raise PasswordNeeded(host)
        loop = asyncio.get_running_loop()
        self._executor = LoopExecutor(self.engine, loop, self._became_durable, self._on_fatal)
        try:
            client = partial(_Client, self, self._executor)
            timeout_s = self.limits.handshake_s if self._tls else None
            self._listener = await loop.create_server(
                client, host, port, backlog=1024, ssl=self._tls, ssl_handshake_timeout=timeout_s
            )
        except BaseException:
            await self._executor.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that clients reach it at."""
        assert self._listener is not None, "the server has not been started"
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    async def close(self) -> None:
        """Stop taking queries, answer the writes that are under way, and close every connection. Twice is fine."""
        listener, self._listener = self._listener, None
        if listener is None or self._executor is None:
            return
        listener.close()
        for client in self._clients:
            client.stop_reading()
        await self._executor.drain()
        await self._close_clients()
        await self._executor.close()

    def handshake(self) -> Handshake:
        """A new client's handshake."""
        return Handshake(self._credentials, nonce=partial(secrets.token_urlsafe, 18))

    def joined(self, client: _Client) -> None:
        """A connection is there."""
        self._clients.add(client)
        self._all_gone.clear()
        if self._listener is None:
            client.close()

    def left(self, client: _Client) -> None:
        """A connection is gone."""
        self._clients.discard(client)
        if not self._clients:
            self._all_gone.set()

    def _became_durable(self, news: News) -> None:
        for hook in self.on_durable:
            hook(news)
        self.watchers.wake(news)

    async def _close_clients(self) -> None:
        """Close all connections, those that do not take their last bytes by force."""
        for client in list(self._clients):
            client.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone(), self._close_grace_s)
        for client in list(self._clients):
            client.abort()
        await self._gone()

    async def _gone(self) -> None:
        if self._clients:
            await self._all_gone.wait()


class _Gathering(NamedTuple):
    """A flush waits until so many writes wait for it, or for the timer."""

    expected: int
    timer: asyncio.TimerHandle


class _DiskThread:
    """A thread for jobs that wait for the disk, one after the other. Cheaper than a pool: each flush passes here."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run `job` in the thread, and then `done` in the loop."""
        self._jobs.put(lambda: self._tell(done, attempt(job)))

    def shutdown(self) -> None:
        """End the thread when it is through. For another thread than the loop's."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _tell(self, done: Callable[[T | Exception], None], result: T | Exception) -> None:
        self._loop.call_soon_threadsafe(done, result)


class LoopExecutor:
    """Runs the engine for the sessions of one event loop. See the module's text for what runs where.

    A write is answered when it is done: a durable one after a flush that began behind it, others as soon as they can be
    seen. Once the file has failed, every write gets that error.
    """

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        became_durable: Callable[[News], None],
        on_fatal: Callable[[FileUnusable], None],
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._became_durable = became_durable
        self._on_fatal = on_fatal
        self._readers = ThreadPoolExecutor(READERS, "engine-read")
        self._syncer = _DiskThread(loop, "engine-sync")
        self._checkpointer = _DiskThread(loop, "engine-checkpoint")
        self._group: list[tuple[Plan, Callable[[Answer | Exception], None]]] = []
        self._unsynced: list[Callable[[FileUnusable | None], None]] = []
        self._dirty = False
        self._syncing = False
        self._gathering: _Gathering | None = None
        self._draining = False
        self._checkpointing = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._reading = 0
        self._read_out = asyncio.Event()
        self._read_out.set()
        self._failed: FileUnusable | None = None
        self._trim_handle: asyncio.Handle | None = None
        if engine.forgets:
            self._trim_handle = loop.call_soon(self._trim)

    def read(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """Run `job` in one of the readers' threads."""
        self._reading += 1
        self._read_out.clear()
        future = self._loop.run_in_executor(self._readers, job)
        future.add_done_callback(partial(self._was_read, done))

    def write(self, plan: Plan, done: Callable[[Answer | Exception], None]) -> None:
        """Put a plan into the group of this turn of the loop."""
        if self._failed is not None:
            done(self._failed)
            return
        self._group.append((plan, done))
        if len(self._group) == 1:
            self._quiet.clear()
            self._loop.call_soon(self._write_group)

    def later(self, delay_s: float, job: Callable[[], None]) -> None:
        """Call `job` on the loop after a while."""
        self._loop.call_later(delay_s, job)

    async def drain(self) -> None:
        """Wait until every write so far is done."""
        self._draining = True
        self._gathered()
        await self._quiet.wait()

    async def close(self) -> None:
        """Finish what is under way and end the threads."""
        await self.drain()
        if self._trim_handle is not None:
            self._trim_handle.cancel()
        await self._read_out.wait()  # a job's end may queue another one, which lets its cursor go
        for thread in (self._readers, self._syncer, self._checkpointer):
            await asyncio.to_thread(thread.shutdown)

    def _was_read(self, done: Callable[[T | Exception], None], finished: asyncio.Future[T]) -> None:
        _report(done, finished)
        self._reading -= 1
        if not self._reading:
            self._read_out.set()

    def _write_group(self) -> None:
        group, self._group = self._group, []
        if self._failed is not None:
            self._write_failed(group, self._failed)
            self._sync_soon()
            return
        try:
            answers = self._engine.write([plan for plan, _ in group])
        except Exception as exc:  # noqa: BLE001 (each client gets it as its answer)
            self._write_failed(group, exc)
        else:
            for (plan, done), answer in zip(group, answers, strict=True):
                self._written(plan, done, answer)
            self._dirty = True
        self._sync_soon()

    def _written(self, plan: Plan, done: Callable[[Answer | Exception], None], answer: Answer | Exception) -> None:
        if plan.durable:
            self._unsynced.append(lambda failure: done(answer if failure is None else failure))
        else:
            done(answer)

    def _write_failed(self, group: list[tuple[Plan, Callable[[Answer | Exception], None]]], exc: Exception) -> None:
        if isinstance(exc, FileUnusable) and not isinstance(exc, DiskFull):
            self._fail(exc)
        for _, done in group:
            done(exc)

    def _sync_soon(self) -> None:
        """Flush what has been written, unless that is being done: then another flush follows, for all that waits."""
        if self._syncing or self._is_worth_waiting():
            return
        if not self._dirty or self._failed is not None:
            self._settle()
            return
        self._syncing = True
        self._dirty = False
        waiting, self._unsynced = self._unsynced, []
        self._syncer.run(self._engine.sync, partial(self._synced, waiting, self._loop.time()))

    def _synced(
        self,
        waiting: list[Callable[[FileUnusable | None], None]],
        begun_s: float,
        result: News | Exception,
    ) -> None:
        self._syncing = False
        self._gather(len(waiting), self._loop.time() - begun_s)
        failure = self._disk_failure(result)
        for done in waiting:
            done(failure)
        if isinstance(result, News) and result:
            self._became_durable(result)
        self._checkpoint_if_due()
        self._sync_soon()

    def _gather(self, answered: int, flush_s: float) -> None:
        """Give those who are answered now the time to write again, so that the next flush is for them, too.

        Otherwise the first of them gets a flush of his own, and all others wait for that one and the next. Where a
        flush costs next to nothing, or there is one writer, nobody is kept waiting.
        """
        expected = len(self._unsynced) + answered
        if answered and expected > 1 and not self._draining and (patience_s := patience(flush_s)):
            self._gathering = _Gathering(expected, self._loop.call_later(patience_s, self._gathered))

    def _is_worth_waiting(self) -> bool:
        if self._gathering is None:
            return False
        if len(self._unsynced) < self._gathering.expected and self._failed is None:
            return True
        self._stop_gathering()
        return False

    def _stop_gathering(self) -> None:
        if self._gathering is not None:
            self._gathering.timer.cancel()
            self._gathering = None

    def _gathered(self) -> None:
        """Whoever has not written by now is not waited for."""
        self._stop_gathering()
        self._sync_soon()

    def _checkpoint_if_due(self) -> None:
        """Shorten the log in a thread of its own: nobody waits for it, the next flush least of all."""
        if not self._checkpointing and self._failed is None and self._engine.wants_checkpoint:
            self._checkpointing = True
            self._checkpointer.run(self._engine.checkpoint, self._checkpointed)

    def _checkpointed(self, result: Exception | None) -> None:
        self._checkpointing = False
        if not isinstance(result, DiskFull):  # nothing is lost: the log goes on growing, and is copied another time
            self._disk_failure(result)

    def _disk_failure(self, result: object) -> FileUnusable | None:
        """The failure in what a disk's thread came to, if it is one. Nothing is written after it."""
        if not isinstance(result, Exception):
            return None
        if not isinstance(result, FileUnusable):
            _LOG.error("disk work failed by a bug in the engine", exc_info=result)
            result = FileUnusable("the data file", str(result) or type(result).__name__)
        self._fail(result)
        return result

    def _fail(self, error: FileUnusable) -> None:
        if self._failed is None:
            self._failed = error
            self._on_fatal(error)

    def _trim(self) -> None:
        """Take a step, and the next one soon: writes that have come in meanwhile go first."""
        step = None
        try:
            if self._failed is None:
                step = self._engine.trim()
        except DiskFull:
            pass  # it needs a little room itself
        except FileUnusable as exc:
            self._fail(exc)
        if step is not None:
            _tell_of_loss(step)
        self._trim_handle = self._loop.call_later(0 if step and step.more else TRIM_INTERVAL_S, self._trim)

    def _settle(self) -> None:
        """Nothing is flushed now. A failed file never is again: that could succeed without having kept all."""
        waiting, self._unsynced = self._unsynced, []
        for done in waiting:
            done(self._failed)
        if not self._group:
            self._quiet.set()


class _Client(asyncio.Protocol):
    """One connection: the handshake, then a session; pausing one side when the other does not keep up."""

    def __init__(self, server: Server, executor: LoopExecutor) -> None:
        self._server = server
        self._handshake: Handshake | None = server.handshake()
        self._frames = Frames()
        cursors = server.limits.cursors
        self._session = Session(server.engine, executor, self._send, server.watchers, self._pump, cursors)
        self._unread = False
        """The client leaves answers unread."""
        self._over = False
        """Nothing more is read from this client."""
        self._pumping = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._server.limits.unread_bytes)
        _keep_alive(self._transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._server.limits.handshake_s, self.abort)
        self._server.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._deadline.cancel()
        self._session.close()
        self._server.left(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._handshake is None:
            self._frames.receive(data)
            self._pump()
            return
        for event in self._handshake.receive(data):
            self._shake_hands(event)

    def pause_writing(self) -> None:
        self._unread = True
        self._session.hold()
        self._read_or_pause()

    def resume_writing(self) -> None:
        self._unread = False
        self._session.resume()
        self._pump()

    @property
    def unread_bytes(self) -> int:
        """Answers that wait for the client."""
        return self._transport.get_write_buffer_size()

    def stop_reading(self) -> None:
        """Take no more queries."""
        self._over = True

    def close(self) -> None:
        """Close the connection when what has been sent is delivered."""
        self._over = True
        self._transport.close()

    def abort(self) -> None:
        """Close the connection now."""
        self._over = True
        self._transport.abort()

    def _shake_hands(self, event: Event) -> None:
        match event:
            case Send(data):
                self._transport.write(data)
            case Refused():
                self._refuse(event)
            case Ready(rest):
                self._handshake = None
                self._deadline.cancel()
                self._frames = Frames(rest, self._server.limits.query_bytes)
                self._pump()

    def _pump(self) -> None:
        """Hand queries to the session as long as the client is owed little."""
        if self._pumping:
            return
        self._pumping = True
        while self._may_ask and (query := self._frames.next()) is not None:
            if isinstance(query, Refused):
                self._refuse(query)
            else:
                self._session.receive(query.token, query.json)
        self._pumping = False
        self._read_or_pause()

    @property
    def _may_ask(self) -> bool:
        return not self._over and not self._unread and self._session.running < MAX_RUNNING

    def _read_or_pause(self) -> None:
        if self._transport.is_closing():
            return
        pause = not self._over and not self._may_ask
        if pause and not self._paused:
            self._transport.pause_reading()
        elif self._paused and not pause:
            self._transport.resume_reading()
        self._paused = pause

    def _refuse(self, refused: Refused) -> None:
        """Say why, and wait for the client to close: closing first could take the reason from it."""
        fields = {"peer": self._peer(), "reason": refused.reason}
        _LOG.warning("client refused: %s", refused.reason, extra={"event": "client_refused", "fields": fields})
        self._over = True
        self._transport.write(refused.data)
        if self._transport.can_write_eof():  # not under TLS
            self._transport.write_eof()
        self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(self._server.limits.handshake_s, self.abort)

    def _send(self, data: bytes) -> None:
        self._transport.write(data)

    def _peer(self) -> str:
        peer = self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if peer else "unknown"


def patience(flush_s: float) -> float:
    """Seconds that a flush may wait for those whom the last one, which took `flush_s`, has answered."""
    return min(flush_s / 2, GATHER_AT_MOST_S) if flush_s >= SLOW_FLUSH_S else 0


def is_loopback(host: str) -> bool:
    """Can only this machine reach `host`? Of names, only `localhost` is known to be one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _keep_alive(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _report(done: Callable[[T | Exception], None], finished: asyncio.Future[T]) -> None:
    """Tell `done` what a job in a thread came to."""
    exc = finished.exception()
    if exc is None:
        done(finished.result())
    elif isinstance(exc, Exception):
        done(exc)
    else:
        raise exc


def _tell_of_loss(step: Step) -> None:
    for name in step.lost:
        fields = {"name": name, "trimmed_to": step.upto}
        text = "the hard size limit of the journal took changes that %s had not confirmed yet"
        _LOG.warning(text, name, extra={"event": "position_lost", "fields": fields})


def _nothing(error: FileUnusable) -> None:
    """Nobody wants to know of fatal errors: each write says so itself."""
