"""Terms over objects: fields, projections, merging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import Call, Compiled, Fn, function, term
from cdcbridge.engine.reql.runtime import (
    Env,
    FilterStep,
    MapStep,
    Row,
    Stream,
    datum,
    expect,
    is_plain_object,
    kind_of,
    sequence,
    whole,
    wrong_type,
)
from cdcbridge.engine.values import PSEUDO_TYPE, dumps, pretty

LITERAL = "LITERAL"
STRAY_LITERAL = (
    "Stray literal keyword found: literal is only present inside merge and cannot nest inside another literal."
)
_LITERAL_JSON = b'"$reql_type$":"LITERAL"'
"""In a string it would stand with backslashes."""


# Fields --------------------------------------------------------------------------------------------------------------


def field(value: Any, name: str) -> Any:
    """One field of an object.

    Raises:
        QueryError: it has no such field (NON_EXISTENCE), or is no object.
    """
    if type(value) is not dict:
        text = "Cannot perform bracket on a non-object non-sequence `{found}`."
        raise wrong_type("OBJECT", value, text.format(found="null" if value is None else pretty(value)))
    if name not in value:
        raise QueryError(ErrorType.NON_EXISTENCE, f"No attribute `{name}` in object:\n{pretty(value)}")
    return value[name]


@term("GET_FIELD", 2)
def get_field(call: Call) -> Fn:
    """A field of an object, or of every object of a sequence that has it."""
    source, name = (arg.run for arg in call.args)
    return lambda env: _field_of(env, source(env), expect("STRING", datum(name(env))))


@term("BRACKET", 2)
def bracket(call: Call) -> Fn:
    """`x["name"]` is a field; `x[3]` is an element."""
    source, what = (arg.run for arg in call.args)

    def look_up(env: Env) -> Any:
        value, key = source(env), datum(what(env))
        if kind_of(key) == "NUMBER":
            return element(sequence(env, value), whole(key))
        return _field_of(env, value, expect("STRING", key))

    return look_up


def _field_of(env: Env, value: Any, name: str) -> Any:
    if type(value) is Stream or type(value) is list:
        return sequence(env, value).then(FilterStep(lambda each: _has_field(each, name))).then(MapStep(_reader(name)))
    return field(datum(value), name)


def _reader(name: str) -> Callable[[Any], Any]:
    return lambda value: field(datum(value), name)


def _has_field(value: Any, name: str) -> bool:
    """Whether `field` gives something, be it null."""
    try:
        field(datum(value), name)
    except QueryError as error:
        if error.type is not ErrorType.NON_EXISTENCE:
            raise
        return False
    return True


def element(items: Stream, position: int) -> Any:
    """An element by its position, from the end if that is negative. An element of a table is a row."""
    if position < 0:
        values = items.collected()
        position += len(values)
    else:
        values = list(items.then_first(position + 1).finite())
    if not 0 <= position < len(values):
        raise QueryError(ErrorType.NON_EXISTENCE, f"Index out of bounds: {position}")
    value = values[position]
    return value if items.table is None else Row(items.table, value[items.table.primary_key], value)


@function("KEYS", 1)
def keys(value: Any) -> list[str]:
    if not is_plain_object(value):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Cannot call `keys` on objects of type `{kind_of(value)}`.")
    return sorted(value)


@function("VALUES", 1)
def values(value: Any) -> list[Any]:
    if not is_plain_object(value):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Cannot call `values` on objects of type `{kind_of(value)}`.")
    return [value[name] for name in sorted(value)]


# Projections: what `pluck`, `without` and `has_fields` name ----------------------------------------------------------

Pattern = Any
"""A field's name; a list of patterns; or an object of names and what is wanted below them (`True` for all of it)."""


def pluck(value: dict[str, Any], patterns: list[Pattern]) -> dict[str, Any]:
    """The parts of an object that patterns name; what is not there is left out."""
    kept: dict[str, Any] = {}
    for name, below in _flattened(patterns):
        if name in value and (part := _plucked(value[name], below)) is not _NOTHING:
            kept[name] = merged(kept[name], part) if name in kept else part
    return kept


_NOTHING: Any = object()


def _plucked(value: Any, below: Pattern) -> Any:
    if below is True:
        return value
    if type(value) is list:
        return [pluck(each, [below]) for each in value if type(each) is dict]
    return pluck(value, [below]) if is_plain_object(value) else _NOTHING


def without(value: dict[str, Any], patterns: list[Pattern]) -> dict[str, Any]:
    """An object without the parts that patterns name."""
    kept = dict(value)
    for name, below in _flattened(patterns):
        if name not in kept:
            continue
        if below is True:
            del kept[name]
        elif type(kept[name]) is list:
            kept[name] = [without(each, [below]) if type(each) is dict else each for each in kept[name]]
        elif is_plain_object(kept[name]):
            kept[name] = without(kept[name], [below])
    return kept


def has_fields(value: Any, patterns: list[Pattern]) -> bool:
    """Whether an object has all the parts that patterns name, none of them null."""
    if type(value) is not dict:
        return False
    return all(_has(value.get(name), below) for name, below in _flattened(patterns))


def _has(value: Any, below: Pattern) -> bool:
    return value is not None and (below is True or has_fields(value, [below]))


def _flattened(patterns: list[Pattern]) -> list[tuple[str, Pattern]]:
    """Patterns as pairs of a name and what is wanted below it."""
    pairs: list[tuple[str, Pattern]] = []
    for pattern in patterns:
        if type(pattern) is str:
            pairs.append((pattern, True))
        elif type(pattern) is list:
            pairs += _flattened(pattern)
        elif type(pattern) is dict:
            pairs += pattern.items()
        else:
            raise QueryError(ErrorType.QUERY_LOGIC, f"Invalid path argument `{pretty(pattern)}`.")
    return pairs


def _projection(name: str, project: Callable[[Any, list[Pattern]], Any], over_sequence: Callable[..., Any]) -> None:
    """A term over one object, or over each object of a sequence, by the patterns that follow."""

    @term(name, 1, None)
    def build(call: Call) -> Fn:
        source, *patterns = [arg.run for arg in call.args]

        def run(env: Env) -> Any:
            value, wanted = source(env), [datum(pattern(env)) for pattern in patterns]
            if type(value) is Stream or type(value) is list:
                return sequence(env, value).then(over_sequence(lambda each: project(_object(each), wanted)))
            return project(_object(value), wanted)

        return run


def _object(value: Any) -> Any:
    return expect("OBJECT", datum(value))


_projection("PLUCK", pluck, MapStep)
_projection("WITHOUT", without, MapStep)
_projection("HAS_FIELDS", has_fields, FilterStep)


# Merging -------------------------------------------------------------------------------------------------------------


@term("LITERAL", 0, 1)
def literal(call: Call) -> Fn:
    """Inside an argument of `merge` or `update`: replace a field whole; without an argument, remove it."""
    if not call.args:
        return lambda env: {PSEUDO_TYPE: LITERAL}
    value = call.args[0].run

    def wrap(env: Env) -> Any:
        inner = datum(value(env))
        refuse_stray_literal(dumps(inner))
        return {PSEUDO_TYPE: LITERAL, "value": inner}

    return wrap


def refuse_stray_literal(json: bytes) -> None:
    """Raises a QueryError if there is an `r.literal` in a value, given as JSON, where it has no meaning."""
    if _LITERAL_JSON in json:
        raise QueryError(ErrorType.QUERY_LOGIC, STRAY_LITERAL)


def merged(old: Any, new: Any) -> Any:
    """`old` with the fields of `new`: objects go into objects, everything else replaces what was there."""
    if not is_plain_object(new):
        return new.get("value", _NOTHING) if _is_literal(new) else new
    base = dict(old) if is_plain_object(old) else {}
    for name, value in new.items():
        if (result := merged(base.get(name), value)) is _NOTHING:
            base.pop(name, None)
        else:
            base[name] = result
    return base


def _is_literal(value: Any) -> bool:
    return type(value) is dict and value.get(PSEUDO_TYPE) == LITERAL


@term("MERGE", 1, None)
def merge(call: Call) -> Fn:
    """One object over another, in order; an argument may be a function of what has been merged so far."""
    source, *others = call.args

    def run(env: Env) -> Any:
        value = source.run(env)

        def change(each: Any) -> Any:
            return _merged_all(env, _object(each), others)

        if type(value) is Stream or type(value) is list:
            deterministic = all(other.deterministic for other in others)
            return sequence(env, value).then(MapStep(change, deterministic))
        return change(value)

    return run


def _merged_all(env: Env, value: Any, others: list[Compiled]) -> Any:
    for other in others:
        patch = other.run(env)
        value = merged(value, datum(patch(value) if other.arity is not None else patch))
    return value
