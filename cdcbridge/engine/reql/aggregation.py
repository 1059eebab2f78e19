"""Terms that make one value of a sequence, and `group`, after which they make one of each group."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import cmp_to_key
from itertools import product
from typing import Any

from cdcbridge.engine.catalog import Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.indexes import Index
from cdcbridge.engine.reql.access import find_index, whole_table
from cdcbridge.engine.reql.control import called
from cdcbridge.engine.reql.documents import field
from cdcbridge.engine.reql.registry import Call, Compiled, Fn, term
from cdcbridge.engine.reql.runtime import (
    Env,
    Grouped,
    Items,
    Packed,
    ScanStep,
    Stream,
    array_limit_exceeded,
    datum,
    expect,
    kind_of,
    sequence,
)
from cdcbridge.engine.selection import Selection
from cdcbridge.engine.values import compare, dumps, identity, loads, number

by_value = cmp_to_key(compare)

_NOTHING: Any = object()

Reader = Callable[[Any], Any]


def reader(env: Env, which: Compiled) -> Reader:
    """What a term looks at in each element: a field by its name, or a function's result."""
    if which.arity is not None:
        return called(which)(env)
    name = datum(which.run(env))
    if callable(name):  # a function that came by way of a variable
        return lambda value: datum(name(value))
    return _field_reader(expect("STRING", name))


def _field_reader(name: str) -> Reader:
    return lambda value: field(datum(value), name)


def present(read: Reader, values: Iterable[Any]) -> Iterator[Any]:
    """What there is to look at; elements without it are passed over."""
    for value in values:
        try:
            yield read(value)
        except QueryError as error:
            if error.type is not ErrorType.NON_EXISTENCE:
                raise


def _empty(message: str) -> QueryError:
    return QueryError(ErrorType.NON_EXISTENCE, message)


# Reductions ----------------------------------------------------------------------------------------------------------


@term("REDUCE", 2)
def reduce_(call: Call) -> Fn:
    """Two elements made into one, until one is left."""
    source, combine = call.args
    function = called(combine)

    def run(env: Env) -> Any:
        values = sequence(env, source.run(env)).finite()
        if (first := next(values, _NOTHING)) is _NOTHING:
            raise _empty("Cannot reduce over an empty stream.")
        return datum(_folded(values, first, function(env)))

    return run


@term("FOLD", 3, options=("emit", "final_emit"))
def fold(call: Call) -> Fn:
    """One value carried through a sequence; with `emit`, a sequence of what that function gives at each element."""
    source, base, combine = call.args
    function, emit, last = called(combine), call.options.get("emit"), call.options.get("final_emit")
    if last is not None and emit is None:
        raise QueryError(ErrorType.QUERY_LOGIC, "The `final_emit` optarg of `fold` needs an `emit` one.", call.path)

    def run(env: Env) -> Any:
        items, start = sequence(env, source.run(env)), datum(base.run(env))
        if emit is None:
            return _folded(items.finite(), start, function(env))
        given = called(emit)(env)
        at_end = called(last)(env) if last is not None else None
        return items.then(
            ScanStep(
                start,
                function(env),
                lambda before, value, after: expect("ARRAY", given(before, value, after)),
                lambda carried: [] if at_end is None else expect("ARRAY", at_end(carried)),
            )
        )

    return run


def _folded(values: Iterable[Any], carried: Any, combine: Callable[..., Any]) -> Any:
    for value in values:
        carried = combine(carried, value)
    return carried


def _numbers(env: Env, call: Call) -> array[float]:
    """The numbers that `sum` and `avg` are about: the elements, or what a field or a function gives of them."""
    source, *which = call.args
    values = map(datum, sequence(env, source.run(env)).finite())
    found = present(reader(env, which[0]), values) if which else values
    return array("d", (expect("NUMBER", value) for value in found))


@term("SUM", 1, 2)
def sum_(call: Call) -> Fn:
    """The sum; 0 of nothing."""
    return lambda env: _total(_numbers(env, call))


def _total(values: array[float]) -> Any:
    try:
        return number(math.fsum(values))
    except OverflowError:
        raise QueryError(ErrorType.QUERY_LOGIC, "Non-finite number: inf") from None


@term("AVG", 1, 2)
def average(call: Call) -> Fn:
    def run(env: Env) -> Any:
        if not (values := _numbers(env, call)):
            raise _empty(
                "Cannot take the average of an empty stream.  (If you passed `avg` a field name, it may be that no "
                "elements of the stream had that field.)"
            )
        return number(_total(values) / len(values))

    return run


@term("DISTINCT", 1, options=("index",))
def distinct(call: Call) -> Fn:
    """Each value once, in order; with an index, the values that it has."""
    source, index = call.args[0].run, call.option("index")

    def run(env: Env) -> Any:
        value, name = source(env), index(env)
        items = sequence(env, value)
        if name is not None:
            table = whole_table(value)
            return Stream(env.context, Items(_each_in_order(_indexed(env, table, find_index(env, table, name)))))
        return sorted(_each_once(items), key=by_value)

    return run


def _indexed(env: Env, table: Table, index: Index | None) -> Iterator[Any]:
    """The values that an index has, in its order."""
    for (*_, entry), doc in Selection(table, index).read(env.context.connection):
        document = loads(doc)
        yield document[table.primary_key] if index is None else index.values(document)[entry]


def _each_in_order(values: Iterable[Any]) -> Iterator[Any]:
    """Each value once; equal ones come one after the other."""
    before: Any = _NOTHING
    for value in values:
        if before is _NOTHING or compare(before, value) != 0:
            yield value
        before = value


def _each_once(items: Stream) -> list[Any]:
    first: dict[bytes, Any] = {}
    limit = items.context.settings.array_limit
    for value in map(datum, items.finite()):
        first.setdefault(identity(value), value)
        if len(first) > limit:
            raise array_limit_exceeded(limit)
    return list(first.values())


# Groups --------------------------------------------------------------------------------------------------------------


@term("GROUP", 1, None, options=("index", "multi"), grouping="makes")
def group(call: Call) -> Fn:
    """The elements by what fields or functions give of them: one such value, or an array where there are several.

    An element without it is in the group null. `multi`: what they give is an array, and the element is in a group for
    each value in there. `index`: by the value that an index has.
    """
    source, *keys = call.args
    index, multi = call.option("index"), call.option("multi", False)
    if not keys and "index" not in call.options:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot group by nothing.", call.path)

    def run(env: Env) -> Grouped:
        value = source.run(env)
        is_multi = bool(multi(env))
        readers = [_choices(reader(env, key), is_multi) for key in keys]
        if (name := index(env)) is not None:
            table = whole_table(value)
            readers.append(_index_choices(table, find_index(env, table, name)))
        return _groups(sequence(env, value), readers)

    return run


def _groups(items: Stream, readers: list[Choices]) -> Grouped:
    groups: dict[bytes, tuple[Any, list[bytes]]] = {}
    limit = items.context.settings.array_limit
    for value in map(datum, items.finite()):
        element = dumps(value)
        for key in _keys(value, readers, limit):
            groups.setdefault(identity(key), (key, []))[1].append(element)
        if len(groups) > limit:
            raise _too_many(limit)
    pairs = sorted(groups.values(), key=lambda pair: by_value(pair[0]))
    return Grouped([(key, Stream(items.context, Packed(elements))) for key, elements in pairs])


def _too_many(limit: int) -> QueryError:
    return QueryError(ErrorType.RESOURCE_LIMIT, f"Too many groups (> {limit}).")


Choices = Callable[[Any], list[Any]]
"""The values of an element by each of which it is in a group."""


def _choices(read: Reader, multi: bool) -> Choices:
    def choose(value: Any) -> list[Any]:
        found = _or_null(read, value)
        return found if multi and type(found) is list else [found]

    return choose


def _index_choices(table: Table, index: Index | None) -> Choices:
    """The values that an index has; an element that is not in the index is in no group."""
    if index is None:
        return lambda value: [value[table.primary_key]]
    return lambda value: list(index.values(value).values())


def _keys(value: Any, readers: list[Choices], limit: int) -> Iterable[Any]:
    """The groups that an element is in, each once."""
    choices = [choose(value) for choose in readers]
    if math.prod(map(len, choices)) > limit:  # before it takes the time
        raise _too_many(limit)
    combined = product(*choices)
    keys = (choice[0] if len(readers) == 1 else [*choice] for choice in combined)
    return {identity(key): key for key in keys}.values()


def _or_null(read: Reader, value: Any) -> Any:
    for found in present(read, (value,)):
        return found
    return None


@term("UNGROUP", 1, grouping="ends")
def ungroup(call: Call) -> Fn:
    """Groups as an array of objects: `group`, and `reduction` for what was made of it."""
    source = call.args[0].run

    def run(env: Env) -> Stream:
        value = source(env)
        if type(value) is not Grouped:
            raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type GROUPED_DATA but found {kind_of(value)}.")
        items = [{"group": key, "reduction": reduction} for key, reduction in value.data()]
        return Stream(env.context, Items(items), array=True)

    return run
