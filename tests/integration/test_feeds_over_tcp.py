"""Feeds over TCP, where reading, writing and the disk are in different threads: nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from cdcbridge import logs
from cdcbridge.config import load
from cdcbridge.engine.core import Engine
from cdcbridge.engine.feeds.feed import ENTRIES_AT_ONCE
from cdcbridge.engine.server import Server
from cdcbridge.engine_host import hosted_engine
from cdcbridge.errors import BridgeError

HOST = "127.0.0.1"
WAIT_S = 60.0
"""Longer than anything here takes; a test that needs it fails."""
WRITERS = 4
WRITES = 150
DOCUMENTS = 700

Connect = Callable[[], Any]


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """Opens blocking connections, for other threads than the server's."""
    engine = Engine.open(tmp_path / "engine.db")
    server = Server(engine)
    await server.start(HOST, 0)
    yield lambda: r.connect(*server.address)
    await server.close()
    engine.close()


def prepare(connect: Connect) -> None:
    with connect() as conn:
        r.table_create("t").run(conn)
        r.table("t").insert([{"id": number, "n": 0} for number in range(DOCUMENTS)]).run(conn)


def write(connect: Connect, writer: int) -> None:
    """Create, change and delete documents that other writers change as well; then say that it is done."""
    with connect() as conn:
        for number in range(WRITES):
            key = (number * 31 + writer * 7) % (DOCUMENTS + 200)
            document = {"id": key, "n": number, "writer": writer}
            r.table("t").insert(document, conflict="replace").run(conn, durability="soft" if number % 3 else "hard")
            if number % 4 == 0:
                r.table("t").get((key + 11) % DOCUMENTS).delete().run(conn)
        r.table("t").insert({"id": f"done {writer}", "n": 10**6}).run(conn)


def followed(feed: Any, state: dict[Any, Any]) -> list[int]:
    """Apply a feed's elements to `state` until all writers are done; returns the numbers that came."""
    numbers: list[int] = []
    while sum(type(key) is str for key in state) < WRITERS:
        element = feed.next(wait=WAIT_S)
        old, new = element.get("old_val"), element["new_val"]
        assert (state.pop(old["id"]) == old) if old is not None else new["id"] not in state
        if new is not None:
            state[new["id"]] = new
        if "seq" in element:
            numbers.append(element["seq"])
    return numbers


async def with_writers(connect: Connect, read: Callable[[], Any]) -> Any:
    """What `read` gives, which runs beside the writers."""
    async with asyncio.TaskGroup() as tasks:
        for writer in range(WRITERS):
            tasks.create_task(asyncio.to_thread(write, connect, writer))
        reader = tasks.create_task(asyncio.to_thread(read))
    return reader.result()


async def test_initial_values_join_the_changes_of_four_writers(connect: Connect) -> None:
    await asyncio.to_thread(prepare, connect)

    def read() -> tuple[dict[Any, Any], dict[Any, Any], list[int]]:
        with connect() as conn, connect() as other:
            state: dict[Any, Any] = {}
            feed = r.table("t").changes(include_initial=True, include_seq=True).run(conn, max_batch_rows=20)
            numbers = followed(feed, state)
            return state, {row["id"]: row for row in r.table("t").run(other)}, numbers

    state, table, numbers = await with_writers(connect, read)
    assert state == table
    assert numbers == sorted(set(numbers))


async def test_a_feed_that_is_cut_again_and_again_misses_nothing(connect: Connect) -> None:
    await asyncio.to_thread(prepare, connect)

    def read() -> tuple[list[int], int]:
        seen: list[int] = []
        done = 0
        since = DOCUMENTS
        while done < WRITERS:
            with connect() as conn:
                feed = r.table("t").changes(include_seq=True, since=since).run(conn)
                for _ in range(37):
                    element = feed.next(wait=WAIT_S)
                    since = element["seq"]
                    seen.append(since)
                    done += element["new_val"] is not None and type(element["new_val"]["id"]) is str
                    if done == WRITERS:
                        break
        return seen, since

    seen, last = await with_writers(connect, read)
    assert seen == list(range(DOCUMENTS + 1, last + 1))


async def test_a_soft_write_wakes_a_waiting_feed(connect: Connect) -> None:
    await asyncio.to_thread(prepare, connect)

    def write_and_read() -> None:
        with connect() as conn, connect() as other:
            feed = r.table("t").changes()["new_val"]["id"].run(conn)
            for number in range(50):
                r.table("t").insert({"id": ["soft", number]}).run(other, durability="soft")
                assert feed.next(wait=WAIT_S) == ["soft", number]

    await asyncio.to_thread(write_and_read)


async def test_a_feed_that_begins_far_behind_joins_the_changes_of_four_writers(connect: Connect) -> None:
    """Far behind it is read in other threads than those that write, and then it catches up."""
    await asyncio.to_thread(prepare, connect)

    def fill() -> None:
        with connect() as conn:
            for _ in range(2 + ENTRIES_AT_ONCE // DOCUMENTS):
                r.table("t").update({"n": r.row["n"] + 1}).run(conn, durability="soft")
            r.table("t").sync().run(conn)

    def read() -> tuple[dict[Any, Any], dict[Any, Any], list[int]]:
        with connect() as conn, connect() as other:
            state: dict[Any, Any] = {}
            numbers = followed(r.table("t").changes(since=0, include_seq=True).run(conn), state)
            return state, {row["id"]: row for row in r.table("t").run(other)}, numbers

    await asyncio.to_thread(fill)
    state, table, numbers = await with_writers(connect, read)
    assert state == table
    assert numbers == list(range(1, len(numbers) + 1))


async def test_the_first_of_an_order_are_right_in_the_end(connect: Connect) -> None:
    await asyncio.to_thread(prepare, connect)

    def make_index() -> None:
        with connect() as conn:
            r.table("t").index_create("n").run(conn)

    def read() -> tuple[list[Any], list[Any]]:
        first = r.table("t").order_by(index=r.desc("n")).limit(5)
        with connect() as conn, connect() as other:
            shown: list[Any] = []
            feed = first.changes(include_offsets=True, include_initial=True).run(conn)
            while sum(type(document["id"]) is str for document in shown) < WRITERS:
                show(feed.next(wait=WAIT_S), shown)
            return shown, list(first.run(other))

    await asyncio.to_thread(make_index)
    shown, found = await with_writers(connect, read)
    assert shown == found


def show(element: dict[str, Any], shown: list[Any]) -> None:
    """Apply an element with offsets to a list."""
    if element.get("old_offset") is not None:
        assert shown.pop(element["old_offset"]) == element["old_val"]
    if element["new_offset"] is not None:
        shown.insert(element["new_offset"], element["new_val"])


async def test_a_document_s_feed_hears_of_it_among_thousands_of_other_changes(connect: Connect) -> None:
    await asyncio.to_thread(prepare, connect)

    def write_and_read() -> None:
        with connect() as conn, connect() as other:
            feed = r.table("t").get(3).changes(include_initial=False, include_seq=True).run(conn)
            for number in range(20):
                r.table("t").filter(r.row["id"] != 3).update({"n": number + 1}).run(other, durability="soft")
                r.table("t").get(3).update({"n": -number - 1}).run(other, durability="soft")
                assert feed.next(wait=WAIT_S)["new_val"] == {"id": 3, "n": -number - 1}

    await asyncio.to_thread(write_and_read)


async def test_a_squashed_feed_lets_changes_come_together_for_some_time(connect: Connect) -> None:
    await asyncio.to_thread(prepare, connect)

    def write_and_read() -> None:
        with connect() as conn, connect() as other:
            feed = r.table("t").get(3).changes(include_initial=False, squash=0.1).run(conn)
            for number in range(1, 101):
                r.table("t").get(3).update({"n": number}).run(other, durability="soft")
            elements = [feed.next(wait=WAIT_S)]
            while elements[-1]["new_val"]["n"] < 100:
                elements.append(feed.next(wait=WAIT_S))
            assert all(one["new_val"] == other["old_val"] for one, other in itertools.pairwise(elements))

    await asyncio.to_thread(write_and_read)


@pytest.mark.parametrize(("rule", "values"), [("seed", 1), ("explicit", 0)])
async def test_initial_values_unasked_are_a_setting(tmp_path: Path, rule: str, values: int) -> None:
    flags = {"state": tmp_path, "engine.listen": f"{HOST}:0", "engine.initial_values": rule}
    failures: list[BridgeError] = []
    async with hosted_engine(load(flags, environ={}).engine, logs.configure("error"), failures.append) as server:

        def read() -> int:
            with r.connect(*server.address) as conn:
                r.table_create("t").run(conn)
                feed = r.table("t").get(1).changes().run(conn)
                r.table("t").insert({"id": 1}).run(conn)
                elements = [feed.next(wait=WAIT_S)]
                while elements[-1] != {"old_val": None, "new_val": {"id": 1}}:
                    elements.append(feed.next(wait=WAIT_S))
                return len(elements) - 1

        assert await asyncio.to_thread(read) == values
    assert not failures
