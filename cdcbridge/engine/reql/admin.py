"""Databases and tables: create, drop, list; and `sync`."""

from __future__ import annotations

from typing import Any

from cdcbridge.engine.catalog import SYSTEM_DATABASE, Database, Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.access import DatabaseName, whole_table
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import Env, datum, expect, kind_of
from cdcbridge.engine.reql.system import NAMES, ONE_SERVER, table_config


@term("DB_LIST", 0)
def db_list(call: Call) -> Fn:
    return lambda env: sorted([SYSTEM_DATABASE, *env.context.catalog.databases])


@term("DB_CREATE", 1, writes=True)
def db_create(call: Call) -> Fn:
    name = call.args[0].run

    def create(env: Env) -> dict[str, Any]:
        database = env.context.writing.create_database(expect("STRING", datum(name(env))))
        return {"dbs_created": 1, "config_changes": [_changed(None, _config(database))]}

    return create


@term("DB_DROP", 1, writes=True)
def db_drop(call: Call) -> Fn:
    name = call.args[0].run

    def drop(env: Env) -> dict[str, Any]:
        database, tables = env.context.writing.drop_database(expect("STRING", datum(name(env))))
        changes = [_changed(_config(database), None)]
        return {"dbs_dropped": 1, "tables_dropped": len(tables), "config_changes": changes}

    return drop


@term("TABLE_LIST", 0, 1)
def table_list(call: Call) -> Fn:

    def names(env: Env) -> list[str]:
        if call.args and call.args[0].run(env) == SYSTEM_DATABASE:
            return NAMES
        return [table.name for table in env.context.catalog.tables(_home(env, call))]

    return names


@term(
    "TABLE_CREATE",
    1,
    2,
    options=("primary_key", "durability", "shards", "replicas", "primary_replica_tag", "nonvoting_replica_tags"),
    writes=True,
)
def table_create(call: Call) -> Fn:
    """A new table. `shards` and `replicas` are accepted as 1, which is what there is."""
    name = call.args[-1].run
    primary_key, durability = call.option("primary_key", "id"), call.option("durability", "hard")
    copies = [call.option("shards", 1), call.option("replicas", 1)]

    def create(env: Env) -> dict[str, Any]:
        if any(datum(count(env)) != 1 for count in copies):
            raise QueryError(ErrorType.OP_FAILED, ONE_SERVER)
        wanted = expect("STRING", datum(name(env)))
        settings = (expect("STRING", primary_key(env)), checked_durability(durability(env)))
        table = env.context.writing.create_table(_home(env, call), wanted, *settings)
        return {"tables_created": 1, "config_changes": [_changed(None, table.config())]}

    return create


@term("TABLE_DROP", 1, 2, writes=True)
def table_drop(call: Call) -> Fn:
    name = call.args[-1].run

    def drop(env: Env) -> dict[str, Any]:
        wanted = expect("STRING", datum(name(env)))
        table = env.context.catalog.table(_home(env, call).name, wanted)
        return _dropped(env, table)

    return drop


def _dropped(env: Env, table: Table) -> dict[str, Any]:
    config = table_config(env.context, table)
    env.context.writing.drop_table(table)
    return {"tables_dropped": 1, "config_changes": [_changed(config, None)]}


@term("SYNC", 1, writes=True)
def sync(call: Call) -> Fn:
    """Answered when all writes before it are durable: as any hard write is."""
    source = call.args[0].run

    def run(env: Env) -> dict[str, Any]:
        whole_table(source(env))
        env.context.hard = True
        return {"synced": 1}

    return run


def checked_durability(value: Any) -> str:
    """`hard` or `soft`.

    Raises:
        QueryError: it is neither.
    """
    if value not in ("hard", "soft"):
        message = f'Durability option `{value}` unrecognized (options are "hard" and "soft").'
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    return str(value)


def _home(env: Env, call: Call) -> Database:
    """The database that a term is about: its first argument, if that is one, or the default."""
    first = call.args[0].run(env) if call.args else None
    if type(first) is DatabaseName:
        _refuse_system_database(first, call.name)
        return env.context.catalog.database(first)
    if len(call.args) > (0 if call.name == "TABLE_LIST" else 1):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type DATABASE but found {kind_of(first)}.")
    return env.context.catalog.database(env.context.settings.database)


def _refuse_system_database(database: str, name: str) -> None:
    if database == SYSTEM_DATABASE:
        deed = "create new tables" if name == "TABLE_CREATE" else "drop tables"
        message = f"Database `{database}` is special; you can't {deed} in it."
        raise QueryError(ErrorType.OP_FAILED, message)


def _config(database: Database) -> dict[str, Any]:
    return {"id": database.id, "name": database.name}


def _changed(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    return {"old_val": old, "new_val": new}
