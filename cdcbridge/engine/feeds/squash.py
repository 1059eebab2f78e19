"""`squash`: changes of one document that wait together become one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cdcbridge.engine.journal import Row

BYTES_AT_ONCE: Final = 16 << 20
"""How much of the documents is merged in one go; a feed that is further behind is told in several."""


@dataclass
class Merged:
    """A document's changes from the first to the last. It keeps the place of the first."""

    table: int
    key: bytes
    old: bytes | None
    new: bytes | None

    @property
    def is_nothing(self) -> bool:
        """The last change has undone the first."""
        return self.old == self.new


class Merging:
    """Changes, merged by document, in the order of their first."""

    def __init__(self) -> None:
        self._merged: dict[tuple[int, bytes], Merged] = {}
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """There is so much in it that it should be told before more is added."""
        return self._bytes > BYTES_AT_ONCE

    def add(self, entry: Row) -> None:
        """Take in the next change."""
        _, table, _, key, old, new = entry
        known = self._merged.get((table, key))
        if known is None:
            self._merged[table, key] = Merged(table, key, old, new)
            self._bytes += len(old or b"")
        else:
            self._bytes -= len(known.new or b"")
            known.new = new
        self._bytes += len(new or b"")

    def changes(self) -> Iterable[Merged]:
        """What remains of the changes."""
        return [each for each in self._merged.values() if not each.is_nothing]
