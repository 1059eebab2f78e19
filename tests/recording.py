"""Histories for `guarantees`: what was committed, from the engine's data file; what was delivered, from a queue."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika

from cdcbridge import encode
from cdcbridge.engine import journal
from cdcbridge.sources.embedded import position_of
from tests.guarantees import Commit, Delivery
from tests.workload import Write

DEADLINE_S = 60.0


@contextlib.contextmanager
def rabbitmq_channel(url: str) -> Iterator[Any]:
    """A channel of its own connection."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def make_queue(url: str, exchange: str, queue: str, kind: str = "classic") -> str:
    """A durable queue that gets everything from the exchange, which is made with it; its name."""
    with rabbitmq_channel(url) as channel:
        channel.exchange_declare(exchange, exchange_type="topic", durable=True)
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
        channel.queue_bind(queue, exchange, "#")
    return queue


def deliveries(url: str, queue: str, last: str) -> list[Delivery]:
    """Take messages from the queue until the one at position `last` is there."""
    taken: list[Delivery] = []
    with rabbitmq_channel(url) as channel:
        for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=DEADLINE_S):
            assert method is not None, f"after {len(taken)} messages, position {last} has not come to {queue}"
            taken.append(_delivery(method, properties, body))
            if taken[-1].position == last:
                return taken
    raise AssertionError(f"{queue} was taken away")


def leftover(url: str, queue: str) -> list[Delivery]:
    """What else is in the queue now."""
    taken: list[Delivery] = []
    with rabbitmq_channel(url) as channel:
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            taken.append(_delivery(*got))
    return taken


def _delivery(method: Any, properties: Any, body: bytes) -> Delivery:
    headers = properties.headers
    return Delivery(properties.message_id, headers["cdc-position"], method.routing_key, headers["cdc-key"], body)


def commits(data: Path) -> list[Commit]:
    """All of the journal, as messages have to show it. The engine may run meanwhile."""
    return [Commit(position_of(row), row[3].decode(), encode.body(row[4], row[5])) for row in _entries(data)]


def recorded_writes(data: Path) -> set[Write]:
    """What the writers of a `Workload` did, by the journal."""
    return {(json.loads(key), json.loads(new)["rev"] if new else None) for *_, key, _, new in _entries(data)}


def _entries(data: Path) -> list[journal.Row]:
    with contextlib.closing(sqlite3.connect(f"file:{data}?mode=ro", uri=True)) as connection:
        _, newest = journal.ends(connection)
        found: list[journal.Row] = []
        while rows := journal.read(connection, found[-1][0] if found else 0, newest, 10_000):
            found += rows
    return found
