"""Figure `memory`: what the daemon has in memory after 1,000,000 confirmed changes, beside after 10,000.

The journal is written beforehand, so the daemon runs at full speed with a full window all the time, which is when it
needs the most. The queue keeps the newest messages only: the broker's disk is not part of the figure.
"""

from __future__ import annotations

from typing import Final

from benchmarks.harness import Bench, Daemon, Row, bound_queue, filled, say

FIRST: Final = 10_000
LAST: Final = 1_000_000
MORE_ASKED_MB: Final = 20.0

_SHORT_QUEUE: Final = {"x-max-length": 1000, "x-overflow": "drop-head"}
_MB: Final = 1_000_000


def run(bench: Bench) -> list[Row]:
    """Publish the whole journal once, and look twice."""
    data = bench.folder / "memory.db"
    identity = filled(data, LAST)
    say(f"memory: publishing {LAST:,} changes")
    with bound_queue(bench.url, "memory", _SHORT_QUEUE), Daemon(bench, data, window=4096) as daemon:
        daemon.logged("bridge_ready")
        daemon.confirmed(identity, FIRST)
        first = daemon.memory_bytes() / _MB
        daemon.confirmed(identity, LAST)
        last, most = daemon.memory_bytes() / _MB, daemon.memory_bytes("VmHWM") / _MB
    data.unlink()
    more = last - first
    return [
        Row("memory: MB more after 1,000,000 changes", f"{more:.1f}", f"≤ {MORE_ASKED_MB:.1f}", more <= MORE_ASKED_MB),
        Row(f"memory: MB after {FIRST:,} changes", f"{first:.1f}"),
        Row(f"memory: MB after {LAST:,} changes", f"{last:.1f}"),
        Row("memory: MB at the most", f"{most:.1f}"),
    ]
