"""Clients that send anything get answers of the protocol, and leave nothing behind. Terms: `test_any_query.py`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rethinkdb.ql2_pb2 import Term

from cdcbridge.engine.core import Engine
from tests.fuzzing import MAGICS, Fuzzed, talk

T = Term.TermType
TABLE = [T.TABLE, ["t"]]
TOKENS = st.integers(0, 3)
OPTIONS = st.dictionaries(
    st.sampled_from(["noreply", "max_batch_rows", "array_limit", "db", "durability", "profile", "unheard_of"]),
    st.sampled_from([True, False, None, 1, 0, -1, 1e300, "soft", [T.DB, ["test"]], [T.DB, ["none"]], {}]),
    max_size=2,
)
QUERIES = st.sampled_from(
    [
        TABLE,
        [T.CHANGES, [TABLE]],
        [T.CHANGES, [[T.GET, [TABLE, 1]]]],
        [T.INSERT, [TABLE, {"id": 1}], {"conflict": "replace"}],
        [T.INSERT, [TABLE, [T.MAKE_ARRAY, [{"n": n} for n in range(20)]]]],
        [T.DELETE, [TABLE]],
        [T.TABLE_DROP, ["t"]],
        [T.TABLE_CREATE, ["t"]],
        [T.ERROR, ["no"]],
        [99999, []],
        None,
    ]
)
REQUESTS = st.one_of(
    st.builds(lambda token, query, options: (token, [1, query, options]), TOKENS, QUERIES, OPTIONS),
    st.builds(lambda token, kind: (token, [kind]), TOKENS, st.integers(0, 6)),
)

anything = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = Engine.open(tmp_path_factory.mktemp("fuzz") / "engine.db")
    yield opened
    opened.close()


@anything
@given(st.sampled_from(MAGICS), st.lists(st.binary(max_size=3000), max_size=5))
def test_any_bytes_are_answered_or_waited_on(engine: Engine, magic: bytes, chunks: list[bytes]) -> None:
    talk(engine, [magic, *chunks])


@anything
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=200)), max_size=10), st.integers(1, 50))
def test_any_frames_are_answered_however_they_are_cut(
    engine: Engine, queries: list[tuple[int, bytes]], size: int
) -> None:
    data = b"".join(struct.pack("<qI", token, len(text)) + text for token, text in queries)
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    assert talk(engine, [MAGICS[-1], *cut]) == len(queries)


@anything
@given(st.lists(REQUESTS, max_size=30))
def test_any_conversation_is_answered_and_leaves_nothing(engine: Engine, requests: list[tuple[int, Any]]) -> None:
    client = Fuzzed(engine)
    client.receive(MAGICS[-1])
    for token, query in requests:
        client.ask(token, query)
    client.close()
