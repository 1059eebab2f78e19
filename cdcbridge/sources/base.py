"""The seam to a database: what the bridge asks of every source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from cdcbridge.change import Batch, Position


class Source(Protocol):
    """Committed changes of one database, in order, from any position that it has handed out before."""

    @property
    def name(self) -> str:
        """The kind of source, as it stands in the header `cdc-source`."""

    @property
    def identity(self) -> str:
        """Which history the positions belong to. Two databases never share one; a restart does not change it."""

    def stream(self, after: Position | None) -> AsyncIterator[Batch]:
        """Every change committed after `after`, in commit order, for ever; `None` is the beginning of the history.

        A change appears when it is durable, never before: what has been published cannot be undone by a crash of
        the database. Cancelling between two batches loses nothing. One stream at a time.

        Raises:
            PositionLost: the history no longer reaches back to `after`, or `after` is not part of it.
            SourceUnavailable: the database went away; a new stream from the same position may work.
        """

    async def confirmed(self, position: Position) -> None:
        """Everything up to `position` is in RabbitMQ: the database need not keep it for this bridge."""

    async def close(self) -> None:
        """Let go of the database. The stream ends."""
