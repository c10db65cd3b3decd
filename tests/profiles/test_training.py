"""Fitting, exporting and judging, with the real scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX
from streamspec.profiles.base_model import COVERAGES
from streamspec.profiles.training import (
    PARAMETERS,
    Samples,
    TreeParameters,
    code_features,
    cross_validate,
    errors,
    fit,
    fit_head,
    margins_of,
    split_groups,
)

pytest.importorskip("sklearn")
pytestmark = pytest.mark.slow

QUICK = {target: TreeParameters(trees=20, learning_rate=0.3) for target in PARAMETERS}


def make_samples(count: int = 600, seed: int = 0) -> Samples:
    """Work that depends on length and entropy; the ratio on entropy alone."""
    noise = np.random.default_rng(seed)
    features = noise.random((count, FEATURE_COUNT)).astype(np.float32)
    features[:, 0] = noise.integers(100, 65_536, count)
    entropy = features[:, FEATURE_INDEX["entropy_bits"]] * 8
    features[:, FEATURE_INDEX["entropy_bits"]] = entropy
    work = (2000 + features[:, 0]) * np.exp(1 - entropy / 3) * np.exp(noise.normal(0, 0.03, count))
    ratio = np.clip(entropy / 8, 0.01, 1)
    values = np.column_stack([work, ratio]).astype(np.float64)
    names = ("useful_time:stage", "output_ratio:stage")
    return Samples(features, names, values, np.arange(count) // 10, np.ones(count, dtype=bool))


def test_content_features_beat_size_on_files_that_were_left_out() -> None:
    samples = make_samples()
    found = {
        use: errors(samples.values[:, 0], cross_validate(samples, use=use, folds=3, parameters=QUICK)[:, 0])  # type: ignore[arg-type]
        for use in ("size", "content")
    }
    assert found["content"]["work_error"] < 0.15 < 0.4 < found["size"]["work_error"]
    assert found["content"]["r2_log"] > 0.9


def test_exported_trees_equal_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    kept: list[Any] = []
    original = HistGradientBoostingRegressor.fit

    def fit_and_keep(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(HistGradientBoostingRegressor, "fit", fit_and_keep)
    samples = make_samples()
    coded = code_features(samples.features)
    forest, bias = fit_head(coded, samples.values[:, 1], "output_ratio", TreeParameters(trees=15, depth=5))
    np.testing.assert_allclose(
        forest.sums(samples.features)[:, 0] + bias, kept[0].predict(coded.codes), rtol=1e-5, atol=1e-5
    )


def test_a_head_is_fitted_to_the_segments_that_measured_it() -> None:
    samples = make_samples()
    values = samples.values.copy()
    values[:300, 1] = np.nan
    model = fit(Samples(samples.features, samples.heads, values, samples.group, samples.counts), parameters=QUICK)
    guesses = np.exp(model.predict_log(samples.features[:300]))
    assert errors(samples.values[:300, 1], guesses[:, 1])["work_error"] < 0.2


def test_no_file_is_on_both_sides_of_a_split() -> None:
    group = np.repeat(np.arange(23), 4)
    work = np.random.default_rng(1).random(92)
    fold = split_groups(group, work, 5)
    assert set(fold) == set(range(5))
    assert all(len(set(fold[group == number])) == 1 for number in range(23))
    shares = np.bincount(fold, weights=work) / work.sum()
    assert shares.max() < 0.3
    assert set(split_groups(np.zeros(4, dtype=np.int64), np.ones(4), 5)) == {0}


def test_margins_cover_what_they_say() -> None:
    samples = make_samples(800)
    guesses = samples.values * np.exp(np.random.default_rng(2).normal(0, 0.3, samples.values.shape))
    margins = margins_of(samples, guesses)
    assert (np.diff(margins, axis=1) >= 0).all()
    for place, share in enumerate(COVERAGES):
        covered = (samples.values[:, 0] <= guesses[:, 0] * np.exp(margins[0, place])).mean()
        assert covered == pytest.approx(share, abs=0.01)


def test_errors_tell_nothing_where_there_is_nothing() -> None:
    assert errors(np.array([np.nan]), np.array([1.0]))["work_error"] is None
    one = errors(np.array([100.0]), np.array([90.0]))
    assert one == {"work_error": 0.1, "r2_log": None, "segments": 1}
