"""insert, update, replace, delete and administration: what they do, and the answer that says so."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from rethinkdb import r
from rethinkdb.ast import Insert
from rethinkdb.errors import (
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlServerCompileError,
    ReqlUserError,
)

from cdcbridge.engine.local import LocalConnection

NO_KEY = "Primary keys must be either a number, string, bool, pseudotype or array"
NOTHING = {"deleted": 0, "errors": 0, "inserted": 0, "replaced": 0, "skipped": 0, "unchanged": 0}


def counts(**fates: Any) -> dict[str, Any]:
    """An answer with these counters, and all others zero."""
    return NOTHING | fates


def documents(t: Any, conn: LocalConnection) -> list[dict[str, Any]]:
    return list(t.order_by(index="id").run(conn))


def journal(conn: LocalConnection) -> list[tuple[Any, ...]]:
    """All of the journal: (seq, key, old_val, new_val), in order."""
    store = conn._instance._socket._shared.engine.store
    return store.reader().execute("SELECT seq, key, old_val, new_val FROM journal ORDER BY seq").fetchall()


class TestInsert:
    def test_a_document_is_inserted(self, conn: LocalConnection, t: Any) -> None:
        assert t.insert({"id": 1, "a": [1, {"b": None}]}).run(conn) == counts(inserted=1)
        assert documents(t, conn) == [{"id": 1, "a": [1, {"b": None}]}]

    def test_many_documents_are_inserted(self, conn: LocalConnection, t: Any) -> None:
        assert t.insert([{"id": number} for number in range(700)]).run(conn) == counts(inserted=700)
        assert [row["id"] for row in documents(t, conn)] == list(range(700))

    def test_no_documents_are_inserted(self, conn: LocalConnection, t: Any) -> None:
        assert t.insert([]).run(conn) == counts()

    def test_documents_of_another_table_are_inserted(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1}, {"id": 2}]).run(conn)
        r.table_create("u").run(conn)
        assert r.table("u").insert(t.filter({"id": 2})).run(conn) == counts(inserted=1)
        assert r.table("u").insert(t.get(1)).run(conn) == counts(inserted=1)
        assert r.table("u").insert(t.order_by(r.desc("id")), conflict="replace").run(conn) == counts(unchanged=2)

    def test_copying_a_table_into_itself_ends(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number} for number in range(300)]).run(conn)
        assert t.insert(t.without("id")).run(conn)["inserted"] == 300

    def test_missing_keys_are_made_and_told_in_order(self, conn: LocalConnection, t: Any) -> None:
        answer = t.insert([{"n": 0}, {"id": "mine"}, {"n": 1}]).run(conn)
        assert answer["inserted"] == 3
        assert [t.get(key)["n"].run(conn) for key in answer["generated_keys"]] == [0, 1]
        assert all(UUID(key).version == 4 for key in answer["generated_keys"])

    def test_more_made_keys_than_the_limit_are_cut_with_a_warning(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number} for number in range(5)]).run(conn)
        answer = t.insert(t.without("id")).run(conn, array_limit=3)
        assert len(answer["generated_keys"]) == 3
        assert answer["warnings"] == ["Too many generated keys (5), array truncated to 3."]

    def test_a_taken_key_is_an_error_with_both_documents(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1, "a": {"c": [1], "b": "é"}}).run(conn)
        answer = t.insert({"id": 1, "z": None}).run(conn)
        assert answer == counts(
            errors=1,
            first_error="Duplicate primary key `id`:\n"
            '{\n\t"a":\t{\n\t\t"b":\t"é",\n\t\t"c":\t[\n\t\t\t1\n\t\t]\n\t},\n\t"id":\t1\n}\n'
            '{\n\t"id":\t1,\n\t"z":\tnull\n}',
        )

    def test_errors_do_not_stop_the_other_documents(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 2}).run(conn)
        answer = t.insert([{"id": 1}, {"id": 2}, {"id": None}, 5, {"id": 3}]).run(conn)
        assert (answer["inserted"], answer["errors"]) == (2, 3)
        assert answer["first_error"].startswith("Duplicate primary key `id`")
        assert [row["id"] for row in documents(t, conn)] == [1, 2, 3]

    def test_a_batch_can_collide_with_itself(self, conn: LocalConnection, t: Any) -> None:
        assert t.insert([{"id": 1}, {"id": 1.0}]).run(conn)["errors"] == 1

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ([5], "Inserted value must be an OBJECT (got NUMBER):\n5"),
            ([[1]], "Inserted value must be an OBJECT (got ARRAY):\n[\n\t1\n]"),
            (
                {"id": None},
                "Primary keys must be either a number, string, bool, pseudotype or array (got type NULL):\n",
            ),
            (
                {"id": {}},
                "Primary keys must be either a number, string, bool, pseudotype or array (got type OBJECT):\n",
            ),
            ({"id": "x" * 128}, f'Primary key too long (max 127 characters): "{"x" * 128}"'),
            ({"id": 1, "a": [r.minval]}, "`r.minval` and `r.maxval` cannot be written to disk."),
            ({"id": [r.maxval]}, "`r.minval` and `r.maxval` cannot be written to disk."),
            ({"id": 1, "a": r.literal(1)}, "Stray literal keyword found"),
        ],
    )
    def test_what_cannot_be_stored_is_counted_and_told(
        self, conn: LocalConnection, t: Any, document: Any, message: str
    ) -> None:
        answer = t.insert(document).run(conn)
        assert answer["errors"] == 1
        assert answer["first_error"].startswith(message)
        assert documents(t, conn) == []
        assert journal(conn) == []

    def test_a_number_is_no_sequence_of_documents(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Cannot convert NUMBER to SEQUENCE"):
            t.insert(5).run(conn)

    def test_only_a_table_takes_documents(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Expected type TABLE but found SELECTION<STREAM>"):
            Insert(t.limit(1), {}).run(conn)

    def test_a_document_too_deep_to_be_read_again_is_refused(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        wrap = t.get(1).update(lambda row: {"a": row.without("id")}, return_changes=False)
        deepest = next(depth for depth in range(1, 1000) if wrap.run(conn)["errors"])
        assert 100 < deepest < 500
        assert "nested deeper than" in wrap.run(conn)["first_error"]
        assert t.get(1).delete(return_changes=True).run(conn)["deleted"] == 1

    @pytest.mark.parametrize(
        "key",
        [
            1,
            -1.5,
            "a",
            "é" * 63,
            True,
            [1, "a", [False]],
            datetime(2020, 1, 1, tzinfo=UTC),
            b"\x00\xff",
        ],
    )
    def test_a_key_is_found_again(self, conn: LocalConnection, t: Any, key: Any) -> None:
        t.insert({"id": key}).run(conn)
        assert t.get(key).run(conn) == {"id": key}
        assert t.get(key).delete().run(conn) == counts(deleted=1)

    def test_equal_numbers_and_equal_moments_are_one_key(self, conn: LocalConnection, t: Any) -> None:
        moment = datetime(2020, 1, 1, tzinfo=UTC)
        same = moment.astimezone(timezone(timedelta(hours=2)))
        t.insert([{"id": 0}, {"id": moment}]).run(conn)
        assert t.insert([{"id": -0.0}, {"id": same}]).run(conn)["errors"] == 2
        assert t.get(same).replace({"id": same, "a": 1}).run(conn) == counts(replaced=1)
        assert t.count().run(conn) == 2
        assert {key for _, key, _, _ in journal(conn)[1:]} == {journal(conn)[1][1]}

    def test_a_table_has_its_own_primary_key(self, conn: LocalConnection) -> None:
        r.table_create("users", primary_key="name").run(conn)
        users = r.table("users")
        assert users.insert({"name": "Ann", "id": 5}).run(conn) == counts(inserted=1)
        assert users.insert({"name": "Ann"}).run(conn)["first_error"].startswith("Duplicate primary key `name`:\n")
        assert users.get("Ann").run(conn) == {"name": "Ann", "id": 5}
        assert users.filter({"id": 5}).delete().run(conn) == counts(deleted=1)

    def test_an_array_of_more_than_100000_elements_is_not_stored(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1, "a": [0] * 100_000}).run(conn)
        grown = t.get(1).update({"a": t.get(1)["a"].add([1])}, non_atomic=True).run(conn)
        assert grown["first_error"].startswith("Array over size limit `100000`.")


class TestConflict:
    @pytest.fixture
    def row(self, conn: LocalConnection, t: Any) -> Any:
        t.insert({"id": 1, "a": {"x": 1}, "b": 1}).run(conn)
        return t.get(1)

    def test_replace_takes_the_new_document(self, conn: LocalConnection, t: Any, row: Any) -> None:
        assert t.insert({"id": 1, "c": 2}, conflict="replace").run(conn) == counts(replaced=1)
        assert row.run(conn) == {"id": 1, "c": 2}

    def test_update_merges_it(self, conn: LocalConnection, t: Any, row: Any) -> None:
        assert t.insert({"id": 1, "a": {"y": 2}}, conflict="update").run(conn) == counts(replaced=1)
        assert row.run(conn) == {"id": 1, "a": {"x": 1, "y": 2}, "b": 1}

    def test_the_same_document_is_unchanged(self, conn: LocalConnection, t: Any, row: Any) -> None:
        same = {"b": 1.0, "a": {"x": 1}, "id": 1}
        assert t.insert(same, conflict="replace").run(conn) == counts(unchanged=1)
        assert len(journal(conn)) == 1

    def test_a_function_gets_key_old_and_new(self, conn: LocalConnection, t: Any, row: Any) -> None:
        def resolved(key: Any, old: Any, new: Any) -> Any:
            return {"id": key, "sum": old["b"] + new["b"]}

        assert t.insert([{"id": 1, "b": 5}, {"id": 2}], conflict=resolved).run(conn) == counts(replaced=1, inserted=1)
        assert row.run(conn) == {"id": 1, "sum": 6}

    def test_a_function_that_gives_null_deletes(self, conn: LocalConnection, t: Any, row: Any) -> None:
        assert t.insert({"id": 1}, conflict=lambda key, old, new: None).run(conn) == counts(deleted=1)
        assert row.run(conn) is None

    def test_a_function_may_not_change_the_key(self, conn: LocalConnection, t: Any, row: Any) -> None:
        answer = t.insert({"id": 1}, conflict=lambda key, old, new: {"id": 9}).run(conn)
        assert answer == counts(errors=1, first_error="Primary key `id` cannot be changed (`1` -> `9`).")

    def test_a_function_that_fails_is_counted(self, conn: LocalConnection, t: Any, row: Any) -> None:
        answer = t.insert({"id": 1}, conflict=lambda key, old, new: old["nothing"]).run(conn)
        assert answer["errors"] == 1
        assert answer["first_error"].startswith("No attribute `nothing` in object:\n")

    def test_a_function_takes_three_arguments_or_none(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="should expect 3 arguments"):
            t.insert({"id": 1}, conflict=lambda old, new: new).run(conn)

    def test_a_function_is_deterministic(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="must be deterministic"):
            t.insert({"id": 1}, conflict=lambda key, old, new: {"id": key, "a": r.random()}).run(conn)

    def test_another_word_is_refused(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            t.insert({}, conflict="ignore").run(conn)
        message = 'Conflict option `ignore` unrecognized (options are "error", "replace" and "update").'
        assert caught.value.message == message


class TestUpdate:
    @pytest.fixture(autouse=True)
    def rows(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number, "n": number, "o": {"x": 1, "l": [1]}} for number in range(5)]).run(conn)

    def test_an_object_is_merged_deeply_and_arrays_are_replaced(self, conn: LocalConnection, t: Any) -> None:
        assert t.get(1).update({"o": {"l": [2], "y": 3}}).run(conn) == counts(replaced=1)
        assert t.get(1).run(conn) == {"id": 1, "n": 1, "o": {"x": 1, "l": [2], "y": 3}}

    def test_a_function_gets_the_document(self, conn: LocalConnection, t: Any) -> None:
        t.update(lambda row: {"n": row["n"] * 10}).run(conn)
        assert [row["n"] for row in documents(t, conn)] == [0, 10, 20, 30, 40]

    def test_row_is_the_document(self, conn: LocalConnection, t: Any) -> None:
        t.get(3).update({"n": r.row["n"] + 1}).run(conn)
        assert t.get(3)["n"].run(conn) == 4

    def test_literal_replaces_or_removes_a_field(self, conn: LocalConnection, t: Any) -> None:
        t.get(1).update({"o": r.literal({"z": 1}), "n": r.literal()}).run(conn)
        assert t.get(1).run(conn) == {"id": 1, "o": {"z": 1}}

    @pytest.mark.parametrize("nothing", [None, {}, lambda row: None, lambda row: {}, {"n": 1.0}])
    def test_what_changes_nothing_is_counted_as_unchanged(self, conn: LocalConnection, t: Any, nothing: Any) -> None:
        before = journal(conn)
        assert t.get(1).update(nothing).run(conn) == counts(unchanged=1)
        assert journal(conn) == before

    def test_a_missing_document_is_skipped(self, conn: LocalConnection, t: Any) -> None:
        assert t.get(99).update({"a": 1}).run(conn) == counts(skipped=1)
        assert t.get(99).update(lambda row: row["nothing"]).run(conn) == counts(skipped=1)

    def test_the_key_stays(self, conn: LocalConnection, t: Any) -> None:
        answer = t.get(1).update({"id": 2}).run(conn)
        assert answer == counts(errors=1, first_error="Primary key `id` cannot be changed (`1` -> `2`).")
        assert t.get(1).update({"id": None}).run(conn)["errors"] == 1

    def test_the_rows_that_fail_are_counted_and_the_others_are_written(self, conn: LocalConnection, t: Any) -> None:
        t.get(2).update({"n": "two"}).run(conn)
        answer = t.update({"n": r.row["n"] + 100}).run(conn)
        assert (answer["replaced"], answer["errors"]) == (4, 1)
        assert answer["first_error"] == "Expected type STRING but found NUMBER."
        assert [row["n"] for row in documents(t, conn)] == [100, 101, "two", 103, 104]

    def test_a_number_is_nothing_to_merge(self, conn: LocalConnection, t: Any) -> None:
        assert t.get(1).update(5).run(conn)["first_error"] == "Inserted value must be an OBJECT (got NUMBER):\n5"

    def test_chance_needs_the_non_atomic_flag(self, conn: LocalConnection, t: Any) -> None:
        query = t.get(1).update({"a": r.random()})
        with pytest.raises(ReqlQueryLogicError) as caught:
            query.run(conn)
        message = "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?"
        assert caught.value.message == message
        assert t.get(1).update({"a": r.random()}, non_atomic=True).run(conn) == counts(replaced=1)

    @pytest.mark.parametrize(
        ("selection", "written"),
        [
            (lambda t: t, [0, 1, 2, 3, 4]),
            (lambda t: t.filter(r.row["n"] > 2), [3, 4]),
            (lambda t: t.limit(2), [0, 1]),
            (lambda t: t.skip(3), [3, 4]),
            (lambda t: t.between(1, 3), [1, 2]),
            (lambda t: t.order_by(r.desc("n")).limit(1), [4]),
            (lambda t: t.order_by(index=r.desc("id")).limit(2), [3, 4]),
            (lambda t: t.order_by(r.desc("n"))[0], [4]),
            (lambda t: t.get_all(1, 3), [1, 3]),
            (lambda t: t[-1], [4]),
            (lambda t: t.sample(10), [0, 1, 2, 3, 4]),
        ],
    )
    def test_a_selection_can_be_written(
        self, conn: LocalConnection, t: Any, selection: Any, written: list[int]
    ) -> None:
        assert selection(t).update({"w": True}).run(conn) == counts(replaced=len(written))
        assert [row["id"] for row in t.filter({"w": True}).order_by("id").run(conn)] == written

    @pytest.mark.parametrize(
        "query",
        [
            lambda t: t.pluck("n").update({"a": 1}),
            lambda t: t.map(r.row["n"]).delete(),
            lambda t: r.expr([{"id": 1}]).update({"a": 1}),
            lambda t: t.get(1)["n"].update({"a": 1}),
            lambda t: t.changes().delete(),
        ],
    )
    def test_anything_else_cannot(self, conn: LocalConnection, t: Any, query: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match=r"^Expected type SELECTION but found"):
            query(t).run(conn)

    def test_each_document_is_updated_once_even_across_pages(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number, "n": 0} for number in range(1000, 1700)]).run(conn)
        big = t.between(1000, 2000)
        assert big.filter({"n": 0}).update({"n": r.row["n"] + 1}).run(conn) == counts(replaced=700)
        assert set(big["n"].run(conn)) == {1}


class TestReplace:
    def test_a_document_is_replaced(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1, "a": 1}).run(conn)
        assert t.get(1).replace({"id": 1, "b": 1}).run(conn) == counts(replaced=1)
        assert t.get(1).replace({"id": 1, "b": 1}).run(conn) == counts(unchanged=1)
        assert t.get(1).replace(lambda row: row.without("b")).run(conn) == counts(replaced=1)
        assert t.get(1).run(conn) == {"id": 1}

    def test_a_missing_document_is_inserted(self, conn: LocalConnection, t: Any) -> None:
        assert t.get(1).replace({"id": 1, "a": 1}).run(conn) == counts(inserted=1)

    def test_null_deletes(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        assert t.get(1).replace(None).run(conn) == counts(deleted=1)
        assert t.get(1).replace(None).run(conn) == counts(skipped=1)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"a": 1}, 'Inserted object must have primary key `id`:\n{\n\t"a":\t1\n}'),
            ({"id": 2}, "Primary key `id` cannot be changed (`1` -> `2`)."),
            ("text", 'Inserted value must be an OBJECT (got STRING):\n"text"'),
        ],
    )
    def test_what_is_not_this_document_is_an_error(
        self, conn: LocalConnection, t: Any, value: Any, message: str
    ) -> None:
        t.insert({"id": 1}).run(conn)
        assert t.get(1).replace(value).run(conn) == counts(errors=1, first_error=message)

    def test_chance_needs_the_non_atomic_flag(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        with pytest.raises(ReqlQueryLogicError, match="non_atomic"):
            t.get(1).replace({"id": 1, "a": r.uuid()}).run(conn)
        assert t.replace({"id": 1, "a": r.uuid()}, non_atomic=True).run(conn) == counts(replaced=1)


class TestDelete:
    def test_documents_are_deleted(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number} for number in range(600)]).run(conn)
        assert t.get(5).delete().run(conn) == counts(deleted=1)
        assert t.get(5).delete().run(conn) == counts(skipped=1)
        assert t.sample(1).delete().run(conn) == counts(deleted=1)
        assert t.delete().run(conn) == counts(deleted=598)
        assert t.delete().run(conn) == counts()

    def test_it_takes_no_non_atomic_flag(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlServerCompileError, match="Unrecognized optional argument `non_atomic`"):
            t.delete(non_atomic=True).run(conn)


class TestReturnChanges:
    @pytest.fixture(autouse=True)
    def rows(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1, "n": 1}, {"id": 2, "n": 2}]).run(conn)

    def test_changed_rows_are_returned(self, conn: LocalConnection, t: Any) -> None:
        answer = t.update({"n": 2}, return_changes=True).run(conn)
        assert answer == counts(
            replaced=1, unchanged=1, changes=[{"old_val": {"id": 1, "n": 1}, "new_val": {"id": 1, "n": 2}}]
        )

    @pytest.mark.parametrize(
        "query",
        [
            lambda t: t.get(9).delete(return_changes=True),
            lambda t: t.get(1).update({}, return_changes=True),
            lambda t: t.insert([], return_changes=True),
            lambda t: t.insert({"id": 1}, return_changes=True),
        ],
    )
    def test_without_a_change_the_list_is_there_and_empty(self, conn: LocalConnection, t: Any, query: Any) -> None:
        assert query(t).run(conn)["changes"] == []

    def test_without_the_option_it_is_not_there(self, conn: LocalConnection, t: Any) -> None:
        assert "changes" not in t.update({"n": 5}).run(conn)
        assert "changes" not in t.update({"n": 6}, return_changes=False).run(conn)

    def test_always_returns_every_row_in_the_order_of_the_input(self, conn: LocalConnection, t: Any) -> None:
        new = [{"id": 3}, {"id": 1, "n": 7}, {"id": 0}]
        changes = t.insert(new, return_changes="always").run(conn)["changes"]
        assert [change["new_val"] for change in changes] == [{"id": 3}, {"id": 1, "n": 1}, {"id": 0}]
        assert changes[1]["old_val"] == changes[1]["new_val"]
        assert changes[1]["error"].startswith("Duplicate primary key `id`:\n")

    def test_always_returns_rows_that_did_not_change(self, conn: LocalConnection, t: Any) -> None:
        assert t.get(1).update({}, return_changes="always").run(conn)["changes"] == [
            {"old_val": {"id": 1, "n": 1}, "new_val": {"id": 1, "n": 1}}
        ]
        assert t.get(9).delete(return_changes="always").run(conn)["changes"] == [{"old_val": None, "new_val": None}]

    def test_another_word_is_refused(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            t.delete(return_changes="yes").run(conn)
        message = "Invalid return_changes value `yes` (options are `true`, `false`, and `'always'`.)"
        assert caught.value.message == message
        assert t.count().run(conn) == 2

    def test_the_old_name_is_refused(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="encountered obsolete optarg `return_vals`"):
            t.delete(return_vals=True).run(conn)


class TestDurability:
    @pytest.mark.parametrize("durability", ["hard", "soft"])
    def test_either_is_taken(self, conn: LocalConnection, t: Any, durability: str) -> None:
        assert t.insert({"id": 1}, durability=durability).run(conn) == counts(inserted=1)
        assert t.update({"a": 1}, durability=durability).run(conn) == counts(replaced=1)
        assert t.replace({"id": 1}, durability=durability).run(conn) == counts(replaced=1)
        assert t.delete(durability=durability).run(conn) == counts(deleted=1)
        assert t.insert({"id": 1}).run(conn, durability=durability) == counts(inserted=1)

    @pytest.mark.parametrize("query", ["insert", "update"])
    def test_another_word_is_refused(self, conn: LocalConnection, t: Any, query: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            getattr(t, query)({"id": 1}, durability="maybe").run(conn)
        assert caught.value.message == 'Durability option `maybe` unrecognized (options are "hard" and "soft").'

    def test_sync_answers(self, conn: LocalConnection, t: Any) -> None:
        t.insert({}, durability="soft").run(conn)
        assert t.sync().run(conn) == {"synced": 1}

    def test_noreply_answers_nothing_not_even_an_error(self, conn: LocalConnection, t: Any) -> None:
        assert t.insert({"id": 1}).run(conn, noreply=True) is None
        assert t.insert(5).run(conn, noreply=True) is None
        conn.noreply_wait()
        assert t.count().run(conn) == 1


class TestAllOrNothing:
    """A query that raises midway leaves neither document nor journal entry."""

    @pytest.mark.parametrize(
        "query",
        [
            lambda t: r.do(t.insert([{"id": 2}, {"id": 3}]), lambda answer: r.error("no")),
            lambda t: r.expr([t.get(1).delete(), r.error("no")]),
            lambda t: r.do(r.table_create("u"), r.table("u").insert({}), lambda a, b: r.error("no")),
            lambda t: r.do(r.table_drop("t"), lambda a: r.error("no")),
            lambda t: r.do(r.db_create("d"), lambda a: r.error("no")),
            lambda t: r.do(r.db_drop("test"), lambda a: r.error("no")),
        ],
    )
    def test_a_failing_query_changes_nothing(self, conn: LocalConnection, t: Any, query: Any) -> None:
        t.insert({"id": 1}).run(conn)
        before = journal(conn)
        with pytest.raises(ReqlUserError):
            query(t).run(conn)
        assert documents(t, conn) == [{"id": 1}]
        assert journal(conn) == before
        assert r.table_list().run(conn) == ["t"]
        assert r.db_list().run(conn) == ["rethinkdb", "test"]

    def test_what_was_rolled_back_can_be_made_again(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlUserError):
            r.do(r.table_create("u"), lambda a: r.error("no")).run(conn)
        r.table_create("v").run(conn)
        r.table_create("u").run(conn)
        r.table("u").insert({"id": "u"}).run(conn)
        r.table("v").insert({"id": "v"}).run(conn)
        assert list(r.table("u").run(conn)) == [{"id": "u"}]
        assert list(r.table("v").run(conn)) == [{"id": "v"}]

    def test_the_journal_has_exactly_the_rows_that_were_written(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": 1, "n": 1}, {"id": 2, "n": "x"}, {"id": 3, "n": 3}]).run(conn)
        t.update({"n": r.row["n"] + 1}).run(conn)
        assert journal(conn)[3:] == [
            (4, b"1", b'{"id":1,"n":1}', b'{"id":1,"n":2}'),
            (5, b"3", b'{"id":3,"n":3}', b'{"id":3,"n":4}'),
        ]

    def test_a_query_sees_what_it_has_written(self, conn: LocalConnection, t: Any) -> None:
        assert r.do(t.insert({"id": 1}), lambda answer: t.count()).run(conn) == 1
        assert list(r.do(t.insert({"id": 2}), lambda answer: t).run(conn)) == [{"id": 1}, {"id": 2}]

    def test_a_dropped_table_is_gone_for_the_query_that_dropped_it(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        with pytest.raises(ReqlOpFailedError, match=r"^Table `test\.t` does not exist in:"):
            r.do(t.get(1), lambda row: [r.table_drop("t"), row.delete()]).run(conn)
        assert documents(t, conn) == [{"id": 1}]

    def test_a_write_cannot_be_answered_with_a_feed(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="cannot be answered with a changefeed"):
            r.do(t.insert({"id": 1}), lambda answer: t.changes()).run(conn)
        with pytest.raises(ReqlQueryLogicError, match="cannot be answered with a changefeed"):
            t.changes().map(lambda change: t.insert(change["new_val"])).run(conn)
        assert documents(t, conn) == []


class TestStoredValues:
    def test_times_and_binary_data_come_back(self, conn: LocalConnection, t: Any) -> None:
        moment = datetime(2020, 1, 2, 3, 4, 5, 678000, timezone(timedelta(hours=-7)))
        t.insert({"id": 1, "at": moment, "data": b"\x00\xff"}).run(conn)
        row = t.get(1).run(conn)
        assert (row["at"], row["at"].utcoffset(), row["data"]) == (moment, moment.utcoffset(), b"\x00\xff")

    def test_they_are_stored_as_they_travel(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1, "at": r.epoch_time(1.5), "data": b"a"}).run(conn)
        row = t.get(1).run(conn, time_format="raw", binary_format="raw")
        assert row["at"] == {"$reql_type$": "TIME", "epoch_time": 1.5, "timezone": "+00:00"}
        assert row["data"] == {"$reql_type$": "BINARY", "data": base64.b64encode(b"a").decode()}

    @pytest.mark.parametrize("number", [2**53, -(2**53), 0.1, 1e300, 5e-324, 10**20, 123456789012])
    def test_numbers_come_back(self, conn: LocalConnection, t: Any, number: float) -> None:
        t.insert({"id": 1, "n": number}).run(conn)
        assert t.get(1)["n"].run(conn) == float(number)

    def test_integral_numbers_are_integers(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1.0, "n": 6.0}).run(conn)
        assert [type(value) for value in t.get(1).run(conn).values()] == [int, int]

    def test_text_comes_back(self, conn: LocalConnection, t: Any) -> None:
        text = 'é\U0001f600\0\u2028"\\'
        t.insert({"id": 1, text: text}).run(conn)
        assert t.get(1).run(conn) == {"id": 1, text: text}


class TestAdministration:
    def test_a_database_is_made_and_dropped(self, conn: LocalConnection) -> None:
        made = r.db_create("shop").run(conn)
        config = made["config_changes"][0]["new_val"]
        assert made == {"dbs_created": 1, "config_changes": [{"old_val": None, "new_val": config}]}
        assert config["name"] == "shop"
        assert UUID(config["id"])
        assert r.db_list().run(conn) == ["rethinkdb", "shop", "test"]
        r.db("shop").table_create("a").run(conn)
        r.db("shop").table_create("b").run(conn)
        dropped = r.db_drop("shop").run(conn)
        changes = [{"old_val": config, "new_val": None}]
        assert dropped == {"dbs_dropped": 1, "tables_dropped": 2, "config_changes": changes}

    def test_a_table_is_made_and_dropped(self, conn: LocalConnection) -> None:
        made = r.table_create("users", primary_key="name", durability="soft").run(conn)
        config = made["config_changes"][0]["new_val"]
        assert made == {"tables_created": 1, "config_changes": [{"old_val": None, "new_val": config}]}
        assert UUID(config.pop("id"))
        assert len(config.pop("shards")) == 1
        assert config == {
            "name": "users",
            "db": "test",
            "primary_key": "name",
            "durability": "soft",
            "write_acks": "majority",
            "indexes": [],
            "write_hook": None,
            "data": {},
        }
        assert r.table_list().run(conn) == ["users"]
        assert r.table_drop("users").run(conn)["tables_dropped"] == 1
        assert r.table_list().run(conn) == []

    def test_tables_of_one_name_in_two_databases_are_two(self, conn: LocalConnection, t: Any) -> None:
        r.db_create("d").run(conn)
        r.db("d").table_create("t").run(conn)
        r.db("d").table("t").insert({"id": 1}).run(conn)
        assert (t.count().run(conn), r.db("d").table("t").count().run(conn)) == (0, 1)

    def test_a_table_made_anew_is_empty(self, conn: LocalConnection, t: Any) -> None:
        t.insert({"id": 1}).run(conn)
        r.table_drop("t").run(conn)
        r.table_create("t").run(conn)
        assert documents(t, conn) == []

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (lambda: r.db_create("test"), "Database `test` already exists."),
            (lambda: r.db_create("rethinkdb"), "Database `rethinkdb` already exists."),
            (lambda: r.db_drop("x"), "Database `x` does not exist."),
            (lambda: r.db("x").table("t"), "Database `x` does not exist."),
            (lambda: r.db("x").table_list(), "Database `x` does not exist."),
            (lambda: r.table_create("t"), "Table `test.t` already exists."),
            (lambda: r.table_drop("x"), "Table `test.x` does not exist."),
            (lambda: r.table("x").insert({}), "Table `test.x` does not exist."),
            (lambda: r.table("t").between(1, 2, index="i"), "Index `i` was not found on table `test.t`."),
            (lambda: r.table("t").order_by(index="i"), "Index `i` was not found on table `test.t`."),
            (lambda: r.db_drop("rethinkdb"), "Database `rethinkdb` is special; you can't delete it."),
        ],
    )
    def test_what_is_not_there_or_already_there_fails(
        self, conn: LocalConnection, t: Any, query: Any, message: str
    ) -> None:
        with pytest.raises(ReqlOpFailedError) as caught:
            query().run(conn)
        assert caught.value.message == message

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.db_create("x y"), "Database name `x y` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.db("x.y").table_list(), "Database name `x.y` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.table_create("x y"), "Table name `x y` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.table_create(""), "Table name `` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.table("é"), "Table name `é` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.table("t\n"), "Table name `t\n` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r.table_create("t" * 201), f"Table name `{'t' * 20}...` too long (201 characters; at most 200)."),
            (r.db_create("d" * 201), f"Database name `{'d' * 20}...` too long (201 characters; at most 200)."),
        ],
    )
    def test_names_are_short_and_of_plain_letters(self, conn: LocalConnection, query: Any, message: str) -> None:
        with pytest.raises(ReqlQueryLogicError) as caught:
            query.run(conn)
        assert caught.value.message == message

    def test_a_name_is_a_string(self, conn: LocalConnection) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Expected type STRING but found NUMBER"):
            r.table_create(r.expr(5)).run(conn)

    def test_get_of_null_says_so(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlNonExistenceError, match="Keys cannot be NULL"):
            t.get(None).run(conn)
