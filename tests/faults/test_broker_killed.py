"""The publisher while RabbitMQ is killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pika
import structlog

from cdcbridge.backoff import Backoff
from cdcbridge.broker.node import PrivateNode
from cdcbridge.broker.publisher import Publisher
from cdcbridge.change import Change, Operation, Position
from cdcbridge.encode import Encoder, Message

COUNT = 10_000
BATCH = 100


async def test_nothing_is_lost_when_rabbitmq_is_killed_twice(
    killable_rabbitmq: PrivateNode, unique: Callable[[str], str]
) -> None:
    exchange, queue = unique("exchange"), unique("queue")
    declare(killable_rabbitmq.url, exchange, queue)
    safe: list[Position] = []
    publisher = Publisher(
        url=killable_rabbitmq.url,
        exchange=exchange,
        durable=True,
        window=1000,
        window_bytes=64 * 1024 * 1024,
        on_confirmed=safe.append,
        backoff=Backoff(first_s=0.1, cap_s=0.5, rng=Random(1)),
        log=structlog.get_logger(),
        connection_name="test",
    )
    await publisher.start()
    for start in range(1, COUNT, BATCH):
        if start in (2001, 6001):
            await asyncio.to_thread(crash, killable_rabbitmq)
        await publisher.publish(messages(exchange, start, start + BATCH - 1), Position(str(start + BATCH - 1)))
    assert await publisher.drained(60)
    await publisher.close()
    found = await asyncio.to_thread(stored, killable_rabbitmq.url, queue)
    assert list(reversed(dict.fromkeys(reversed(found)))) == [f"test:{number}" for number in range(1, COUNT + 1)]
    assert safe[-1] == str(COUNT)
    assert publisher.reconnects >= 2


def crash(node: PrivateNode) -> None:
    """Kill the node and start it again."""
    node.kill()
    node.start()


def declare(url: str, exchange: str, queue: str) -> None:
    """A durable exchange and a durable queue that gets everything."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.exchange_declare(exchange, "topic", durable=True)
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange, "#")
    connection.close()


def messages(exchange: str, first: int, last: int) -> list[Message]:
    """The messages `first` to `last`."""
    encoder = Encoder(bridge="test", source="embedded", exchange=exchange)
    changes = (
        Change("shop", "users", b"1", None, b'{"id":1,"n":%d}' % number, Position(str(number)), 1_700_000_000_000)
        for number in range(first, last + 1)
    )
    return [encoder.message(change, Operation.CREATE, "users.create") for change in changes]


def stored(url: str, queue: str) -> list[str]:
    """The message ids in the queue, in order."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    waiting = channel.queue_declare(queue, passive=True).method.message_count
    found: list[str] = []
    for _, properties, _ in channel.consume(queue, auto_ack=True):
        found.append(properties.message_id)
        if len(found) == waiting:
            break
    connection.close()
    return found
