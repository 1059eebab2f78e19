"""Queries made at random: each is answered, or refused by an error of the protocol; none is a bug's or the file's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rethinkdb.ql2_pb2 import Term

from cdcbridge.engine.core import Answer, Atom, Engine
from cdcbridge.engine.errors import QueryError
from cdcbridge.engine.reql.registry import NAMES, _registry

T = Term.TermType
NUMBERS = {name: number for number, name in NAMES.items()}
TABLE = [T.TABLE, ["t"]]
LIST = [T.MAKE_ARRAY, [1, "a", None]]

VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 2.5, 2**53, 1e300, 10**40, "", "a", "id", "t", "test", "error", "update", "hard"]
    ),
    st.sampled_from([{}, {"id": 1}, {"id": 2, "a": {"b": LIST}}, {"a": None}, {"$reql_type$": "TIME"}]),
    st.sampled_from([[T.NOW, []], [T.MINVAL, []], [T.MAXVAL, []], LIST, [T.VAR, [1]]]),
    st.sampled_from([TABLE, [T.GET, [TABLE, 1]], [T.CHANGES, [TABLE]], [T.DB, ["test"]]]),
)
SOURCES = st.sampled_from([TABLE, TABLE, [T.GET, [TABLE, 1]], [T.CHANGES, [TABLE]], [T.MAKE_ARRAY, [{"id": 1}, {}]]])


@st.composite
def calls(draw: st.DrawFn, arguments: st.SearchStrategy[Any]) -> Any:
    """A term that there is, with as many arguments as it takes, of any kind."""
    name = draw(st.sampled_from(sorted(_registry)))
    entry = _registry[name]
    most = entry.least + 2 if entry.most is None else entry.most
    args: list[Any] = [draw(arguments) for _ in range(draw(st.integers(entry.least, most)))]
    if draw(st.booleans()) and args:
        args[0] = draw(SOURCES)
    names = draw(st.lists(st.sampled_from(sorted(entry.options)), max_size=2, unique=True)) if entry.options else []
    return [NUMBERS[name], args, {option: draw(arguments) for option in names}]


def functions(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ids = st.sampled_from([[1], [], [1, 2, 3]])
    return st.builds(lambda ids, body: [T.FUNC, [[T.MAKE_ARRAY, ids], body]], ids, bodies)


QUERIES = st.recursive(
    VALUES,
    lambda parts: calls(parts) | functions(parts) | st.dictionaries(st.sampled_from(["id", "a"]), parts, max_size=2),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path: Path = tmp_path_factory.mktemp("any") / "engine.db"
    opened = Engine.open(path)
    yield opened
    opened.close()


def prepare(engine: Engine) -> None:
    """The database `test` with the table `t` and two documents, whatever has been done to it."""
    rows = [T.MAKE_ARRAY, [{"id": 1, "a": {"b": LIST}}, {"id": 2, "a": 5}]]
    create = [T.DB_CREATE, ["test"]], [T.TABLE_CREATE, [[T.DB, ["test"]], "t"]], [T.INSERT, [TABLE, rows]]
    engine.write([engine.compile(query, {}) for query in create])


def answered(engine: Engine, query: Any) -> None:
    """Run a query, and read what there is to read."""
    plan = engine.compile(query, {})
    answer: Answer | Exception = engine.write([plan])[0] if plan.writes else engine.read(plan)
    if isinstance(answer, Exception):
        raise answer
    if not isinstance(answer, Atom):
        for _ in range(3):
            if answer.read(100, 10_000).done:
                break
        answer.close()


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=calls(QUERIES))
def test_any_query_has_an_answer_or_an_error_of_the_protocol(engine: Engine, query: Any) -> None:
    prepare(engine)
    with suppress(QueryError):
        answered(engine, query)
    engine.sync()
    assert engine.store.durable_seq == engine.store.committed_seq
