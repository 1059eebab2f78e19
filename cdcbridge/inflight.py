"""The window of unconfirmed messages: up to which position is everything confirmed? Pure.

Messages stand in a ring in the order of publishing. The window moves on over the oldest message only, so that a message
confirmed out of turn waits, marked, until everything below it is confirmed, too. Each message is put in once and taken
out once, whatever the order of the confirms: the cost of a confirm does not depend on the size of the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from cdcbridge.change import Position

DEFAULT_MAX_COUNT = 4096
DEFAULT_MAX_BYTES = 64 * 1024 * 1024

WAITING, CONFIRMED, REFUSED = 0, 1, 2
"""What the broker has said about a message in the window."""

M = TypeVar("M")


class InFlight(Generic[M]):
    """Messages that are on their way, each with its size and the position that is safe once it is confirmed.

    Delivery tags are the broker's: 1 for the first message on a channel, then counted up. All messages in the window
    have been sent on the current channel; `restart` begins a new one.
    """

    def __init__(self, *, max_count: int = DEFAULT_MAX_COUNT, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_count < 1 or max_bytes < 1:
            raise ValueError(f"a window needs room: max_count={max_count}, max_bytes={max_bytes}")
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._items: list[M | None] = [None] * max_count
        self._sizes = [0] * max_count
        self._positions: list[Position | None] = [None] * max_count
        self._marks = bytearray(max_count)
        # Sequence numbers count all messages ever added; modulo max_count they are places in the ring.
        self._oldest = 0
        self._next = 0
        self._before_tag_1 = -1
        self._swept = 0  # nothing below it waits for an answer
        self._marked = 0
        self._refusals = 0
        self._bytes = 0
        self._safe: Position | None = None

    def __len__(self) -> int:
        """How many messages are in the window."""
        return self._next - self._oldest

    @property
    def unanswered(self) -> int:
        """How many messages the broker has neither confirmed nor refused since they were last sent."""
        return len(self) - self._marked

    @property
    def size_bytes(self) -> int:
        """The sizes of all messages in the window together."""
        return self._bytes

    @property
    def safe(self) -> Position | None:
        """The newest position with nothing unconfirmed at or below it; `None` before the first."""
        return self._safe

    def fitting(self, sizes: Sequence[int]) -> int:
        """How many messages of these sizes, from the first on, there is room for now.

        A message larger than the whole budget fits when the window is empty, or it could never be sent.
        """
        room = self._max_bytes - self._bytes
        places = min(len(sizes), self._max_count - len(self))
        for count in range(places):
            room -= sizes[count]
            if room < 0 and (count or len(self)):
                return count
        return places

    @property
    def spacious(self) -> bool:
        """Whether an eighth of the window is free, by count and by bytes: enough to be worth a write."""
        free_count = self._max_count - len(self)
        free_bytes = self._max_bytes - self._bytes
        return 8 * free_count >= self._max_count and 8 * free_bytes >= self._max_bytes

    def add(self, item: M, size_bytes: int, position: Position) -> None:
        """Put one message in, see `extend`."""
        self.extend((item,), (size_bytes,), (position,))

    def extend(self, items: Sequence[M], sizes: Iterable[int], positions: Iterable[Position]) -> None:
        """Put messages in, as the newest. Ask `fitting` first: the limit of bytes is not checked here.

        Raises:
            OverflowError: there are not enough places; nothing was put in.
        """
        if len(self) + len(items) > self._max_count:
            raise OverflowError(f"the window has no room for {len(items)} more than its {len(self)} messages")
        for sequence, (item, size, position) in enumerate(zip(items, sizes, positions, strict=False), self._next):
            place = sequence % self._max_count
            self._items[place] = item
            self._sizes[place] = size
            self._positions[place] = position
            self._bytes += size
        self._next += len(items)

    def attach(self, position: Position) -> None:
        """Everything up to `position` has been added: it is safe together with the newest message.

        At once, where the window is empty.
        """
        if self._next == self._oldest:
            self._safe = position
        else:
            self._positions[(self._next - 1) % self._max_count] = position

    def confirm(self, tag: int, multiple: bool = False) -> int:
        """The broker has confirmed the message with this tag; with `multiple`, all up to it (0: all there are).

        Returns how many messages have left the window: 0 while an older one is unconfirmed. A repeated confirm is no
        error and changes nothing, and none takes a refusal back.

        Raises:
            ValueError: nothing was sent with this tag.
        """
        sequence = self._sequence(tag, multiple)
        if self._refusals == 0 and (multiple or sequence == self._oldest):
            return self._release(sequence)
        self._mark(sequence, multiple, CONFIRMED)
        return self._release(self._oldest - 1)

    def refuse(self, tag: int, multiple: bool = False) -> int:
        """The broker has refused the message with this tag, or all up to it that had no answer yet.

        They stay in the window, and nothing from the lowest of them on leaves it, until `restart`. Returns how many
        have been refused with this.

        Raises:
            ValueError: nothing was sent with this tag.
        """
        refused = self._mark(self._sequence(tag, multiple), multiple, REFUSED)
        self._refusals += refused
        return refused

    def item(self, tag: int) -> M | None:
        """The message with this tag, `None` if it has left the window."""
        sequence = self._before_tag_1 + tag
        return self._items[sequence % self._max_count] if self._oldest <= sequence < self._next else None

    def restart(self) -> None:
        """A new channel: its tag 1 will be the oldest message, and all messages count as unconfirmed.

        Refused or not, and those too that were confirmed out of turn: they go again with the rest, so that what arrives
        last arrives in order. Without them, a message lost before them would come after them, and stay there.
        """
        self._before_tag_1 = self._oldest - 1
        self._marks = bytearray(self._max_count)
        self._marked = self._refusals = 0
        self._swept = self._oldest

    def pending(self) -> list[M]:
        """All messages in the window, in the order of publishing: what a new channel has to be sent."""
        places = (sequence % self._max_count for sequence in range(self._oldest, self._next))
        return [item for place in places if (item := self._items[place]) is not None]

    def _sequence(self, tag: int, multiple: bool) -> int:
        """The sequence number of what was sent with this tag."""
        if tag == 0 and multiple:
            return self._next - 1
        sequence = self._before_tag_1 + tag
        if tag < 1 or sequence >= self._next:
            raise ValueError(f"the broker answers delivery tag {tag}, which was never sent")
        return sequence

    def _mark(self, sequence: int, multiple: bool, mark: int) -> int:
        """Note an answer; with `multiple`, for all up to `sequence`. Returns how many of them had none yet."""
        first = max(self._swept, self._oldest) if multiple else max(sequence, self._oldest)
        marked = 0
        for place in (number % self._max_count for number in range(first, sequence + 1)):
            if self._marks[place] == WAITING:
                self._marks[place] = mark
                marked += 1
        if multiple:
            self._swept = max(self._swept, sequence + 1)
        self._marked += marked
        return marked

    def _release(self, through: int) -> int:
        """Take out all messages up to sequence number `through`, and the confirmed ones right behind."""
        sequence = self._oldest
        place = 0
        while sequence <= through or (sequence < self._next and self._marks[sequence % self._max_count] == CONFIRMED):
            place = sequence % self._max_count
            self._items[place] = None
            self._bytes -= self._sizes[place]
            if self._marks[place]:
                self._marks[place] = WAITING
                self._marked -= 1
            sequence += 1
        released = sequence - self._oldest
        if released:
            self._safe = self._positions[place]
            self._oldest = sequence
        return released
