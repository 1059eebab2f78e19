"""The promises themselves: each function passes a history that keeps its promise, and tells of one that does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.guarantees import (
    Commit,
    Delivery,
    all_hold,
    complete,
    in_sequence,
    kept,
    ordered,
    ordered_by_key,
    repeats,
    resumable,
    unique,
)

COMMITTED = [Commit(str(place), f'"{place % 2}"', b"%d" % place) for place in range(1, 6)]


def delivered(*places: int) -> list[Delivery]:
    """The changes at these places of the history, in this order."""
    return [Delivery(f"b:{p}", str(p), "t.update", f'"{p % 2}"', b"%d" % p) for p in places]


@pytest.mark.parametrize("places", [(1, 2, 3, 4, 5), (1, 2, 3, 2, 3, 4, 5), (1, 2, 1, 2, 3, 4, 3, 4, 5)])
def test_a_history_with_repeats_after_restarts_keeps_all_promises(places: Sequence[int]) -> None:
    all_hold(COMMITTED, delivered(*places), window=2, restarts=2)


def test_an_acknowledged_write_that_is_not_recorded_is_told_of() -> None:
    kept(["a"], {"a", "b"})
    with pytest.raises(AssertionError, match="not recorded: c"):
        kept(["a", "c"], {"a", "b"})


def test_a_lost_change_is_told_of() -> None:
    with pytest.raises(AssertionError, match="lost: 3 of 5"):
        complete(COMMITTED, delivered(1, 2, 4, 5))


def test_a_change_that_nobody_committed_is_told_of() -> None:
    with pytest.raises(AssertionError, match="never committed: 6"):
        complete(COMMITTED, delivered(1, 2, 3, 4, 5, 6))


def test_a_change_with_another_content_is_told_of() -> None:
    altered = [*delivered(1, 2, 3, 4), delivered(5)[0]._replace(body=b"?")]
    with pytest.raises(AssertionError, match="another content: 5"):
        complete(COMMITTED, altered)


@pytest.mark.parametrize("other", [{"message_id": "b:new"}, {"body": b"?"}, {"routing_key": "t.create"}])
def test_a_repeat_that_differs_from_the_first_delivery_is_told_of(other: dict[str, object]) -> None:
    first = delivered(1)[0]
    with pytest.raises(AssertionError, match="came again as"):
        unique([first, first._replace(**other)])  # type: ignore[arg-type]


def test_one_id_for_two_changes_is_told_of() -> None:
    one, two = delivered(1, 2)
    with pytest.raises(AssertionError, match="came again as"):
        unique([one, two._replace(message_id=one.message_id)])


@pytest.mark.parametrize("places", [(2, 1, 2), (1, 2, 1)])
def test_an_order_that_is_only_right_among_first_or_among_last_occurrences_is_told_of(places: Sequence[int]) -> None:
    with pytest.raises(AssertionError, match="occurrences: "):
        ordered(COMMITTED, delivered(*places))


def test_order_by_document_allows_documents_to_overtake_each_other() -> None:
    ordered_by_key(COMMITTED, delivered(2, 1, 4, 3))
    with pytest.raises(AssertionError, match="1 came after 3"):
        ordered_by_key(COMMITTED, delivered(2, 3, 4, 1))


def test_going_back_by_more_than_a_window_is_told_of() -> None:
    with pytest.raises(AssertionError, match="3 changes were repeated"):
        resumable(COMMITTED, delivered(1, 2, 3, 1), window=2, restarts=1)


def test_going_back_without_a_restart_is_told_of() -> None:
    with pytest.raises(AssertionError, match="went back 1 times"):
        resumable(COMMITTED, delivered(1, 2, 2, 3), window=2, restarts=0)


def test_passing_over_a_change_is_told_of() -> None:
    with pytest.raises(AssertionError, match="position 2 was passed over"):
        resumable(COMMITTED, delivered(1, 3), window=2, restarts=9)


def test_repeats_are_counted() -> None:
    assert repeats(delivered(1, 2, 1, 2, 3)) == 2


def test_events_are_found_in_order_with_others_between_them() -> None:
    in_sequence(["start", "ready", "lost", "ready"], "start", "lost", "ready")
    with pytest.raises(AssertionError, match="no start after lost"):
        in_sequence(["start", "ready", "lost", "ready"], "lost", "start")
