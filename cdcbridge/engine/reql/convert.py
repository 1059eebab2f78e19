"""Terms from one type to another: `coerce_to`, JSON, binary data, objects from pairs; `type_of`."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.arithmetic import truthy
from cdcbridge.engine.reql.registry import Call, Fn, function, term
from cdcbridge.engine.reql.runtime import Env, Stream, datum, expect, kind_of
from cdcbridge.engine.values import PSEUDO_TYPE, binary_bytes, dumps, number, printed, pseudo

# Types ---------------------------------------------------------------------------------------------------------------


@term("TYPE_OF", 1, grouping="ends")
def type_of(call: Call) -> Fn:
    """Its name as RethinkDB has it: DB, though messages say DATABASE."""
    value = call.args[0].run

    def name(env: Env) -> str:
        return "DB" if (kind := kind_of(value(env))) == "DATABASE" else kind

    return name


@term("COERCE_TO", 2)
def coerce_to(call: Call) -> Fn:
    """A value as one of another type.

    Raises:
        QueryError: there is no way from the one to the other.
    """
    source, wanted = (arg.run for arg in call.args)
    return lambda env: _coerced(source(env), expect("STRING", datum(wanted(env))).upper())


def _coerced(value: Any, wanted: str) -> Any:
    if type(value) is Stream and not value.array and wanted == "STREAM":
        return value
    plain = datum(value)
    if (kind := kind_of(plain)) == wanted:
        return plain
    if (convert := _CONVERSIONS.get((kind, wanted)) or _CONVERSIONS.get(("DATUM", wanted))) is None:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Cannot coerce {kind_of(value)} to {wanted}.")
    return convert(plain)


def _number(text: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Could not coerce `{text}` to NUMBER.")
    return number(value)


def _object(pairs: list[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for pair in pairs:
        if len(expect("ARRAY", pair)) != 2:
            message = f"Expected array of size 2, but got size {len(pair)}."
            raise QueryError(ErrorType.QUERY_LOGIC, message)
        made[expect("STRING", pair[0])] = pair[1]
    return pseudo(made) if PSEUDO_TYPE in made else made


def _text_of(value: dict[str, Any]) -> str:
    try:
        return binary_bytes(value).decode()
    except UnicodeDecodeError:
        message = "Invalid UTF-8 sequence: the binary data is no text, and cannot be coerced to STRING."
        raise QueryError(ErrorType.QUERY_LOGIC, message) from None


def binary_value(data: bytes) -> dict[str, Any]:
    """A PTYPE<BINARY>."""
    return {PSEUDO_TYPE: "BINARY", "data": base64.b64encode(data).decode()}


def _bytes_of(text: str) -> dict[str, Any]:
    try:
        return binary_value(text.encode())
    except UnicodeEncodeError:
        raise QueryError(ErrorType.QUERY_LOGIC, "String contains an unpaired surrogate.") from None


_CONVERSIONS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("STRING", "NUMBER"): _number,
    ("STRING", "BINARY"): _bytes_of,
    ("PTYPE<BINARY>", "STRING"): _text_of,
    ("OBJECT", "ARRAY"): lambda value: [[name, value[name]] for name in sorted(value)],
    ("ARRAY", "OBJECT"): _object,
    ("DATUM", "STRING"): lambda value: dumps(value).decode(),
    ("DATUM", "BOOL"): truthy,
}
"""How to get from one type to another; DATUM stands for every type that has no way of its own."""


# JSON ----------------------------------------------------------------------------------------------------------------


@function("JSON", 1)
def parse_json(text: Any) -> Any:
    """The value that a JSON text stands for."""
    source = expect("STRING", text)
    try:
        return _read(json.loads(source, parse_constant=_no_constant))
    except ValueError as problem:
        message = f'Failed to parse "{source}" as JSON: {problem}.'
        raise QueryError(ErrorType.QUERY_LOGIC, message) from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"Invalid value {name}")


def _read(value: Any) -> Any:
    """A parsed value with numbers and pseudo-types in their one form."""
    match value:
        case bool():
            return value
        case int() | float():
            return number(value)
        case list():
            return [_read(item) for item in value]
        case dict():
            made = {name: _read(part) for name, part in value.items()}
            return pseudo(made) if PSEUDO_TYPE in made else made
    return value


@function("TO_JSON_STRING", 1)
def to_json_string(value: Any) -> str:
    return dumps(value).decode()


# Binary data and objects ---------------------------------------------------------------------------------------------


@function("BINARY", 1)
def binary(value: Any) -> dict[str, Any]:
    """Binary data from text, as UTF-8; binary data as it is."""
    if kind_of(value) == "PTYPE<BINARY>":
        return dict(value)
    return _bytes_of(expect("STRING", value))


@function("OBJECT", 0, None)
def make_object(*parts: Any) -> dict[str, Any]:
    """An object from names and values in turn."""
    if len(parts) % 2:
        message = f"OBJECT expects an even number of arguments (but found {len(parts)})."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    made: dict[str, Any] = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        if expect("STRING", name) in made:
            both = f"got {printed(made[name])} and {printed(value)} as values"
            raise QueryError(ErrorType.QUERY_LOGIC, f'Duplicate key "{name}" in object.  ({both})')
        made[name] = value
    return pseudo(made) if PSEUDO_TYPE in made else made
