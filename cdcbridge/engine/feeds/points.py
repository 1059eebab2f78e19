"""Feeds on one document, by its primary key."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cdcbridge.engine.catalog import Table, selected
from cdcbridge.engine.feeds.elements import Element, change, initial
from cdcbridge.engine.feeds.watching import ATOM_FEED, Snapshot, aborted
from cdcbridge.engine.news import Topic, end_of
from cdcbridge.engine.reql.runtime import Context
from cdcbridge.engine.values import dumps, encoded_key, key_form


class PointBranch:
    """The document under `key`, there or not; see `Branch`."""

    note = ATOM_FEED
    may_repeat = False

    def __init__(self, table: Table, key: Any) -> None:
        self.table = table
        self.key: bytes = dumps(key_form(key))
        self._stored_key = encoded_key(key)
        self.topics: frozenset[Topic] = frozenset({(table.number, self.key), end_of(table.number)})

    @property
    def is_gone(self) -> bool:
        return self.table.dropped

    def initial(self, context: Context, after: int) -> Generator[Element, None, int]:
        """One element, `new_val` null where there is no document."""
        with Snapshot(context) as snapshot:
            if self.is_gone:
                raise aborted()
            rows = selected(snapshot.connection, self.table, self.table.get_sql, (self._stored_key,))
        yield initial(rows[0][0] if rows else None)
        return snapshot.seq

    def begin(self, context: Context, after: int) -> None:
        """Nothing to get ready."""

    def changed(self, context: Context, seq: int, key: bytes, old: bytes | None, new: bytes | None) -> list[Element]:
        return [change(old, new)] if key == self.key and old != new else []

    def changed_together(
        self, context: Context, seq: int, changes: list[tuple[bytes, bytes | None, bytes | None]]
    ) -> list[Element]:
        return [element for one in changes for element in self.changed(context, seq, *one)]
