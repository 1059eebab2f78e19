"""How much of the journal is kept: by age, size and number of entries, and for whom.

A hold is the position up to which somebody has everything. Entries behind it are kept for him whatever the limits say,
but for the hard one; and so is the entry at it, by which he recognizes this history. Trimming is done in small steps,
each a transaction of its own, so that writers wait for none of them for long.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cdcbridge.engine import journal

SCHEMA = "CREATE TABLE hold (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;"

ENTRIES_PER_STEP: Final = 256


@dataclass(frozen=True)
class Retention:
    """The limits; None for none. The newest entry is always kept."""

    age_s: float | None = None
    bytes: int | None = None
    count: int | None = None
    hard_bytes: int | None = None
    """Applies also to what somebody holds."""

    @property
    def keeps_all(self) -> bool:
        return self == Retention()


@dataclass(frozen=True)
class Step:
    """Entries up to and with `upto` go. `more`: so should some behind them. `lost`: who still wanted some of these."""

    upto: int
    more: bool
    lost: tuple[str, ...] = ()


def next_step(
    connection: sqlite3.Connection, retention: Retention, holds: Mapping[str, int], upto: int, now_ms: int
) -> Step | None:
    """What to trim now; None if all is as it should be. Nothing behind `upto` is trimmed."""
    oldest, newest = journal.ends(connection)
    candidates = range(oldest, min(oldest + ENTRIES_PER_STEP, upto + 1, newest))
    due = _Due(connection, retention, newest, now_ms)
    held = min(holds.values(), default=newest)
    count = max(
        min(_leading(candidates, due.by_limits), max(0, held - oldest)), _leading(candidates, due.by_hard_limit)
    )
    if not count:
        return None
    last = oldest + count - 1
    return Step(last, count == ENTRIES_PER_STEP, tuple(name for name, seq in holds.items() if seq < last))


class _Due:
    """Whether an entry is beyond the limits. If one is, so are all before it."""

    def __init__(self, connection: sqlite3.Connection, retention: Retention, newest: int, now_ms: int) -> None:
        self._connection = connection
        self._retention = retention
        self._newest = newest
        self._now_ms = now_ms
        self._size = journal.measured(connection, newest)[1]

    def by_limits(self, seq: int) -> bool:
        wanted = self._retention
        time_ms, end_bytes = journal.measured(self._connection, seq)
        return (
            (wanted.count is not None and self._newest - seq >= wanted.count)
            or (wanted.bytes is not None and self._size - end_bytes >= wanted.bytes)
            or (wanted.age_s is not None and self._now_ms - time_ms > wanted.age_s * 1000)
        )

    def by_hard_limit(self, seq: int) -> bool:
        hard = self._retention.hard_bytes
        return hard is not None and self._size - journal.measured(self._connection, seq)[1] >= hard


def _leading(candidates: range, due: Callable[[int], bool]) -> int:
    """How many of the first candidates are due."""
    return bisect_left(candidates, True, key=lambda seq: not due(seq))


def load_holds(connection: sqlite3.Connection) -> dict[str, int]:
    """The holds that are kept in the data file."""
    return dict(connection.execute("SELECT name, seq FROM hold"))


def save_holds(connection: sqlite3.Connection, holds: Mapping[str, int]) -> None:
    """Keep them; the caller has a transaction open."""
    connection.executemany("INSERT OR REPLACE INTO hold VALUES (?, ?)", list(holds.items()))
