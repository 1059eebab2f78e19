"""The promises to whoever reads a queue, as functions over a recorded history. Each fails with the first breach.

A history has two sides: what was committed, in commit order, and what was delivered, in the order of arrival. Positions
are compared for being equal only, so that the functions know no source; their order is that of the commits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

SHOWN = 5

T = TypeVar("T")


class Commit(NamedTuple):
    """A change as its source recorded it."""

    position: str
    key: str
    body: bytes


class Delivery(NamedTuple):
    """A message as a queue handed it out."""

    message_id: str
    position: str
    routing_key: str
    key: str
    body: bytes


def all_hold(committed: Sequence[Commit], delivered: Sequence[Delivery], *, window: int, restarts: int) -> None:
    """Every promise that a queue bound to everything can be held against."""
    complete(committed, delivered)
    unique(delivered)
    ordered(committed, delivered)
    ordered_by_key(committed, delivered)
    resumable(committed, delivered, window=window, restarts=restarts)


def kept(acknowledged: Iterable[Hashable], recorded: Collection[Hashable]) -> None:
    """Every write that was acknowledged is among what the source has recorded."""
    missing = [write for write in acknowledged if write not in recorded]
    assert not missing, f"acknowledged, and not recorded: {_some(missing)}"


def complete(committed: Sequence[Commit], delivered: Sequence[Delivery]) -> None:
    """Every change was delivered, with its own key and body, and nothing else was."""
    expected = {commit.position: commit for commit in committed}
    found = {delivery.position: delivery for delivery in delivered}
    lost = [position for position in expected if position not in found]
    assert not lost, f"lost: {_some(lost)} of {len(expected)}"
    invented = [position for position in found if position not in expected]
    assert not invented, f"delivered, and never committed: {_some(invented)}"
    wrong = [p for p, commit in expected.items() if (found[p].key, found[p].body) != (commit.key, commit.body)]
    assert not wrong, f"delivered with another content: {_some(wrong)}"


def unique(delivered: Sequence[Delivery]) -> None:
    """A change has one message_id, and an id one change: a repeat is the first delivery once more, to the byte."""
    by_id: dict[str, Delivery] = {}
    by_position: dict[str, Delivery] = {}
    for delivery in delivered:
        for first in (
            by_id.setdefault(delivery.message_id, delivery),
            by_position.setdefault(delivery.position, delivery),
        ):
            assert delivery == first, f"{first} came again as {delivery}"


def ordered(committed: Sequence[Commit], delivered: Sequence[Delivery]) -> None:
    """First occurrences are in commit order, which is what a reader that drops repeats sees; and so are the last ones,
    which is what a reader that overwrites ends with."""
    positions = [delivery.position for delivery in delivered]
    _ascending("first occurrences", committed, list(dict.fromkeys(positions)))
    _ascending("last occurrences", committed, list(dict.fromkeys(reversed(positions)))[::-1])


def ordered_by_key(committed: Sequence[Commit], delivered: Sequence[Delivery]) -> None:
    """As `ordered`, for each document by itself: the promise that is left where a source is read in several streams."""
    commits, deliveries = _grouped(committed, _key), _grouped(delivered, _key)
    for key, messages in deliveries.items():
        ordered(commits.get(key, []), messages)


def resumable(committed: Sequence[Commit], delivered: Sequence[Delivery], *, window: int, restarts: int) -> None:
    """Deliveries go back only after a restart, by a window at most; otherwise each follows on the one before."""
    places = {commit.position: place for place, commit in enumerate(committed)}
    came_back, furthest, before = 0, -1, -1
    for place in (places[delivery.position] for delivery in delivered):
        assert place <= furthest + 1, f"position {committed[furthest + 1].position} was passed over"
        if place != before + 1:
            came_back += 1
            assert furthest - place < window, f"{furthest - place + 1} changes were repeated at once"
        before, furthest = place, max(furthest, place)
    assert came_back <= restarts, f"deliveries went back {came_back} times in {restarts} restarts"


def repeats(delivered: Sequence[Delivery]) -> int:
    """How many deliveries were not the first of their change."""
    return len(delivered) - len({delivery.position for delivery in delivered})


def in_sequence(events: Iterable[str], *expected: str) -> None:
    """`expected` can be read in `events` from left to right, with others between them."""
    rest = iter(events)
    for number, name in enumerate(expected):
        assert name in rest, f"no {name} after {', '.join(expected[:number]) or 'the start'}"


def _ascending(what: str, committed: Sequence[Commit], positions: Sequence[str]) -> None:
    places = {commit.position: place for place, commit in enumerate(committed)}
    for before, after in itertools.pairwise(positions):
        assert places[before] < places[after], f"{what}: {after} came after {before}"


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _key(item: Commit | Delivery) -> str:
    return item.key


def _some(items: Sequence[object]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more
