"""One value of many: reductions, and groups."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import r

from cdcbridge.engine.errors import ErrorType
from tests.reql import failure, run

GAMES = [
    {"id": 2, "player": "Bob", "points": 15, "type": "ranked"},
    {"id": 5, "player": "Alice", "points": 7, "type": "free"},
    {"id": 11, "player": "Bob", "points": 10, "type": "free"},
    {"id": 12, "player": "Alice", "points": 2, "type": "free"},
]
finite = st.floats(-1e9, 1e9)


class TestReductions:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.expr([1, 2, 3]).reduce(lambda a, b: a - b), -4),
            (r.expr([7]).reduce(lambda a, b: r.error("one is enough")), 7),
            (r.expr([1, 2, 3]).fold("", lambda acc, x: acc + x.coerce_to("string")), "123"),
            (r.expr([]).fold(5, lambda acc, x: acc), 5),
            (r.expr([1, 2.5]).sum(), 3.5),
            (r.expr([]).sum(), 0),
            (r.expr([{"a": 1}, {}, {"a": 4}]).sum("a"), 5),
            (r.expr([1, 2]).sum(lambda x: x * 10), 30),
            (r.expr([{"a": 1}, {}, {"a": 4}]).avg("a"), 2.5),
            (r.expr([2, 4]).avg(), 3),
            (r.expr([3, 1, 3.0, "a", None, [1]]).distinct(), [[1], None, 1, 3, "a"]),
            (r.expr([]).distinct(), []),
        ],
    )
    def test_many_values_become_one(self, query: Any, value: Any) -> None:
        assert run(query) == value

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.expr([]).reduce(lambda a, b: a), "Cannot reduce over an empty stream."),
            (r.expr([{}]).avg("a"), "Cannot take the average of an empty stream.  (If you passed `avg` a field name,"),
        ],
    )
    def test_nothing_has_no_such_value_and_default_catches_it(self, query: Any, message: str) -> None:
        assert failure(query).message.startswith(message)
        assert run(query.default(0)) == 0

    def test_only_numbers_are_summed_up(self) -> None:
        assert failure(r.expr([1, "a"]).sum()).message == "Expected type NUMBER but found STRING."

    @given(st.lists(finite, min_size=1, max_size=30))
    def test_a_sum_does_not_depend_on_the_order(self, values: list[float]) -> None:
        assert run(r.expr(values).sum()) == run(r.expr(values[::-1]).sum())
        assert math.isclose(run(r.expr(values).avg()), math.fsum(values) / len(values), abs_tol=1e-9)

    def test_fold_can_emit_a_sequence(self) -> None:
        query = r.expr([1, 2, 3]).fold(
            0,
            lambda acc, x: acc + x,
            emit=lambda before, x, after: [[before, x, after]],
            final_emit=lambda acc: ["total", acc],
        )
        assert run(query) == [[0, 1, 1], [1, 2, 3], [3, 3, 6], "total", 6]

    def test_final_emit_needs_emit(self) -> None:
        query = r.expr([1]).fold(0, lambda acc, x: x, final_emit=lambda acc: [acc])
        assert "needs an `emit`" in failure(query).message


class TestGroups:
    @pytest.mark.parametrize(
        ("query", "groups"),
        [
            (r.expr(GAMES).group("player").count(), [["Alice", 2], ["Bob", 2]]),
            (r.expr(GAMES).group("player")["points"].sum(), [["Alice", 9], ["Bob", 25]]),
            (r.expr(GAMES).group("player").sum("points"), [["Alice", 9], ["Bob", 25]]),
            (r.expr(GAMES).group("player", "type").count(), [
                [["Alice", "free"], 2], [["Bob", "free"], 1], [["Bob", "ranked"], 1],
            ]),
            (r.expr(GAMES).group(lambda game: game["points"] > 9)["id"], [[False, [5, 12]], [True, [2, 11]]]),
            (r.expr(GAMES).group("nothing").count(), [[None, 4]]),
            (r.expr(GAMES).group("player").filter({"player": "Bob"}).count(), [["Bob", 2]]),
            (r.expr(GAMES).group("player").order_by("points")[0]["id"], [["Alice", 12], ["Bob", 11]]),
            (r.expr(GAMES).group("player").map(r.row["points"] * 2), [["Alice", [14, 4]], ["Bob", [30, 20]]]),
            (r.expr(GAMES).group("player").count() + 1, [["Alice", 3], ["Bob", 3]]),
            (r.expr(GAMES).group("player").limit(1)["id"], [["Alice", [5]], ["Bob", [2]]]),
            (r.expr(GAMES).group("player").do(lambda games: games.count()), [["Alice", 2], ["Bob", 2]]),
            (r.branch(True, r.expr(GAMES).group("player"), None).count(), [["Alice", 2], ["Bob", 2]]),
            (r.expr(GAMES).group("player").count().default(0), [["Alice", 2], ["Bob", 2]]),
            (r.expr([]).group("a").count(), []),
        ],
    )  # fmt: skip
    def test_every_term_after_group_is_run_for_each_group(self, query: Any, groups: Any) -> None:
        assert run(query) == groups

    def test_groups_come_in_order(self) -> None:
        keys = ["b", 3, None, [1], True, "a", -1]
        groups = run(r.expr([{"k": key} for key in keys]).group("k").count())
        assert [key for key, _ in groups] == [[1], True, None, -1, 3, "a", "b"]

    def test_an_element_can_be_in_many_groups(self) -> None:
        posts = [{"id": 1, "tags": ["x", "y", "x"]}, {"id": 2, "tags": ["y"]}, {"id": 3, "tags": []}]
        assert run(r.expr(posts).group("tags", multi=True)["id"]) == [["x", [1]], ["y", [1, 2]]]

    def test_ungroup_gives_an_array_of_objects(self) -> None:
        assert run(r.expr(GAMES).group("player").count().ungroup().order_by(r.desc("group"))) == [
            {"group": "Bob", "reduction": 2},
            {"group": "Alice", "reduction": 2},
        ]

    def test_ungroup_works_inside_a_function_too(self) -> None:
        query = r.do(r.expr(GAMES).group("player").count(), lambda groups: groups.ungroup()["reduction"])
        assert run(query) == [2, 2]

    def test_types_are_those_of_groups(self) -> None:
        assert run(r.expr(GAMES).group("player").type_of()) == "GROUPED_STREAM"
        assert run(r.expr(GAMES).group("player").count().type_of()) == "GROUPED_DATA"

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.expr(GAMES).group("a").group("b"), "Cannot call `group` on the output of `group`"),
            (r.expr(GAMES).ungroup(), "Expected type GROUPED_DATA but found ARRAY."),
            (r.expr(GAMES).group(), "Cannot group by nothing."),
            ([r.expr(GAMES).group("a").count()], "Expected type DATUM but found GROUPED_DATA."),
            (r.expr(GAMES).group("a").changes(), "Cannot call `changes` after `group`."),
        ],
    )
    def test_what_makes_no_sense_is_an_error(self, query: Any, message: str) -> None:
        assert failure(query).message.startswith(message)

    def test_groups_are_limited_as_arrays_are(self) -> None:
        error = failure(r.expr([1, 2, 3]).group(lambda x: x).count(), array_limit=2)
        assert (error.type, error.message) == (ErrorType.RESOURCE_LIMIT, "Too many groups (> 2).")

    def test_so_are_the_groups_of_one_element(self) -> None:
        query = r.expr([{"a": [0] * 5000, "b": [0] * 5000}]).group("a", "b", multi=True).count()
        assert failure(query).message == "Too many groups (> 100000)."

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), max_size=30))
    def test_groups_hold_each_element_once(self, pairs: list[tuple[int, int]]) -> None:
        rows = [{"k": key, "v": value} for key, value in pairs]
        expected = [[key, [value for other, value in pairs if other == key]] for key in sorted(dict(pairs))]
        assert run(r.expr(rows).group("k")["v"]) == expected
