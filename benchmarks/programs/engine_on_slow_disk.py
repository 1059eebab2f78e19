"""The engine with flushes that take as long as those of a disk which really flushes: many virtual disks do not.

Prints the port. Usage: python -m benchmarks.programs.engine_on_slow_disk FILE FLUSH_MS
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import uvloop

from benchmarks.harness import answer
from cdcbridge.engine.core import Engine
from cdcbridge.engine.server import Server

_flush = os.fdatasync


async def main(path: str, flush_s: float) -> None:
    """Serve until standard input ends."""

    def slow_flush(descriptor: int) -> None:
        until_s = time.perf_counter() + flush_s
        _flush(descriptor)
        time.sleep(max(0.0, until_s - time.perf_counter()))

    os.fdatasync = slow_flush  # type: ignore[assignment]
    engine = Engine.open(path)
    server = Server(engine)
    await server.start("127.0.0.1", 0)
    answer(server.address[1])
    await asyncio.to_thread(sys.stdin.read)
    await server.close()
    engine.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]) / 1000))
