"""Which databases and tables there are: their rows in the data file, and a copy in memory that queries look at.

A dropped database or table keeps its row, marked: journal entries name their table by number, and a reader that lags
behind a drop still has to know what the table was called.
"""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cdcbridge.engine.checksum import SQL_FUNCTION
from cdcbridge.engine.errors import ErrorType, QueryError

if TYPE_CHECKING:
    from cdcbridge.engine.indexes import Index

SYSTEM_DATABASE: Final = "rethinkdb"
DEFAULT_DATABASE: Final = "test"

SCHEMA = """
CREATE TABLE db (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE UNIQUE INDEX db_name ON db (name) WHERE dropped = 0;
CREATE TABLE tbl (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    db TEXT NOT NULL REFERENCES db (id),
    name TEXT NOT NULL,
    primary_key TEXT NOT NULL,
    durability TEXT NOT NULL,
    dropped INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX tbl_name ON tbl (db, name) WHERE dropped = 0;
"""

BODY: Final = f"{SQL_FUNCTION}(body, sum)"
"""A document's column as it has to be selected: a damaged one fails the statement."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NAME_LENGTH_MAX = 200


@dataclass(frozen=True)
class Database:
    """A database."""

    id: str
    name: str


@dataclass(eq=False)
class Table:
    """A table. `number` names it in the journal and in the data file.

    `dropped` turns true once, for ever, when that has been committed.
    """

    number: int
    id: str
    database: Database
    name: str
    primary_key: str
    durability: str
    dropped: bool = False

    def __post_init__(self) -> None:
        self.dropped = bool(self.dropped)
        rows = f"doc_{self.number}"
        self.create_sql = (
            f"CREATE TABLE {rows} (key BLOB PRIMARY KEY, body BLOB NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID"
        )
        self.drop_sql = f"DROP TABLE {rows}"
        self.get_sql = f"SELECT {BODY} FROM {rows} WHERE key = ?"
        self.insert_sql = f"INSERT INTO {rows} VALUES (?, ?, ?)"
        self.update_sql = f"UPDATE {rows} SET body = ?2, sum = ?3 WHERE key = ?1"
        self.delete_sql = f"DELETE FROM {rows} WHERE key = ?"
        self.count_sql = f"SELECT count(*) FROM {rows}"
        self.scan_sql = f"SELECT key, {BODY} FROM {rows} WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        self.scan_down_sql = f"SELECT key, {BODY} FROM {rows} WHERE key >= ? AND key < ? ORDER BY key DESC LIMIT ?"

    @property
    def table_number(self) -> int:
        """Its own; as an index has its table's."""
        return self.number

    def config(self, indexes: Iterable[str] = ()) -> dict[str, Any]:
        """The row that `rethinkdb.table_config` has for it; `indexes` are the names of those that it has."""
        return {
            "id": self.id,
            "name": self.name,
            "db": self.database.name,
            "primary_key": self.primary_key,
            "durability": self.durability,
            "write_acks": "majority",
            "indexes": sorted(indexes),
            "shards": [{"primary_replica": "cdcbridge", "replicas": ["cdcbridge"], "nonvoting_replicas": []}],
            "write_hook": None,
            "data": {},
        }


class Catalog:
    """All databases and tables as of one commit.

    Readers share it with the one who writes, and must not see what is not committed: a transaction that creates or
    drops something does so in a copy, which takes this one's place when it has been committed.
    """

    def __init__(self) -> None:
        self.databases: dict[str, Database] = {}
        self._named: dict[tuple[str, str], Table] = {}
        self._numbered: dict[int, Table] = {}
        self._indexes: dict[int, dict[str, Index]] = {}

    def load(self, connection: sqlite3.Connection) -> None:
        """Read everything from a data file."""
        databases: dict[str, Database] = {}
        for id, name, dropped in connection.execute("SELECT id, name, dropped FROM db"):
            databases[id] = Database(id, name)
            if not dropped:
                self.databases[name] = databases[id]
        for number, id, db, *settings in connection.execute("SELECT * FROM tbl ORDER BY number"):
            self._add(Table(number, id, databases[db], *settings))

    def _add(self, table: Table) -> None:
        self._numbered[table.number] = table
        if not table.dropped:
            self._named[table.database.name, table.name] = table

    def copy(self) -> Catalog:
        """One that can be changed without a change in this one."""
        other = Catalog()
        other.databases = dict(self.databases)
        other._named = dict(self._named)
        other._numbered = dict(self._numbered)
        other._indexes = dict(self._indexes)
        return other

    def table_by_number(self, number: int) -> Table:
        """The table that a journal entry is about, dropped or not."""
        return self._numbered[number]

    def living_tables(self) -> dict[int, Table]:
        """The tables that are not dropped, by number."""
        return {table.number: table for table in self._named.values()}

    def indexes(self, table: Table) -> dict[str, Index]:
        """The secondary indexes of a table, by name."""
        return self._indexes.get(table.number, {})

    def index(self, table: Table, name: str, text: str = "was not found") -> Index:
        """The index of this name. `text`: what the error says about it where there is none.

        Raises:
            QueryError: there is none.
        """
        if (index := self.indexes(table).get(name)) is None:
            raise no_such_index(table, name, text)
        return index

    def add_index(self, index: Index) -> None:
        """Take in an index, which may replace one of its name."""
        self._indexes[index.table.number] = {**self.indexes(index.table), index.name: index}

    def remove_index(self, index: Index) -> None:
        """Let go of an index."""
        others = {name: other for name, other in self.indexes(index.table).items() if name != index.name}
        self._indexes[index.table.number] = others

    def database(self, name: str) -> Database:
        """The database of this name.

        Raises:
            QueryError: there is none.
        """
        check_name("Database", name)
        if (database := self.databases.get(name)) is None:
            raise QueryError(ErrorType.OP_FAILED, f"Database `{name}` does not exist.")
        return database

    def tables(self, database: Database) -> list[Table]:
        """The tables of a database, by name."""
        return [table for (home, _), table in sorted(self._named.items()) if home == database.name]

    def table(self, database: str, name: str) -> Table:
        """The table of this name.

        Raises:
            QueryError: there is none, or no such database.
        """
        self.database(database)
        check_name("Table", name)
        if (table := self._named.get((database, name))) is None:
            raise no_such_table(database, name)
        return table

    def create_database(self, connection: sqlite3.Connection, name: str) -> Database:
        """A new database.

        Raises:
            QueryError: the name is taken, or no name.
        """
        check_name("Database", name)
        if name in self.databases or name == SYSTEM_DATABASE:
            raise QueryError(ErrorType.OP_FAILED, f"Database `{name}` already exists.")
        database = Database(str(uuid.uuid4()), name)
        connection.execute("INSERT INTO db (id, name) VALUES (?, ?)", (database.id, name))
        self.databases[name] = database
        return database

    def drop_database(self, connection: sqlite3.Connection, name: str) -> tuple[Database, list[Table]]:
        """Drop a database with its tables, which are returned with it."""
        if name == SYSTEM_DATABASE:
            message = f"Database `{name}` is special; you can't delete it."
            raise QueryError(ErrorType.OP_FAILED, message)
        database = self.database(name)
        tables = self.tables(database)
        for table in tables:
            self.drop_table(connection, table)
        connection.execute("UPDATE db SET dropped = 1 WHERE id = ?", (database.id,))
        del self.databases[name]
        return database, tables

    def create_table(
        self, connection: sqlite3.Connection, database: Database, name: str, primary_key: str, durability: str
    ) -> Table:
        """A new table.

        Raises:
            QueryError: the name is taken, or no name.
        """
        check_name("Table", name)
        if (database.name, name) in self._named:
            raise QueryError(ErrorType.OP_FAILED, f"Table `{database.name}.{name}` already exists.")
        row = (str(uuid.uuid4()), database.id, name, primary_key, durability)
        sql = "INSERT INTO tbl (id, db, name, primary_key, durability) VALUES (?, ?, ?, ?, ?)"
        number = connection.execute(sql, row).lastrowid
        assert number is not None
        table = Table(number, row[0], database, name, primary_key, durability)
        connection.execute(table.create_sql)
        self._add(table)
        return table

    def drop_table(self, connection: sqlite3.Connection, table: Table) -> None:
        """Drop a table and its documents; its journal entries stay. `table.dropped` is for who commits it to set."""
        connection.execute("UPDATE tbl SET dropped = 1 WHERE number = ?", (table.number,))
        connection.execute(table.drop_sql)
        for index in self._indexes.pop(table.number, {}).values():
            connection.execute(index.drop_sql)
        connection.execute("DELETE FROM idx WHERE tbl = ?", (table.number,))
        del self._named[table.database.name, table.name]


def no_such_table(database: str, name: str) -> QueryError:
    """The error for a table that is not there, or not any more."""
    return QueryError(ErrorType.OP_FAILED, f"Table `{database}.{name}` does not exist.")


def no_such_index(table: Table, name: str, text: str = "was not found") -> QueryError:
    """The error for an index that is not there; `text` tells whether it was to be read, or to be changed."""
    message = f"Index `{name}` {text} on table `{table.database.name}.{table.name}`."
    return QueryError(ErrorType.OP_FAILED, message)


def selected(
    connection: sqlite3.Connection, table: Table, sql: str, parameters: tuple[Any, ...] = ()
) -> list[tuple[Any, ...]]:
    """What a statement about a table's documents selects.

    Raises:
        QueryError: the table has been dropped, perhaps just now by somebody else.
    """
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as problem:
        if "no such table" not in str(problem):
            raise
        raise no_such_table(table.database.name, table.name) from None


def check_name(kind: str, name: str) -> None:
    """Raises a QueryError unless `name` may name a database or a table."""
    if not _NAME.fullmatch(name):
        message = f"{kind} name `{name}` invalid (Use A-Z, a-z, 0-9, _ and - only)."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    if len(name) > _NAME_LENGTH_MAX:
        message = f"{kind} name `{name[:20]}...` too long ({len(name)} characters; at most {_NAME_LENGTH_MAX})."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
