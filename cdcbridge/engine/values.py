"""ReQL's values: their types, their order, their JSON, and the bytes that they are stored under.

A value is `None`, `bool`, `int` or `float` (both the type NUMBER), `str`, `list`, or `dict` with string keys.
Pseudo-types (times, binary data) are dicts with the key `$reql_type$`, as they travel in the protocol. Documents are
kept as canonical JSON, so that two equal documents are equal bytes.

Source: RethinkDB's documentation of data types and of the order of types; ql2.proto.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cdcbridge.engine.errors import ErrorType, QueryError

PSEUDO_TYPE: Final = "$reql_type$"
LARGEST_EXACT_INTEGER: Final = 2**53
LONGEST_KEY_BYTES: Final = 128
ARRAY_LIMIT: Final = 100_000
HIGHEST_ARRAY_LIMIT: Final = 100 * ARRAY_LIMIT
"""What a query can raise its limit to."""

loads = msgspec.json.Decoder().decode
"""A value from its stored JSON."""

_encode = msgspec.json.Encoder(order="sorted").encode


class Bound:
    """`r.minval` or `r.maxval`: below or above every value. Not storable."""

    def __init__(self, name: str, sign: int) -> None:
        self.name = name
        self.sign = sign

    def __repr__(self) -> str:
        return self.name


MINVAL: Final = Bound("MINVAL", -1)
MAXVAL: Final = Bound("MAXVAL", 1)


def dumps(value: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces, integral numbers as integers (`canonical` has seen to the numbers)."""
    try:
        return _encode(value)
    except (UnicodeEncodeError, TypeError) as problem:
        raise _unstorable(value, problem) from problem


def _unstorable(value: Any, problem: Exception) -> QueryError:
    if isinstance(problem, UnicodeEncodeError):
        return QueryError(ErrorType.QUERY_LOGIC, "String contains an unpaired surrogate, which is not valid UTF-8.")
    if any(isinstance(part, Bound) for part in _parts(value)):
        return QueryError(ErrorType.QUERY_LOGIC, "`r.minval` and `r.maxval` cannot be written to disk.")
    return QueryError(ErrorType.QUERY_LOGIC, "Expected type DATUM but found something that has no JSON form.")


def _parts(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, list):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _parts(item)


def number(value: float) -> int | float:
    """The one form of a number: an `int` when it is integral and exact as a double, else a finite `float`.

    Raises:
        QueryError: the number is infinite or not a number.
    """
    if isinstance(value, int):
        return value if -LARGEST_EXACT_INTEGER <= value <= LARGEST_EXACT_INTEGER else _inexact(value)
    if not math.isfinite(value):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Non-finite number: {_non_finite(value)}")
    if value.is_integer() and abs(value) <= LARGEST_EXACT_INTEGER and not _is_negative_zero(value):
        return int(value)
    return value


def _inexact(value: int) -> int | float:
    try:
        return number(float(value))
    except OverflowError:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Non-finite number: {'-' if value < 0 else ''}inf") from None


def _non_finite(value: float) -> str:
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def _is_negative_zero(value: float) -> bool:
    return value == 0 and math.copysign(1, value) < 0


# Types and order -----------------------------------------------------------------------------------------------------

_NAMES: Final = {
    type(None): "NULL",
    bool: "BOOL",
    int: "NUMBER",
    float: "NUMBER",
    str: "STRING",
    list: "ARRAY",
    dict: "OBJECT",
}

_RANKS: Final = {
    "MINVAL": 0,
    "ARRAY": 1,
    "BOOL": 2,
    "NULL": 3,
    "NUMBER": 4,
    "OBJECT": 5,
    "PTYPE<BINARY>": 6,
    "PTYPE<GEOMETRY>": 7,
    "PTYPE<TIME>": 8,
    "STRING": 9,
    "MAXVAL": 10,
}


def type_name(value: Any) -> str:
    """The name of a value's type as error messages spell it: `NUMBER`, `PTYPE<TIME>`."""
    if isinstance(value, dict) and PSEUDO_TYPE in value:
        return f"PTYPE<{value[PSEUDO_TYPE]}>"
    if isinstance(value, Bound):
        return value.name
    return _NAMES[type(value)]


def compare(left: Any, right: Any) -> int:
    """-1, 0 or 1. Values of different types compare by the names of their types, minval first and maxval last."""
    kind, other = type(left), type(right)
    if (kind is str and other is str) or (kind in (int, float) and other in (int, float)):
        return _sign(left, right)
    name = type_name(left)
    if name != (other_name := type_name(right)):
        return 1 if _RANKS.get(name, 5) > _RANKS.get(other_name, 5) else -1
    return _compare_alike(name, left, right)


def _compare_alike(name: str, left: Any, right: Any) -> int:
    match name:
        case "ARRAY":
            return _compare_arrays(left, right)
        case "PTYPE<TIME>":
            return compare(left["epoch_time"], right["epoch_time"])
        case "PTYPE<BINARY>":
            return _sign(binary_bytes(left), binary_bytes(right))
        case "BOOL":
            return _sign(left, right)
        case "NULL" | "MINVAL" | "MAXVAL":
            return 0
        case _:
            return _compare_objects(left, right)


def _sign(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


def _compare_arrays(left: list[Any], right: list[Any]) -> int:
    for one, other in zip(left, right, strict=False):
        if order := compare(one, other):
            return order
    return _sign(len(left), len(right))


def _compare_objects(left: dict[str, Any], right: dict[str, Any]) -> int:
    """Objects compare as their sorted lists of fields: by name, then by value; the shorter list is smaller."""
    for one, other in zip(sorted(left), sorted(right), strict=False):
        if one != other:
            return _sign(one, other)
        if order := compare(left[one], right[other]):
            return order
    return _sign(len(left), len(right))


class Ordered:
    """A sort key that orders values as ReQL does."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Ordered) -> bool:
        return compare(self.value, other.value) < 0


def identity(value: Any) -> bytes:
    """Bytes that are the same for values that compare as equal, and for no others."""
    return dumps(_one_form(value))


def _one_form(value: Any) -> Any:
    """0 for -0.0, and a time by its moment alone, however deep they are."""
    kind = type(value)
    if kind is float:
        return number(value + 0.0)
    if kind is list:
        return [_one_form(item) for item in value]
    if kind is not dict:
        return {PSEUDO_TYPE: repr(value)} if kind is Bound else value
    if value.get(PSEUDO_TYPE) == "TIME":
        return {**value, "timezone": "+00:00"}
    return {name: _one_form(part) for name, part in value.items()}


# Pseudo-types --------------------------------------------------------------------------------------------------------

_TIMEZONE: Final = re.compile(r"[+-]\d\d:\d\d")


def pseudo(value: dict[str, Any]) -> dict[str, Any]:
    """The one form of a pseudo-type that a client sends: times to the millisecond, binary data as plain base64.

    Raises:
        QueryError: there is no such type, or the value is not made as its type has to be.
    """
    match value[PSEUDO_TYPE]:
        case "TIME":
            return _time(value)
        case "BINARY":
            data = base64.b64encode(binary_bytes(value)).decode()
            return {PSEUDO_TYPE: "BINARY", "data": data}
        case "LITERAL" | "GEOMETRY":
            return value
        case unknown:
            raise QueryError(ErrorType.QUERY_LOGIC, f"Unknown $reql_type$ `{unknown}`.")


def _time(value: dict[str, Any]) -> dict[str, Any]:
    epoch_time, timezone = value.get("epoch_time"), value.get("timezone")
    has_timezone = isinstance(timezone, str) and _TIMEZONE.fullmatch(timezone)
    if isinstance(epoch_time, bool) or not isinstance(epoch_time, int | float) or not has_timezone:
        message = "Invalid time pseudotype: `epoch_time` has to be a number, and `timezone` as in `+01:00`."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    return {PSEUDO_TYPE: "TIME", "epoch_time": number(round(float(epoch_time), 3)), "timezone": timezone}


def binary_bytes(value: dict[str, Any]) -> bytes:
    """The bytes of a PTYPE<BINARY>."""
    try:
        return base64.b64decode(value["data"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise QueryError(ErrorType.QUERY_LOGIC, "Invalid binary pseudotype: `data` is not base64.") from None


# Keys ----------------------------------------------------------------------------------------------------------------


def storage_key(value: Any) -> bytes:
    """Bytes that sort as ReQL sorts the values: the key of a stored document.

    A string costs one byte more than its UTF-8; a number nine bytes in all.

    Raises:
        QueryError: the value cannot be a primary key, or its key would be longer than 128 bytes.
    """
    key = encoded_key(value)
    if len(key) > LONGEST_KEY_BYTES:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Primary key too long (max 127 characters): {printed(value)}")
    return key


def key_form(value: Any) -> Any:
    """The one form of all values that are the same key: 0 for -0.0, and a time by the moment, in UTC."""
    match value:
        case float():
            return number(value + 0.0)
        case list():
            return [key_form(item) for item in value]
        case {"$reql_type$": "TIME"}:
            return {**value, "epoch_time": number(value["epoch_time"] + 0.0), "timezone": "+00:00"}
        case _:
            return value


def index_key(value: Any) -> bytes:
    """As `storage_key`, for a secondary index: of any length, and strings may contain the null character.

    Raises:
        QueryError: the value cannot be a key.
    """
    try:
        return encoded_key(value, nulls=True)
    except QueryError as problem:
        text = problem.message.replace(_PRIMARY_KINDS, _SECONDARY_KINDS)
        raise QueryError(problem.type, text) from None


_PRIMARY_KINDS: Final = "Primary keys must be either a number, string, bool, pseudotype or array"
_SECONDARY_KINDS: Final = "Secondary keys must be a number, string, bool, pseudotype, or array"


def encoded_key(value: Any, nested: bool = False, nulls: bool = False) -> bytes:
    """As `storage_key` without the limit. `nested`: as an element of an array, which has to tell where it ends.

    `nulls`: a string may contain the null character.
    """
    kind = type(value)
    if kind is str:
        return _string_key(value, nested, nulls)
    if kind is int or kind is float:
        return b"\x30" + _number_key(value)
    if kind is bool:
        return b"\x20\x01" if value else b"\x20\x00"
    if kind is list:
        return b"\x10" + b"".join(encoded_key(item, True, nulls) for item in value) + b"\x00"
    if nested and isinstance(value, Bound):  # the end of a range of compound keys; it cannot be stored
        return b"\x01" if value.sign < 0 else b"\xfe"
    return _pseudo_key(value, nested)


def _string_key(value: str, nested: bool, nulls: bool) -> bytes:
    if "\0" in value and not nulls:
        message = f"Key cannot contain the null character: {printed(value)}"
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    try:
        text = value.encode()
    except UnicodeEncodeError as problem:
        raise _unstorable(value, problem) from problem
    # Inside an array a null character must not look like the string's end, which sorts before everything.
    return b"\x60" + (text.replace(b"\x00", b"\x00\xff") + b"\x00" if nested else text)


def _number_key(value: float) -> bytes:
    """Eight bytes that sort as the doubles do: the sign bit flipped, and all bits of a negative number."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", value + 0.0))
    return struct.pack(">Q", bits ^ 0xFFFFFFFFFFFFFFFF if bits >> 63 else bits | 1 << 63)


def _pseudo_key(value: Any, nested: bool) -> bytes:
    name = type_name(value)
    if name == "PTYPE<TIME>":
        return b"\x50" + _number_key(value["epoch_time"])
    if name == "PTYPE<BINARY>":
        data = binary_bytes(value)
        return b"\x40" + (data.replace(b"\x00", b"\x00\xff") + b"\x00\x00" if nested else data)
    raise QueryError(
        ErrorType.QUERY_LOGIC,
        f"{_PRIMARY_KINDS} (got type {name}):\n{pretty(value)}",
    )


# Text ----------------------------------------------------------------------------------------------------------------


def printed(value: Any) -> str:
    """One line of JSON, for messages."""
    return _text(value, indent=None)


def pretty(value: Any) -> str:
    """JSON as RethinkDB prints documents in its messages: a tab for each level, and after the colons."""
    return _text(value, indent="\t")


def _text(value: Any, indent: str | None) -> str:
    separators = (",", ":\t") if indent else (",", ":")
    return json.dumps(value, indent=indent, separators=separators, sort_keys=True, ensure_ascii=False, default=repr)
