"""Conformance with RethinkDB: what writes answer (rule 1.8), and keys, values and limits (rule 1.9)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from rethinkdb import r
from rethinkdb.ast import RqlBinary
from rethinkdb.errors import (
    ReqlError,
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlResourceLimitError,
    ReqlServerCompileError,
)

from cdcbridge.engine.local import LocalConnection

NOTHING = {"deleted": 0, "errors": 0, "inserted": 0, "replaced": 0, "skipped": 0, "unchanged": 0}

PRINTED = """{
\t"a":\t{
\t\t"b":\t1
\t},
\t"id":\t1,
\t"list":\t[
\t\t1,
\t\t2
\t]
}
{
\t"id":\t1
}"""

ONE = {"id": 1, "a": {"b": 1}, "list": [1, 2]}


@pytest.fixture
def one(conn: LocalConnection, t: Any) -> Any:
    """A table with one document, `ONE`."""
    t.insert(ONE).run(conn)
    return t


def refused(query: Any, conn: LocalConnection) -> ReqlError:
    with pytest.raises(ReqlError) as caught:
        query.run(conn)
    return caught.value


class TestRule18:
    """Writes."""

    @pytest.mark.parametrize(
        ("write", "counts"),
        [
            (lambda t: t.insert({"id": 2}), {"inserted": 1}),
            (lambda t: t.insert([]), {}),
            (lambda t: t.get(9).update({"a": 1}), {"skipped": 1}),
            (lambda t: t.get(9).delete(), {"skipped": 1}),
            (lambda t: t.get(9).replace(None), {"skipped": 1}),
            (lambda t: t.get(9).replace({"id": 9}), {"inserted": 1}),
            (lambda t: t.get(1).replace(None), {"deleted": 1}),
            (lambda t: t.get(1).delete(), {"deleted": 1}),
            (lambda t: t.get(1).replace(ONE), {"unchanged": 1}),
            (lambda t: t.get(1).update({"a": {"b": 1}}), {"unchanged": 1}),
            (lambda t: t.get(1).update(None), {"unchanged": 1}),
            (lambda t: t.get(1).update(lambda row: None), {"unchanged": 1}),
            (lambda t: t.get(1).update({"c": 1}), {"replaced": 1}),
            (lambda t: t.get(1).update({}, non_atomic=True), {"unchanged": 1}),
            (lambda t: t.insert(ONE, conflict="replace"), {"unchanged": 1}),
            (lambda t: t.insert({"id": 1}, conflict="replace"), {"replaced": 1}),
            (lambda t: t.insert({"id": 1, "c": 1}, conflict="update"), {"replaced": 1}),
            (lambda t: t.insert({"id": 1}, conflict=lambda id, old, new: None), {"deleted": 1}),
            (lambda t: t.insert({"id": 1}, conflict=lambda id, old, new: old), {"unchanged": 1}),
            (lambda t: t.filter({"id": 7}).delete(), {}),
        ],
    )
    def test_1_8_all_counters_are_there_and_each_document_is_counted_by_its_fate(
        self, conn: LocalConnection, one: Any, write: Any, counts: dict[str, int]
    ) -> None:
        assert write(one).run(conn) == NOTHING | counts

    def test_1_8_generated_keys_are_only_those_made_up_in_order(self, conn: LocalConnection, t: Any) -> None:
        answer = t.insert([{"n": 0}, {"id": "mine"}, {"n": 1}]).run(conn)
        assert [t.get(key)["n"].run(conn) for key in answer["generated_keys"]] == [0, 1]

    def test_1_8_more_generated_keys_than_the_array_limit_are_cut_with_a_warning(
        self, conn: LocalConnection, t: Any
    ) -> None:
        answer = t.insert(r.range(5).map(lambda n: {"n": n})).run(conn, array_limit=3)
        assert (answer["inserted"], len(answer["generated_keys"])) == (5, 3)
        assert answer["warnings"] == ["Too many generated keys (5), array truncated to 3."]

    def test_1_8_more_changes_than_the_array_limit_are_cut_with_a_warning(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number} for number in range(5)]).run(conn)
        answer = t.update({"a": 1}, return_changes=True).run(conn, array_limit=3)
        assert (answer["replaced"], len(answer["changes"])) == (5, 3)
        assert answer["warnings"] == ["Too many changes, array truncated to 3."]

    def test_1_8_for_each_cuts_with_a_warning_too(self, conn: LocalConnection, t: Any) -> None:
        answer = r.range(5).for_each(lambda n: t.insert({"n": n})).run(conn, array_limit=3)
        assert (answer["inserted"], len(answer["generated_keys"])) == (5, 3)
        assert answer["warnings"] == ["Too many generated keys, array truncated to 3."]

    def test_1_8_return_changes_true_has_only_what_changed(self, conn: LocalConnection, one: Any) -> None:
        answer = one.insert([{"id": 1}, {"id": 2}], return_changes=True).run(conn)
        assert answer["changes"] == [{"old_val": None, "new_val": {"id": 2}}]
        assert one.get(1).update({}, return_changes=True).run(conn)["changes"] == []
        assert one.get(9).delete(return_changes=True).run(conn)["changes"] == []
        assert "changes" not in one.get(1).update({}).run(conn)

    def test_1_8_return_changes_always_has_every_row_in_the_order_of_the_input(
        self, conn: LocalConnection, one: Any
    ) -> None:
        answer = one.insert([{"id": 3}, {"id": 1}, {"id": 2}], return_changes="always").run(conn)
        first, failed, last = answer["changes"]
        assert (first, last) == ({"old_val": None, "new_val": {"id": 3}}, {"old_val": None, "new_val": {"id": 2}})
        assert (failed["old_val"], failed["new_val"]) == (ONE, ONE)
        assert failed["error"] == answer["first_error"]
        same = one.get(2).update({}, return_changes="always").run(conn)["changes"]
        assert same == [{"old_val": {"id": 2}, "new_val": {"id": 2}}]
        missing = one.get(9).delete(return_changes="always").run(conn)["changes"]
        assert missing == [{"old_val": None, "new_val": None}]

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (
                lambda t: t.insert({}, return_changes="some"),
                "Invalid return_changes value `some` (options are `true`, `false`, and `'always'`.)",
            ),
            (
                lambda t: t.insert({}, conflict="ask"),
                'Conflict option `ask` unrecognized (options are "error", "replace" and "update").',
            ),
            (
                lambda t: t.insert({}, durability="firm"),
                'Durability option `firm` unrecognized (options are "hard" and "soft").',
            ),
            (
                lambda t: t.update({"a": r.random()}),
                "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?",
            ),
            (
                lambda t: t.replace(lambda row: row.merge({"a": r.table("t").count()})),
                "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?",
            ),
            (
                lambda t: t.delete(return_vals=True),
                "Error:  encountered obsolete optarg `return_vals`.  Use `return_changes` instead.",
            ),
        ],
    )
    def test_1_8_options_that_make_no_sense_are_refused(
        self, conn: LocalConnection, one: Any, write: Any, message: str
    ) -> None:
        error = refused(write(one), conn)
        assert isinstance(error, ReqlQueryLogicError)
        assert error.message == message

    def test_1_8_delete_knows_no_non_atomic(self, conn: LocalConnection, one: Any) -> None:
        assert isinstance(refused(one.delete(non_atomic=True), conn), ReqlServerCompileError)

    def test_1_8_non_atomic_writes_may_be_random(self, conn: LocalConnection, one: Any) -> None:
        assert one.update({"a": r.random()}, non_atomic=True).run(conn) == NOTHING | {"replaced": 1}

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (
                lambda t: t.insert({"id": 1}),
                f"Duplicate primary key `id`:\n{PRINTED}",
            ),
            (lambda t: t.get(1).update({"id": 2}), "Primary key `id` cannot be changed (`1` -> `2`)."),
            (lambda t: t.get(1).replace({"a": 1}), 'Inserted object must have primary key `id`:\n{\n\t"a":\t1\n}'),
            (lambda t: t.get(1).replace(5), "Inserted value must be an OBJECT (got NUMBER):\n5"),
            (lambda t: t.insert({"id": 2, "a": r.minval}), "`r.minval` and `r.maxval` cannot be written to disk."),
        ],
    )
    def test_1_8_errors_of_a_row_are_counted_and_not_raised(
        self, conn: LocalConnection, one: Any, write: Any, message: str
    ) -> None:
        answer = write(one).run(conn)
        assert answer["errors"] == 1
        assert answer["first_error"].startswith(message)
        assert one.get(1).run(conn) == ONE

    def test_1_8_arrays_over_100000_elements_are_not_stored_whatever_the_limit(
        self, conn: LocalConnection, one: Any
    ) -> None:
        write = one.insert({"id": 2, "a": (r.expr([0]) * 100_000).append(1)})
        assert isinstance(refused(write, conn), ReqlResourceLimitError)
        answer = write.run(conn, array_limit=200_000)
        assert answer["first_error"] == "Array too large for disk writes (limit 100,000 elements)."

    def test_1_8_update_merges_deeply_replaces_arrays_and_takes_literals(self, conn: LocalConnection, one: Any) -> None:
        one.get(1).update({"a": {"c": 2}, "list": [3]}).run(conn)
        assert one.get(1).run(conn) == {"id": 1, "a": {"b": 1, "c": 2}, "list": [3]}
        one.get(1).update({"a": r.literal({"d": 1}), "list": r.literal()}).run(conn)
        assert one.get(1).run(conn) == {"id": 1, "a": {"d": 1}}

    def test_1_8_noreply_says_nothing_and_is_done_after_noreply_wait(self, conn: LocalConnection, one: Any) -> None:
        assert one.insert({"id": 2}).run(conn, noreply=True) is None
        assert one.insert({"id": 2}).run(conn, noreply=True) is None
        conn.noreply_wait()
        assert one.count().run(conn) == 2

    def test_1_8_sync_answers(self, conn: LocalConnection, one: Any) -> None:
        assert one.sync().run(conn) == {"synced": 1}


KEYS_IN_ORDER = [
    [], [1], [1, "a"], ["a"], False, True, -1.5, 0, 2, RqlBinary(b"a"), RqlBinary(b"b"),
    datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-1))), "", "B", "a", "é",
]  # fmt: skip


class TestRule19:
    """Keys, values and limits."""

    def test_1_9_keys_of_all_types_are_found_and_ordered_by_their_types_names(
        self, conn: LocalConnection, t: Any
    ) -> None:
        t.insert([{"id": key} for key in reversed(KEYS_IN_ORDER)]).run(conn)
        assert [row["id"] for row in t.order_by(index="id").run(conn)] == KEYS_IN_ORDER
        assert [row["id"] for row in t.order_by("id").run(conn)] == KEYS_IN_ORDER
        for key in KEYS_IN_ORDER:
            assert t.get(key)["id"].run(conn) == key

    @pytest.mark.parametrize("key", [{"a": 1}, [None], [{}], {"$reql_type$": "GEOMETRY", "type": "Point"}])
    def test_1_9_objects_null_and_geometry_are_no_keys(self, conn: LocalConnection, t: Any, key: Any) -> None:
        answer = t.insert({"id": key}).run(conn)
        assert answer["first_error"].startswith(
            "Primary keys must be either a number, string, bool, pseudotype or array"
        )

    @pytest.mark.parametrize(("key", "fits"), [("x" * 127, 1), ("x" * 128, 0), ("é" * 63, 1), ("é" * 64, 0)])
    def test_1_9_a_key_of_text_has_at_most_127_bytes(self, conn: LocalConnection, t: Any, key: str, fits: int) -> None:
        answer = t.insert({"id": key}).run(conn)
        assert answer["inserted"] == fits
        assert fits or answer["first_error"] == f'Primary key too long (max 127 characters): "{key}"'

    def test_1_9_a_key_of_text_has_no_null_character(self, conn: LocalConnection, t: Any) -> None:
        assert "null character" in t.insert({"id": "a\0"}).run(conn)["first_error"]
        assert t.insert({"id": "a", "text": "a\0"}).run(conn)["inserted"] == 1

    def test_1_9_a_missing_key_becomes_a_random_uuid(self, conn: LocalConnection, t: Any) -> None:
        (key,) = t.insert({}).run(conn)["generated_keys"]
        assert UUID(key).version == 4

    def test_1_9_equal_numbers_are_one_key(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        assert t.get(1.0).run(conn) == {"id": 1}
        assert t.insert({"id": 1.0}).run(conn)["errors"] == 1

    def test_1_9_null_is_no_key_and_no_bound(self, conn: LocalConnection, t: Any) -> None:
        error = refused(t.get(None), conn)
        assert isinstance(error, ReqlNonExistenceError)
        assert error.message == "Keys cannot be NULL."
        assert isinstance(refused(t.between(None, 1), conn), ReqlQueryLogicError)

    @pytest.mark.parametrize(
        ("options", "ids"),
        [
            ({}, [1, 2]),
            ({"left_bound": "open"}, [2]),
            ({"right_bound": "closed"}, [1, 2, 3]),
            ({"left_bound": "open", "right_bound": "closed"}, [2, 3]),
        ],
    )
    def test_1_9_a_range_is_closed_on_the_left_and_open_on_the_right(
        self, conn: LocalConnection, t: Any, options: dict[str, str], ids: list[int]
    ) -> None:
        t.insert([{"id": number} for number in range(5)]).run(conn)
        assert list(t.between(1, 3, **options)["id"].run(conn)) == ids
        assert t.between(r.minval, r.maxval).count().run(conn) == 5

    def test_1_9_an_unknown_pseudo_type_is_refused(self, conn: LocalConnection) -> None:
        error = refused(r.expr({"$reql_type$": "PLANET"}), conn)
        assert error.message == "Unknown $reql_type$ `PLANET`."

    @pytest.mark.parametrize(
        ("query", "text"),
        [
            (r.expr(1.0), "1"),
            (r.expr(-0.0), "-0.0"),
            (r.expr(0.1) + 0.2, "0.30000000000000004"),
            (r.expr(1e300), "1e+300"),
        ],
    )
    def test_1_9_integral_numbers_are_written_as_integers_and_others_short(
        self, conn: LocalConnection, query: Any, text: str
    ) -> None:
        assert float(query.to_json_string().run(conn)) == float(text)
        assert ("." in query.to_json_string().run(conn)) == ("." in text)

    def test_1_9_infinite_numbers_are_refused(self, conn: LocalConnection) -> None:
        assert refused(r.expr(1e308) * 10, conn).message == "Non-finite number: inf"

    @pytest.mark.parametrize(
        "query",
        [
            r.range(11).coerce_to("array"),
            r.range(11).map(lambda x: x).distinct(),
            r.expr(list(range(11))).order_by(r.row),
        ],
    )
    def test_1_9_arrays_have_a_limit(self, conn: LocalConnection, query: Any) -> None:
        with pytest.raises(ReqlResourceLimitError) as caught:
            query.run(conn, array_limit=10)
        assert caught.value.message == (
            "Array over size limit `10`.  To raise the number of allowed elements, modify the `array_limit` option to "
            "`.run` (not available in the Data Explorer), or use an index."
        )

    def test_1_9_the_limit_of_arrays_can_be_raised(self, conn: LocalConnection) -> None:
        query = r.expr([0] * 100_001).count()
        assert isinstance(refused(query, conn), ReqlResourceLimitError)
        assert query.run(conn, array_limit=200_000) == 100_001

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.table_create("x y"), "Table name `x y` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.db_create("x.y"), "Database name `x.y` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
        ],
    )
    def test_1_9_names_are_of_plain_letters(self, conn: LocalConnection, query: Any, message: str) -> None:
        assert refused(query, conn).message == message

    def test_1_9_administration_answers_with_what_changed(self, conn: LocalConnection) -> None:
        created = r.db_create("shop").run(conn)
        ((change,), database) = (created["config_changes"], created["config_changes"][0]["new_val"])
        assert (created["dbs_created"], change["old_val"], database["name"]) == (1, None, "shop")
        made = r.db("shop").table_create("orders", primary_key="number").run(conn)
        config = made["config_changes"][0]["new_val"]
        assert (made["tables_created"], config["name"], config["db"]) == (1, "orders", "shop")
        assert {name: config[name] for name in ("primary_key", "durability", "write_acks", "write_hook", "data")} == {
            "primary_key": "number",
            "durability": "hard",
            "write_acks": "majority",
            "write_hook": None,
            "data": {},
        }
        r.db("shop").table_create("b").run(conn)
        dropped = r.db("shop").table_drop("b").run(conn)
        assert (dropped["tables_dropped"], dropped["config_changes"][0]["new_val"]) == (1, None)
        gone = r.db_drop("shop").run(conn)
        assert gone == {
            "dbs_dropped": 1,
            "tables_dropped": 1,
            "config_changes": [{"old_val": database, "new_val": None}],
        }

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.db_create("test"), "Database `test` already exists."),
            (r.db_drop("x"), "Database `x` does not exist."),
            (r.table_create("t"), "Table `test.t` already exists."),
            (r.table_drop("x"), "Table `test.x` does not exist."),
            (r.table("x"), "Table `test.x` does not exist."),
            (r.db("x").table("t"), "Database `x` does not exist."),
            (r.table("t").get_all(1, index="i"), "Index `i` was not found on table `test.t`."),
            (r.db_drop("rethinkdb"), "Database `rethinkdb` is special; you can't delete it."),
        ],
    )
    def test_1_9_what_is_not_there_or_already_there_fails(
        self, conn: LocalConnection, t: Any, query: Any, message: str
    ) -> None:
        error = refused(query, conn)
        assert isinstance(error, ReqlOpFailedError)
        assert error.message == message
