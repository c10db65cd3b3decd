"""The fast models: River's rules, the plain form of the filter, sudden changes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import checks

from streamspec.profiles.challenger import new_tree
from streamspec.profiles.tracking import TrackingClassifier, TrackingRegression
from streamspec.profiles.tracking_kernels import (
    ALARM_ALL,
    ALARM_GROUP,
    CLIP,
    COUNT,
    NOISE,
    NOISE_FLOOR,
    NOISE_GAIN,
    SETTLED,
    Tracking,
    linear,
    new_tracking,
    track,
)

Floats = npt.NDArray[np.float64]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning:river", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "model", [TrackingRegression(), TrackingClassifier(), new_tree()], ids=lambda m: type(m).__name__
)
def test_river_accepts_the_estimators(model: object) -> None:
    pytest.importorskip("sklearn", reason="River's checks take their data from scikit-learn")
    checks.check_estimator(model)


def test_a_line_is_learned_in_as_many_outcomes_as_it_has_weights() -> None:
    model = TrackingRegression()
    rng = random.Random(1)
    for _ in range(20):
        x = {"a": rng.uniform(-1, 1), "b": rng.uniform(-1, 1)}
        model.learn_one(x, 3 * x["a"] - x["b"] + 7)
    assert model.predict_one({"a": 0.5, "b": 0.5}) == pytest.approx(8, abs=0.1)
    assert model.learned == 20


def test_one_wild_outcome_hardly_moves_a_settled_model() -> None:
    model = TrackingRegression()
    rng = random.Random(1)
    for _ in range(500):
        model.learn_one({}, 5 + rng.gauss(0, 0.1))
    model.learn_one({}, 50.0)
    assert model.predict_one({}) == pytest.approx(5, abs=0.1)


def test_a_sudden_change_is_learned_in_a_few_outcomes() -> None:
    model = TrackingRegression()
    rng = random.Random(1)
    for _ in range(2000):
        model.learn_one({}, 5 + rng.gauss(0, 0.1))
    for _ in range(15):
        model.learn_one({}, 6 + rng.gauss(0, 0.1))
    assert model.predict_one({}) == pytest.approx(6, abs=0.15)


def test_the_classifier_gives_the_chance() -> None:
    model = TrackingClassifier()
    rng = random.Random(1)
    for _ in range(4000):
        z = rng.uniform(-2, 2)
        model.learn_one({"z": z}, rng.random() < 1 / (1 + np.exp(-2 * z)))
    assert model.predict_proba_one({"z": 1.0})[True] == pytest.approx(0.88, abs=0.06)
    assert model.predict_proba_one({"z": -1.0})[True] == pytest.approx(0.12, abs=0.06)


def fresh(inputs: int, groups: int) -> Tracking:
    size = inputs + groups
    prior = np.full((1, size), 1.0)
    prior[0, 0] = 25.0
    return new_tracking(np.zeros((1, size)), prior, np.full(size, 0.02), groups)


def one_hot(x: Floats, group: int, groups: int) -> Floats:
    full = np.concatenate([x, np.zeros(groups)])
    full[len(x) + group] = 1.0
    return full


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(1, 4), steps=st.integers(1, SETTLED))
def test_kernel_equals_the_filter_as_matrices(seed: int, groups: int, steps: int) -> None:
    """Before errors are cut and tested it is the textbook filter."""
    rng = np.random.default_rng(seed)
    state = fresh(3, groups)
    weights, covariance, noise = np.zeros(3 + groups), np.diag(state.prior[0]), 0.1
    scratch = np.zeros(3 + groups)
    for step in range(steps):
        x, group, y = rng.normal(0, 1, 3), int(rng.integers(groups)), float(rng.normal(0, 2))
        track(state, 0, x, group, y, scratch)
        full = one_hot(x, group, groups)
        grown = np.diag(covariance) + 0.02**2 * noise
        np.fill_diagonal(covariance, np.where(grown <= state.prior[0], grown, np.diag(covariance)))
        error = y - weights @ full
        total = full @ covariance @ full + noise
        gain = covariance @ full / total
        weights = weights + gain * error
        covariance = covariance - np.outer(gain, covariance @ full)
        squared = min(error * error / total, 9.0)
        noise = max(noise + max(1 / (step + 2), NOISE_GAIN) * (squared - 1) * noise, NOISE_FLOOR)
    np.testing.assert_allclose(state.weights[0], weights, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(state.covariance[0], covariance, rtol=1e-6, atol=1e-9)
    assert state.numbers[0, NOISE] == pytest.approx(noise)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1.0, 1e3, 1e6]),
    wild=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20),
)
def test_no_outcome_breaks_a_model(seed: int, scale: float, wild: list[float]) -> None:
    rng = np.random.default_rng(seed)
    state, scratch = fresh(3, 2), np.zeros(5)
    for y in [*rng.normal(0, scale, 300), *wild, *rng.normal(0, 1, 50)]:
        track(state, 0, rng.normal(0, 1, 3), int(rng.integers(2)), float(y), scratch)
    assert all(np.isfinite(array).all() for array in state)
    assert (np.diagonal(state.covariance[0]) > 0).all()
    assert (np.diagonal(state.covariance[0]) <= 2.01 * state.prior[0]).all()


def settle(state: Tracking, rng: np.random.Generator, groups: int) -> Iterator[int]:
    """Alarms of a thousand outcomes like one another."""
    scratch = np.zeros(state.weights.shape[1])
    for _ in range(1000):
        yield track(state, 0, np.array([1.0]), int(rng.integers(groups)), float(rng.normal(2, 0.1)), scratch)


def test_page_rings_for_the_group_that_changed_and_rarely_without_reason() -> None:
    rng = np.random.default_rng(1)
    state, scratch = fresh(1, 10), np.zeros(11)
    assert sum(alarm > 0 for alarm in settle(state, rng, 10)) <= 1
    seen = 0
    for step in range(200):  # one in ten outcomes is of the group that changed
        group = step % 10
        seen |= track(state, 0, np.array([1.0]), group, float(rng.normal(2 + (group == 3), 0.1)), scratch)
    assert seen & (ALARM_GROUP | ALARM_ALL)
    assert linear(state, 0, np.array([1.0]), 3) == pytest.approx(3, abs=0.1)
    assert linear(state, 0, np.array([1.0]), 4) == pytest.approx(2, abs=0.1)


def test_errors_are_cut_at_the_stated_deviation() -> None:
    rng = np.random.default_rng(1)
    state, scratch = fresh(1, 1), np.zeros(2)
    list(settle(state, rng, 1))
    before = linear(state, 0, np.array([1.0]), 0)
    track(state, 0, np.array([1.0]), 0, 1e9, scratch)
    assert 0 < linear(state, 0, np.array([1.0]), 0) - before < CLIP * 0.1
    assert state.numbers[0, COUNT] == 1001
