"""Terms over arrays: putting elements in and taking them out; arrays as sets.

Arrays are never changed in place: a document may hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import Call, Fn, function, term
from cdcbridge.engine.reql.runtime import Env, expect, sequence, whole, within_limit
from cdcbridge.engine.reql.sequences import predicate
from cdcbridge.engine.values import identity


def _array(value: Any) -> list[Any]:
    items: list[Any] = expect("ARRAY", value)
    return items


# Elements in and out -------------------------------------------------------------------------------------------------


@function("APPEND", 2, grows=True)
def append(items: Any, value: Any) -> list[Any]:
    return [*_array(items), value]


@function("PREPEND", 2, grows=True)
def prepend(items: Any, value: Any) -> list[Any]:
    return [value, *_array(items)]


@function("INSERT_AT", 3, grows=True)
def insert_at(items: Any, position: Any, value: Any) -> list[Any]:
    """With `value` before the element at a position; -1 is behind the last one."""
    at = _gap(_array(items), position)
    return [*items[:at], value, *items[at:]]


@function("SPLICE_AT", 3, grows=True)
def splice_at(items: Any, position: Any, values: Any) -> list[Any]:
    """As `insert_at`, with all elements of an array."""
    at = _gap(_array(items), position)
    return [*items[:at], *_array(values), *items[at:]]


@function("CHANGE_AT", 3)
def change_at(items: Any, position: Any, value: Any) -> list[Any]:
    at = _position(len(_array(items)), position)
    return [*items[:at], value, *items[at + 1 :]]


@function("DELETE_AT", 2, 3)
def delete_at(items: Any, position: Any, end: Any = None) -> list[Any]:
    """Without one element; with two positions, without those from the first up to the second."""
    size = len(_array(items))
    if end is None:
        start = _position(size, position)
        stop = start + 1
    else:
        start, stop = _edge(size, position), _edge(size, end)
    if start > stop:
        message = f"Start index `{start}` is greater than end index `{stop}`."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    return [*items[:start], *items[stop:]]


def _position(size: int, position: Any) -> int:
    """Where an element is, counted from the start; a negative position counts from the end."""
    at = whole(position)
    return _within(at, at if at >= 0 else at + size, 0, size - 1, size)


def _edge(size: int, position: Any) -> int:
    """As `_position`, where the end of the array is a position too."""
    at = whole(position)
    return _within(at, at if at >= 0 else at + size, 0, size, size)


def _gap(items: list[Any], position: Any) -> int:
    """Where something can be put between elements; -1 is the end."""
    at = whole(position)
    return _within(at, at if at >= 0 else at + len(items) + 1, 0, len(items), len(items))


def _within(given: int, at: int, least: int, most: int, size: int) -> int:
    if least <= at <= most:
        return at
    message = f"Index `{given}` out of bounds for array of size: `{size}`."
    raise QueryError(ErrorType.NON_EXISTENCE, message)


@function("DIFFERENCE", 2)
def difference(items: Any, others: Any) -> list[Any]:
    """The elements that are not in another array, each as often as it was."""
    unwanted = {identity(each) for each in _array(others)}
    return [each for each in _array(items) if identity(each) not in unwanted]


@term("OFFSETS_OF", 2)
def offsets_of(call: Call) -> Fn:
    """The positions of a value, or of what fulfils a function."""
    source, which = call.args

    def run(env: Env) -> list[int]:
        wanted = predicate(env, which)
        items = sequence(env, source.run(env)).finite()
        positions = [position for position, value in enumerate(items) if wanted(value)]
        return list(within_limit(env, positions))

    return run


@term("CONTAINS", 1, None)
def contains(call: Call) -> Fn:
    """Whether every one of some values is there, and something for every function among them."""
    source, *wanted = call.args

    def run(env: Env) -> bool:
        missing = [predicate(env, each) for each in wanted]
        for value in sequence(env, source.run(env)).finite():
            if not missing:
                break
            missing = [holds for holds in missing if not holds(value)]
        return not missing

    return run


# Sets ----------------------------------------------------------------------------------------------------------------


def unique(values: Iterable[Any]) -> list[Any]:
    """The first of each group of equal values, in their order."""
    first: dict[bytes, Any] = {}
    for value in values:
        first.setdefault(identity(value), value)
    return list(first.values())


@function("SET_INSERT", 2, grows=True)
def set_insert(items: Any, value: Any) -> list[Any]:
    return unique([*_array(items), value])


@function("SET_UNION", 2, grows=True)
def set_union(items: Any, others: Any) -> list[Any]:
    return unique([*_array(items), *_array(others)])


@function("SET_INTERSECTION", 2)
def set_intersection(items: Any, others: Any) -> list[Any]:
    return _common(_array(others), _array(items), lambda there: there)


@function("SET_DIFFERENCE", 2)
def set_difference(items: Any, others: Any) -> list[Any]:
    return _common(_array(items), _array(others), lambda there: not there)


def _common(items: list[Any], others: list[Any], wanted: Callable[[bool], bool]) -> list[Any]:
    there = {identity(each) for each in others}
    return [each for each in unique(items) if wanted(identity(each) in there)]
