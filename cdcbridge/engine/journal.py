"""The journal: the ordered, durable log of commits, and the one truth about what happened.

An entry is written in the same transaction as the document that it is about, so a change is in the journal if and
only if it is committed. Sequence numbers rise by one with each entry, from 1; they are never used twice, because
nobody is shown an entry that is not yet durable, and because the newest entry is never trimmed.

The journal may be trimmed from its old end (`retention.py`). Whoever reads on from a place that is gone is told so, and
never just gets what is left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final

from cdcbridge.engine import checksum
from cdcbridge.engine.errors import ErrorType, QueryError

Row = tuple[int, int, int, bytes, bytes | None, bytes | None]
"""An entry: seq, table number, commit time in ms, key, old_val, new_val. The last three are canonical JSON; `None` is
an absent document, never on both sides."""

SCHEMA = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    end_bytes INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    key BLOB NOT NULL,
    old_val BLOB,
    new_val BLOB
);
CREATE TABLE trimmed (tbl INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
"""
# `end_bytes`: the size of all entries ever written, up to and with this one; `trimmed`: the newest trimmed entry of
# each table that has lost some.

BYTES_PER_READ: Final = 1 << 20
ENTRY_BYTES: Final = 40
"""About what an entry takes besides its key and documents."""

_APPEND = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_READ = "SELECT seq, tbl, time_ms, key, old_val, new_val, sum FROM journal WHERE seq > ? AND seq <= ?"


class Trimmed(QueryError):
    """The journal no longer has all that comes `after` a sequence number; it begins with `oldest`."""

    def __init__(self, after: int, oldest: int) -> None:
        message = f"Cannot resume after {after}: the journal begins with sequence number {oldest}."
        super().__init__(ErrorType.OP_FAILED, message)
        self.after = after
        self.oldest = oldest


def append(connection: sqlite3.Connection, rows: Iterable[Row], end_bytes: int) -> int:
    """Write entries; the caller has numbered them and has a transaction open.

    `end_bytes` is the journal's size so far, counted from its very beginning; returns what it is now.
    """
    stored: list[tuple[object, ...]] = []
    for seq, table, time_ms, key, old, new in rows:
        end_bytes += ENTRY_BYTES + len(key) + len(old or b"") + len(new or b"")
        total = checksum.of_entry(seq, table, time_ms, key, old, new)
        stored.append((seq, table, time_ms, end_bytes, total, key, old, new))
    connection.executemany(_APPEND, stored)
    return end_bytes


def read(connection: sqlite3.Connection, after: int, upto: int, limit: int) -> list[Row]:
    """Entries of all tables with `after < seq <= upto`, in order: at most `limit`, and about `BYTES_PER_READ`.

    Raises:
        Trimmed: some of them are there no more.
        checksum.Damaged: one is not what was written.
    """
    rows = _some(connection.execute(f"{_READ} ORDER BY seq LIMIT ?", (after, upto, limit)))
    if after < upto and (not rows or rows[0][0] != after + 1):
        raise Trimmed(after, ends(connection)[0])
    return rows


def read_table(connection: sqlite3.Connection, table: int, after: int, upto: int, limit: int) -> list[Row]:
    """As `read`, of one table."""
    rows = _some(connection.execute(f"{_READ} AND tbl = ? ORDER BY seq LIMIT ?", (after, upto, table, limit)))
    _check_whole(connection, table, after)
    return rows


def read_tables(connection: sqlite3.Connection, tables: Iterable[int], after: int, upto: int, limit: int) -> list[Row]:
    """As `read`, of some tables."""
    numbers = tuple(tables)
    sql = f"{_READ} AND tbl IN ({', '.join('?' * len(numbers))}) ORDER BY seq LIMIT ?"
    rows = _some(connection.execute(sql, (after, upto, *numbers, limit)))
    for table in numbers:
        _check_whole(connection, table, after)
    return rows


def read_key(connection: sqlite3.Connection, table: int, key: bytes, after: int, upto: int, limit: int) -> list[Row]:
    """As `read_table`, of one document."""
    sql = f"{_READ} AND tbl = ? AND key = ? ORDER BY seq LIMIT ?"
    rows = _some(connection.execute(sql, (after, upto, table, key, limit)))
    _check_whole(connection, table, after)
    return rows


def _check_whole(connection: sqlite3.Connection, table: int, after: int) -> None:
    """Raises Trimmed if the table had entries behind `after` that are gone.

    It is looked at after reading: what is trimmed by now may have been there then, but not the other way round.
    """
    if (found := connection.execute("SELECT seq FROM trimmed WHERE tbl = ?", (table,)).fetchone()) and after < found[0]:
        raise Trimmed(after, ends(connection)[0])


def _some(cursor: Iterator[tuple[int, int, int, bytes, bytes | None, bytes | None, int]]) -> list[Row]:
    """Rows until they hold enough bytes; the last one may be of any size."""
    rows: list[Row] = []
    size = 0
    for *row, total in cursor:
        entry: Row = tuple(row)  # type: ignore[assignment]
        if checksum.of_entry(*entry) != total:
            raise checksum.Damaged
        rows.append(entry)
        size += len(entry[4] or b"") + len(entry[5] or b"")
        if size >= BYTES_PER_READ:
            break
    return rows


def ends(connection: sqlite3.Connection) -> tuple[int, int]:
    """The oldest and the newest sequence number that are there; (1, 0) for an empty journal."""
    # Two selects: SQLite looks up one minimum or maximum, but reads the whole table for both at once.
    oldest, newest = connection.execute(
        "SELECT (SELECT min(seq) FROM journal), (SELECT max(seq) FROM journal)"
    ).fetchone()
    return (1, 0) if newest is None else (oldest, newest)


def measured(connection: sqlite3.Connection, seq: int) -> tuple[int, int]:
    """Of the entry with this number: its time in ms, and the size of all entries up to and with it."""
    found: tuple[int, int] = connection.execute(
        "SELECT time_ms, end_bytes FROM journal WHERE seq = ?", (seq,)
    ).fetchone() or (0, 0)
    return found


def trim(connection: sqlite3.Connection, upto: int) -> None:
    """Forget entries up to and with `upto`; the caller has a transaction open, and keeps the newest entry."""
    connection.execute(
        "INSERT INTO trimmed SELECT tbl, max(seq) FROM journal WHERE seq <= ? GROUP BY tbl"
        " ON CONFLICT (tbl) DO UPDATE SET seq = excluded.seq",
        (upto,),
    )
    connection.execute("DELETE FROM journal WHERE seq <= ?", (upto,))
