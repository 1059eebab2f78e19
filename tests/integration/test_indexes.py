"""Secondary indexes: what is in them, what reads them, and how they are made, changed and kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rethinkdb import r
from rethinkdb.errors import (
    ReqlError,
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlUserError,
)

import cdcbridge.engine
from cdcbridge.engine.local import LocalConnection

DOCUMENTS = [
    {"id": 1, "n": 3, "name": "b", "tags": ["x", "y"]},
    {"id": 2, "n": 1, "name": "a", "tags": ["y", "y"]},
    {"id": 3, "n": 2, "name": "b", "tags": []},
    {"id": 4, "n": 2, "name": "a", "tags": "y"},
    {"id": 5, "n": None, "tags": None},
    {"id": 6, "n": {"a": 1}, "tags": [None, "x", {}]},
    {"id": 7},
]


@pytest.fixture
def t(conn: LocalConnection) -> Any:
    r.table_create("t").run(conn)
    t = r.table("t")
    t.insert(DOCUMENTS).run(conn)
    t.index_create("n").run(conn)
    t.index_create("tags", multi=True).run(conn)
    t.index_create("both", [r.row["name"], r.row["n"]]).run(conn)
    t.index_create("negative", lambda row: row["n"] * -1).run(conn)
    return t


def ids(query: Any, conn: LocalConnection) -> list[Any]:
    return [document["id"] for document in query.run(conn)]


class TestWhatIsInIt:
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            (lambda t: t.order_by(index="n"), [2, 3, 4, 1]),
            (lambda t: t.order_by(index=r.desc("n")), [1, 4, 3, 2]),
            (lambda t: t.order_by(index="negative"), [1, 3, 4, 2]),
            (lambda t: t.order_by(index="both"), [2, 4, 3, 1]),
            (lambda t: t.order_by(index="tags"), [1, 6, 1, 2, 2, 4]),
            (lambda t: t.order_by("name", index="n"), [2, 4, 3, 1]),
            (lambda t: t.get_all(2, index="n"), [3, 4]),
            (lambda t: t.get_all(2.0, 1, index="n"), [3, 4, 2]),
            (lambda t: t.get_all(2, 2, index="n"), [3, 4, 3, 4]),
            (lambda t: t.get_all("y", index="tags"), [1, 2, 2, 4]),
            (lambda t: t.get_all(["b", 2], index="both"), [3]),
            (lambda t: t.get_all(r.args([1, 3]), index="n"), [2, 1]),
            (lambda t: t.get_all(1, index="id"), [1]),
            (lambda t: t.get_all(3, 1, 3), [3, 1, 3]),
            (lambda t: t.get_all(index="n"), []),
            (lambda t: t.between(1, 2, index="n"), [2]),
            (lambda t: t.between(1, 2, index="n", right_bound="closed"), [2, 3, 4]),
            (lambda t: t.between(1, 3, index="n", left_bound="open"), [3, 4]),
            (lambda t: t.between(r.minval, r.maxval, index="n"), [2, 3, 4, 1]),
            (lambda t: t.between(["a", 2], ["b", r.maxval], index="both"), [4, 3, 1]),
            (lambda t: t.between(["b"], ["b", r.maxval], index="both"), [3, 1]),
            (lambda t: t.between(3, 1, index="n"), []),
            (lambda t: t.between(1, 3, index="n").order_by(index=r.desc("n")), [4, 3, 2]),
            (lambda t: t.order_by(index=r.desc("n")).between(1, 3, index="n"), [4, 3, 2]),
            (lambda t: t.order_by(index=r.desc("id")).between(1, 3), [2, 1]),
            (lambda t: t.between(1, 3, index="n").filter({"name": "a"}), [2, 4]),
            (lambda t: t.order_by(index="n").limit(2), [2, 3]),
        ],
    )
    def test_queries_read_it_in_its_order(self, conn: LocalConnection, t: Any, query: Any, found: list[int]) -> None:
        assert ids(query(t), conn) == found

    def test_null_objects_and_errors_are_not_in_it(self, conn: LocalConnection, t: Any) -> None:
        assert t.order_by(index="n").count().run(conn) == 4
        assert t.order_by(index="both").count().run(conn) == 4

    @pytest.mark.parametrize(
        "kind", [True, 1, -0.5, "", "a\0b", "é", [], [1, ["x", 2]], r.epoch_time(3), r.binary(b"\0x")]
    )
    def test_it_takes_values_of_every_kind(self, conn: LocalConnection, t: Any, kind: Any) -> None:
        t.get(7).update({"n": kind}).run(conn)
        assert ids(t.get_all(kind, index="n"), conn) == ([2, 7] if type(kind) is int else [7])

    def test_arrays_sort_by_their_elements_also_with_null_characters(self, conn: LocalConnection, t: Any) -> None:
        values = [["a"], ["a", "a"], ["a", 1], ["a\0"], ["a\0", 1], ["a\0b"], ["ab"], ["a", []]]
        r.table_create("u").run(conn)
        u = r.table("u")
        u.index_create("v").run(conn)
        u.insert([{"v": value} for value in values]).run(conn)
        by_index = [row["v"] for row in u.order_by(index="v").run(conn)]
        assert by_index == [row["v"] for row in u.order_by("v").run(conn)]

    def test_long_keys_are_kept_whole(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 10 + number, "n": "x" * 5000 + str(9 - number)} for number in range(3)]).run(conn)
        assert ids(t.between("x", "y", index="n"), conn) == [12, 11, 10]
        assert ids(t.get_all("x" * 5000 + "8", index="n"), conn) == [11]

    def test_it_follows_every_write(self, conn: LocalConnection, t: Any) -> None:
        t.get(1).update({"n": 0}).run(conn)
        t.get(2).delete().run(conn)
        t.get(3).replace({"id": 3}).run(conn)
        t.insert({"id": 8, "n": -1}).run(conn)
        assert ids(t.order_by(index="n"), conn) == [8, 1, 4]

    def test_a_query_that_fails_leaves_it_as_it_was(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlUserError):
            r.do(t.get(1).update({"n": 0}), lambda answer: r.error("no")).run(conn)
        assert ids(t.get_all(3, index="n"), conn) == [1]

    def test_a_write_sees_what_the_query_has_written_before(self, conn: LocalConnection, t: Any) -> None:
        query = r.do(t.get(1).update({"n": 0}), lambda answer: t.get_all(0, index="n").coerce_to("array"))
        assert [row["id"] for row in query.run(conn)] == [1]

    def test_a_write_by_an_index_does_not_meet_a_document_twice(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 100 + number, "n": 100 + number} for number in range(600)]).run(conn)
        answer = t.between(100, 2000, index="n").update({"n": r.row["n"] + 300}).run(conn)
        assert answer["replaced"] == 600
        assert t.get(100)["n"].run(conn) == 400
        assert t.between(100, 2000, index="n").delete().run(conn)["deleted"] == 600

    def test_it_is_there_after_a_restart(self, data_file: Path) -> None:
        with cdcbridge.engine.open(data_file) as conn:
            r.table_create("t").run(conn)
            t = r.table("t")
            t.index_create("twice", lambda row: row["n"] * 2).run(conn)
            t.index_create("n").run(conn)
            t.index_rename("n", "m").run(conn)
            t.insert({"id": 1, "n": 1}).run(conn)
        with cdcbridge.engine.open(data_file) as conn:
            t.insert({"id": 2, "n": 0}).run(conn)
            assert t.index_list().run(conn) == ["m", "twice"]
            assert ids(t.order_by(index="twice"), conn) == ids(t.order_by(index="m"), conn) == [2, 1]


class TestOtherTermsThatReadIt:
    def test_min_and_max(self, conn: LocalConnection, t: Any) -> None:
        assert t.min(index="n")["id"].run(conn) == 2
        assert t.max(index="n")["id"].run(conn) == 1
        assert t.max(index="id").run(conn) == {"id": 7}
        assert t.between(2, 3, index="n").max(index="n")["id"].run(conn) == 4
        assert t.min("n")["id"].run(conn) == 5  # null is below all numbers
        assert r.expr([3, 1, 2]).min().run(conn) == 1
        assert r.expr([{"a": 3}, {"a": 5}, {}]).max(r.row["a"]).run(conn) == {"a": 5}

    def test_what_min_gives_can_be_written(self, conn: LocalConnection, t: Any) -> None:
        assert t.min(index="n").update({"n": 9}).run(conn)["replaced"] == 1
        assert t.max(index="n").delete().run(conn)["deleted"] == 1
        assert ids(t.order_by(index="n"), conn) == [3, 4, 1]

    @pytest.mark.parametrize("name", ["min", "max"])
    def test_of_nothing_there_is_no_min_and_no_max(self, conn: LocalConnection, t: Any, name: str) -> None:
        t.delete().run(conn)
        for query in (getattr(t, name)(index="n"), getattr(t, name)("n"), getattr(t, name)()):
            with pytest.raises(ReqlNonExistenceError, match=f"Cannot take the {name} of an empty stream."):
                query.run(conn)

    def test_distinct_group_and_eq_join(self, conn: LocalConnection, t: Any) -> None:
        assert list(t.distinct(index="n").run(conn)) == [1, 2, 3]
        assert list(t.distinct(index="tags").run(conn)) == ["x", "y"]
        assert list(t.distinct(index="id").run(conn)) == [1, 2, 3, 4, 5, 6, 7]
        assert t.group(index="n").count().run(conn) == {1: 1, 2: 2, 3: 1}
        assert t.group(index="tags")["id"].order_by(lambda id: id).run(conn) == {"x": [1, 6], "y": [1, 2, 4]}
        pairs = r.expr([{"k": 2}, {"k": 3}]).eq_join("k", t, index="n").run(conn)
        assert [(pair["left"]["k"], pair["right"]["id"]) for pair in pairs] == [(2, 3), (2, 4), (3, 1)]


class TestErrors:
    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (lambda t: t.index_create("n"), "Index `n` already exists on table `test.t`."),
            (lambda t: t.index_drop("x"), "Index `x` does not exist on table `test.t`."),
            (lambda t: t.index_rename("x", "y"), "Index `x` does not exist on table `test.t`."),
            (lambda t: t.index_rename("n", "tags"), "Index `tags` already exists on table `test.t`."),
            (lambda t: t.index_status("x"), "Index `x` was not found on table `test.t`."),
            (lambda t: t.index_wait("n", "x"), "Index `x` was not found on table `test.t`."),
            (lambda t: t.get_all(1, index="x"), "Index `x` was not found on table `test.t`."),
            (lambda t: t.between(1, 2, index="x"), "Index `x` was not found on table `test.t`."),
            (lambda t: t.order_by(index="x"), "Index `x` was not found on table `test.t`."),
            (lambda t: t.min(index="x"), "Index `x` was not found on table `test.t`."),
        ],
    )
    def test_an_index_that_is_not_there_or_is_already(
        self, conn: LocalConnection, t: Any, query: Any, message: str
    ) -> None:
        with pytest.raises(ReqlOpFailedError) as caught:
            query(t).run(conn)
        assert caught.value.message == message

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (lambda t: t.index_create("id"), "Index name conflict: `id` is the name of the primary key."),
            (lambda t: t.index_rename("n", "id"), "Index name conflict: `id` is the name of the primary key."),
            (lambda t: t.index_create("x", geo=True), "not supported: geospatial indexes"),
            (
                lambda t: t.index_create("x", lambda row: r.random()),
                "Could not prove function deterministic.  Index functions must be deterministic.",
            ),
            (
                lambda t: t.index_create("x", lambda row: r.now()),
                "Could not prove function deterministic.  Index functions must be deterministic.",
            ),
            (
                lambda t: t.index_create("x", lambda row: t.get(row["id"])),
                "Could not prove function deterministic.  Index functions must be deterministic.",
            ),
            (
                lambda t: t.index_create("x", lambda a, b: a),
                "The function of an index takes 1 argument, the document (got 2).",
            ),
            (lambda t: t.index_create("x", 1), "Expected type FUNCTION but found NUMBER."),
            (
                lambda t: t.index_create("x", r.binary(b"x")),
                "Cannot create an index with binary data that is no index function.",
            ),
            (lambda t: t.index_create(1), "Expected type STRING but found NUMBER."),
            (
                lambda t: t.get_all({}, index="n"),
                "Secondary keys must be a number, string, bool, pseudotype, or array (got type OBJECT):\n{}",
            ),
            (
                lambda t: t.between(None, 1, index="n"),
                "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` instead.",
            ),
            (
                lambda t: t.between(1, 2, index="n").between(1, 2, index="n"),
                "Cannot perform multiple BETWEENs on the same table.",
            ),
            (
                lambda t: t.order_by(index="n").order_by(index="n"),
                "Cannot perform multiple indexed ORDER_BYs on the same table.",
            ),
            (
                lambda t: t.between(1, 2).order_by(index="n"),
                "Cannot order by index `n` after calling BETWEEN on index `id`.",
            ),
            (
                lambda t: t.order_by(index="n").between(1, 2),
                "Cannot call between on index `id` after ordering on index `n`.",
            ),
            (
                lambda t: t.get_all(1, index="n").order_by(index="n"),
                "Indexed order_by can only be performed on a TABLE or TABLE_SLICE.",
            ),
            (
                lambda t: t.filter({}).order_by(index="n"),
                "Indexed order_by can only be performed on a TABLE or TABLE_SLICE.",
            ),
            (lambda t: t.min("n", index="n"), "Cannot provide both a function and an index to min."),
        ],
    )
    def test_what_makes_no_sense(self, conn: LocalConnection, t: Any, query: Any, message: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            query(t).run(conn)
        assert caught.value.message == message

    def test_null_is_no_key(self, conn: LocalConnection, t: Any) -> None:
        for query in (t.get_all(None), t.get_all(None, index="n")):
            with pytest.raises(ReqlNonExistenceError, match="Keys cannot be NULL"):
                query.run(conn)


class TestAdministration:
    def test_the_answers(self, conn: LocalConnection, t: Any) -> None:
        assert t.index_create("new").run(conn) == {"created": 1}
        assert t.index_rename("new", "newer").run(conn) == {"renamed": 1}
        assert t.index_rename("newer", "newer").run(conn) == {"renamed": 0}
        assert t.index_drop("newer").run(conn) == {"dropped": 1}
        assert t.index_list().run(conn) == ["both", "n", "negative", "tags"]

    def test_status_and_wait_tell_all_or_those_that_are_named(self, conn: LocalConnection, t: Any) -> None:
        statuses = t.index_status().run(conn)
        assert statuses == t.index_wait().run(conn)
        assert [status["index"] for status in statuses] == ["both", "n", "negative", "tags"]
        (status,) = t.index_status("tags").run(conn)
        assert status.pop("function")
        query = 'indexCreate("tags", function(var1) { return var1.bracket("tags"); }, {multi: true})'
        assert status == {
            "index": "tags", "ready": True, "multi": True, "geo": False, "outdated": False, "query": query,
        }  # fmt: skip

    def test_the_query_of_a_function_can_be_read(self, conn: LocalConnection, t: Any) -> None:
        (status,) = t.index_status("negative").run(conn)
        assert status["query"].startswith('indexCreate("negative", function(var')
        assert '.bracket("n").mul(-1); })' in status["query"]

    @pytest.mark.parametrize("name", ["n", "both", "negative"])
    def test_an_index_can_be_made_of_another_one_s_status(self, conn: LocalConnection, t: Any, name: str) -> None:
        function = t.index_status(name).run(conn)[0]["function"]
        t.index_create("copy", function).run(conn)
        assert ids(t.order_by(index="copy"), conn) == ids(t.order_by(index=name), conn)

    def test_a_rename_may_take_another_one_s_place(self, conn: LocalConnection, t: Any) -> None:
        t.index_rename("negative", "n", overwrite=True).run(conn)
        assert ids(t.order_by(index="n"), conn) == [1, 3, 4, 2]
        assert t.index_list().run(conn) == ["both", "n", "tags"]

    def test_the_table_s_row_names_them(self, conn: LocalConnection, t: Any) -> None:
        names = ["both", "n", "negative", "tags"]
        assert t.config()["indexes"].run(conn) == names
        assert t.info()["indexes"].run(conn) == names
        assert r.table_drop("t").run(conn)["config_changes"][0]["old_val"]["indexes"] == names

    def test_a_table_made_anew_has_none(self, conn: LocalConnection, data_file: Path, t: Any) -> None:
        r.table_drop("t").run(conn)
        r.table_create("t").run(conn)
        assert t.index_list().run(conn) == []
        t.index_create("n").run(conn)
        assert ids(t.order_by(index="n"), conn) == []

    def test_a_creation_that_fails_leaves_nothing(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlUserError):
            r.do(t.index_create("new"), lambda answer: r.error("no")).run(conn)
        assert "new" not in t.index_list().run(conn)
        t.index_create("new").run(conn)

    def test_a_reader_whose_index_is_dropped_is_told(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"n": number} for number in range(1000)]).run(conn)
        cursor = t.order_by(index="n").run(conn, max_batch_rows=10)
        next(cursor)
        t.index_drop("n").run(conn)
        with pytest.raises(ReqlOpFailedError, match="Index `n` was not found on table `test"):
            list(cursor)


# Any history ---------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.text("a\0é", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("k"), inner, max_size=1),
    max_leaves=4,
)
ROWS = st.fixed_dictionaries({"id": st.integers(0, 5)}, optional={"v": VALUES})


@pytest.fixture
def fresh(conn: LocalConnection) -> Callable[[], Any]:
    names: Iterator[int] = itertools.count()

    def make() -> Any:
        name = f"fresh{next(names)}"
        r.table_create(name).run(conn, durability="soft")
        r.table(name).index_create("v").run(conn)
        return r.table(name)

    return make


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=12), gone=st.lists(st.integers(0, 5), max_size=3), low=VALUES, high=VALUES)
def test_an_index_gives_what_a_search_through_the_table_gives(
    conn: LocalConnection, fresh: Any, rows: list[Any], gone: list[int], low: Any, high: Any
) -> None:
    t = fresh()
    for row in rows:
        t.insert(row, conflict="replace").run(conn)
    t.get_all(r.args(gone)).delete().run(conn)
    indexed = [row["id"] for row in t.order_by(index="v").run(conn)]
    assert indexed == [row["id"] for row in t.order_by("v", "id").run(conn) if row["id"] in indexed]
    for row in t.run(conn):
        try:
            found = ids(t.get_all(row.get("v"), index="v"), conn)
        except ReqlError:
            assert row["id"] not in indexed
        else:
            assert row["id"] in found
    try:
        found = ids(t.between(low, high, index="v"), conn)
    except ReqlError:
        return
    between = (r.row["v"] >= low) & (r.row["v"] < high)
    assert sorted(found) == sorted(id for id in ids(t.filter(between), conn) if id in indexed)
