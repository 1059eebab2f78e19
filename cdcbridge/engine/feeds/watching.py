"""What kinds of feed have in common: the seam between the journal's cursor and what is watched."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Final, Protocol

from cdcbridge.engine import journal
from cdcbridge.engine.catalog import Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.feeds.elements import Element
from cdcbridge.engine.news import Topic
from cdcbridge.engine.reql.runtime import Context

SEQUENCE_FEED: Final = 1
ATOM_FEED: Final = 2
ORDER_BY_LIMIT_FEED: Final = 3
INCLUDES_STATES: Final = 5

ENTRIES_PER_READ: Final = 512

Transform = Callable[[bytes], bytes | None]
"""A stored document as the feed's query sees it; None for one that the query leaves out."""


class Branch(Protocol):
    """A part of a feed that watches one set of documents of one table."""

    note: int
    """The number by which the protocol tells clients the kind of feed."""
    topics: frozenset[Topic]
    """What it has to be woken for."""
    may_repeat: bool
    """One change may make several elements."""

    @property
    def table(self) -> Table: ...

    @property
    def is_gone(self) -> bool:
        """What it watches has been dropped."""

    @property
    def key(self) -> bytes | None:
        """The key, as the journal has it, of the one document that it is about."""

    def initial(self, context: Context, after: int) -> Generator[Element, None, int]:
        """What is in the set now, and what happens to that while it is read. Returns the entry that it is as of."""

    def begin(self, context: Context, after: int) -> None:
        """Get ready for the changes behind an entry, where no initial values are wanted."""

    def changed(self, context: Context, seq: int, key: bytes, old: bytes | None, new: bytes | None) -> list[Element]:
        """What a change of a document does to the set. The changes come in order."""

    def changed_together(
        self, context: Context, seq: int, changes: list[tuple[bytes, bytes | None, bytes | None]]
    ) -> list[Element]:
        """As `changed`, for changes of different documents that are told as one; `seq` is that of the last."""


class Snapshot:
    """A read transaction: documents and journal as of one commit, `seq`, which is durable when the block ends."""

    def __init__(self, context: Context) -> None:
        self.connection = context.connection
        self._store = context.store

    def __enter__(self) -> Snapshot:
        self.connection.execute("BEGIN")
        self.seq = journal.ends(self.connection)[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.execute("COMMIT")
        if self.seq > self._store.durable_seq:
            self._store.sync_for_reader()

    def entries(self, table: Table, after: int) -> Iterator[journal.Row]:
        """All entries of a table in the snapshot behind `after`."""
        while after < self.seq:
            rows = journal.read_table(self.connection, table.number, after, self.seq, ENTRIES_PER_READ)
            yield from rows
            after = rows[-1][0] if rows else self.seq


def aborted() -> QueryError:
    """The end of a feed whose table is no more."""
    return QueryError(ErrorType.OP_FAILED, "Changefeed aborted (unavailable).")
