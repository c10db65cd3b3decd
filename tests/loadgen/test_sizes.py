"""A pool's sizes have the mean and the bounds of their distribution, whatever the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from loadgen.kinds import KINDS
from loadgen.pool import generate_bodies
from loadgen.scenario import PoolLimits
from loadgen.sizes import Size

SIZE: TypeAdapter[Size] = TypeAdapter(Size)


def _sizes(count: int = 4000, **fields: object) -> np.ndarray:
    return SIZE.validate_python(fields).pool_sizes(count, 500, 0.5)


def test_means_are_those_of_the_distributions() -> None:
    wide = {"min": 1, "max": 1 << 20}
    assert set(_sizes(distribution="fixed", bytes="2 KiB")) == {2048}
    assert _sizes(distribution="uniform", min=100, max=300).mean() == pytest.approx(200, rel=0.01)
    lognormal = _sizes(distribution="lognormal", median=200, sigma=0.8, **wide)
    assert lognormal.mean() == pytest.approx(200 * math.exp(0.32), rel=0.02)
    assert np.median(lognormal) == pytest.approx(200, abs=2)
    natural = _sizes(distribution="natural", **wide)
    assert natural.mean() == pytest.approx(500 * math.exp(0.125), rel=0.02)
    pareto = _sizes(distribution="pareto", alpha=2.5, min=100, max=1 << 20)
    assert pareto.mean() == pytest.approx(100 * 2.5 / 1.5, rel=0.03)
    assert np.quantile(pareto, 0.9) == pytest.approx(100 * 10 ** (1 / 2.5), rel=0.02)


def test_an_empirical_distribution_keeps_its_shares() -> None:
    sizes = _sizes(1000, distribution="empirical", weights={64: 3, 576: 1, 1400: 6})
    assert {int(s): int((sizes == s).sum()) for s in np.unique(sizes)} == {64: 300, 576: 100, 1400: 600}


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(1, 300))
@settings(deadline=None, max_examples=50)
def test_no_size_leaves_its_bounds(smallest: int, more: int, count: int) -> None:
    for fields in (
        {"distribution": "natural"},
        {"distribution": "uniform"},
        {"distribution": "pareto", "alpha": 0.5},
        {"distribution": "lognormal", "median": 300, "sigma": 3},
        {"distribution": "empirical", "weights": {1: 1, 5000: 1}},
    ):
        sizes = _sizes(count, min=smallest, max=smallest + more, **fields)
        assert len(sizes) == count
        assert sizes.min() >= smallest
        assert sizes.max() <= smallest + more


@pytest.mark.parametrize(
    "wrong",
    [
        {"distribution": "natural", "min": 10, "max": 5},
        {"distribution": "fixed"},
        {"distribution": "normal"},
        {"distribution": "pareto", "alpha": 0},
        {"distribution": "empirical", "weights": {10: 0}},
        {"distribution": "empirical", "weights": {10: -1, 20: 5}},
        {"distribution": "uniform", "max": "many"},
        {"distribution": "uniform", "sigma": 1},
    ],
)
def test_wrong_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SIZE.validate_python(wrong)


@pytest.mark.parametrize("name", KINDS)
def test_a_body_and_its_marker_have_the_size_together(name: str) -> None:
    size = SIZE.validate_python({"distribution": "fixed", "bytes": 400})
    bodies = generate_bodies(KINDS[name], size, PoolLimits(messages=5), 1, marker_bytes=64, largest_bytes=65507)
    assert [len(body) for body in bodies] == [336] * 5


def test_a_pool_keeps_to_its_bytes() -> None:
    size = SIZE.validate_python({"distribution": "fixed", "bytes": 1000})
    limits = PoolLimits(messages=1000, bytes=10_500)
    bodies = generate_bodies(KINDS["padding"], size, limits, 1, marker_bytes=0, largest_bytes=65507)
    assert len(bodies) == 10
