"""The data file: documents and journal in one SQLite database, changed together or not at all.

Writing and durability are two steps. A transaction commits into SQLite's write-ahead log without waiting for the disk
(`synchronous=NORMAL`), and every reader sees it at once; `sync` then makes all committed transactions durable with
one fdatasync of the log, for as many writers as have come together by then. SQLite itself syncs the log before it
copies pages from it, so the file is never ahead of the log on disk.

Source: SQLite's documentation of WAL mode and of PRAGMA synchronous.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from cdcbridge.engine import catalog, checksum, indexes, journal, retention
from cdcbridge.engine.catalog import Catalog, Database, Table, selected
from cdcbridge.engine.errors import DiskFull, ErrorType, FileUnreadable, FileUnusable, QueryError
from cdcbridge.engine.indexes import Compile, Index
from cdcbridge.engine.news import News
from cdcbridge.engine.ownership import Note, Ownership
from cdcbridge.engine.retention import Retention

APPLICATION_ID: Final = 0x63646362  # "cdcb"; tells `file` and us that this SQLite database is ours
FORMAT: Final = 2
LOG_BYTES_TO_CHECKPOINT: Final = 4 << 20
LOG_BYTES_TO_RESTART: Final = 64 << 20

KEEP_ALL: Final = Retention()

_PRAGMAS = (
    "PRAGMA busy_timeout=10000; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cell_size_check=1;"
)
_SETTINGS = "CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"


class Transaction:
    """Writes that commit together. Reads through `connection` see what has been written so far."""

    def __init__(self, connection: sqlite3.Connection, catalog: Catalog, next_seq: int, end_bytes: int) -> None:
        self.connection = connection
        self.catalog = catalog
        self.dropped: list[Table | Index] = []
        self.news = News()
        self.end_bytes = end_bytes
        self._next_seq = next_seq
        self._time_ms = time.time_ns() // 1_000_000
        self._entries: list[journal.Row] = []

    @property
    def newest_seq(self) -> int:
        """The sequence number of the last entry: what the journal ends with once this commits."""
        return self._next_seq - 1

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The document stored under a key, or None."""
        rows = selected(self.connection, table, table.get_sql, (key,))
        return rows[0][0] if rows else None

    def put(self, table: Table, key: bytes, printed_key: bytes, old: bytes | None, new: bytes | None) -> None:
        """Replace `old`, which is what `get` gave, by `new`, and append the change to the journal.

        They are canonical JSON, and not equal; `None` is no document.
        """
        if new is None:
            self.connection.execute(table.delete_sql, (key,))
        else:
            sql = table.insert_sql if old is None else table.update_sql
            self.connection.execute(sql, (key, new, checksum.of_document(new)))
        for index in self.catalog.indexes(table).values():
            index.update(self.connection, key, old, new)
        self._entries.append((self._next_seq, table.number, self._time_ms, printed_key, old, new))
        self._next_seq += 1

    def create_database(self, name: str) -> Database:
        """See `Catalog.create_database`."""
        return self._changed_catalog().create_database(self.connection, name)

    def drop_database(self, name: str) -> tuple[Database, list[Table]]:
        """See `Catalog.drop_database`."""
        before = self.catalog
        database, tables = self._changed_catalog().drop_database(self.connection, name)
        self.dropped += tables
        self.dropped += [index for table in tables for index in before.indexes(table).values()]
        return database, tables

    def create_table(self, database: Database, name: str, primary_key: str, durability: str) -> Table:
        """See `Catalog.create_table`."""
        return self._changed_catalog().create_table(self.connection, database, name, primary_key, durability)

    def drop_table(self, table: Table) -> None:
        """See `Catalog.drop_table`."""
        self.dropped += self.catalog.indexes(table).values()
        self._changed_catalog().drop_table(self.connection, table)
        self.dropped.append(table)

    def create_index(self, table: Table, name: str, multi: bool, term: Any, compile: Compile) -> Index:
        """A new index with the entries of all documents; see `Index` for `term`.

        Raises:
            QueryError: the name is taken.
        """
        if name in self.catalog.indexes(table):
            raise _index_exists(table, name)
        index = indexes.create(self.connection, table, name, multi, term, compile)
        self._changed_catalog().add_index(index)
        return index

    def drop_index(self, index: Index) -> None:
        """Drop an index with its entries."""
        indexes.drop(self.connection, index)
        self._changed_catalog().remove_index(index)
        self.dropped.append(index)

    def rename_index(self, index: Index, name: str, overwrite: bool) -> None:
        """Give an index another name; `overwrite`: in the place of the one that has it.

        Raises:
            QueryError: the name is taken.
        """
        if (other := self.catalog.indexes(index.table).get(name)) is not None:
            if not overwrite:
                raise _index_exists(index.table, name)
            self.drop_index(other)
        changed = self._changed_catalog()
        changed.remove_index(index)
        changed.add_index(indexes.rename(self.connection, index, name))

    def _changed_catalog(self) -> Catalog:
        self.catalog = self.catalog.copy()
        return self.catalog

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What is done inside happens whole or, when it raises, not at all."""
        entries, next_seq, dropped, catalog = len(self._entries), self._next_seq, len(self.dropped), self.catalog
        self.connection.execute("SAVEPOINT one_query")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # a full disk ends the whole transaction
                self.connection.execute("ROLLBACK TO one_query")
            del self._entries[entries:], self.dropped[dropped:]
            self._next_seq, self.catalog = next_seq, catalog
            raise
        finally:
            if self.connection.in_transaction:
                self.connection.execute("RELEASE one_query")

    def flush(self) -> None:
        """Write the journal entries; the last thing before the commit."""
        self.end_bytes = journal.append(self.connection, self._entries, self.end_bytes)
        self.news.add(self._entries, self.dropped, self.newest_seq)


def _index_exists(table: Table, name: str) -> QueryError:
    path = f"{table.database.name}.{table.name}"
    return QueryError(ErrorType.OP_FAILED, f"Index `{name}` already exists on table `{path}`.")


class Store:
    """One open data file. This process owns it until `close`.

    One thread at a time may write; `sync`, `checkpoint` and reading may go on meanwhile in other threads.
    """

    def __init__(self, path: Path, keep: Retention = KEEP_ALL, compile_index: Compile = indexes.no_functions) -> None:
        self.retention = keep
        self._compile_index = compile_index
        self.path = Path(os.path.realpath(path))  # a file with two names has one lock, and one write-ahead log
        self.catalog = Catalog()
        self._connections: list[sqlite3.Connection] = []
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._reader = threading.local()
        self._ownership = Ownership(self.path)
        try:
            with self._translated():
                self._open()
        except BaseException:
            self._release()
            raise

    def _open(self) -> None:
        self._sync_lock = threading.Lock()
        self._copied_bytes = 0
        self._news = News()
        self._news_lock = threading.Lock()
        self._writer = self._connect()
        self._connections.append(self._writer)
        self._prepare_file()
        self._checkpointer = self._connect()
        self._connections.append(self._checkpointer)
        self.catalog.load(self._writer)
        for index in indexes.load(self._writer, self.catalog.living_tables(), self._compile_index):
            self.catalog.add_index(index)
        self.identity = self._setting("identity")
        self.committed_seq = journal.ends(self._writer)[1]
        self._end_bytes = journal.measured(self._writer, self.committed_seq)[1]
        self._holds = retention.load_holds(self._writer)
        self._schema = self._schema_version()
        self._check_nothing_is_lost()
        self._log = os.open(f"{self.path}-wal", os.O_RDWR)
        os.fdatasync(self._log)  # what an earlier process committed is durable before anyone is shown it
        _sync_folder(self.path.parent)
        self._became_durable(self.committed_seq, self._schema)

    def _check_nothing_is_lost(self) -> None:
        note = self._ownership.note
        if note is None or note.identity != self.identity:
            return
        if self.committed_seq < note.seq or self._schema < note.schema:
            ending = f"it ends with change {self.committed_seq}, and change {note.seq} was acknowledged"
            reason = f"{self.path.name}-wal was cut, damaged or removed, or the file is an older copy"
            raise FileUnusable(str(self.path), f"{ending}: {reason}; to go on with it, delete {self.path}.lock")

    def _schema_version(self) -> int:
        (version,) = self._writer.execute("PRAGMA schema_version").fetchone()
        return int(version)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=512)
        try:
            connection.executescript(_PRAGMAS)
            connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES_TO_CHECKPOINT}")
            checksum.install(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_file(self) -> None:
        """Make a new file ours, or see that an old one is."""
        (application,) = self._writer.execute("PRAGMA application_id").fetchone()
        (objects,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and objects == 0:
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._create()
        elif application != APPLICATION_ID:
            raise FileUnusable(str(self.path), "it is a SQLite database, but not one of this engine")
        else:
            self._check_format()
            self._writer.execute("PRAGMA journal_mode=WAL")
        # The log has to exist before it can be opened for syncing: a write makes it.
        self._writer.execute(
            "INSERT OR REPLACE INTO setting VALUES ('opened_ms', ?)", (str(time.time_ns() // 1_000_000),)
        )

    def _create(self) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        for statement in (_SETTINGS + catalog.SCHEMA + journal.SCHEMA + retention.SCHEMA + indexes.SCHEMA).split(";"):
            self._writer.execute(statement)
        self._writer.execute("INSERT INTO setting VALUES ('identity', ?)", (str(uuid.uuid4()),))
        Catalog().create_database(self._writer, catalog.DEFAULT_DATABASE)
        self._writer.execute(f"PRAGMA application_id={APPLICATION_ID}")
        self._writer.execute(f"PRAGMA user_version={FORMAT}")
        self._writer.execute("COMMIT")
        # Into the file itself: should the log be lost one day, the file still tells whose it was.
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _check_format(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version != FORMAT:
            problem = f"its format is {version}, and this version of the engine reads format {FORMAT}"
            raise FileUnusable(str(self.path), problem)

    def _setting(self, name: str) -> str:
        (value,) = self._writer.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return str(value)

    @contextmanager
    def _translated(self, kind: type[FileUnusable] = FileUnusable) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as problem:
            raise (DiskFull if _is_full(problem) else kind)(str(self.path), _reason(problem)) from problem

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What goes wrong with the file while something is read from it is told in the engine's terms.

        Raises:
            FileUnreadable: from the block, where SQLite or a checksum refused what it found.
        """
        with self._translated(FileUnreadable):
            yield

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that commits when the block ends, visible at once, durable after the next `sync`.

        Raises:
            DiskFull: there is no room for it; nothing happened, and a later one may succeed.
            FileUnusable: it could not be committed; nothing happened.
        """
        with self._translated():
            self._restart_log_if_long()
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._writer, self.catalog, self.committed_seq + 1, self._end_bytes)
            try:
                yield transaction
                transaction.flush()
                self._writer.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            self._committed(transaction)

    def _committed(self, transaction: Transaction) -> None:
        if transaction.catalog is not self.catalog:
            self.catalog, self._schema = transaction.catalog, self._schema_version()
        for dropped in transaction.dropped:
            dropped.dropped = True
        self._end_bytes = transaction.end_bytes
        with self._news_lock:
            self.committed_seq = transaction.newest_seq
            self._news.merge(transaction.news)

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def sync(self) -> News:
        """Make everything committed so far durable; returns what changed in it.

        Raises:
            FileUnusable: the disk refused. What was committed since the last `sync` may be lost.
        """
        with self._sync_lock:
            with self._news_lock:
                seq, news, self._news = self.committed_seq, self._news, News()
            self._flush(seq, self._schema)
            return news

    def sync_for_reader(self) -> None:
        """As `sync`, for a reader who must not hand out what is not durable; leaves the news to the next `sync`."""
        with self._sync_lock:
            self._flush(self.committed_seq, self._schema)

    def _flush(self, seq: int, schema: int) -> None:
        with self._translated():
            os.fdatasync(self._log)
            self._became_durable(seq, schema)

    def _became_durable(self, seq: int, schema: int) -> None:
        self.durable_seq = seq
        self._ownership.write_note(Note(self.identity, seq, schema))

    def hold(self, name: str, seq: int) -> None:
        """Keep what is behind `seq` for `name`, also after this process has ended; a later call moves the hold.

        For the thread that writes.

        Raises:
            FileUnusable: it cannot be kept.
        """
        is_new = name not in self._holds
        self._holds[name] = seq
        if is_new:  # moving one is not worth a write: an old one keeps more than it has to
            with self._translated(), self._writing():
                retention.save_holds(self._writer, self._holds)

    def trim(self) -> retention.Step | None:
        """Take one small step towards what `retention` says; None if there was nothing to do.

        For the thread that writes, between two transactions.

        Raises:
            FileUnusable: it could not be done.
        """
        if self.retention.keeps_all:
            return None
        with self._translated():
            now_ms = time.time_ns() // 1_000_000
            step = retention.next_step(self._writer, self.retention, self._holds, self.durable_seq, now_ms)
            if step is not None:
                with self._writing():
                    journal.trim(self._writer, step.upto)
                    retention.save_holds(self._writer, self._holds)
        return step

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction about the journal itself."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    @property
    def wants_checkpoint(self) -> bool:
        """The write-ahead log has grown enough since the last time to be copied into the file.

        Not more often: a log can start over only while nobody is copying it.
        """
        size = self._log_bytes()
        if size < self._copied_bytes:
            self._copied_bytes = 0  # it has started over
        return size - self._copied_bytes > LOG_BYTES_TO_CHECKPOINT

    def _log_bytes(self) -> int:
        return os.fstat(self._log).st_size

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file, without stopping writers. For a thread that may wait for the disk.

        Raises:
            FileUnusable: the disk refused.
        """
        size = self._log_bytes()
        with self._translated():
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._copied_bytes = size

    def _restart_log_if_long(self) -> None:
        """Writers that never pause keep the log from starting over; make room for it between two of them."""
        if self._log_bytes() > LOG_BYTES_TO_RESTART:
            self._writer.execute("PRAGMA busy_timeout=0")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._writer.execute("PRAGMA busy_timeout=10000")

    def reader(self) -> sqlite3.Connection:
        """This thread's connection for reading committed documents and entries."""
        reader: _Reader | None = getattr(self._reader, "own", None)
        if reader is None:
            with self._translated():
                reader = _Reader(self._connect())
                reader.connection.execute("PRAGMA query_only=1")
            self._reader.own = reader
            self._readers.add(reader)
        return reader.connection

    def close(self) -> None:
        """Sync, and let the file go. Nothing may be running in other threads."""
        try:
            self.sync()
            with suppress(DiskFull):  # what is in the log is as safe there
                self.checkpoint()
        finally:
            os.close(self._log)
            self._release()

    def _release(self) -> None:
        for reader in list(self._readers):
            reader.connection.close()
        for connection in reversed(self._connections):
            connection.close()
        self._ownership.release()


class _Reader:
    """A thread's own connection. It is closed when the thread ends, or with the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


def _is_full(problem: sqlite3.Error | OSError) -> bool:
    """A statement that found no room has been undone. A flush that found none is worse: what it was to keep is lost."""
    return getattr(problem, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _reason(problem: sqlite3.Error | OSError) -> str:
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    # SQLite keeps nothing of what its callback raised but that it did: the only one is that of the checksums.
    return checksum.DAMAGED if "user-defined function" in str(problem) else str(problem)


def _sync_folder(path: Path) -> None:
    """A file that was just made survives a power cut only once its folder is synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
