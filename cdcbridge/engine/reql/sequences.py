"""Terms over sequences: transformations, slices, order, counting."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cdcbridge.engine.catalog import selected
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.access import check_primary, ordered_table, positive
from cdcbridge.engine.reql.arithmetic import truthy
from cdcbridge.engine.reql.control import called, instead
from cdcbridge.engine.reql.documents import element, field
from cdcbridge.engine.reql.registry import Call, Compiled, Fn, term
from cdcbridge.engine.reql.runtime import (
    HIGHEST_KEY,
    LOWEST_KEY,
    Env,
    FilterStep,
    FlattenStep,
    Items,
    MapStep,
    NotData,
    Rows,
    SliceStep,
    Stream,
    datum,
    expect,
    is_plain_object,
    sequence,
    whole,
)
from cdcbridge.engine.values import MINVAL, Ordered, compare


@term("MAP", 2, None)
def map_(call: Call) -> Fn:
    if len(call.args) > 2:
        raise QueryError(ErrorType.QUERY_LOGIC, "not supported yet: MAP over several sequences", call.path)
    source, change = call.args
    function = called(change)
    return lambda env: sequence(env, source.run(env)).then(MapStep(function(env), change.deterministic))


@term("CONCAT_MAP", 2)
def concat_map(call: Call) -> Fn:
    source, expand = call.args
    function = called(expand)

    def run(env: Env) -> Stream:
        each = function(env)
        return sequence(env, source.run(env)).then(FlattenStep(lambda value: sequence(env, each(value)).finite()))

    return run


@term("FILTER", 2, options=("default",))
def filter_(call: Call) -> Fn:
    """The elements for which a function holds, or that have the fields of an object; see `_predicate`."""
    source, test = call.args
    default = call.options.get("default")

    def run(env: Env) -> Stream:
        keep = _predicate(env, test)

        def keep_or_default(value: Any) -> bool:
            try:
                return keep(value)
            except QueryError as error:
                if error.type is not ErrorType.NON_EXISTENCE:
                    raise
                return default is not None and truthy(datum(instead(default, env, error)))

        return sequence(env, source.run(env)).then(FilterStep(keep_or_default, test.deterministic))

    return run


def _predicate(env: Env, test: Compiled) -> Callable[[Any], bool]:
    """A function's truth, an object's fields, or a plain value's own truth."""
    if test.arity is not None:
        function = called(test)(env)
        return lambda value: truthy(function(value))
    pattern = datum(test.run(env))
    if is_plain_object(pattern):
        return lambda value: _matches(datum(value), pattern)
    return lambda value: truthy(pattern)


def _matches(value: Any, pattern: dict[str, Any]) -> bool:
    for name, wanted in pattern.items():
        found = field(value, name)
        if is_plain_object(wanted) and is_plain_object(found):
            if not _matches(found, wanted):
                return False
        elif compare(found, wanted) != 0:
            return False
    return True


# Parts ---------------------------------------------------------------------------------------------------------------


@term("LIMIT", 2)
def limit(call: Call) -> Fn:
    source, count = (arg.run for arg in call.args)
    return lambda env: sequence(env, source(env)).then_first(positive(datum(count(env)), "LIMIT"))


@term("SKIP", 2)
def skip(call: Call) -> Fn:
    source, count = (arg.run for arg in call.args)
    return lambda env: sequence(env, source(env)).then(SliceStep(positive(datum(count(env)), "SKIP"), None))


@term("SLICE", 2, 3, options=("left_bound", "right_bound"))
def slice_(call: Call) -> Fn:
    source, *ends = [arg.run for arg in call.args]
    left, right = call.option("left_bound", "closed"), call.option("right_bound", "open")

    def run(env: Env) -> Stream:
        start, end = (*(whole(datum(end(env))) for end in ends), None)[:2]
        assert start is not None
        start += left(env) == "open"
        end = end + (right(env) == "closed") if end is not None else None
        items = sequence(env, source(env))
        if start >= 0 and (end is None or end >= 0):
            return items.then(SliceStep(start, end))
        return Stream(env.context, Items(items.collected()[start:end], items.table), array=True)

    return run


@term("NTH", 2)
def nth(call: Call) -> Fn:
    source, position = (arg.run for arg in call.args)
    return lambda env: element(sequence(env, source(env)), whole(datum(position(env))))


@term("SAMPLE", 2, deterministic=False)
def sample(call: Call) -> Fn:
    """So many elements at random, each at most once; all of them if there are no more."""
    source, count = (arg.run for arg in call.args)

    def run(env: Env) -> Stream:
        items, wanted = sequence(env, source(env)), positive(datum(count(env)), "SAMPLE")
        return Stream(env.context, Items(_reservoir(items, wanted), items.table), array=True)

    return run


def _reservoir(items: Stream, wanted: int) -> list[Any]:
    """A fair sample in one pass, without holding the rest."""
    chosen: list[Any] = []
    for seen, value in enumerate(items.finite(), start=1):
        if len(chosen) < wanted:
            chosen.append(value)
        elif (position := random.randrange(seen)) < wanted:
            chosen[position] = value
    random.shuffle(chosen)
    return chosen


# Counting ------------------------------------------------------------------------------------------------------------


@term("COUNT", 1, 2)
def count(call: Call) -> Fn:
    """How many elements there are; or how many equal a value, or fulfil a function."""
    source, *which = call.args

    def run(env: Env) -> int:
        value = source.run(env)
        if type(value) is str or is_plain_object(value):
            return len(value)
        items = sequence(env, value)
        if which:
            items = items.then(FilterStep(_counted(env, which[0])))
        elif _is_whole_table(items):
            table = ordered_table(items)
            ((rows,),) = selected(env.context.connection, table, table.count_sql)
            return int(rows)
        return sum(1 for _ in items.finite())

    return run


def _is_whole_table(items: Stream) -> bool:
    rows = items.source
    return not items.steps and type(rows) is Rows and (rows.low, rows.high) == (LOWEST_KEY, HIGHEST_KEY)


def _counted(env: Env, which: Compiled) -> Callable[[Any], bool]:
    if which.arity is not None:
        return _predicate(env, which)
    wanted = datum(which.run(env))
    return lambda value: compare(datum(value), wanted) == 0


@term("IS_EMPTY", 1)
def is_empty(call: Call) -> Fn:
    source = call.args[0].run
    return lambda env: not any(True for _ in sequence(env, source(env)).then_first(1).finite())


# Order ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direction(NotData):
    """What `r.asc` and `r.desc` give: a key, and which way."""

    kind = "ORDERING"
    key: Any
    down: bool


@term("ASC", 1)
def ascending(call: Call) -> Fn:
    key = call.args[0].run
    return lambda env: Direction(key(env), down=False)


@term("DESC", 1)
def descending(call: Call) -> Fn:
    key = call.args[0].run
    return lambda env: Direction(key(env), down=True)


@term("ORDER_BY", 1, None, options=("index",))
def order_by(call: Call) -> Fn:
    """By fields or functions, the first one first; by the primary key as `index`, which needs no sorting."""
    source, *keys = call.args
    index = call.options.get("index")
    if not keys and index is None:
        raise QueryError(ErrorType.QUERY_LOGIC, "Must specify something to order by.", call.path)

    def run(env: Env) -> Stream:
        items = sequence(env, source.run(env))
        if index is not None:
            items = _by_primary_key(items, index.run(env))
        return _sorted(items, [key.run(env) for key in keys]) if keys else items

    return run


def _by_primary_key(items: Stream, index: Any) -> Stream:
    wanted = index if type(index) is Direction else Direction(index, down=False)
    table = items.source.table
    if table is None or type(items.source) is not Rows or items.steps:
        raise QueryError(ErrorType.QUERY_LOGIC, "Indexed order_by can only be performed on a TABLE or TABLE_SLICE.")
    check_primary(table, datum(wanted.key))
    return replace(items, source=replace(items.source, down=wanted.down))


def _sorted(items: Stream, keys: list[Any]) -> Stream:
    """An array in order; elements that lack a field come first, equal ones stay as they were."""
    values = items.collected()
    for key in reversed(keys):
        wanted = key if type(key) is Direction else Direction(key, down=False)
        getter = _getter(wanted.key)
        values.sort(key=lambda value: Ordered(getter(value)), reverse=wanted.down)
    return Stream(items.context, Items(values, items.table), array=True)


def _getter(key: Any) -> Callable[[Any], Any]:
    read = key if callable(key) else _field_reader(expect("STRING", key))

    def get(value: Any) -> Any:
        try:
            return datum(read(value))
        except QueryError as error:
            if error.type is not ErrorType.NON_EXISTENCE:
                raise
            return MINVAL

    return get


def _field_reader(name: str) -> Callable[[Any], Any]:
    return lambda value: field(value, name)
