"""Terms over sequences: transformations, slices, order, counting."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cdcbridge.engine.catalog import selected
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.access import ordered_by, positive
from cdcbridge.engine.reql.arithmetic import truthy
from cdcbridge.engine.reql.control import called, instead
from cdcbridge.engine.reql.convert import binary_value
from cdcbridge.engine.reql.documents import element, field, has_fields, pluck
from cdcbridge.engine.reql.registry import Call, Compiled, Fn, term
from cdcbridge.engine.reql.runtime import (
    Env,
    FilterStep,
    FlattenStep,
    Items,
    Joined,
    Made,
    MapStep,
    NotData,
    Numbers,
    Row,
    Rows,
    SliceStep,
    Stream,
    datum,
    expect,
    is_plain_object,
    kind_of,
    sequence,
    whole,
)
from cdcbridge.engine.reql.times import is_open
from cdcbridge.engine.values import MINVAL, Ordered, binary_bytes, compare


@term("MAP", 2, None)
def map_(call: Call) -> Fn:
    """Each element replaced; of several sequences, their first elements together, then their second ones, and so on."""
    *sources, change = call.args
    function, deterministic = called(change), change.deterministic
    _check_map(call)
    if len(sources) == 1:
        source = sources[0].run
        return lambda env: sequence(env, source(env)).then(MapStep(function(env), deterministic))
    return lambda env: _together(env, [source.run(env) for source in sources], function(env))


def _check_map(call: Call) -> None:
    change, sources = call.args[-1], len(call.args) - 1
    if change.arity is None or change.arity == sources:
        return
    takes = f"{change.arity} argument{'' if change.arity == 1 else 's'}"
    found = f"{sources} sequence{' was' if sources == 1 else 's were'} found."
    raise QueryError(ErrorType.QUERY_LOGIC, f"The function passed to `map` expects {takes}, but {found}", call.path)


def _together(env: Env, values: list[Any], change: Callable[..., Any]) -> Stream:
    """Up to the end of the shortest sequence."""
    sequences = [sequence(env, value) for value in values]

    def elements() -> Iterator[Any]:
        readers = [each.one_by_one() for each in sequences]
        return (change(*each) for each in zip(*readers, strict=False))

    return Stream(env.context, Items(Made(elements)), array=all(each.array for each in sequences))


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


@term("WITH_FIELDS", 1, None)
def with_fields(call: Call) -> Fn:
    """The elements that have some fields, each with these fields alone."""
    source, *patterns = [arg.run for arg in call.args]

    def run(env: Env) -> Stream:
        wanted = [datum(pattern(env)) for pattern in patterns]
        having = FilterStep(lambda each: has_fields(expect("OBJECT", datum(each)), wanted))
        return sequence(env, source(env)).then(having).then(MapStep(lambda each: pluck(datum(each), wanted)))

    return run


@term("RANGE", 0, 2)
def range_(call: Call) -> Fn:
    """Integers: all from 0, those below a number, or those from one number up to another."""
    runs = [arg.run for arg in call.args]

    def run(env: Env) -> Stream:
        ends = [whole(datum(each(env))) for each in runs]
        start, end = (0, *ends)[-2:] if ends else (0, None)
        return Stream(env.context, Numbers(start, end))

    return run


@term("UNION", 0, None, options=("interleave",))
def union(call: Call) -> Fn:
    """One sequence after the other; `interleave` by a field or functions merges sequences that are in that order."""
    runs = [arg.run for arg in call.args]
    interleave = call.options.get("interleave")

    def run(env: Env) -> Stream:
        values = [each(env) for each in runs]
        if interleave is None and any(
            type(each) is Row or (type(each) is Stream and not each.array) for each in values
        ):
            return Stream(env.context, Joined(tuple(_part(env, value) for value in values)))
        parts = [sequence(env, value) for value in values]
        keys = None if interleave is None else _interleaving(env, interleave)

        def elements() -> Iterator[Any]:
            readers = [part.one_by_one() for part in parts]
            return chain.from_iterable(readers) if keys is None else _merged(readers, keys)

        return Stream(env.context, Items(Made(elements)), array=all(part.array for part in parts))

    return run


def _part(env: Env, value: Any) -> Stream | Row:
    return value if type(value) is Row else sequence(env, value)


def _interleaving(env: Env, option: Compiled) -> list[Any] | None:
    """The keys to merge by, as `order_by` has them; None if any order will do."""
    if option.parts:
        return [part.run(env) for part in option.parts]
    value = option.run(env)
    if type(value) is bool:
        return None
    return value if type(value) is list else [value]


def _merged(readers: list[Iterator[Any]], keys: list[Any]) -> Iterator[Any]:
    """Sequences that are in order, merged into one that is."""
    directions = [key if type(key) is Direction else Direction(key, down=False) for key in keys]
    getters = [(getter(each.key), each.down) for each in directions]
    return heapq.merge(*readers, key=lambda value: _SortKey([(get(value), down) for get, down in getters]))


class _SortKey:
    """Several values, each of which may count the other way round."""

    __slots__ = ("values",)

    def __init__(self, values: list[tuple[Any, bool]]) -> None:
        self.values = values

    def __lt__(self, other: _SortKey) -> bool:
        for (mine, down), (theirs, _) in zip(self.values, other.values, strict=True):
            if order := compare(mine, theirs):
                return order > 0 if down else order < 0
        return False


@term("SLICE", 2, 3, options=("left_bound", "right_bound"))
def slice_(call: Call) -> Fn:
    """From one position up to another; of a sequence, a string, or binary data. Negative ones count from the end."""
    source, *ends = [arg.run for arg in call.args]
    left, right = call.option("left_bound", "closed"), call.option("right_bound", "open")

    def run(env: Env) -> Any:
        start, end = (*(whole(datum(end(env))) for end in ends), None)[:2]
        assert start is not None
        start = _after(start, is_open("left_bound", left(env)))
        end = None if end is None else _after(end, not is_open("right_bound", right(env)))
        return _slice_of(env, source(env), start, end)

    return run


def _after(position: int, is_after: bool) -> int | None:
    """The position, or the next one; None for the one behind the last, counted from the end."""
    return (position + 1 or None) if is_after else position


def _slice_of(env: Env, value: Any, start: int | None, end: int | None) -> Any:
    if type(value) is str:
        return value[_begin(start, len(value)) : end]
    if kind_of(value) == "PTYPE<BINARY>":
        data = binary_bytes(value)
        return binary_value(data[_begin(start, len(data)) : end])
    items = sequence(env, value)
    if start is not None and start >= 0 and (end is None or end >= 0):
        return items.then(SliceStep(start, end))
    values = items.collected()
    return Stream(env.context, Items(values[_begin(start, len(values)) : end], items.table), array=True)


def _begin(start: int | None, size: int) -> int:
    return size if start is None else start


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
        if kind_of(value) == "PTYPE<BINARY>":
            return len(binary_bytes(value))
        items = sequence(env, value)
        if which:
            items = items.then(FilterStep(predicate(env, which[0])))
        elif _is_whole_table(items):
            table = items.source.table
            assert table is not None
            ((rows,),) = selected(env.context.connection, table, table.count_sql)
            return int(rows)
        return sum(1 for _ in items.finite())

    return run


def _is_whole_table(items: Stream) -> bool:
    rows = items.source
    return not items.steps and type(rows) is Rows and not rows.is_slice


def predicate(env: Env, which: Compiled) -> Callable[[Any], bool]:
    """Whether an element fulfils a function, or equals a value."""
    if which.arity is not None:
        return _predicate(env, which)
    wanted = datum(which.run(env))
    return lambda value: compare(datum(value), wanted) == 0


@term("IS_EMPTY", 1)
def is_empty(call: Call) -> Fn:
    """Whether there are no elements; of a changefeed there always will be."""
    source = call.args[0].run

    def run(env: Env) -> bool:
        items = sequence(env, source(env))
        return not items.is_feed and not any(True for _ in items.then_first(1).finite())

    return run


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
    """By fields or functions, the first one first; by an `index`, which needs no sorting."""
    source, *keys = call.args
    index = call.options.get("index")
    if not keys and index is None:
        raise QueryError(ErrorType.QUERY_LOGIC, "Must specify something to order by.", call.path)

    def run(env: Env) -> Stream:
        items = sequence(env, source.run(env))
        if index is not None:
            items = _by_index(env, items, index.run(env))
        return _sorted(items, [key.run(env) for key in keys]) if keys else items

    return run


def _by_index(env: Env, items: Stream, index: Any) -> Stream:
    wanted = index if type(index) is Direction else Direction(index, down=False)
    return ordered_by(env, items, datum(wanted.key), wanted.down)


def _sorted(items: Stream, keys: list[Any]) -> Stream:
    """An array in order; elements that lack a field come first, equal ones stay as they were."""
    values = items.collected()
    for key in reversed(keys):
        wanted = key if type(key) is Direction else Direction(key, down=False)
        read = getter(wanted.key)
        values.sort(key=lambda value: Ordered(read(value)), reverse=wanted.down)
    return Stream(items.context, Items(values, items.table), array=True)


def getter(key: Any) -> Callable[[Any], Any]:
    """What to order an element by: a field or a function's result; below everything where there is none."""
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
