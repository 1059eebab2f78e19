"""Fakes for tests of programs that use cdcbridge: they keep the promises of the real ones, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

from cdcbridge.change import Batch, Change, Position
from cdcbridge.checkpoint import check_identity
from cdcbridge.encode import Message
from cdcbridge.errors import PositionLost, SourceUnavailable


class MemoryCheckpoints:
    """A `checkpoint.CheckpointStore` that forgets with the process."""

    def __init__(self) -> None:
        self._saved: dict[str, tuple[str, Position]] = {}

    def load(self, bridge: str, identity: str) -> Position | None:
        """See `CheckpointStore.load`."""
        if bridge not in self._saved:
            return None
        saved_identity, position = self._saved[bridge]
        check_identity(bridge, identity, saved_identity, position)
        return position

    def save(self, bridge: str, identity: str, position: Position) -> None:
        """See `CheckpointStore.save`."""
        self._saved[bridge] = (identity, position)


class MemorySource:
    """A `sources.base.Source` over a list of changes. `commit` adds some; `interrupt` makes it go away once."""

    name = "memory"

    def __init__(self, changes: Iterable[Change] = (), identity: str = "memory:1") -> None:
        self.identity = identity
        self.confirmed_positions: list[Position] = []
        self._changes = list(changes)
        self._news = asyncio.Event()
        self._interrupted = False
        self._closed = False

    def commit(self, *changes: Change) -> None:
        """These changes have become durable."""
        self._changes += changes
        self._news.set()

    def interrupt(self) -> None:
        """End the stream with SourceUnavailable; the next one works again."""
        self._interrupted = True
        self._news.set()

    async def stream(self, after: Position | None) -> AsyncIterator[Batch]:
        """See `Source.stream`. One change a batch."""
        place = self._place_behind(after)
        while not self._closed:
            self._news.clear()
            if self._interrupted:
                self._interrupted = False
                raise SourceUnavailable("the memory source was interrupted")
            if place < len(self._changes):
                change = self._changes[place]
                place += 1
                yield Batch([change], change.position)
            else:
                await self._news.wait()

    def _place_behind(self, after: Position | None) -> int:
        if after is None:
            return 0
        for place, change in enumerate(self._changes, start=1):
            if change.position == after:
                return place
        raise PositionLost(after, "no change has this position")

    async def confirmed(self, position: Position) -> None:
        """See `Source.confirmed`."""
        self.confirmed_positions.append(position)

    async def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        self._news.set()


class MemorySink:
    """A `bridge.Sink` that keeps what is published, until the test confirms it or for ever."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.positions: list[Position] = []
        self._published = asyncio.Condition()

    async def publish(self, messages: Sequence[Message], position: Position) -> None:
        """See `Sink.publish`. There is always room."""
        async with self._published:
            self.messages += messages
            self.positions.append(position)
            self._published.notify_all()

    async def until(self, position: Position) -> None:
        """Wait until something was published with this position."""
        async with self._published:
            await self._published.wait_for(lambda: position in self.positions)

    async def drained(self, grace_s: float) -> bool:
        """See `Sink.drained`: what is published counts as confirmed."""
        return True
