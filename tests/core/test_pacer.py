"""The token bucket, on times that the test makes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.pacer import TokenBucket

SECOND = 10**9


def test_a_full_bucket_lets_its_burst_pass_at_once() -> None:
    bucket = TokenBucket(1000, 500)
    assert bucket.delay_ns(0, 300) == 0
    assert bucket.delay_ns(0, 200) == 0
    assert bucket.delay_ns(0, 100) == SECOND // 10


def test_it_fills_at_its_rate_and_not_above_its_burst() -> None:
    bucket = TokenBucket(1000, 500)
    assert bucket.delay_ns(0, 500) == 0
    assert bucket.delay_ns(SECOND // 4, 250) == 0
    assert bucket.delay_ns(100 * SECOND, 501) == SECOND // 1000


def test_more_than_the_burst_is_delayed_and_not_refused() -> None:
    assert TokenBucket(1000, 10).delay_ns(0, 1010) == SECOND


def test_time_that_goes_backwards_fills_nothing() -> None:
    bucket = TokenBucket(1000, 500)
    assert bucket.delay_ns(SECOND, 500) == 0
    assert bucket.delay_ns(0, 0) == 0
    assert bucket.delay_ns(SECOND, 100) == SECOND // 10


def test_a_new_rate_counts_from_its_time_on() -> None:
    bucket = TokenBucket(1000, 500)
    bucket.delay_ns(0, 500)
    bucket.set_rate(SECOND // 10, 100)
    assert bucket.delay_ns(SECOND // 10, 100) == 0
    assert bucket.delay_ns(SECOND // 10, 100) == SECOND


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_rate_and_burst_are_above_zero(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, SECOND), st.integers(0, 3000)), max_size=60))
def test_no_interval_passes_more_than_burst_rate_and_one_request(steps: list[tuple[int, int]]) -> None:
    """A sender that always waits as told; what it sent from any moment on stays below the bound."""
    rate, burst = 1000.0, 700.0
    bucket = TokenBucket(rate, burst)
    now_ns, sent = 0, []
    for idle_ns, size in steps:
        now_ns += idle_ns
        now_ns += bucket.delay_ns(now_ns, size)
        sent.append((now_ns, size))
    for first in range(len(sent)):
        total = 0
        for at_ns, size in sent[first:]:
            total += size
            assert total <= burst + rate * (at_ns - sent[first][0]) / SECOND + sent[first][1] + 1
