"""Terms over the bits of integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import and_, or_, xor
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import function
from cdcbridge.engine.reql.runtime import whole
from cdcbridge.engine.values import LARGEST_EXACT_INTEGER, number


def _integer(value: Any) -> int:
    """A number whose bits are all known.

    Raises:
        QueryError: it has a fraction, or is so large that doubles do not hold each integer.
    """
    if abs(whole_number := whole(value)) > LARGEST_EXACT_INTEGER:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Integer too large: {whole_number}")
    return whole_number


def _combination(name: str, combine: Callable[[int, int], int]) -> None:
    @function(name, 1, None)
    def combined(*values: Any) -> Any:
        return number(reduce(combine, map(_integer, values)))


_combination("BIT_AND", and_)
_combination("BIT_OR", or_)
_combination("BIT_XOR", xor)


@function("BIT_NOT", 1)
def bit_not(value: Any) -> Any:
    return number(~_integer(value))


@function("BIT_SAL", 1, None)
def shift_left(*values: Any) -> Any:
    """The first number times two, as often as each of the others says."""
    return number(reduce(_shifted_left, map(_integer, values)))


@function("BIT_SAR", 1, None)
def shift_right(*values: Any) -> Any:
    """The first number halved and rounded down, as often as each of the others says."""
    return number(reduce(lambda value, count: value >> min(_shift(count), 64), map(_integer, values)))


def _shifted_left(value: int, count: int) -> int:
    if _shift(count) > 1100:  # more than any double: not worth the memory
        raise QueryError(ErrorType.QUERY_LOGIC, "Integer too large: the result of a shift")
    return value << count


def _shift(count: int) -> int:
    if count < 0:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot bit-shift by a negative value.")
    return count
