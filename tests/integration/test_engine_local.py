"""The official driver on the engine in its own process: as over TCP, and shared between threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import (
    ReqlCursorEmpty,
    ReqlDriverError,
    ReqlOpFailedError,
    ReqlOpIndeterminateError,
    ReqlTimeoutError,
    ReqlUserError,
)

from cdcbridge.engine import local
from cdcbridge.engine.errors import EngineError, FileUnusable
from cdcbridge.engine.news import News

WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""

Connect = Callable[[], local.LocalConnection]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    """Opens connections to one file, which are closed with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(local.open(path))


@pytest.fixture
def table(connect: Connect) -> Any:
    r.table_create("users").run(connect())
    return r.table("users")


class TestAsOverTcp:
    def test_values_cursors_and_errors_are_the_driver_s(self, connect: Connect, table: Any) -> None:
        connection = connect()
        table.insert([{"id": number} for number in range(100)]).run(connection)
        assert r.expr([1, {"a": None}]).run(connection) == [1, {"a": None}]
        assert sorted(row["id"] for row in table.run(connection, max_batch_rows=7)) == list(range(100))
        with pytest.raises(ReqlUserError, match="no"):
            r.error("no").run(connection)

    def test_the_end_of_a_cursor_is_told(self, connect: Connect, table: Any) -> None:
        cursor = table.run(connect())
        with pytest.raises(ReqlCursorEmpty):
            cursor.next()

    def test_use_changes_the_database(self, connect: Connect) -> None:
        connection = connect()
        r.db_create("other").run(connection)
        connection.use("other")
        r.table_create("t").run(connection)
        assert r.db("other").table_list().run(connection) == ["t"]

    def test_noreply_writes_are_there_after_noreply_wait(self, connect: Connect, table: Any) -> None:
        connection = connect()
        table.insert({"id": 1}).run(connection, noreply=True)
        connection.noreply_wait()
        assert table.count().run(connect()) == 1

    def test_a_feed_sees_what_its_own_connection_writes(self, connect: Connect, table: Any) -> None:
        connection = connect()
        feed = table.changes().run(connection)
        table.insert({"id": 1}).run(connection)
        assert feed.next(wait=WAIT_S) == {"old_val": None, "new_val": {"id": 1}}

    def test_a_feed_with_nothing_new_times_out_and_goes_on(self, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())
        for wait in (False, 0, 0.001):
            with pytest.raises(ReqlTimeoutError):
                feed.next(wait=wait)
        table.insert({"id": 1}).run(connect())
        assert feed.next(wait=False)["new_val"] == {"id": 1}

    def test_a_soft_write_reaches_feeds_too(self, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())
        table.insert({"id": 1}).run(connect(), durability="soft")
        assert feed.next(wait=WAIT_S)["new_val"] == {"id": 1}

    def test_a_dropped_table_ends_its_feeds(self, connect: Connect, table: Any) -> None:
        feed = table.changes().run(connect())
        r.table_drop("users").run(connect())
        with pytest.raises(ReqlOpFailedError, match="Changefeed aborted"):
            feed.next(wait=WAIT_S)

    def test_the_server_names_itself_and_has_no_address(self, connect: Connect) -> None:
        connection = connect()
        assert connection.server()["name"] == "cdcbridge"
        assert connection.client_address() is None
        assert connection.client_port() is None

    def test_an_unusable_file_is_told_to_this_write_and_to_later_ones(self, connect: Connect, table: Any) -> None:
        connection = connect()
        engine = connection._instance._socket._shared.engine
        sync = engine.sync

        def fail() -> News:
            raise FileUnusable("/data/shop.db", "disk I/O error")

        engine.sync = fail
        with pytest.raises(ReqlOpIndeterminateError, match="disk I/O error"):
            table.insert({"id": 1}).run(connection)
        engine.sync = sync
        with pytest.raises(ReqlOpIndeterminateError, match="disk I/O error"):
            table.insert({"id": 2}).run(connection)
        assert r.expr(1).run(connection) == 1


class TestClosing:
    def test_a_closed_connection_says_so(self, connect: Connect) -> None:
        connection = connect()
        connection.close()
        connection.close()
        assert not connection.is_open()
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            r.expr(1).run(connection)

    def test_it_can_be_opened_again(self, connect: Connect, table: Any) -> None:
        connection = connect()
        connection.reconnect()
        assert table.count().run(connection) == 0

    def test_closing_with_an_open_feed_ends_the_feed(self, connect: Connect, table: Any) -> None:
        connection = connect()
        feed = table.changes().run(connection)
        connection.close()
        with pytest.raises(Exception, match="Connection is closed"):
            feed.next(wait=WAIT_S)

    def test_the_last_one_lets_the_file_go(self, path: Path) -> None:
        first, second = local.open(path), local.open(path)
        r.table_create("users").run(first)
        first.close()
        assert r.table_list().run(second) == ["users"]
        second.close()
        with local.open(path, initial_values="explicit") as third:
            assert r.table_list().run(third) == ["users"]

    def test_what_was_written_softly_is_there_when_it_is_opened_again(self, path: Path) -> None:
        with local.open(path) as connection:
            r.table_create("users").run(connection)
            r.table("users").insert({"id": 1}).run(connection, durability="soft")
        with local.open(path) as connection:
            assert list(r.table("users").run(connection)) == [{"id": 1}]


class TestOpening:
    def test_a_link_to_the_file_is_the_same_file(self, path: Path, connect: Connect, table: Any) -> None:
        link = path.with_name("link.db")
        link.symlink_to(path)
        with local.open(link) as connection:
            assert table.count().run(connection) == 0

    def test_other_initial_values_than_it_is_open_with_are_refused(self, path: Path, connect: Connect) -> None:
        connect()
        with pytest.raises(EngineError, match="already open in this process with initial_values='seed'"):
            local.open(path, initial_values="explicit")

    def test_a_path_that_cannot_be_opened_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(FileUnusable, match="missing"):
            local.open(tmp_path / "missing" / "shop.db")


class TestThreads:
    def test_a_waiting_feed_is_woken_by_another_thread(self, connect: Connect, table: Any) -> None:
        feed, writer = table.changes().run(connect()), connect()
        thread = threading.Thread(target=lambda: table.insert({"id": 1}).run(writer))
        thread.start()
        assert feed.next(wait=WAIT_S)["new_val"] == {"id": 1}
        thread.join()

    def test_closing_from_another_thread_ends_a_waiting_feed(self, connect: Connect, table: Any) -> None:
        connection = connect()
        feed = table.changes().run(connection)
        waiting = connection._instance._socket._arrived
        wait = waiting.wait
        begun = threading.Event()

        def wait_and_tell(timeout_s: float | None) -> bool:
            begun.set()
            return bool(wait(timeout_s))

        waiting.wait = wait_and_tell

        def close() -> None:
            begun.wait(WAIT_S)
            connection.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(ReqlDriverError, match="Connection is closed"):
            feed.next()
        thread.join()

    def test_many_writers_and_readers_lose_nothing_and_keep_each_writer_s_order(
        self, connect: Connect, table: Any
    ) -> None:
        feeds = [table.changes().run(connect()) for _ in range(3)]
        seen: list[list[str]] = [[] for _ in feeds]

        def write(writer: int, connection: Any) -> None:
            for number in range(50):
                durability = "hard" if number % 2 else "soft"
                table.insert({"id": f"{writer}-{number}"}).run(connection, durability=durability)

        def read(feed: Any, into: list[str]) -> None:
            into += [feed.next(wait=WAIT_S)["new_val"]["id"] for _ in range(200)]

        threads = [threading.Thread(target=write, args=(writer, connect())) for writer in range(4)]
        threads += [threading.Thread(target=read, args=pair) for pair in zip(feeds, seen, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for keys in seen:
            for writer in range(4):
                own = [int(key.split("-")[1]) for key in keys if key.startswith(f"{writer}-")]
                assert own == list(range(50))

    def test_a_connection_may_move_to_another_thread(self, connect: Connect, table: Any) -> None:
        connection = connect()
        table.insert([{"id": number} for number in range(10)]).run(connection)
        cursor = table.run(connection, max_batch_rows=2)
        rows: list[Any] = []
        thread = threading.Thread(target=lambda: rows.extend(cursor))
        thread.start()
        thread.join()
        assert len(rows) == 10
