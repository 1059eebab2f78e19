"""Terms that pick one element by its order: `min` and `max`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.access import ordered_by, whole_table
from cdcbridge.engine.reql.aggregation import reader
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import Env, Row, SliceStep, Stream, datum, expect, sequence
from cdcbridge.engine.values import compare


@term("MIN", 1, 2, options=("index",))
def min_(call: Call) -> Fn:
    """The smallest element; by a field, a function or an index."""
    return _extreme(call, -1)


@term("MAX", 1, 2, options=("index",))
def max_(call: Call) -> Fn:
    """The largest element; by a field, a function or an index."""
    return _extreme(call, 1)


def _extreme(call: Call, sign: int) -> Fn:
    source, *by = call.args
    index = call.options.get("index")
    if by and index is not None:
        message = f"Cannot provide both a function and an index to {call.name.lower()}."
        raise QueryError(ErrorType.QUERY_LOGIC, message, call.path)

    def run(env: Env) -> Any:
        items = sequence(env, source.run(env))
        if index is not None:
            return _end_of_index(env, items, expect("STRING", datum(index.run(env))), call.name, sign > 0)
        read = reader(env, by[0]) if by else datum
        return _end(items, read, call.name, sign)

    return run


def _end_of_index(env: Env, items: Stream, name: str, term_name: str, down: bool) -> Row:
    """The row at one end of an index, which a feed can watch."""
    table = whole_table(items) if items.table is None else items.table
    limited = ordered_by(env, items, name, down).then(SliceStep(0, 1))

    def find() -> Any:
        for value in limited.finite():
            return value
        raise _empty(term_name)

    return Row.first_of(limited, table, find)


def _end(items: Stream, read: Callable[[Any], Any], name: str, sign: int) -> Any:
    best: tuple[Any, Any] | None = None
    for value in items.finite():
        try:
            key = read(value)
        except QueryError as error:
            if error.type is not ErrorType.NON_EXISTENCE:
                raise
            continue
        if best is None or compare(key, best[0]) == sign:
            best = key, value
    if best is None:
        raise _empty(name)
    value = datum(best[1])
    return value if items.table is None else Row(items.table, value[items.table.primary_key], value)


def _empty(name: str) -> QueryError:
    name = name.lower()
    message = (
        f"Cannot take the {name} of an empty stream.  (If you passed `{name}` a field name, it may be that no elements "
        "of the stream had that field.)"
    )
    return QueryError(ErrorType.NON_EXISTENCE, message)
