"""`info`: what a query's value is."""

from __future__ import annotations

from typing import Any

from cdcbridge.engine.catalog import Database, Table, selected
from cdcbridge.engine.reql.access import DatabaseName
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import Env, Row, Stream, kind_of
from cdcbridge.engine.values import dumps


@term("INFO", 1, deterministic=False, grouping="ends")
def info(call: Call) -> Fn:
    """Its type; of a database, a table and a selection, what it belongs to; of a plain value, the value as text."""
    source = call.args[0].run
    return lambda env: described(env, source(env))


def described(env: Env, value: Any) -> dict[str, Any]:
    """What `info` says of a value."""
    if type(value) is DatabaseName:
        return _database(env.context.catalog.database(value))
    kind = kind_of(value)
    if type(value) is Stream or type(value) is Row:
        if kind == "TABLE" and value.table is not None:
            return _table(env, value.table)
        return {"type": kind} | ({"table": _table(env, value.table)} if value.table is not None else {})
    if kind == "FUNCTION" or kind.startswith("GROUPED"):
        return {"type": kind}
    return {"type": kind, "value": dumps(value).decode()}


def _database(database: Database) -> dict[str, Any]:
    return {"type": "DB", "id": database.id, "name": database.name}


def _table(env: Env, table: Table) -> dict[str, Any]:
    ((rows,),) = selected(env.context.connection, table, table.count_sql)
    return {
        "type": "TABLE",
        "id": table.id,
        "name": table.name,
        "db": _database(table.database),
        "primary_key": table.primary_key,
        "indexes": sorted(env.context.catalog.indexes(table)),
        "doc_count_estimates": [rows],
    }
