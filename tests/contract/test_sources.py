"""What every source promises, run against each of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from cdcbridge.change import Change, Position
from cdcbridge.classify import classify
from cdcbridge.engine.core import Engine
from cdcbridge.errors import PositionLost
from cdcbridge.sources.base import Source
from cdcbridge.sources.embedded import EmbeddedSource
from cdcbridge.testing import MemorySource
from tests.changes import a_change


@dataclass
class Subject:
    """A source, and how its database gets a document created, updated and deleted: three changes."""

    source: Source
    commit: Callable[[int], None]


@pytest.fixture(params=["memory", "embedded"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield _memory()
    else:
        engine = Engine.open(tmp_path / "engine.db")
        yield _embedded(engine)
        engine.close()


def _memory() -> Subject:
    source = MemorySource()

    def commit(key: int) -> None:
        old, new, name = b'{"id":%d}' % key, b'{"id":%d,"n":1}' % key, b"%d" % key
        source.commit(
            a_change(3 * key, key=name, new_val=old),
            a_change(3 * key + 1, key=name, old_val=old, new_val=new),
            a_change(3 * key + 2, key=name, old_val=new, new_val=None),
        )

    return Subject(source, commit)


def _embedded(engine: Engine) -> Subject:
    source = EmbeddedSource(engine)

    def write(query: Any) -> None:
        engine.write([engine.compile(json.loads(ReQLEncoder().encode(query)), {})])

    def commit(key: int) -> None:
        for query in (
            r.table("orders").insert({"id": key}),
            r.table("orders").get(key).update({"n": 1}),
            r.table("orders").get(key).delete(),
        ):
            write(query)
        engine.sync()
        source.woken()

    write(r.table_create("orders"))
    return Subject(source, commit)


async def take(source: Source, count: int, after: Position | None = None) -> list[Change]:
    """So many changes from a stream; waits for those that are still to come."""
    changes: list[Change] = []
    async with aclosing(source.stream(after)) as stream:  # type: ignore[type-var]
        async for batch in stream:
            changes += batch.changes
            if len(changes) >= count:
                break
    return changes


async def test_changes_come_in_the_order_of_their_commits(subject: Subject) -> None:
    subject.commit(1)
    subject.commit(2)
    changes = await take(subject.source, 6)
    assert [change.key for change in changes] == [b"1", b"1", b"1", b"2", b"2", b"2"]
    assert [classify(change) for change in changes] == ["create", "update", "delete"] * 2


async def test_a_change_has_both_sides_as_json(subject: Subject) -> None:
    subject.commit(1)
    create, update, delete = await take(subject.source, 3)
    assert (create.old_val, create.new_val) == (None, b'{"id":1}')
    assert (update.old_val, update.new_val) == (b'{"id":1}', b'{"id":1,"n":1}')
    assert (delete.old_val, delete.new_val) == (b'{"id":1,"n":1}', None)


async def test_no_two_changes_have_one_position(subject: Subject) -> None:
    for key in range(5):
        subject.commit(key)
    positions = [change.position for change in await take(subject.source, 15)]
    assert len(set(positions)) == 15


async def test_a_stream_goes_on_behind_any_position(subject: Subject) -> None:
    subject.commit(1)
    subject.commit(2)
    changes = await take(subject.source, 6)
    for seen, change in enumerate(changes[:-1], start=1):
        assert await take(subject.source, 6 - seen, change.position) == changes[seen:]


async def test_a_stream_waits_for_what_is_still_to_come(subject: Subject) -> None:
    stream = subject.source.stream(None)
    subject.commit(1)
    seen = 0
    async for batch in stream:
        seen += len(batch.changes)
        if seen == 3:
            subject.commit(2)
        if seen == 6:
            break
    assert seen == 6


async def test_a_position_that_is_not_part_of_the_history_is_lost(subject: Subject) -> None:
    subject.commit(1)
    with pytest.raises(PositionLost) as lost:
        await take(subject.source, 1, Position("999999-1"))
    assert lost.value.position == "999999-1"


async def test_a_closed_source_ends_its_stream(subject: Subject) -> None:
    subject.commit(1)
    async for _ in subject.source.stream(None):
        await subject.source.close()


async def test_the_identity_stays(subject: Subject) -> None:
    before = subject.source.identity
    subject.commit(1)
    assert subject.source.identity == before != ""
