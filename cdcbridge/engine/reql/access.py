"""Terms that name data: databases, tables, documents by key, ranges of keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cdcbridge.engine.catalog import SYSTEM_DATABASE, Table, selected
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.indexes import Index
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import (
    Env,
    NotData,
    Picked,
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
from cdcbridge.engine.reql.times import is_open
from cdcbridge.engine.selection import HIGHEST_KEY, LOWEST_KEY, Selection, span_of
from cdcbridge.engine.values import Bound, encoded_key, index_key, loads


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
        if not rows.ordered and not rows.is_slice:
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
    """The documents of some keys, for each key in turn, and again for one that is given twice."""
    source, *keys = [arg.run for arg in call.args]
    index = call.option("index")

    def fetch(env: Env) -> Stream:
        table = whole_table(source(env))
        return picked(env, table, find_index(env, table, index(env)), [datum(key(env)) for key in keys])

    return fetch


def picked(env: Env, table: Table, index: Index | None, keys: list[Any]) -> Stream:
    """The documents that have one of some keys, by the primary key or by an index."""
    spans = tuple(span_of(_wanted_key(index, key)) for key in keys)
    return Stream(env.context, Picked(Selection(table, index, spans)))


def _wanted_key(index: Index | None, value: Any) -> bytes:
    if index is None:
        return key_bytes(value)
    if value is None:
        raise QueryError(ErrorType.NON_EXISTENCE, "Keys cannot be NULL.")
    return index_key(value)


def find_index(env: Env, table: Table, name: Any) -> Index | None:
    """The secondary index of this name; None for the primary key, which is meant where there is no name.

    Raises:
        QueryError: there is no such index.
    """
    if name is None or expect("STRING", name) == table.primary_key:
        return None
    return env.context.catalog.index(table, name)


@term("BETWEEN", 3, options=("index", "left_bound", "right_bound"))
def between(call: Call) -> Fn:
    source, left, right = (arg.run for arg in call.args)
    index = call.option("index")
    left_bound, right_bound = call.option("left_bound", "closed"), call.option("right_bound", "open")

    def narrow(env: Env) -> Stream:
        value = source(env)
        table, ordered, down = _ordered(value)
        found = find_index(env, table, index(env))
        if ordered and found is not _index_of(value):
            raise _other_index("call between on", found, "ordering on", _index_of(value), table)
        low = range_end(found, datum(left(env)), after=is_open("left_bound", left_bound(env)))
        high = range_end(found, datum(right(env)), after=not is_open("right_bound", right_bound(env)))
        if found is None:
            return Stream(env.context, Rows(table, low, max(low, high), down, ordered, is_slice=True))
        return Stream(env.context, Picked(Selection(table, found, ((low, high),), down), ordered, is_slice=True))

    return narrow


def _ordered(value: Any) -> tuple[Table, bool, bool]:
    """The table that a value is all of, whether it was ordered by an index, and whether downwards.

    Raises:
        QueryError: it is something else, or a part of a table already.
    """
    source = value.source if type(value) is Stream and not value.steps else None
    if not isinstance(source, Rows | Picked) or not (source.ordered or source.is_slice):
        return whole_table(value), False, False
    if not source.is_slice:
        return source.table, True, source.selection.down if isinstance(source, Picked) else source.down
    raise QueryError(ErrorType.QUERY_LOGIC, "Cannot perform multiple BETWEENs on the same table.")


def ordered_by(env: Env, items: Stream, name: Any, down: bool) -> Stream:
    """A table, or a range of it, in the order of an index.

    Raises:
        QueryError: it is something else, or is in the order of another index, or there is no such index.
    """
    source = items.source
    if type(source) not in (Rows, Picked) or items.steps or (type(source) is Picked and source.is_keys):
        refuse_system_table(items)
        raise QueryError(ErrorType.QUERY_LOGIC, "Indexed order_by can only be performed on a TABLE or TABLE_SLICE.")
    assert isinstance(source, Rows | Picked)
    if source.ordered:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot perform multiple indexed ORDER_BYs on the same table.")
    found = find_index(env, source.table, name)
    if source.is_slice and found is not _index_of(items):
        raise _other_index("order by", found, "calling BETWEEN on", _index_of(items), source.table)
    return replace(items, source=_in_order(source, found, down))


def _in_order(source: Rows | Picked, index: Index | None, down: bool) -> Rows | Picked:
    if isinstance(source, Rows) and index is None:
        return replace(source, down=down, ordered=True)
    if isinstance(source, Rows):
        return Picked(Selection(source.table, index, down=down), ordered=True)
    return replace(source, selection=replace(source.selection, down=down), ordered=True)


def _index_of(value: Stream) -> Index | None:
    return value.source.selection.index if type(value.source) is Picked else None


def _other_index(deed: str, wanted: Index | None, after: str, is_by: Index | None, table: Table) -> QueryError:
    names = [index.name if index is not None else table.primary_key for index in (wanted, is_by)]
    return QueryError(ErrorType.QUERY_LOGIC, f"Cannot {deed} index `{names[0]}` after {after} index `{names[1]}`.")


def range_end(index: Index | None, value: Any, after: bool) -> bytes:
    """Where a range of stored keys begins or ends: just before the key of `value`, or just after it."""
    if isinstance(value, Bound):
        return LOWEST_KEY if value.sign < 0 else HIGHEST_KEY
    if value is None:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` instead.")
    return (encoded_key(value) if index is None else index_key(value)) + (b"\0" if after else b"")


def positive(value: Any, name: str) -> int:
    """A whole number of elements, not negative."""
    if (count := whole(value)) < 0:
        raise QueryError(ErrorType.QUERY_LOGIC, f"{name} takes a non-negative argument (got {count})")
    return count
