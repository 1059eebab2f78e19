"""Changes for tests, by as few words as the test needs."""

from __future__ import annotations

from cdcbridge.change import Change, Position


def a_change(
    position: int = 1,
    *,
    database: str = "test",
    table: str = "orders",
    key: bytes = b"1",
    old_val: bytes | None = None,
    new_val: bytes | None = b'{"id":1}',
    snapshot: bool = False,
) -> Change:
    """A create of order 1, unless it is said otherwise."""
    return Change(database, table, key, old_val, new_val, Position(str(position)), 1_700_000_000_123, snapshot)
