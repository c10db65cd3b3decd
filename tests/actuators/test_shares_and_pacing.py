"""Shares never promise more than the link; buckets in user space divide it as HTB does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.actuators.pacing import LanePacer
from streamspec.actuators.shares import EgressShare, fit

LINK = 1_000_000.0
SHARES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(EgressShare, st.floats(0, 1e7), st.floats(0, 1e7), st.integers(-3, 20)),
    min_size=1,
)


@given(SHARES)
@settings(deadline=None, max_examples=100)
def test_what_is_promised_fits_the_link(desired: dict[str, EgressShare]) -> None:
    shares = fit(desired, LINK)
    assert sum(share.bytes_per_second for share in shares.values()) <= LINK * 0.99 * (1 + 1e-9)
    for lane, share in shares.items():
        assert 0 < share.bytes_per_second <= share.ceiling_bytes_per_second <= LINK
        assert 0 <= share.urgency <= 7
        assert share.bytes_per_second <= max(desired[lane].bytes_per_second, 1000.0)


def _run(pacer: LanePacer, wants: dict[str, float], seconds: float, chunk: int = 1500) -> dict[str, float]:
    """Bytes per second that each lane gets when it wants ``wants``, on a clock of the test's own."""
    free_at = dict.fromkeys(wants, 0)
    sent = dict.fromkeys(wants, 0)
    step_ns = 100_000
    for now_ns in range(0, int(seconds * 1e9), step_ns):
        for lane, rate in wants.items():
            while free_at[lane] <= now_ns and sent[lane] + chunk <= rate * now_ns / 1e9:
                free_at[lane] = now_ns + pacer.delay_ns(lane, now_ns, chunk)
                sent[lane] += chunk
    return {lane: count / seconds for lane, count in sent.items()}


def _pacer(shares: dict[str, EgressShare]) -> LanePacer:
    pacer = LanePacer(LINK)
    pacer.set_shares(0, fit(shares, LINK))
    return pacer


@pytest.mark.slow
def test_lanes_that_want_more_than_there_is_get_their_guarantees() -> None:
    got = _run(_pacer({"a": EgressShare(700_000), "b": EgressShare(290_000)}), {"a": 5e6, "b": 5e6}, 3.0)
    assert got["a"] == pytest.approx(700_000, rel=0.1)
    assert got["b"] == pytest.approx(290_000, rel=0.1)


@pytest.mark.slow
def test_what_one_lane_leaves_the_other_gets_up_to_its_ceiling() -> None:
    shares = {"a": EgressShare(700_000), "b": EgressShare(200_000, 600_000)}
    got = _run(_pacer(shares), {"a": 50_000, "b": 5e6}, 3.0)
    assert got["a"] == pytest.approx(50_000, rel=0.1)
    assert got["b"] == pytest.approx(600_000, rel=0.1)


def test_a_light_lane_does_not_wait_for_a_heavy_one() -> None:
    pacer = _pacer({"light": EgressShare(200_000), "heavy": EgressShare(700_000)})
    for _ in range(200):
        pacer.delay_ns("heavy", 0, 1500)
    assert pacer.delay_ns("light", 0, 1000) == 0
