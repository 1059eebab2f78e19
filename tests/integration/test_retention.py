"""The journal forgets what it need not keep, in small steps, and never what somebody still wants, without saying so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlOpFailedError

from cdcbridge.change import Position
from cdcbridge.engine import journal
from cdcbridge.engine.catalog import Table
from cdcbridge.engine.core import Engine
from cdcbridge.engine.retention import ENTRIES_PER_STEP, Retention
from cdcbridge.engine.server import Server
from cdcbridge.engine.store import Store
from cdcbridge.errors import PositionLost
from cdcbridge.sources.embedded import EmbeddedSource, position_of

BRIDGE = "cdcbridge"
BODY = b'{"pad":"%s"}' % (b"x" * 400)

Open = Callable[..., Store]


@pytest.fixture
def opened(data_file: Path) -> Iterator[Open]:
    """Opens the data file with limits."""
    with ExitStack() as stack:

        def open_with(**limits: Any) -> Store:
            return stack.enter_context(closing(Store(data_file, Retention(**limits))))

        yield open_with


def table_of(store: Store, name: str = "t") -> Table:
    with store.transaction() as transaction:
        return transaction.create_table(transaction.catalog.database("test"), name, "id", "hard")


def write(store: Store, table: Table, count: int, body: bytes = BODY) -> None:
    """So many new documents, durable."""
    first = store.committed_seq
    with store.transaction() as transaction:
        for number in range(first, first + count):
            key = b"%08d" % number
            transaction.put(table, key, key, None, body)
    store.sync()


def trim(store: Store) -> list[str]:
    """Trim as far as the limits allow. Returns who lost something by it."""
    lost: list[str] = []
    while step := store.trim():
        lost += step.lost
    return lost


def ends(store: Store) -> tuple[int, int]:
    return journal.ends(store.reader())


class TestLimits:
    def test_without_limits_everything_is_kept(self, opened: Open) -> None:
        store = opened()
        write(store, table_of(store), 10)
        assert store.trim() is None
        assert ends(store) == (1, 10)

    def test_so_many_entries_are_kept(self, opened: Open) -> None:
        store = opened(count=100)
        write(store, table_of(store), 1000)
        trim(store)
        assert ends(store) == (901, 1000)

    def test_so_many_bytes_are_kept(self, opened: Open) -> None:
        store = opened(bytes=10 * (len(BODY) + 8 + journal.ENTRY_BYTES))
        write(store, table_of(store), 1000)
        trim(store)
        assert ends(store) == (991, 1000)

    def test_old_entries_are_forgotten(self, opened: Open) -> None:
        store = opened(age_s=3600)
        write(store, table_of(store), 10)
        hours_ago(store, hours=2, upto=7)
        trim(store)
        assert ends(store) == (8, 10)

    def test_the_newest_entry_stays_whatever_the_limits(self, opened: Open) -> None:
        store = opened(bytes=0)
        write(store, table_of(store), 10)
        trim(store)
        assert ends(store) == (10, 10)

    def test_what_is_not_durable_yet_stays(self, opened: Open) -> None:
        store = opened(count=1)
        table = table_of(store)
        write(store, table, 5)
        with store.transaction() as transaction:
            for number in range(5):
                transaction.put(table, b"soft%d" % number, b"%d" % number, None, BODY)
        trim(store)
        assert ends(store) == (6, 10)

    def test_a_step_is_small(self, opened: Open) -> None:
        store = opened(count=1)
        write(store, table_of(store), 10 * ENTRIES_PER_STEP)
        step = store.trim()
        assert step is not None
        assert step.more
        assert ends(store)[0] == ENTRIES_PER_STEP + 1

    def test_documents_are_not_touched(self, opened: Open) -> None:
        store = opened(count=1)
        table = table_of(store)
        write(store, table, 1000)
        trim(store)
        assert store.reader().execute(table.count_sql).fetchone() == (1000,)

    def test_room_is_used_again(self, opened: Open) -> None:
        store = opened(count=1)
        table = table_of(store)
        sizes = []
        for _ in range(6):
            write_and_delete(store, table, 500)
            trim(store)
            store.checkpoint()
            sizes.append(store.path.stat().st_size)
        assert sizes[-1] == sizes[2]


class TestNumbers:
    def test_they_go_on_after_everything_was_trimmed_and_the_file_was_opened_again(self, data_file: Path) -> None:
        for _ in range(2):
            with closing(Store(data_file, Retention(bytes=0))) as store:
                write(store, store.catalog.table("test", "t") if store.committed_seq else table_of(store), 10)
                trim(store)
        with closing(Store(data_file)) as store:
            assert ends(store) == (20, 20)

    def test_the_size_is_counted_on_after_opening(self, data_file: Path) -> None:
        size = len(BODY) + 8 + journal.ENTRY_BYTES
        for count in (10, 20, 30):
            with closing(Store(data_file, Retention(bytes=5 * size))) as store:
                write(store, store.catalog.table("test", "t") if store.committed_seq else table_of(store), 10)
                trim(store)
                assert ends(store) == (count - 4, count)


class TestReaders:
    @pytest.fixture
    def trimmed(self, opened: Open) -> tuple[Store, Table, Table]:
        """A journal that begins with 101. Of the first table it has lost entries, of the second one none."""
        store = opened(count=100)
        busy, quiet = table_of(store, "busy"), table_of(store, "quiet")
        write(store, busy, 150)
        write(store, quiet, 50)
        trim(store)
        return store, busy, quiet

    def test_who_reads_on_from_what_is_gone_is_told(self, trimmed: tuple[Store, Table, Table]) -> None:
        store, busy, _ = trimmed
        for read in (
            lambda: journal.read(store.reader(), 99, 200, 10),
            lambda: journal.read_table(store.reader(), busy.number, 99, 200, 10),
            lambda: journal.read_key(store.reader(), busy.number, b"00000160", 99, 200, 10),
        ):
            with pytest.raises(journal.Trimmed, match="after 99: the journal begins with sequence number 101"):
                read()

    def test_who_is_just_before_the_beginning_has_lost_nothing(self, trimmed: tuple[Store, Table, Table]) -> None:
        store, busy, _ = trimmed
        assert journal.read(store.reader(), 100, 200, 1)[0][0] == 101
        assert journal.read_table(store.reader(), busy.number, 100, 200, 1)[0][0] == 101

    def test_a_reader_of_a_table_that_lost_nothing_goes_on(self, trimmed: tuple[Store, Table, Table]) -> None:
        store, _, quiet = trimmed
        assert journal.read_table(store.reader(), quiet.number, 0, 200, 1)[0][0] == 151


class TestHolds:
    def test_what_is_not_confirmed_is_kept_beyond_the_limits(self, opened: Open) -> None:
        store = opened(count=10)
        table = table_of(store)
        store.hold(BRIDGE, 0)
        write(store, table, 1000)
        trim(store)
        assert ends(store) == (1, 1000)
        store.hold(BRIDGE, 500)
        trim(store)
        assert ends(store) == (500, 1000)

    def test_the_slowest_of_several_counts(self, opened: Open) -> None:
        store = opened(count=10)
        table = table_of(store)
        write(store, table, 100)
        store.hold("one", 30)
        store.hold("other", 20)
        trim(store)
        assert ends(store) == (20, 100)

    def test_a_hold_outlives_the_process(self, data_file: Path) -> None:
        with closing(Store(data_file)) as store:
            write(store, table_of(store), 100)
            store.hold(BRIDGE, 20)
        with closing(Store(data_file, Retention(count=10))) as store:
            trim(store)
            assert ends(store) == (20, 100)

    def test_a_hard_limit_takes_it_and_says_from_whom(self, opened: Open) -> None:
        store = opened(hard_bytes=10 * (len(BODY) + 8 + journal.ENTRY_BYTES))
        table = table_of(store)
        store.hold(BRIDGE, 20)
        write(store, table, 100)
        assert BRIDGE in trim(store)
        assert ends(store) == (91, 100)


class TestBridge:
    @pytest.fixture
    async def server(self, data_file: Path) -> AsyncIterator[Server]:
        engine = Engine.open(data_file, retention=Retention(count=10))
        server = Server(engine)
        await server.start("127.0.0.1", 0)
        write(engine.store, table_of(engine.store), 100)
        yield server
        await server.close()
        engine.close()

    async def test_what_the_bridge_has_not_confirmed_stays(self, server: Server) -> None:
        source = EmbeddedSource(server.engine, bridge=BRIDGE)
        async with streamed(source, None) as stream:
            assert len((await anext(stream)).changes) == 100
        await source.confirmed(position(server.engine.store, 40))
        trim(server.engine.store)
        assert ends(server.engine.store) == (40, 100)

    async def test_a_stream_that_begins_again_behind_what_was_sent_confirms_nothing(self, server: Server) -> None:
        source = EmbeddedSource(server.engine, bridge=BRIDGE)
        for after in (None, position(server.engine.store, 90)):
            async with streamed(source, after) as stream:
                await anext(stream)
        trim(server.engine.store)
        assert ends(server.engine.store) == (1, 100)

    async def test_it_goes_on_where_everything_before_was_trimmed(self, server: Server) -> None:
        store = server.engine.store
        confirmed = position(store, 95)
        source = EmbeddedSource(server.engine, bridge=BRIDGE)
        async with streamed(source, confirmed) as stream:
            await anext(stream)
        trim(store)
        assert ends(store) == (91, 100)
        async with streamed(EmbeddedSource(server.engine, bridge=BRIDGE), confirmed) as stream:
            assert (await anext(stream)).position == position(store, 100)

    async def test_a_gap_ends_the_stream_and_names_what_is_left(self, data_file: Path) -> None:
        with closing(Engine.open(data_file, retention=Retention(hard_bytes=1000))) as engine:
            source = EmbeddedSource(engine, bridge=BRIDGE)
            table = table_of(engine.store)
            write(engine.store, table, 1)
            async with streamed(source, None) as stream:
                await anext(stream)
                write(engine.store, table, 100)
                assert BRIDGE in trim(engine.store)
                with pytest.raises(PositionLost, match=r"from position 1-\d+: .* no longer goes back so far .* is 99"):
                    await anext(stream)

    async def test_the_server_trims_by_itself_and_a_feed_behind_the_rest_is_refused(self, server: Server) -> None:
        await asyncio.to_thread(resume_until_refused, server)
        assert ends(server.engine.store)[0] > 1


def streamed(source: EmbeddedSource, after: Position | None) -> Any:
    """A stream that is closed with its block."""
    stream: Any = source.stream(after)
    return aclosing(stream)


def resume_until_refused(server: Server) -> None:
    """The journal is trimmed a moment after it has grown: until then, resuming from its beginning works."""
    with r.connect(*server.address) as conn:
        while True:
            try:
                r.table("t").changes(since=0).run(conn).close()
            except ReqlOpFailedError:
                return


def position(store: Store, seq: int) -> Position:
    (row,) = journal.read(store.reader(), seq - 1, seq, 1)
    return position_of(row)


def hours_ago(store: Store, *, hours: int, upto: int) -> None:
    """Pretend that the first entries were written then. Their checksums no longer fit; nobody reads them."""
    with store.transaction() as transaction:
        transaction.connection.execute(
            "UPDATE journal SET time_ms = time_ms - ? WHERE seq <= ?", (hours * 3_600_000, upto)
        )


def write_and_delete(store: Store, table: Table, count: int) -> None:
    write(store, table, count)
    with store.transaction() as transaction:
        for key, body in transaction.connection.execute(f"SELECT key, body FROM doc_{table.number}").fetchall():
            transaction.put(table, key, key, body, None)
    store.sync()
