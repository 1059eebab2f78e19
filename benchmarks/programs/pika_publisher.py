"""The peer of the figure `publish`: the messages of a journal through pika's own `basic_publish`.

Written as pika's own example of an asynchronous publisher, with a window. Keys and bodies are read before the clock
starts; what is measured is what each message needs: its properties, the publish, and its confirm.

Usage: python -m benchmarks.programs.pika_publisher URL DATA COUNT WINDOW
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any

import pika

from benchmarks.harness import BRIDGE, EXCHANGE, answer
from cdcbridge.classify import classify
from cdcbridge.encode import KEY_HEADER, POSITION_HEADER, TIME_HEADER, Encoder, Message
from cdcbridge.engine.core import Engine
from cdcbridge.route import Router
from cdcbridge.sources.embedded import EmbeddedSource


def main(url: str, data: Path, count: int, window: int) -> None:
    """Publish the first `count` changes, and print how long it took until the last confirm."""
    messages = asyncio.run(read(data, count))
    gc.collect()
    gc.freeze()
    sender = Sender(messages, window)
    connection = pika.SelectConnection(pika.URLParameters(url), on_open_callback=sender.on_connected)
    sender.connection = connection
    connection.ioloop.start()
    answer({"elapsed_ns": sender.elapsed_ns, "cpu_ns": sender.cpu_ns})


async def read(data: Path, count: int) -> list[Message]:
    """The messages that the daemon would publish."""
    engine = Engine.open(data)
    source = EmbeddedSource(engine)
    route = Router(source=source.name).routing_key
    encode = Encoder(bridge=BRIDGE, source=source.name, exchange=EXCHANGE).message
    messages: list[Message] = []
    async for batch in source.stream(None):
        for change in batch.changes:
            operation = classify(change)
            messages.append(encode(change, operation, route(change, operation)))
        if len(messages) >= count:
            break
    engine.close()
    return messages[:count]


def properties(message: Message) -> pika.BasicProperties:
    """The properties and headers that the daemon gives it."""
    envelope = message.envelope
    own = {KEY_HEADER: message.key.decode(), POSITION_HEADER: message.position, TIME_HEADER: message.time_ms}
    return pika.BasicProperties(
        content_type=envelope.content_type,
        headers=dict(envelope.headers) | own,
        delivery_mode=envelope.delivery_mode,
        message_id=message.message_id,
        timestamp=message.timestamp_s,
        type=envelope.type,
        app_id=envelope.app_id,
    )


class Sender:
    """Publishes while fewer than `window` messages are unconfirmed."""

    def __init__(self, messages: list[Message], window: int) -> None:
        self._messages = messages
        self._window = window
        self._unconfirmed: set[int] = set()
        self._oldest = 1
        self._sent = 0
        self.connection: Any = None
        self.elapsed_ns = 0
        self.cpu_ns = 0

    def on_connected(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, callback=self._start)

    def _start(self, _: object) -> None:
        self._started_ns, self._cpu_before_ns = time.monotonic_ns(), time.process_time_ns()
        self._publish()

    def _publish(self) -> None:
        while len(self._unconfirmed) < self._window and self._sent < len(self._messages):
            message = self._messages[self._sent]
            routing_key = message.envelope.routing_key
            self._channel.basic_publish(EXCHANGE, routing_key, message.body, properties(message), mandatory=True)
            self._sent += 1
            self._unconfirmed.add(self._sent)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        assert isinstance(method, pika.spec.Basic.Ack), method
        if method.multiple:
            self._unconfirmed.difference_update(range(self._oldest, method.delivery_tag + 1))
            self._oldest = method.delivery_tag + 1
        else:
            self._unconfirmed.discard(method.delivery_tag)
        if self._unconfirmed or self._sent < len(self._messages):
            self._publish()
        else:
            self._finish()

    def _finish(self) -> None:
        self.elapsed_ns = time.monotonic_ns() - self._started_ns
        self.cpu_ns = time.process_time_ns() - self._cpu_before_ns
        self.connection.add_on_close_callback(lambda connection, _: connection.ioloop.stop())
        self.connection.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
