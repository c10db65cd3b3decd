"""Boosted trees as flat arrays: the kernel, the plain form, and what is refused."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_COUNT
from streamspec.profiles.base_model import COVERAGES, BaseModel
from streamspec.profiles.trees import Forest, MalformedForest, finite_rows, join_forests

ROWS = st.sampled_from([0, 1, 7, 8, 9, 64, 67])


def make_forest(seed: int, trees: tuple[int, ...], depth: int) -> Forest:
    """Random trees, some branches of which end early."""
    noise = np.random.default_rng(seed)
    total, inner = sum(trees), (1 << depth) - 1
    threshold = noise.normal(size=(total, inner)).astype(np.float32)
    threshold[noise.random((total, inner)) < 0.2] = np.inf
    return Forest(
        noise.integers(0, FEATURE_COUNT, (total, inner)).astype(np.uint8),
        threshold,
        noise.normal(size=(total, inner + 1)).astype(np.float32),
        np.cumsum([0, *trees]).astype(np.int64),
    )


def make_model(seed: int, trees: tuple[int, ...], depth: int, names: tuple[str, ...] = ()) -> BaseModel:
    noise = np.random.default_rng(seed)
    names = names or tuple(f"useful_time:stage:{number}" for number in range(len(trees)))
    heads = len(trees)
    margins = np.sort(noise.random((heads, len(COVERAGES))), axis=1)
    return BaseModel(names, make_forest(seed, trees, depth), noise.normal(size=heads), noise.random(heads), margins)


def make_features(seed: int, rows: int) -> Any:
    features = np.random.default_rng(seed).normal(size=(rows, FEATURE_COUNT)).astype(np.float32)
    features[:, 0] = np.abs(features[:, 0]) * 5000
    return features


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    rows=ROWS,
    depth=st.integers(1, 7),
    trees=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
)
def test_the_kernel_equals_the_plain_form(seed: int, rows: int, depth: int, trees: tuple[int, ...]) -> None:
    model, features = make_model(seed, trees, depth), make_features(seed, rows)
    np.testing.assert_allclose(model.predict_log(features), model.predict_log_plainly(features), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    features=hnp.arrays(np.float32, (9, FEATURE_COUNT), elements=st.floats(width=32, allow_nan=True, min_value=None)),
)
def test_any_features_give_finite_predictions(features: Any) -> None:
    predicted = make_model(1, (5, 3), 4).predict_log(features)
    assert np.isfinite(predicted).all()


def test_equal_to_a_threshold_goes_left_as_in_scikit_learn() -> None:
    forest = Forest(
        np.array([[2]], dtype=np.uint8),
        np.array([[0.5]], dtype=np.float32),
        np.array([[10, 20]], dtype=np.float32),
        np.array([0, 1], dtype=np.int64),
    )
    model = BaseModel(("useful_time:a",), forest, np.zeros(1), np.zeros(1), np.zeros((1, len(COVERAGES))))
    features = np.zeros((3, FEATURE_COUNT), dtype=np.float32)
    features[:, 2] = [0.4, 0.5, np.nextafter(np.float32(0.5), np.float32(1))]
    assert model.predict_log(features)[:, 0].tolist() == [10, 10, 20]


def test_restricted_forests_keep_their_heads() -> None:
    forest, features = make_forest(3, (2, 0, 5), 3), make_features(3, 11)
    both = forest.restricted([2, 0])
    np.testing.assert_array_equal(both.sums(features), forest.sums(features)[:, [2, 0]])
    parts = [forest.restricted([head]) for head in range(3)]
    np.testing.assert_array_equal(join_forests(parts).sums(features), forest.sums(features))


def test_rows_that_are_finite_are_not_copied() -> None:
    features = make_features(4, 5)
    assert np.shares_memory(finite_rows(features), features)
    features[2, 3] = np.nan
    assert finite_rows(features)[2, 3] == 0


def _broken(**changes: Any) -> dict[str, Any]:
    forest = make_forest(1, (3,), 3)
    return {name: getattr(forest, name).copy() for name in forest.__dataclass_fields__} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"feature": np.full((3, 7), FEATURE_COUNT, dtype=np.uint8)},
        {"feature": np.zeros((3, 6), dtype=np.uint8)},
        {"feature": np.zeros((3, 7), dtype=np.int64)},
        {"threshold": np.full((3, 7), np.nan, dtype=np.float32)},
        {"leaf": np.full((3, 8), np.inf, dtype=np.float32)},
        {"leaf": np.zeros((3, 9), dtype=np.float32)},
        {"first_tree": np.array([0, 4], dtype=np.int64)},
        {"first_tree": np.array([0, 5, 3], dtype=np.int64)},
        {"first_tree": np.array([], dtype=np.int64)},
    ],
)
def test_arrays_that_the_kernel_could_not_read_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedForest):
        Forest(**_broken(**changes))


def test_a_forest_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make_forest(1, (2,), 2).leaf[0, 0] = 1
