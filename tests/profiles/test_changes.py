"""Alarms of changed costs: rare on a noisy host, and there when something did change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.profiles.change_kernels import ALARM_ALL, ALARM_GROUP, SEEN, new_watch, watch_change
from streamspec.profiles.tracking_kernels import ALARMS
from streamspec.testing.noise import SHARES, Change, Floats, Host, Indices, alarms_of

TEN_MINUTES = 600_000
HOSTS = {
    "shared": Host(),
    "slow waves": Host(deviation=0.15, lasts=300),
    "very slow waves": Host(deviation=0.2, lasts=2000),
    "quiet": Host(deviation=0.0, stall_every=1e12),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTS)
def test_ten_minutes_of_noise_ring_at_most_once(name: str) -> None:
    for seed in range(3):
        said, _ = alarms_of(HOSTS[name], TEN_MINUTES, seed)
        assert np.count_nonzero(said & ALARMS) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.5, 1 / 1.5, 2.0])
def test_a_change_of_one_type_is_found_within_300_of_its_segments(factor: float) -> None:
    delays: list[int] = []
    for seed, group in enumerate([0, 1, 2, 3, 4] * 4):
        at = 60_000
        said, groups = alarms_of(Host(), at + round(300 / SHARES[group]), seed, Change(at, group, factor))
        assert not np.count_nonzero(said[:at] & ALARMS)
        rang = np.flatnonzero(said[at:] & ALARMS)
        delays.append(int(np.count_nonzero(groups[at : at + rang[0]] == group)) if len(rang) else 1 << 30)
    assert np.quantile(delays, 0.95) <= 300
    assert np.median(delays) <= 80


def weigh(rows: Floats, levels: Floats, groups: Indices) -> list[int]:
    return [watch_change(rows, int(group), float(level), 0.0) for level, group in zip(levels, groups, strict=True)]


def test_what_slows_every_type_down_is_no_change_of_one() -> None:
    rng = np.random.default_rng(1)
    rows, groups = new_watch(1, 5)[0], rng.integers(0, 5, 4000)
    levels = rng.normal(0, 0.1, 4000)
    levels[2000:] += 0.7
    said = weigh(rows, levels, groups)
    assert not any(said[:2000])
    assert [alarm for alarm in said if alarm] == [ALARM_ALL]


def test_an_alarm_rings_once_and_the_new_level_is_usual_then() -> None:
    rng = np.random.default_rng(1)
    rows, groups = new_watch(1, 5)[0], rng.integers(0, 5, 12_000)
    levels = rng.normal(0, 0.1, 12_000)
    levels[4000:] += np.where(groups[4000:] == 3, 0.7, 0.0)
    said = weigh(rows, levels, groups)
    assert [alarm for alarm in said if alarm] == [ALARM_GROUP]


def test_one_stall_does_not_let_the_next_one_ring() -> None:
    rng = np.random.default_rng(1)
    rows, levels = new_watch(1, 0)[0], rng.normal(0, 0.1, 40_000)
    for first in range(5000, 40_000, 5000):
        levels[first : first + 50] += 0.9
    said = weigh(rows, levels, np.full(len(levels), -1))
    assert sum(alarm > 0 for alarm in said) == 1


@settings(max_examples=60, deadline=None)
@given(
    levels=st.lists(st.floats(-1e6, 1e6), max_size=200),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1e-9, 1.0, 1e3]),
)
def test_no_outcome_breaks_the_watch(levels: list[float], seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    rows, values = new_watch(1, 3)[0], np.array([*rng.normal(0, 1, 300) * spread, *levels, *rng.normal(0, spread, 300)])
    weigh(rows, values, rng.integers(-1, 3, len(values)))
    assert np.isfinite(rows).all()
    assert rows[0, SEEN] <= len(values)
