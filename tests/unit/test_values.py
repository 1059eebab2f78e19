"""ReQL's values: one form each, one order, and stored keys that sort in it."""

from __future__ import annotations

import base64
import json
from functools import cmp_to_key
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.values import (
    LARGEST_EXACT_INTEGER,
    MAXVAL,
    MINVAL,
    Ordered,
    compare,
    dumps,
    encoded_key,
    key_form,
    loads,
    number,
    pretty,
    printed,
    pseudo,
    storage_key,
    type_name,
)


def time(epoch_time: float, timezone: str = "+00:00") -> dict[str, Any]:
    return {"$reql_type$": "TIME", "epoch_time": epoch_time, "timezone": timezone}


def binary(data: bytes) -> dict[str, Any]:
    return {"$reql_type$": "BINARY", "data": base64.b64encode(data).decode()}


NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.0, -0.0, 2**53, 2**53 + 1, -(2**53) - 1, 5e-324, 1.5]),
).map(number)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
KEY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
TIMES = st.builds(
    time, st.floats(-1e10, 1e10).map(lambda s: number(round(s, 3))), st.sampled_from(["+00:00", "-07:30"])
)
BINARIES = st.binary(max_size=4).map(binary)
KEYS = st.recursive(
    st.one_of(NUMBERS, KEY_TEXT, st.booleans(), TIMES, BINARIES),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT, st.booleans(), TIMES, BINARIES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)

ONE_OF_EACH_TYPE = [
    MINVAL,
    [],
    [1],
    False,
    True,
    None,
    -1.5,
    0,
    2**53,
    {},
    {"a": 1},
    binary(b""),
    binary(b"\xff"),
    time(-1),
    time(1),
    "",
    "a",
    MAXVAL,
]
"""In ReQL's order."""


def sign(left: Any, right: Any) -> int:
    return (left > right) - (left < right)


class TestOrder:
    def test_types_are_ordered_by_their_names(self) -> None:
        for low, left in enumerate(ONE_OF_EACH_TYPE):
            for high, right in enumerate(ONE_OF_EACH_TYPE):
                assert compare(left, right) == sign(low, high), (left, right)

    @pytest.mark.parametrize(
        ("lower", "higher"),
        [
            ([1, 2], [1, 3]),
            ([1], [1, 0]),
            ([], [[]]),
            ("B", "a"),
            ("\uffff", "\U00010000"),
            ({"a": 1}, {"a": 2}),
            ({"a": 9}, {"b": 1}),
            ({"a": 1}, {"a": 1, "b": 1}),
            (9, 10),
            (2**53, 2.0**53 + 2),
        ],
    )
    def test_values_of_one_type_are_ordered_by_what_is_in_them(self, lower: Any, higher: Any) -> None:
        assert compare(lower, higher) == -1
        assert compare(higher, lower) == 1

    def test_a_time_is_the_same_in_every_zone(self) -> None:
        assert compare(time(1, "+01:00"), time(1, "-07:00")) == 0

    def test_an_integer_equals_the_same_float(self) -> None:
        assert compare(1, 1.0) == compare(0, -0.0) == 0

    @given(VALUES, VALUES, VALUES)
    def test_it_is_a_total_order(self, one: Any, two: Any, three: Any) -> None:
        assert compare(one, one) == 0
        assert compare(one, two) == -compare(two, one)
        low, middle, high = sorted([one, two, three], key=Ordered)
        assert compare(low, middle) <= 0
        assert compare(middle, high) <= 0
        assert compare(low, high) <= 0

    @given(st.lists(VALUES, max_size=6))
    def test_sorting_by_ordered_is_sorting_by_compare(self, values: list[Any]) -> None:
        assert sorted(values, key=Ordered) == sorted(values, key=cmp_to_key(compare))

    @pytest.mark.parametrize(
        ("value", "name"),
        [(None, "NULL"), (True, "BOOL"), (1, "NUMBER"), (1.5, "NUMBER"), ("", "STRING"), ([], "ARRAY"), ({}, "OBJECT")],
    )
    def test_types_have_the_names_that_messages_use(self, value: Any, name: str) -> None:
        assert type_name(value) == name

    def test_pseudo_types_have_names_of_their_own(self) -> None:
        assert type_name(time(0)) == "PTYPE<TIME>"
        assert type_name(binary(b"")) == "PTYPE<BINARY>"


class TestStorageKeys:
    @given(KEYS, KEYS)
    @example(0.0, -0.0)
    @example([1], [1, 0])
    @example(["a"], ["a", "b"])
    @example(["a", 1], ["ab"])
    @example([[]], [[], []])
    @example([binary(b"a")], [binary(b"a\x00")])
    @example([binary(b"\x00\xff")], [binary(b"\x00"), 1])
    @example(2**53, 2**53 + 2.0)
    @example(-1, -2)
    @example(time(1, "+00:00"), time(1, "+01:00"))
    def test_they_sort_exactly_as_the_values_do(self, left: Any, right: Any) -> None:
        assert sign(encoded_key(left), encoded_key(right)) == compare(left, right)

    @given(KEYS, KEYS)
    @example(0, -0.0)
    @example([time(1, "+00:00")], [time(1, "+01:00")])
    @example([time(0, "+00:00")], [time(-0.0, "+00:00")])
    def test_values_that_are_one_key_have_one_form(self, left: Any, right: Any) -> None:
        same = dumps(key_form(left)) == dumps(key_form(right))
        assert same == (encoded_key(left) == encoded_key(right))

    @given(KEYS)
    def test_the_one_form_of_a_key_is_that_key(self, key: Any) -> None:
        assert encoded_key(key_form(key)) == encoded_key(key)

    def test_a_string_of_127_bytes_is_a_key(self) -> None:
        assert len(storage_key("é" * 63 + "x")) == 128

    def test_a_longer_string_is_refused_with_its_text(self) -> None:
        with pytest.raises(QueryError, match=r'^Primary key too long \(max 127 characters\): "x{128}"$'):
            storage_key("x" * 128)

    def test_the_limit_is_in_bytes(self) -> None:
        with pytest.raises(QueryError, match="Primary key too long"):
            storage_key("é" * 64)

    @pytest.mark.parametrize("value", [None, {}, {"a": 1}, [None], [[{}]], {"$reql_type$": "GEOMETRY"}])
    def test_what_cannot_be_a_key_is_refused(self, value: Any) -> None:
        with pytest.raises(
            QueryError, match=r"^Primary keys must be either a number, string, bool, pseudotype or array"
        ):
            storage_key(value)

    def test_a_null_character_is_refused(self) -> None:
        with pytest.raises(QueryError, match="null character"):
            storage_key("a\0b")

    def test_half_a_surrogate_pair_is_refused(self) -> None:
        with pytest.raises(QueryError, match="unpaired surrogate"):
            storage_key("\ud800")


class TestNumbers:
    @pytest.mark.parametrize(
        ("given_", "kept"),
        [
            (1.0, 1),
            (-3.0, -3),
            (1.5, 1.5),
            (2.0**53, 2**53),
            (2**53 + 1, 2**53),
            (-(2**53) - 1, -(2**53)),
            (2**53 + 2, 2.0**53 + 2),
            (10**30, 1e30),
            (1e300, 1e300),
        ],
    )
    def test_a_number_has_one_form(self, given_: float, kept: float) -> None:
        assert number(given_) == kept
        assert type(number(given_)) is type(kept)

    def test_negative_zero_stays(self) -> None:
        assert dumps(number(-0.0)) == b"-0.0"

    @pytest.mark.parametrize(
        ("value", "text"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf"), (10**400, "inf")]
    )
    def test_what_is_not_finite_is_refused(self, value: float, text: str) -> None:
        with pytest.raises(QueryError, match=rf"^Non-finite number: {text}$") as caught:
            number(value)
        assert caught.value.type is ErrorType.QUERY_LOGIC

    @given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**200), 2**200))
    def test_it_is_the_nearest_double_and_stays_so(self, value: float) -> None:
        kept = number(value)
        assert kept == float(value)
        assert dumps(number(kept)) == dumps(kept)
        assert isinstance(kept, float) or abs(kept) <= LARGEST_EXACT_INTEGER


class TestJson:
    def test_keys_are_sorted_at_every_level(self) -> None:
        assert dumps({"b": {"z": 1, "a": 2}, "a": []}) == b'{"a":[],"b":{"a":2,"z":1}}'

    def test_text_is_utf_8(self) -> None:
        assert dumps("é\U0001f600\0") == '"é😀\\u0000"'.encode()

    @given(VALUES)
    def test_what_is_written_is_read_back(self, value: Any) -> None:
        assert dumps(loads(dumps(value))) == dumps(value)
        assert compare(loads(dumps(value)), value) == 0

    @given(VALUES)
    def test_it_is_json_for_everybody(self, value: Any) -> None:
        assert json.loads(dumps(value)) == value

    @given(st.dictionaries(TEXT, VALUES, max_size=5))
    def test_the_order_in_which_fields_came_does_not_show(self, value: dict[str, Any]) -> None:
        assert dumps(dict(reversed(value.items()))) == dumps(value)

    def test_a_bound_cannot_be_stored(self) -> None:
        with pytest.raises(QueryError, match=r"^`r\.minval` and `r\.maxval` cannot be written to disk\.$"):
            dumps({"a": [MINVAL]})

    def test_half_a_surrogate_pair_cannot_be_stored(self) -> None:
        with pytest.raises(QueryError, match="unpaired surrogate"):
            dumps({"a": "\udc00"})

    def test_messages_print_a_tab_a_level_and_sorted_keys(self) -> None:
        assert pretty({"id": 1, "a": {"b": [1, "é"]}, "e": {}}) == (
            '{\n\t"a":\t{\n\t\t"b":\t[\n\t\t\t1,\n\t\t\t"é"\n\t\t]\n\t},\n\t"e":\t{},\n\t"id":\t1\n}'
        )

    def test_messages_print_keys_on_one_line(self) -> None:
        assert printed([1, "a"]) == '[1,"a"]'


class TestPseudoTypes:
    def test_a_time_is_kept_to_the_millisecond(self) -> None:
        assert pseudo(time(1.23456, "-07:30")) == time(1.235, "-07:30")
        assert dumps(pseudo(time(2.0))["epoch_time"]) == b"2"

    def test_binary_data_has_one_spelling(self) -> None:
        assert pseudo({"$reql_type$": "BINARY", "data": "QR=="}) == binary(b"A")

    @pytest.mark.parametrize(
        "value",
        [
            {"$reql_type$": "TIME"},
            time(True),
            {"$reql_type$": "TIME", "epoch_time": "1", "timezone": "+00:00"},
            time(1, "UTC"),
            {"$reql_type$": "TIME", "epoch_time": 1},
        ],
    )
    def test_a_time_without_moment_or_zone_is_refused(self, value: dict[str, Any]) -> None:
        with pytest.raises(QueryError, match=r"^Invalid time pseudotype"):
            pseudo(value)

    @pytest.mark.parametrize("data", [None, 5, "Q", "é", "a b="])
    def test_binary_data_that_is_no_base64_is_refused(self, data: Any) -> None:
        with pytest.raises(QueryError, match=r"^Invalid binary pseudotype"):
            pseudo({"$reql_type$": "BINARY", "data": data})

    @pytest.mark.parametrize("name", ["POINT", 5, None])
    def test_another_type_is_refused_by_name(self, name: Any) -> None:
        with pytest.raises(QueryError, match=rf"^Unknown \$reql_type\$ `{name}`\.$"):
            pseudo({"$reql_type$": name})
