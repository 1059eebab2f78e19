"""A changefeed: a cursor into the journal, and what the journal's entries mean to what is watched.

A feed holds a position and no changes. It looks at the journal when it is read, so a slow reader costs no memory and
writers never wait for it; a commit merely tells it that looking is worth while, and from where on. It hands out entries
that are durable, in commit order, so that nobody has to unsee one.

Source: RethinkDB's documentation of `changes`; `include_seq` and `since` are ours.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from cdcbridge.engine import journal
from cdcbridge.engine.errors import QueryError
from cdcbridge.engine.feeds.elements import Element, Style, skipped
from cdcbridge.engine.feeds.lag import DEFAULT_QUEUE_SIZE, Lag
from cdcbridge.engine.feeds.squash import Merging
from cdcbridge.engine.feeds.watching import (
    ENTRIES_PER_READ,
    INCLUDES_STATES,
    ORDER_BY_LIMIT_FEED,
    Branch,
    aborted,
)
from cdcbridge.engine.news import Topic
from cdcbridge.engine.reql.runtime import PAUSE, UNIONED_FEED, Context
from cdcbridge.engine.store import Store
from cdcbridge.engine.values import loads

ENTRIES_AT_ONCE: Final = 2_000
"""A feed that is further behind takes its time, and is not to be read where others wait for it."""

ENTRIES_PER_SCAN: Final = 20_000

Clock = Callable[[], float]


@dataclass(frozen=True)
class Options:
    """What the query says about its feed.

    `squash_s`: None for every change by itself; else changes of one document that wait are merged, and between two
    batches there are so many seconds. `queue_size`: None where the query does not say.
    """

    include_seq: bool = False
    include_states: bool = False
    style: Style = field(default_factory=Style)
    squash_s: float | None = None
    queue_size: int | None = None
    resumes: bool = False
    """It goes on where another feed stopped, and may be any distance behind."""


class Feed:
    """A source of feed elements, to be read once, by one thread at a time.

    `branches` say what is watched, `after` is the sequence number that the feed begins behind. `initial` tells for each
    branch whether it begins with the documents as they are, as `{"new_val": …}`; changes follow without a gap and
    without a repeat.

    With `include_seq` an element has the number of its journal entry as `seq` if `since` that number goes on right
    after it. The last initial value is the first one that has it; of several elements of one entry only the last has.
    """

    table = None

    def __init__(
        self,
        branches: list[Branch],
        initial: list[bool],
        after: int,
        options: Options,
        store: Store,
        clock: Clock = time.monotonic,
    ) -> None:
        self._branches = branches
        self._initial = initial
        self._after = after
        self._options = options
        self._store = store
        self._clock = clock
        self._ready: deque[tuple[int, bytes]] = deque()
        """Elements that have been made, each with its entry's number."""
        self._is_streaming = False
        self._spared_to = store.durable_seq if options.resumes else after
        self._not_before = clock()
        self._lag = _lag(branches, options)
        self._tables = sorted({branch.table.number for branch in branches if branch.topics})
        self.topics: frozenset[Topic] = frozenset().union(*(branch.topics for branch in branches))

    @property
    def notes(self) -> tuple[int, ...]:
        """The kind of feed, if its branches are of one kind; and whether there are states."""
        kinds = {branch.note for branch in self._branches}
        kind = kinds.pop() if len(kinds) == 1 else UNIONED_FEED
        return (kind, INCLUDES_STATES) if self._options.include_states else (kind,)

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """This one: what has to be asked and told when a sequence over it is read."""
        return (self,)

    # Between two batches ---------------------------------------------------------------------------------------------

    @property
    def is_far_behind(self) -> bool:
        """Reading it may take a while."""
        return self._store.durable_seq - self._after > ENTRIES_AT_ONCE

    def wait_s(self) -> float:
        """How long to wait, for `squash`, before it is read; not at all when much has come together."""
        if not self._options.squash_s:
            return 0.0
        size = self._options.queue_size or DEFAULT_QUEUE_SIZE
        if self._store.durable_seq - self._after > size / 2:
            return 0.0
        return max(0.0, self._not_before - self._clock())

    def begin_batch(self, context: Context) -> None:
        """Somebody is about to read.

        Raises:
            QueryError: what is watched has been dropped.
        """
        self._check_alive()
        if self._lag is not None and self._is_streaming:
            self._skip_if_too_far_behind(context, self._lag)

    def batch_given(self) -> None:
        """Elements have been handed out."""
        if self._options.squash_s:
            self._not_before = self._clock() + self._options.squash_s

    def notify(self, seq: int, upto: int) -> None:
        """The first change since the last read, which found nothing, is entry `seq`. It came together with those up to
        and with `upto`: a reader who was waiting for them is not behind.
        """
        if self._is_streaming and not self._ready:
            self._after = max(self._after, seq - 1)
            if self._options.queue_size is None:
                self._spared_to = max(self._spared_to, upto)

    # Reading ---------------------------------------------------------------------------------------------------------

    def values(self, context: Context) -> Iterator[Any]:
        return (element if element is PAUSE else loads(element) for element in self.encoded(context))

    def encoded(self, context: Context) -> Iterator[bytes]:
        """The elements as JSON, `PAUSE` whenever there is nothing new.

        Raises:
            QueryError: the table or the index has been dropped, or the journal has been trimmed too far.
        """
        try:
            yield from self._beginning(context)
            self._is_streaming = True
            while True:
                while self._ready:
                    yield self._delivered(*self._ready.popleft())
                self._check_alive()
                if not self._load(context):
                    yield PAUSE
        except QueryError:
            self._check_alive()  # a table that is dropped while it is read makes all kinds of errors
            raise

    def _delivered(self, seq: int, element: bytes) -> bytes:
        if self._lag is not None and _NO_ENTRY < seq <= self._lag.counted_to:
            self._lag.delivered(spared=seq <= self._spared_to)
        return element

    def _check_alive(self) -> None:
        if any(branch.is_gone for branch in self._branches):
            raise aborted()

    # The beginning ---------------------------------------------------------------------------------------------------

    def _beginning(self, context: Context) -> Generator[bytes, None, None]:
        """Initial values, and the states. The newest element is held back, so that the last one can be numbered."""
        options, has_initial = self._options, any(self._initial)
        if options.include_states and has_initial:
            yield options.style.state(b"initializing", None)
        held: Element | None = None
        elements = self._initial_elements(context)
        while True:
            try:
                element = next(elements)
            except StopIteration as end:
                self._after = end.value
                break
            if held is not None:
                yield options.style.json(held, None)
            held = element
        seq = self._after if options.include_seq else None
        if held is not None:
            yield options.style.json(held, seq)
        if options.include_states:
            yield options.style.state(b"ready", seq)

    def _initial_elements(self, context: Context) -> Generator[Element, None, int]:
        """Of one branch after the other, and then what each has missed meanwhile. Returns what they are as of."""
        reached: list[int] = []
        for branch, wanted in zip(self._branches, self._initial, strict=True):
            if wanted and branch.topics:
                reached.append((yield from branch.initial(context, self._after)))
            else:
                branch.begin(context, self._after)
                reached.append(self._after)
        upto = max(reached)
        for branch, after in zip(self._branches, reached, strict=True):
            yield from _missed(context, branch, after, upto)
        return upto

    # Changes ---------------------------------------------------------------------------------------------------------

    def _load(self, context: Context) -> bool:
        """Make the next elements, if there are any; false when the feed has arrived at the journal's end."""
        if self._after >= (end := self._store.durable_seq):
            return False
        if self._options.squash_s is not None:
            self._load_merged(context, end)
        else:
            self._load_each(context, min(end, self._after + ENTRIES_PER_SCAN))
        return True

    def _load_each(self, context: Context, upto: int) -> None:
        entries = self._read(context, self._after, upto)
        for entry in entries:
            self._add(entry[0], self._elements(context, entry))
        self._after = entries[-1][0] if entries else upto

    def _add(self, seq: int, elements: list[Element]) -> None:
        """Take in the elements up to entry `seq`; behind the last of them it can be gone on."""
        json, last = self._options.style.json, len(elements) - 1
        for number, element in enumerate(elements):
            self._ready.append((seq, json(element, seq if number == last and self._options.include_seq else None)))

    def _elements(self, context: Context, entry: journal.Row) -> list[Element]:
        seq, table, _, key, old, new = entry
        if len(self._branches) == 1:
            return self._branches[0].changed(context, seq, key, old, new)
        concerned = [branch for branch in self._branches if branch.table.number == table and branch.topics]
        return [element for branch in concerned for element in branch.changed(context, seq, key, old, new)]

    def _read(self, context: Context, after: int, upto: int) -> list[journal.Row]:
        """Some entries of the watched tables, or of the watched document."""
        if not self._tables:
            return []
        if len(self._tables) == 1:
            key = self._branches[0].key if len(self._branches) == 1 else None
            if key is not None:
                return journal.read_key(context.connection, self._tables[0], key, after, upto, ENTRIES_PER_READ)
            return journal.read_table(context.connection, self._tables[0], after, upto, ENTRIES_PER_READ)
        return journal.read_tables(context.connection, self._tables, after, upto, ENTRIES_PER_READ)

    def _scanned(self, context: Context, after: int, upto: int) -> Iterator[journal.Row]:
        """All entries of what is watched, a few at a time."""
        while after < upto:
            end = min(upto, after + ENTRIES_PER_SCAN)
            entries = self._read(context, after, end)
            yield from entries
            after = entries[-1][0] if entries else end

    # Squash ----------------------------------------------------------------------------------------------------------

    def _load_merged(self, context: Context, upto: int) -> None:
        """Make elements of all that waits. There is no number to go on behind before the last of them."""
        merging = Merging()
        for entry in self._scanned(context, self._after, upto):
            if self._concerns(context, entry):
                merging.add(entry)
            if merging.is_full:
                upto = entry[0]
                break
        merged = list(merging.changes())
        elements: list[Element] = []
        for branch in self._branches:
            mine = [(each.key, each.old, each.new) for each in merged if each.table == branch.table.number]
            elements += branch.changed_together(context, upto, mine) if mine and branch.topics else []
        self._after = upto
        self._add(upto, elements)
        if self._lag is not None:
            self._lag.restart(len(self._ready), 0, -1)

    def _concerns(self, context: Context, entry: journal.Row) -> bool:
        """Whether a change could make an element; a set that is limited has to see all of them."""
        seq, table, _, key, old, new = entry
        mine = [branch for branch in self._branches if branch.table.number == table]
        return any(branch.note == ORDER_BY_LIMIT_FEED or branch.changed(context, seq, key, old, new) for branch in mine)

    # A reader who is too slow ----------------------------------------------------------------------------------------

    def _skip_if_too_far_behind(self, context: Context, lag: Lag) -> None:
        """Go on where RethinkDB's queue would begin, with an element that says how much that leaves out."""
        end = self._store.durable_seq
        may_repeat = any(branch.may_repeat for branch in self._branches)
        if not may_repeat and len(self._ready) + end - self._after <= lag.limit:
            return
        if lag.counted_to < self._after:
            self._restart(lag)
        total, cut = self._count(context, lag, end)
        if total:
            self._after = cut
            self._ready.clear()
            self._ready.append((_NO_ENTRY, skipped(total)))

    def _restart(self, lag: Lag) -> None:
        """Count from the feed's place on, and what has been made but not handed out."""
        waiting = [seq for seq, _ in self._ready if seq != _NO_ENTRY]
        spared = sum(seq <= self._spared_to for seq in waiting)
        lag.restart(len(waiting) - spared, spared, self._after)

    def _count(self, context: Context, lag: Lag, upto: int) -> tuple[int, int]:
        """Count on up to an entry. Returns how many elements are skipped, and the last entry of them."""
        total = cut = 0
        merged: set[tuple[int, bytes]] = set()
        for entry in self._scanned(context, lag.counted_to, upto):
            seq, topic = entry[0], (entry[1], entry[3])
            if topic in merged or not (made := len(self._elements(context, entry))):
                continue
            if self._options.squash_s is not None:
                merged.add(topic)
            if skips := lag.add(made, spared=seq <= self._spared_to):
                total, cut = total + skips, seq
                merged.clear()
        # What squash has merged so far is not kept: it is counted anew the next time.
        lag.counted_to = upto if self._options.squash_s is None else -1
        return total, cut


_NO_ENTRY: Final = -1


def _lag(branches: list[Branch], options: Options) -> Lag | None:
    """The rule for slow readers. Sets that are limited have none; nor a feed that resumes, unless it asks for it."""
    if any(branch.note == ORDER_BY_LIMIT_FEED for branch in branches):
        return None
    if options.queue_size is None and options.resumes:
        return None
    return Lag(options.queue_size or DEFAULT_QUEUE_SIZE)


def _missed(context: Context, branch: Branch, after: int, upto: int) -> Iterator[Element]:
    """What has happened to a branch behind `after`."""
    while branch.topics and after < upto:
        entries = journal.read_table(context.connection, branch.table.number, after, upto, ENTRIES_PER_READ)
        for seq, _, _, key, old, new in entries:
            yield from branch.changed(context, seq, key, old, new)
        after = entries[-1][0] if entries else upto
