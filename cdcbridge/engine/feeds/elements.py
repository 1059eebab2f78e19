"""What a feed says, and its JSON.

Source: RethinkDB's documentation of `changes`; `seq` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Shape(IntEnum):
    """Which of the two values an element has: both, or one of them while initial values are sent."""

    CHANGE = 0
    INITIAL = 1
    UNINITIAL = 2


class Element(NamedTuple):
    """One thing that a feed says. A value is a document's JSON, or None where there is none.

    The offsets are places in the set of a limit feed; None where the document is not in it.
    """

    shape: Shape
    old: bytes | None
    new: bytes | None
    old_offset: int | None = None
    new_offset: int | None = None


def change(old: bytes | None, new: bytes | None) -> Element:
    """A document has changed, or come, or gone."""
    return Element(Shape.CHANGE, old, new)


def initial(new: bytes | None, offset: int | None = None) -> Element:
    """A document that was there before."""
    return Element(Shape.INITIAL, None, new, None, offset)


def uninitial(old: bytes) -> Element:
    """A document that was sent as initial is going to be sent again."""
    return Element(Shape.UNINITIAL, old, None)


@dataclass(frozen=True)
class Style:
    """What the query wants to see of each element."""

    types: bool = False
    offsets: bool = False

    def json(self, element: Element, seq: int | None) -> bytes:
        """An element's JSON; with `seq`, if there is one."""
        shape, old, new, _, _ = element
        if shape is Shape.CHANGE:
            text = b'{"new_val":%b,"old_val":%b' % (new or b"null", old or b"null")
        elif shape is Shape.INITIAL:
            text = b'{"new_val":%b' % (new or b"null")
        else:
            text = b'{"old_val":%b' % (old or b"null")
        if self.offsets:
            text += _offsets(element)
        if self.types:
            text += b',"type":"%b"' % _type(element)
        return _closed(text, seq)

    def state(self, name: bytes, seq: int | None) -> bytes:
        """The element that says in which part of its life the feed is: `initializing` or `ready`."""
        text = b'{"state":"%b"' % name
        return _closed(text + b',"type":"state"' if self.types else text, seq)


def skipped(count: int) -> bytes:
    """The element in the place of `count` others, which the reader was too slow for."""
    return b'{"error":"Changefeed cache over array size limit, skipped %d elements."}' % count


def _closed(text: bytes, seq: int | None) -> bytes:
    return text + b"}" if seq is None else b'%b,"seq":%d}' % (text, seq)


def _offsets(element: Element) -> bytes:
    new = b',"new_offset":%b' % _number(element.new_offset)
    return new if element.shape is Shape.INITIAL else b',"old_offset":%b%b' % (_number(element.old_offset), new)


def _number(offset: int | None) -> bytes:
    return b"null" if offset is None else b"%d" % offset


def _type(element: Element) -> bytes:
    if element.shape is not Shape.CHANGE:
        return b"initial" if element.shape is Shape.INITIAL else b"uninitial"
    if element.old is None:
        return b"add"
    return b"remove" if element.new is None else b"change"
