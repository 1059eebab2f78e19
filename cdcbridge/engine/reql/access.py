"""Terms that name data: databases, tables, documents by key, ranges of keys."""

from __future__ import annotations

from typing import Any

from cdcbridge.engine.catalog import SYSTEM_DATABASE, Table, selected
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import (
    HIGHEST_KEY,
    LOWEST_KEY,
    Env,
    Items,
    NotData,
    Row,
    Rows,
    Stream,
    datum,
    expect,
    key_bytes,
    kind_of,
    whole,
)
from cdcbridge.engine.reql.system import SystemRows, refuse_system_table, system_table
from cdcbridge.engine.values import Bound, encoded_key, loads


class DatabaseName(str, NotData):
    """What `r.db` gives; looked up when something is done with it."""

    __slots__ = ()
    kind = "DATABASE"


@term("DB", 1)
def db(call: Call) -> Fn:
    name = call.args[0].run
    return lambda env: DatabaseName(expect("STRING", datum(name(env))))


@term("TABLE", 1, 2, options=("read_mode", "use_outdated", "identifier_format"), deterministic=False)
def table(call: Call) -> Fn:
    *database, name = [arg.run for arg in call.args]

    def find(env: Env) -> Stream:
        home = database[0](env) if database else DatabaseName(env.context.settings.database)
        if type(home) is not DatabaseName:
            raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type DATABASE but found {kind_of(home)}.")
        return _table_stream(env, home, expect("STRING", datum(name(env))))

    return find


def _table_stream(env: Env, database: str, name: str) -> Stream:
    if database == SYSTEM_DATABASE:
        return system_table(env.context, name)
    return Stream(env.context, Rows(env.context.catalog.table(database, name)))


def whole_table(value: Any) -> Table:
    """The table that a value is, all of it and nothing else.

    Raises:
        QueryError: it is something else.
    """
    if type(value) is Stream and type(value.source) is Rows and not value.steps:
        rows = value.source
        if (rows.low, rows.high, rows.down) == (LOWEST_KEY, HIGHEST_KEY, False):
            return rows.table
    refuse_system_table(value)
    raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type TABLE but found {kind_of(value)}.")


@term("GET", 2)
def get(call: Call) -> Fn:
    source, key = (arg.run for arg in call.args)

    def fetch(env: Env) -> Any:
        place, value = source(env), datum(key(env))
        if type(place) is Stream and type(place.source) is SystemRows:
            return place.source.get(env.context, value)
        return fetch_row(env, whole_table(place), value)

    return fetch


def fetch_row(env: Env, table: Table, key: Any) -> Row:
    """The row of a primary key, with its document as it is now."""
    found = selected(env.context.connection, table, table.get_sql, (key_bytes(key),))
    return Row(table, key, loads(found[0][0]) if found else None)


@term("GET_ALL", 1, None, options=("index",))
def get_all(call: Call) -> Fn:
    source, *keys = [arg.run for arg in call.args]
    index = call.option("index")

    def fetch(env: Env) -> Stream:
        table = whole_table(source(env))
        check_primary(table, index(env))
        rows = [fetch_row(env, table, datum(key(env))) for key in keys]
        return Stream(env.context, Items([row.doc for row in rows if row.doc is not None], table))

    return fetch


def check_primary(table: Table, index: Any) -> None:
    """Raises a QueryError unless `index` is the primary key's name, or None."""
    if index is not None and expect("STRING", index) != table.primary_key:
        name = f"{table.database.name}.{table.name}"
        raise QueryError(ErrorType.OP_FAILED, f"Index `{index}` was not found on table `{name}`.")


@term("BETWEEN", 3, options=("index", "left_bound", "right_bound"))
def between(call: Call) -> Fn:
    source, left, right = (arg.run for arg in call.args)
    index = call.option("index")
    left_bound, right_bound = call.option("left_bound", "closed"), call.option("right_bound", "open")

    def narrow(env: Env) -> Stream:
        value = source(env)
        down = type(value) is Stream and type(value.source) is Rows and value.source.down
        table = ordered_table(value)
        check_primary(table, index(env))
        low = range_end(datum(left(env)), after=_is_open("left_bound", left_bound(env)))
        high = range_end(datum(right(env)), after=not _is_open("right_bound", right_bound(env)))
        return Stream(env.context, Rows(table, low, max(low, high), down))

    return narrow


def ordered_table(value: Any) -> Table:
    """As `whole_table`, for a table that may have been ordered by its primary key."""
    if type(value) is Stream and type(value.source) is Rows and value.source.down:
        return whole_table(Stream(value.context, Rows(value.source.table, value.source.low, value.source.high)))
    return whole_table(value)


def range_end(value: Any, after: bool) -> bytes:
    """Where a range of stored keys begins or ends: just before the key of `value`, or just after it."""
    if isinstance(value, Bound):
        return LOWEST_KEY if value.sign < 0 else HIGHEST_KEY
    if value is None:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` instead.")
    return encoded_key(value) + (b"\0" if after else b"")


def _is_open(option: str, value: Any) -> bool:
    if value not in ("open", "closed"):
        raise QueryError(ErrorType.QUERY_LOGIC, f'Expected `open` or `closed` for optarg `{option}` (got "{value}").')
    return bool(value == "open")


def positive(value: Any, name: str) -> int:
    """A whole number of elements, not negative."""
    if (count := whole(value)) < 0:
        raise QueryError(ErrorType.QUERY_LOGIC, f"{name} takes a non-negative argument (got {count})")
    return count
