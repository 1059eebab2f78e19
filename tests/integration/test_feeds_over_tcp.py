"""Feeds over TCP, where reading, writing and the disk are in different threads: nothing is lost or repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

from cdcbridge.engine.core import Engine
from cdcbridge.engine.server import Server

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
        r.table("t").insert({"id": f"done {writer}"}).run(conn)


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
