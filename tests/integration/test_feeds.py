"""Changefeeds: what they say, where they begin and end, and that they can be resumed anywhere."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rethinkdb import r
from rethinkdb.errors import (
    ReqlCursorEmpty,
    ReqlError,
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlTimeoutError,
    ReqlUserError,
)

import cdcbridge.engine
from cdcbridge.engine.feeds import feed as feed_module
from cdcbridge.engine.feeds import ranges, watching
from cdcbridge.engine.local import LocalConnection
from cdcbridge.engine.reql.runtime import ROWS_PER_PAGE

WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""


def waiting(feed: Any) -> list[Any]:
    """All elements that a feed has to give now."""
    elements = []
    try:
        while True:
            elements.append(feed.next(wait=False))
    except ReqlTimeoutError:
        return elements


def change(old: Any, new: Any, **more: Any) -> dict[str, Any]:
    return {"old_val": old, "new_val": new} | more


class TestTableFeeds:
    def test_the_example_of_the_documentation(self, conn: LocalConnection) -> None:
        """Seed rethinkdb-changes-api: an insert, an update, a replace, a delete, and the table's end."""
        r.table_create("games").run(conn)
        games = r.table("games")
        feed = games.changes().run(conn)
        games.insert({"id": 1}).run(conn)
        games.get(1).update({"player1": "Bob"}).run(conn)
        games.get(1).replace({"id": 1, "player1": "Bob", "player2": "Alice"}).run(conn)
        games.get(1).delete().run(conn)
        bob, both = {"id": 1, "player1": "Bob"}, {"id": 1, "player1": "Bob", "player2": "Alice"}
        assert waiting(feed) == [
            change(None, {"id": 1}),
            change({"id": 1}, bob),
            change(bob, both),
            change(both, None),
        ]
        r.table_drop("games").run(conn)
        with pytest.raises(ReqlOpFailedError) as caught:
            feed.next(wait=WAIT_S)
        assert caught.value.message == "Changefeed aborted (unavailable)."

    def test_it_begins_with_what_is_written_after_it(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        feed = t.changes().run(conn)
        assert waiting(feed) == []
        t.insert({"id": 2}).run(conn)
        assert waiting(feed) == [change(None, {"id": 2})]

    @pytest.mark.parametrize(
        "write",
        [
            lambda t: t.get(1).update({"a": 1}),
            lambda t: t.get(1).replace({"a": 1.0, "id": 1}),
            lambda t: t.insert({"id": 1}),
            lambda t: t.insert({"id": 1, "a": 1}, conflict="replace"),
            lambda t: t.get(9).delete(),
            lambda t: t.get(1).update({"id": 2}),
        ],
    )
    def test_a_write_that_changes_nothing_is_silent(self, conn: LocalConnection, t: Any, write: Any) -> None:
        t.insert({"id": 1, "a": 1}).run(conn)
        feed = t.changes(include_seq=True).run(conn)
        write(t).run(conn)
        t.insert({"id": 2}).run(conn)
        assert waiting(feed) == [change(None, {"id": 2}, seq=2)]

    def test_a_batch_comes_in_its_order(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes()["new_val"]["id"].run(conn)
        order = [5, 3, 9, 1]
        t.insert([{"id": number} for number in order]).run(conn)
        assert waiting(feed) == order

    def test_each_document_s_changes_come_in_order(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn)
        t.insert([{"id": number, "n": 0} for number in range(3)]).run(conn)
        for _ in range(5):
            t.update({"n": r.row["n"] + 1}).run(conn)
        elements = waiting(feed)
        for key in range(3):
            mine = [element for element in elements if element["new_val"]["id"] == key]
            assert [element["new_val"]["n"] for element in mine] == [0, 1, 2, 3, 4, 5]
            assert all(one["new_val"] == other["old_val"] for one, other in itertools.pairwise(mine))

    def test_a_failing_query_is_silent(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(include_seq=True).run(conn)
        with pytest.raises(ReqlUserError):
            r.do(t.insert([{"id": 1}, {"id": 2}]), lambda answer: r.error("no")).run(conn)
        t.insert({"id": 3}).run(conn)
        assert waiting(feed) == [change(None, {"id": 3}, seq=1)]

    def test_other_tables_are_not_seen(self, conn: LocalConnection, t: Any) -> None:
        r.table_create("u").run(conn)
        feed = t.changes().run(conn)
        r.table("u").insert({"id": 1}).run(conn)
        assert waiting(feed) == []

    def test_a_feed_may_lag_far_behind(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn, max_batch_rows=10)
        for start in range(0, 3000, 500):
            t.insert([{"id": start + number} for number in range(500)]).run(conn, durability="soft")
        t.sync().run(conn)
        assert [element["new_val"]["id"] for element in waiting(feed)] == list(range(3000))

    def test_a_closed_feed_is_over(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn)
        feed.close()
        t.insert({"id": 1}).run(conn)
        with pytest.raises(ReqlCursorEmpty):
            feed.next()


class TestTransformedFeeds:
    def test_filter_makes_entries_and_exits(self, conn: LocalConnection, t: Any) -> None:
        feed = t.filter({"room": 1}).changes().run(conn)
        t.insert([{"id": "a", "room": 1}, {"id": "b", "room": 2}, {"id": "c"}]).run(conn)
        t.get("b").update({"room": 1}).run(conn)
        t.get("a").update({"room": 3}).run(conn)
        t.get("c").update({"room": 4}).run(conn)
        t.get("b").update({"text": "x"}).run(conn)
        assert waiting(feed) == [
            change(None, {"id": "a", "room": 1}),
            change(None, {"id": "b", "room": 1}),
            change({"id": "a", "room": 1}, None),
            change({"id": "b", "room": 1}, {"id": "b", "room": 1, "text": "x"}),
        ]

    def test_map_and_pluck_are_compared_after_they_are_applied(self, conn: LocalConnection, t: Any) -> None:
        plucked, mapped = t.pluck("a").changes().run(conn), t.map(r.row["a"] * 10).changes().run(conn)
        bracketed = t["a"].changes().run(conn)
        t.insert({"id": 1, "a": 1, "b": 1}).run(conn)
        t.get(1).update({"b": 2}).run(conn)
        t.get(1).update({"a": 2}).run(conn)
        t.get(1).update({"a": r.literal()}).run(conn)
        t.get(1).delete().run(conn)
        assert waiting(plucked) == [
            change(None, {"a": 1}),
            change({"a": 1}, {"a": 2}),
            change({"a": 2}, {}),
            change({}, None),
        ]
        assert waiting(mapped) == [change(None, 10), change(10, 20), change(20, None)]
        assert waiting(bracketed) == [change(None, 1), change(1, 2), change(2, None)]

    def test_an_error_before_changes_means_outside(self, conn: LocalConnection, t: Any) -> None:
        feed = t.filter(lambda row: r.expr(10) / row["a"] > 1).changes().run(conn)
        t.insert([{"id": 1, "a": 0}, {"id": 2, "a": 5}, {"id": 3, "a": "x"}]).run(conn)
        t.get(1).update({"a": 2}).run(conn)
        assert waiting(feed) == [change(None, {"id": 2, "a": 5}), change(None, {"id": 1, "a": 2})]

    def test_between_watches_a_range(self, conn: LocalConnection, t: Any) -> None:
        feed = t.between(10, 20).changes(include_initial=False).run(conn)
        t.insert([{"id": number} for number in (9, 10, 19, 20, "a")]).run(conn)
        assert waiting(feed) == [change(None, {"id": 10}), change(None, {"id": 19})]

    def test_an_ordered_table_is_a_table(self, conn: LocalConnection, t: Any) -> None:
        feed = t.order_by(index=r.desc("id")).changes().run(conn)
        t.insert([{"id": 1}, {"id": 2}]).run(conn)
        assert waiting(feed) == [change(None, {"id": 1}), change(None, {"id": 2})]


class TestPointFeeds:
    def test_it_begins_with_the_document_and_follows_it(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1, "n": 1}, {"id": 2}]).run(conn)
        feed = t.get(1).changes().run(conn)
        t.get(2).update({"n": 2}).run(conn)
        t.get(1).update({"n": 2}).run(conn)
        t.get(1).delete().run(conn)
        t.insert({"id": 1}).run(conn)
        assert waiting(feed) == [
            {"new_val": {"id": 1, "n": 1}},
            change({"id": 1, "n": 1}, {"id": 1, "n": 2}),
            change({"id": 1, "n": 2}, None),
            change(None, {"id": 1}),
        ]

    def test_a_missing_document_is_null(self, conn: LocalConnection, t: Any) -> None:
        feed = t.get("later").changes().run(conn)
        assert feed.next(wait=WAIT_S) == {"new_val": None}
        t.insert({"id": "later"}).run(conn)
        assert feed.next(wait=WAIT_S) == change(None, {"id": "later"})

    def test_include_initial_false_leaves_it_out(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        feed = t.get(1).changes(include_initial=False).run(conn)
        t.get(1).delete().run(conn)
        assert waiting(feed) == [change({"id": 1}, None)]

    @pytest.mark.parametrize(("watched", "written"), [(0, -0.0), (-0.0, 0), (1.0, 1)])
    def test_equal_keys_are_one_document(self, conn: LocalConnection, t: Any, watched: float, written: float) -> None:
        feed = t.get(watched).changes(include_initial=False).run(conn)
        t.insert({"id": written}).run(conn)
        assert waiting(feed) == [change(None, {"id": written})]

    def test_null_is_no_document(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlNonExistenceError, match="Keys cannot be NULL"):
            t.get(None).changes().run(conn)

    def test_a_dropped_table_ends_it(self, conn: LocalConnection, t: Any) -> None:
        feed = t.get(1).changes().run(conn)
        feed.next(wait=WAIT_S)
        r.table_drop("t").run(conn)
        with pytest.raises(ReqlOpFailedError, match="Changefeed aborted"):
            feed.next(wait=WAIT_S)


class TestInitialValues:
    def test_by_the_seeds_rule_points_and_ranges_have_them(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1}, {"id": 2}]).run(conn)
        assert waiting(t.get(1).changes().run(conn)) == [{"new_val": {"id": 1}}]
        assert waiting(t.between(2, 9).changes().run(conn)) == [{"new_val": {"id": 2}}]
        assert waiting(t.changes().run(conn)) == []
        assert waiting(t.filter({"id": 1}).changes().run(conn)) == []

    def test_explicit_turns_them_off(self, tmp_path: Path) -> None:
        with cdcbridge.engine.open(tmp_path / "explicit.db", initial_values="explicit") as conn:
            r.table_create("t").run(conn)
            t = r.table("t")
            t.insert([{"id": 1}, {"id": 2}]).run(conn)
            for query in (t, t.get(1), t.between(1, 9)):
                assert waiting(query.changes().run(conn)) == []
            assert waiting(t.get(1).changes(include_initial=True).run(conn)) == [{"new_val": {"id": 1}}]

    def test_include_initial_adds_them_to_any_feed(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 3}]).run(conn)
        assert waiting(t.changes(include_initial=True).run(conn)) == [
            {"new_val": {"id": 1, "n": 1}},
            {"new_val": {"id": 2, "n": 2}},
            {"new_val": {"id": 3}},
        ]
        mapped = t.filter(r.row["n"] > 1).map(r.row["n"])
        assert waiting(mapped.changes(include_initial=True).run(conn)) == [{"new_val": 2}]

    def test_an_empty_table_has_none(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(include_initial=True, include_seq=True).run(conn)
        assert waiting(feed) == []
        t.insert({"id": 1}).run(conn)
        assert waiting(feed) == [change(None, {"id": 1}, seq=1)]

    @pytest.mark.parametrize("size", [1, ROWS_PER_PAGE, ROWS_PER_PAGE + 1, 2 * ROWS_PER_PAGE, 2 * ROWS_PER_PAGE + 100])
    def test_only_the_last_one_has_a_number_to_go_on_behind(self, conn: LocalConnection, t: Any, size: int) -> None:
        t.insert([{"id": number} for number in range(size)]).run(conn)
        elements = waiting(t.changes(include_initial=True, include_seq=True).run(conn))
        assert [element["new_val"]["id"] for element in elements] == list(range(size))
        assert ["seq" in element for element in elements] == [False] * (size - 1) + [True]
        assert elements[-1]["seq"] == size

    @pytest.mark.parametrize("writers", [1, 3])
    def test_they_join_the_changes_under_concurrent_writes(
        self, conn: LocalConnection, data_file: Path, t: Any, writers: int
    ) -> None:
        t.insert([{"id": number, "n": 0} for number in range(3 * ROWS_PER_PAGE)]).run(conn)
        started = threading.Barrier(writers + 1)

        def write(writer: int) -> None:
            with cdcbridge.engine.open(data_file) as mine:
                started.wait(WAIT_S)
                for number in range(60):
                    key = (number * 13 + writer) * 7 % (4 * ROWS_PER_PAGE)
                    t.insert({"id": key, "n": [writer, number]}, conflict="replace").run(mine, durability="soft")
                    t.get(key * 3 % (3 * ROWS_PER_PAGE)).delete().run(mine, durability="soft")
                t.insert({"id": ["end", writer]}).run(mine)

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
        for thread in threads:
            thread.start()
        started.wait(WAIT_S)
        feed = t.changes(include_initial=True, include_seq=True).run(conn, max_batch_rows=5)
        state: dict[Any, Any] = {}
        ends = 0
        while ends < writers:
            element = feed.next(wait=WAIT_S)
            apply(state, element)
            new = element["new_val"]
            ends += new is not None and type(new["id"]) is list
        for thread in threads:
            thread.join()
        for element in waiting(feed):
            apply(state, element)
        assert state == {key_of(row): row for row in t.run(conn)}


def key_of(document: dict[str, Any]) -> Any:
    return tuple(document["id"]) if type(document["id"]) is list else document["id"]


def apply(state: dict[Any, Any], element: dict[str, Any]) -> None:
    """Follow a feed: the set of documents after an element, which has to fit to the set before it."""
    old, new = element.get("old_val"), element["new_val"]
    assert old != new
    if old is None:
        assert key_of(new) not in state, "repeated"
    else:
        assert state.pop(key_of(old)) == old, "a gap"
    if new is not None:
        state[key_of(new)] = new


class TestResuming:
    def test_seq_rises_and_is_the_journal_s(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(include_seq=True).run(conn)
        t.insert([{"id": number} for number in range(5)]).run(conn)
        t.delete().run(conn)
        assert [element["seq"] for element in waiting(feed)] == list(range(1, 11))

    def test_since_zero_is_the_whole_history(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        t.get(1).delete().run(conn)
        assert waiting(t.changes(since=0).run(conn)) == [change(None, {"id": 1}), change({"id": 1}, None)]

    def test_since_goes_on_without_a_gap_also_after_a_restart(self, data_file: Path) -> None:
        with cdcbridge.engine.open(data_file) as conn:
            r.table_create("t").run(conn)
            t = r.table("t")
            feed = t.changes(include_seq=True).run(conn)
            t.insert([{"id": number} for number in range(4)]).run(conn)
            seen = [feed.next(wait=WAIT_S) for _ in range(2)]
        with cdcbridge.engine.open(data_file) as conn:
            t.insert({"id": 4}).run(conn)
            seen += waiting(t.changes(include_seq=True, since=seen[-1]["seq"]).run(conn))
        assert [element["new_val"]["id"] for element in seen] == [0, 1, 2, 3, 4]

    def test_a_point_feed_resumes_without_an_initial_value(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1}, {"id": 2}]).run(conn)
        t.update({"a": 1}).run(conn)
        feed = t.get(1).changes(since=1, include_seq=True).run(conn)
        assert waiting(feed) == [change({"id": 1}, {"id": 1, "a": 1}, seq=3)]

    def test_since_now_has_nothing_yet(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        feed = t.changes(since=1).run(conn)
        assert waiting(feed) == []
        t.get(1).delete().run(conn)
        assert waiting(feed) == [change({"id": 1}, None)]

    @pytest.mark.parametrize(
        ("since", "message"),
        [
            (2, "Cannot resume after 2: the journal ends with sequence number 1."),
            (10**18, f"Cannot resume after {10**18}: the journal ends with sequence number 1."),
            (-1, "Cannot resume after -1: the journal begins with sequence number 1."),
        ],
    )
    def test_a_number_that_the_journal_does_not_reach_is_refused(
        self, conn: LocalConnection, t: Any, since: int, message: str
    ) -> None:
        t.insert({"id": 1}).run(conn)
        with pytest.raises(ReqlOpFailedError) as caught:
            t.changes(since=since).run(conn)
        assert caught.value.message == message

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"since": 1.5}, "Number not an integer: 1.5"),
            ({"since": "1"}, "Expected type NUMBER but found STRING."),
            ({"include_seq": 1}, "Expected type BOOL but found NUMBER."),
            ({"include_initial": "yes"}, "Expected type BOOL but found STRING."),
            ({"since": 0, "include_initial": True}, "`since` and `include_initial` cannot be used together."),
        ],
    )
    def test_an_option_that_makes_no_sense_is_refused(
        self, conn: LocalConnection, t: Any, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            t.changes(**options).run(conn)
        assert caught.value.message == message


class TestAfterChanges:
    @pytest.fixture(autouse=True)
    def history(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": "bob", "score": 5}, {"id": "ann", "score": 7}]).run(conn)
        t.get("bob").update({"score": 9}).run(conn)
        t.get("ann").update({"score": 1}).run(conn)
        t.get("bob").delete().run(conn)

    def test_scores_that_rise(self, conn: LocalConnection, t: Any) -> None:
        """Seed rethinkdb-changefeeds: filter on both values, then bracket."""
        better = t.changes(since=0).filter(lambda change: change["new_val"]["score"] > change["old_val"]["score"])
        assert waiting(better["new_val"].run(conn)) == [{"id": "bob", "score": 9}]

    def test_the_same_by_row(self, conn: LocalConnection, t: Any) -> None:
        better = t.changes(since=0).filter(r.row["new_val"]["score"] > r.row["old_val"]["score"])
        assert [element["new_val"]["score"] for element in waiting(better.run(conn))] == [9]

    def test_changes_of_one_name(self, conn: LocalConnection, t: Any) -> None:
        bobs = t.changes(since=0).filter(r.row["new_val"]["id"].eq("bob"))
        assert [element["new_val"]["score"] for element in waiting(bobs.run(conn))] == [5, 9]

    def test_inserts_only(self, conn: LocalConnection, t: Any) -> None:
        inserts = t.changes(since=0).filter(r.row["old_val"].eq(None))
        assert [element["new_val"]["id"] for element in waiting(inserts.run(conn))] == ["bob", "ann"]

    def test_bracket_gives_null_for_a_delete(self, conn: LocalConnection, t: Any) -> None:
        assert waiting(t.changes(since=0)["new_val"].run(conn))[-1] is None

    def test_map_and_pluck(self, conn: LocalConnection, t: Any) -> None:
        assert waiting(t.changes(since=4).map(lambda change: change["old_val"]["id"]).run(conn)) == ["bob"]
        assert waiting(t.changes(since=4).pluck("new_val").run(conn)) == [{"new_val": None}]

    def test_limit_ends_the_feed(self, conn: LocalConnection, t: Any) -> None:
        assert [element["seq"] for element in t.changes(since=0, include_seq=True).limit(3).run(conn)] == [1, 2, 3]
        assert list(t.changes(since=0).limit(0).run(conn)) == []

    def test_a_limit_that_is_not_reached_waits(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(since=4).limit(2).run(conn)
        assert len(waiting(feed)) == 1
        t.insert({"id": 1}).run(conn)
        assert [element["new_val"] for element in feed] == [{"id": 1}]

    def test_an_error_comes_after_the_elements_before_it(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(since=0).map(lambda change: change["new_val"]["score"]).run(conn)
        seen = [feed.next(wait=WAIT_S) for _ in range(4)]
        assert seen == [5, 7, 9, 1]
        with pytest.raises(ReqlNonExistenceError, match="Cannot perform bracket on a non-object non-sequence `null`"):
            feed.next(wait=WAIT_S)

    @pytest.mark.parametrize(
        "query",
        [
            lambda feed: feed.count(),
            lambda feed: feed.order_by("seq"),
            lambda feed: feed.nth(0),
            lambda feed: feed[-1],
            lambda feed: feed.sample(1),
            lambda feed: r.table("t").insert(feed),
            lambda feed: [feed],
            lambda feed: feed.count({"a": 1}),
        ],
    )
    def test_what_needs_the_end_of_a_feed_is_refused(self, conn: LocalConnection, t: Any, query: Any) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            r.expr(query(t.changes())).run(conn)
        assert caught.value.message == (
            "Cannot call a terminal (`reduce`, `count`, etc.) on an infinite stream (such as a changefeed)."
        )

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (lambda t: t.limit(3), "Cannot get changes on the first elements of an unordered stream."),
            (lambda t: r.expr([1]), "Cannot call `changes` on an eager stream."),
            (lambda t: t.order_by("score"), "Cannot call `changes` on an eager stream."),
            (lambda t: t.changes(), "Cannot call `changes` on an eager stream."),
            (lambda t: t.concat_map(lambda row: [row]), "Cannot call `changes` after `concat_map`."),
            (
                lambda t: t.filter(lambda row: r.random() > 0.5),
                "Cannot call `changes` after a non-deterministic function.",
            ),
            (
                lambda t: t.filter(lambda row: r.table("t").get(row["id"])["score"] > 0),
                "Cannot call `changes` after a non-deterministic function.",
            ),
            (lambda t: t.map(lambda row: r.uuid()), "Cannot call `changes` after a non-deterministic function."),
        ],
    )
    def test_what_cannot_be_watched_is_refused(self, conn: LocalConnection, t: Any, query: Any, message: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            query(t).changes().run(conn)
        assert caught.value.message == message

    def test_now_is_a_constant(self, conn: LocalConnection, t: Any) -> None:
        assert waiting(t.filter(r.now() > r.epoch_time(0)).changes(since=4).run(conn)) != []


class TestEnds:
    @pytest.mark.parametrize("drop", [lambda: r.table_drop("t"), lambda: r.db_drop("test")])
    @pytest.mark.parametrize(
        "watched",
        [
            lambda t: t.changes(),
            lambda t: t.get(1).changes(),
            lambda t: t.between(5, 9).changes(),
            lambda t: t.filter({"a": 1}).changes().limit(2),
            lambda t: t.changes(since=0)["new_val"].skip(1),
        ],
    )
    def test_a_drop_ends_every_feed(self, conn: LocalConnection, t: Any, drop: Any, watched: Any) -> None:
        t.insert({"id": 1}).run(conn)
        feed = watched(t).run(conn)
        waiting(feed)
        drop().run(conn)
        with pytest.raises(ReqlOpFailedError) as caught:
            feed.next(wait=WAIT_S)
        assert caught.value.message == "Changefeed aborted (unavailable)."

    def test_a_drop_that_was_rolled_back_does_not(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn)
        with pytest.raises(ReqlUserError):
            r.do(r.table_drop("t"), lambda answer: r.error("no")).run(conn)
        t.insert({"id": 1}).run(conn)
        assert waiting(feed) == [change(None, {"id": 1})]

    def test_a_waiting_reader_is_told(self, conn: LocalConnection, data_file: Path, t: Any) -> None:
        ended: list[ReqlError] = []
        opened = threading.Event()

        def read() -> None:
            with cdcbridge.engine.open(data_file) as mine:
                feed = t.changes().run(mine)
                opened.set()
                try:
                    feed.next(wait=WAIT_S)
                except ReqlError as error:
                    ended.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        opened.wait(WAIT_S)
        r.table_drop("t").run(conn)
        reader.join()
        assert [type(error) for error in ended] == [ReqlOpFailedError]

    def test_other_tables_feeds_go_on(self, conn: LocalConnection, t: Any) -> None:
        r.table_create("u").run(conn)
        feed = t.changes().run(conn)
        r.table_drop("u").run(conn)
        t.insert({"id": 1}).run(conn)
        assert waiting(feed) == [change(None, {"id": 1})]

    def test_a_table_made_anew_has_a_history_of_its_own(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": "old"}).run(conn)
        r.table_drop("t").run(conn)
        r.table_create("t").run(conn)
        t.insert({"id": "new"}).run(conn)
        assert waiting(t.changes(since=0).run(conn)) == [change(None, {"id": "new"})]


# Any history ---------------------------------------------------------------------------------------------------------

KEYS = st.integers(0, 11)
NUMBERS = st.integers(0, 3)
WRITES = st.one_of(
    st.builds(lambda key, n: lambda t: t.insert({"id": key, "n": n}), KEYS, NUMBERS),
    st.builds(lambda key, n: lambda t: t.insert({"id": key, "n": n}, conflict="replace"), KEYS, NUMBERS),
    st.builds(lambda key, n: lambda t: t.get(key).update({"n": n}), KEYS, NUMBERS),
    st.builds(lambda key: lambda t: t.get(key).update({"n": r.literal()}), KEYS),
    st.builds(lambda key: lambda t: t.get(key).delete(), KEYS),
    st.builds(lambda n: lambda t: t.filter({"n": n}).update({"n": n + 1}), NUMBERS),
    st.builds(lambda keys: lambda t: t.insert([{"id": key, "n": 1} for key in keys]), st.lists(KEYS)),
    st.builds(lambda low, high: lambda t: t.between(low, high).delete(), KEYS, KEYS),
)
QUERIES: dict[str, Callable[[Any], Any]] = {
    "table": lambda t: t,
    "filter": lambda t: t.filter(r.row["n"] > 1),
    "between": lambda t: t.between(3, 8),
    "pluck": lambda t: t.pluck("id"),
    "filter and map": lambda t: t.filter(r.row["n"] > 0).map(lambda row: {"id": row["id"], "m": row["n"] % 2}),
}

anything = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=list(QUERIES))
def watched(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return QUERIES[request.param]


@pytest.fixture
def fresh(conn: LocalConnection) -> Callable[[], Any]:
    """Gives tables that are new."""
    names: Iterator[int] = itertools.count()

    def make() -> Any:
        name = f"fresh{next(names)}"
        r.table_create(name).run(conn, durability="soft")
        return r.table(name)

    return make


class TestAnyHistory:
    @anything
    @given(writes=st.lists(WRITES, max_size=25), data=st.data())
    def test_a_feed_that_was_cut_goes_on_as_if_it_had_not_been(
        self, conn: LocalConnection, fresh: Any, watched: Any, writes: list[Any], data: st.DataObject
    ) -> None:
        t = fresh()
        whole = watched(t).changes(include_seq=True, include_initial=False).run(conn)
        for write in writes:
            write(t).run(conn)
        elements = waiting(whole)
        cut = data.draw(st.integers(0, len(elements)), label="cut")
        seen = elements[:cut]
        since = seen[-1]["seq"] if seen else elements[0]["seq"] - 1 if elements else 0
        resumed = watched(t).changes(include_seq=True, since=since).run(conn, max_batch_rows=2)
        assert seen + waiting(resumed) == elements
        assert [element["seq"] for element in elements] == sorted({element["seq"] for element in elements})

    @anything
    @given(writes=st.lists(st.tuples(WRITES, st.integers(0, 3)), max_size=25), before=st.lists(WRITES, max_size=8))
    def test_initial_values_and_changes_give_what_the_query_gives(
        self,
        conn: LocalConnection,
        fresh: Any,
        watched: Any,
        monkeypatch: pytest.MonkeyPatch,
        before: list[Any],
        writes: list[tuple[Any, int]],
    ) -> None:
        """Read bit by bit between the writes, three documents a page."""
        monkeypatch.setattr(ranges, "ROWS_PER_PAGE", 3)
        for module in (feed_module, ranges, watching):
            monkeypatch.setattr(module, "ENTRIES_PER_READ", 2)
        t = fresh()
        for write in before:
            write(t).run(conn)
        feed = watched(t).changes(include_initial=True, include_seq=True).run(conn, max_batch_rows=1)
        state: dict[Any, Any] = {}
        numbered: list[int] = []
        cuts: list[tuple[int, dict[Any, Any]]] = []

        def follow(element: dict[str, Any]) -> None:
            apply(state, element)
            if "seq" in element:
                numbered.append(element["seq"])
                cuts.append((element["seq"], dict(state)))

        for write, reads in writes:
            write(t).run(conn)
            for _ in range(reads):
                try:
                    follow(feed.next(wait=False))
                except ReqlTimeoutError:
                    break
        for element in waiting(feed):
            follow(element)
        assert state == {row["id"]: row for row in watched(t).run(conn)}
        assert numbered == sorted(set(numbered))
        for seq, known in cuts[:3]:  # every number that was given out can be gone on behind
            for element in waiting(watched(t).changes(since=seq).run(conn)):
                apply(known, element)
            assert known == state

    @anything
    @given(writes=st.lists(WRITES, max_size=25), key=KEYS)
    def test_a_point_feed_is_the_table_s_feed_of_one_document(
        self, conn: LocalConnection, fresh: Any, writes: list[Any], key: int
    ) -> None:
        t = fresh()
        point = t.get(key).changes(include_initial=False, include_seq=True).run(conn)
        table = t.changes(include_seq=True).run(conn)
        for write in writes:
            write(t).run(conn)
        mine = [element for element in waiting(table) if key in ids_of(element)]
        assert waiting(point) == mine


def ids_of(element: dict[str, Any]) -> list[Any]:
    return [value["id"] for value in (element["old_val"], element["new_val"]) if value is not None]
