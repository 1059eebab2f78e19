"""What has changed, in short: which readers it could concern, and from which journal entry on.

A reader watches topics: a whole table, one document of it, or only the table's end. Whoever waits for a topic is told
the first entry about it, and need not look at the entries before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cdcbridge.engine.journal import Row

Topic = int | tuple[int, bytes]
"""A table by its number, or one of its documents by the key as the journal has it. See `end_of`."""


def end_of(table: int) -> Topic:
    """The topic of a table, or of one of its indexes, being dropped; each table's own topic covers it, too."""
    return table, b""


class _Dropped(Protocol):
    """A table or an index that is no more."""

    @property
    def table_number(self) -> int: ...


class News:
    """Topics with the sequence number of the first entry about each; falsy without any.

    `upto`: the last entry of the first of the transactions that it is about.
    """

    __slots__ = ("topics", "upto")

    def __init__(self) -> None:
        self.topics: dict[Topic, int] = {}
        self.upto = 0

    def __bool__(self) -> bool:
        return bool(self.topics)

    @property
    def tables(self) -> frozenset[int]:
        """The tables that it is about."""
        return frozenset(topic for topic in self.topics if type(topic) is int)

    def add(self, entries: Iterable[Row], dropped: Iterable[_Dropped], newest_seq: int) -> None:
        """A transaction's entries, and what it has dropped; the journal ends with `newest_seq` then."""
        known = self.topics.setdefault
        for seq, table, _, key, _, _ in entries:
            known(table, seq)
            known((table, key), seq)
        for gone in dropped:
            known(gone.table_number, newest_seq + 1)
            known(end_of(gone.table_number), newest_seq + 1)
        self.upto = newest_seq

    def merge(self, later: News) -> None:
        """Take in what happened later."""
        if not self.topics:
            self.topics, self.upto = dict(later.topics), later.upto
            return
        for topic, seq in later.topics.items():
            self.topics.setdefault(topic, seq)
