"""The snippets of RethinkDB's documentation of changefeeds, as they stand there, and what it says that they print.

One client watches and another one writes, as there. The tutorial on RabbitMQ runs as processes: see tests/e2e.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlError, ReqlTimeoutError

import cdcbridge.engine
from cdcbridge.engine.local import LocalConnection

ROOM_ID = 7
WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""


@pytest.fixture
def writer(conn: LocalConnection, data_file: Path) -> Iterator[LocalConnection]:
    """The second client; the tables of the documentation are there."""
    for name in ("users", "messages", "scores", "games", "test"):
        r.table_create(name).run(conn)
    with cdcbridge.engine.open(data_file) as connection:
        yield connection


def printed(feed: Any) -> list[Any]:
    """What `for change in feed: print(change)` has printed by now."""
    changes = []
    try:
        while True:
            changes.append(feed.next(wait=False))
    except ReqlTimeoutError:
        return changes


class TestChangefeeds:
    """rethinkdb-changefeeds.md"""

    def test_basic_usage(self, conn: LocalConnection, writer: LocalConnection) -> None:
        feed = r.table("users").changes().run(conn)
        r.table("users").insert({"id": 1, "name": "Slava", "age": 31}).run(writer)
        assert printed(feed) == [{"old_val": None, "new_val": {"id": 1, "name": "Slava", "age": 31}}]
        r.table("users").get(1).update({"age": 32}).run(writer)
        r.table("users").get(1).delete().run(writer)
        assert printed(feed) == [
            {
                "old_val": {"id": 1, "name": "Slava", "age": 31},
                "new_val": {"id": 1, "name": "Slava", "age": 32},
            },
            {"old_val": {"id": 1, "name": "Slava", "age": 32}, "new_val": None},
        ]

    def test_a_cursor_over_changes_never_ends(self, conn: LocalConnection, writer: LocalConnection) -> None:
        feed = r.table("users").changes().run(conn)
        for number in range(3):
            r.table("users").insert({"id": number}).run(writer)
            assert len(printed(feed)) == 1

    def test_point_changefeeds(self, conn: LocalConnection, writer: LocalConnection) -> None:
        r.table("users").insert({"id": 100, "name": "Ann"}).run(writer)
        feed = r.table("users").get(100).changes().run(conn)
        assert printed(feed) == [{"new_val": {"id": 100, "name": "Ann"}}]
        r.table("users").get(100).update({"name": "Anna"}).run(writer)
        r.table("users").insert({"id": 101}).run(writer)
        assert printed(feed) == [
            {"old_val": {"id": 100, "name": "Ann"}, "new_val": {"id": 100, "name": "Anna"}},
        ]

    def test_messages_of_one_room(self, conn: LocalConnection, writer: LocalConnection) -> None:
        feed = r.table("messages").filter(r.row["room_id"] == ROOM_ID).changes().run(conn)
        here, there = {"id": 1, "room_id": ROOM_ID, "text": "hi"}, {"id": 2, "room_id": 8, "text": "ho"}
        r.table("messages").insert([here, there]).run(writer)
        assert printed(feed) == [{"old_val": None, "new_val": here}]

    def test_games_that_beat_the_previous_score(self, conn: LocalConnection, writer: LocalConnection) -> None:
        feed = (
            r.table("scores")
            .changes()
            .filter(lambda change: change["new_val"]["score"] > change["old_val"]["score"])["new_val"]
            .run(conn)
        )
        r.table("scores").insert({"id": "Bob", "score": 5}).run(writer)
        for score in (9, 3):
            r.table("scores").get("Bob").update({"score": score}).run(writer)
        r.table("scores").get("Bob").delete().run(writer)
        assert printed(feed) == [{"id": "Bob", "score": 9}]

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.table("users").changes().count(), "infinite stream"),
            (r.table("users").changes().order_by("id"), "infinite stream"),
            (r.table("users").concat_map(lambda row: [row]).changes(), "Cannot call `changes` after `concat_map`."),
        ],
    )
    def test_what_needs_the_entire_sequence_is_refused(
        self, conn: LocalConnection, writer: LocalConnection, query: Any, message: str
    ) -> None:
        with pytest.raises(ReqlError) as caught:
            query.run(conn)
        assert message in caught.value.message


class TestChangesCommand:
    """rethinkdb-changes-api.md"""

    def test_subscribe_to_the_changes_on_a_table(self, conn: LocalConnection, writer: LocalConnection) -> None:
        feed = r.table("games").changes().run(conn)
        r.table("games").insert({"id": 1}).run(writer)
        assert printed(feed) == [{"old_val": None, "new_val": {"id": 1}}]
        r.table("games").get(1).update({"player1": "Bob"}).run(writer)
        assert printed(feed) == [{"old_val": {"id": 1}, "new_val": {"id": 1, "player1": "Bob"}}]
        r.table("games").get(1).replace({"id": 1, "player1": "Bob", "player2": "Alice"}).run(writer)
        assert printed(feed) == [
            {
                "old_val": {"id": 1, "player1": "Bob"},
                "new_val": {"id": 1, "player1": "Bob", "player2": "Alice"},
            }
        ]
        r.table("games").get(1).delete().run(writer)
        assert printed(feed) == [{"old_val": {"id": 1, "player1": "Bob", "player2": "Alice"}, "new_val": None}]
        r.table_drop("games").run(writer)
        with pytest.raises(ReqlError, match="Changefeed aborted"):
            feed.next(wait=WAIT_S)

    @pytest.fixture
    def history(self, writer: LocalConnection) -> None:
        """Bob's score rises, then Ann comes, whose score falls."""
        r.table("test").insert({"id": 1, "name": "Bob", "score": 1}).run(writer)
        r.table("test").get(1).update({"score": 2}).run(writer)
        r.table("test").insert({"id": 2, "name": "Ann", "score": 2}).run(writer)
        r.table("test").get(2).update({"score": 1}).run(writer)

    @pytest.mark.parametrize(
        ("condition", "scores"),
        [
            (r.row["new_val"]["score"] > r.row["old_val"]["score"], [("Bob", 2)]),
            (r.row["new_val"]["name"].eq("Bob"), [("Bob", 1), ("Bob", 2)]),
            (r.row["old_val"].eq(None), [("Bob", 1), ("Ann", 2)]),
        ],
        ids=["increases of a score", "Bob's score", "inserts"],
    )
    def test_return_all_changes_that_fulfil_a_condition(
        self, conn: LocalConnection, history: None, condition: Any, scores: list[tuple[str, int]]
    ) -> None:
        feed = r.table("test").changes(since=0).filter(condition).run(conn)
        assert [(change["new_val"]["name"], change["new_val"]["score"]) for change in printed(feed)] == scores
