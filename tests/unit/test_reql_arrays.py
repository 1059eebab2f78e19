"""Arrays: elements in and out, sets, slices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import r

from cdcbridge.engine.errors import ErrorType
from tests.reql import failure, run

ABC = r.expr(["a", "b", "c"])
numbers = st.lists(st.integers(-5, 5), max_size=12)


class TestElements:
    @pytest.mark.parametrize(
        ("query", "items"),
        [
            (r.expr([1, 2]).append(3), [1, 2, 3]),
            (r.expr([1, 2]).prepend(0), [0, 1, 2]),
            (ABC.insert_at(1, "x"), ["a", "x", "b", "c"]),
            (ABC.insert_at(3, "x"), ["a", "b", "c", "x"]),
            (ABC.insert_at(-1, "x"), ["a", "b", "c", "x"]),
            (ABC.insert_at(-4, "x"), ["x", "a", "b", "c"]),
            (ABC.splice_at(1, ["x", "y"]), ["a", "x", "y", "b", "c"]),
            (ABC.change_at(-1, "x"), ["a", "b", "x"]),
            (ABC.delete_at(1), ["a", "c"]),
            (ABC.delete_at(-1), ["a", "b"]),
            (ABC.delete_at(1, 3), ["a"]),
            (ABC.delete_at(0, -1), ["c"]),
            (ABC.delete_at(1, 1), ["a", "b", "c"]),
            (r.expr([1, 2, 2, 3]).difference([2, 9]), [1, 3]),
        ],
    )
    def test_they_are_put_in_and_taken_out(self, query: Any, items: list[Any]) -> None:
        assert run(query) == items

    @pytest.mark.parametrize(
        ("query", "index"),
        [
            (ABC.insert_at(4, "x"), 4),
            (ABC.insert_at(-5, "x"), -5),
            (ABC.change_at(3, "x"), 3),
            (ABC.delete_at(3), 3),
            (ABC.delete_at(0, 4), 4),
            (ABC.splice_at(-5, []), -5),
        ],
    )
    def test_beyond_the_ends_there_is_nothing(self, query: Any, index: int) -> None:
        error = failure(query)
        assert error.message == f"Index `{index}` out of bounds for array of size: `3`."
        assert error.type is ErrorType.NON_EXISTENCE

    def test_a_range_does_not_end_before_it_begins(self) -> None:
        assert failure(ABC.delete_at(2, 1)).message == "Start index `2` is greater than end index `1`."

    def test_a_position_is_whole(self) -> None:
        assert failure(ABC.delete_at(1.5)).message == "Number not an integer: 1.5"

    def test_only_arrays_have_elements(self) -> None:
        assert failure(r.expr(1).append(1)).message == "Expected type ARRAY but found NUMBER."

    def test_an_array_does_not_grow_over_its_limit(self) -> None:
        assert failure((r.expr([1]) * 100_000).append(1)).type is ErrorType.RESOURCE_LIMIT


class TestLookingFor:
    def test_offsets_are_those_of_a_value_or_of_what_fulfils_a_function(self) -> None:
        assert run(r.expr(["a", "b", "a"]).offsets_of("a")) == [0, 2]
        assert run(r.expr([1, 5, 7]).offsets_of(lambda x: x > 4)) == [1, 2]

    @pytest.mark.parametrize(
        ("query", "answer"),
        [
            (ABC.contains("a"), True),
            (ABC.contains("a", "c"), True),
            (ABC.contains("a", "x"), False),
            (r.expr([1, 2]).contains(lambda x: x > 1), True),
            (r.expr([1, 2]).contains(lambda x: x > 1, lambda x: x < 1), False),
            (ABC.contains(), True),
            (r.expr([None]).contains(None), True),
        ],
    )
    def test_it_contains_all_that_is_asked_for(self, query: Any, answer: bool) -> None:
        assert run(query) is answer


class TestSets:
    @pytest.mark.parametrize(
        ("query", "items"),
        [
            (r.expr([2, 1, 2]).set_insert(3), [2, 1, 3]),
            (r.expr([2, 1, 2]).set_insert(1.0), [2, 1]),
            (r.expr([2, 1]).set_union([3, 1]), [2, 1, 3]),
            (r.expr([2, 1, 3]).set_intersection([3, 2, 2]), [3, 2]),
            (r.expr([2, 1, 2, 3]).set_difference([3]), [2, 1]),
            (r.expr([{"a": 1}]).set_insert({"a": 1}), [{"a": 1}]),
        ],
    )
    def test_each_value_is_in_it_once(self, query: Any, items: list[Any]) -> None:
        assert run(query) == items

    def test_one_moment_is_one_value_in_any_time_zone(self) -> None:
        moment = datetime(2020, 1, 1, tzinfo=UTC)
        elsewhere = moment.astimezone(timezone(timedelta(hours=2)))
        assert len(run(r.expr([moment]).set_insert(elsewhere))) == 1
        assert run(r.expr([0.0]).set_insert(-0.0)) == [0]

    @given(numbers, numbers)
    def test_they_are_as_pythons_sets(self, left: list[int], right: list[int]) -> None:
        mine, other = set(left), set(right)
        for query, expected in (
            (r.expr(left).set_union(right), mine | other),
            (r.expr(left).set_intersection(right), mine & other),
            (r.expr(left).set_difference(right), mine - other),
        ):
            items = run(query)
            assert set(items) == expected
            assert len(items) == len(expected)


class TestSlices:
    @given(numbers, st.integers(-15, 15), st.integers(-15, 15))
    def test_they_are_as_pythons_slices(self, items: list[int], start: int, end: int) -> None:
        assert run(r.expr(items).slice(start, end)) == items[start:end]
        assert run(r.expr(items)[start:]) == items[start:]

    def test_bounds_say_whether_the_ends_belong_to_it(self) -> None:
        items = r.expr([0, 1, 2, 3])
        assert run(items.slice(1, 2, right_bound="closed")) == [1, 2]
        assert run(items.slice(1, 3, left_bound="open")) == [2]
        assert run(items.slice(-2, -1, right_bound="closed")) == [2, 3]
        assert run(items.slice(-1, -1, left_bound="open", right_bound="closed")) == []

    def test_another_bound_is_refused(self) -> None:
        error = failure(r.expr([1]).slice(0, 1, left_bound="ajar"))
        assert error.message == 'Expected `open` or `closed` for optarg `left_bound` (got "ajar").'

    def test_binary_data_has_slices(self) -> None:
        assert run(r.expr(b"abcd")[1:3]) == {"$reql_type$": "BINARY", "data": "YmM="}
