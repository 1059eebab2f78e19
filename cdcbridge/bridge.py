"""One source into one publisher: run, drain, stop.

The order of things is what the promise rests on. A position is saved when everything up to it is confirmed, never
before; so a crash at any moment means that changes behind the saved position are published once more, with the
message_id that they had, and that none is missing. Stopping is a sequence: read no more, let RabbitMQ confirm what was
sent, save, close.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from cdcbridge.backoff import Backoff
from cdcbridge.change import Batch, Change, Operation, Position
from cdcbridge.checkpoint import CheckpointStore
from cdcbridge.classify import classify
from cdcbridge.encode import Encoder, Envelope, Message
from cdcbridge.errors import ChangeError, PositionLost, SourceUnavailable
from cdcbridge.route import Router
from cdcbridge.sources.base import Source

SECONDS_BETWEEN_REPORTS: Final = 1.0


class Sink(Protocol):
    """What the bridge asks of a publisher: order, and a word when everything up to a position is confirmed."""

    async def publish(self, messages: list[Message], position: Position) -> None:
        """Take messages, the last of which (or, without any, all before) stands at `position`; wait for room."""

    async def drained(self, grace_s: float) -> bool:
        """Wait until everything is confirmed; False when the time is over first."""


class Bridge:
    """Carries changes from a source to a publisher, and remembers how far RabbitMQ has confirmed them."""

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        publisher: Sink,
        checkpoints: CheckpointStore,
        router: Router,
        encoder: Encoder,
        backoff: Backoff,
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._source = source
        self._publisher = publisher
        self._checkpoints = checkpoints
        self._router = router
        self._encoder = encoder
        self._envelopes: dict[tuple[str, str, Operation], Envelope] = {}
        self._backoff = backoff
        self._log = log
        self._confirmations = asyncio.Event()
        self._progress = Progress(log, clock)
        self.confirmed: Position | None = checkpoints.load(name, source.identity)
        """Everything up to here is in RabbitMQ, and saved."""
        self._sent = self.confirmed

    def on_confirmed(self, position: Position) -> None:
        """Everything up to `position` is confirmed: save that. The publisher calls this, at most once a loop turn.

        Raises:
            StateError: the state folder cannot be written.
        """
        self._checkpoints.save(self._name, self._source.identity, position)
        self._log.debug("checkpoint_saved", position=position)
        self.confirmed = position
        self._confirmations.set()
        self._progress.report(position)

    async def run(self) -> None:
        """Publish changes until cancelled. Cancelling loses nothing: what was not sent stays in the source.

        Raises:
            BridgeError: something that trying again cannot mend.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._acknowledge())
                tasks.create_task(self._carry())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _carry(self) -> None:
        while True:
            try:
                await self._stream()
            except PositionLost as problem:
                self._log.error("position_lost", position=problem.position, reason=problem.reason)
                raise
            except SourceUnavailable as problem:
                self._log.warning("source_lost", reason=str(problem))
                await asyncio.sleep(self._backoff.next())

    async def _stream(self) -> None:
        self._log.info("source_connected", source=self._source.name, position=self._sent)
        async for batch in self._source.stream(self._sent):
            await self._publish(batch)
            self._sent = batch.position
            self._backoff.reset()

    async def _publish(self, batch: Batch) -> None:
        """Publish a batch. What stands before a change that cannot become a message is published before that raises."""
        messages: list[Message] = []
        try:
            self._extend(messages, batch.changes)
        except ChangeError:
            if messages:
                await self._publisher.publish(messages, messages[-1].position)
            raise
        await self._publisher.publish(messages, batch.position)

    def _extend(self, messages: list[Message], changes: list[Change]) -> None:
        """Append the changes as messages: classified, routed, encoded."""
        envelopes, filled = self._envelopes, self._encoder.filled
        for change in changes:
            operation = classify(change)
            envelope = envelopes.get((change.database, change.table, operation)) or self._envelope(change, operation)
            messages.append(filled(envelope, change))

    def _envelope(self, change: Change, operation: Operation) -> Envelope:
        """What all messages of this table and operation share, kept: it is asked for with each change."""
        envelope = self._encoder.envelope(change.table, operation, self._router.routing_key(change, operation))
        self._envelopes[change.database, change.table, operation] = envelope
        return envelope

    async def _acknowledge(self) -> None:
        """Tell the source how far it is safe, the newest position only."""
        while True:
            await self._confirmations.wait()
            self._confirmations.clear()
            if self.confirmed is not None:
                await self._source.confirmed(self.confirmed)

    async def drain(self, grace_s: float) -> bool:
        """After `run` has ended: wait until what was sent is confirmed and saved. False: not all of it was, in time."""
        return await self._publisher.drained(grace_s)


class Progress:
    """A line in the log now and then, so that a busy bridge does not drown it."""

    def __init__(self, log: FilteringBoundLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._reported_s = float("-inf")

    def report(self, position: Position) -> None:
        """Note a position, at most once a second."""
        if self._clock() - self._reported_s >= SECONDS_BETWEEN_REPORTS:
            self._reported_s = self._clock()
            self._log.info("batch_confirmed", position=position)
