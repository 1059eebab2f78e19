"""A fixed schedule: number `n` is due `n / rate` seconds after the start, however long the one before it took.

A writer that falls behind catches up without a pause, and its delay counts: latencies begin when a write was due.
"""

from __future__ import annotations

import time
from collections.abc import Iterator


def due(numbers: range, *, start_ns: int, rate: int) -> Iterator[tuple[int, int]]:
    """Each number with the time at which it is due, in nanoseconds of the monotonic clock, and not before that time."""
    for number in numbers:
        due_ns = start_ns + number * 1_000_000_000 // rate
        if (early_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(early_ns / 1e9)
        yield number, due_ns
