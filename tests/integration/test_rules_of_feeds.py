"""Changefeeds, rule by rule: what can be watched, errors, options, elements, what may follow, guarantees, ends.

The numbers are those of the sections that collect what RethinkDB's own sources and tests say.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import (
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlResourceLimitError,
    ReqlServerCompileError,
    ReqlTimeoutError,
    ReqlUserError,
)

import cdcbridge.engine
from cdcbridge.engine.feeds import feed as feed_module
from cdcbridge.engine.feeds import lag, ranges
from cdcbridge.engine.local import LocalConnection

WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""

SEQUENCE, ATOM, LIMIT, UNIONED, STATES = 1, 2, 3, 4, 5


def waiting(feed: Any) -> list[Any]:
    """All elements that a feed has to give now."""
    elements = []
    try:
        while True:
            elements.append(feed.next(wait=False))
    except ReqlTimeoutError:
        return elements


def opened(query: Any, conn: LocalConnection, **options: Any) -> Any:
    """A feed, without the initial values that it would have unasked."""
    return query.changes(**{"include_initial": False} | options).run(conn)


def bag(elements: list[Any]) -> list[str]:
    return sorted(json.dumps(element, sort_keys=True) for element in elements)


def change(old: Any, new: Any, **more: Any) -> dict[str, Any]:
    return {"old_val": old, "new_val": new} | more


def notes(query: Any, conn: LocalConnection) -> list[int]:
    """The notes in the answer to START."""
    cursor = query.run(conn)
    session = conn._instance._socket._session
    token = cursor.query.token
    found = list(session._queries[token].cursor.notes)
    cursor.close()
    return found


@pytest.fixture
def t(conn: LocalConnection) -> Any:
    """A table with the indexes `n`, `tags` (multi), `both` and `double`."""
    r.table_create("t").run(conn)
    t = r.table("t")
    t.index_create("n").run(conn)
    t.index_create("tags", multi=True).run(conn)
    t.index_create("both", [r.row["room"], r.row["n"]]).run(conn)
    t.index_create("double", lambda row: row["n"] * 2).run(conn)
    return t


@pytest.fixture
def five(conn: LocalConnection, t: Any) -> Any:
    """The table with five documents, whose `n` is ten times their key."""
    t.insert([{"id": number, "n": 10 * number} for number in range(1, 6)]).run(conn)
    return t


class TestWhatCanBeWatched11:
    @pytest.mark.parametrize(
        ("query", "note"),
        [
            (lambda t: t, SEQUENCE),
            (lambda t: t.filter({"n": 1}), SEQUENCE),
            (lambda t: t.map(r.row["n"]), SEQUENCE),
            (lambda t: t.pluck("n"), SEQUENCE),
            (lambda t: t.without("n"), SEQUENCE),
            (lambda t: t.merge({"m": 1}), SEQUENCE),
            (lambda t: t.has_fields("n"), SEQUENCE),
            (lambda t: t.with_fields("n"), SEQUENCE),
            (lambda t: t["n"], SEQUENCE),
            (lambda t: t.between(1, 2), SEQUENCE),
            (lambda t: t.between(1, 2, index="n"), SEQUENCE),
            (lambda t: t.get_all(1, 2), SEQUENCE),
            (lambda t: t.get_all(1, index="n"), SEQUENCE),
            (lambda t: t.order_by(index="n"), SEQUENCE),
            (lambda t: t.between(2, 1), SEQUENCE),
            (lambda t: t.get_all(r.args([])), SEQUENCE),
            (lambda t: t.get(1), ATOM),
            (lambda t: t.order_by(index="n").limit(3), LIMIT),
            (lambda t: t.order_by(index=r.desc("id")).limit(1), LIMIT),
            (lambda t: t.min(index="n"), LIMIT),
            (lambda t: t.max(index="n"), LIMIT),
            (lambda t: t.union(t.filter({"n": 1})), SEQUENCE),
            (lambda t: t.order_by(index="n").limit(1).union(t.order_by(index="id").limit(2)), LIMIT),
            (lambda t: t.union(t.order_by(index="n").limit(1)), UNIONED),
            (lambda t: r.union(t.get(1), t.get(2)), ATOM),
            (lambda t: t.get_all(1).union(t.get(1), t.min(index="n")), UNIONED),
        ],
    )
    def test_the_note_tells_the_kind_of_feed(self, conn: LocalConnection, t: Any, query: Any, note: int) -> None:
        assert notes(query(t).changes(), conn) == [note]
        assert notes(query(t).changes(include_states=True), conn) == [note, STATES]

    def test_an_ordered_table_without_limit_is_a_range_of_its_index(self, conn: LocalConnection, t: Any) -> None:
        feed = t.order_by(index="n").changes().run(conn)
        t.insert([{"id": 1, "n": 2}, {"id": 2}]).run(conn)
        t.get(2).update({"n": 1}).run(conn)
        assert waiting(feed) == [change(None, {"id": 1, "n": 2}), change(None, {"id": 2, "n": 1})]

    def test_transformations_are_applied_to_both_values(self, conn: LocalConnection, five: Any) -> None:
        feed = five.merge({"m": r.row["n"] + 1}).without("n").with_fields("m").changes().run(conn)
        five.get(1).update({"n": 0}).run(conn)
        assert waiting(feed) == [change({"m": 11}, {"m": 1})]

    def test_a_union_tells_each_branch_s_changes(self, conn: LocalConnection, five: Any) -> None:
        r.table_create("u").run(conn)
        u = r.table("u")
        feed = five.filter(r.row["n"] > 30).union(u, five.min(index="n")).changes(include_initial=False).run(conn)
        u.insert({"id": "x"}).run(conn)
        five.get(1).delete().run(conn)
        five.get(5).delete().run(conn)
        assert waiting(feed) == [
            change(None, {"id": "x"}),
            change({"id": 1, "n": 10}, {"id": 2, "n": 20}),
            change({"id": 5, "n": 50}, None),
        ]


AFTER_LIMIT = (
    "Changefeeds are not supported on queries that have a transformation following a `limit` term.  Transformations "
    "include terms such as `filter`, `map`, `pluck`, etc.  Consider moving the transformation before the `limit` term."
)
EAGER = "Cannot call `changes` on an eager stream."
NOT_DETERMINISTIC = "Cannot call `changes` after a non-deterministic function."
UNORDERED = "Cannot get changes on the first elements of an unordered stream."


class TestErrorsWhenAFeedIsOpened12:
    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (lambda t: t.map(lambda row: r.random()), NOT_DETERMINISTIC),
            (lambda t: t.filter(lambda row: r.table("t").get(1)["n"] == row["n"]), NOT_DETERMINISTIC),
            (lambda t: t.merge(lambda row: {"m": r.uuid()}), NOT_DETERMINISTIC),
            (lambda t: t.concat_map(lambda row: [row]), "Cannot call `changes` after `concat_map`."),
            (lambda t: t.group("n"), "Cannot call `changes` after `group`."),
            (lambda t: t.distinct(), "Cannot call `changes` after `distinct`."),
            (lambda t: t.distinct(index="n"), "Cannot call `changes` after `distinct`."),
            (lambda t: t.eq_join("n", t).zip(), "Cannot call `changes` after `zip`."),
            (lambda t: r.expr([1, 2]), EAGER),
            (lambda t: t.order_by("n"), EAGER),
            (lambda t: t.eq_join("n", t), EAGER),
            (lambda t: t.fold(0, lambda a, b: a, emit=lambda a, b, c: [a]), EAGER),
            (lambda t: r.range(5), EAGER),
            (lambda t: r.map(t, t, lambda a, b: a), EAGER),
            (lambda t: t.changes(), EAGER),
            (lambda t: t.limit(10), UNORDERED),
            (lambda t: t.between(1, 2).limit(10), UNORDERED),
            (lambda t: t.get_all(1).limit(10), UNORDERED),
            (lambda t: t.order_by(index="n").limit(1).filter({"n": 1}), AFTER_LIMIT),
            (lambda t: t.order_by(index="n").limit(1).map(r.row["n"]), AFTER_LIMIT),
            (lambda t: t.order_by(index="n").limit(5).limit(1), AFTER_LIMIT),
            (lambda t: t.order_by(index="n").skip(1), "Cannot call `changes` on this stream."),
            (lambda t: t.order_by(index="n").slice(1, 2), "Cannot call `changes` on this stream."),
            (lambda t: t.union(t).limit(1), "Cannot call `changes` on a slice of a union."),
            (lambda t: r.expr(1), "Cannot call `changes` on a NUMBER."),
            (
                lambda t: r.db("rethinkdb").table("table_config").limit(1),
                "System tables don't support changefeeds on `.limit()`.",
            ),
        ],
    )
    def test_what_cannot_be_watched(self, conn: LocalConnection, t: Any, query: Any, message: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            query(t).changes().run(conn)
        assert caught.value.message == message

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"squash": None}, "Expected BOOL or NUMBER but found NULL."),
            ({"squash": "x"}, "Expected BOOL or NUMBER but found STRING."),
            ({"squash": -10}, "Expected BOOL or a positive NUMBER but found a negative NUMBER."),
            ({"include_offsets": True}, "Cannot include offsets for range subs."),
            ({"changefeed_queue_size": 0}, "Illegal changefeed queue size `0`.  (Must be >= 1.)"),
            ({"changefeed_queue_size": -1}, "Illegal changefeed queue size `-1`.  (Must be >= 1.)"),
            ({"changefeed_queue_size": 1.5}, "Number not an integer: 1.5"),
            ({"include_states": 1}, "Expected type BOOL but found NUMBER."),
            ({"include_types": "x"}, "Expected type BOOL but found STRING."),
            ({"include_offsets": []}, "Expected type BOOL but found ARRAY."),
        ],
    )
    def test_options_that_make_no_sense(self, conn: LocalConnection, t: Any, options: Any, message: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            t.changes(**options).run(conn)
        assert caught.value.message == message

    @pytest.mark.parametrize(
        ("query", "what"),
        [(lambda t: t.get(1), "point"), (lambda t: t.between(2, 1), "empty"), (lambda t: t.between(1, 2), "range")],
    )
    def test_offsets_are_for_limit_feeds(self, conn: LocalConnection, t: Any, query: Any, what: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            query(t).changes(include_offsets=True).run(conn)
        assert caught.value.message == f"Cannot include offsets for {what} subs."

    def test_a_limit_beyond_the_array_limit(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlResourceLimitError) as caught:
            t.order_by(index="n").limit(100_001).changes().run(conn)
        assert caught.value.message == (
            "Array size limit `100000` exceeded.  (`.limit(X).changes()` is illegal if X is larger than the array size "
            "limit.)"
        )
        with pytest.raises(ReqlResourceLimitError, match="Array size limit `3` exceeded"):
            t.order_by(index="n").limit(4).changes().run(conn, array_limit=3)

    def test_the_queue_size_is_an_option_of_run_too(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Illegal changefeed queue size `0`"):
            t.changes().run(conn, changefeed_queue_size=0)

    def test_an_unknown_option(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlServerCompileError, match="Unrecognized optional argument `x`"):
            t.changes(x=1).run(conn)

    def test_now_is_a_constant(self, conn: LocalConnection, t: Any) -> None:
        t.filter(r.now() > 0).changes().run(conn)


class TestSquash13:
    def test_changes_that_wait_merge_at_the_place_of_the_first(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five, conn, squash=True)
        five.get(1).update({"n": 0}).run(conn)
        five.get(2).update({"n": 0}).run(conn)
        five.get(1).update({"n": 1}).run(conn)
        five.insert({"id": 9, "n": 1}).run(conn)
        five.insert({"id": 9, "n": 2}, conflict="replace").run(conn)
        assert waiting(feed) == [
            change({"id": 1, "n": 10}, {"id": 1, "n": 1}),
            change({"id": 2, "n": 20}, {"id": 2, "n": 0}),
            change(None, {"id": 9, "n": 2}),
        ]

    @pytest.mark.parametrize("squash", [True, 0])
    def test_what_cancels_out_vanishes(self, conn: LocalConnection, five: Any, squash: Any) -> None:
        feed = opened(five, conn, squash=squash)
        five.insert({"id": 9}).run(conn)
        five.get(9).delete().run(conn)
        five.get(1).update({"n": 0}).run(conn)
        five.get(1).update({"n": 10}).run(conn)
        five.get(2).delete().run(conn)
        assert waiting(feed) == [change({"id": 2, "n": 20}, None)]

    def test_what_is_read_is_not_merged_any_more(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five, conn, squash=True)
        five.get(1).update({"n": 0}).run(conn)
        assert waiting(feed) == [change({"id": 1, "n": 10}, {"id": 1, "n": 0})]
        five.get(1).update({"n": 1}).run(conn)
        assert waiting(feed) == [change({"id": 1, "n": 0}, {"id": 1, "n": 1})]

    def test_a_filter_is_applied_to_what_is_merged(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five.filter(r.row["n"] > 25), conn, squash=True)
        five.get(1).update({"n": 99}).run(conn)
        five.get(1).update({"n": 10}).run(conn)
        five.get(3).update({"n": 1}).run(conn)
        five.get(3).update({"n": 33}).run(conn)
        assert waiting(feed) == [change({"id": 3, "n": 30}, {"id": 3, "n": 33})]

    def test_point_feeds_squash(self, conn: LocalConnection, five: Any) -> None:
        feed = five.get(1).changes(squash=True).run(conn)
        for n in range(5):
            five.get(1).update({"n": n}).run(conn)
        assert waiting(feed) == [{"new_val": {"id": 1, "n": 10}}, change({"id": 1, "n": 10}, {"id": 1, "n": 4})]

    def test_a_limited_set_is_compared_before_and_after(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five.order_by(index="n").limit(2), conn, squash=True)
        five.insert([{"id": 0, "n": 0}, {"id": -1, "n": -10}]).run(conn)
        five.get(-1).delete().run(conn)
        assert waiting(feed) == [change({"id": 2, "n": 20}, {"id": 0, "n": 0})]
        five.get(0).update({"n": 99}).run(conn)
        five.get(0).update({"n": 0}).run(conn)
        assert waiting(feed) == []

    def test_with_seconds_the_first_batch_is_immediate_and_the_next_one_waits(
        self, conn: LocalConnection, five: Any
    ) -> None:
        feed = opened(five, conn, squash=3600)
        five.get(1).update({"n": 0}).run(conn)
        assert waiting(feed) == [change({"id": 1, "n": 10}, {"id": 1, "n": 0})]
        five.get(1).update({"n": 1}).run(conn)
        assert waiting(feed) == []

    def test_a_batch_comes_when_its_seconds_are_over(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five, conn, squash=0.05)
        for n in range(3):
            five.get(1).update({"n": n}).run(conn)
            assert feed.next(wait=WAIT_S)["new_val"] == {"id": 1, "n": n}

    def test_it_ends_early_when_the_queue_is_more_than_half_full(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five, conn, squash=3600, changefeed_queue_size=4)
        five.get(1).update({"n": 0}).run(conn)
        assert len(waiting(feed)) == 1
        five.filter(r.row["id"] < 3).update({"n": 7}).run(conn)
        assert waiting(feed) == []
        five.get(3).update({"n": 7}).run(conn)
        assert [element["new_val"]["id"] for element in waiting(feed)] == [1, 2, 3]

    def test_it_can_be_resumed_behind_the_last_element_of_what_was_merged(
        self, conn: LocalConnection, five: Any
    ) -> None:
        feed = opened(five, conn, squash=True, include_seq=True)
        five.update({"n": 0}).run(conn)
        five.update({"n": 1}).run(conn)
        elements = waiting(feed)
        assert ["seq" in element for element in elements] == [False, False, False, False, True]
        assert waiting(five.changes(since=elements[-1]["seq"]).run(conn)) == []


class TestQueueSize13:
    def skipped(self, count: int) -> dict[str, str]:
        return {"error": f"Changefeed cache over array size limit, skipped {count} elements."}

    def insert(self, conn: LocalConnection, t: Any, *keys: int) -> None:
        for key in keys:
            t.insert({"id": key}).run(conn)

    @pytest.mark.parametrize(
        ("size", "written", "skips", "left"), [(10, 10, 0, 10), (10, 11, 11, 0), (10, 25, 22, 3), (1, 5, 4, 1)]
    )
    def test_the_whole_queue_is_discarded_and_counted_and_the_feed_goes_on(
        self, conn: LocalConnection, t: Any, size: int, written: int, skips: int, left: int
    ) -> None:
        feed = t.changes(changefeed_queue_size=size).run(conn)
        self.insert(conn, t, *range(written))
        found = waiting(feed)
        assert found[: bool(skips)] == [self.skipped(skips)] * bool(skips)
        assert [element["new_val"]["id"] for element in found[bool(skips) :]] == list(range(written - left, written))
        self.insert(conn, t, 100)
        assert waiting(feed) == [change(None, {"id": 100})]

    def test_only_what_the_feed_would_tell_is_counted(self, conn: LocalConnection, t: Any) -> None:
        feed = t.filter(r.row["id"] % 2 == 0).changes(changefeed_queue_size=3).run(conn)
        self.insert(conn, t, *range(7))
        assert waiting(feed) == [self.skipped(4)]
        self.insert(conn, t, *range(7, 13))
        assert [element["new_val"]["id"] for element in waiting(feed)] == [8, 10, 12]

    def test_a_document_that_is_watched_twice_counts_twice(self, conn: LocalConnection, t: Any) -> None:
        feed = t.get_all(1, 1, 2).changes(changefeed_queue_size=2).run(conn)
        self.insert(conn, t, 1, 2)
        assert waiting(feed) == [self.skipped(3)]

    def test_what_is_read_does_not_wait(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(changefeed_queue_size=3).run(conn, max_batch_rows=1)
        for key in range(10):
            self.insert(conn, t, key)
            assert feed.next(wait=WAIT_S)["new_val"] == {"id": key}

    def test_elements_made_already_are_discarded_with_the_others(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(changefeed_queue_size=4).run(conn, max_batch_rows=1)
        self.insert(conn, t, 0, 1, 2)
        assert feed.next(wait=WAIT_S)["new_val"] == {"id": 0}
        self.insert(conn, t, 3, 4, 5, 6, 7)
        found = waiting(feed)
        assert found[0] == self.skipped(5)
        assert [element["new_val"]["id"] for element in found[1:]] == [6, 7]

    def test_squash_counts_documents(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(changefeed_queue_size=2, squash=True).run(conn)
        self.insert(conn, t, 1, 2)
        t.update({"n": 1}).run(conn)
        assert bag(waiting(feed)) == bag([change(None, {"id": 1, "n": 1}), change(None, {"id": 2, "n": 1})])
        self.insert(conn, t, 3, 4)
        t.filter(r.row["id"] > 2).update({"n": 1}).run(conn)
        self.insert(conn, t, 5)
        assert waiting(feed) == [self.skipped(3)]

    def test_it_has_no_type_and_the_number_before_it_leads_to_all(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes(changefeed_queue_size=2, include_types=True, include_seq=True).run(conn)
        self.insert(conn, t, 0)
        (first,) = waiting(feed)
        self.insert(conn, t, 1, 2, 3)
        assert waiting(feed) == [self.skipped(3)]
        resumed = waiting(t.changes(since=first["seq"]).run(conn))
        assert [element["new_val"]["id"] for element in resumed] == [1, 2, 3]

    def test_limited_sets_have_no_bound(self, conn: LocalConnection, t: Any) -> None:
        feed = t.order_by(index="id").limit(10).changes(changefeed_queue_size=1).run(conn)
        self.insert(conn, t, *range(5))
        assert len(waiting(feed)) == 5

    def test_a_feed_that_resumes_leaves_nothing_out(
        self, conn: LocalConnection, t: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed_module, "DEFAULT_QUEUE_SIZE", 3)
        self.insert(conn, t, *range(9))
        assert len(waiting(t.changes(since=0).run(conn, max_batch_rows=2))) == 9

    def test_a_size_that_a_resuming_feed_names_is_about_what_comes_later(self, conn: LocalConnection, t: Any) -> None:
        self.insert(conn, t, *range(9))
        feed = t.changes(since=0, changefeed_queue_size=3).run(conn, max_batch_rows=2)
        assert [feed.next(wait=WAIT_S)["new_val"]["id"] for _ in range(2)] == [0, 1]
        self.insert(conn, t, 9, 10, 11)
        assert [feed.next(wait=WAIT_S)["new_val"]["id"] for _ in range(2)] == [2, 3]
        self.insert(conn, t, 12)
        *more, last = waiting(feed)
        assert [element["new_val"]["id"] for element in more] == list(range(4, 4 + len(more)))
        assert last == self.skipped(13 - 4 - len(more))

    def test_the_option_of_run_counts_for_feeds_that_say_nothing(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn, changefeed_queue_size=2)
        self.insert(conn, t, 1, 2, 3)
        assert waiting(feed) == [self.skipped(3)]

    def test_the_default_spares_one_commit_that_a_reader_was_waiting_for(
        self, conn: LocalConnection, t: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feed_module, "DEFAULT_QUEUE_SIZE", 3)
        feed = t.changes().run(conn)
        assert waiting(feed) == []
        t.insert([{"id": number} for number in range(20)]).run(conn)
        assert len(waiting(feed)) == 20
        self.insert(conn, t, *range(20, 27))
        # The first of these was waited for; of the others, four are one too many.
        assert waiting(feed) == [self.skipped(5), change(None, {"id": 25}), change(None, {"id": 26})]

    def test_it_is_100_000(self) -> None:
        assert lag.DEFAULT_QUEUE_SIZE == 100_000


class TestInitialValues13:
    def test_a_point_feed_on_a_missing_document_begins_with_null(self, conn: LocalConnection, t: Any) -> None:
        assert waiting(t.get(1).changes(include_initial=True).run(conn)) == [{"new_val": None}]

    @pytest.mark.parametrize(
        ("query", "values"),
        [
            (lambda t: t.get(1), [1]),
            (lambda t: t.between(2, 4), [2, 3]),
            (lambda t: t.between(20, 40, index="n"), [2, 3]),
            (lambda t: t.between(2, 4).pluck("id"), [2, 3]),
            (lambda t: t.min(index="n"), [1]),
            (lambda t: t.max(index="n"), [5]),
            (lambda t: t.order_by(index=r.desc("n")).limit(2), [5, 4]),
            (lambda t: t, []),
            (lambda t: t.filter({"id": 1}), []),
            (lambda t: t.get_all(1), []),
            (lambda t: t.order_by(index="n"), []),
            (lambda t: t.filter({"id": 1}).union(t.between(2, 3)), [2]),
        ],
    )
    def test_by_the_seeds_rule_some_feeds_have_them_unasked(
        self, conn: LocalConnection, five: Any, query: Any, values: list[int]
    ) -> None:
        assert [element["new_val"]["id"] for element in waiting(query(five).changes().run(conn))] == values
        assert waiting(query(five).changes(include_initial=False).run(conn)) == []

    @pytest.mark.parametrize(
        "query",
        [
            lambda t: t.get(1),
            lambda t: t.between(2, 4),
            lambda t: t.min(index="n"),
            lambda t: t.order_by(index="n").limit(2),
        ],
    )
    def test_explicit_gives_them_only_when_asked(self, tmp_path: Path, query: Any) -> None:
        with cdcbridge.engine.open(tmp_path / "explicit.db", initial_values="explicit") as conn:
            r.table_create("t").run(conn)
            t = r.table("t")
            t.index_create("n").run(conn)
            t.insert([{"id": number, "n": number} for number in (1, 2, 3)]).run(conn)
            assert waiting(query(t).changes().run(conn)) == []
            assert waiting(query(t).changes(include_initial=True).run(conn)) != []

    def test_of_a_union_all_branches_have_them(self, conn: LocalConnection, five: Any) -> None:
        feed = five.get_all(1).union(five.max(index="n")).changes(include_initial=True).run(conn)
        assert bag(waiting(feed)) == bag([{"new_val": {"id": 1, "n": 10}}, {"new_val": {"id": 5, "n": 50}}])

    def test_a_move_into_the_part_not_sent_yet_is_uninitial_and_comes_again(
        self, conn: LocalConnection, five: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ranges, "ROWS_PER_PAGE", 5)
        five.insert([{"id": number, "n": 10 * number} for number in range(6, 9)]).run(conn)
        query = five.between(r.minval, r.maxval, index="n")
        feed = query.changes(include_types=True, include_initial=True).run(conn, max_batch_rows=1)
        seen = [feed.next(wait=WAIT_S)]  # the driver is ahead of that, but not by five
        five.get(1).update({"n": 99}).run(conn)
        five.get(8).update({"n": 0}).run(conn)
        five.get(2).update({"n": 19}).run(conn)
        five.get(7).update({"n": 71}).run(conn)
        seen += waiting(feed)
        assert seen == [
            *({"type": "initial", "new_val": {"id": key, "n": 10 * key}} for key in range(1, 6)),
            {"type": "uninitial", "old_val": {"id": 1, "n": 10}},
            {"type": "initial", "new_val": {"id": 8, "n": 0}},
            change({"id": 2, "n": 20}, {"id": 2, "n": 19}, type="change"),
            {"type": "initial", "new_val": {"id": 6, "n": 60}},
            {"type": "initial", "new_val": {"id": 7, "n": 71}},
            {"type": "initial", "new_val": {"id": 1, "n": 99}},
        ]


class TestStates13:
    INITIALIZING, READY = {"state": "initializing"}, {"state": "ready"}

    @pytest.mark.parametrize(
        "query",
        [
            lambda t: t.filter({"id": 1}),
            lambda t: t.get(1),
            lambda t: t.get_all(1),
            lambda t: t.between(10, 20, right_bound="closed", index="n").filter({"id": 1}),
            lambda t: t.order_by(index="n").limit(1),
            lambda t: t.filter({"id": 1}).union(t.between(2, 1)),
        ],
    )
    def test_ready_comes_behind_the_initial_values(self, conn: LocalConnection, five: Any, query: Any) -> None:
        document = {"new_val": {"id": 1, "n": 10}}
        feed = query(five).changes(include_states=True, include_initial=True).run(conn)
        assert waiting(feed) == [self.INITIALIZING, document, self.READY]
        five.get(1).update({"m": 1}).run(conn)
        assert len(waiting(feed)) == 1

    def test_without_initial_values_ready_is_the_first_element(self, conn: LocalConnection, five: Any) -> None:
        feed = five.changes(include_states=True).run(conn)
        assert waiting(feed) == [self.READY]
        assert waiting(five.get(1).changes(include_states=True, since=5).run(conn)) == [self.READY]

    def test_empty_feeds_send_them_too(self, conn: LocalConnection, five: Any) -> None:
        for query in (five.between(2, 1), five.get_all(r.args([]))):
            feed = query.changes(include_states=True, include_initial=True).run(conn)
            assert waiting(feed) == [self.INITIALIZING, self.READY]
            assert waiting(query.changes(include_states=True, include_initial=False).run(conn)) == [self.READY]

    def test_ready_has_a_number_to_go_on_behind(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        t.get(1).delete().run(conn)
        options = {"include_states": True, "include_initial": True, "include_seq": True, "include_types": True}
        assert waiting(t.changes(**options).run(conn)) == [
            {"state": "initializing", "type": "state"},
            {"state": "ready", "type": "state", "seq": 2},
        ]


class TestOffsets13:
    def test_both_keys_are_always_there_but_for_initial_values(self, conn: LocalConnection, five: Any) -> None:
        feed = five.order_by(index="n").limit(3).changes(include_offsets=True).run(conn)
        assert [(element["new_offset"], element["new_val"]["id"]) for element in waiting(feed)] == [
            (0, 1),
            (1, 2),
            (2, 3),
        ]
        five.insert({"id": 0, "n": 15}).run(conn)
        five.get(0).update({"m": 1}).run(conn)
        five.get(0).update({"n": 5}).run(conn)
        five.get(1).delete().run(conn)
        five.between(3, 6).delete().run(conn)
        zero = {"id": 0, "n": 15}
        assert waiting(feed) == [
            change({"id": 3, "n": 30}, zero, old_offset=2, new_offset=1),
            change(zero, {**zero, "m": 1}, old_offset=1, new_offset=1),
            change({**zero, "m": 1}, {"id": 0, "n": 5, "m": 1}, old_offset=1, new_offset=0),
            change({"id": 1, "n": 10}, {"id": 3, "n": 30}, old_offset=1, new_offset=2),
            change({"id": 3, "n": 30}, {"id": 4, "n": 40}, old_offset=2, new_offset=2),
            change({"id": 4, "n": 40}, {"id": 5, "n": 50}, old_offset=2, new_offset=2),
            change({"id": 5, "n": 50}, None, old_offset=2, new_offset=None),
        ]
        five.insert({"id": 9, "n": 9}).run(conn)
        assert waiting(feed) == [change(None, {"id": 9, "n": 9}, old_offset=None, new_offset=1)]


class TestTypes13:
    def test_each_element_has_one(self, conn: LocalConnection, five: Any) -> None:
        options = {"include_types": True, "include_states": True, "include_initial": True}
        feed = five.get_all(1, 9).changes(**options).run(conn)
        five.get(1).update({"n": 0}).run(conn)
        five.get(1).delete().run(conn)
        five.insert({"id": 9}).run(conn)
        assert [element["type"] for element in waiting(feed)] == [
            "state",
            "initial",
            "state",
            "change",
            "remove",
            "add",
        ]

    def test_a_move_within_a_limited_set_is_a_change(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five.order_by(index="n").limit(3), conn, include_types=True)
        five.get(1).update({"n": 25}).run(conn)
        five.insert({"id": 0, "n": 0}).run(conn)
        assert [element["type"] for element in waiting(feed)] == ["change", "change"]


class TestElements14:
    def test_both_values_are_there_and_never_equal(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn)
        t.insert({"id": 1}).run(conn)
        t.get(1).update({}).run(conn)
        t.get(1).replace({"id": 1}).run(conn)
        t.get(1).delete().run(conn)
        assert waiting(feed) == [change(None, {"id": 1}), change({"id": 1}, None)]

    @pytest.mark.parametrize(
        "query",
        [
            lambda t: t.filter(r.row["n"] < 35).filter(r.row["n"] >= 10),
            lambda t: t.between(10, 35, index="n"),
            lambda t: t.between(20, 70, index="double"),
        ],
    )
    def test_entering_is_an_insert_and_leaving_a_delete(self, conn: LocalConnection, five: Any, query: Any) -> None:
        feed = opened(query(five), conn)
        five.get(5).update({"n": 11}).run(conn)
        five.get(1).update({"n": 99}).run(conn)
        five.get(4).update({"n": 41}).run(conn)
        five.get(2).update({"n": 21}).run(conn)
        assert waiting(feed) == [
            change(None, {"id": 5, "n": 11}),
            change({"id": 1, "n": 10}, None),
            change({"id": 2, "n": 20}, {"id": 2, "n": 21}),
        ]

    def test_get_all_by_a_compound_index(self, conn: LocalConnection, t: Any) -> None:
        feed = opened(t.get_all(["x", 1], ["y", 2], index="both"), conn)
        t.insert([{"id": 1, "room": "x", "n": 1}, {"id": 2, "room": "x", "n": 2}, {"id": 3, "room": "y"}]).run(conn)
        t.get(1).update({"room": "y", "n": 2}).run(conn)
        t.get(1).update({"room": None}).run(conn)
        assert waiting(feed) == [
            change(None, {"id": 1, "room": "x", "n": 1}),
            change({"id": 1, "room": "x", "n": 1}, {"id": 1, "room": "y", "n": 2}),
            change({"id": 1, "room": "y", "n": 2}, None),
        ]

    def test_an_error_in_a_transformation_means_outside(self, conn: LocalConnection, t: Any) -> None:
        feed = t.map(lambda row: r.expr(10) / row["n"]).changes().run(conn)
        t.insert([{"id": 1, "n": 0}, {"id": 2, "n": 5}, {"id": 3}]).run(conn)
        t.get(1).update({"n": 10}).run(conn)
        t.get(2).update({"n": 0}).run(conn)
        assert waiting(feed) == [change(None, 2), change(None, 1), change(2, None)]

    def test_equal_values_after_a_transformation_are_suppressed(self, conn: LocalConnection, five: Any) -> None:
        feed = five.pluck("id").changes().run(conn)
        five.update({"n": 0}).run(conn)
        assert waiting(feed) == []

    def test_an_index_tells_each_entry_and_pairs_old_and_new_ones(self, conn: LocalConnection, t: Any) -> None:
        feed = opened(t.between("a", "c", index="tags"), conn)
        two, one, three = ({"id": 1, "tags": tags} for tags in (["a", "b"], ["b", "z"], ["a", "a", "b"]))
        t.insert(two).run(conn)
        t.get(1).update({"tags": one["tags"]}).run(conn)
        t.get(1).update({"tags": three["tags"]}).run(conn)
        assert waiting(feed) == [
            change(None, two),
            change(None, two),
            change(two, one),
            change(two, None),
            change(one, three),
            change(None, three),
            change(None, three),
        ]

    def test_a_key_that_is_asked_for_twice_is_told_twice(self, conn: LocalConnection, t: Any) -> None:
        feed = t.get_all(1, 1).changes().run(conn)
        t.insert({"id": 1}).run(conn)
        assert waiting(feed) == [change(None, {"id": 1})] * 2

    def test_of_several_elements_of_a_change_only_the_last_has_a_number(self, conn: LocalConnection, t: Any) -> None:
        feed = t.get_all(1, 1).changes(include_seq=True).run(conn)
        t.insert({"id": 1}).run(conn)
        assert waiting(feed) == [change(None, {"id": 1}), change(None, {"id": 1}, seq=1)]

    def test_a_limited_set_that_is_full_pushes_one_out(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five.order_by(index="n").limit(2), conn)
        five.insert({"id": 0, "n": 0}).run(conn)
        five.get(5).update({"n": 51}).run(conn)
        five.get(0).update({"m": 1}).run(conn)
        five.get(0).delete().run(conn)
        assert waiting(feed) == [
            change({"id": 2, "n": 20}, {"id": 0, "n": 0}),
            change({"id": 0, "n": 0}, {"id": 0, "n": 0, "m": 1}),
            change({"id": 0, "n": 0, "m": 1}, {"id": 2, "n": 20}),
        ]

    def test_a_limited_set_that_cannot_be_filled_has_nulls(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five.order_by(index="n").limit(5), conn)
        five.get(5).delete().run(conn)
        five.insert({"id": 6, "n": 1}).run(conn)
        assert waiting(feed) == [change({"id": 5, "n": 50}, None), change(None, {"id": 6, "n": 1})]

    def test_ties_in_the_index_are_broken_by_the_primary_key(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": key, "n": 1} for key in "bdac"]).run(conn)
        up, down = t.order_by(index="n").limit(2), t.order_by(index=r.desc("n")).limit(2)
        assert [element["new_val"]["id"] for element in waiting(up.changes().run(conn))] == ["a", "b"]
        assert [element["new_val"]["id"] for element in waiting(down.changes().run(conn))] == ["d", "c"]

    def test_min_and_max_follow_their_document(self, conn: LocalConnection, t: Any) -> None:
        low, high = t.min(index="n").changes().run(conn), t.max(index="n").changes().run(conn)
        t.insert([{"id": 1, "n": 5}, {"id": 2, "n": 7}]).run(conn)
        t.get(1).update({"n": 9}).run(conn)
        t.get(2).delete().run(conn)
        assert waiting(low) == [
            change(None, {"id": 1, "n": 5}),
            change({"id": 1, "n": 5}, {"id": 2, "n": 7}),
            change({"id": 2, "n": 7}, {"id": 1, "n": 9}),
        ]
        assert waiting(high) == [
            change(None, {"id": 1, "n": 5}),
            change({"id": 1, "n": 5}, {"id": 2, "n": 7}),
            change({"id": 2, "n": 7}, {"id": 1, "n": 9}),
        ]


class TestWhatMayFollow15:
    @pytest.fixture
    def history(self, conn: LocalConnection, t: Any) -> Any:
        t.insert([{"id": 1, "n": 1}, {"id": 2, "n": 2}]).run(conn)
        t.get(1).update({"n": 3}).run(conn)
        return t.changes(since=0)

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            (lambda feed: feed.map(r.row["new_val"]["n"]), [1, 2, 3]),
            (lambda feed: feed.filter(r.row["old_val"].eq(None)).map(r.row["new_val"]["n"]), [1, 2]),
            (lambda feed: feed.filter(r.row["old_val"]["n"] > 0)["new_val"]["n"], [3]),
            (lambda feed: feed.filter(r.row["old_val"]["n"] > 0, default=True)["new_val"]["n"], [1, 2, 3]),
            (lambda feed: feed["new_val"].pluck("n"), [{"n": 1}, {"n": 2}, {"n": 3}]),
            (lambda feed: feed["new_val"].without("id"), [{"n": 1}, {"n": 2}, {"n": 3}]),
            (lambda feed: feed["new_val"].merge({"id": 0}), [{"n": n, "id": 0} for n in (1, 2, 3)]),
            (lambda feed: feed.has_fields("old_val")["new_val"]["n"], [3]),
            (lambda feed: feed.with_fields("old_val"), [{"old_val": {"id": 1, "n": 1}}]),
            (lambda feed: feed["new_val"]["n"], [1, 2, 3]),
            (lambda feed: feed.get_field("new_val")["n"], [1, 2, 3]),
            (lambda feed: feed.concat_map(lambda change: [change["new_val"]["n"], 0]), [1, 0, 2, 0, 3, 0]),
            (lambda feed: feed.skip(1)["new_val"]["n"], [2, 3]),
            (lambda feed: feed["new_val"]["n"].union(feed["new_val"]["id"]), [1, 2, 3, 1, 2, 1]),
            (lambda feed: feed["new_val"]["n"].union([7]), [1, 2, 3, 7]),
            (
                lambda feed: feed["new_val"]["n"].fold(0, lambda a, b: a + b, emit=lambda a, b, c: [c]),
                [1, 3, 6],
            ),
        ],
    )
    def test_transformations_stream(self, conn: LocalConnection, history: Any, query: Any, found: list[Any]) -> None:
        assert waiting(query(history).run(conn)) == found

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            (lambda feed: feed.limit(2)["new_val"]["n"], [1, 2]),
            (lambda feed: feed.slice(1, 3)["new_val"]["n"], [2, 3]),
            (lambda feed: feed["new_val"]["n"].union(feed["new_val"]["id"]).limit(4), [1, 2, 3, 1]),
        ],
    )
    def test_an_end_ends_the_feed(self, conn: LocalConnection, history: Any, query: Any, found: list[Any]) -> None:
        assert list(query(history).run(conn)) == found

    def test_a_union_of_feeds_is_woken_by_each(self, conn: LocalConnection, t: Any) -> None:
        r.table_create("u").run(conn)
        u = r.table("u")
        feed = t.changes()["new_val"]["id"].union(u.changes()["new_val"]["id"]).run(conn)
        for table, key in ((t, 1), (u, "x"), (t, 2)):
            table.insert({"id": key}).run(conn)
            assert feed.next(wait=WAIT_S) == key

    def test_a_feed_is_never_empty(self, conn: LocalConnection, t: Any) -> None:
        assert t.changes().is_empty().run(conn) is False

    @pytest.mark.parametrize(
        "query",
        [
            lambda feed: feed.count(),
            lambda feed: feed.sum("n"),
            lambda feed: feed.avg("n"),
            lambda feed: feed.min("n"),
            lambda feed: feed.max("n"),
            lambda feed: feed.reduce(lambda a, b: a),
            lambda feed: feed.order_by("n"),
            lambda feed: feed.distinct(),
            lambda feed: feed.contains(1),
            lambda feed: feed.nth(0),
            lambda feed: feed[0],
            lambda feed: feed.sample(1),
            lambda feed: feed.fold(0, lambda a, b: a),
            lambda feed: feed.coerce_to("array"),
            lambda feed: feed.for_each(lambda change: r.table("t").insert({"id": 1})),
            lambda feed: r.table("t").insert(feed),
        ],
    )
    def test_what_needs_the_end_is_refused(self, conn: LocalConnection, t: Any, query: Any) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            query(t.changes()).run(conn)
        assert caught.value.message == (
            "Cannot call a terminal (`reduce`, `count`, etc.) on an infinite stream (such as a changefeed)."
        )

    def test_a_missing_field_ends_the_cursor_behind_the_elements_before_it(
        self, conn: LocalConnection, history: Any
    ) -> None:
        feed = history.map(r.row["new_val"]["n"]).map(lambda n: r.branch(n == 3, r.expr({})["x"], n)).run(conn)
        assert [feed.next(wait=WAIT_S) for _ in range(2)] == [1, 2]
        with pytest.raises(ReqlNonExistenceError, match=r"No attribute `x` in object:\n\{\}"):
            feed.next(wait=WAIT_S)

    def test_an_error_of_the_query_s_own_ends_it(self, conn: LocalConnection, history: Any) -> None:
        with pytest.raises(ReqlUserError, match="enough"):
            history.map(lambda change: r.error("enough")).run(conn).next(wait=WAIT_S)
        with pytest.raises(ReqlNonExistenceError):
            history.filter(r.row["old_val"]["n"] > 0, default=r.error()).run(conn).next(wait=WAIT_S)


class TestGuarantees16:
    def test_only_writes_after_the_feed_has_begun(self, conn: LocalConnection, five: Any) -> None:
        feed = five.changes().run(conn)
        assert waiting(feed) == []

    def test_a_write_of_several_documents_is_an_element_for_each(self, conn: LocalConnection, five: Any) -> None:
        feed = five.changes().run(conn)
        five.update({"n": r.row["n"] + 1}).run(conn)
        assert bag(waiting(feed)) == bag(
            [change({"id": key, "n": 10 * key}, {"id": key, "n": 10 * key + 1}) for key in range(1, 6)]
        )

    def test_a_slow_reader_does_not_block_writes(self, conn: LocalConnection, t: Any) -> None:
        feed = t.changes().run(conn)
        for start in range(0, 2000, 200):
            t.insert([{"id": start + number} for number in range(200)]).run(conn)
        assert len(waiting(feed)) == 2000


class TestEnds17:
    QUERIES = (
        lambda t: t,
        lambda t: t.get(1),
        lambda t: t.get_all(1, 1),
        lambda t: t.between(1, 2, index="n"),
        lambda t: t.order_by(index="n").limit(2),
        lambda t: t.min(index="n"),
        lambda t: r.table("u").union(t),
    )

    @pytest.fixture
    def other(self, conn: LocalConnection) -> None:
        r.table_create("u").run(conn)

    @pytest.mark.usefixtures("other")
    @pytest.mark.parametrize("drop", [lambda: r.table_drop("t"), lambda: r.db_drop("test")])
    @pytest.mark.parametrize("query", QUERIES)
    def test_a_drop_ends_it_and_what_was_not_read_is_gone(
        self, conn: LocalConnection, five: Any, query: Any, drop: Any
    ) -> None:
        feed = query(five).changes(squash=False).run(conn)
        waiting(feed)
        five.update({"n": 1}).run(conn)
        drop().run(conn)
        with pytest.raises(ReqlOpFailedError) as caught:
            feed.next(wait=WAIT_S)
        assert caught.value.message == "Changefeed aborted (unavailable)."

    @pytest.mark.parametrize("query", [QUERIES[1], QUERIES[3], QUERIES[4]])
    def test_a_waiting_reader_is_told_of_a_drop(
        self, conn: LocalConnection, data_file: Path, five: Any, query: Any
    ) -> None:
        ended: list[str] = []
        is_waiting = threading.Event()

        def read() -> None:
            with cdcbridge.engine.open(data_file) as mine:
                feed = query(five).changes(include_initial=False).run(mine)
                assert waiting(feed) == []
                is_waiting.set()
                try:
                    feed.next(wait=WAIT_S)
                except ReqlOpFailedError as error:
                    ended.append(error.message)

        reader = threading.Thread(target=read)
        reader.start()
        is_waiting.wait(WAIT_S)
        r.table_drop("t").run(conn)
        reader.join()
        assert ended == ["Changefeed aborted (unavailable)."]

    @pytest.mark.parametrize("query", [QUERIES[3], QUERIES[4], QUERIES[5]])
    @pytest.mark.parametrize(
        "end", [lambda t: t.index_drop("n"), lambda t: t.index_rename("double", "n", overwrite=True)]
    )
    def test_a_dropped_index_ends_the_feeds_on_it_alone(
        self, conn: LocalConnection, five: Any, query: Any, end: Any
    ) -> None:
        feed, whole = opened(query(five), conn), five.changes().run(conn)
        assert waiting(feed) == []
        end(five).run(conn)
        with pytest.raises(ReqlOpFailedError, match="Changefeed aborted"):
            feed.next(wait=WAIT_S)
        five.get(1).delete().run(conn)
        assert len(waiting(whole)) == 1

    def test_a_renamed_index_keeps_its_feeds(self, conn: LocalConnection, five: Any) -> None:
        feed = opened(five.order_by(index="n").limit(1), conn)
        five.index_rename("n", "m").run(conn)
        five.get(1).delete().run(conn)
        assert waiting(feed) == [change({"id": 1, "n": 10}, {"id": 2, "n": 20})]
