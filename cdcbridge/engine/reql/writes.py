"""Terms that change documents: insert, update, replace, delete.

Each document is one change: it is written, counted and journaled by itself, and one that cannot be written is counted
as an error without stopping the others. All of them commit together.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cdcbridge.engine.catalog import Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.access import whole_table
from cdcbridge.engine.reql.admin import checked_durability
from cdcbridge.engine.reql.control import called
from cdcbridge.engine.reql.documents import LITERAL, STRAY_LITERAL, merged
from cdcbridge.engine.reql.registry import Call, Compiled, Fn, term
from cdcbridge.engine.reql.runtime import (
    Context,
    Env,
    Row,
    Stream,
    datum,
    is_plain_object,
    kind_of,
    sequence,
)
from cdcbridge.engine.values import (
    ARRAY_LIMIT,
    PSEUDO_TYPE,
    compare,
    dumps,
    key_form,
    loads,
    pretty,
    printed,
    storage_key,
)

DEEPEST_DOCUMENT = 200
"""A document that nests deeper might be stored by one query and then be too deep for every other one to read."""

LARGEST_DOCUMENT_BYTES = 1 << 27

OBSOLETE = "Error:  encountered obsolete optarg `return_vals`.  Use `return_changes` instead."

COUNTERS = ("deleted", "errors", "inserted", "replaced", "skipped", "unchanged")

Change = Callable[[Any], Any]
"""The new document from the old one (None for none)."""


@dataclass
class Summary:
    """A write's answer: how many documents met which fate, and what else the client asked for."""

    context: Context
    return_changes: Any = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    first_error: str | None = None
    generated_keys: list[str] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    unlisted_changes: bool = False
    """There are more changes than an array may have."""

    def count(self, fate: str, old: bytes | None, new: bytes | None) -> None:
        """One document went from `old` to `new`."""
        self.counts[fate] += 1
        if self.return_changes == "always" or (self.return_changes and old != new):
            self._remember({"old_val": _value(old), "new_val": _value(new)})

    def fail(self, message: str, old: Any) -> None:
        """One document could not be written."""
        self.counts["errors"] += 1
        self.first_error = self.first_error or message
        if self.return_changes == "always":
            self._remember({"old_val": old, "new_val": old, "error": message})

    def _remember(self, change: dict[str, Any]) -> None:
        self.unlisted_changes = len(self.changes) >= self.context.settings.array_limit
        if not self.unlisted_changes:
            self.changes.append(change)

    def answer(self) -> dict[str, Any]:
        """The object that the client gets."""
        answer: dict[str, Any] = dict(self.counts)
        limit = self.context.settings.array_limit
        if self.first_error is not None:
            answer["first_error"] = self.first_error
        if self.return_changes:
            answer["changes"] = self.changes
        if self.generated_keys:
            answer["generated_keys"] = self.generated_keys[:limit]
        if warnings := list(self._warnings(limit)):
            answer["warnings"] = warnings
        return answer

    def _warnings(self, limit: int) -> Iterator[str]:
        if (made := len(self.generated_keys)) > limit:
            yield f"Too many generated keys ({made}), array truncated to {limit}."
        if self.unlisted_changes:
            yield f"Too many changes, array truncated to {limit}."


def _value(doc: bytes | None) -> Any:
    return None if doc is None else loads(doc)


# One document --------------------------------------------------------------------------------------------------------


def write_document(summary: Summary, table: Table, key: Any, change: Change) -> None:
    """Put `change` of the document under `key` in its place, and count what happened."""
    transaction, stored_key = summary.context.writing, storage_key(key)
    old = transaction.get(table, stored_key)
    try:
        new = _stored(table, key, change(_value(old)))
    except QueryError as problem:
        summary.fail(problem.message, _value(old))
        return
    if new != old:
        transaction.put(table, stored_key, dumps(key_form(key)), old, new)
    summary.count(_fate(old, new), old, new)


def _fate(old: bytes | None, new: bytes | None) -> str:
    if old == new:
        return "skipped" if old is None else "unchanged"
    if old is None:
        return "inserted"
    return "deleted" if new is None else "replaced"


def _stored(table: Table, key: Any, document: Any) -> bytes | None:
    """A document as it is stored; None for none.

    Raises:
        QueryError: it is no object, or another document's, or cannot be stored.
    """
    if document is None:
        return None
    _check_document(table, document)
    if compare(document[table.primary_key], key) != 0:
        change = f"`{printed(key)}` -> `{printed(document[table.primary_key])}`"
        message = f"Primary key `{table.primary_key}` cannot be changed ({change})."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    if len(stored := dumps(document)) > LARGEST_DOCUMENT_BYTES:
        message = f"Document too large ({len(stored)} bytes, and at most {LARGEST_DOCUMENT_BYTES} can be stored)."
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    return stored


def _check_document(table: Table, document: Any) -> None:
    if not is_plain_object(document):
        raise _no_object(document)
    if table.primary_key not in document:
        message = f"Inserted object must have primary key `{table.primary_key}`:\n{pretty(document)}"
        raise QueryError(ErrorType.QUERY_LOGIC, message)
    _check_storable(document)


def _no_object(value: Any) -> QueryError:
    message = f"Inserted value must be an OBJECT (got {kind_of(value)}):\n{pretty(value)}"
    return QueryError(ErrorType.QUERY_LOGIC, message)


def _check_storable(value: Any, depth: int = 1) -> None:
    kind = type(value)
    if kind is not dict and kind is not list:
        return
    if depth > DEEPEST_DOCUMENT:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Document nested deeper than {DEEPEST_DOCUMENT} levels.")
    if kind is dict and value.get(PSEUDO_TYPE) == LITERAL:
        raise QueryError(ErrorType.QUERY_LOGIC, STRAY_LITERAL)
    if kind is list and len(value) > ARRAY_LIMIT:
        raise QueryError(ErrorType.QUERY_LOGIC, "Array too large for disk writes (limit 100,000 elements).")
    for part in value.values() if kind is dict else value:
        _check_storable(part, depth + 1)


# Options that all writes share ---------------------------------------------------------------------------------------


class _Options:
    """`durability` and `return_changes` of one term."""

    def __init__(self, call: Call) -> None:
        if "return_vals" in call.options:
            raise QueryError(ErrorType.QUERY_LOGIC, OBSOLETE, call.path)
        self._durability = call.option("durability")
        self._return_changes = call.option("return_changes", False)

    def begin(self, env: Env, table: Table) -> Summary:
        """Start counting a write to `table`, after a look at what the query asks for."""
        asked = self._durability(env)
        if asked is None:
            soft = env.context.settings.soft or table.durability == "soft"
        else:
            soft = checked_durability(asked) == "soft"
        env.context.hard = env.context.hard or not soft
        return Summary(env.context, _checked_return_changes(self._return_changes(env)))


def _checked_return_changes(value: Any) -> Any:
    if value is True or value is False or value == "always":
        return value
    message = f"Invalid return_changes value `{value}` (options are `true`, `false`, and `'always'`.)"
    raise QueryError(ErrorType.QUERY_LOGIC, message)


_SHARED = ("durability", "return_changes", "ignore_write_hook", "return_vals")


# Insert --------------------------------------------------------------------------------------------------------------


@term("INSERT", 2, options=("conflict", *_SHARED), writes=True)
def insert(call: Call) -> Fn:
    """New documents; `conflict` says what to do about a key that is taken."""
    target, documents = (arg.run for arg in call.args)
    options, conflict = _Options(call), _conflict(call.options.get("conflict"))

    def run(env: Env) -> dict[str, Any]:
        table = whole_table(target(env))
        summary, resolve = options.begin(env, table), conflict(env)
        for document in _inserted(env, documents(env)):
            _insert_document(summary, table, document, resolve)
        return summary.answer()

    return run


def _inserted(env: Env, value: Any) -> Iterator[Any]:
    """The documents to insert: those of a sequence, or the one object. All are read before the first is written."""
    value = value.doc if type(value) is Row else value
    if type(value) is dict:
        return iter((value,))
    documents = sequence(env, value)
    return iter(documents.collected() if documents.array else list(documents.finite()))


Resolve = Callable[[Table, Any, Any, Any], Any]
"""The document to store, from the table, the key, the document that is there and the new one."""


def _insert_document(summary: Summary, table: Table, document: Any, resolve: Resolve) -> None:
    document = datum(document)
    if is_plain_object(document) and table.primary_key not in document:
        document = {**document, table.primary_key: str(uuid.uuid4())}
        summary.generated_keys.append(document[table.primary_key])
    try:
        _check_document(table, document)
        key = document[table.primary_key]
        if key is None:
            raise QueryError(ErrorType.QUERY_LOGIC, _null_key(table, document))
        storage_key(key)
    except QueryError as problem:
        summary.fail(problem.message, None)
        return
    write_document(summary, table, key, lambda old: document if old is None else resolve(table, key, old, document))


def _null_key(table: Table, document: Any) -> str:
    kinds = "a number, string, bool, pseudotype or array"
    return f"Primary keys must be either {kinds} (got type NULL):\n{pretty(document[table.primary_key])}"


def _conflict(option: Compiled | None) -> Callable[[Env], Resolve]:
    """How to resolve a key that is taken: an error, the new document, both merged, or a function's result."""
    if option is None:
        return lambda env: _refused
    if option.arity is None:
        return lambda env: _named_resolution(datum(option.run(env)))
    if option.arity not in (0, 3):
        raise QueryError(ErrorType.QUERY_LOGIC, "The conflict function passed to `insert` should expect 3 arguments.")
    if not option.deterministic:
        raise QueryError(ErrorType.QUERY_LOGIC, "The conflict function passed to `insert` must be deterministic.")
    function = called(option)

    def bind(env: Env) -> Resolve:
        resolve = function(env)
        if option.arity == 0:
            return lambda table, key, old, new: resolve()
        return lambda table, key, old, new: resolve(key, old, new)

    return bind


def _named_resolution(name: Any) -> Resolve:
    match name:
        case "error":
            return _refused
        case "replace":
            return lambda table, key, old, new: new
        case "update":
            return lambda table, key, old, new: merged(old, new)
    message = f'Conflict option `{name}` unrecognized (options are "error", "replace" and "update").'
    raise QueryError(ErrorType.QUERY_LOGIC, message)


def _refused(table: Table, key: Any, old: Any, new: Any) -> Any:
    message = f"Duplicate primary key `{table.primary_key}`:\n{pretty(old)}\n{pretty(new)}"
    raise QueryError(ErrorType.QUERY_LOGIC, message)


# Update, replace, delete ---------------------------------------------------------------------------------------------


@term("UPDATE", 2, options=("non_atomic", *_SHARED), writes=True)
def update(call: Call) -> Fn:
    """Fields merged into documents: an object's, or what a function makes of the document; null leaves it as it is."""

    def change(new_fields: Change, old: Any) -> Any:
        if old is None or (patch := new_fields(old)) is None:
            return old
        if not is_plain_object(patch):
            raise _no_object(patch)
        return merged(old, patch)

    return _changing(call, change)


@term("REPLACE", 2, options=("non_atomic", *_SHARED), writes=True)
def replace(call: Call) -> Fn:
    """Documents replaced by an object, or by what a function makes of the document; null deletes."""
    return _changing(call, lambda new_document, old: new_document(old))


@term("DELETE", 1, options=_SHARED, writes=True)
def delete(call: Call) -> Fn:
    target, options = call.args[0].run, _Options(call)
    return lambda env: _write_targets(env, target(env), options, lambda old: None)


def _changing(call: Call, change: Callable[[Change, Any], Any]) -> Fn:
    """A write of the documents in the first argument, by the second: a value, or a function of the document."""
    target, argument = call.args[0].run, call.args[1]
    options, non_atomic = _Options(call), call.option("non_atomic", False)

    def run(env: Env) -> dict[str, Any]:
        if not argument.deterministic and not non_atomic(env):
            message = "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?"
            raise QueryError(ErrorType.QUERY_LOGIC, message)
        made = _made_by(env, argument)
        return _write_targets(env, target(env), options, lambda old: change(made, old))

    return run


def _made_by(env: Env, argument: Compiled) -> Change:
    if argument.arity is not None:
        return called(argument)(env)
    return lambda old: datum(argument.run(env))


def _write_targets(env: Env, target: Any, options: _Options, change: Change) -> dict[str, Any]:
    """Apply a change to a row, or to each row of a selection."""
    table = target.table if type(target) in (Row, Stream) else None
    if table is None:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type SELECTION but found {kind_of(target)}.")
    summary = options.begin(env, table)
    for key in _keys(target, table):
        write_document(summary, table, key, change)
    return summary.answer()


def _keys(target: Row | Stream, table: Table) -> Iterator[Any]:
    if isinstance(target, Row):
        yield target.key
    else:
        for document in target.finite():
            yield document[table.primary_key]
