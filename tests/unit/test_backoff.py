"""Delays between attempts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcbridge.backoff import Backoff


class Shortest(Random):
    """Always the lower end."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Longest(Random):
    """Always the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(first_s=0.5, cap_s=3.0, rng=Longest())
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_jitter_takes_at_most_a_half() -> None:
    backoff = Backoff(first_s=0.5, cap_s=3.0, rng=Shortest())
    assert [backoff.next() for _ in range(5)] == [0.25, 0.5, 1.0, 1.5, 1.5]


def test_reset_starts_again_with_the_first_delay() -> None:
    backoff = Backoff(first_s=0.5, cap_s=30.0, rng=Longest())
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 0.5


def test_the_same_seed_gives_the_same_delays() -> None:
    one, other = (Backoff(first_s=0.1, cap_s=5.0, rng=Random(7)) for _ in range(2))
    assert [one.next() for _ in range(20)] == [other.next() for _ in range(20)]


@given(seed=st.integers(), attempts=st.integers(1, 5000))
def test_a_delay_is_never_nothing_and_never_above_the_cap(seed: int, attempts: int) -> None:
    backoff = Backoff(first_s=0.5, cap_s=30.0, rng=Random(seed))
    assert all(0.25 <= backoff.next() <= 30.0 for _ in range(attempts))


@pytest.mark.parametrize(("first_s", "cap_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_delays_that_make_no_sense_are_refused(first_s: float, cap_s: float) -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(first_s=first_s, cap_s=cap_s, rng=Random(1))
