"""Fakes for tests of programs that use cdcbridge: they keep the promises of the real ones, in memory."""

from __future__ import annotations

from cdcbridge.change import Position
from cdcbridge.checkpoint import check_identity


class MemoryCheckpoints:
    """A `checkpoint.CheckpointStore` that forgets with the process."""

    def __init__(self) -> None:
        self._saved: dict[str, tuple[str, Position]] = {}

    def load(self, bridge: str, identity: str) -> Position | None:
        """See `CheckpointStore.load`."""
        if bridge not in self._saved:
            return None
        saved_identity, position = self._saved[bridge]
        check_identity(bridge, identity, saved_identity, position)
        return position

    def save(self, bridge: str, identity: str, position: Position) -> None:
        """See `CheckpointStore.save`."""
        self._saved[bridge] = (identity, position)
