"""A client of the engine, beside it as clients are: the official driver, or bare sockets where the driver is the limit.

Prints one JSON document for each thing that it has to say.

Usage: python -m benchmarks.programs.engine_client WHAT PORT ARGUMENT...
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, Final

import msgspec
import uvloop
from rethinkdb import r

from benchmarks.harness import TABLE, answer, document
from benchmarks.programs.schedule import due
from benchmarks.programs.wire_client import MORE, WireClient, as_text

HOST: Final = "127.0.0.1"
BATCH: Final = 200
KEYS_PER_CLIENT: Final = 10_000_000
LEAD_NS: Final = 200_000_000
_table = r.table(TABLE)


def batches(port: int, seconds: float, durability: str, first: int) -> None:
    """Insert batches of documents for so long; says how many documents that were, a second."""
    with r.connect(HOST, port) as connection:
        start_s, written = time.perf_counter(), 0
        while (spent_s := time.perf_counter() - start_s) < seconds:
            rows = [document(first + written + number) for number in range(BATCH)]
            assert _table.insert(rows, durability=durability).run(connection)["inserted"] == BATCH
            written += BATCH
        answer(written / spent_s)


def singles(port: int, seconds: float, durability: str, connections: int, first: int) -> None:
    """Insert single documents over several connections at once; says how many a second."""
    with ThreadPoolExecutor(connections) as threads:
        firsts = range(first, first + connections * KEYS_PER_CLIENT, KEYS_PER_CLIENT)
        answer(sum(threads.map(partial(_single, port, seconds, durability), firsts)))


def _single(port: int, seconds: float, durability: str, first: int) -> float:
    with r.connect(HOST, port) as connection:
        start_s = time.perf_counter()
        for number in count(first):
            if (spent_s := time.perf_counter() - start_s) >= seconds:
                return (number - first) / spent_s
            _table.insert(document(number), durability=durability).run(connection)
    raise AssertionError


def bare(port: int, seconds: float, connections: int, first: int) -> None:
    """As `singles`, hard, with next to no work for the client."""

    async def all_at_once() -> float:
        firsts = range(first, first + connections * KEYS_PER_CLIENT, KEYS_PER_CLIENT)
        return sum(await asyncio.gather(*(_bare(port, seconds, number) for number in firsts)))

    answer(uvloop.run(all_at_once()))


async def _bare(port: int, seconds: float, first: int) -> float:
    client = await WireClient.connected(HOST, port)
    before, _, after = as_text(_table.insert(document(KEYS_PER_CLIENT))).partition(b"%d" % KEYS_PER_CLIENT)
    start_s = time.perf_counter()
    for number in count(first):
        if (spent_s := time.perf_counter() - start_s) >= seconds:
            return (number - first) / spent_s
        assert b'"inserted":1' in await client.said(b"%b%d%b" % (before, number, after))
    raise AssertionError


def feed(port: int, elements: int) -> None:
    """Read a table's feed; says when it is open, and how many elements came a second, from the first to the last."""
    with r.connect(HOST, port) as connection:
        changes = _table.changes().run(connection)
        answer("open")
        next(changes)
        start_s = time.perf_counter()
        for _ in range(elements - 1):
            next(changes)
        answer((elements - 1) / (time.perf_counter() - start_s))


def latency(port: int, rate: int, writes: int, first: int) -> None:
    """Write by a schedule beside a feed. Says for each write, in ms: from sent to element, from answer to element."""
    times: dict[int, list[int]] = {number: [] for number in range(writes)}
    with r.connect(HOST, port) as connection:
        changes = _table.changes().run(connection)
        writer = threading.Thread(target=_write_by_schedule, args=(port, rate, times, first))
        writer.start()
        arrived = {next(changes)["new_val"]["id"] - first: time.monotonic_ns() for _ in range(writes)}
        writer.join()
    answer([((arrived[n] - sent) / 1e6, (arrived[n] - told) / 1e6) for n, (sent, told) in times.items()])


def _write_by_schedule(port: int, rate: int, times: dict[int, list[int]], first: int) -> None:
    with r.connect(HOST, port) as connection:
        numbers = range(len(times))
        documents = [document(first + number) for number in numbers]
        for number, _ in due(numbers, start_ns=time.monotonic_ns() + LEAD_NS, rate=rate):
            times[number].append(time.monotonic_ns())
            _table.insert(documents[number]).run(connection)
            times[number].append(time.monotonic_ns())


def feeds(port: int, kind: str, many: int) -> None:
    """Open feeds and keep them; says when they are open, and ends with its standard input."""
    with r.connect(HOST, port) as connection:
        queries = [_table.get(f"nobody {n}") if kind == "point" else _table for n in range(many)]
        kept = [query.changes(include_initial=False).run(connection) for query in queries]
        answer(len(kept))
        sys.stdin.read()


def catch_up(port: int, elements: int) -> None:
    """Read a feed from the beginning of the journal; says how many seconds that took."""
    answer(uvloop.run(_caught_up(port, elements)))


async def _caught_up(port: int, elements: int) -> float:
    client = await WireClient.connected(HOST, port)
    start_s = time.perf_counter()
    batch = await client.said(as_text(_table.changes(since=0)))
    seen = 0
    while True:
        seen += len(_elements.decode(batch).r)
        if seen >= elements:
            return time.perf_counter() - start_s
        batch = await client.said(MORE)


class _Change(msgspec.Struct):
    """A feed's element, as a client sees it."""

    new_val: dict[str, Any] | None
    old_val: dict[str, Any] | None


class _Batch(msgspec.Struct):
    r: list[_Change]


_elements = msgspec.json.Decoder(_Batch)

_WHAT: Final[dict[str, tuple[Any, tuple[type, ...]]]] = {
    "batches": (batches, (int, float, str, int)),
    "singles": (singles, (int, float, str, int, int)),
    "bare": (bare, (int, float, int, int)),
    "feed": (feed, (int, int)),
    "latency": (latency, (int, int, int, int)),
    "feeds": (feeds, (int, str, int)),
    "catch_up": (catch_up, (int, int)),
}

if __name__ == "__main__":
    run, types = _WHAT[sys.argv[1]]
    run(*(kind(text) for kind, text in zip(types, sys.argv[2:], strict=True)))
