"""Two sequences brought together."""

from __future__ import annotations

from typing import Any

from rethinkdb import r

from tests.reql import failure, run

LEFT = [{"id": 1, "n": 1}, {"id": 2, "n": 2}]
RIGHT = [{"m": 2, "id": "x"}, {"m": 2, "id": "y"}, {"m": 3, "id": "z"}]


def same(left: Any, right: Any) -> Any:
    return left["n"] == right["m"]


def test_an_inner_join_gives_each_pair_that_fulfils_the_function() -> None:
    assert run(r.expr(LEFT).inner_join(RIGHT, same)) == [
        {"left": LEFT[1], "right": RIGHT[0]},
        {"left": LEFT[1], "right": RIGHT[1]},
    ]


def test_an_outer_join_also_gives_what_has_no_partner() -> None:
    assert run(r.expr(LEFT).outer_join(RIGHT, same)) == [
        {"left": LEFT[0]},
        {"left": LEFT[1], "right": RIGHT[0]},
        {"left": LEFT[1], "right": RIGHT[1]},
    ]


def test_zip_makes_one_object_of_a_pair_and_the_right_side_wins() -> None:
    assert run(r.expr(LEFT).outer_join(RIGHT, same).zip()) == [
        {"id": 1, "n": 1},
        {"id": "x", "n": 2, "m": 2},
        {"id": "y", "n": 2, "m": 2},
    ]


def test_zip_follows_only_joins() -> None:
    assert failure(r.expr([1]).zip()).message == "ZIP can only be called on the result of a join."


def test_the_table_of_an_eq_join_is_one() -> None:
    assert failure(r.expr(LEFT).eq_join("n", r.expr(RIGHT))).message == "Expected type TABLE but found ARRAY."
