"""Feeds on the first documents of an order: `order_by(index).limit(n)`, `min` and `max`.

Such a feed has to know its set, and who comes next when one of it leaves. It keeps the set and a few documents more,
as they are at its place in the journal. When it runs out of them it looks into the data file, which may be ahead of
that place: a document that has changed since is then taken as it was before its first later change.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any, Final

from cdcbridge.engine.catalog import Table
from cdcbridge.engine.feeds.elements import Element, Shape, initial
from cdcbridge.engine.feeds.watching import ORDER_BY_LIMIT_FEED, Snapshot, Transform, aborted
from cdcbridge.engine.news import Topic
from cdcbridge.engine.reql.runtime import Context
from cdcbridge.engine.selection import Found, Position, Selection
from cdcbridge.engine.values import encoded_key, loads

SPARE: Final = 64
"""How many documents behind the set are kept, too."""

_ROWS_PER_LOOK: Final = 256
_FOUND_AT_ONCE: Final = 1000


class _Down:
    """A position in an order from the highest to the lowest."""

    __slots__ = ("position",)

    def __init__(self, position: Position) -> None:
        self.position = position

    def __lt__(self, other: _Down) -> bool:
        return other.position < self.position


class LimitBranch:
    """The first `size` documents of a selection, in its order, as `transform` sees them; see `Branch`."""

    note = ORDER_BY_LIMIT_FEED
    key = None
    may_repeat = True

    def __init__(self, selection: Selection, transform: Transform | None, size: int, offsets: bool) -> None:
        self.selection = selection
        self.size = size
        self._transform = transform
        self._offsets = offsets
        self._order: Any = _Down if selection.down else _as_it_is
        self.topics: frozenset[Topic] = frozenset({selection.table.number})
        self._places: list[Position] = []
        """The first places of the selection that have a document, in order: the set, and some more."""
        self._docs: dict[Position, bytes] = {}
        self._known_to: Position | None = None
        """Behind this place there may be others that are not in the list."""
        self._knows_all = False

    @property
    def table(self) -> Table:
        return self.selection.table

    @property
    def is_gone(self) -> bool:
        return self.selection.is_gone

    def initial(self, context: Context, after: int) -> Generator[Element, None, int]:
        """The set, in its order."""
        with Snapshot(context) as snapshot:
            if self.is_gone:
                raise aborted()
            self._look(context, snapshot, snapshot.seq)
        for offset, place in enumerate(self._places[: self.size]):
            yield initial(self._docs[place], offset)
        return snapshot.seq

    def begin(self, context: Context, after: int) -> None:
        """Find the set as it was right behind `after`."""
        with Snapshot(context) as snapshot:
            self._look(context, snapshot, after)

    def changed(self, context: Context, seq: int, key: bytes, old: bytes | None, new: bytes | None) -> list[Element]:
        return self.changed_together(context, seq, [(key, old, new)])

    def changed_together(
        self, context: Context, seq: int, changes: list[tuple[bytes, bytes | None, bytes | None]]
    ) -> list[Element]:
        gone: dict[Position, bytes] = {}
        come: dict[Position, bytes] = {}
        for key, old, new in changes:
            gone.update(self._members(key, old))
            come.update(self._members(key, new))
        for place in [place for place in gone.keys() & come.keys() if gone[place] == come[place]]:
            del gone[place], come[place]
        return self._applied(context, seq, gone, come) if gone or come else []

    def _members(self, key: bytes, doc: bytes | None) -> Iterator[Found]:
        if doc is None or (seen := self._seen(doc)) is None:
            return
        for place in self.selection.positions(encoded_key(loads(key)), doc):
            yield place, seen

    def _seen(self, doc: bytes) -> bytes | None:
        return doc if self._transform is None else self._transform(doc)

    # The set ---------------------------------------------------------------------------------------------------------

    def _applied(
        self, context: Context, seq: int, gone: dict[Position, bytes], come: dict[Position, bytes]
    ) -> list[Element]:
        """Replace documents by others, and say what that does to the set."""
        whole = self._places[: self.size] if self._offsets else []
        reach = len(gone) + len(come)  # only places so near to the set's end enter or leave it for others
        before = self._part(3 * reach, gone)
        for place in gone:
            self._remove(place)
        for place, doc in come.items():
            self._insert(place, doc)
        if len(self._places) < self.size and not self._knows_all:
            with Snapshot(context) as snapshot:
                self._look(context, snapshot, seq)
        self._forget_surplus()
        now = self._part(reach, come)
        left = {place: doc for place, doc in before.items() if now.get(place) != doc and self._is_other(place, doc)}
        joined = {place: doc for place, doc in now.items() if before.get(place) != doc}
        return self._told(whole, left, joined)

    def _part(self, reach: int, places: dict[Position, bytes]) -> dict[Position, bytes]:
        """The last `reach` documents of the set, and those of some places that are in it."""
        part = set(self._places[max(0, self.size - reach) : self.size])
        part |= {place for place in places if self._is_in_set(place)}
        return {place: self._docs[place] for place in part}

    def _is_in_set(self, place: Position) -> bool:
        return place in self._docs and self._index(place) < self.size

    def _is_other(self, place: Position, doc: bytes) -> bool:
        return not self._is_in_set(place) or self._docs[place] != doc

    def _index(self, place: Position) -> int:
        if self._order is _as_it_is:
            return bisect_left(self._places, place)
        return bisect_left(self._places, _Down(place), key=_Down)

    def _remove(self, place: Position) -> None:
        if place in self._docs:
            del self._docs[place], self._places[self._index(place)]

    def _insert(self, place: Position, doc: bytes) -> None:
        if not self._knows_all and self._is_unknown(place):
            return
        if place not in self._docs:
            self._places.insert(self._index(place), place)
        self._docs[place] = doc

    def _forget_surplus(self) -> None:
        if len(self._places) <= self.size + 2 * SPARE:
            return
        for place in self._places[self.size + SPARE :]:
            del self._docs[place]
        del self._places[self.size + SPARE :]
        self._known_to, self._knows_all = self._places[-1], False

    # Who comes next --------------------------------------------------------------------------------------------------

    def _look(self, context: Context, snapshot: Snapshot, at: int) -> None:
        """Add the next documents of the selection as they were right behind entry `at`."""
        wanted = self.size + SPARE - len(self._places)
        changed, before = self._changed_later(snapshot, at, wanted + 1)
        stored = self._stored(snapshot, self._known_to, changed)
        found = list(islice(heapq.merge(stored, before, key=self._order_of), wanted + 1))
        self._knows_all = len(found) <= wanted
        for place, doc in found[:wanted]:
            self._places.append(place)
            self._docs[place] = doc
        if self._places and not self._knows_all:
            self._known_to = self._places[-1]

    def _changed_later(self, snapshot: Snapshot, at: int, wanted: int) -> tuple[set[bytes], list[Found]]:
        """What has changed behind `at`, by stored key; and the first places that had a document before, in order."""
        changed: set[bytes] = set()
        before: list[Found] = []
        for _, _, _, key, old, _ in snapshot.entries(self.table, at):
            if (stored_key := encoded_key(loads(key))) not in changed:
                changed.add(stored_key)
                before += [found for found in self._members(key, old) if self._is_unknown(found[0])]
            if len(before) > _FOUND_AT_ONCE + 2 * wanted:
                before = heapq.nsmallest(wanted, before, key=self._order_of)
        return changed, sorted(before, key=self._order_of)

    def _is_unknown(self, place: Position) -> bool:
        return self._known_to is None or bool(self._order(self._known_to) < self._order(place))

    def _order_of(self, found: Found) -> Any:
        return self._order(found[0])

    def _stored(self, snapshot: Snapshot, after: Position | None, changed: set[bytes]) -> Iterator[Found]:
        """The places in the data file, but for documents that have changed."""
        while page := self.selection.page(snapshot.connection, after, _ROWS_PER_LOOK):
            for place, doc in page:
                if self._primary(place) not in changed and (seen := self._seen(doc)) is not None:
                    yield place, seen
            after = page[-1][0]

    def _primary(self, place: Position) -> bytes:
        return place[1] if self.selection.index is None else place[2]

    # What is told ----------------------------------------------------------------------------------------------------

    def _told(self, whole: list[Position], left: dict[Position, bytes], joined: dict[Position, bytes]) -> list[Element]:
        """Elements for the documents that left the set and those that joined it, those of one document in pairs."""
        leaving, joining = sorted(left, key=self._order), sorted(joined, key=self._order)
        pairs: list[tuple[Position | None, Position | None]] = []
        for place in list(leaving):
            same = next((other for other in joining if self._primary(other) == self._primary(place)), None)
            if same is not None:
                pairs.append((place, same))
                leaving.remove(place)
                joining.remove(same)
        both = min(len(leaving), len(joining))
        pairs += zip(leaving[:both], joining[:both], strict=True)
        pairs += [(place, None) for place in leaving[both:]] + [(None, place) for place in joining[both:]]
        elements = [self._element(whole, left, joined, *pair) for pair in pairs]
        return [each for each in elements if (each.old, each.old_offset) != (each.new, each.new_offset)]

    def _element(
        self,
        whole: list[Position],
        left: dict[Position, bytes],
        joined: dict[Position, bytes],
        old: Position | None,
        new: Position | None,
    ) -> Element:
        """`whole` is the set with what the elements so far have done to it; None for a document that is not in it."""
        old_doc, new_doc = left[old] if old is not None else None, joined[new] if new is not None else None
        if not self._offsets:
            return Element(Shape.CHANGE, old_doc, new_doc)
        old_offset = self._taken_out(whole, old) if old is not None else None
        new_offset = self._put_in(whole, new) if new is not None else None
        return Element(Shape.CHANGE, old_doc, new_doc, old_offset, new_offset)

    def _taken_out(self, whole: list[Position], place: Position) -> int:
        offset = bisect_left(whole, self._order(place), key=self._order)
        del whole[offset]
        return offset

    def _put_in(self, whole: list[Position], place: Position) -> int:
        offset = bisect_left(whole, self._order(place), key=self._order)
        whole.insert(offset, place)
        return offset


def _as_it_is(position: Position) -> Position:
    return position
