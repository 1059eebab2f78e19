"""Secondary indexes: create, drop, rename, list, status, wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, cast

from cdcbridge.engine.catalog import Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.indexes import Function, Index
from cdcbridge.engine.reql.access import whole_table
from cdcbridge.engine.reql.control import called
from cdcbridge.engine.reql.convert import binary_value
from cdcbridge.engine.reql.registry import NAMES, Call, Compiled, Fn, compile_query, term
from cdcbridge.engine.reql.runtime import Context, Env, Settings, datum, expect, kind_of
from cdcbridge.engine.values import binary_bytes

_MAGIC: Final = b"$reql_index_function$"
"""What the binary form of an index's function begins with, which `index_status` gives and `index_create` takes."""

_DOES_NOT_EXIST: Final = "does not exist"


@term("INDEX_CREATE", 2, 3, options=("multi", "geo"), writes=True)
def index_create(call: Call) -> Fn:
    """An index by the field of its name, or by a function. The documents that are there are in it when this answers."""
    source, name = (arg.run for arg in call.args[:2])
    function = call.args[2] if len(call.args) > 2 else None
    multi, geo = call.option("multi", False), call.option("geo", False)

    def create(env: Env) -> dict[str, int]:
        table, wanted = whole_table(source(env)), _name(env, name)
        if expect("BOOL", geo(env)):
            raise QueryError(ErrorType.QUERY_LOGIC, "not supported: geospatial indexes")
        _refuse_primary(table, wanted)
        is_multi, of_document = expect("BOOL", multi(env)), wanted if function is None else _term(env, function)
        env.context.writing.create_index(table, wanted, is_multi, of_document, index_function)
        return {"created": 1}

    return create


def _name(env: Env, name: Fn) -> str:
    return str(expect("STRING", datum(name(env))))


def _refuse_primary(table: Table, name: str) -> None:
    if name == table.primary_key:
        message = f"Index name conflict: `{name}` is the name of the primary key."
        raise QueryError(ErrorType.QUERY_LOGIC, message)


def _term(env: Env, function: Compiled) -> Any:
    """The term to keep: that of a function, or what `index_status` gave as one.

    Raises:
        QueryError: it is neither, or could give another value another time.
    """
    if function.node is not None:
        node = function.node
    elif kind_of(value := datum(function.run(env))) == "PTYPE<BINARY>":
        node = _from_binary(value)
    else:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type FUNCTION but found {kind_of(value)}.")
    _check_function(node)
    return node


def _check_function(node: Any) -> None:
    if type(node) is str:
        return
    compiled = compile_query(node)
    if compiled.arity != 1:
        raise QueryError(
            ErrorType.QUERY_LOGIC, f"The function of an index takes 1 argument, the document (got {compiled.arity})."
        )
    if not compiled.deterministic or _has_now(node):
        message = "Could not prove function deterministic.  Index functions must be deterministic."
        raise QueryError(ErrorType.QUERY_LOGIC, message)


def _has_now(node: Any) -> bool:
    """The time of the query is a constant within that query only."""
    if type(node) is dict:
        return any(map(_has_now, node.values()))
    if type(node) is not list:
        return False
    name, args = NAMES[node[0]], node[1] if len(node) > 1 else []
    if name in ("NOW", "VAR", "FUNC"):
        return name == "NOW" or (name == "FUNC" and _has_now(args[1]))
    return any(map(_has_now, args)) or (len(node) > 2 and _has_now(node[2]))


def index_function(node: Any) -> Function:
    """The Python function of a kept term. It reads nothing but the document that it is given."""
    context = Context(cast(Any, None), Settings())
    return called(compile_query(node))(Env(context, {}))


def _to_binary(index: Index) -> dict[str, Any]:
    return binary_value(_MAGIC + json.dumps(index.term).encode())


def _from_binary(value: Any) -> Any:
    data = binary_bytes(value)
    if not data.startswith(_MAGIC):
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot create an index with binary data that is no index function.")
    try:
        return json.loads(data.removeprefix(_MAGIC))
    except ValueError as problem:
        raise QueryError(ErrorType.QUERY_LOGIC, "The binary data of the index function is damaged.") from problem


@term("INDEX_DROP", 2, writes=True)
def index_drop(call: Call) -> Fn:
    source, name = (arg.run for arg in call.args)

    def drop(env: Env) -> dict[str, int]:
        table = whole_table(source(env))
        env.context.writing.drop_index(env.context.catalog.index(table, _name(env, name), _DOES_NOT_EXIST))
        return {"dropped": 1}

    return drop


@term("INDEX_RENAME", 3, options=("overwrite",), writes=True)
def index_rename(call: Call) -> Fn:
    source, old, new = (arg.run for arg in call.args)
    overwrite = call.option("overwrite", False)

    def rename(env: Env) -> dict[str, int]:
        table, name, wanted = whole_table(source(env)), _name(env, old), _name(env, new)
        for each in (name, wanted):
            _refuse_primary(table, each)
        index = env.context.catalog.index(table, name, _DOES_NOT_EXIST)
        if name == wanted:
            return {"renamed": 0}
        env.context.writing.rename_index(index, wanted, expect("BOOL", overwrite(env)))
        return {"renamed": 1}

    return rename


@term("INDEX_LIST", 1)
def index_list(call: Call) -> Fn:
    source = call.args[0].run
    return lambda env: sorted(env.context.catalog.indexes(whole_table(source(env))))


@term("INDEX_STATUS", 1, None)
def index_status(call: Call) -> Fn:
    """What is known of the named indexes, or of all: they are always ready."""
    return _statuses(call)


@term("INDEX_WAIT", 1, None)
def index_wait(call: Call) -> Fn:
    """As `index_status`: there is nothing to wait for."""
    return _statuses(call)


def _statuses(call: Call) -> Fn:
    source, *names = [arg.run for arg in call.args]

    def run(env: Env) -> list[dict[str, Any]]:
        table = whole_table(source(env))
        wanted = [_name(env, name) for name in names] or sorted(env.context.catalog.indexes(table))
        return [_status(env.context.catalog.index(table, name)) for name in wanted]

    return run


def _status(index: Index) -> dict[str, Any]:
    return {
        "index": index.name,
        "ready": True,
        "multi": index.multi,
        "geo": False,
        "outdated": False,
        "function": _to_binary(index),
        "query": _query(index),
    }


# A function as text --------------------------------------------------------------------------------------------------


def _query(index: Index) -> str:
    """The query that made an index, for people to read."""
    if type(index.term) is str:
        function = f'function(var1) {{ return var1.bracket("{index.term}"); }}'
    else:
        function = _shown(index.term)
    return f'indexCreate("{index.name}", {function}{", {multi: true}" if index.multi else ""})'


def _shown(node: Any) -> str:
    if type(node) is dict:
        return "{" + ", ".join(f"{json.dumps(name)}: {_shown(part)}" for name, part in node.items()) + "}"
    if type(node) is not list:
        return json.dumps(node)
    name, args = NAMES[node[0]], node[1] if len(node) > 1 else []
    match name:
        case "VAR":
            return f"var{args[0]}"
        case "IMPLICIT_VAR":
            return "r.row"
        case "MAKE_ARRAY":
            return f"[{_listed(args)}]"
        case "FUNC":
            return f"function({', '.join(f'var{id}' for id in _ids(args[0]))}) {{ return {_shown(args[1])}; }}"
    return _call(_camel(name), args, node[2] if len(node) > 2 else {})


def _call(name: str, args: list[Any], options: dict[str, Any]) -> str:
    rest = [*map(_shown, args[1:]), *([_shown(options)] if options else [])]
    return f"{_shown(args[0]) if args else 'r'}.{name}({', '.join(rest)})"


def _listed(args: list[Any]) -> str:
    return ", ".join(map(_shown, args))


def _ids(node: Any) -> Iterator[int]:
    yield from node[1]


def _camel(name: str) -> str:
    first, *others = name.lower().split("_")
    return first + "".join(map(str.capitalize, others))
