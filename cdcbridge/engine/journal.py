"""The journal: the ordered, durable log of commits, and the one truth about what happened.

An entry is written in the same transaction as the document that it is about, so a change is in the journal if and
only if it is committed. Sequence numbers rise by one with each entry, from 1; they are never used twice, because
nobody is shown an entry that is not yet durable.
"""

from __future__ import annotations

import sqlite3
from typing import Final

Row = tuple[int, int, int, bytes, bytes | None, bytes | None]
"""An entry: seq, table number, commit time in ms, key, old_val, new_val. The last three are canonical JSON; `None` is
an absent document, never on both sides."""

SCHEMA = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    tbl INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    key BLOB NOT NULL,
    old_val BLOB,
    new_val BLOB
);
"""

BYTES_PER_READ: Final = 1 << 20

_APPEND = "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?)"
_READ = "SELECT seq, tbl, time_ms, key, old_val, new_val FROM journal WHERE seq > ? AND seq <= ?"


def append(connection: sqlite3.Connection, rows: list[Row]) -> None:
    """Write entries; the caller has numbered them and has a transaction open."""
    connection.executemany(_APPEND, rows)


def read(connection: sqlite3.Connection, after: int, upto: int, limit: int) -> list[Row]:
    """Entries of all tables with `after < seq <= upto`, in order: at most `limit`, and about `BYTES_PER_READ`."""
    return _some(connection.execute(f"{_READ} ORDER BY seq LIMIT ?", (after, upto, limit)))


def read_table(connection: sqlite3.Connection, table: int, after: int, upto: int, limit: int) -> list[Row]:
    """As `read`, of one table."""
    return _some(connection.execute(f"{_READ} AND tbl = ? ORDER BY seq LIMIT ?", (after, upto, table, limit)))


def read_key(connection: sqlite3.Connection, table: int, key: bytes, after: int, upto: int, limit: int) -> list[Row]:
    """As `read_table`, of one document."""
    sql = f"{_READ} AND tbl = ? AND key = ? ORDER BY seq LIMIT ?"
    return _some(connection.execute(sql, (after, upto, table, key, limit)))


def _some(cursor: sqlite3.Cursor) -> list[Row]:
    """Rows until they hold enough bytes; the last one may be of any size."""
    rows: list[Row] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += len(row[4] or b"") + len(row[5] or b"")
        if size >= BYTES_PER_READ:
            break
    cursor.close()
    return rows


def ends(connection: sqlite3.Connection) -> tuple[int, int]:
    """The oldest and the newest sequence number that are there; (1, 0) for an empty journal."""
    # Two selects: SQLite looks up one minimum or maximum, but reads the whole table for both at once.
    oldest, newest = connection.execute(
        "SELECT (SELECT min(seq) FROM journal), (SELECT max(seq) FROM journal)"
    ).fetchone()
    return (1, 0) if newest is None else (oldest, newest)
