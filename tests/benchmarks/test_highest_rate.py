"""The search for the highest rate that is borne."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.proof.highest_rate import highest_rate


@settings(deadline=None, max_examples=100)
@given(share=st.floats(0.005, 5e3), start=st.floats(1000, 1e6), growth=st.floats(1.2, 4))
def test_it_finds_a_steady_limit_from_any_start(share: float, start: float, growth: float) -> None:
    tried: list[float] = []
    limit = min(start * share, 9e6)

    def bears(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest_rate(bears, start, 1e7, growth=growth, precision=1.05)
    assert limit / 1.05 <= found <= limit
    assert tried[-3:] == [found] * 3  # three of three


def test_a_rate_that_fails_its_confirmation_gives_way_to_a_lower_one() -> None:
    answers = iter([True, False, True, False])

    def bears(rate: float) -> bool:
        return next(answers, True)

    assert highest_rate(bears, 100.0, 1e6, precision=2.5) == 94.0


def test_nothing_borne_is_no_rate() -> None:
    assert highest_rate(lambda rate: False, 1000.0, 1e6) == 0.0


def test_it_never_goes_beyond_the_most() -> None:
    tried: list[float] = []

    def bears(rate: float) -> bool:
        tried.append(rate)
        return True

    assert highest_rate(bears, 3000.0, 10_000.0) == 10_000.0
    assert max(tried) == 10_000.0
