"""The base model as bytes and as a predictor."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.prediction import PREDICTION, Head
from streamspec.profiles.base_model import BasePredictor, head_names, load, packaged
from streamspec.profiles.refusals import ContentRefused
from tests.profiles.test_trees import make_features, make_model

HEADS = (
    Head("useful_time", 0, 0, "inspect"),
    Head("useful_time", 1, 0, "compress:zstd:1"),
    Head("useful_time", 1, 1, "compress:zstd:9", is_default=False),
    Head("output_ratio", 1, 0, "compress:zstd:1"),
    Head("output_ratio", 1, 1, "compress:zstd:9", is_default=False),
)
NAMES = head_names(HEADS)


def model_of(names: tuple[str, ...] = NAMES) -> Any:
    return make_model(7, (4,) * len(names), 4, names)


def test_bytes_give_the_same_model_again() -> None:
    model, features = model_of(), make_features(1, 20)
    again = load(model.to_bytes())
    np.testing.assert_array_equal(again.predict_log(features), model.predict_log(features))
    assert again.heads == NAMES
    assert again.to_bytes() == model.to_bytes()


def test_no_object_is_ever_unpickled() -> None:
    file = io.BytesIO()
    np.savez(file, facts=np.array([{"format": 1}], dtype=object))
    with pytest.raises(ContentRefused):
        load(file.getvalue())


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(cut=st.integers(0, 4000), flip=st.integers(0, 4000), value=st.integers(1, 255))
def test_damaged_bytes_are_refused_or_harmless(cut: int, flip: int, value: int) -> None:
    content = bytearray(model_of().to_bytes())
    content[flip % len(content)] ^= value
    for damaged in (bytes(content), bytes(content[: cut % len(content)])):
        try:
            model = load(damaged)
        except ContentRefused:
            continue
        assert np.isfinite(model.predict_log(make_features(1, 3))).all()


def test_another_feature_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = model_of().to_bytes()
    monkeypatch.setattr("streamspec.profiles.base_model.FEATURE_SCHEMA_VERSION", 999)
    with pytest.raises(ContentRefused, match="another feature schema"):
        load(content)


def test_the_chain_is_the_sum_of_its_stages() -> None:
    model, features = model_of(), make_features(2, 13)
    out = np.zeros(13, dtype=PREDICTION)
    BasePredictor(model, HEADS).predict(features, 0.5, out)
    cost = np.exp(model.predict_log(features))
    np.testing.assert_allclose(out["work_ns"], cost[:, 0] + cost[:, 1], rtol=1e-5)
    np.testing.assert_allclose(out["variant_work_ns"][:, 0], cost[:, 0] + cost[:, 1], rtol=1e-5)
    np.testing.assert_allclose(out["variant_work_ns"][:, 1], cost[:, 0] + cost[:, 2], rtol=1e-5)
    np.testing.assert_allclose(out["variant_ratio"][:, 1], cost[:, 4], rtol=1e-5)
    assert not out["variant_work_ns"][:, 2:].any()
    assert (out["upper_ns"] > out["work_ns"]).all()


def test_more_coverage_gives_a_higher_bound() -> None:
    features, bounds = make_features(3, 5), []
    for coverage in (0.8, 0.9, 0.97):
        out = np.zeros(5, dtype=PREDICTION)
        BasePredictor(model_of(), HEADS, coverage=coverage).predict(features, 0, out)
        bounds.append(out["upper_ns"].copy())
    assert (bounds[0] <= bounds[1]).all()
    assert (bounds[1] <= bounds[2]).all()


def test_heads_that_were_never_trained_are_predicted_from_the_length_and_named() -> None:
    predictor = BasePredictor(model_of(NAMES[:1]), HEADS)
    assert predictor.blind_heads == NAMES[1:]
    features = np.zeros((2, FEATURE_COUNT), dtype=np.float32)
    features[:, 0] = 1000, 60_000
    out = np.zeros(2, dtype=PREDICTION)
    predictor.predict(features, 0, out)
    assert out["variant_work_ns"][1, 1] > 5 * out["variant_work_ns"][0, 1] > 0
    assert (out["variant_ratio"][:, :2] == 1).all()


@pytest.mark.parametrize("model", [None, "trained"])
def test_whatever_the_features_the_prediction_is_finite(model: str | None) -> None:
    predictor = BasePredictor(model_of() if model else None, HEADS)
    features = np.array([[np.nan], [np.inf], [-np.inf], [0.0]], dtype=np.float32) * np.ones(FEATURE_COUNT, np.float32)
    out = np.zeros(8, dtype=PREDICTION)[::2]  # not contiguous, as a column of a larger table
    predictor.predict(features, 0, out)
    for name in PREDICTION.names or ():
        assert np.isfinite(out[name]).all()
        assert (out[name] >= 0).all()


def test_a_chain_keeps_only_its_own_heads() -> None:
    model = model_of()
    assert model.restricted(["output_ratio:compress:zstd:9", "useful_time:absent", NAMES[0]]).heads == (
        "output_ratio:compress:zstd:9",
        NAMES[0],
    )


def test_the_packaged_model_knows_the_built_in_stages() -> None:
    content = packaged()
    if content is None:
        pytest.skip("this tree has no packaged base model (make base-model)")
    assert len(content) < 1_000_000
    model = load(content)
    wanted = {"inspect", "decode", "meter", *(f"compress:zstd:{level}" for level in (1, 3, 9)), "compress:lz4:0"}
    assert {f"useful_time:{key}" for key in wanted} <= set(model.heads)
    assert "generated" in model.training_set["traffic"]
    features = np.zeros((1, FEATURE_COUNT), dtype=np.float32)
    features[0, :2] = 65_536, 50
    logs = dict(zip(model.heads, model.predict_log(features)[0], strict=True))
    assert logs["useful_time:compress:zstd:9"] > logs["useful_time:compress:lz4:0"]
