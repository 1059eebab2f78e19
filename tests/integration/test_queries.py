"""Reading: documents by key, ranges, order, filters, and what is made of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rethinkdb import r
from rethinkdb.ast import Between
from rethinkdb.errors import (
    ReqlError,
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlResourceLimitError,
    ReqlServerCompileError,
)

import cdcbridge.engine
from cdcbridge.engine.local import LocalConnection
from cdcbridge.engine.reql.runtime import ROWS_PER_PAGE
from cdcbridge.engine.values import Ordered, compare

LARGE = 2 * ROWS_PER_PAGE + 88
"""More documents than two pages hold."""


@pytest.fixture
def large(conn: LocalConnection, t: Any) -> Any:
    """A table of `LARGE` documents: id from 0, n = id % 7."""
    t.insert([{"id": number, "n": number % 7} for number in range(LARGE)]).run(conn, durability="soft")
    return t


def ids(query: Any, conn: LocalConnection) -> list[Any]:
    return [row["id"] for row in query.run(conn)]


class TestByKey:
    def test_a_document_or_null(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": "a", "n": 1}).run(conn)
        assert t.get("a").run(conn) == {"id": "a", "n": 1}
        assert t.get("b").run(conn) is None
        assert t.get("b").default("nobody").run(conn) == "nobody"

    @pytest.mark.parametrize("key", [{}, {"a": 1}, [None], "x" * 128])
    def test_what_is_no_key_is_refused(self, conn: LocalConnection, t: Any, key: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Primary key"):
            t.get(key).run(conn)

    def test_null_is_no_key(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlNonExistenceError) as caught:
            t.get(None).run(conn)
        assert caught.value.message == "Keys cannot be NULL."

    def test_fields_of_it(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1, "a": {"b": [10, 20]}}).run(conn)
        assert t.get(1)["a"]["b"][1].run(conn) == 20
        assert t.get(1).pluck("id", {"a": ["b"]}).run(conn) == {"id": 1, "a": {"b": [10, 20]}}
        with pytest.raises(ReqlNonExistenceError, match="Cannot perform bracket on a non-object non-sequence `null`"):
            t.get(2)["a"].run(conn)


class TestWholeTable:
    def test_every_document_comes_once_across_pages(self, conn: LocalConnection, large: Any) -> None:
        assert ids(large, conn) == list(range(LARGE))

    @pytest.mark.parametrize("batch", [1, 7, ROWS_PER_PAGE, ROWS_PER_PAGE + 1])
    def test_in_batches_of_any_size(self, conn: LocalConnection, large: Any, batch: int) -> None:
        assert [row["id"] for row in large.run(conn, max_batch_rows=batch)] == list(range(LARGE))

    @pytest.mark.parametrize("size", [0, 1, ROWS_PER_PAGE - 1, ROWS_PER_PAGE, ROWS_PER_PAGE + 1, 2 * ROWS_PER_PAGE])
    def test_at_the_borders_of_pages(self, conn: LocalConnection, t: Any, size: int) -> None:
        t.insert([{"id": number} for number in range(size)]).run(conn)
        assert ids(t, conn) == list(range(size))
        assert ids(t.order_by(index=r.desc("id")), conn) == list(range(size))[::-1]
        assert t.count().run(conn) == t.filter({}).count().run(conn) == size

    def test_a_reader_in_the_middle_does_not_stop_writers(self, conn: LocalConnection, large: Any) -> None:
        cursor = large.run(conn, max_batch_rows=10)
        first = [cursor.next()["id"] for _ in range(10)]
        large.between(ROWS_PER_PAGE, r.maxval).delete().run(conn)
        large.insert({"id": -1}).run(conn)
        seen = first + [row["id"] for row in cursor]
        assert seen == list(range(ROWS_PER_PAGE))

    def test_a_table_dropped_in_the_middle_is_an_error(self, conn: LocalConnection, large: Any) -> None:
        cursor = large.run(conn, max_batch_rows=10)
        r.table_drop("t").run(conn)
        with pytest.raises(ReqlOpFailedError, match=r"Table `test\.t` does not exist"):
            list(cursor)

    def test_keys_of_all_types_come_in_reql_s_order(self, conn: LocalConnection, t: Any) -> None:
        keys = ["b", "", "a", 2, -1, 1.5, True, False, [1, "a"], [1], [], ["a"], b"b", b"a", r.epoch_time(5)]
        t.insert([{"id": key} for key in keys]).run(conn)
        stored = [row["id"] for row in t.run(conn, time_format="raw", binary_format="raw")]
        assert len(stored) == len(keys)
        assert stored == sorted(stored, key=Ordered)
        assert stored[0] == []
        assert stored[-1] == "b"

    @pytest.mark.parametrize("order", [[2, 1], ["z", 5, [0]]])
    def test_nth_and_negative_positions(self, conn: LocalConnection, t: Any, order: list[Any]) -> None:
        t.insert([{"id": key} for key in order]).run(conn)
        in_order = sorted(order, key=Ordered)
        assert t[0]["id"].run(conn) == in_order[0]
        assert t[-1]["id"].run(conn) == in_order[-1]
        with pytest.raises(ReqlNonExistenceError, match="Index out of bounds"):
            t[len(order)].run(conn)


class TestBetween:
    @pytest.mark.parametrize(
        ("query", "first", "last"),
        [
            (lambda t: t.between(10, 20), 10, 19),
            (lambda t: t.between(10, 20, right_bound="closed"), 10, 20),
            (lambda t: t.between(10, 20, left_bound="open"), 11, 19),
            (lambda t: t.between(9.5, 20.5), 10, 20),
            (lambda t: t.between(r.minval, 3), 0, 2),
            (lambda t: t.between(LARGE - 2, r.maxval), LARGE - 2, LARGE - 1),
            (lambda t: t.between(r.minval, r.maxval), 0, LARGE - 1),
            (lambda t: t.between(5, "a"), 5, LARGE - 1),
            (lambda t: t.between(5, ROWS_PER_PAGE + 5), 5, ROWS_PER_PAGE + 4),
            (lambda t: t.between(5, LARGE - 5, index="id"), 5, LARGE - 6),
        ],
    )
    def test_the_keys_from_one_to_another(
        self, conn: LocalConnection, large: Any, query: Any, first: int, last: int
    ) -> None:
        assert ids(query(large), conn) == list(range(first, last + 1))
        assert ids(query(large).order_by(index=r.desc("id")), conn) == list(range(last, first - 1, -1))
        assert ids(query(large.order_by(index=r.desc("id"))), conn) == list(range(last, first - 1, -1))
        assert query(large).count().run(conn) == last + 1 - first

    @pytest.mark.parametrize("ends", [(20, 10), (10, 10), (r.maxval, r.minval), (LARGE, LARGE + 5)])
    def test_an_empty_range(self, conn: LocalConnection, large: Any, ends: tuple[Any, Any]) -> None:
        assert ids(large.between(*ends), conn) == []

    def test_a_prefix_of_compound_keys(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": ["a", number]} for number in range(3)] + [{"id": ["b", 0]}, {"id": ["a"]}]).run(conn)
        assert ids(t.between(["a", r.minval], ["a", r.maxval]), conn) == [["a", 0], ["a", 1], ["a", 2]]
        assert ids(t.between(["a"], ["a", 1]), conn) == [["a"], ["a", 0]]

    @pytest.mark.parametrize("ends", [(None, 5), (1, None)])
    def test_null_is_no_end(self, conn: LocalConnection, t: Any, ends: tuple[Any, Any]) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            t.between(*ends).run(conn)
        assert caught.value.message == "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` instead."

    def test_an_object_is_no_end(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Primary keys must be either"):
            t.between({}, 5).run(conn)

    @pytest.mark.parametrize("option", ["left_bound", "right_bound"])
    def test_a_bound_is_open_or_closed(self, conn: LocalConnection, t: Any, option: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            t.between(1, 2, **{option: "ajar"}).run(conn)
        assert caught.value.message == f'Expected `open` or `closed` for optarg `{option}` (got "ajar").'

    def test_it_needs_a_table(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Expected type TABLE but found ARRAY"):
            Between(r.expr([1]), 1, 2).run(conn)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        keys=st.lists(st.integers(0, 9) | st.text("ab", max_size=3) | st.lists(st.integers(0, 3), max_size=2)),
        ends=st.tuples(st.integers(0, 9) | st.text("ab", max_size=3), st.integers(0, 9) | st.text("ab", max_size=3)),
        bounds=st.tuples(st.sampled_from(["open", "closed"]), st.sampled_from(["open", "closed"])),
    )
    def test_it_gives_what_comparing_gives(
        self, conn: LocalConnection, data_file: Path, keys: list[Any], ends: tuple[Any, Any], bounds: tuple[str, str]
    ) -> None:
        if "t" not in r.table_list().run(conn):
            r.table_create("t").run(conn)
        t = r.table("t")
        t.delete(durability="soft").run(conn)
        t.insert([{"id": key} for key in keys], conflict="replace", durability="soft").run(conn)
        left, right = bounds
        wanted = [
            key
            for key in ids(t, conn)
            if compare(key, ends[0]) >= (left == "open") and compare(key, ends[1]) <= -(right == "open")
        ]
        assert ids(t.between(*ends, left_bound=left, right_bound=right), conn) == wanted


class TestOrder:
    def test_by_the_primary_key(self, conn: LocalConnection, large: Any) -> None:
        assert ids(large.order_by(index="id").limit(3), conn) == [0, 1, 2]
        assert ids(large.order_by(index=r.desc("id")).limit(3), conn) == [LARGE - 1, LARGE - 2, LARGE - 3]
        assert ids(large.order_by(index=r.asc("id")).skip(LARGE - 1), conn) == [LARGE - 1]

    def test_by_fields(self, conn: LocalConnection, large: Any) -> None:
        assert ids(large.order_by("n", r.desc("id")).limit(1), conn) == [(LARGE - 1) // 7 * 7]

    def test_by_index_and_then_fields(self, conn: LocalConnection, large: Any) -> None:
        assert ids(large.order_by("n", index=r.desc("id")).limit(2), conn) == [
            (LARGE - 1) // 7 * 7,
            (LARGE - 1) // 7 * 7 - 7,
        ]

    def test_the_index_needs_a_table(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Indexed order_by can only be performed on a TABLE"):
            t.filter({}).order_by(index="id").run(conn)

    def test_more_than_an_array_holds_cannot_be_sorted(self, conn: LocalConnection, large: Any) -> None:
        with pytest.raises(ReqlResourceLimitError) as caught:
            large.order_by("n").run(conn, array_limit=LARGE - 1)
        assert caught.value.message == (
            f"Array over size limit `{LARGE - 1}`.  To raise the number of allowed elements, modify the `array_limit` "
            "option to `.run` (not available in the Data Explorer), or use an index."
        )
        assert len(large.order_by("n").run(conn, array_limit=LARGE)) == LARGE


class TestSelections:
    def test_filter(self, conn: LocalConnection, large: Any) -> None:
        wanted = [number for number in range(LARGE) if number % 7 == 3]
        assert ids(large.filter({"n": 3}), conn) == wanted
        assert ids(large.filter(lambda row: row["n"].eq(3)), conn) == wanted
        assert ids(large.filter(r.row["n"] == 3).filter(r.row["id"] > LARGE - 7), conn) == wanted[-1:]
        assert large.filter({"n": 3}).count().run(conn) == len(wanted)

    def test_filter_with_a_missing_field_skips(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1, "a": 1}, {"id": 2}]).run(conn)
        assert ids(t.filter(r.row["a"] > 0), conn) == [1]
        assert ids(t.filter(r.row["a"] > 0, default=True), conn) == [1, 2]
        with pytest.raises(ReqlNonExistenceError):
            list(t.filter(r.row["a"] > 0, default=r.error()).run(conn))

    def test_an_error_comes_after_the_elements_before_it(self, conn: LocalConnection, large: Any) -> None:
        cursor = large.map(r.branch(r.row["id"] < 300, r.row["id"], r.error("no"))).run(conn)
        seen = []
        with pytest.raises(Exception, match="no"):
            seen.extend(cursor)  # what came before the error is kept by extend
        assert seen == list(range(300))

    def test_pluck_map_and_bracket(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1, "a": 5, "b": 6}, {"id": 2, "a": None}, {"id": 3}]).run(conn)
        assert list(t.pluck("a").run(conn)) == [{"a": 5}, {"a": None}, {}]
        assert list(t["a"].run(conn)) == [5, None]
        assert list(t.map(lambda row: row["id"] * 2).run(conn)) == [2, 4, 6]

    def test_a_sample_of_a_table(self, conn: LocalConnection, large: Any) -> None:
        chosen = [row["id"] for row in large.sample(50).run(conn)]
        assert len(set(chosen)) == 50
        assert set(chosen) <= set(range(LARGE))
        assert len(large.sample(LARGE + 1).run(conn)) == LARGE
        with pytest.raises(ReqlQueryLogicError, match="SAMPLE takes a non-negative argument"):
            large.sample(-1).run(conn)

    def test_limit_and_skip_across_pages(self, conn: LocalConnection, large: Any) -> None:
        assert ids(large.limit(0), conn) == []
        assert ids(large.limit(ROWS_PER_PAGE + 1), conn) == list(range(ROWS_PER_PAGE + 1))
        assert ids(large.skip(ROWS_PER_PAGE).limit(2), conn) == [ROWS_PER_PAGE, ROWS_PER_PAGE + 1]

    def test_a_subquery(self, conn: LocalConnection, large: Any) -> None:
        assert large.filter(lambda row: large.get(row["id"] + 1).eq(None)).count().run(conn) == 1

    def test_default_of_a_large_table_is_the_table(self, conn: LocalConnection, large: Any) -> None:
        assert len(list(large.default([]).run(conn, array_limit=5))) == LARGE


class TestRefused:
    @pytest.mark.parametrize(
        ("option", "message"),
        [({"nonsense": 1}, "Unrecognized global optional argument `nonsense`")],
    )
    def test_an_unknown_option_of_run(self, conn: LocalConnection, t: Any, option: Any, message: str) -> None:
        with pytest.raises(ReqlServerCompileError, match=message):
            t.run(conn, **option)

    def test_an_array_limit_below_one(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Illegal array size limit `0`"):
            t.run(conn, array_limit=0)

    def test_a_database_is_no_answer(self, conn: LocalConnection) -> None:
        with pytest.raises(ReqlQueryLogicError, match=r"\(got DATABASE\)"):
            r.db("test").run(conn)

    def test_a_write_in_an_option_of_run_changes_nothing(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="cannot write"):
            t.run(conn, array_limit=r.do(t.insert({}), lambda answer: 5))
        assert t.count().run(conn) == 0


class TestReadersAndTables:
    def test_readers_in_other_threads_see_tables_only_when_they_are_there(
        self, conn: LocalConnection, data_file: Path
    ) -> None:
        """Whoever finds a table in the list can read it, while others are made, dropped and rolled back."""
        over = threading.Event()
        failures: list[ReqlError] = []

        def read() -> None:
            with cdcbridge.engine.open(data_file) as mine:
                while not over.is_set():
                    for name in r.table_list().run(mine):
                        try:
                            assert r.table(name).count().run(mine) == 0
                        except ReqlOpFailedError as gone:
                            if name == "stays":
                                failures.append(gone)
                        except ReqlError as problem:
                            failures.append(problem)

        r.table_create("stays").run(conn)
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(30):
            r.table_create(f"t{number}").run(conn)
            with pytest.raises(Exception, match="no"):
                r.do(r.table_create("never"), lambda answer: r.error("no")).run(conn)
            r.table_drop(f"t{number}").run(conn)
        over.set()
        for reader in readers:
            reader.join()
        assert failures == []
