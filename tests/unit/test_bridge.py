"""The bridge between a source and a publisher, both in memory: what is saved when, and what goes on after a loss."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from cdcbridge.backoff import Backoff
from cdcbridge.bridge import Bridge
from cdcbridge.change import Batch, Position
from cdcbridge.encode import Encoder
from cdcbridge.errors import ConfigError, EncodeError, PositionLost
from cdcbridge.route import Router
from cdcbridge.testing import MemoryCheckpoints, MemorySink, MemorySource
from tests.changes import a_change
from tests.recorded_log import RecordedLog


class Rig:
    """A bridge over fakes."""

    def __init__(self, source: MemorySource, checkpoints: MemoryCheckpoints | None = None) -> None:
        self.source = source
        self.sink = MemorySink()
        self.checkpoints = checkpoints or MemoryCheckpoints()
        self.log = RecordedLog()
        self.now_s = 0.0
        self.bridge = Bridge(
            name="shop",
            source=source,
            publisher=self.sink,
            checkpoints=self.checkpoints,
            router=Router(source=source.name),
            encoder=Encoder(bridge="shop", source=source.name, exchange="changes"),
            backoff=Backoff(0.001, 0.001, random.Random(1)),
            log=self.log.log,
            clock=lambda: self.now_s,
        )

    @property
    def saved(self) -> Position | None:
        return self.checkpoints.load("shop", self.source.identity)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.bridge.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_change_becomes_a_message_under_its_routing_key() -> None:
    rig = Rig(MemorySource([a_change(1), a_change(2, old_val=b'{"id":1}', new_val=None)]))
    async with rig.running():
        await rig.sink.until(Position("2"))
    assert [message.envelope.routing_key for message in rig.sink.messages] == ["orders.create", "orders.delete"]


async def test_a_position_is_not_saved_before_the_confirm() -> None:
    rig = Rig(MemorySource([a_change(1)]))
    async with rig.running():
        await rig.sink.until(Position("1"))
        assert rig.saved is None
        rig.bridge.on_confirmed(Position("1"))
        assert rig.saved == "1"


async def test_the_next_run_begins_behind_the_saved_position() -> None:
    source = MemorySource([a_change(1), a_change(2), a_change(3)])
    first = Rig(source)
    async with first.running():
        await first.sink.until(Position("3"))
        first.bridge.on_confirmed(Position("1"))
    second = Rig(source, first.checkpoints)
    async with second.running():
        await second.sink.until(Position("3"))
    assert [message.message_id for message in second.sink.messages] == ["shop:2", "shop:3"]


async def test_a_source_that_comes_back_goes_on_without_a_gap_or_a_repeat() -> None:
    rig = Rig(MemorySource([a_change(1)]))
    async with rig.running():
        await rig.sink.until(Position("1"))
        rig.source.interrupt()
        await rig.log.wait_for("source_connected", 2)
        rig.source.commit(a_change(2))
        await rig.sink.until(Position("2"))
    assert [message.message_id for message in rig.sink.messages] == ["shop:1", "shop:2"]
    assert rig.log.of("source_lost")


async def test_a_position_moves_on_past_changes_that_nobody_asked_for() -> None:
    class Skipping(MemorySource):
        async def stream(self, after: Position | None) -> AsyncIterator[Batch]:
            yield Batch([], Position("7"))
            await asyncio.Event().wait()

    rig = Rig(Skipping())
    async with rig.running():
        await rig.sink.until(Position("7"))
    assert rig.sink.messages == []


async def test_what_stands_before_a_change_that_cannot_be_sent_is_published_and_nothing_behind_it() -> None:
    class OneBatch(MemorySource):
        async def stream(self, after: Position | None) -> AsyncIterator[Batch]:
            yield Batch([a_change(1), a_change(2, table="x" * 256), a_change(3)], Position("3"))

    rig = Rig(OneBatch())
    with pytest.raises(EncodeError, match="position 2"):
        await rig.bridge.run()
    assert [message.position for message in rig.sink.messages] == ["1"]
    assert rig.sink.positions == ["1"]


async def test_a_lost_position_is_logged_and_ends_the_bridge() -> None:
    checkpoints = MemoryCheckpoints()
    checkpoints.save("shop", "memory:1", Position("5"))
    rig = Rig(MemorySource([a_change(1)]), checkpoints)
    with pytest.raises(PositionLost):
        await rig.bridge.run()
    assert rig.log.of("position_lost", position="5")


async def test_the_position_of_another_database_is_refused_by_name() -> None:
    checkpoints = MemoryCheckpoints()
    checkpoints.save("shop", "memory:other", Position("5"))
    with pytest.raises(ConfigError, match="memory:other"):
        Rig(MemorySource(), checkpoints)


async def test_the_source_is_told_the_newest_confirmed_position() -> None:
    rig = Rig(MemorySource([a_change(1), a_change(2)]))
    told = asyncio.Event()

    async def confirmed(position: Position) -> None:
        assert position == "2"
        told.set()

    rig.source.confirmed = confirmed  # type: ignore[method-assign]
    async with rig.running():
        await rig.sink.until(Position("2"))
        rig.bridge.on_confirmed(Position("1"))
        rig.bridge.on_confirmed(Position("2"))
        await told.wait()


async def test_confirms_are_reported_at_most_once_a_second() -> None:
    rig = Rig(MemorySource())
    for now_s, position in ((0.0, "1"), (0.5, "2"), (1.0, "3"), (1.9, "4")):
        rig.now_s = now_s
        rig.bridge.on_confirmed(Position(position))
    assert [entry["position"] for entry in rig.log.of("batch_confirmed")] == ["1", "3"]
