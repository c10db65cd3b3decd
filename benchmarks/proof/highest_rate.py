"""The highest rate that a receiver bears, by doubling, bisection and confirmation."""

from __future__ import annotations

from collections.abc import Callable

CONFIRMATIONS = 3
STEP_BACK = 0.94
"""Of the rate, when a confirmation fails."""


def highest_rate(
    bears: Callable[[float], bool],
    start: float,
    most: float,
    *,
    growth: float = 2.0,
    precision: float = 1.06,
    confirmations: int = CONFIRMATIONS,
) -> float:
    """The highest rate found that was borne ``confirmations`` times of as many; 0 when none was.

    Args:
        bears: whether a trial at this rate succeeds.
        start: tried first.
        most: never gone beyond; it counts as a rate like others.
        growth: factor between rates until the first that fails, and back from a start that fails.
        precision: largest factor that stays between the rate found and one that failed.
    """
    good, bad = _bracket(bears, start, most, growth)
    while good and bad and bad / good > precision:
        middle = (good * bad) ** 0.5
        if bears(middle):
            good = middle
        else:
            bad = middle
    rate = good
    while rate > start / 1000:
        if all(bears(rate) for _ in range(confirmations)):
            return rate
        rate *= STEP_BACK
    return 0.0


def _bracket(bears: Callable[[float], bool], start: float, most: float, growth: float) -> tuple[float, float]:
    """A rate that succeeds (0: none) and one that fails (0: none up to the most)."""
    rate, good, bad = min(start, most), 0.0, 0.0
    while not bad and good < most:
        if bears(rate):
            good, rate = rate, min(rate * growth, most)
        else:
            bad = rate
    while bad and not good and bad > start / 1000:
        rate = bad / growth
        if bears(rate):
            good = rate
        else:
            bad = rate
    return good, bad
