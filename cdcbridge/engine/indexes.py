"""Secondary indexes: what they are, and their entries in the data file.

An index gives each document keys: one, or with `multi` one for each element of an array. A document whose function
fails, or gives null or an object, has none. The entries are written in the transaction that writes the document, so
that an index never lags behind its table. Keys are kept whole, however long they are; RethinkDB cuts them.

Source: RethinkDB's documentation of `index_create`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cdcbridge.engine.catalog import BODY, Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.values import index_key, loads

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS idx (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl INTEGER NOT NULL REFERENCES tbl (number),
    name TEXT NOT NULL,
    multi INTEGER NOT NULL,
    term TEXT NOT NULL,
    UNIQUE (tbl, name)
)
"""

DOCUMENTS_PER_STEP: Final = 1000

Function = Callable[[Any], Any]
"""The value to index a document by."""

Compile = Callable[[Any], Function]
"""Makes an index's function from its term."""

Entry = tuple[bytes, int]
"""A key that a document has in an index, and a number that tells equal ones of a `multi` index apart."""


def no_functions(term: Any) -> Function:
    """For a data file that is opened without a query language."""
    raise QueryError(ErrorType.INTERNAL, "This data file was opened without a way to run its indexes' functions.")


@dataclass(eq=False)
class Index:
    """An index of a table. `term`: its function as the client sent it, or the name of the field that it is about.

    `dropped` turns true once, for ever, when that has been committed.
    """

    number: int
    table: Table
    name: str
    multi: bool
    term: Any
    compile: Compile = field(repr=False)
    dropped: bool = False

    def __post_init__(self) -> None:
        self._function: Function | None = _field_reader(self.term) if type(self.term) is str else None
        mine = f"entry_{self.number}"
        self.create_sql = f"CREATE TABLE {mine} (k BLOB, pk BLOB, n INTEGER, PRIMARY KEY (k, pk, n)) WITHOUT ROWID"
        self.drop_sql = f"DROP TABLE {mine}"
        self.insert_sql = f"INSERT INTO {mine} VALUES (?, ?, ?)"
        self.delete_sql = f"DELETE FROM {mine} WHERE k = ? AND pk = ? AND n = ?"
        # CROSS JOIN keeps SQLite from beginning with the documents.
        rows = f"SELECT k, pk, n, {BODY} FROM {mine} CROSS JOIN doc_{self.table.number} ON key = pk"
        self.scan_sql = f"{rows} WHERE (k, pk, n) > (?, ?, ?) AND k < ? ORDER BY k, pk, n LIMIT ?"
        self.scan_down_sql = f"{rows} WHERE (k, pk, n) < (?, ?, ?) AND k >= ? ORDER BY k DESC, pk DESC, n DESC LIMIT ?"

    @property
    def table_number(self) -> int:
        """Its table's."""
        return self.table.number

    def entries(self, doc: bytes) -> list[Entry]:
        """The keys that a document has in this index."""
        return [(key, number) for key, number, _ in self._found(loads(doc))]

    def values(self, document: Any) -> dict[int, Any]:
        """What the keys of a document were made of, by their entries' numbers."""
        return {number: value for _, number, value in self._found(document)}

    def _found(self, document: Any) -> list[tuple[bytes, int, Any]]:
        try:
            value = self._value(document)
        except QueryError:
            return []
        values = value if self.multi and type(value) is list else [value]
        return [(key, number, each) for number, each in enumerate(values) if (key := _key(each)) is not None]

    def _value(self, document: Any) -> Any:
        if self._function is None:
            self._function = self.compile(self.term)
        return self._function(document)

    def update(self, connection: sqlite3.Connection, pk: bytes, old: bytes | None, new: bytes | None) -> None:
        """Follow a document's change; the caller has a transaction open."""
        before = self.entries(old) if old is not None else []
        after = self.entries(new) if new is not None else []
        if before == after:
            return
        gone, come = set(before) - set(after), set(after) - set(before)
        connection.executemany(self.delete_sql, [(key, pk, number) for key, number in gone])
        connection.executemany(self.insert_sql, [(key, pk, number) for key, number in come])

    def fill(self, connection: sqlite3.Connection) -> None:
        """Make the entries of all documents that are there; the caller has a transaction open."""
        connection.execute(self.create_sql)
        after = b""
        while rows := connection.execute(self.table.scan_sql, (after, b"\xff", DOCUMENTS_PER_STEP)).fetchall():
            found = [(key, pk, number) for pk, doc in rows for key, number in self.entries(doc)]
            connection.executemany(self.insert_sql, found)
            after = rows[-1][0] + b"\0"


def _field_reader(name: str) -> Function:
    return lambda document: document.get(name)


def _key(value: Any) -> bytes | None:
    try:
        return index_key(value)
    except QueryError:
        return None


def load(connection: sqlite3.Connection, tables: dict[int, Table], compile: Compile) -> Iterator[Index]:
    """The indexes of some tables, by their numbers."""
    connection.execute(SCHEMA)
    rows: Iterable[tuple[int, int, str, int, str]] = connection.execute(
        "SELECT number, tbl, name, multi, term FROM idx"
    )
    for number, table, name, multi, term in rows:
        if table in tables:
            yield Index(number, tables[table], name, bool(multi), json.loads(term), compile)


def create(connection: sqlite3.Connection, table: Table, name: str, multi: bool, term: Any, compile: Compile) -> Index:
    """A new index with the entries of all documents."""
    sql = "INSERT INTO idx (tbl, name, multi, term) VALUES (?, ?, ?, ?)"
    number = connection.execute(sql, (table.number, name, multi, json.dumps(term))).lastrowid
    assert number is not None
    index = Index(number, table, name, multi, term, compile)
    index.fill(connection)
    return index


def drop(connection: sqlite3.Connection, index: Index) -> None:
    """Drop an index with its entries. `index.dropped` is for who commits it to set."""
    connection.execute("DELETE FROM idx WHERE number = ?", (index.number,))
    connection.execute(index.drop_sql)


def rename(connection: sqlite3.Connection, index: Index, name: str) -> Index:
    """The same index under another name, which is free."""
    connection.execute("UPDATE idx SET name = ? WHERE number = ?", (name, index.number))
    return Index(index.number, index.table, name, index.multi, index.term, index.compile)
