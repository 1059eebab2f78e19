"""Terms about a cluster, answered as one server with one copy of everything: `config`, `status`, `wait`."""

from __future__ import annotations

from typing import Any

from cdcbridge.engine.catalog import Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.access import DatabaseName, whole_table
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import Env, Stream, expect, kind_of
from cdcbridge.engine.reql.system import ONE_SERVER, table_config, table_status

Document = dict[str, Any]


def _tables(env: Env, value: Any, name: str) -> list[Table]:
    """The tables that a term is about: one, or all of a database.

    Raises:
        QueryError: it is neither.
    """
    if type(value) is DatabaseName:
        return env.context.catalog.tables(env.context.catalog.database(value))
    if type(value) is Stream:
        return [whole_table(value)]
    message = f"`{name}` can only be called on a table or database, and not on {kind_of(value)}."
    raise QueryError(ErrorType.QUERY_LOGIC, message)


@term("CONFIG", 1, deterministic=False)
def config(call: Call) -> Fn:
    """How a table or a database is set up: its row of `table_config` or `db_config`."""
    source = call.args[0].run

    def run(env: Env) -> Document:
        value = source(env)
        if type(value) is DatabaseName:
            database = env.context.catalog.database(value)
            return {"id": database.id, "name": database.name}
        return table_config(env.context, _tables(env, value, "config")[0])

    return run


@term("STATUS", 1, deterministic=False)
def status(call: Call) -> Fn:
    """Whether a table is ready, which it always is."""
    source = call.args[0].run
    return lambda env: table_status(whole_table(source(env)))


@term("WAIT", 1, options=("wait_for", "timeout"), deterministic=False)
def wait(call: Call) -> Fn:
    """Nothing has to be waited for."""
    source = call.args[0].run
    wait_for, timeout = call.option("wait_for", _STATES[0]), call.option("timeout", 0)

    def run(env: Env) -> Document:
        expect("NUMBER", timeout(env))
        if (state := wait_for(env)) not in _STATES:
            message = f"Unknown table readiness state: '{state}', must be one of {_listed(_STATES)}."
            raise QueryError(ErrorType.QUERY_LOGIC, message)
        return {"ready": len(_tables(env, source(env), "wait"))}

    return run


_STATES = ("all_replicas_ready", "ready_for_writes", "ready_for_reads", "ready_for_outdated_reads")


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words[:-1]) + f", or '{words[-1]}'"


@term(
    "RECONFIGURE",
    1,
    options=(
        "shards",
        "replicas",
        "primary_replica_tag",
        "nonvoting_replica_tags",
        "dry_run",
        "emergency_repair",
    ),
    deterministic=False,
)
def reconfigure(call: Call) -> Fn:
    """One shard and one replica is what there is, and can be asked for; feeds go on."""
    source, dry_run = call.args[0].run, call.option("dry_run", False)
    copies = [call.option("shards", 1), call.option("replicas", 1)]

    def run(env: Env) -> Document:
        if any(count(env) != 1 for count in copies):
            raise QueryError(ErrorType.OP_FAILED, ONE_SERVER)
        tables = _tables(env, source(env), "reconfigure")
        answer: Document = {"config_changes": [_unchanged(table_config(env.context, table)) for table in tables]}
        if dry_run(env):
            return {"reconfigured": 0, **answer}
        statuses = [_unchanged(table_status(table)) for table in tables]
        return {"reconfigured": len(tables), "status_changes": statuses, **answer}

    return run


@term("REBALANCE", 1, deterministic=False)
def rebalance(call: Call) -> Fn:
    """One shard is always in balance."""
    source = call.args[0].run

    def run(env: Env) -> Document:
        tables = _tables(env, source(env), "rebalance")
        changes = [_unchanged(table_status(table)) for table in tables]
        return {"rebalanced": len(tables), "status_changes": changes}

    return run


def _unchanged(row: Document) -> Document:
    return {"old_val": row, "new_val": row}
