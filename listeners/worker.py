"""A listener: subscribe, print each message, ack it, start again when the broker was away. Order is kept throughout."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from aio_pika.abc import AbstractIncomingMessage
from structlog.typing import FilteringBoundLogger

from cdcbridge.backoff import Backoff
from cdcbridge.broker.connection import redacted
from cdcbridge.errors import BrokerUnavailable, ConfigError, DecodeError
from listeners.decode import Incoming, Received, decode
from listeners.ending import Stop, finished, on_signals, unless
from listeners.json_lines import JsonLines
from listeners.output import Output, OutputClosed
from listeners.pretty import Pretty
from listeners.settings import ListenSettings
from listeners.settle import ack_all
from listeners.subscription import connected, subscribe

__all__ = ["ListenSettings", "listen"]

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
"""Short: without a queue of its own name a listener misses what is published until it is back."""
GRACE_S = 2.0
"""How long the end waits for messages that are being printed, so that what was printed is acked."""


class Renderer(Protocol):
    """One form of output."""

    def change(self, received: Received) -> bytes:
        """A message that was understood, complete with its line end."""

    def unreadable(self, incoming: Incoming, problem: str) -> bytes:
        """A message that is not JSON."""


async def listen(settings: ListenSettings, out: BinaryIO, log: FilteringBoundLogger, stop: Stop | None = None) -> int:
    """Print what arrives under `settings.patterns`, in the order of the queue, and return the exit status 0.

    Every message is printed at least once before it is acked; one that was printed and whose ack was lost comes again.
    With `settings.count` exactly so many are acked, and the rest stays in the queue. A message that is not JSON is
    shown as text and acked, with a warning: in a queue it would come again for ever, rejected it would be lost unseen.
    While the broker is away a named queue keeps what arrives; an auto-named one is gone, and misses it.

    It ends when the count is reached, when `stop` asks for it (`None`: the signals SIGINT and SIGTERM do), and when
    nobody reads `out` any more. What was not acked by then goes back to its queue.

    Raises:
        ConfigError: RabbitMQ refuses what was asked for at the first attempt; later it is tried again.
        StateError: `out` cannot be written.
    """
    with contextlib.ExitStack() as stack:
        output = Output(out)
        stack.callback(output.close)
        listener = _Listener(settings, output, log)
        asked = stop if stop is not None else stack.enter_context(on_signals())
        with contextlib.suppress(OutputClosed):
            await unless(listener.run(), _requested(asked, log), output.closed())
        log.info("shutdown_finished", messages=listener.handled)
    return 0


async def _requested(stop: Stop, log: FilteringBoundLogger) -> None:
    await stop.wait()
    log.info("shutdown_requested")


class _Listener:
    def __init__(self, settings: ListenSettings, output: Output, log: FilteringBoundLogger) -> None:
        self._settings = settings
        self._broker = redacted(settings.url)
        self._output = output
        self._log = log
        self._renderer: Renderer = JsonLines() if settings.format == "json" else Pretty(settings.color)
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, random.Random())
        self._remaining = settings.count
        self._was_ready = False
        self.handled = 0

    async def run(self) -> None:
        """One session after the other, until the count is reached."""
        while self._remaining != 0:
            try:
                await self._session()
            except BrokerUnavailable as exc:
                await self._pause(self._log.warning, exc)
            except ConfigError as exc:
                # A daemon that ran well outlives a mistake made meanwhile: it goes on when that is mended.
                if not self._was_ready:
                    raise
                await self._pause(self._log.error, exc)

    async def _session(self) -> None:
        async with connected(self._settings) as connection:
            queue, inbox = await subscribe(connection, self._settings)
            self._ready(queue)
            while self._remaining != 0:
                messages = await inbox.take()
                await finished(self._handle(messages[: self._remaining]), GRACE_S)

    def _ready(self, queue: str) -> None:
        self._was_ready = True
        self._backoff.reset()
        self._log.info("broker_connected", broker=self._broker)
        self._log.info(
            "listener_ready",
            exchange=self._settings.exchange,
            queue=queue,
            patterns=list(self._settings.patterns),
            broker=self._broker,
        )

    async def _handle(self, messages: list[AbstractIncomingMessage]) -> None:
        await self._output.write(b"".join([self._rendered(message) for message in messages]))
        self.handled += len(messages)
        if self._remaining is not None:
            self._remaining -= len(messages)
        self._log.debug("message_handled", messages=len(messages), routing_key=messages[-1].routing_key)
        await ack_all(messages, self._log, comes_again=self._settings.queue is not None)

    def _rendered(self, message: AbstractIncomingMessage) -> bytes:
        incoming = _incoming(message)
        try:
            return self._renderer.change(decode(incoming))
        except DecodeError as exc:
            self._log.warning("message_handled", routing_key=incoming.routing_key, problem=str(exc))
            return self._renderer.unreadable(incoming, str(exc))

    async def _pause(self, report: Callable[..., Any], error: Exception) -> None:
        pause_s = self._backoff.next()
        report("broker_lost", broker=self._broker, reason=str(error), retry_in_s=round(pause_s, 1))
        await asyncio.sleep(pause_s)


def _incoming(message: AbstractIncomingMessage) -> Incoming:
    return Incoming(
        message.routing_key or "",
        message.message_id,
        None if message.timestamp is None else int(message.timestamp.timestamp()),
        message.headers,
        message.body,
    )
