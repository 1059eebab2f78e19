"""Writes documents with the official driver, by a fixed schedule, over several connections in turn.

Prints `[[number, due, answered], …]`, the times in nanoseconds of the monotonic clock.

Usage: python -m benchmarks.programs.engine_writer HOST PORT RATE COUNT
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rethinkdb import r

from benchmarks.harness import TABLE, answer, document
from benchmarks.programs.schedule import due

CONNECTIONS = 4
LEAD_NS = 200_000_000


def main(host: str, port: int, rate: int, count: int) -> None:
    """Write, and print the times."""
    start_ns = time.monotonic_ns() + LEAD_NS
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        shares = [range(first, count, CONNECTIONS) for first in range(CONNECTIONS)]
        written = threads.map(partial(write, host, port, rate, start_ns), shares)
        answer([times for share in written for times in share])


def write(host: str, port: int, rate: int, start_ns: int, numbers: range) -> list[tuple[int, int, int]]:
    """One connection's share. Each write is answered when it is durable: the engine's default."""
    connection = r.connect(host, port)
    documents = [document(number) for number in numbers]
    table = r.table(TABLE)
    times = []
    for doc, (number, due_ns) in zip(documents, due(numbers, start_ns=start_ns, rate=rate), strict=True):
        table.insert(doc).run(connection)
        times.append((number, due_ns, time.monotonic_ns()))
    connection.close()
    return times


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
