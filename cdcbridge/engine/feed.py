"""A changefeed: a cursor into the journal, plus what the query does to documents before it compares them.

A feed holds a position and no changes. It looks at the journal when it is read, so a slow reader costs no memory and
writers never wait for it; a commit merely tells it that looking is worth while. It hands out entries that are durable,
in commit order, so that nobody has to unsee one.

Source: RethinkDB's documentation of `changes`; `include_seq` and `since` are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from cdcbridge.engine import journal
from cdcbridge.engine.catalog import Table, selected
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.runtime import HIGHEST_KEY, LOWEST_KEY, PAUSE, ROWS_PER_PAGE, Context, Rows
from cdcbridge.engine.store import Store
from cdcbridge.engine.values import dumps, encoded_key, key_form, loads

SEQUENCE_FEED: Final = 1
ATOM_FEED: Final = 2

ENTRIES_PER_READ: Final = 512

ABORTED = "Changefeed aborted (unavailable)."

Transform = Callable[[bytes], bytes | None]
"""A stored document as the feed's query sees it; None for one that the query leaves out."""


@dataclass(frozen=True)
class Watched:
    """What a feed is about: the documents of a table in a range of keys, or one document, as `transform` sees them."""

    table: Table
    low: bytes = LOWEST_KEY
    high: bytes = HIGHEST_KEY
    key: Any = None
    """The one primary key of a point feed."""
    is_point: bool = False
    transform: Transform | None = None

    def includes(self, printed_key: bytes) -> bool:
        """Whether a document with this key can be in the set at all."""
        if self.low == LOWEST_KEY and self.high == HIGHEST_KEY:
            return True
        return self.low <= encoded_key(loads(printed_key)) < self.high

    def seen(self, doc: bytes | None) -> bytes | None:
        """The document as a member of the set; None if it is not one."""
        return doc if doc is None or self.transform is None else self.transform(doc)


@dataclass(frozen=True)
class Feed:
    """A source of feed elements: `{"new_val": …, "old_val": …}`, with `seq` where `include_seq` asks for it.

    `after`: the sequence number that the feed begins behind. `initial`: begin with the documents as they are, as
    `{"new_val": …}`; changes follow without a gap and without a repeat. Until all initial values have been handed out
    there is no number to go on behind; so the last element of that part is the first one with a `seq`.
    """

    watched: Watched
    after: int
    initial: bool
    include_seq: bool

    @property
    def notes(self) -> tuple[int, ...]:
        return (ATOM_FEED,) if self.watched.is_point else (SEQUENCE_FEED,)

    @property
    def table(self) -> None:
        """A change is no row that could be written."""

    def values(self, context: Context) -> Iterator[Any]:
        return (element if element is PAUSE else loads(element) for element in self.encoded(context))

    def encoded(self, context: Context) -> Iterator[bytes]:
        """The elements as JSON, `PAUSE` whenever there is nothing new.

        Raises:
            QueryError: the table has been dropped.
        """
        if not self.initial:
            after = self.after
        elif self.watched.is_point:
            after = yield from self._initial_document(context)
        else:
            after = yield from self._initial_documents(context)
        yield from self._changes(context, after)

    def _initial_document(self, context: Context) -> Generator[bytes, None, int]:
        """One element, `new_val` null where there is no document. Returns the sequence number that it is as of."""
        key = encoded_key(self.watched.key)
        with _Snapshot(context) as snapshot:
            _check_alive(self.watched.table)
            rows = selected(snapshot.connection, self.watched.table, self.watched.table.get_sql, (key,))
        yield self._numbered(_initial(rows[0][0] if rows else None), snapshot.seq)
        return snapshot.seq

    def _initial_documents(self, context: Context) -> Generator[bytes, None, int]:
        """All documents, a page at a time, and between two pages the changes of those sent before.

        Each page is read together with the journal in one snapshot. A change of a document behind the page is sent
        then; one of a document further on is not, for that document is still to come as it is by then. The newest
        element is held back, so that the last one can be numbered.
        """
        rows, sent_to, after, held = Rows(self.watched.table), self.watched.low, self.after, None
        while True:
            with _Snapshot(context) as snapshot:
                _check_alive(self.watched.table)
                changes = _entries(snapshot, self.watched.table, after)
                page = rows.page(snapshot.connection, sent_to, self.watched.high, ROWS_PER_PAGE)
            for element in self._page_elements(changes, sent_to, page):
                if held is not None:
                    yield held
                held = element
            after = snapshot.seq
            if len(page) < ROWS_PER_PAGE:
                break
            sent_to = page[-1][0] + b"\0"
        if held is not None:
            yield self._numbered(held, after)
        return after

    def _page_elements(
        self, changes: list[journal.Row], sent_to: bytes, page: list[tuple[Any, ...]]
    ) -> Iterator[bytes]:
        """What is to be said of the documents before `sent_to`, then the documents behind it."""
        behind = [entry for entry in changes if encoded_key(loads(entry[3])) < sent_to]
        for _, old, new in self._seen_changes(behind):
            yield _change(old, new)
        for seen in (self.watched.seen(doc) for _, doc in page):
            if seen is not None:
                yield _initial(seen)

    def _numbered(self, element: bytes, seq: int) -> bytes:
        return b'%b,"seq":%d}' % (element[:-1], seq) if self.include_seq else element

    def _changes(self, context: Context, after: int) -> Iterator[bytes]:
        """Changes behind `after`, for ever."""
        store, table = context.store, self.watched.table
        while True:
            _check_alive(table)
            upto = store.durable_seq
            entries = self._read(context, after, upto)
            after = entries[-1][0] if entries else max(after, upto)
            for seq, old, new in self._seen_changes(entries):
                yield self._numbered(_change(old, new), seq)
            if after >= store.durable_seq:
                yield PAUSE

    def _read(self, context: Context, after: int, upto: int) -> list[journal.Row]:
        if after >= upto:
            return []
        number = self.watched.table.number
        if self.watched.is_point:
            key = dumps(key_form(self.watched.key))
            return journal.read_key(context.connection, number, key, after, upto, ENTRIES_PER_READ)
        return journal.read_table(context.connection, number, after, upto, ENTRIES_PER_READ)

    def _seen_changes(self, entries: list[journal.Row]) -> Iterator[tuple[int, bytes | None, bytes | None]]:
        """Entries as the feed's query sees them, without those that change nothing in the watched set."""
        watched = self.watched
        for seq, _, _, key, old, new in entries:
            if watched.includes(key):
                old, new = watched.seen(old), watched.seen(new)
                if old != new:
                    yield seq, old, new


def _initial(doc: bytes | None) -> bytes:
    return b'{"new_val":%b}' % (doc or b"null")


def _change(old: bytes | None, new: bytes | None) -> bytes:
    return b'{"new_val":%b,"old_val":%b}' % (new or b"null", old or b"null")


class _Snapshot:
    """A read transaction: documents and journal as of one commit, `seq`, which is durable when the block ends."""

    def __init__(self, context: Context) -> None:
        self.connection = context.connection
        self._store = context.store

    def __enter__(self) -> _Snapshot:
        self.connection.execute("BEGIN")
        self.seq = journal.ends(self.connection)[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.execute("COMMIT")
        if self.seq > self._store.durable_seq:
            self._store.sync_for_reader()


def _entries(snapshot: _Snapshot, table: Table, after: int) -> list[journal.Row]:
    """All entries of a table in the snapshot behind `after`."""
    entries: list[journal.Row] = []
    while after < snapshot.seq:
        more = journal.read_table(snapshot.connection, table.number, after, snapshot.seq, ENTRIES_PER_READ)
        entries += more
        after = more[-1][0] if more else snapshot.seq
    return entries


def _check_alive(table: Table) -> None:
    if table.dropped:
        raise QueryError(ErrorType.OP_FAILED, ABORTED)


def check_since(store: Store, since: int) -> None:
    """Raises a QueryError unless the journal reaches back to `since`, and as far as it."""
    oldest, _ = journal.ends(store.reader())
    if since < oldest - 1:
        message = f"Cannot resume after {since}: the journal begins with sequence number {oldest}."
        raise QueryError(ErrorType.OP_FAILED, message)
    if since > store.durable_seq:
        message = f"Cannot resume after {since}: the journal ends with sequence number {store.durable_seq}."
        raise QueryError(ErrorType.OP_FAILED, message)
