"""The quantile that upper bounds are made of, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.profiles.bound_kernels import BINS, COLUMNS, QUANTILE, SEEN, bound_row, move_bounds, new_bounds


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_quantile_is_that_of_recent_errors(coverage: float) -> None:
    rng = np.random.default_rng(1)
    bounds, errors = new_bounds(1, 1.0), rng.normal(0.3, 0.2, 6000)
    for error in errors:
        move_bounds(bounds, -1, float(error), coverage, 0.0, False)
    assert bounds[0, QUANTILE] == pytest.approx(np.quantile(errors, coverage), abs=0.12)
    assert bounds[0, SEEN] == 6000


def test_a_type_has_its_own_bound_once_it_was_seen_often_enough() -> None:
    rng = np.random.default_rng(1)
    bounds = new_bounds(3, 0.4)
    for turn in range(600):
        group = 0 if turn < 590 else 1
        move_bounds(bounds, group, float(rng.normal(0, 0.05 if group == 0 else 0.8)), 0.9, 0.0, False)
    assert (bound_row(bounds, 0), bound_row(bounds, 1)) == (1, 0)
    assert bounds[1, QUANTILE] == pytest.approx(0.064, abs=0.03)


@settings(max_examples=80, deadline=None)
@given(
    errors=st.lists(st.floats(-1e3, 1e3), max_size=60),
    coverage=st.floats(0.5, 0.999),
    doubts=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_no_error_breaks_a_bound(errors: list[float], coverage: float, doubts: list[bool]) -> None:
    bounds = new_bounds(4, 0.4)
    for turn, (error, in_doubt) in enumerate(zip(errors, doubts, strict=False)):
        move_bounds(bounds, turn % 4 - 1, error, coverage, 0.0, in_doubt)
    assert np.isfinite(bounds).all()
    assert (bounds[:, COLUMNS - BINS :] >= 0).all()
    assert (bounds[:, QUANTILE] <= 4.0).all()
