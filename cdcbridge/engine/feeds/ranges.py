"""Feeds on a selection: a table, a range of keys, some keys; by the primary key or by a secondary index."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from cdcbridge.engine import journal
from cdcbridge.engine.catalog import Table
from cdcbridge.engine.feeds.elements import Element, change, initial, uninitial
from cdcbridge.engine.feeds.watching import ENTRIES_PER_READ, SEQUENCE_FEED, Snapshot, Transform, aborted
from cdcbridge.engine.news import Topic
from cdcbridge.engine.reql.runtime import ROWS_PER_PAGE, Context
from cdcbridge.engine.selection import WHOLE, Position, Selection
from cdcbridge.engine.values import encoded_key, loads


class RangeBranch:
    """Documents of a selection as `transform` sees them; see `Branch`.

    A document that is in the selection several times makes as many elements.
    """

    note = SEQUENCE_FEED
    key = None

    def __init__(self, selection: Selection, transform: Transform | None) -> None:
        self.selection = selection
        self.transform = transform
        self.topics: frozenset[Topic] = frozenset() if selection.is_empty else frozenset({selection.table.number})
        self.may_repeat = selection.may_repeat
        self._takes_all = selection.index is None and selection.spans == WHOLE

    @property
    def table(self) -> Table:
        return self.selection.table

    @property
    def is_gone(self) -> bool:
        return bool(self.topics) and self.selection.is_gone

    def begin(self, context: Context, after: int) -> None:
        """Nothing to get ready: what a change means is in the change."""

    def changed(self, context: Context, seq: int, key: bytes, old: bytes | None, new: bytes | None) -> list[Element]:
        if self._takes_all:
            old, new = self._seen(old), self._seen(new)
            return [change(old, new)] if old != new else []
        return self._elements(self._members(key, old), self._members(key, new))

    def changed_together(
        self, context: Context, seq: int, changes: list[tuple[bytes, bytes | None, bytes | None]]
    ) -> list[Element]:
        return [element for one in changes for element in self.changed(context, seq, *one)]

    def _seen(self, doc: bytes | None) -> bytes | None:
        return doc if doc is None or self.transform is None else self.transform(doc)

    def _members(self, key: bytes, doc: bytes | None) -> tuple[bytes | None, list[Position]]:
        """A document as the query sees it, and its places in the selection."""
        places = [] if doc is None else self.selection.positions(encoded_key(loads(key)), doc)
        seen = self._seen(doc) if places else None
        return seen, (places if seen is not None else [])

    @staticmethod
    def _elements(
        before: tuple[bytes | None, list[Position]], now: tuple[bytes | None, list[Position]]
    ) -> list[Element]:
        """Places of the document before and now in pairs; what is left over has come or gone."""
        (old, places), (new, others) = before, now
        both = min(len(places), len(others)) if old != new else 0
        exits, entries = len(places) - len(others), len(others) - len(places)
        return [change(old, new)] * both + [change(old, None)] * exits + [change(None, new)] * entries

    # Initial values --------------------------------------------------------------------------------------------------

    def initial(self, context: Context, after: int) -> Generator[Element, None, int]:
        """All documents, a page at a time, and between two pages the changes of those sent before.

        Each page is read together with the end of the journal in one snapshot. A change of a document behind the page
        is sent then; one of a document further on is not, for that document is still to come as it is by then.
        """
        sent: Position | None = None
        while True:
            after = yield from self._told_since(context, after, sent)
            with Snapshot(context) as snapshot:
                if self.is_gone:
                    raise aborted()
                changes = list(snapshot.entries(self.table, after))
                page = self.selection.page(snapshot.connection, sent, ROWS_PER_PAGE)
            yield from self._behind(changes, sent)
            for _, doc in page:
                if (seen := self._seen(doc)) is not None:
                    yield initial(seen)
            after = snapshot.seq
            if len(page) < ROWS_PER_PAGE:
                return after
            sent = page[-1][0]

    def _told_since(self, context: Context, after: int, sent: Position | None) -> Generator[Element, None, int]:
        """The changes that have piled up while the reader took its time, so that a snapshot has but a few to hold."""
        while after + ENTRIES_PER_READ < (upto := context.store.durable_seq):
            if sent is None:
                return upto
            changes = journal.read_table(context.connection, self.table.number, after, upto, ENTRIES_PER_READ)
            yield from self._behind(changes, sent)
            after = changes[-1][0] if changes else upto
        return after

    def _behind(self, changes: list[journal.Row], sent: Position | None) -> Iterator[Element]:
        """What is to be said of the places up to and with `sent`."""
        if sent is None:
            return
        for _, _, _, key, old, new in changes:
            yield from self._moved(self._members(key, old), self._members(key, new), sent)

    def _moved(
        self, before: tuple[bytes | None, list[Position]], now: tuple[bytes | None, list[Position]], sent: Position
    ) -> Iterator[Element]:
        """A change while only the places up to `sent` have been told."""
        (old, places), (new, others) = before, now
        told = [place for place in places if place <= sent]
        known = [place for place in others if place <= sent]
        to_come = (len(others) - len(known)) - (len(places) - len(told))
        for element in self._elements((old, told), (new, known)):
            if element.new is None and to_come > 0 and old is not None:
                to_come -= 1
                yield uninitial(old)
            elif element.old is None and to_come < 0:
                to_come += 1
                yield initial(new)
            else:
                yield element
