"""Queries into functions: what is refused, by which error, and where in the query it says the fault is."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from rethinkdb import r
from rethinkdb.ast import ReQLEncoder, RqlQuery
from rethinkdb.ql2_pb2 import Term

from cdcbridge.engine.errors import ClientError, CompileError, ErrorType, QueryError
from cdcbridge.engine.reql.library import compile_query
from cdcbridge.engine.reql.registry import DEEPEST_QUERY, NAMES, Compiled, _registry
from cdcbridge.engine.reql.runtime import Context, Env, Settings, datum
from cdcbridge.engine.store import Store

T = Term.TermType

IN_SCOPE = [
    "ADD", "AND", "ASC", "BETWEEN", "BRACKET", "BRANCH", "CHANGES", "COUNT", "DATUM", "DB", "DB_CREATE",
    "DB_DROP", "DB_LIST", "DELETE", "DESC", "DIV", "EQ", "FILTER", "FUNC", "FUNCALL", "GE", "GET",
    "GET_FIELD", "GT", "IMPLICIT_VAR", "INSERT", "LE", "LIMIT", "LITERAL", "LT", "MAKE_ARRAY", "MAKE_OBJ",
    "MAP", "MAXVAL", "MERGE", "MINVAL", "MOD", "MUL", "NE", "NOT", "OR", "ORDER_BY", "PLUCK", "REPLACE",
    "SAMPLE", "SUB", "SYNC", "TABLE", "TABLE_CREATE", "TABLE_DROP", "TABLE_LIST", "UPDATE", "VAR",
]  # fmt: skip
BUILT_IN = {"DATUM", "FUNC", "IMPLICIT_VAR", "MAKE_ARRAY", "MAKE_OBJ", "VAR"}
"""Terms of the compiler itself."""


def compiled(query: Any) -> Compiled:
    return compile_query(json.loads(ReQLEncoder().encode(query)) if isinstance(query, RqlQuery) else query)


def run(query: Any) -> Any:
    """The value of a query that needs no database."""
    return datum(compiled(query).run(Env(Context(cast(Store, None), Settings()), {})))


class TestTerms:
    @pytest.mark.parametrize("name", sorted(NAMES.values()))
    def test_a_term_is_there_or_is_refused_by_name(self, name: str) -> None:
        if name in BUILT_IN or name in _registry:
            return
        (number,) = (number for number, known in NAMES.items() if known == name)
        with pytest.raises(QueryError, match=rf"^not supported( yet)?: {name}(:|$)") as caught:
            compile_query([number, []])
        assert caught.value.path == ()

    @pytest.mark.parametrize("name", IN_SCOPE)
    def test_what_the_tutorials_need_is_there(self, name: str) -> None:
        assert name in BUILT_IN or name in _registry

    @pytest.mark.parametrize(
        "query",
        [
            [],
            [[]],
            ["x"],
            [True, []],
            [99999, []],
            [T.ADD, 5],
            [T.ADD, [], []],
            [T.ADD, [], {}, {}],
            [1.5],
        ],
    )
    def test_what_is_no_term_is_the_clients_error(self, query: Any) -> None:
        with pytest.raises(ClientError, match="Client is buggy"):
            compile_query(query)

    def test_a_term_may_come_without_arguments_or_options(self) -> None:
        assert run([T.MAKE_ARRAY]) == []
        assert run([T.MAKE_OBJ, {"a": 1}]) == {"a": 1}

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ([T.NOT, [1, 2]], "Expected 1 argument but found 2."),
            ([T.MOD, [1]], "Expected 2 arguments but found 1."),
            ([T.SLICE, [1]], "Expected between 2 and 3 arguments but found 1."),
            ([T.ADD, []], "Expected 1 or more arguments but found 0."),
            ([T.FUNC, [1]], "Expected 2 arguments but found 1."),
        ],
    )
    def test_a_wrong_number_of_arguments_does_not_compile(self, query: Any, message: str) -> None:
        with pytest.raises(CompileError) as caught:
            compile_query(query)
        assert caught.value.message == message

    def test_an_unknown_option_does_not_compile(self) -> None:
        with pytest.raises(CompileError, match=r"^Unrecognized optional argument `upsert`\.$") as caught:
            compiled(r.table("t").insert({}, upsert=True))
        assert caught.value.path == ("upsert",)


class TestVariables:
    def test_functions_see_the_variables_around_them(self) -> None:
        assert run(r.expr([1, 2]).map(lambda x: r.expr([10, 20]).map(lambda y: x + y))) == [[11, 21], [12, 22]]

    def test_row_is_the_argument_of_the_function_around_it(self) -> None:
        assert run(r.expr([{"a": 1}, {"a": 5}]).filter(r.row["a"] > 2)) == [{"a": 5}]

    def test_a_variable_out_of_scope_does_not_compile(self) -> None:
        with pytest.raises(CompileError, match=r"^Variable is not in scope\.$"):
            compile_query([T.VAR, [1]])

    def test_row_outside_of_a_function_does_not_compile(self) -> None:
        with pytest.raises(CompileError, match=r"^r\.row is not defined in this context\.$"):
            compile_query([T.IMPLICIT_VAR, []])

    @pytest.mark.parametrize("ids", [1, [T.MAKE_ARRAY, ["a"]], {}])
    def test_a_functions_arguments_are_numbers(self, ids: Any) -> None:
        with pytest.raises(CompileError, match="as an array of numbers"):
            compile_query([T.FUNC, [ids, 1]])

    def test_a_function_with_other_arguments_than_are_given_fails(self) -> None:
        with pytest.raises(QueryError, match="Expected function with 1 argument but found function with 2 arguments"):
            run(r.expr([1]).filter(lambda x, y: x))


class TestDepth:
    def test_a_query_may_be_deep(self) -> None:
        query: Any = 1
        for _ in range(DEEPEST_QUERY - 2):
            query = [T.ADD, [query, 1]]
        assert run(query) == DEEPEST_QUERY - 1

    def test_a_deeper_one_does_not_compile(self) -> None:
        query: Any = 1
        for _ in range(DEEPEST_QUERY + 2):
            query = [T.ADD, [query, 1]]
        with pytest.raises(CompileError, match="nested deeper"):
            compile_query(query)


class TestPlaces:
    """The driver draws its carets from an error's path."""

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            (r.expr([1, 2]).map(lambda x: x + "a"), (1, 1)),
            (r.branch(True, r.expr(1) / 0, 2), (1,)),
            (r.expr({"a": r.expr({})["b"]}), ("a",)),
            (r.expr(1) + (r.expr(2) + "x"), (1,)),
        ],
    )
    def test_an_error_says_where_it_happened(self, query: Any, path: tuple[int | str, ...]) -> None:
        with pytest.raises(QueryError) as caught:
            run(query)
        assert caught.value.path == path

    def test_the_innermost_term_that_knows_is_the_place(self) -> None:
        with pytest.raises(QueryError) as caught:
            run(r.expr([r.expr([1, r.expr(1) / 0])]))
        assert caught.value.path == (0, 1)


class TestProperties:
    """What the engine asks of a compiled query before it runs it."""

    @pytest.mark.parametrize(
        "query",
        [
            r.table("t").insert({}),
            r.table("t").get(1).delete(),
            r.expr([1]).map(lambda x: r.table("t").insert({"id": x})),
            r.expr({"a": r.table_create("t")}),
            r.branch(True, 1, r.db_drop("x")),
            r.table("t").sync(),
        ],
    )
    def test_a_write_anywhere_makes_it_a_write(self, query: Any) -> None:
        assert compiled(query).writes

    def test_reading_does_not(self) -> None:
        assert not compiled(r.table("t").filter({"a": 1}).limit(1).count()).writes

    def test_what_follows_a_feed_is_a_feed(self) -> None:
        assert compiled(r.table("t").changes().map(lambda c: c["new_val"]).limit(2)).is_feed

    @pytest.mark.parametrize("query", [r.random(), r.uuid(), r.table("t").count(), {"a": r.uuid()}, [r.random(5)]])
    def test_chance_and_other_tables_are_not_deterministic(self, query: Any) -> None:
        assert not compiled(r.expr(query)).deterministic

    @pytest.mark.parametrize("query", [r.now(), 1, r.row["a"] + 1, {"a": [1]}])
    def test_all_else_is(self, query: Any) -> None:
        assert compiled(r.expr([1]).map(lambda x: query)).deterministic

    def test_a_document_is_a_constant(self) -> None:
        document = compiled(r.expr({"id": 1, "tags": ["a", {"b": None}]}))
        assert document.constant
        assert document.value == {"id": 1, "tags": ["a", {"b": None}]}

    def test_a_long_array_is_refused(self) -> None:
        with pytest.raises(QueryError, match="Array over size limit `100000`") as caught:
            compile_query([T.MAKE_ARRAY, [0] * 100_001])
        assert caught.value.type is ErrorType.RESOURCE_LIMIT
