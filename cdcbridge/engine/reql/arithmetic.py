"""Comparison, logic and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql import times
from cdcbridge.engine.reql.registry import Call, Fn, function, term
from cdcbridge.engine.reql.runtime import Env, array_limit_exceeded, datum, expect, kind_of, whole
from cdcbridge.engine.values import ARRAY_LIMIT, HIGHEST_ARRAY_LIMIT, compare, number


def truthy(value: Any) -> bool:
    """Everything but false and null."""
    return value is not None and value is not False


def _comparison(name: str, holds: Callable[[int], bool]) -> None:
    """A comparison of two or more values, each with the next."""

    @function(name, 1, None)
    def compared(*values: Any) -> bool:
        return all(holds(compare(left, right)) for left, right in pairwise(values))


_comparison("EQ", lambda order: order == 0)
_comparison("LT", lambda order: order < 0)
_comparison("LE", lambda order: order <= 0)
_comparison("GT", lambda order: order > 0)
_comparison("GE", lambda order: order >= 0)


@function("NE", 1, None)
def not_equal(*values: Any) -> bool:
    return not all(compare(left, right) == 0 for left, right in pairwise(values))


@function("NOT", 1)
def negation(value: Any) -> bool:
    return not truthy(value)


@term("AND", 0, None)
def conjunction(call: Call) -> Fn:
    """The first argument that is false or null, or the last; the rest is not looked at."""
    return _first(call, stop=lambda value: not truthy(value), empty=True)


@term("OR", 0, None)
def disjunction(call: Call) -> Fn:
    """The first argument that is neither false nor null, or the last; the rest is not looked at."""
    return _first(call, stop=truthy, empty=False)


def _first(call: Call, stop: Callable[[Any], bool], empty: bool) -> Fn:
    runs = [arg.run for arg in call.args]

    def run(env: Env) -> Any:
        value: Any = empty
        for each in runs:
            if stop(value := datum(each(env))):
                break
        return value

    return run


@function("ADD", 1, None, grows=True)
def add(first: Any, *rest: Any) -> Any:
    """The sum of numbers, or strings or arrays one after the other; a time so many seconds later."""
    if any(type(value) is dict for value in (first, *rest)):
        return reduce(_later, rest, first)
    match kind_of(first):
        case "STRING":
            return "".join([first, *(expect("STRING", value) for value in rest)])
        case "ARRAY":
            return sum((expect("ARRAY", value) for value in rest), list(first))
        case _:
            return _folded(lambda left, right: left + right, first, rest)


def _later(left: Any, right: Any) -> Any:
    """A sum where at least one of all summands is a time."""
    if times.TIME in (kind_of(left), kind_of(right)):
        return times.added(left, right)
    return _folded(lambda one, other: one + other, left, (right,))


@function("SUB", 1, None)
def subtract(first: Any, *rest: Any) -> Any:
    """The difference of numbers; the seconds between two times; a time so many seconds earlier."""
    if kind_of(first) == times.TIME:
        return reduce(_earlier, rest, first)
    return _folded(lambda left, right: left - right, first, rest)


def _earlier(left: Any, right: Any) -> Any:
    return times.subtracted(left, right) if kind_of(left) == times.TIME else left - expect("NUMBER", right)


@function("MUL", 1, None, grows=True)
def multiply(first: Any, *rest: Any) -> Any:
    """The product of numbers; an array times a number is that array so many times over."""
    if len(rest) == 1 and "ARRAY" in (kind_of(first), kind_of(rest[0])):
        items, times = (first, rest[0]) if kind_of(first) == "ARRAY" else (rest[0], first)
        return _repeated(expect("ARRAY", items), _repetitions(times))
    return _folded(lambda left, right: left * right, first, rest)


def _repeated(items: list[Any], times: int) -> list[Any]:
    if len(items) * times > HIGHEST_ARRAY_LIMIT:  # before it takes the memory
        raise array_limit_exceeded(ARRAY_LIMIT)
    return items * times


def _repetitions(value: Any) -> int:
    if (times := whole(value)) < 0:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot multiply an ARRAY by a negative number.")
    return times


@function("DIV", 1, None)
def divide(first: Any, *rest: Any) -> Any:
    return _folded(_quotient, first, rest)


def _quotient(left: Any, right: Any) -> Any:
    if right == 0:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot divide by zero.")
    return left / right


@function("MOD", 2)
def modulo(left: Any, right: Any) -> int:
    """The remainder, with the sign of the dividend."""
    divisor = whole(right)
    if divisor == 0:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot take a number modulo 0.")
    return int(math.fmod(whole(left), divisor))


def _folded(step: Callable[[Any, Any], Any], first: Any, rest: tuple[Any, ...]) -> Any:
    values = [expect("NUMBER", value) for value in (first, *rest)]
    try:
        return number(reduce(step, values))
    except OverflowError:
        raise QueryError(ErrorType.QUERY_LOGIC, "Non-finite number: inf") from None


@function("FLOOR", 1)
def floor(value: Any) -> Any:
    return number(math.floor(expect("NUMBER", value)))


@function("CEIL", 1)
def ceil(value: Any) -> Any:
    return number(math.ceil(expect("NUMBER", value)))


@function("ROUND", 1)
def rounded(value: Any) -> Any:
    """To the nearest integer, halves away from zero."""
    return number(math.copysign(math.floor(abs(expect("NUMBER", value)) + 0.5), value))
