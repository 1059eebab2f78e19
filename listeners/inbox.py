"""Deliveries of one channel, waiting to be handled, in the order in which RabbitMQ sent them."""

from __future__ import annotations

import asyncio

from aio_pika.abc import AbstractIncomingMessage

from cdcbridge.errors import BrokerUnavailable


class Inbox:
    """A channel fills it, one listener empties it. What it holds is bounded by the channel's prefetch.

    Args:
        keep_after_loss: what a lost channel leaves here is still handed out. Right where the queue is lost as well and
            nothing will be delivered again; otherwise it would only be handled twice.
    """

    def __init__(self, *, keep_after_loss: bool) -> None:
        self._keep = keep_after_loss
        self._waiting: list[AbstractIncomingMessage] = []
        self._loss: str | None = None
        self._changed = asyncio.Event()

    async def put(self, message: AbstractIncomingMessage) -> None:
        """Take one delivery; the consumer callback.

        aio-pika starts a task for each delivery. They begin in the order of the deliveries, and that stays the order
        here only because nothing is awaited.
        """
        if self._loss is None or self._keep:
            self._waiting.append(message)
            self._changed.set()

    def lose(self, reason: str) -> None:
        """The channel is gone: no acks and no more deliveries. The first reason counts."""
        if self._loss is not None:
            return
        self._loss = reason
        if not self._keep:
            self._waiting.clear()
        self._changed.set()

    async def take(self) -> list[AbstractIncomingMessage]:
        """All that is waiting, in order; waits for the first. A cancel leaves everything here.

        Raises:
            BrokerUnavailable: the channel is lost and nothing is left.
        """
        while not self._waiting:
            if self._loss is not None:
                raise BrokerUnavailable(self._loss)
            self._changed.clear()
            await self._changed.wait()
        taken, self._waiting = self._waiting, []
        return taken
