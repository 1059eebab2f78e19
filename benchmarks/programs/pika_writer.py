"""The peer of the engine's writer: publishes the same bodies with pika, by the same schedule, and waits for nothing.

Prints `[[number, due, published], …]`, the times in nanoseconds of the monotonic clock.

Usage: python -m benchmarks.programs.pika_writer URL RATE COUNT
"""

from __future__ import annotations

import json
import sys
import time

import pika

from benchmarks.harness import EXCHANGE, TABLE, answer, document
from benchmarks.programs.schedule import due
from cdcbridge.encode import KEY_HEADER

LEAD_NS = 200_000_000


def main(url: str, rate: int, count: int) -> None:
    """Publish, and print the times."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    bodies = [json.dumps({"old_val": None, "new_val": document(number)}).encode() for number in range(count)]
    times = []
    for number, due_ns in due(range(count), start_ns=time.monotonic_ns() + LEAD_NS, rate=rate):
        properties = pika.BasicProperties(delivery_mode=2, headers={KEY_HEADER: str(number)})
        channel.basic_publish(EXCHANGE, f"{TABLE}.create", bodies[number], properties)
        times.append((number, due_ns, time.monotonic_ns()))
    connection.close()
    answer(times)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
