"""A logger that keeps what is logged, and wakes who waits for an event."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger


class RecordedLog:
    """`entries` holds every line, with its level under `log_level`. Lines come from one event loop."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._added = asyncio.Event()

    @property
    def log(self) -> FilteringBoundLogger:
        """The logger."""
        wrapper = structlog.make_filtering_bound_logger(0)
        log: FilteringBoundLogger = structlog.wrap_logger(None, processors=[self._keep], wrapper_class=wrapper).bind()
        return log

    def of(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """All lines of this event that have these fields."""
        return [entry for entry in self.entries if entry["event"] == event and fields.items() <= entry.items()]

    async def wait_for(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The `count`th line of this event with these fields, as soon as it is there."""
        while len(found := self.of(event, **fields)) < count:
            self._added.clear()
            await self._added.wait()
        return found[count - 1]

    def _keep(self, _: WrappedLogger, method: str, entry: EventDict) -> EventDict:
        self.entries.append({**entry, "log_level": method})
        self._added.set()
        raise structlog.DropEvent
