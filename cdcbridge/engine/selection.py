"""A selection: the documents of a table whose keys lie in some ranges, by the primary key or by a secondary index.

It can be read from the data file a page at a time, in its order; and it can be asked of a single document, as a change
in the journal has it, whether and where it stands in that order. What a query reads and what its feed watches is
therefore decided in one place.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Final

from cdcbridge.engine.catalog import Table, no_such_index, selected
from cdcbridge.engine.errors import QueryError

if TYPE_CHECKING:
    from cdcbridge.engine.indexes import Index

LOWEST_KEY: Final = b""
HIGHEST_KEY: Final = b"\xff"

Span = tuple[bytes, bytes]
"""`low <= key < high`, as keys are stored."""

Position = tuple[int, bytes, bytes, int]
"""Where a document stands: in which span, under which key; in an index also its primary key and the entry's number."""

Found = tuple[Position, bytes]
"""A document where it stands."""

WHOLE: Final[tuple[Span, ...]] = ((LOWEST_KEY, HIGHEST_KEY),)
_ROWS_AT_ONCE: Final = 256


def span_of(key: bytes) -> Span:
    """The span of one key."""
    return key, key + b"\0"


@dataclass(frozen=True)
class Selection:
    """Documents of `table` in `spans` of `index`; None is the primary key.

    The spans come one after the other. A span that is there twice, or an index that has a document twice, gives it
    twice. `down`: from the highest key to the lowest; then there is one span.
    """

    table: Table
    index: Index | None = None
    spans: tuple[Span, ...] = WHOLE
    down: bool = False

    @property
    def is_empty(self) -> bool:
        """Nothing can ever be in it."""
        return not any(low < high for low, high in self.spans)

    @property
    def is_gone(self) -> bool:
        """The table has been dropped, or the index."""
        return self.table.dropped or (self.index is not None and self.index.dropped)

    @property
    def may_repeat(self) -> bool:
        """A document may be in it more than once."""
        return len(self.spans) > 1 or (self.index is not None and self.index.multi)

    # Reading ---------------------------------------------------------------------------------------------------------

    def page(self, connection: sqlite3.Connection, after: Position | None, limit: int) -> list[Found]:
        """At most `limit` documents behind a position, from the beginning if there is none; fewer at the end only.

        Raises:
            QueryError: the table or the index has been dropped.
        """
        if self._keyed and self.index is None:
            return self._some_keys(connection, after, limit)
        found: list[Found] = []
        for number in range(after[0] if after else 0, len(self.spans)):
            start = after if after and after[0] == number else None
            found += self._span_page(connection, number, start, limit - len(found))
            if len(found) >= limit:
                break
        return found

    def _some_keys(self, connection: sqlite3.Connection, after: Position | None, limit: int) -> list[Found]:
        """Documents by their primary keys, each of which is a span."""
        found: list[Found] = []
        for number in range(after[0] + 1 if after else 0, len(self.spans)):
            key = self.spans[number][0]
            for (doc,) in selected(connection, self.table, self.table.get_sql, (key,)):
                found.append(((number, key, b"", 0), doc))
            if len(found) >= limit:
                break
        return found

    def _span_page(
        self, connection: sqlite3.Connection, number: int, after: Position | None, limit: int
    ) -> list[Found]:
        low, high = self.spans[number]
        if low >= high:
            return []
        if self.index is None:
            return self._primary_page(connection, number, low, high, after, limit)
        return self._index_page(connection, number, low, high, after, limit)

    def _primary_page(
        self, connection: sqlite3.Connection, number: int, low: bytes, high: bytes, after: Position | None, limit: int
    ) -> list[Found]:
        if self.down:
            sql, ends = self.table.scan_down_sql, (low, after[1] if after else high)
        else:
            sql, ends = self.table.scan_sql, (after[1] + b"\0" if after else low, high)
        rows = selected(connection, self.table, sql, (*ends, limit))
        return [((number, key, b"", 0), doc) for key, doc in rows]

    def _index_page(
        self, connection: sqlite3.Connection, number: int, low: bytes, high: bytes, after: Position | None, limit: int
    ) -> list[Found]:
        assert self.index is not None
        if self.down:
            sql, start, end = self.index.scan_down_sql, high, low
        else:
            sql, start, end = self.index.scan_sql, low, high
        behind = after[1:] if after else (start, b"", -1)
        try:
            rows = selected(connection, self.table, sql, (*behind, end, limit))
        except QueryError:
            if self.table.dropped:
                raise
            raise no_such_index(self.table, self.index.name) from None
        return [((number, key, pk, n), doc) for key, pk, n, doc in rows]

    def read(self, connection: sqlite3.Connection) -> Iterator[Found]:
        """All documents, a page at a time, with no transaction held in between."""
        after = None
        while page := self.page(connection, after, _ROWS_AT_ONCE):
            yield from page
            after = page[-1][0]
            if len(page) < _ROWS_AT_ONCE:
                return

    # Asking ----------------------------------------------------------------------------------------------------------

    def positions(self, key: bytes, doc: bytes) -> list[Position]:
        """Where a document stands, whose stored primary key is `key`."""
        if self.index is None:
            return [(number, key, b"", 0) for number in self._spans_with(key)]
        return [(number, entry, key, n) for entry, n in self.index.entries(doc) for number in self._spans_with(entry)]

    @cached_property
    def _keyed(self) -> bool:
        """Each span is of one key: it is known at once which ones a key is in, however many there are."""
        return all(high == low + b"\0" for low, high in self.spans)

    @cached_property
    def _numbers(self) -> dict[bytes, list[int]]:
        pairs = sorted((low, number) for number, (low, _) in enumerate(self.spans))
        return {low: [number for _, number in group] for low, group in groupby(pairs, key=lambda pair: pair[0])}

    def _spans_with(self, key: bytes) -> list[int]:
        if self._keyed:
            return self._numbers.get(key, [])
        return [number for number, (low, high) in enumerate(self.spans) if low <= key < high]
