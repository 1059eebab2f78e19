"""Checksums of what is stored: SQLite notices a damaged tree of pages, but not a changed byte inside a document.

Each document and each journal entry is stored with the CRC-32 of its content and compared whenever it is read, so that
a damaged file ends in an error and not in a wrong answer.
"""

from __future__ import annotations

import sqlite3
from typing import Final
from zlib import crc32

SQL_FUNCTION: Final = "intact"
"""`intact(body, sum)` in SQL is `body`; the statement fails where the two do not belong together."""

DAMAGED: Final = "it is damaged: what is stored does not fit its checksum"

_PRIME: Final = 4_294_967_291
_TABLE_FACTOR: Final = 0x9E3779B1


class Damaged(sqlite3.DatabaseError):
    """What was read is not what was written."""

    def __init__(self) -> None:
        super().__init__(DAMAGED)


def of_entry(seq: int, table: int, time_ms: int, key: bytes, old: bytes | None, new: bytes | None) -> int:
    """The checksum of a journal entry."""
    start = (seq + table * _TABLE_FACTOR + time_ms * 31) % _PRIME
    return crc32(new or b"", crc32(old or b"", crc32(key, start)))


def of_document(body: bytes) -> int:
    """The checksum of a document."""
    return crc32(body)


def install(connection: sqlite3.Connection) -> None:
    """Make `SQL_FUNCTION` known to a connection."""
    connection.create_function(SQL_FUNCTION, 2, _intact, deterministic=True)


def _intact(body: bytes, expected: int) -> bytes:
    if crc32(body) != expected:
        raise Damaged
    return body
