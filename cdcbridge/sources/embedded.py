"""The built-in engine as a source: the journal, read from where the last stream stopped.

A position is a sequence number of the journal. The journal is in this process, so nothing is sent and nothing can be
lost on the way: the stream reads on whenever something has become durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from structlog.typing import FilteringBoundLogger

from cdcbridge.change import Batch, Change, Position
from cdcbridge.engine import journal
from cdcbridge.engine.core import Engine
from cdcbridge.engine_host import Failed, hosted_engine
from cdcbridge.errors import PositionLost
from cdcbridge.settings import Config

CHANGES_PER_BATCH: Final = 512


@asynccontextmanager
async def opened(config: Config, log: FilteringBoundLogger, failed: Failed) -> AsyncIterator[EmbeddedSource]:
    """The engine on its port, and its journal as a source. `embedded:FILE` names the data file; `embedded:` does not.

    Raises:
        ConfigError: the file or the port cannot be had.
    """
    file = unquote(config.source.partition(":")[2]).removeprefix("//")
    async with hosted_engine(config.engine, log, failed, Path(file) if file else None) as server:
        source = EmbeddedSource(server.engine, config.tables)
        server.on_durable.append(lambda tables: source.woken())
        yield source
        await source.close()


class EmbeddedSource:
    """Every change of the engine's tables, or of those named `table` or `database.table`.

    `woken` has to be called, on the event loop, whenever changes have become durable.
    """

    name = "engine"

    def __init__(self, engine: Engine, tables: Collection[str] = ()) -> None:
        self._store = engine.store
        self._wanted = frozenset(tables)
        self._names: dict[int, tuple[str, str] | None] = {}
        self._news = asyncio.Event()
        self._closed = False

    @property
    def identity(self) -> str:
        """The data file's own id: a file that was made anew has another one."""
        return f"engine:{self._store.identity}"

    def woken(self) -> None:
        """Something may have become durable."""
        self._news.set()

    async def stream(self, after: Position | None) -> AsyncIterator[Batch]:
        """See `Source.stream`."""
        seq = self._checked(after)
        while not self._closed:
            self._news.clear()
            rows = journal.read(self._store.reader(), seq, self._store.durable_seq, CHANGES_PER_BATCH)
            if rows:
                seq = rows[-1][0]
                yield Batch([change for row in rows if (change := self._change(row)) is not None], Position(str(seq)))
            else:
                await self._news.wait()

    def _checked(self, after: Position | None) -> int:
        """The sequence number to read on behind.

        Raises:
            PositionLost: the journal does not reach from there to now.
        """
        oldest, _ = journal.ends(self._store.reader())
        seq = oldest - 1 if after is None else int(after)
        if seq < oldest - 1:
            raise PositionLost(str(after), "the journal no longer goes back so far", str(oldest))
        if seq > self._store.durable_seq:
            reason = f"the journal ends at {self._store.durable_seq}: the data file is an older copy"
            raise PositionLost(str(after), reason, str(oldest))
        return seq

    def _change(self, row: journal.Row) -> Change | None:
        seq, number, time_ms, key, old_val, new_val = row
        if (names := self._named(number)) is None:
            return None
        return Change(*names, key, old_val, new_val, Position(str(seq)), time_ms)

    def _named(self, number: int) -> tuple[str, str] | None:
        """Database and table of an entry; None if nobody asked for that table."""
        if number not in self._names:
            table = self._store.catalog.table_by_number(number)
            database, name = table.database.name, table.name
            wanted = not self._wanted or name in self._wanted or f"{database}.{name}" in self._wanted
            self._names[number] = (database, name) if wanted else None
        return self._names[number]

    async def confirmed(self, position: Position) -> None:
        """The journal keeps everything, so there is nothing to let go of."""

    async def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        self._news.set()
