"""Figure `latency`: from a write to the listener at 500 writes a second, beside a bare pika publish and consume.

Our side is a writer (official driver, four connections, durable writes), the daemon with its engine, a quorum queue and
a consumer; the peer is a writer that publishes with pika, unconfirmed, the same queue and the same consumer. Writer and
consumer are processes of their own, and their clock is the machine's monotonic one. Both writers follow one schedule
and do not wait for what comes out at the end; a latency begins when the write was due, so that a stall counts in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rethinkdb import r

from benchmarks.harness import TABLE, Bench, Daemon, Program, Row, bound_queue, percentile, say

RATE: Final = 500
SECONDS: Final = 20
SECONDS_DISCARDED: Final = 2
RUNS: Final = 3
MORE_ASKED_MS: Final = 5.0

_QUEUE: Final = "latency"
_QUORUM: Final = {"x-queue-type": "quorum"}
_COUNT: Final = RATE * SECONDS
_DISCARDED: Final = RATE * SECONDS_DISCARDED


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of each write, from when it was due, and from when the writer had its answer."""

    from_due: list[float]
    from_answer: list[float]


def run(bench: Bench) -> list[Row]:
    """Measure both sides in turns."""
    ours: list[Latencies] = []
    pikas: list[Latencies] = []
    for number in range(RUNS):
        say(f"latency: run {number + 1} of {RUNS}, twice {SECONDS} s")
        sides = [lambda: ours.append(_ours(bench)), lambda: pikas.append(_pika(bench))]
        for side in sides if number % 2 == 0 else reversed(sides):
            side()
    return _rows(ours, pikas)


def _ours(bench: Bench) -> Latencies:
    data = bench.folder / "latency.db"
    data.unlink(missing_ok=True)
    with Daemon(bench, data, window=4096) as daemon:
        host, _, port = daemon.logged("engine_ready").fields["address"].rpartition(":")
        daemon.logged("bridge_ready")
        with r.connect(host, int(port)) as connection:
            r.table_create(TABLE).run(connection)
        return _measured(bench, lambda: Program("engine_writer", host, port, RATE, _COUNT))


def _pika(bench: Bench) -> Latencies:
    return _measured(bench, lambda: Program("pika_writer", bench.url, RATE, _COUNT))


def _measured(bench: Bench, writer: Callable[[], Program]) -> Latencies:
    with bound_queue(bench.url, _QUEUE, _QUORUM), Program("consumer", bench.url, _QUEUE, _COUNT) as consumer:
        assert consumer.line() == "ready"
        with writer() as writing:
            return _latencies(writing.line(), consumer.line())


def _latencies(written: list[Any], received: list[Any]) -> Latencies:
    """RuntimeError unless each write was received once."""
    arrivals = dict(received)
    if len(received) != _COUNT or len(arrivals) != _COUNT:
        raise RuntimeError(f"{_COUNT} writes, {len(received)} messages, {len(arrivals)} different ones")
    times = [(arrivals[number], due, answered) for number, due, answered in written if number >= _DISCARDED]
    return Latencies(
        [(received_ns - due_ns) / 1e6 for received_ns, due_ns, _ in times],
        [(received_ns - answered_ns) / 1e6 for received_ns, _, answered_ns in times],
    )


def _rows(ours: list[Latencies], pikas: list[Latencies]) -> list[Row]:
    def ms(runs: list[list[float]], share: float) -> float:
        return median(percentile(run, share) for run in runs)

    def both(what: str, runs: list[list[float]]) -> list[Row]:
        return [Row(f"latency: p{share} in ms, {what}", f"{ms(runs, share):.2f}") for share in (50, 99)]

    due, peer = [run.from_due for run in ours], [run.from_due for run in pikas]
    more = ms(due, 99) - ms(peer, 99)
    return [
        Row("latency: ms more than pika at p99", f"{more:.2f}", f"≤ {MORE_ASKED_MS:.2f}", more <= MORE_ASKED_MS),
        *both("write due to received", due),
        *both("pika, publish due to received", peer),
        *both("write answered to received", [run.from_answer for run in ours]),
    ]
