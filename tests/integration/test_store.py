"""The data file: who may open it, what is in it together, and its write-ahead log."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

import cdcbridge.engine
from cdcbridge.engine import journal
from cdcbridge.engine import store as store_module
from cdcbridge.engine.catalog import Table
from cdcbridge.engine.core import Engine
from cdcbridge.engine.errors import FileInUse, FileUnusable, QueryError
from cdcbridge.engine.local import LocalConnection
from cdcbridge.engine.news import News
from cdcbridge.engine.store import FORMAT, Store, Transaction

WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""


class Interrupted(Exception):
    """Something went wrong in the middle."""


@pytest.fixture
def store(data_file: Path) -> Iterator[Store]:
    opened = Store(data_file)
    yield opened
    opened.close()


@pytest.fixture
def table(store: Store) -> Table:
    with store.transaction() as transaction:
        return transaction.create_table(transaction.catalog.database("test"), "t", "id", "hard")


def put(transaction: Transaction, table: Table, number: int, body: bytes = b"{}") -> None:
    key = b"%08d" % number
    transaction.put(table, key, key, transaction.get(table, key), body)


def write(store: Store, table: Table, *numbers: int, body: bytes = b"{}") -> None:
    with store.transaction() as transaction:
        for number in numbers:
            put(transaction, table, number, body)


def write_for_ever(store: Store, table: Table) -> None:
    for number in itertools.count():
        write(store, table, number, body=b'"%s"' % (b"x" * 5000))


def entries(store: Store, after: int = 0) -> list[journal.Row]:
    return journal.read(store.reader(), after, store.committed_seq, 1000)


class TestOpening:
    def test_a_new_file_has_the_database_test_and_an_identity(self, data_file: Path) -> None:
        with_store(data_file, lambda store: None)
        first = with_store(data_file, lambda store: (store.identity, list(store.catalog.databases)))
        assert first == with_store(data_file, lambda store: (store.identity, list(store.catalog.databases)))
        assert first[1] == ["test"]

    def test_two_files_have_two_identities(self, tmp_path: Path) -> None:
        one, two = (with_store(tmp_path / name, lambda store: store.identity) for name in ("one", "two"))
        assert one != two

    def test_a_file_that_another_process_has_open_names_that_process(self, data_file: Path) -> None:
        program = "import sys, cdcbridge.engine as engine; engine.open(sys.argv[1]); print('open', flush=True); input()"
        holder = subprocess.Popen(
            [sys.executable, "-c", program, str(data_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"open\n"
            with pytest.raises(FileInUse) as caught:
                Store(data_file)
            assert caught.value.owner == holder.pid
            assert str(caught.value) == f"{data_file} is in use by process {holder.pid}"
            holder.kill()
        with_store(data_file, lambda store: None)

    def test_a_file_is_opened_once_in_a_process_too(self, store: Store, data_file: Path) -> None:
        with pytest.raises(FileInUse, match=f"in use by process {os.getpid()}"):
            Store(data_file)

    def test_another_name_of_the_file_is_the_same_file(self, store: Store, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(store.path)
        with pytest.raises(FileInUse):
            Store(link)

    def test_a_file_can_be_opened_by_another_name(self, tmp_path: Path) -> None:
        (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
        identity = with_store(tmp_path / "link.db", lambda store: store.identity)
        assert with_store(tmp_path / "real.db", lambda store: store.identity) == identity

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == f"{tmp_path}: it is a folder, not a data file"

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "shop.db"
        assert refusal(path) == f"{path}: there is no folder {path.parent}"

    def test_a_file_in_place_of_a_folder_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert refusal(tmp_path / "file" / "shop.db").endswith(": Not a directory")

    def test_a_text_file_is_refused_and_left_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database at all\n" * 1000)
        before = path.read_bytes()
        assert refusal(path) == f"{path}: file is not a database"
        assert path.read_bytes() == before

    def test_another_programs_database_is_refused_and_left_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "other.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.commit()
        connection.close()
        before = path.read_bytes()
        assert refusal(path) == f"{path}: it is a SQLite database, but not one of this engine"
        assert path.read_bytes() == before

    def test_a_file_of_another_format_is_refused(self, data_file: Path) -> None:
        with_store(data_file, lambda store: None)
        connection = sqlite3.connect(data_file)
        connection.execute(f"PRAGMA user_version={FORMAT + 1}")
        connection.close()
        problem = f"its format is {FORMAT + 1}, and this version of the engine reads format {FORMAT}"
        assert refusal(data_file) == f"{data_file}: {problem}"

    def test_an_empty_file_becomes_a_data_file(self, data_file: Path) -> None:
        data_file.touch()
        with_store(data_file, lambda store: None)

    def test_a_refused_file_leaves_nothing_open(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database at all\n" * 1000)
        before = set(os.listdir("/proc/self/fd"))
        refusal(path)
        assert set(os.listdir("/proc/self/fd")) <= before


def with_store(path: Path, job: Callable[[Store], Any]) -> Any:
    store = Store(path)
    try:
        return job(store)
    finally:
        store.close()


def refusal(path: Path) -> str:
    with pytest.raises(FileUnusable) as caught:
        Store(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestTransactions:
    def test_a_document_and_its_entry_appear_together(self, store: Store, table: Table) -> None:
        with store.transaction() as transaction:
            put(transaction, table, 1)
            assert entries(store) == []
            assert store.reader().execute(table.count_sql).fetchone() == (0,)
        assert [row[:2] for row in entries(store)] == [(1, table.number)]
        assert store.reader().execute(table.count_sql).fetchone() == (1,)

    def test_what_raises_leaves_nothing(self, store: Store, table: Table) -> None:
        with suppress(Interrupted), store.transaction() as transaction:
            put(transaction, table, 1)
            transaction.create_table(transaction.catalog.database("test"), "u", "id", "hard")
            raise Interrupted
        assert entries(store) == []
        assert [known.name for known in store.catalog.tables(store.catalog.database("test"))] == ["t"]

    def test_numbers_follow_each_other_whatever_fails_in_between(self, store: Store, table: Table) -> None:
        write(store, table, 1, 2)
        with suppress(Interrupted), store.transaction() as transaction:
            put(transaction, table, 3)
            raise Interrupted
        with store.transaction() as transaction:
            put(transaction, table, 4)
            with suppress(Interrupted), transaction.savepoint():
                put(transaction, table, 5)
                raise Interrupted
            put(transaction, table, 6)
        assert [(row[0], row[3]) for row in entries(store)] == [
            (1, b"00000001"),
            (2, b"00000002"),
            (3, b"00000004"),
            (4, b"00000006"),
        ]

    def test_numbers_go_on_after_reopening(self, data_file: Path) -> None:
        def first(store: Store) -> None:
            with store.transaction() as transaction:
                table = transaction.create_table(transaction.catalog.database("test"), "t", "id", "hard")
                put(transaction, table, 1)

        with_store(data_file, first)
        for number in (2, 3):
            with_store(data_file, lambda store, n=number: write(store, store.catalog.table("test", "t"), n))  # type: ignore[misc]
        assert with_store(data_file, lambda store: [row[0] for row in entries(store)]) == [1, 2, 3]

    def test_a_full_disk_is_told_and_loses_nothing_that_was_there(self, data_file: Path) -> None:
        def fill(store: Store) -> int:
            with store.transaction() as transaction:
                table = transaction.create_table(transaction.catalog.database("test"), "t", "id", "hard")
            store._writer.execute("PRAGMA max_page_count=60")
            with pytest.raises(FileUnusable, match="database or disk is full"):
                write_for_ever(store, table)
            return store.committed_seq

        committed = with_store(data_file, fill)
        assert committed > 5
        assert with_store(data_file, lambda store: len(entries(store))) == committed

    def test_a_missing_table_is_the_querys_error_and_not_the_files(self, store: Store, table: Table) -> None:
        with store.transaction() as transaction:
            transaction.drop_table(table)
        with pytest.raises(QueryError, match="does not exist"), store.transaction() as transaction:
            transaction.get(table, b"key")

    def test_one_plan_that_fails_does_not_touch_its_neighbours(self, data_file: Path) -> None:
        engine = Engine.open(data_file)
        queries = [
            [60, [[14, ["test"]], "t"]],
            [56, [[15, ["t"]], {"id": 1}]],
            [56, [[15, ["nowhere"]], {"id": 2}]],
            [56, [[15, ["t"]], {"id": 3}]],
        ]
        answers = engine.write([engine.compile(query, {}) for query in queries])
        assert [isinstance(answer, QueryError) for answer in answers] == [False, False, True, False]
        assert [row[3] for row in entries(engine.store)] == [b"1", b"3"]
        engine.close()


class TestTables:
    def test_a_dropped_table_keeps_its_name_for_those_who_lag(self, data_file: Path) -> None:
        def drop(store: Store) -> int:
            with store.transaction() as transaction:
                shop = transaction.create_database("shop")
                table = transaction.create_table(shop, "t", "id", "hard")
                put(transaction, table, 1)
            with store.transaction() as transaction:
                transaction.drop_database("shop")
            assert table.dropped
            return table.number

        number = with_store(data_file, drop)

        def named(store: Store) -> tuple[str, str, bool]:
            table = store.catalog.table_by_number(entries(store)[0][1])
            assert table.number == number
            return table.database.name, table.name, table.dropped

        assert with_store(data_file, named) == ("shop", "t", True)

    def test_a_number_is_not_used_again(self, data_file: Path) -> None:
        def make(store: Store) -> int:
            with store.transaction() as transaction:
                return transaction.create_table(transaction.catalog.database("test"), "t", "id", "hard").number

        def drop(store: Store) -> None:
            with store.transaction() as transaction:
                transaction.drop_table(transaction.catalog.table("test", "t"))

        first = with_store(data_file, make)
        with_store(data_file, drop)
        assert with_store(data_file, make) > first

    def test_readers_do_not_see_what_is_not_committed(self, store: Store) -> None:
        with store.transaction() as transaction:
            transaction.create_table(transaction.catalog.database("test"), "t", "id", "hard")
            with pytest.raises(QueryError):
                store.catalog.table("test", "t")
        assert store.catalog.table("test", "t").name == "t"

    def test_a_drop_that_is_rolled_back_did_not_happen(self, store: Store, table: Table) -> None:
        with store.transaction() as transaction, suppress(Interrupted), transaction.savepoint():
            transaction.drop_table(table)
            raise Interrupted
        assert not table.dropped
        write(store, table, 1)


class TestSyncing:
    def test_a_write_is_durable_after_the_next_sync(self, store: Store, table: Table) -> None:
        write(store, table, 1)
        assert (store.committed_seq, store.durable_seq) == (1, 0)
        assert store.sync().tables == {table.number}
        assert store.durable_seq == 1
        assert not store.sync()

    def test_a_drop_is_a_change_of_the_table(self, store: Store, table: Table) -> None:
        store.sync()
        with store.transaction() as transaction:
            transaction.drop_table(table)
        assert store.sync().tables == {table.number}

    def test_a_readers_sync_leaves_the_news_to_the_writers(self, store: Store, table: Table) -> None:
        write(store, table, 1)
        store.sync_for_reader()
        assert store.durable_seq == 1
        assert store.sync().tables == {table.number}

    def test_the_news_is_never_missing_while_a_reader_syncs(
        self, store: Store, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer whose sync comes in the middle of a reader's still hears of its own table."""
        write(store, table, 1)
        news: list[News] = []
        writer = threading.Thread(target=lambda: news.append(store.sync()))
        flush = os.fdatasync

        def interrupted(descriptor: int) -> None:
            monkeypatch.setattr(os, "fdatasync", flush)
            writer.start()
            flush(descriptor)

        monkeypatch.setattr(os, "fdatasync", interrupted)
        store.sync_for_reader()
        writer.join(WAIT_S)
        assert [each.tables for each in news] == [{table.number}]


class TestReaders:
    def test_each_thread_has_a_connection_that_ends_with_it(self, store: Store) -> None:
        kept: list[sqlite3.Connection] = []
        thread = threading.Thread(target=lambda: kept.append(store.reader()))
        thread.start()
        thread.join()
        assert kept[0] is not store.reader()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            kept[0].execute("SELECT 1")

    def test_a_reader_cannot_write(self, store: Store) -> None:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.reader().execute("DELETE FROM journal")

    def test_the_ends_of_the_journal_are_looked_up(self, store: Store, table: Table) -> None:
        write(store, table, *range(5000))
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        store.reader().set_progress_handler(count, 1)
        assert journal.ends(store.reader()) == (1, 5000)
        store.reader().set_progress_handler(None, 0)
        assert steps < 100

    def test_the_ends_of_an_empty_journal(self, store: Store) -> None:
        assert journal.ends(store.reader()) == (1, 0)

    def test_a_read_stops_at_a_number_of_bytes_but_makes_progress(self, store: Store, table: Table) -> None:
        write(store, table, 1, 2, 3, 4, body=b'"%s"' % (b"x" * (journal.BYTES_PER_READ // 2)))
        assert [len(journal.read(store.reader(), after, 4, 100)) for after in (0, 1, 3)] == [2, 2, 1]
        write(store, table, 5, body=b'"%s"' % (b"x" * (2 * journal.BYTES_PER_READ)))
        assert [row[0] for row in journal.read(store.reader(), 4, 5, 100)] == [5]


class TestWriteAheadLog:
    def test_it_starts_over_while_feeds_and_readers_go_on(
        self, data_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_module, "LOG_BYTES_TO_CHECKPOINT", 100_000)
        monkeypatch.setattr(store_module, "LOG_BYTES_TO_RESTART", 200_000)
        with cdcbridge.engine.open(data_file) as conn:
            r.table_create("t").run(conn)
            t = r.table("t")
            t.insert([{"id": number} for number in range(1000)]).run(conn)
            feed = t.changes(include_seq=True).run(conn)
            cursor = t.run(conn, max_batch_rows=10)
            first = [cursor.next()["id"] for _ in range(10)]
            for number in range(300):
                t.insert({"id": 1000 + number, "pad": "x" * 4000}).run(conn)
            conn._instance._socket._shared._background.submit(int).result(WAIT_S)  # nobody is copying the log any more
            t.insert({"id": 1300}).run(conn)
            assert os.path.getsize(f"{data_file}-wal") < 200_000 + 50_000 < 300 * 4000
            assert [feed.next(wait=WAIT_S)["seq"] for _ in range(301)] == list(range(1001, 1302))
            assert first + [row["id"] for row in cursor] == list(range(1301))
        assert self.replayed(data_file) == 1301

    def test_it_is_copied_once_for_each_stretch_that_it_grows(
        self, store: Store, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_module, "LOG_BYTES_TO_CHECKPOINT", 100_000)
        write(store, table, 0)
        store.reader().execute("BEGIN")
        store.reader().execute(table.count_sql).fetchone()  # as long as this is read, the log cannot start over
        wanted = [number for number in range(1, 200) if self.copied_after(store, table, number)]
        store.reader().execute("COMMIT")
        assert 5 < len(wanted) < 60

    def copied_after(self, store: Store, table: Table, number: int) -> bool:
        """Write a document, and copy the log if that is wanted then."""
        write(store, table, number, body=b'"%s"' % (b"x" * 4000))
        if wanted := store.wants_checkpoint:
            store.checkpoint()
        return wanted

    def test_an_open_snapshot_does_not_stop_writers(
        self, store: Store, table: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_module, "LOG_BYTES_TO_RESTART", 50_000)
        write(store, table, 0)
        reader = store.reader()
        reader.execute("BEGIN")
        assert reader.execute(table.count_sql).fetchone() == (1,)
        for number in range(1, 50):
            write(store, table, number, body=b'"%s"' % (b"x" * 4000))
            store.sync()
            store.checkpoint()
        assert reader.execute(table.count_sql).fetchone() == (1,)
        reader.execute("COMMIT")
        assert reader.execute(table.count_sql).fetchone() == (50,)
        write(store, table, 50)
        assert os.path.getsize(f"{store.path}-wal") < 50_000

    def test_a_clean_close_leaves_one_file(self, data_file: Path) -> None:
        with cdcbridge.engine.open(data_file) as conn:
            r.table_create("t").run(conn)
        assert not Path(f"{data_file}-wal").exists()

    def replayed(self, path: Path) -> int:
        """How many documents there are, after a check that the journal makes exactly them."""

        def check(store: Store) -> int:
            table = store.catalog.table("test", "t")
            rows = journal.read(store.reader(), 0, store.committed_seq, 10_000)
            while rows[-1][0] < store.committed_seq:
                rows += journal.read(store.reader(), rows[-1][0], store.committed_seq, 10_000)
            documents = {row[3]: row[5] for row in rows if row[5] is not None}
            stored = [body for (body,) in store.reader().execute(f"SELECT body FROM doc_{table.number}")]
            assert sorted(stored) == sorted(documents.values())
            return len(stored)

        return int(with_store(path, check))


class TestClosing:
    def test_closing_makes_soft_writes_durable(self, conn: LocalConnection, data_file: Path, t: Any) -> None:
        t.insert({"id": 1}).run(conn, durability="soft")
        conn.close()
        with cdcbridge.engine.open(data_file) as again:
            assert t.count().run(again) == 1
