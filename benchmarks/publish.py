"""Figure `publish`: changes from the journal into a quorum queue, confirmed, beside pika's own `basic_publish`.

The journal is written beforehand. The daemon's time goes from its log line `source_connected`, behind which it begins
to read, to the saved position of the last change; its CPU is that of the whole process, all threads, in between. pika's
goes from the first `basic_publish` to the last confirm. Both sides publish the same messages, persistent and mandatory,
with the same window. They take turns, and the one that begins changes with each run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import (
    BRIDGE,
    Bench,
    Daemon,
    Program,
    Row,
    bound_queue,
    filled,
    message_ids,
    say,
    spread,
)
from cdcbridge.change import Position
from cdcbridge.sources.embedded import parsed

CHANGES: Final = 100_000
WINDOW: Final = 2000
RUNS: Final = 5
RATE_ASKED: Final = 1.0
CPU_ASKED: Final = 0.2

_QUORUM: Final = {"x-queue-type": "quorum"}


@dataclass(frozen=True)
class Run:
    """What one side took for all changes."""

    elapsed_ns: int
    cpu_ns: int

    @property
    def rate(self) -> float:
        """Messages a second."""
        return CHANGES / (self.elapsed_ns / 1e9)

    @property
    def cpu_us(self) -> float:
        """CPU time a message."""
        return self.cpu_ns / 1000 / CHANGES


def run(bench: Bench) -> list[Row]:
    """Measure both sides in turns."""
    data = bench.folder / "publish.db"
    identity = filled(data, CHANGES)
    ours: list[Run] = []
    pikas: list[Run] = []
    for number in range(RUNS):
        say(f"publish: run {number + 1} of {RUNS}")
        sides = [lambda: ours.append(_ours(bench, data, identity)), lambda: pikas.append(_pika(bench, data))]
        for side in sides if number % 2 == 0 else reversed(sides):
            side()
    return _rows(ours, pikas)


def _ours(bench: Bench, data: Path, identity: str) -> Run:
    with bound_queue(bench.url, "publish", _QUORUM):
        with Daemon(bench, data, window=WINDOW) as daemon:
            begun = daemon.logged("source_connected").moment
            ended = daemon.confirmed(identity, CHANGES)
        _check(bench)
    return Run(ended.at_ns - begun.at_ns, ended.cpu_ns - begun.cpu_ns)


def _pika(bench: Bench, data: Path) -> Run:
    with bound_queue(bench.url, "publish", _QUORUM):
        with Program("pika_publisher", bench.url, data, CHANGES, WINDOW) as program:
            result = Run(**program.line())
        _check(bench)
    return result


def _check(bench: Bench) -> None:
    """The queue holds each change once, in order; otherwise there is nothing to compare."""
    positions = [Position(id.removeprefix(f"{BRIDGE}:")) for id in message_ids(bench.url, "publish")]
    if [parsed(position)[0] for position in positions] != list(range(1, CHANGES + 1)):
        raise RuntimeError("the queue does not hold each change once and in order")


def _rows(ours: list[Run], pikas: list[Run]) -> list[Row]:
    rate = median(run.rate for run in ours) / median(run.rate for run in pikas)
    cpu = median(run.cpu_us for run in ours) / median(run.cpu_us for run in pikas)
    return [
        Row("publish: rate, as a multiple of pika's", f"{rate:.2f}", f"≥ {RATE_ASKED:.2f}", rate >= RATE_ASKED),
        Row("publish: CPU a message, as a part of pika's", f"{cpu:.2f}", f"≤ {CPU_ASKED:.2f}", cpu <= CPU_ASKED),
        Row("publish: messages a second, daemon", spread([run.rate for run in ours], ",.0f")),
        Row("publish: messages a second, pika", spread([run.rate for run in pikas], ",.0f")),
        Row("publish: CPU a message in µs, daemon", spread([run.cpu_us for run in ours], ".1f")),
        Row("publish: CPU a message in µs, pika", spread([run.cpu_us for run in pikas], ".1f")),
    ]
