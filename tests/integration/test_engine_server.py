"""The official driver against the engine over TCP: blocking and asyncio, wrong passwords, bad clients, slow clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from rethinkdb import r
from rethinkdb.asyncio_net import net_asyncio
from rethinkdb.errors import (
    ReqlAuthError,
    ReqlDriverError,
    ReqlOpFailedError,
    ReqlOpIndeterminateError,
    ReqlServerCompileError,
    ReqlTimeoutError,
    ReqlUserError,
)
from rethinkdb.net import DefaultConnection, make_connection

from cdcbridge.engine import server as server_module
from cdcbridge.engine.core import Engine
from cdcbridge.engine.errors import ErrorType, FileUnusable
from cdcbridge.engine.news import News
from cdcbridge.engine.server import MAX_RUNNING, Limits, PasswordNeeded, Server, is_loopback
from tests.fake_engine import FakeEngine

HOST = "127.0.0.1"
PASSWORD = "secret"
WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""
MAGIC = struct.pack("<I", 0x34C2BDC3)


class ServedEngine:
    """A server in a thread with an event loop of its own, for programs that block."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = Engine.open(path)
        self.loop = loop
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.server = Server(self.engine, password=PASSWORD)
        self.run(self.server.start(HOST, 0))

    def run(self, job: Awaitable[Any]) -> Any:
        async def waited() -> Any:
            return await job

        return asyncio.run_coroutine_threadsafe(waited(), self.loop).result(WAIT_S)

    def close(self) -> None:
        self.run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self.engine.close()


Connect = Callable[..., Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServedEngine]:
    served = ServedEngine(tmp_path / "engine.db", request.param())
    yield served
    served.close()


@pytest.fixture
def connect(served: ServedEngine) -> Iterator[Connect]:
    """Opens blocking connections, which are closed with the test."""
    with ExitStack() as stack:

        def connected(**options: Any) -> Any:
            host, port = served.server.address
            connection = make_connection(DefaultConnection, host, port, **{"password": PASSWORD} | options)
            return stack.enter_context(connection)

        yield connected


@pytest.fixture
def table(connect: Connect) -> Any:
    r.table_create("users").run(connect())
    return r.table("users")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server in the test's own event loop."""
    engine = Engine.open(tmp_path / "engine.db")
    server = Server(engine, limits=Limits(handshake_s=WAIT_S))
    await server.start(HOST, 0)
    yield server
    await server.close()
    engine.close()


@pytest.fixture
async def opened(server: Server) -> AsyncIterator[Connect]:
    """Opens asyncio connections, which are closed with the test."""
    async with AsyncExitStack() as stack:

        async def connected() -> Any:
            connection = await make_connection(net_asyncio.Connection, HOST, server.address[1])
            return await stack.enter_async_context(connection)

        yield connected


class RawClient:
    """A client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connected(cls, server: Server) -> RawClient:
        return cls(*await asyncio.open_connection(*server.address))

    @classmethod
    async def let_in(cls, server: Server) -> RawClient:
        """Past the handshake, by the older protocol, which is shorter."""
        client = await cls.connected(server)
        client.writer.write(struct.pack("<III", 0x400C2D20, 0, 0x7E6970C7))
        assert await client.reader.readuntil(b"\0") == b"SUCCESS\0"
        return client

    def ask(self, token: int, *query: Any) -> None:
        text = json.dumps(query).encode()
        self.writer.write(struct.pack("<qI", token, len(text)) + text)

    async def answer(self) -> tuple[int, dict[str, Any]]:
        token, length = struct.unpack("<qI", await self.reader.readexactly(12))
        return token, json.loads(await self.reader.readexactly(length))

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def serving(engine: FakeEngine, **options: Any) -> AsyncIterator[tuple[Server, Connect]]:
    """A server of the fake engine, and a way to connect to it, past the handshake or before it; closed at the end."""
    server = Server(engine, **options)  # type: ignore[arg-type]
    clients: list[RawClient] = []

    async def opened(*, let_in: bool = True) -> RawClient:
        clients.append(await (RawClient.let_in(server) if let_in else RawClient.connected(server)))
        return clients[-1]

    await server.start(HOST, 0)
    try:
        yield server, opened
    finally:
        for client in clients:
            client.writer.transport.abort()
        await server.close()


@pytest.fixture
async def raw(server: Server) -> AsyncIterator[Connect]:
    """Opens raw clients, past the handshake or before it."""
    clients: list[RawClient] = []

    async def opened(*, let_in: bool = True) -> RawClient:
        clients.append(await (RawClient.let_in(server) if let_in else RawClient.connected(server)))
        return clients[-1]

    yield opened
    for client in clients:
        await client.close()


class TestBlockingDriver:
    def test_values_come_back(self, connect: Connect) -> None:
        assert r.expr({"a": [1, 2.5, None, "é"]}).run(connect()) == {"a": [1, 2.5, None, "é"]}

    def test_a_table_is_read_in_batches_to_its_end(self, connect: Connect, table: Any) -> None:
        table.insert([{"id": number} for number in range(250)]).run(connect())
        rows = list(table.run(connect(), max_batch_rows=7))
        assert sorted(row["id"] for row in rows) == list(range(250))

    def test_a_feed_gives_changes_of_another_connection_in_order(self, connect: Connect, table: Any) -> None:
        feed, writer = table.changes().run(connect()), connect()
        for durability in ("hard", "soft"):
            table.insert({"id": 1, "by": durability}, conflict="replace", durability=durability).run(writer)
        assert feed.next(wait=WAIT_S) == {"old_val": None, "new_val": {"id": 1, "by": "hard"}}
        assert feed.next(wait=WAIT_S)["new_val"] == {"id": 1, "by": "soft"}

    def test_a_feed_with_nothing_new_times_out_and_goes_on(self, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())
        with pytest.raises(ReqlTimeoutError):
            feed.next(wait=False)
        table.insert({"id": 1}).run(connect())
        assert feed.next(wait=WAIT_S)["new_val"] == {"id": 1}

    def test_a_connection_goes_on_beside_its_feed(self, connect: Connect, table: Any) -> None:
        connection = connect()
        feed = table.changes().run(connection)
        table.insert({"id": 1}).run(connection)
        assert table.count().run(connection) == 1
        assert feed.next(wait=WAIT_S)["new_val"] == {"id": 1}

    def test_a_closed_feed_leaves_its_connection_usable(self, connect: Connect, table: Any) -> None:
        connection = connect()
        feed = table.changes().run(connection)
        feed.close()
        table.insert({"id": 1}).run(connection)
        assert table.count().run(connection) == 1
        assert not connection._instance._cursor_cache

    def test_the_driver_keeps_no_finished_cursor(self, connect: Connect, table: Any) -> None:
        connection = connect()
        table.insert([{"id": number} for number in range(9)]).run(connection)
        for _ in range(3):
            list(table.run(connection, max_batch_rows=2))
        r.expr(1).run(connection)
        assert not connection._instance._cursor_cache

    def test_a_dropped_table_ends_its_feeds(self, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())
        r.table_drop("users").run(connect())
        with pytest.raises(ReqlOpFailedError, match="Changefeed aborted"):
            feed.next(wait=WAIT_S)

    def test_errors_point_at_the_failing_term(self, connect: Connect) -> None:
        with pytest.raises(ReqlUserError) as caught:
            r.expr([1, r.error("no")]).run(connect())
        assert "^" in str(caught.value)

    def test_an_unknown_option_of_run_is_refused(self, connect: Connect) -> None:
        with pytest.raises(ReqlServerCompileError, match="Unrecognized global optional argument `speed`"):
            r.expr(1).run(connect(), speed="high")

    def test_noreply_writes_are_there_after_noreply_wait(self, connect: Connect, table: Any) -> None:
        connection = connect()
        for number in range(500):
            table.insert({"id": number}).run(connection, noreply=True)
        connection.noreply_wait()
        assert table.count().run(connect()) == 500

    def test_closing_a_connection_with_a_feed_does_not_hang(self, connect: Connect, table: Any) -> None:
        connection = connect()
        table.changes().run(connection)
        connection.close()
        assert not connection.is_open()

    def test_a_profile_comes_with_the_value(self, connect: Connect, table: Any) -> None:
        assert r.expr(1).run(connect(), profile=True) == {"value": 1, "profile": []}
        assert table.changes().run(connect(), profile=True)["profile"] == []

    def test_the_connection_s_database_is_used(self, connect: Connect) -> None:
        connection = connect(db="shop")
        r.db_create("shop").run(connection)
        r.table_create("orders").run(connection)
        assert r.db("shop").table_list().run(connection) == ["orders"]

    def test_server_names_itself(self, connect: Connect) -> None:
        assert connect().server()["proxy"] is False

    def test_writers_of_many_connections_lose_nothing(self, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())

        def write(writer: int, connection: Any) -> None:
            for number in range(50):
                table.insert({"id": f"{writer}-{number}"}).run(connection)

        threads = [threading.Thread(target=write, args=(writer, connect())) for writer in range(8)]
        for thread in threads:
            thread.start()
        seen = [feed.next(wait=WAIT_S)["new_val"]["id"] for _ in range(400)]
        for thread in threads:
            thread.join()
        for writer in range(8):
            own = [int(key.split("-")[1]) for key in seen if key.startswith(f"{writer}-")]
            assert own == list(range(50))

    def test_the_server_s_end_ends_its_clients(self, served: ServedEngine, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())
        served.run(served.server.close())
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            feed.next(wait=WAIT_S)


class TestPassword:
    @pytest.mark.parametrize("password", ["", "Secret", "sécret"])
    def test_a_wrong_password_is_refused(self, connect: Connect, password: str) -> None:
        with pytest.raises(ReqlAuthError, match="Wrong password"):
            connect(password=password)

    def test_an_unknown_user_is_refused(self, connect: Connect) -> None:
        with pytest.raises(ReqlAuthError, match="Unknown user"):
            connect(user="bob")

    def test_a_refused_client_disturbs_no_other(self, connect: Connect) -> None:
        connection = connect()
        with pytest.raises(ReqlAuthError):
            connect(password="guess")
        assert r.expr(1).run(connection) == 1

    async def test_other_machines_need_one(self) -> None:
        with pytest.raises(PasswordNeeded, match="0\\.0\\.0\\.0"):
            await Server(FakeEngine()).start("0.0.0.0", 0)  # type: ignore[arg-type]

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_loopback_addresses_are_known(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "db.example", ""])
    def test_all_others_are_not_loopback(self, host: str) -> None:
        assert not is_loopback(host)


class TestAsyncioDriver:
    async def test_feeds_and_queries_run_side_by_side(self, opened: Connect) -> None:
        connection, table = await opened(), r.table("users")
        await r.table_create("users").run(connection)
        feed = await table.changes().run(connection)
        await asyncio.gather(*(table.insert({"id": number}).run(connection) for number in range(20)))
        seen = [(await feed.next(wait=WAIT_S))["new_val"]["id"] for _ in range(20)]
        assert sorted(seen) == list(range(20))

    async def test_a_table_is_iterated_to_its_end(self, opened: Connect) -> None:
        connection = await opened()
        await r.table_create("users").run(connection)
        await r.table("users").insert([{"id": number} for number in range(30)]).run(connection)
        cursor = await r.table("users").run(connection, max_batch_rows=4)
        assert len([row async for row in cursor]) == 30

    async def test_writes_of_one_turn_share_a_transaction(self, server: Server, opened: Connect) -> None:
        connection = await opened()
        await r.table_create("users").run(connection)
        groups: list[int] = []
        write = server.engine.write
        server.engine.write = lambda plans: groups.append(len(plans)) or write(plans)  # type: ignore[method-assign, func-returns-value]
        await asyncio.gather(*(r.table("users").insert({"id": number}).run(connection) for number in range(100)))
        assert sum(groups) == 100
        assert len(groups) < 100

    async def test_durable_changes_are_told_to_hooks(self, server: Server, opened: Connect) -> None:
        connection = await opened()
        await r.table_create("users").run(connection)
        told: asyncio.Queue[News] = asyncio.Queue()
        server.on_durable.append(told.put_nowait)
        await r.table("users").insert({"id": 1}).run(connection, durability="soft")
        assert await asyncio.wait_for(told.get(), WAIT_S)


class TestBadClients:
    async def still_served(self, client: RawClient) -> bool:
        client.ask(1000, 1, 5, {})
        return await client.answer() == (1000, {"t": 1, "r": [5]})

    async def test_another_protocol_is_told_so_and_closed(self, raw: Connect) -> None:
        good, bad = await raw(), await raw(let_in=False)
        bad.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await bad.reader.readuntil(b"\0")).startswith(b"ERROR: Received an unsupported protocol version.")
        assert await bad.reader.read() == b""
        assert await self.still_served(good)

    async def test_a_handshake_without_end_is_refused(self, raw: Connect) -> None:
        good, bad = await raw(), await raw(let_in=False)
        bad.writer.write(MAGIC + b"x" * 100_000)
        await bad.reader.readuntil(b"\0")
        assert json.loads((await bad.reader.readuntil(b"\0"))[:-1])["error_code"] == 7
        assert await bad.reader.read() == b""
        assert await self.still_served(good)

    async def test_a_query_over_the_limit_is_refused_and_closed(self, raw: Connect) -> None:
        good, bad = await raw(), await raw()
        bad.writer.write(struct.pack("<qI", 3, 134217728) + b"x" * 100_000)
        token, answer = await bad.answer()
        assert (token, answer["t"]) == (3, 16)
        assert await bad.reader.read() == b""
        assert await self.still_served(good)

    async def test_a_query_that_is_no_json_is_answered_and_the_client_goes_on(self, raw: Connect) -> None:
        client = await raw()
        client.writer.write(struct.pack("<qI", 3, 2) + b"\xff\xff")
        assert (await client.answer())[1]["t"] == 16
        assert await self.still_served(client)

    async def test_deep_nesting_is_an_error_and_no_crash(self, raw: Connect) -> None:
        client = await raw()
        for depth in (100, 300, 500, 900, 100_000):
            text = b"[1," + b"[2,[" * depth + b"]]" * depth + b",{}]"
            client.writer.write(struct.pack("<qI", depth, len(text)) + text)
            assert (await client.answer())[0] == depth
        assert await self.still_served(client)

    async def test_a_client_that_goes_away_in_the_middle_disturbs_nobody(self, raw: Connect) -> None:
        good, bad = await raw(), await raw()
        bad.ask(0, 1, [152, [[15, ["nothing"]]]], {})
        bad.writer.write(struct.pack("<qI", 1, 500) + b"[1,")
        bad.writer.transport.abort()
        assert await self.still_served(good)

    async def test_a_silent_handshake_ends(self) -> None:
        async with serving(FakeEngine(), limits=Limits(handshake_s=0.01)) as (_, opened):
            assert await (await opened(let_in=False)).reader.read() == b""

    async def test_an_idle_client_is_not_silent(self) -> None:
        async with serving(FakeEngine(), limits=Limits(handshake_s=0.5)) as (_, opened):
            idle, silent = await opened(), await opened(let_in=False)
            assert await silent.reader.read() == b""  # its time, which began later, is over
            idle.ask(0, 1, ["value", 1], {})
            assert await idle.answer() == (0, {"t": 1, "r": [1]})

    async def test_a_long_read_holds_up_no_other_client(self) -> None:
        engine, gate = FakeEngine(), threading.Event()
        engine.on_stream = lambda: gate.wait(WAIT_S)
        async with serving(engine) as (_, opened):
            patient, other = await opened(), await opened()
            patient.ask(0, 1, ["stream", 1], {})
            other.ask(0, 1, ["value", 1], {})
            assert await other.answer() == (0, {"t": 1, "r": [1]})
            gate.set()
            assert (await patient.answer())[1]["r"] == [0]

    async def test_an_address_in_use_is_an_os_error(self, server: Server) -> None:
        with pytest.raises(OSError, match="in use"):
            await Server(FakeEngine()).start(*server.address)  # type: ignore[arg-type]


async def settled(other: RawClient) -> None:
    """The server has had every chance to do what it would do for its other clients."""
    for _ in range(50):
        other.ask(0, 1, ["value", 1], {})
        assert (await other.answer())[1]["r"] == [1]


class TestSlowClients:
    ANSWERS = 3000
    ANSWER = "x" * 10_000
    OPTIONS = {"close_grace_s": 0.01, "limits": Limits(unread_bytes=100_000)}  # noqa: RUF012

    def ask_for_too_much(self, client: RawClient) -> None:
        for token in range(self.ANSWERS):
            client.ask(token, 1, ["value", self.ANSWER], {})

    async def test_a_client_that_does_not_read_is_not_read_from_and_loses_nothing(self) -> None:
        engine = FakeEngine()
        async with serving(engine, **self.OPTIONS) as (_, opened):
            client, other = await opened(), await opened()
            self.ask_for_too_much(client)
            tokens = [(await client.answer())[0]]
            await settled(other)
            assert engine.compiled < self.ANSWERS
            tokens += [(await client.answer())[0] for _ in range(self.ANSWERS - 1)]
            assert sorted(tokens) == list(range(self.ANSWERS))

    async def test_closing_the_server_does_not_wait_for_a_client_that_never_reads(self) -> None:
        async with serving(FakeEngine(), **self.OPTIONS) as (server, opened):
            self.ask_for_too_much(await opened())
            await settled(await opened())
            await asyncio.wait_for(server.close(), WAIT_S)

    async def test_queries_beyond_the_limit_stay_in_the_socket_until_others_are_done(self) -> None:
        engine, gate = FakeEngine(), threading.Event()
        engine.on_sync = lambda: gate.wait(WAIT_S)
        async with serving(engine) as (_, opened):
            client, other = await opened(), await opened()
            for token in range(5000):
                client.ask(token, 1, ["insert", token], {})
            await client.writer.drain()
            await settled(other)
            waiting = len(engine.written)
            gate.set()
            tokens = [(await client.answer())[0] for _ in range(5000)]
            assert waiting <= MAX_RUNNING
            assert tokens == list(range(5000))


class SlowDisk:
    """A flush that tells when it has begun, and ends when it may."""

    def __init__(self, engine: FakeEngine) -> None:
        self.begun, self.may_end = asyncio.Event(), threading.Event()
        self._loop = asyncio.get_running_loop()
        engine.on_sync = self._sync

    def _sync(self) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        self.may_end.wait(WAIT_S)


class TestSharedFlushes:
    @pytest.fixture(autouse=True)
    def endless_patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "patience", lambda flush_s: WAIT_S)

    async def test_a_flush_waits_for_those_whom_the_last_one_answered(self) -> None:
        engine, gate, flushes = FakeEngine(), threading.Event(), itertools.count()
        engine.on_sync = lambda: (next(flushes), gate.wait(WAIT_S))
        async with serving(engine) as (_, opened):
            one, two, other = [await opened() for _ in range(3)]
            for client in (one, two):
                client.ask(1, 1, ["insert", 1], {})
                await settled(other)
            gate.set()
            await one.answer()
            await settled(other)
            assert next(flushes) == 1
            one.ask(2, 1, ["insert", 2], {})
            assert [(await client.answer())[0] for client in (one, two)] == [2, 1]

    async def test_nobody_waits_where_there_is_one_writer(self) -> None:
        async with serving(FakeEngine()) as (_, opened):
            client = await opened()
            for token in range(5):
                client.ask(token, 1, ["insert", token], {})
                assert (await client.answer())[0] == token

    async def test_closing_waits_no_longer_than_a_flush_does(self) -> None:
        async with serving(FakeEngine()) as (server, opened):
            one, two = await opened(), await opened()
            for client in (one, two):
                client.ask(1, 1, ["insert", 1], {})
            await one.answer()
            await asyncio.wait_for(server.close(), WAIT_S / 2)


class TestPatience:
    @pytest.mark.parametrize(("flush_s", "patience_s"), [(0.0005, 0), (0.004, 0.002), (3.0, 0.005)])
    def test_it_is_half_a_flush_where_flushes_are_slow(self, flush_s: float, patience_s: float) -> None:
        assert server_module.patience(flush_s) == patience_s


class TestDurability:
    async def test_a_hard_write_is_answered_after_a_flush_that_began_behind_it(self) -> None:
        engine = FakeEngine()
        disk = SlowDisk(engine)
        async with serving(engine) as (_, opened):
            client = await opened()
            client.ask(0, 1, ["insert", "first"], {})
            await disk.begun.wait()
            client.ask(1, 1, ["insert", "second"], {})
            client.ask(2, 1, ["insert soft", "third"], {})
            assert (await client.answer())[0] == 2
            engine.on_sync = lambda: synced.append(len(engine.written))
            synced: list[int] = []
            disk.may_end.set()
            assert (await client.answer())[0] == 0
            assert (await client.answer())[0] == 1
            assert synced == [3]

    async def test_closing_answers_the_writes_under_way(self) -> None:
        engine = FakeEngine()
        disk = SlowDisk(engine)
        async with serving(engine) as (server, opened):
            client = await opened()
            client.ask(0, 1, ["insert", 1], {})
            await disk.begun.wait()
            closing = asyncio.create_task(server.close())
            disk.may_end.set()
            assert (await client.answer())[0] == 0
            await closing
            assert await client.reader.read() == b""

    @pytest.mark.parametrize("step", ["on_write", "on_sync"])
    async def test_an_unusable_file_fails_this_write_and_all_later_ones_and_is_reported_once(self, step: str) -> None:
        def fail() -> None:
            raise FileUnusable("/data/shop.db", "disk I/O error")

        engine = FakeEngine()
        fatal: list[FileUnusable] = []
        setattr(engine, step, fail)
        async with serving(engine, on_fatal=fatal.append) as (_, opened):
            client = await opened()
            for token in range(3):
                client.ask(token, 1, ["insert", token], {})
                answer = (await client.answer())[1]
                assert answer["e"] == ErrorType.OP_INDETERMINATE
                assert "/data/shop.db: disk I/O error" in answer["r"][0]
            client.ask(9, 1, ["value", 1], {})
            assert (await client.answer())[1]["r"] == [1]
        assert [str(error) for error in fatal] == ["/data/shop.db: disk I/O error"]

    async def test_a_failed_flush_is_not_tried_again_for_what_was_written_meanwhile(self) -> None:
        engine, flushes = FakeEngine(), 0
        disk = SlowDisk(engine)
        wait = engine.on_sync

        def fail() -> None:
            nonlocal flushes
            flushes += 1
            wait()
            raise FileUnusable("/data/shop.db", "disk I/O error")

        engine.on_sync = fail
        async with serving(engine) as (_, opened):
            client = await opened()
            client.ask(0, 1, ["insert", 0], {})
            await disk.begun.wait()
            client.ask(1, 1, ["insert", 1], {})
            client.ask(2, 1, ["insert soft", 2], {})
            assert (await client.answer())[0] == 2
            disk.may_end.set()
            answers = [await client.answer(), await client.answer()]
        assert [(token, answer["e"]) for token, answer in answers] == [(0, 4200000), (1, 4200000)]
        assert flushes == 1

    def test_the_driver_sees_an_unusable_file_as_indeterminate(
        self, served: ServedEngine, connect: Connect, table: Any
    ) -> None:
        def fail() -> News:
            raise FileUnusable("/data/shop.db", "disk I/O error")

        served.engine.sync = fail  # type: ignore[method-assign]
        connection = connect()
        with pytest.raises(ReqlOpIndeterminateError, match="disk I/O error"):
            table.insert({"id": 1}).run(connection)
        assert r.expr(1).run(connection) == 1
        del served.engine.sync
