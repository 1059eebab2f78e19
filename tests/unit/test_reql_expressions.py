"""Values without a database: comparison, logic, arithmetic, objects, sequences, control."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.library import compile_query
from cdcbridge.engine.reql.runtime import Context, Env, Settings, datum
from cdcbridge.engine.store import Store
from cdcbridge.engine.values import dumps


def run(query: Any) -> Any:
    """The value of a query that needs no database."""
    context = Context(cast(Store, None), Settings(), now_s=12.5)
    return datum(compile_query(json.loads(ReQLEncoder().encode(r.expr(query)))).run(Env(context, {})))


def failure(query: Any) -> QueryError:
    with pytest.raises(QueryError) as caught:
        run(query)
    return caught.value


ROWS = [{"id": 1, "a": 3}, {"id": 2}, {"id": 3, "a": 1}, {"id": 4, "a": None}]


class TestComparison:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.eq(1, 1.0), True),
            (r.eq(1, 1, 2), False),
            (r.ne(1, 2), True),
            (r.lt(1, 2, 3), True),
            (r.lt(1, 3, 2), False),
            (r.le(1, 1, 2), True),
            (r.gt(3, 2, 2), False),
            (r.ge(3, 2, 2), True),
            (r.expr([1]) < r.expr(False), True),
            (r.expr("a") > 10, True),
            (r.eq({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}), True),
        ],
    )
    def test_each_value_is_compared_with_the_next(self, query: Any, value: bool) -> None:
        assert run(query) is value

    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.and_(True, 5), 5),
            (r.and_(None, r.error("not looked at")), None),
            (r.or_(False, None, 3), 3),
            (r.or_(1, r.error("not looked at")), 1),
            (r.and_(), True),
            (r.or_(), False),
            (r.not_(0), False),
            (~r.expr(None), True),
        ],
    )
    def test_only_false_and_null_are_false(self, query: Any, value: Any) -> None:
        assert run(query) == value


class TestArithmetic:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.expr(1) + 2 + 3.5, 6.5),
            (r.expr("a") + "b", "ab"),
            (r.add([1], [2, 3]), [1, 2, 3]),
            (r.expr(1) - 3, -2),
            (r.expr(2) * 3, 6),
            (r.expr([1, 2]) * 2, [1, 2, 1, 2]),
            (r.expr(2) * ["x"], ["x", "x"]),
            (r.expr(7) / 2, 3.5),
            (r.expr(6) / 2, 3),
            (r.expr(-7) % 3, -1),
            (r.expr(0.1) + 0.2, 0.1 + 0.2),
            (r.floor(-1.5), -2),
            (r.ceil(1.2), 2),
            (r.round(-2.5), -3),
        ],
    )
    def test_it_counts_as_everywhere(self, query: Any, value: Any) -> None:
        assert run(query) == value

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.expr(1) / 0, "Cannot divide by zero."),
            (r.expr(1) % 0, "Cannot take a number modulo 0."),
            (r.expr(1) + "a", "Expected type NUMBER but found STRING."),
            (r.expr("a") + 1, "Expected type STRING but found NUMBER."),
            (r.expr(1) - True, "Expected type NUMBER but found BOOL."),
            (r.expr(1e308) * 10, "Non-finite number: inf"),
            (r.expr(-1e308) * 10, "Non-finite number: -inf"),
            (r.expr([1]) * -1, "Cannot multiply an ARRAY by a negative number."),
            (r.expr(1.5) % 1, "Number not an integer: 1.5"),
        ],
    )
    def test_what_makes_no_sense_is_an_error(self, query: Any, message: str) -> None:
        assert failure(query).message == message

    def test_arithmetic_on_nothing_is_caught_by_default(self) -> None:
        assert failure(r.expr(None) + 1).type is ErrorType.NON_EXISTENCE

    @pytest.mark.parametrize("query", [r.expr([1]) * 1e12, r.add([1] * 60_000, [2] * 60_000)])
    def test_an_array_does_not_grow_without_limit(self, query: Any) -> None:
        assert failure(query).type is ErrorType.RESOURCE_LIMIT

    @given(st.integers(-(2**53), 2**53), st.integers(-(2**53), 2**53))
    def test_results_have_the_one_form_of_a_number(self, left: int, right: int) -> None:
        for query in (r.expr(left) + right, r.expr(left) - right, r.expr(left) * right):
            result = run(query)
            assert dumps(result) == dumps(run(r.expr(result)))
            assert type(result) is int or abs(result) > 2**53
        assert math.isclose(run(r.expr(left) - right), left - right)


class TestObjects:
    def test_a_field_is_read_by_bracket(self) -> None:
        assert run(r.expr({"a": {"b": 5}})["a"]["b"]) == 5

    def test_a_missing_field_is_named_with_its_object(self) -> None:
        error = failure(r.expr({"a": 1})["b"])
        assert error.message == 'No attribute `b` in object:\n{\n\t"a":\t1\n}'
        assert error.type is ErrorType.NON_EXISTENCE

    def test_a_field_of_nothing_does_not_exist_either(self) -> None:
        error = failure(r.expr(None)["b"])
        assert error.message == "Cannot perform bracket on a non-object non-sequence `null`."
        assert error.type is ErrorType.NON_EXISTENCE

    def test_a_field_of_a_number_is_a_mistake(self) -> None:
        assert failure(r.expr(5)["b"]).type is ErrorType.QUERY_LOGIC

    def test_a_field_of_a_sequence_is_that_of_each_element_that_has_it(self) -> None:
        assert run(r.expr([*ROWS, None])["a"]) == [3, 1, None]

    def test_a_field_of_a_sequence_with_a_number_in_it_is_a_mistake(self) -> None:
        assert failure(r.expr([{"a": 1}, 5])["a"]).type is ErrorType.QUERY_LOGIC

    @pytest.mark.parametrize(
        ("position", "value"),
        [(0, 10), (2, 30), (-1, 30), (-3, 10)],
    )
    def test_an_element_is_read_by_its_position(self, position: int, value: int) -> None:
        assert run(r.expr([10, 20, 30])[position]) == value

    @pytest.mark.parametrize("position", [3, -4])
    def test_an_element_beyond_the_ends_does_not_exist(self, position: int) -> None:
        assert failure(r.expr([10, 20, 30])[position]).type is ErrorType.NON_EXISTENCE

    @pytest.mark.parametrize(
        ("patterns", "kept"),
        [
            (["a"], {"a": 1}),
            (["a", "nothing"], {"a": 1}),
            ([["a", "c"]], {"a": 1, "c": [{"x": 1, "y": 2}, 5]}),
            ([{"b": {"x": True}}], {"b": {"x": 1}}),
            ([{"b": ["x", "y"]}], {"b": {"x": 1, "y": 2}}),
            ([{"c": {"x": True}}], {"c": [{"x": 1}]}),
            ([{"a": {"x": True}}], {}),
        ],
    )
    def test_pluck_keeps_what_it_names(self, patterns: list[Any], kept: Any) -> None:
        document = {"a": 1, "b": {"x": 1, "y": 2, "z": 3}, "c": [{"x": 1, "y": 2}, 5]}
        assert run(r.expr(document).pluck(*patterns)) == kept

    def test_pluck_works_on_each_element(self) -> None:
        assert run(r.expr(ROWS).pluck("a")) == [{"a": 3}, {}, {"a": 1}, {"a": None}]

    def test_pluck_of_no_object_is_an_error(self) -> None:
        assert failure(r.expr([1]).pluck("a")).message == "Expected type OBJECT but found NUMBER."

    def test_merge_goes_into_objects_and_replaces_the_rest(self) -> None:
        old = {"a": {"x": 1, "y": [1]}, "b": 1}
        assert run(r.expr(old).merge({"a": {"y": [2], "z": 3}}, {"b": {"c": 1}})) == {
            "a": {"x": 1, "y": [2], "z": 3},
            "b": {"c": 1},
        }

    def test_merge_takes_a_function_of_what_is_merged_so_far(self) -> None:
        assert run(r.expr({"a": 1}).merge({"b": 2}, lambda row: {"c": row["a"] + row["b"]})) == {"a": 1, "b": 2, "c": 3}

    def test_literal_replaces_or_removes(self) -> None:
        old = {"a": {"x": 1}, "b": {"y": 1}, "c": 1}
        assert run(r.expr(old).merge({"a": r.literal({"z": 2}), "b": r.literal()})) == {"a": {"z": 2}, "c": 1}

    def test_an_object_of_terms_is_computed(self) -> None:
        assert run({"sum": r.expr(1) + 1, "list": [r.expr(2) * 2]}) == {"sum": 2, "list": [4]}


class TestSequences:
    def test_filter_by_a_function_skips_what_has_no_such_field(self) -> None:
        assert run(r.expr(ROWS).filter(lambda row: row["a"] > 1)) == [{"id": 1, "a": 3}]

    def test_filter_by_an_object(self) -> None:
        rows = [{"a": {"b": 1, "c": 2}}, {"a": {"b": 2}}, {"a": 7}, {}]
        assert run(r.expr(rows).filter({"a": {"b": 1}})) == [{"a": {"b": 1, "c": 2}}]

    def test_filters_default_says_what_to_do_with_the_rest(self) -> None:
        rows = r.expr(ROWS[:2])
        assert run(rows.filter(r.row["a"] > 1, default=True)) == ROWS[:2]
        assert run(rows.filter(r.row["a"] > 1, default=False)) == ROWS[:1]
        assert failure(rows.filter(r.row["a"] > 1, default=r.error())).type is ErrorType.NON_EXISTENCE

    def test_other_errors_in_a_filter_are_raised(self) -> None:
        assert failure(r.expr([1]).filter(lambda row: row / 0)).message == "Cannot divide by zero."

    def test_map_gives_one_for_one(self) -> None:
        assert run(r.expr([1, 2]).map(lambda x: [x, x * x])) == [[1, 1], [2, 4]]

    def test_map_over_a_missing_field_is_an_error(self) -> None:
        assert failure(r.expr(ROWS).map(lambda row: row["a"])).type is ErrorType.NON_EXISTENCE

    @pytest.mark.parametrize(("count", "left"), [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
    def test_limit_takes_the_first(self, count: int, left: list[int]) -> None:
        assert run(r.expr([1, 2, 3]).limit(count)) == left

    def test_limit_is_not_negative(self) -> None:
        assert failure(r.expr([]).limit(-1)).message == "LIMIT takes a non-negative argument (got -1)"

    def test_count_counts_elements_values_or_what_fulfils_a_function(self) -> None:
        assert run(r.expr([1, 2, 2]).count()) == 3
        assert run(r.expr([1, 2, 2]).count(2)) == 2
        assert run(r.expr([1, 2, 2]).count(lambda x: x > 1)) == 2
        assert run(r.expr("héé").count()) == 3

    def test_count_of_a_number_is_an_error(self) -> None:
        assert failure(r.expr(5).count()).message == "Cannot convert NUMBER to SEQUENCE"

    def test_order_by_puts_what_has_no_such_field_first(self) -> None:
        assert run(r.expr(ROWS).order_by("a")["id"]) == [2, 4, 3, 1]

    def test_order_by_descending_puts_it_last(self) -> None:
        assert run(r.expr(ROWS).order_by(r.desc("a"))["id"]) == [1, 3, 4, 2]

    def test_order_by_several_keys_and_functions(self) -> None:
        rows = [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1, "b": 3}]
        assert run(r.expr(rows).order_by("a", r.desc(r.row["b"]))) == [rows[2], rows[0], rows[1]]

    def test_what_is_equal_keeps_its_order_either_way(self) -> None:
        rows = [{"a": 1, "n": n} for n in range(5)]
        assert run(r.expr(rows).order_by("a")) == rows
        assert run(r.expr(rows).order_by(r.desc("a"))) == rows

    @given(st.lists(st.integers(), max_size=20), st.integers(0, 25))
    def test_a_sample_is_some_elements_each_once(self, items: list[int], count: int) -> None:
        items = [item % 2**53 for item in items]
        chosen = run(r.expr(items).sample(count))
        assert len(chosen) == min(count, len(items))
        assert not [item for item in chosen if chosen.count(item) > items.count(item)]


class TestControl:
    def test_branch_takes_the_first_test_that_holds(self) -> None:
        assert run(r.branch(False, 1, None, 2, "yes", 3, 4)) == 3
        assert run(r.branch(False, r.error("not run"), 4)) == 4

    def test_default_replaces_null_and_what_does_not_exist(self) -> None:
        assert run(r.expr(None).default(1)) == 1
        assert run(r.expr({})["a"].default(1)) == 1
        assert run(r.expr({})["a"].default(lambda message: message)) == "No attribute `a` in object:\n{}"
        assert run(r.expr(False).default(1)) is False

    def test_default_leaves_other_errors_alone(self) -> None:
        assert failure((r.expr(1) / 0).default(1)).message == "Cannot divide by zero."

    def test_error_is_the_users(self) -> None:
        error = failure(r.error("no"))
        assert (error.type, error.message) == (ErrorType.USER, "no")

    def test_do_binds_values(self) -> None:
        assert run(r.do(1, 2, lambda a, b: a + b)) == 3

    def test_now_is_one_moment_all_through_a_query(self) -> None:
        assert run([r.now(), r.now()]) == [{"$reql_type$": "TIME", "epoch_time": 12.5, "timezone": "+00:00"}] * 2

    def test_a_datetime_arrives_as_a_time(self) -> None:
        moment = datetime(2020, 1, 2, 3, 4, 5, 678900, UTC)
        assert run(moment) == {"$reql_type$": "TIME", "epoch_time": 1577934245.679, "timezone": "+00:00"}

    def test_bytes_arrive_as_binary(self) -> None:
        assert run(b"\x00a") == {"$reql_type$": "BINARY", "data": "AGE="}

    def test_an_unknown_pseudo_type_is_refused(self) -> None:
        assert failure({"$reql_type$": "X"}).message == "Unknown $reql_type$ `X`."
        assert failure({"$reql_type$": r.expr("X") + "Y"}).message == "Unknown $reql_type$ `XY`."

    @pytest.mark.parametrize(
        ("query", "name"),
        [(1, "NUMBER"), (None, "NULL"), ([1], "ARRAY"), (r.now(), "PTYPE<TIME>"), (b"", "PTYPE<BINARY>")],
    )
    def test_type_of_names_the_type(self, query: Any, name: str) -> None:
        assert run(r.expr(query).type_of()) == name


class TestArguments:
    def test_args_makes_arguments_of_an_array(self) -> None:
        assert run(r.add(r.args([1, 2]), 3)) == 6
        assert run(r.expr([r.args([1, 2]), 3])) == [1, 2, 3]
        assert run(r.do(r.args([1, 2]), lambda a, b: [b, a])) == [2, 1]
        assert run(r.expr({"a": 1, "b": 2, "c": 3}).pluck(r.args(["a", "b"]))) == {"a": 1, "b": 2}

    def test_a_wrong_number_of_them_is_an_error(self) -> None:
        assert failure(r.sub(r.args([]))).message == "Expected 1 or more arguments but found 0."

    def test_a_name_always_has_the_same_uuid(self) -> None:
        assert run(r.uuid("slava@example.com")) == "90691cbc-b5ea-5826-ae98-951e30fc3b2d"


class TestManySequences:
    def test_map_takes_elements_together_up_to_the_end_of_the_shortest(self) -> None:
        assert run(r.map([1, 2, 3], [10, 20], lambda a, b: a + b)) == [11, 22]
        assert run(r.map(r.range(), ["a", "b"], lambda n, text: [n, text])) == [[0, "a"], [1, "b"]]

    def test_its_function_takes_one_of_each(self) -> None:
        error = failure(r.map([1], [2], lambda a: a))
        assert error.message == "The function passed to `map` expects 1 argument, but 2 sequences were found."

    def test_a_range_counts(self) -> None:
        assert run(r.range(3)) == [0, 1, 2]
        assert run(r.range(-1, 2)) == [-1, 0, 1]
        assert run(r.range(3, 1)) == []
        assert run(r.range().skip(2).limit(2)) == [2, 3]

    @pytest.mark.parametrize("query", [r.range(), r.range().count(), r.range().map(lambda x: x).coerce_to("array")])
    def test_a_range_without_an_end_has_no_last_element(self, query: Any) -> None:
        assert failure(query).message.startswith("Cannot use an infinite stream with an aggregation function")

    def test_union_gives_one_after_the_other(self) -> None:
        assert run(r.union([1, 2], [3], [])) == [1, 2, 3]
        assert run(r.expr([3]).union([1], interleave=False)) == [3, 1]

    def test_union_can_keep_an_order(self) -> None:
        left, right = [{"a": 1}, {"a": 4}], [{"a": 2}, {"a": 3}]
        assert run(r.expr(left).union(right, interleave="a")["a"]) == [1, 2, 3, 4]
        assert run(r.expr(left[::-1]).union(right[::-1], interleave=[r.desc("a")])["a"]) == [4, 3, 2, 1]

    @pytest.mark.parametrize("query", [r.union([1], [2]), r.map([1, 2], [3, 4], lambda a, b: a)])
    def test_they_can_be_read_more_than_once(self, query: Any) -> None:
        assert run(r.do(query, lambda items: [items.count(), items.sum()])) == [2, 3]

    def test_they_can_be_joined(self) -> None:
        assert run(r.union([1], [2]).inner_join(r.union([1], [1]), lambda a, b: a == b).count()) == 2

    def test_with_fields_leaves_out_what_lacks_one(self) -> None:
        assert run(r.expr(ROWS).with_fields("id", "a")) == [{"id": 1, "a": 3}, {"id": 3, "a": 1}]


class TestNotThere:
    @pytest.mark.parametrize(
        ("query", "reason"),
        [
            (r.js("1"), "not supported: JAVASCRIPT: this engine runs no JavaScript"),
            (r.http("http://localhost"), "not supported: HTTP: this engine fetches nothing from the network"),
            (r.point(1, 2), "not supported: POINT: this engine has no geospatial queries and indexes"),
            (r.table("t").set_write_hook(None), "not supported: SET_WRITE_HOOK: this engine has no write hooks"),
            (r.grant("bob", {"read": True}), "not supported: GRANT: this engine has one user, `admin`"),
        ],
    )
    def test_what_is_left_out_says_why(self, query: Any, reason: str) -> None:
        assert failure(query).message.startswith(reason)
