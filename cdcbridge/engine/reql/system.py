"""The tables of the database `rethinkdb`: what the engine says about itself. They are made when they are read.

Source: RethinkDB's documentation of its system tables; those of a cluster of one server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cdcbridge.engine.catalog import SYSTEM_DATABASE, Table, no_such_table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.runtime import Context, Stream
from cdcbridge.engine.values import compare, dumps

SERVER: Final = "cdcbridge"
"""The name of the one server that there is."""

ONE_SERVER: Final = "This engine is one server: `shards` and `replicas` can only be 1."

Document = dict[str, Any]


def database_config(context: Context) -> list[Document]:
    databases = sorted(context.catalog.databases.values(), key=lambda database: database.name)
    return [{"id": database.id, "name": database.name} for database in databases]


def all_tables(context: Context) -> list[Table]:
    """Every table, by database and name."""
    databases = sorted(context.catalog.databases.values(), key=lambda database: database.name)
    return [table for database in databases for table in context.catalog.tables(database)]


def table_config(context: Context, table: Table) -> Document:
    """The row that `rethinkdb.table_config` has for a table."""
    return table.config(context.catalog.indexes(table))


def table_status(table: Table) -> Document:
    """The row that `rethinkdb.table_status` has for a table: everything is there, and ready."""
    replicas = [{"server": SERVER, "state": "ready"}]
    ready = ("all_replicas_ready", "ready_for_outdated_reads", "ready_for_reads", "ready_for_writes")
    return {
        "id": table.id,
        "name": table.name,
        "db": table.database.name,
        "raft_leader": SERVER,
        "shards": [{"primary_replicas": [SERVER], "replicas": replicas}],
        "status": dict.fromkeys(ready, True),
    }


def _server_config(context: Context) -> list[Document]:
    return [{"id": context.store.identity, "name": SERVER, "tags": ["default"], "cache_size_mb": "auto"}]


_TABLES: Final[dict[str, Callable[[Context], list[Document]]]] = {
    "_debug_scratch": lambda context: [],
    "current_issues": lambda context: [],
    "db_config": database_config,
    "server_config": _server_config,
    "table_config": lambda context: [table_config(context, table) for table in all_tables(context)],
    "table_status": lambda context: [table_status(table) for table in all_tables(context)],
}
"""The rows of each; an engine that has an issue does not run, so there never is one in `current_issues`."""

NAMES: Final = sorted(_TABLES)


@dataclass(frozen=True)
class SystemRows:
    """The rows of a system table."""

    name: str
    table: None = None
    notes: tuple[int, ...] = ()

    def values(self, context: Context) -> Iterator[Any]:
        return iter(_TABLES[self.name](context))

    def encoded(self, context: Context) -> Iterator[bytes]:
        return map(dumps, self.values(context))

    def get(self, context: Context, key: Any) -> Document | None:
        """The row of an id."""
        return next((row for row in self.values(context) if compare(row["id"], key) == 0), None)


def system_table(context: Context, name: str) -> Stream:
    """A system table by its name.

    Raises:
        QueryError: there is none.
    """
    if name not in _TABLES:
        raise no_such_table(SYSTEM_DATABASE, name)
    return Stream(context, SystemRows(name))


def refuse_system_table(value: Any) -> None:
    """Raises a QueryError if the value is a system table, for a term that needs one with documents and indexes."""
    if type(value) is Stream and type(value.source) is SystemRows:
        name = f"{SYSTEM_DATABASE}.{value.source.name}"
        message = f"System table `{name}` can only be read, whole or by `get`: nothing else than its rows is there."
        raise QueryError(ErrorType.OP_FAILED, message)
