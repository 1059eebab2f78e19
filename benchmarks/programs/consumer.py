"""Receives messages with pika, and notes when.

Prints `"ready"` when it consumes, and at the end `[[number, received], …]`, the times in nanoseconds of the monotonic
clock. It ends when it has COUNT messages, or when none has come for some seconds.

Usage: python -m benchmarks.programs.consumer URL QUEUE COUNT
"""

from __future__ import annotations

import sys
import time

import pika

from benchmarks.harness import answer
from cdcbridge.encode import KEY_HEADER

SILENCE_S = 15


def main(url: str, queue: str, count: int) -> None:
    """Receive, and print the times."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    times: list[tuple[str, int]] = []
    messages = channel.consume(queue, auto_ack=True, inactivity_timeout=SILENCE_S)
    answer("ready")
    for method, properties, _ in messages:
        if method is None:
            break
        times.append((properties.headers[KEY_HEADER], time.monotonic_ns()))
        if len(times) >= count:
            break
    connection.close()
    answer([(int(key), at_ns) for key, at_ns in times])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
