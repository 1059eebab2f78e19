"""The query language over tables, through the driver: groups, joins, for_each, and what the engine says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlOpFailedError, ReqlQueryLogicError, ReqlResourceLimitError

from cdcbridge.engine.local import LocalConnection

GAMES = [
    {"id": 1, "player": "Bob", "points": 15},
    {"id": 2, "player": "Alice", "points": 7},
    {"id": 3, "player": "Bob", "points": 10},
]


@pytest.fixture
def games(conn: LocalConnection, t: Any) -> Any:
    t.insert(GAMES).run(conn)
    return t


class TestGroups:
    def test_the_driver_makes_a_dict_of_them(self, conn: LocalConnection, games: Any) -> None:
        assert games.group("player").sum("points").run(conn) == {"Alice": 7, "Bob": 25}
        assert games.group("player").run(conn) == {"Alice": [GAMES[1]], "Bob": [GAMES[0], GAMES[2]]}
        assert games.group(index="id").count().run(conn) == {1: 1, 2: 1, 3: 1}

    def test_raw_they_travel_as_a_pseudo_type(self, conn: LocalConnection, games: Any) -> None:
        answer = games.group("player").count().run(conn, group_format="raw")
        assert answer == {"$reql_type$": "GROUPED_DATA", "data": [["Alice", 1], ["Bob", 2]]}

    def test_a_large_table_is_grouped(self, conn: LocalConnection, t: Any) -> None:
        t.insert([{"id": number, "k": number % 3} for number in range(1000)]).run(conn, durability="soft")
        assert t.group("k").count().run(conn) == {0: 334, 1: 333, 2: 333}
        assert t.group("k").map(lambda row: row["id"]).reduce(lambda a, b: a + b).run(conn)[0] == 166_833

    def test_groups_are_counted_against_the_array_limit(self, conn: LocalConnection, games: Any) -> None:
        with pytest.raises(ReqlResourceLimitError, match="Too many groups"):
            games.group("id").count().run(conn, array_limit=2)

    def test_a_feed_has_no_groups(self, conn: LocalConnection, games: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="infinite stream"):
            games.changes().group("id").run(conn)
        with pytest.raises(ReqlQueryLogicError, match="Cannot call `changes` after `group`"):
            games.group("player").changes().run(conn)


class TestJoins:
    @pytest.fixture
    def players(self, conn: LocalConnection) -> Any:
        r.table_create("players").run(conn)
        r.table("players").insert([{"id": "Bob", "age": 30}, {"id": "Eve", "age": 20}]).run(conn)
        return r.table("players")

    def test_eq_join_looks_documents_up_by_their_key(self, conn: LocalConnection, games: Any, players: Any) -> None:
        joined = list(games.eq_join("player", players).without({"right": "id"}).zip().order_by("id").run(conn))
        assert joined == [GAMES[0] | {"age": 30}, GAMES[2] | {"age": 30}]
        by_function = games.order_by("id").eq_join(lambda game: game["player"], players, index="id")["left"]["id"]
        assert by_function.run(conn) == [1, 3]

    def test_what_has_no_such_field_has_no_partner(self, conn: LocalConnection, games: Any, players: Any) -> None:
        assert list(games.eq_join("nothing", players).run(conn)) == []
        assert r.expr([{"k": None}, {"k": "Eve"}]).eq_join("k", players)["right"]["age"].run(conn) == [20]

    def test_tables_are_joined_by_any_function(self, conn: LocalConnection, games: Any, players: Any) -> None:
        same = games.inner_join(players, lambda game, player: game["player"] == player["id"])
        assert same.count().run(conn) == 2
        alone = (
            players.outer_join(games, lambda player, game: game["player"] == player["id"]).has_fields("right").not_()
        )
        assert alone.run(conn) is not None

    def test_an_unknown_index_is_named(self, conn: LocalConnection, games: Any, players: Any) -> None:
        with pytest.raises(ReqlOpFailedError, match=r"Index `nick` was not found on table `test\.players`"):
            games.eq_join("player", players, index="nick").run(conn)


class TestForEach:
    def test_it_writes_once_for_each_element_and_adds_the_answers_up(self, conn: LocalConnection, games: Any) -> None:
        answer = games.for_each(lambda game: games.get(game["id"]).update({"seen": True})).run(conn)
        assert answer == {"deleted": 0, "errors": 0, "inserted": 0, "replaced": 3, "skipped": 0, "unchanged": 0}

    def test_a_function_may_write_more_than_once(self, conn: LocalConnection, games: Any) -> None:
        query = r.expr([1, 9]).for_each(
            lambda id: [games.get(id).delete(return_changes=True), games.insert({"n": id}, return_changes=True)]
        )
        answer = query.run(conn)
        assert (answer["deleted"], answer["skipped"], answer["inserted"]) == (1, 1, 2)
        assert (len(answer["changes"]), len(answer["generated_keys"])) == (3, 2)

    def test_the_first_error_is_told(self, conn: LocalConnection, games: Any) -> None:
        answer = r.expr([1, 2]).for_each(lambda id: games.insert({"id": id})).run(conn)
        assert answer["errors"] == 2
        assert answer["first_error"].startswith('Duplicate primary key `id`:\n{\n\t"id":\t1')

    @pytest.mark.parametrize("function", [lambda row: row, lambda row: [row, 5]])
    def test_what_writes_nothing_is_refused(self, conn: LocalConnection, games: Any, function: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="FOR_EACH expects one or more basic write queries"):
            games.for_each(function).run(conn)

    def test_a_feed_has_no_end_to_write_for(self, conn: LocalConnection, games: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="infinite stream"):
            games.changes().for_each(lambda change: games.insert({})).run(conn)


class TestSystemTables:
    def test_there_are_those_that_programs_look_at(self, conn: LocalConnection) -> None:
        assert r.db("rethinkdb").table_list().run(conn) == [
            "_debug_scratch", "current_issues", "db_config", "server_config", "table_config", "table_status",
        ]  # fmt: skip
        assert "rethinkdb" in r.db_list().run(conn)

    def test_tables_and_databases_are_in_them(self, conn: LocalConnection, t: Any) -> None:
        system = r.db("rethinkdb")
        (row,) = system.table("table_config").filter({"name": "t"}).run(conn)
        assert (row["db"], row["primary_key"], row["durability"]) == ("test", "id", "hard")
        assert system.table("table_config").get(row["id"]).run(conn) == row
        assert system.table("table_status").get(row["id"])["status"]["all_replicas_ready"].run(conn) is True
        assert [row["name"] for row in system.table("db_config").run(conn)] == ["test"]
        assert system.table("server_config").count().run(conn) == 1
        assert list(system.table("current_issues").run(conn)) == []
        assert list(system.table("_debug_scratch").run(conn)) == []
        assert system.table("table_config").get("nobody").run(conn) is None

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.db("rethinkdb").table("nothing"), r"Table `rethinkdb\.nothing` does not exist"),
            (r.db("rethinkdb").table("_debug_scratch").insert({}), r"`rethinkdb\._debug_scratch` can only be read"),
            (r.db("rethinkdb").table_create("x"), "Database `rethinkdb` is special; you can't create new tables in it"),
            (r.db("rethinkdb").table_drop("x"), "Database `rethinkdb` is special; you can't drop tables in it"),
            (r.db_drop("rethinkdb"), "Database `rethinkdb` is special; you can't delete it"),
        ],
    )
    def test_they_are_only_read(self, conn: LocalConnection, query: Any, message: str) -> None:
        with pytest.raises(ReqlOpFailedError, match=message):
            query.run(conn)


class TestCluster:
    """One server is a cluster where everything is ready."""

    def test_a_table_is_as_its_config_says(self, conn: LocalConnection, t: Any) -> None:
        created = r.table_create("u", durability="soft").run(conn)["config_changes"][0]["new_val"]
        assert r.table("u").config().run(conn) == created
        assert r.db("test").config()["name"].run(conn) == "test"

    def test_it_is_ready(self, conn: LocalConnection, t: Any) -> None:
        assert t.wait().run(conn) == {"ready": 1}
        assert r.db("test").wait(wait_for="ready_for_writes", timeout=1).run(conn) == {"ready": 1}
        assert t.status()["shards"][0]["replicas"][0]["state"].run(conn) == "ready"

    def test_one_shard_and_one_replica_is_what_it_has(self, conn: LocalConnection, t: Any) -> None:
        answer = t.reconfigure(shards=1, replicas=1).run(conn)
        assert answer["reconfigured"] == 1
        assert answer["config_changes"][0]["old_val"] == answer["config_changes"][0]["new_val"]
        assert t.reconfigure(shards=1, replicas=1, dry_run=True)["reconfigured"].run(conn) == 0
        assert t.rebalance()["rebalanced"].run(conn) == 1
        with pytest.raises(ReqlOpFailedError, match="`shards` and `replicas` can only be 1"):
            t.reconfigure(shards=2, replicas=1).run(conn)

    def test_waiting_for_another_state_is_refused(self, conn: LocalConnection, t: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Unknown table readiness state: 'happy'"):
            t.wait(wait_for="happy").run(conn)


class TestInfo:
    def test_a_table_is_described(self, conn: LocalConnection, games: Any) -> None:
        info = games.info().run(conn)
        assert (info["type"], info["name"], info["db"]["name"], info["primary_key"]) == ("TABLE", "t", "test", "id")
        assert info["doc_count_estimates"] == [3]
        assert info["db"] == r.db("test").info().run(conn)
        assert games.filter({}).info()["table"].run(conn) == info
        assert games.get(1).info().run(conn)["type"] == "SELECTION<OBJECT>"

    def test_a_value_is_described(self, conn: LocalConnection) -> None:
        assert r.expr([1]).info().run(conn) == {"type": "ARRAY", "value": "[1]"}
        assert r.expr("a").info().run(conn) == {"type": "STRING", "value": '"a"'}
        assert r.expr(None).info().run(conn) == {"type": "NULL", "value": "null"}

    @pytest.mark.parametrize(
        ("query", "kind"),
        [
            (r.table("t"), "TABLE"),
            (r.table("t").between(1, 2), "TABLE_SLICE"),
            (r.table("t").filter({}), "SELECTION<STREAM>"),
            (r.table("t").order_by("a"), "SELECTION<ARRAY>"),
            (r.table("t").map(lambda row: row), "STREAM"),
            (r.table("t").get(1), "SELECTION<OBJECT>"),
            (r.table("t").group("player"), "GROUPED_STREAM"),
            (r.db("test"), "DB"),
            (r.range(3), "STREAM"),
        ],
    )
    def test_types_have_rethinkdbs_names(self, conn: LocalConnection, games: Any, query: Any, kind: str) -> None:
        assert query.type_of().run(conn) == kind


class TestLiteral:
    @pytest.mark.parametrize(
        "query",
        [
            r.literal(1),
            r.expr({"a": [r.literal(1)]}),
            r.expr({"a": 1}).merge({"a": r.literal(r.literal(2))}),
            r.expr({"a": 1}).merge({"a": r.literal({"b": r.literal()})}),
        ],
    )
    def test_it_has_its_place_in_merge_alone(self, conn: LocalConnection, query: Any) -> None:
        with pytest.raises(ReqlQueryLogicError, match="Stray literal keyword found"):
            query.run(conn)

    def test_a_text_about_it_is_a_text(self, conn: LocalConnection) -> None:
        text = '{"$reql_type$":"LITERAL"}'
        assert r.expr([text, {text: 1}]).run(conn) == [text, {text: 1}]


class TestSequences:
    def test_union_goes_over_tables(self, conn: LocalConnection, games: Any) -> None:
        assert games.union(games, [1]).count().run(conn) == 7
        merged = games.order_by(index="id").union(games.order_by(index="id"), interleave="id")["id"]
        assert list(merged.run(conn)) == [1, 1, 2, 2, 3, 3]

    def test_a_stream_without_end_comes_in_batches(self, conn: LocalConnection) -> None:
        cursor = r.range().map(lambda n: n * 2).run(conn, max_batch_rows=10)
        assert [next(cursor) for _ in range(25)] == list(range(0, 50, 2))
        cursor.close()

    def test_distinct_of_the_primary_key_is_a_stream(self, conn: LocalConnection, games: Any) -> None:
        assert list(games.distinct(index="id").run(conn)) == [1, 2, 3]
        assert games["player"].distinct().run(conn) == ["Alice", "Bob"]

    def test_fold_works_on_a_feed_if_it_emits(self, conn: LocalConnection, games: Any) -> None:
        feed = games.changes().fold(0, lambda n, change: n + 1, emit=lambda old, change, new: [new]).run(conn)
        games.insert([{"id": 8}, {"id": 9}]).run(conn)
        assert [feed.next(wait=False) for _ in range(2)] == [1, 2]
        feed.close()
        with pytest.raises(ReqlQueryLogicError, match="infinite stream"):
            games.changes().fold(0, lambda n, change: n + 1).run(conn)
