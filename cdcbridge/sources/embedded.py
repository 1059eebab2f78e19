"""The built-in engine as a source: the journal, read from where the last stream stopped.

A position is a journal entry's sequence number and its commit time in ms, `17-1795245370081`. The number says where to
read on; the time tells this history from another one with the same numbers, which is what an older copy of the data
file becomes when it is written to. So the position of one change is never that of another.

The journal is in this process, so nothing is sent and nothing can be lost on the way: the stream reads on whenever
something has become durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from structlog.typing import FilteringBoundLogger

from cdcbridge.change import Batch, Change, Position
from cdcbridge.engine import journal
from cdcbridge.engine.core import Engine
from cdcbridge.engine.errors import FileUnusable
from cdcbridge.engine_host import Failed, hosted_engine
from cdcbridge.errors import PositionLost, StateError
from cdcbridge.settings import Config

CHANGES_PER_BATCH: Final = 512

_GONE: Final = "the journal no longer goes back so far"
_OLDER_COPY: Final = "the data file is an older copy, or has been one"


@asynccontextmanager
async def opened(config: Config, log: FilteringBoundLogger, failed: Failed) -> AsyncIterator[EmbeddedSource]:
    """The engine on its port, and its journal as a source. `embedded:FILE` names the data file; `embedded:` does not.

    Raises:
        ConfigError: the file or the port cannot be had.
    """
    file = unquote(config.source.partition(":")[2]).removeprefix("//")
    async with hosted_engine(config.engine, log, failed, Path(file) if file else None) as server:
        source = EmbeddedSource(server.engine, config.tables, bridge=config.name)
        if missing := source.missing():
            log.warning("table_missing", tables=missing)
        server.on_durable.append(lambda tables: source.woken())
        yield source
        await source.close()


class EmbeddedSource:
    """Every change of the engine's tables, or of those named `table` or `database.table`.

    `woken` has to be called, on the event loop, whenever changes have become durable. While `bridge` has not confirmed
    a change, the journal keeps it, unless a hard limit of its size takes it; then the stream ends with `PositionLost`.
    """

    name = "engine"

    def __init__(self, engine: Engine, tables: Collection[str] = (), *, bridge: str = "cdcbridge") -> None:
        self._store = engine.store
        self._bridge = bridge
        self._wanted = frozenset(tables)
        self._names: dict[int, tuple[str, str] | None] = {}
        self._news = asyncio.Event()
        self._closed = False
        self._holds = False

    @property
    def identity(self) -> str:
        """The data file's own id: a file that was made anew has another one."""
        return f"engine:{self._store.identity}"

    def missing(self) -> list[str]:
        """Those of the names asked for that no table has now."""
        catalog = self._store.catalog
        tables = [table for database in catalog.databases.values() for table in catalog.tables(database)]
        present = {name for table in tables for name in (table.name, f"{table.database.name}.{table.name}")}
        return sorted(self._wanted - present)

    def woken(self) -> None:
        """Something may have become durable."""
        self._news.set()

    async def stream(self, after: Position | None) -> AsyncIterator[Batch]:
        """See `Source.stream`.

        Raises:
            StateError: the data file is damaged.
        """
        with _translated(after), self._store.reading():
            seq = self._checked(after)
            self._hold_from(seq)
        while not self._closed:
            self._news.clear()
            with _translated(after), self._store.reading():
                rows = journal.read(self._store.reader(), seq, self._store.durable_seq, CHANGES_PER_BATCH)
            if rows:
                seq, after = rows[-1][0], position_of(rows[-1])
                yield Batch(self._changes(rows), after)
            else:
                await self._news.wait()

    def _hold_from(self, seq: int) -> None:
        """Only a first stream begins where everything is confirmed; a later one begins behind what was sent."""
        if not self._holds:
            self._store.hold(self._bridge, seq)
            self._holds = True

    def _checked(self, after: Position | None) -> int:
        """The sequence number to read on behind.

        Raises:
            PositionLost: the journal does not reach from there to now, or had another entry there.
        """
        reader = self._store.reader()
        oldest, _ = journal.ends(reader)
        if after is None:
            return oldest - 1
        seq, time_ms = parsed(after)
        if seq < oldest - 1:
            raise PositionLost(after, _GONE, str(oldest))
        if seq > self._store.durable_seq:
            raise PositionLost(after, f"the journal ends at {self._store.durable_seq}: {_OLDER_COPY}", str(oldest))
        if seq >= oldest and journal.read(reader, seq - 1, seq, 1)[0][2] != time_ms:
            raise PositionLost(after, f"the journal has another change there: {_OLDER_COPY}", str(oldest))
        return seq

    def _changes(self, rows: list[journal.Row]) -> list[Change]:
        """The entries of the wanted tables."""
        names, changes = self._names, []
        for seq, number, time_ms, key, old_val, new_val in rows:
            if number not in names:
                names[number] = self._named(number)
            if (name := names[number]) is not None:
                # As `position_of` makes it; with its calls a change would cost half as much again.
                position = f"{seq}-{time_ms}"
                changes.append(Change(name[0], name[1], key, old_val, new_val, position, time_ms))  # type: ignore[arg-type]
        return changes

    def _named(self, number: int) -> tuple[str, str] | None:
        """Database and table of an entry; None if nobody asked for that table."""
        table = self._store.catalog.table_by_number(number)
        database, name = table.database.name, table.name
        wanted = not self._wanted or name in self._wanted or f"{database}.{name}" in self._wanted
        return (database, name) if wanted else None

    async def confirmed(self, position: Position) -> None:
        """See `Source.confirmed`. The journal may forget what is before."""
        with _translated(position):
            self._store.hold(self._bridge, parsed(position)[0])

    async def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        self._news.set()


def position_of(row: journal.Row) -> Position:
    """The position of a journal entry."""
    return Position(f"{row[0]}-{row[2]}")


def parsed(position: Position) -> tuple[int, int]:
    """Sequence number and time in ms.

    Raises:
        PositionLost: it is not a position of this kind of source.
    """
    seq, _, time_ms = position.partition("-")
    if not (seq.isdecimal() and time_ms.isdecimal()):
        raise PositionLost(position, "it is not a position in a journal")
    return int(seq), int(time_ms)


@contextmanager
def _translated(position: Position | None) -> Iterator[None]:
    """The engine's errors in the bridge's terms, of somebody who reads on behind `position`."""
    try:
        yield
    except journal.Trimmed as problem:
        raise PositionLost(str(position or problem.after), _GONE, str(problem.oldest)) from problem
    except FileUnusable as problem:
        raise StateError(problem.path, problem.problem) from problem
