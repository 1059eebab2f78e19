"""The window of unconfirmed messages."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cdcbridge.change import Position
from cdcbridge.inflight import InFlight


def window(*names: str, max_count: int = 8, max_bytes: int = 1000) -> InFlight[str]:
    """A window with these messages, 10 bytes each; the position of message `a` is `A`."""
    inflight = InFlight[str](max_count=max_count, max_bytes=max_bytes)
    for name in names:
        inflight.add(name, 10, Position(name.upper()))
    return inflight


def test_nothing_is_safe_before_the_first_confirm() -> None:
    assert window("a").safe is None


def test_a_confirm_in_order_moves_the_safe_position() -> None:
    inflight = window("a", "b")
    assert inflight.confirm(1) == 1
    assert inflight.safe == "A"
    assert inflight.pending() == ["b"]


def test_a_confirm_out_of_turn_waits_for_those_below_it() -> None:
    inflight = window("a", "b", "c")
    assert inflight.confirm(3) == 0
    assert inflight.confirm(2) == 0
    assert inflight.safe is None
    assert inflight.confirm(1) == 3
    assert inflight.safe == "C"


def test_multiple_confirms_everything_up_to_its_tag() -> None:
    inflight = window("a", "b", "c")
    assert inflight.confirm(2, multiple=True) == 2
    assert inflight.safe == "B"
    assert inflight.pending() == ["c"]


def test_multiple_takes_the_confirmed_ones_behind_it_along() -> None:
    inflight = window("a", "b", "c", "d")
    inflight.confirm(3)
    assert inflight.confirm(2, multiple=True) == 3
    assert inflight.safe == "C"


def test_multiple_with_tag_0_confirms_all_there_is() -> None:
    inflight = window("a", "b")
    assert inflight.confirm(0, multiple=True) == 2
    assert inflight.safe == "B"


def test_a_repeated_confirm_changes_nothing() -> None:
    inflight = window("a", "b", "c")
    inflight.confirm(1)
    assert inflight.confirm(1) == 0
    assert inflight.confirm(1, multiple=True) == 0
    assert inflight.safe == "A"
    assert inflight.pending() == ["b", "c"]


@pytest.mark.parametrize("tag", [0, 2, -1])
def test_a_confirm_of_what_was_never_sent_is_an_error(tag: int) -> None:
    inflight = window("a")
    with pytest.raises(ValueError, match="never sent"):
        inflight.confirm(tag)


def test_nothing_from_a_refused_message_on_is_safe() -> None:
    inflight = window("a", "b", "c")
    assert inflight.refuse(2) == 1
    inflight.confirm(3)
    inflight.confirm(1)
    assert inflight.safe == "A"
    assert inflight.pending() == ["b", "c"]


@pytest.mark.parametrize("tag", [0, 3])
def test_a_later_multiple_confirm_does_not_take_a_refusal_back(tag: int) -> None:
    """It stands for those without an answer: RabbitMQ counts a refused message as answered."""
    inflight = window("a", "b", "c")
    inflight.refuse(2)
    assert inflight.confirm(tag, multiple=True) == 1
    assert inflight.safe == "A"
    assert inflight.confirm(2) == 0


def test_multiple_refuses_what_has_no_answer_yet() -> None:
    inflight = window("a", "b", "c", "d")
    inflight.confirm(2)
    assert inflight.refuse(3, multiple=True) == 2
    assert inflight.unanswered == 1


def test_a_new_channel_forgets_the_refusals() -> None:
    inflight = window("a", "b")
    inflight.refuse(2, multiple=True)
    inflight.restart()
    assert inflight.unanswered == 2
    assert inflight.confirm(2, multiple=True) == 2
    assert inflight.safe == "B"


def test_answered_is_what_is_confirmed_or_refused() -> None:
    inflight = window("a", "b", "c", "d")
    inflight.confirm(1)
    inflight.confirm(3)
    inflight.refuse(2)
    assert inflight.unanswered == 1
    inflight.confirm(4)
    assert inflight.unanswered == 0
    assert len(inflight) == 3


def test_an_old_mark_does_not_confirm_a_new_message_in_the_same_place() -> None:
    inflight = window("a", "b", "c", max_count=3)
    inflight.confirm(2)
    inflight.confirm(1)
    inflight.confirm(3)
    for name in "def":
        inflight.add(name, 10, Position(name.upper()))
    assert inflight.confirm(4) == 1
    assert inflight.pending() == ["e", "f"]


def test_the_position_of_a_batch_is_safe_with_its_last_message() -> None:
    inflight = window("a")
    inflight.attach(Position("behind"))
    assert inflight.safe is None
    inflight.confirm(1)
    assert inflight.safe == "behind"


def test_a_position_is_safe_at_once_where_nothing_is_unconfirmed() -> None:
    inflight = window()
    inflight.attach(Position("behind"))
    assert inflight.safe == "behind"


def test_tags_begin_anew_with_a_channel() -> None:
    inflight = window("a", "b", "c")
    inflight.confirm(1)
    inflight.restart()
    assert inflight.confirm(1) == 1
    assert inflight.safe == "B"


def test_a_new_channel_gets_everything_from_the_lowest_unconfirmed_on() -> None:
    inflight = window("a", "b", "c")
    inflight.confirm(1)
    inflight.confirm(3)
    inflight.restart()
    assert inflight.pending() == ["b", "c"]
    assert inflight.confirm(1) == 1


def test_a_full_window_has_no_room() -> None:
    inflight = window("a", "b", max_count=2)
    assert inflight.fitting([1, 1]) == 0
    with pytest.raises(OverflowError, match="1 more than its 2 messages"):
        inflight.add("c", 1, Position("C"))
    inflight.confirm(1)
    assert inflight.fitting([1, 1]) == 1


def test_bytes_limit_the_window_too() -> None:
    inflight = window("a", max_bytes=25)
    assert inflight.fitting([10, 5, 1]) == 2
    assert inflight.fitting([16]) == 0


def test_a_message_larger_than_the_budget_goes_alone() -> None:
    inflight = window(max_bytes=25)
    assert inflight.fitting([100, 1]) == 1
    inflight.add("huge", 100, Position("HUGE"))
    assert inflight.fitting([1]) == 0
    inflight.confirm(1)
    assert inflight.size_bytes == 0


def test_a_window_is_spacious_with_an_eighth_of_both_limits_free() -> None:
    assert window(*"abcdefg", max_count=8, max_bytes=80).spacious
    assert not window(*"abcdefgh", max_count=8, max_bytes=1000).spacious
    assert not window("a", max_count=8, max_bytes=11).spacious


def test_an_empty_window_is_spacious_however_small() -> None:
    assert window(max_count=1, max_bytes=1).spacious


def test_a_message_is_found_by_its_tag_while_it_is_in_the_window() -> None:
    inflight = window("a", "b")
    inflight.confirm(1)
    assert [inflight.item(tag) for tag in (0, 1, 2, 3)] == [None, None, "b", None]


@pytest.mark.parametrize("limits", [{"max_count": 0}, {"max_bytes": 0}])
def test_a_window_without_room_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="room"):
        InFlight[str](**limits)


class Naive(RuleBasedStateMachine):
    """The window against a model that looks at everything, each time."""

    @initialize(max_count=st.integers(1, 9), max_bytes=st.integers(1, 60))
    def begin(self, max_count: int, max_bytes: int) -> None:
        self.inflight = InFlight[int](max_count=max_count, max_bytes=max_bytes)
        self.max_count, self.max_bytes = max_count, max_bytes
        self.sizes: list[int] = []
        self.positions: list[str] = []
        self.confirmed: list[bool] = []
        self.refused: set[int] = set()
        self.channel_begins = 0
        self.early: str | None = None

    def lowest(self) -> int:
        """The lowest unconfirmed message."""
        return self.confirmed.index(False) if False in self.confirmed else len(self.confirmed)

    @rule(sizes=st.lists(st.integers(0, 70), min_size=1, max_size=12))
    def publish(self, sizes: list[int]) -> None:
        for size in sizes[: self.inflight.fitting(sizes)]:
            number = len(self.sizes)
            self.inflight.add(number, size, Position(f"p{number}"))
            self.sizes.append(size)
            self.positions.append(f"p{number}")
            self.confirmed.append(False)

    @rule(position=st.integers(0, 1000))
    def end_a_batch(self, position: int) -> None:
        self.inflight.attach(Position(f"batch{position}"))
        if self.lowest() == len(self.sizes):
            self.early = f"batch{position}"
            if self.positions:
                self.positions[-1] = self.early
        else:
            self.positions[-1] = f"batch{position}"

    def answered_by(self, number: int, multiple: bool) -> set[int]:
        """The messages without an answer that one for `number` speaks of."""
        numbers = range(self.channel_begins if multiple else number, number + 1)
        return {one for one in numbers if not self.confirmed[one] and one not in self.refused}

    @precondition(lambda self: self.channel_begins < len(self.sizes))
    @rule(data=st.data(), multiple=st.booleans())
    def confirm(self, data: st.DataObject, multiple: bool) -> None:
        number = data.draw(st.integers(self.channel_begins, len(self.sizes) - 1))
        before = self.lowest()
        for one in self.answered_by(number, multiple):
            self.confirmed[one] = True
        assert self.inflight.confirm(number - self.channel_begins + 1, multiple) == self.lowest() - before

    @precondition(lambda self: self.channel_begins < len(self.sizes))
    @rule(data=st.data(), multiple=st.booleans())
    def refuse(self, data: st.DataObject, multiple: bool) -> None:
        number = data.draw(st.integers(self.channel_begins, len(self.sizes) - 1))
        refused = self.answered_by(number, multiple)
        self.refused |= refused
        assert self.inflight.refuse(number - self.channel_begins + 1, multiple) == len(refused)

    @rule()
    def new_channel(self) -> None:
        self.channel_begins = self.lowest()
        self.refused.clear()
        self.confirmed[self.channel_begins :] = [False] * (len(self.sizes) - self.channel_begins)
        self.inflight.restart()

    @invariant()
    def the_safe_position_is_right_below_the_lowest_unconfirmed(self) -> None:
        lowest = self.lowest()
        assert self.inflight.safe == (self.positions[lowest - 1] if lowest else self.early)

    @invariant()
    def everything_from_the_lowest_unconfirmed_on_is_pending_in_order(self) -> None:
        assert self.inflight.pending() == list(range(self.lowest(), len(self.sizes)))
        assert len(self.inflight) == len(self.sizes) - self.lowest()

    @invariant()
    def unanswered_is_what_the_broker_said_nothing_about(self) -> None:
        waiting = [number for number, confirmed in enumerate(self.confirmed) if not confirmed]
        assert self.inflight.unanswered == len(set(waiting) - self.refused)

    @invariant()
    def the_limits_hold(self) -> None:
        held = self.sizes[self.lowest() :]
        assert self.inflight.size_bytes == sum(held)
        assert len(held) <= self.max_count
        assert sum(held) <= self.max_bytes or len([size for size in held if size]) <= 1 or held[0] > self.max_bytes

    def teardown(self) -> None:
        """Whatever happened, once all is confirmed the end is safe."""
        if hasattr(self, "inflight") and len(self.inflight):
            self.new_channel()
            self.inflight.confirm(len(self.sizes) - self.channel_begins, multiple=True)
            assert self.inflight.safe == self.positions[-1]
            assert self.inflight.size_bytes == 0


Naive.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstANaiveModel = Naive.TestCase
