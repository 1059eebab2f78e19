"""Strings: matching, splitting, case, slices."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import r

from cdcbridge.engine.errors import ErrorType
from tests.reql import failure, run


class TestMatch:
    def test_the_first_match_is_told_with_its_place_and_groups(self) -> None:
        assert run(r.expr("id:0,name:mlucy,x:é").match("name:(\\w+)(!)?")) == {
            "str": "name:mlucy",
            "start": 5,
            "end": 15,
            "groups": [{"str": "mlucy", "start": 10, "end": 15}, None],
        }

    def test_no_match_is_null(self) -> None:
        assert run(r.expr("abc").match("x")) is None

    def test_places_count_characters(self) -> None:
        found = run(r.expr("ééa").match("a"))
        assert (found["start"], found["end"]) == (2, 3)

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [("(?i)ABC", "abc"), (r"\pL+", "é"), (r"a\z", "a"), (r"(?P<x>a)", "a"), (r"\QA.\E", "A.")],
    )
    def test_patterns_are_those_of_re2(self, pattern: str, text: str) -> None:
        assert run(r.expr(text).match(pattern))["str"] == text

    @pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "[z-a]", "a{2,1}", "(a{999}){999}"])
    def test_what_is_no_pattern_is_an_error(self, pattern: str) -> None:
        assert failure(r.expr("a").match(pattern)).message.startswith(f"Error in regexp `{pattern}`: ")

    def test_no_pattern_takes_exponential_time(self) -> None:
        assert run(r.expr("a" * 2000 + "b").match("^(a+)+$")) is None


class TestSplit:
    @pytest.mark.parametrize(
        ("query", "parts"),
        [
            (r.expr("  foo bar  baz ").split(), ["foo", "bar", "baz"]),
            (r.expr("aaaa bbbb  cccc ").split(None, 1), ["aaaa", "bbbb  cccc "]),
            (r.expr("12,37,,22,").split(","), ["12", "37", "", "22", ""]),
            (r.expr("12,37,,22").split(",", 1), ["12", "37,,22"]),
            (r.expr("mlücy").split(""), ["m", "l", "ü", "c", "y"]),
            (r.expr("aabab").split("", 2), ["a", "a", "bab"]),
            (r.expr("").split(), []),
            (r.expr("").split(""), []),
            (r.expr("").split("b"), [""]),
            (r.expr("aXb").split("X", -1), ["a", "b"]),
        ],
    )
    def test_a_string_is_split_where_its_separator_is(self, query: Any, parts: list[str]) -> None:
        assert run(query) == parts

    @given(st.text(alphabet="ab, é", max_size=20), st.sampled_from([",", "", "ab"]), st.integers(0, 5))
    def test_the_parts_joined_are_the_string(self, text: str, separator: str, most: int) -> None:
        parts = run(r.expr(text).split(separator, most))
        assert separator.join(parts) == text
        assert len(parts) <= most + 1

    def test_a_separator_is_a_string(self) -> None:
        assert failure(r.expr("a").split(1)).message == "Expected type STRING but found NUMBER."

    def test_it_does_not_split_less_than_never(self) -> None:
        assert failure(r.expr("a").split(",", -2)).type is ErrorType.QUERY_LOGIC

    def test_parts_are_limited_as_any_array(self) -> None:
        assert failure(r.expr("a" * 100_001).split("")).type is ErrorType.RESOURCE_LIMIT


class TestCase:
    @pytest.mark.parametrize(
        ("query", "text"),
        [(r.expr("aÉb").upcase(), "AÉB"), (r.expr("AÉb").downcase(), "aéb")],
    )
    def test_letters_change_their_case(self, query: Any, text: str) -> None:
        assert run(query) == text

    def test_only_strings_have_a_case(self) -> None:
        assert failure(r.expr(1).upcase()).message == "Expected type STRING but found NUMBER."


class TestParts:
    @pytest.mark.parametrize(
        ("query", "part"),
        [
            (r.expr("abcde").slice(1, 3), "bc"),
            (r.expr("abcde")[1:3], "bc"),
            (r.expr("abcde")[2:], "cde"),
            (r.expr("abcde").slice(-2, -1), "d"),
            (r.expr("abcde").slice(-2, -1, right_bound="closed"), "de"),
            (r.expr("abcde").slice(1, 2, left_bound="open", right_bound="closed"), "c"),
            (r.expr("éèà")[1:2], "è"),
        ],
    )
    def test_a_string_has_slices(self, query: Any, part: str) -> None:
        assert run(query) == part

    def test_length_counts_characters(self) -> None:
        assert run(r.expr("éa").count()) == 2
