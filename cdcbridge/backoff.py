"""How long to wait before the next attempt: exponential delays with jitter. Pure: the randomness is passed in."""

from __future__ import annotations

from random import Random


class Backoff:
    """Delays that double from `first_s` up to `cap_s`, each shortened at random by up to a half.

    The jitter keeps many clients of one broker from coming back at the same moment; the lower half stays out of it, so
    that a delay is never next to nothing.
    """

    def __init__(self, first_s: float, cap_s: float, rng: Random) -> None:
        if not 0 < first_s <= cap_s:
            raise ValueError(f"0 < first_s <= cap_s does not hold: first_s={first_s}, cap_s={cap_s}")
        self._first_s = first_s
        self._cap_s = cap_s
        self._rng = rng
        self._ceiling_s = first_s

    def next(self) -> float:
        """The next delay in seconds: between a half and the whole of the current step."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(self._cap_s, ceiling_s * 2)
        return self._rng.uniform(ceiling_s / 2, ceiling_s)

    def reset(self) -> None:
        """Something worked: the next delay is the shortest again."""
        self._ceiling_s = self._first_s
