"""From one type to another: coercion, JSON, binary data, objects; and bits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import r

from cdcbridge.engine.errors import ErrorType
from tests.reql import failure, run

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=10,
)


class TestCoercion:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.expr(1).coerce_to("string"), "1"),
            (r.expr("1.50").coerce_to("number"), 1.5),
            (r.expr("-0x").coerce_to("string"), "-0x"),
            (r.expr({"b": 1, "a": [None]}).coerce_to("string"), '{"a":[null],"b":1}'),
            (r.expr({"b": 1, "a": 2}).coerce_to("array"), [["a", 2], ["b", 1]]),
            (r.expr([["a", 1], ["b", 2]]).coerce_to("object"), {"a": 1, "b": 2}),
            (r.expr([1, 2]).coerce_to("array"), [1, 2]),
            (r.expr([1]).map(lambda x: x).coerce_to("array"), [1]),
            (r.expr(None).coerce_to("bool"), False),
            (r.expr(0).coerce_to("BOOL"), True),
            (r.expr("é").coerce_to("binary"), {"$reql_type$": "BINARY", "data": "w6k="}),
            (r.expr("é").coerce_to("binary").coerce_to("string"), "é"),
            (r.range(3).coerce_to("array"), [0, 1, 2]),
        ],
    )
    def test_a_value_becomes_one_of_another_type(self, query: Any, value: Any) -> None:
        assert run(query) == value

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.expr(1).coerce_to("array"), "Cannot coerce NUMBER to ARRAY."),
            (r.expr(True).coerce_to("number"), "Cannot coerce BOOL to NUMBER."),
            (r.expr(1).coerce_to("planet"), "Cannot coerce NUMBER to PLANET."),
            (r.expr("x1").coerce_to("number"), "Could not coerce `x1` to NUMBER."),
            (r.expr("nan").coerce_to("number"), "Could not coerce `nan` to NUMBER."),
            (r.expr("1_0").coerce_to("number"), "Could not coerce `1_0` to NUMBER."),
            (r.expr([[1, 2, 3]]).coerce_to("object"), "Expected array of size 2, but got size 3."),
            (r.expr([["a"]]).coerce_to("object"), "Expected array of size 2, but got size 1."),
            (r.expr([1]).coerce_to("object"), "Expected type ARRAY but found NUMBER."),
            (r.expr(b"\xff").coerce_to("string"), "Invalid UTF-8 sequence"),
        ],
    )
    def test_where_there_is_no_way_it_fails(self, query: Any, message: str) -> None:
        assert failure(query).message.startswith(message)


class TestJson:
    @given(documents)
    def test_a_text_made_of_a_value_is_that_value(self, value: Any) -> None:
        assert run(r.json(r.expr(value).to_json_string())) == run(value)

    def test_times_are_read_as_they_travel(self) -> None:
        text = json.dumps({"$reql_type$": "TIME", "epoch_time": 1.0, "timezone": "+00:00"})
        assert run(r.json(text).year()) == 1970

    @pytest.mark.parametrize("text", ["", "[1,2", "NaN", "[1]]", "{'a':1}"])
    def test_what_is_no_json_is_an_error(self, text: str) -> None:
        assert failure(r.json(text)).message.startswith(f'Failed to parse "{text}" as JSON: ')

    def test_a_text_that_nests_without_end_is_an_error(self) -> None:
        assert failure(r.json("[" * 100_000)).type in (ErrorType.RESOURCE_LIMIT, ErrorType.QUERY_LOGIC)


class TestBinary:
    def test_it_is_made_of_text(self) -> None:
        assert run(r.binary(r.expr("é"))) == {"$reql_type$": "BINARY", "data": "w6k="}
        assert run(r.binary(r.binary(r.expr("a")))) == {"$reql_type$": "BINARY", "data": "YQ=="}

    def test_it_is_made_of_nothing_else(self) -> None:
        assert failure(r.binary(r.expr(1))).message == "Expected type STRING but found NUMBER."

    def test_its_length_is_in_bytes(self) -> None:
        assert run(r.expr(b"abc").count()) == 3


class TestObjects:
    def test_names_and_values_come_in_turn(self) -> None:
        assert run(r.object("a", 1, "b", [2])) == {"a": 1, "b": [2]}
        assert run(r.object()) == {}

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.object("a", 1, "b"), "OBJECT expects an even number of arguments (but found 3)."),
            (r.object("a", 1, "a", 2), 'Duplicate key "a" in object.  (got 1 and 2 as values)'),
            (r.object(1, 2), "Expected type STRING but found NUMBER."),
        ],
    )
    def test_anything_else_is_an_error(self, query: Any, message: str) -> None:
        assert failure(query).message == message


class TestBits:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.expr(12).bit_and(10), 8),
            (r.expr(12).bit_or(3), 15),
            (r.expr(12).bit_xor(10), 6),
            (r.expr(7).bit_not(), -8),
            (r.expr(3).bit_sal(4), 48),
            (r.expr(-5).bit_sar(1), -3),
            (r.expr(5).bit_sar(1000), 0),
        ],
    )
    def test_integers_are_taken_by_their_bits(self, query: Any, value: int) -> None:
        assert run(query) == value

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.expr(1.5).bit_not(), "Number not an integer: 1.5"),
            (r.expr(2**60).bit_and(1), "Integer too large: 1152921504606846976"),
            (r.expr(1).bit_sal(-1), "Cannot bit-shift by a negative value."),
            (r.expr(1).bit_sal(2**40), "Integer too large: the result of a shift"),
            (r.expr("a").bit_or(1), "Expected type NUMBER but found STRING."),
        ],
    )
    def test_what_has_no_bits_is_an_error(self, query: Any, message: str) -> None:
        assert failure(query).message == message
