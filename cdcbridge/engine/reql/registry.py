"""The one registry of terms, and the compiler that turns a query into a function.

A term is registered in one of two ways. `@function` is for terms that need nothing but the values of their arguments;
`@term` is for those that look at the arguments themselves: it gets a `Call` and returns the function. Either way a
query is walked once, when it arrives; running it calls closures only.

Source: ql2.proto for the numbers of the terms, by way of the official driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from rethinkdb.ql2_pb2 import Term as _Term

from cdcbridge.engine.errors import ClientError, CompileError, ErrorType, QueryError
from cdcbridge.engine.reql.runtime import Env, Grouped, array_limit_exceeded, datum, within_limit
from cdcbridge.engine.values import ARRAY_LIMIT, PSEUDO_TYPE, number, pseudo

Fn = Callable[[Env], Any]
Path = tuple[int | str, ...]

DEEPEST_QUERY: Final = 200

NAMES: Final[dict[int, str]] = {value: name for name, value in vars(_Term.TermType).items() if name.isupper()}
"""Every term of the protocol by its number, known to us or not."""

_MAKE_ARRAY: Final = _Term.TermType.MAKE_ARRAY
_FUNC: Final = _Term.TermType.FUNC


@dataclass(slots=True)
class Compiled:
    """A part of a query, ready to run. Never changed; not frozen, for making a frozen one takes three times as long.

    `constant` is set for a part that is a plain value, which is then `value`. `writes`: running it changes the
    database. `is_feed`: its value is a changefeed. `deterministic`: it gives the same value each time.
    """

    run: Fn
    path: Path
    writes: bool = False
    is_feed: bool = False
    deterministic: bool = True
    constant: bool = False
    value: Any = None
    arity: int | None = None
    """For functions: how many arguments they take."""
    name: str = ""
    """The term that it is; empty for values and functions."""
    node: Any = None
    """For functions: the term as it came, to be kept with an index."""
    grouped: bool = False
    """Its value may be grouped data; for functions: their results."""
    parts: tuple[Compiled, ...] = ()
    """Of an array that is computed: its elements, for options that may be arrays of what is no value."""
    spliced: bool = False
    """`r.args`: its value is an array of further arguments."""


@dataclass(slots=True)
class Call:
    """A term with its compiled arguments, for the builder that makes a function of it."""

    name: str
    path: Path
    args: list[Compiled]
    options: dict[str, Compiled]

    def option(self, name: str, default: Any = None) -> Fn:
        """A function for an optional argument's value; for `default` where the query leaves it out."""
        if (compiled := self.options.get(name)) is None:
            return lambda env: default
        run = compiled.run
        return lambda env: datum(run(env))


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a term."""

    build: Callable[[Call], Fn]
    least: int
    most: int | None
    options: frozenset[str]
    writes: bool
    is_feed: bool
    deterministic: bool
    grouping: Grouping


Grouping = Literal["each", "makes", "passes", "ends"]
"""What a term does with grouped data: it is run for each group; it makes groups; it passes on what one of its
arguments gives; or it takes the groups as a whole and gives something else."""

_registry: dict[str, Entry] = {}
_refused: dict[str, str] = {}


def term(
    name: str,
    least: int,
    most: int | None = -1,
    *,
    options: tuple[str, ...] = (),
    writes: bool = False,
    is_feed: bool = False,
    deterministic: bool = True,
    grouping: Grouping = "each",
) -> Callable[[Callable[[Call], Fn]], Callable[[Call], Fn]]:
    """Register a builder for a term of `least` to `most` arguments: exactly `least` if left out, None for no limit."""

    def register(build: Callable[[Call], Fn]) -> Callable[[Call], Fn]:
        known = frozenset(options)
        end = least if most == -1 else most
        _registry[name] = Entry(build, least, end, known, writes, is_feed, deterministic, grouping)
        return build

    return register


def refuse(reason: str, *names: str) -> None:
    """Register terms that this engine does not have and is not going to have, and say why."""
    _refused.update(dict.fromkeys(names, reason))


def function(
    name: str, least: int, most: int | None = -1, *, deterministic: bool = True, grows: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a plain function of the arguments' values (datums, no sequences that are still to be read).

    `grows`: it can make an array that is larger than its arguments are, and so over the query's limit.
    """

    def register(plain: Callable[..., Any]) -> Callable[..., Any]:
        def build(call: Call) -> Fn:
            run = _applied(plain, call.args)
            return (lambda env: within_limit(env, run(env))) if grows else run

        term(name, least, most, deterministic=deterministic)(build)
        return plain

    return register


def _applied(plain: Callable[..., Any], args: list[Compiled]) -> Fn:
    """Running the arguments, then `plain`; without a loop for the usual numbers of arguments."""
    runs = [arg.run for arg in args]
    match runs:
        case []:
            return lambda env: plain()
        case [one]:
            return lambda env: plain(datum(one(env)))
        case [one, two]:
            return lambda env: plain(datum(one(env)), datum(two(env)))
        case _:
            return lambda env: plain(*[datum(run(env)) for run in runs])


# The compiler --------------------------------------------------------------------------------------------------------


def compile_query(query: Any, array_limit: int = ARRAY_LIMIT) -> Compiled:
    """A whole query, as parsed JSON, into a function. No array in it may have more elements than `array_limit`.

    Raises:
        CompileError: a wrong number of arguments, an unknown optional argument.
        QueryError: a term that this engine does not have.
        ClientError: no query at all.
    """
    return _compile(query, (), _Scope(array_limit=array_limit))


@dataclass(slots=True)
class _Scope:
    """What the compiler knows at one place of the query: the variables in scope, and how deep it is. Never changed."""

    variables: frozenset[int] = frozenset()
    row: int | None = None
    """The variable that `r.row` means: the argument of the innermost function of one argument."""
    depth: int = 0
    grouped: frozenset[int] = frozenset()
    """The variables that may be grouped data."""
    array_limit: int = ARRAY_LIMIT

    def inner(self) -> _Scope:
        """The scope one level down."""
        return _Scope(self.variables, self.row, self.depth + 1, self.grouped, self.array_limit)

    def inside(self, ids: list[int], grouped: list[bool]) -> _Scope:
        """The scope inside a function with these arguments, some of which may be grouped data."""
        row = ids[0] if len(ids) == 1 else self.row
        groups = {id for id, is_grouped in zip(ids, grouped, strict=False) if is_grouped}
        hidden = self.grouped - frozenset(ids)
        return _Scope(self.variables | frozenset(ids), row, self.depth + 1, hidden | groups, self.array_limit)


def _compile(node: Any, path: Path, scope: _Scope) -> Compiled:
    if scope.depth > DEEPEST_QUERY:
        raise CompileError(f"Query nested deeper than {DEEPEST_QUERY} levels.", path)
    try:
        return _constant(_plain(node, scope.array_limit), path)
    except _NotPlainError:
        pass
    kind = type(node)
    if kind is list:
        return _compile_term(node, path, scope)
    return _compile_object(node, path, scope)


class _NotPlainError(Exception):
    """There is something to run in it."""


def _plain(node: Any, limit: int) -> Any:
    """The value of a part with nothing to run in it: documents arrive so, and are walked just once.

    Raises:
        _NotPlainError: there is something to run.
    """
    kind = type(node)
    if kind is int or kind is float:
        return number(node)
    if kind is dict:
        value = {name: part if type(part) is str else _plain(part, limit) for name, part in node.items()}
        return pseudo(value) if PSEUDO_TYPE in value else value
    if kind is list:
        if len(node) == 2 and node[0] == _MAKE_ARRAY and type(node[1]) is list and len(node[1]) <= limit:
            return [_plain(part, limit) for part in node[1]]
        raise _NotPlainError
    return node


def _constant(value: Any, path: Path) -> Compiled:
    return Compiled(lambda env: value, path, constant=True, value=value)


def _compile_object(node: Mapping[str, Any], path: Path, scope: _Scope) -> Compiled:
    """An object whose values are terms; a plain value if they all are."""
    inner = scope.inner()
    fields = {name: _compile(part, (*path, name), inner) for name, part in node.items()}
    runs = {name: part.run for name, part in fields.items()}

    def make(env: Env) -> dict[str, Any]:
        value = {name: datum(run(env)) for name, run in runs.items()}
        return pseudo(value) if PSEUDO_TYPE in value else value

    return _combined(make, path, fields.values())


@term("MAKE_ARRAY", 0, None)
def make_array(call: Call) -> Fn:
    """An array whose elements are known only when it is run; see `_compile_array` for all others."""
    return _compile_array(call.args, call.path).run


def _compile_array(args: list[Compiled], path: Path) -> Compiled:
    runs = [part.run for part in args]

    def make(env: Env) -> Any:
        return within_limit(env, [datum(run(env)) for run in runs])

    return replace(_combined(make, path, args), parts=tuple(args))


def _combined(run: Fn, path: Path, parts: Any) -> Compiled:
    return Compiled(
        run,
        path,
        writes=any(part.writes for part in parts),
        deterministic=all(part.deterministic for part in parts),
    )


def _compile_term(node: list[Any], path: Path, scope: _Scope) -> Compiled:
    name, args, options = _taken_apart(node)
    inner = scope.inner()
    if name == "MAKE_ARRAY" and len(args) > scope.array_limit:
        raise array_limit_exceeded(scope.array_limit)
    if name == "FUNC":
        return _compile_function(args, path, scope)
    if name == "VAR":
        return _compile_variable(args[0] if len(args) == 1 else None, path, scope)
    if name == "IMPLICIT_VAR":
        return _compile_variable(scope.row, path, scope)
    if name == "DATUM" and len(args) == 1:
        return _compile(args[0], path, inner)
    if name == "MAKE_OBJ":
        return _compile_object(options, path, scope)
    compiled = _compile_call(args, path, inner) if name == "FUNCALL" else _compile_args(args, path, inner)
    if name == "MAKE_ARRAY" and not any(arg.spliced for arg in compiled):
        return _compile_array(compiled, path)
    named = {key: _compile(value, (*path, key), inner) for key, value in options.items()}
    return _build(name, path, compiled, named)


def _compile_args(args: list[Any], path: Path, scope: _Scope, start: int = 0) -> list[Compiled]:
    return [_compile(arg, (*path, position), scope) for position, arg in enumerate(args, start)]


def _compile_call(args: list[Any], path: Path, scope: _Scope) -> list[Compiled]:
    """The arguments of `do`: what the function is called with first, for it may be grouped data."""
    if not args:
        return []
    values = _compile_args(args[1:], path, scope, start=1)
    function = args[0]
    if type(function) is list and len(function) > 1 and function[0] == _FUNC and type(function[1]) is list:
        grouped = [value.grouped for value in values]
        return [_compile_function(function[1], (*path, 0), scope.inner(), grouped), *values]
    return [_compile(function, (*path, 0), scope), *values]


def _taken_apart(node: list[Any]) -> tuple[str, list[Any], Mapping[str, Any]]:
    """The parts of `[number, [args...], {options}]`, the last two of which may be missing."""
    if not node or type(node[0]) is not int or len(node) > 3:
        raise ClientError("Client is buggy (expected a term to be an array of a number, arguments and options).")
    args = node[1] if len(node) > 1 else []
    options = node[2] if len(node) > 2 else {}
    if isinstance(args, dict) and len(node) == 2:
        args, options = [], args
    if not isinstance(args, list) or not isinstance(options, dict):
        raise ClientError("Client is buggy (expected a term's arguments as an array and its options as an object).")
    if (name := NAMES.get(node[0])) is None:
        raise ClientError(f"Client is buggy (unknown term number {node[0]}).")
    return name, args, options


def _build(name: str, path: Path, args: list[Compiled], options: dict[str, Compiled]) -> Compiled:
    entry = _entry(name, path)
    for option in options:
        if option not in entry.options:
            raise CompileError(f"Unrecognized optional argument `{option}`.", (*path, option))
    call = Call(name, path, args, options)
    if any(arg.spliced for arg in args):
        run = _spliced(entry, call)
    else:
        _check_arguments(entry, len(args), path)
        run = _made(entry, call)
    parts = [*args, *options.values()]
    return Compiled(
        _placed(run, path),
        path,
        writes=entry.writes or any(part.writes for part in parts),
        is_feed=entry.is_feed or any(part.is_feed for part in args),
        deterministic=entry.deterministic and all(part.deterministic for part in parts),
        grouped=_is_grouped(entry, args),
        spliced=name == "ARGS",
        name=name,
    )


def _entry(name: str, path: Path) -> Entry:
    """What the registry knows of a term.

    Raises:
        QueryError: nothing, or that it is not to be had.
    """
    if (entry := _registry.get(name)) is not None:
        return entry
    if (reason := _refused.get(name)) is not None:
        raise QueryError(ErrorType.QUERY_LOGIC, f"not supported: {name}: {reason}", path)
    raise QueryError(ErrorType.QUERY_LOGIC, f"not supported yet: {name}", path)


def _spliced(entry: Entry, call: Call) -> Fn:
    """A term with `r.args` among its arguments: how many there are is known only when it runs."""

    def run(env: Env) -> Any:
        args = [part for arg in call.args for part in (_arguments(env, arg) if arg.spliced else [arg])]
        _check_arguments(entry, len(args), call.path)
        return _made(entry, replace(call, args=args))(env)

    return run


def _arguments(env: Env, arg: Compiled) -> list[Compiled]:
    return [_constant(value, arg.path) for value in arg.run(env)]


# Grouped data --------------------------------------------------------------------------------------------------------


def _is_grouped(entry: Entry, args: list[Compiled]) -> bool:
    match entry.grouping:
        case "makes":
            return True
        case "passes":
            return any(arg.grouped for arg in args)
        case "ends":
            return False
    return bool(args) and args[0].grouped


def _made(entry: Entry, call: Call) -> Fn:
    """The term's function; if its first argument may be grouped data, run for each group."""
    if entry.grouping not in ("each", "makes") or not call.args or not call.args[0].grouped:
        return entry.build(call)
    first, slot = call.args[0], cast(int, object())
    group = replace(first, run=lambda env: env.variables[slot], grouped=False)
    of_group = entry.build(replace(call, args=[group, *call.args[1:]]))

    def run(env: Env) -> Any:
        value = first.run(env)
        if type(value) is not Grouped:
            return of_group(env.bind([slot], (value,)))
        if entry.grouping == "makes" or entry.is_feed:
            raise QueryError(ErrorType.QUERY_LOGIC, _after_group(call.name))
        return value.mapped(lambda each: of_group(env.bind([slot], (each,))))

    return run


def _after_group(name: str) -> str:
    if name == "CHANGES":
        return "Cannot call `changes` after `group`."
    return f"Cannot call `{name.lower()}` on the output of `group` (did you mean to `ungroup`?)."


def _check_arguments(entry: Entry, count: int, path: Path) -> None:
    if count >= entry.least and (entry.most is None or count <= entry.most):
        return
    if entry.most is None:
        wanted = f"{entry.least} or more arguments"
    elif entry.least == entry.most:
        wanted = f"{entry.least} argument{'' if entry.least == 1 else 's'}"
    else:
        wanted = f"between {entry.least} and {entry.most} arguments"
    raise CompileError(f"Expected {wanted} but found {count}.", path)


def _placed(run: Fn, path: Path) -> Fn:
    """`run`, whose errors say where in the query they happened: the innermost term that knows wins."""

    def placed(env: Env) -> Any:
        try:
            return run(env)
        except QueryError as error:
            if error.path is None:
                error.path = path
            raise
        except RecursionError:
            raise QueryError(ErrorType.RESOURCE_LIMIT, "Query nested too deeply.", path) from None

    return placed


# Functions and variables ---------------------------------------------------------------------------------------------


def _compile_function(args: list[Any], path: Path, scope: _Scope, grouped: list[bool] | None = None) -> Compiled:
    """`FUNC [[ids], body]`. Running it gives a Python function of the arguments' values.

    `grouped`: which of these may be grouped data.
    """
    if len(args) != 2:
        raise CompileError(f"Expected 2 arguments but found {len(args)}.", path)
    ids = _variable_ids(args[0], path)
    body = _compile(args[1], (*path, 1), scope.inside(ids, grouped or []))
    run = body.run

    def make(env: Env) -> Callable[..., Any]:
        return lambda *values: run(env.bind(ids, values))

    return Compiled(
        make,
        path,
        writes=body.writes,
        is_feed=body.is_feed,
        deterministic=body.deterministic,
        arity=len(ids),
        grouped=body.grouped,
        node=[_FUNC, args],
    )


def _variable_ids(node: Any, path: Path) -> list[int]:
    """The ids of a function's arguments: an array term, or a datum array."""
    ids = node[1] if isinstance(node, list) and len(node) > 1 and isinstance(node[1], list) else None
    if ids is None or not all(type(id) is int for id in ids):
        raise CompileError("Expected the ids of a function's arguments as an array of numbers.", path)
    return ids


def _compile_variable(id: Any, path: Path, scope: _Scope) -> Compiled:
    if type(id) is not int or id not in scope.variables:
        raise CompileError("r.row is not defined in this context." if id is None else "Variable is not in scope.", path)
    return Compiled(lambda env: env.variables[id], path, grouped=id in scope.grouped)
