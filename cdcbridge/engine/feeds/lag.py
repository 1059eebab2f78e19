"""`changefeed_queue_size`: how far behind a feed's reader may be.

RethinkDB queues elements for a reader, and throws its queue away when it would become longer than the limit. We have no
queue; but the elements behind a reader's place can be counted, and from their number follows what would have become of
the queue: each time that it is one element too long, all in it are skipped.
"""

from __future__ import annotations

from typing import Final

DEFAULT_QUEUE_SIZE: Final = 100_000


class Lag:
    """Counts what waits for one reader. `limit`: how many elements may."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counted_to = 0
        """The last journal entry that has been counted."""
        self._waiting = 0
        self._spared = 0

    def restart(self, waiting: int, spared: int, seq: int) -> None:
        """Forget what was counted: so many elements wait that are not behind entry `seq`."""
        self._waiting, self._spared, self.counted_to = waiting, spared, seq

    def add(self, elements: int, spared: bool) -> int:
        """Count more. Returns how many are skipped with that: all that wait, or none.

        `spared` ones do not make the queue too long, but they go with it.
        """
        if spared:
            self._spared += elements
            return 0
        self._waiting += elements
        if self._waiting <= self.limit:
            return 0
        skipped, self._waiting, self._spared = self._waiting + self._spared, 0, 0
        return skipped

    def delivered(self, spared: bool) -> None:
        """One element waits no more."""
        if spared:
            self._spared -= 1
        else:
            self._waiting -= 1
