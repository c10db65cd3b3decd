"""Snapshots: what the dispatcher predicts with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX
from streamspec.core.prediction import LATENCY, MAX_VARIANTS, PREDICTION, Head, LaneState
from streamspec.profiles.array_bytes import pack_arrays, unpack_arrays
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.head_plan import plan_heads
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.online_inputs import INPUT_NAMES, SHARES
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.snapshot import Snapshot, first_snapshot
from streamspec.testing.outcomes import HEADS, make_outcomes
from tests.profiles.test_online import ProportionalBase

PLAN = plan_heads(HEADS)


def taught(step: bool = True) -> OnlineLayer:
    layer = OnlineLayer(HEADS, config=LearningConfig(tree_cpu_share=1.0), cpu_ns=lambda: 0)
    for seed in range(10):
        layer.learn(make_outcomes(seed, 200, step=step))
    return layer


LAYER = taught()
TAUGHT, FIRST = LAYER.snapshot(1), first_snapshot(PLAN, None)


def test_bytes_and_back_predict_the_same() -> None:
    snapshot = LAYER.snapshot(7)
    again = Snapshot.from_bytes(snapshot.to_bytes(), PLAN, None)
    rows = make_outcomes(99, 300)
    ours, theirs = np.zeros(300, dtype=PREDICTION), np.zeros(300, dtype=PREDICTION)
    snapshot.predict(rows["features"], 0.3, ours)
    again.predict(rows["features"], 0.3, theirs)
    assert ours.tobytes() == theirs.tobytes()
    assert (again.version, again.coverage, again.status) == (7, 0.9, snapshot.status)


def test_a_snapshot_does_not_change_when_the_layer_learns_on() -> None:
    layer = taught(step=False)
    snapshot = layer.snapshot(1)
    rows = make_outcomes(99, 50)
    before, after = np.zeros(50, dtype=PREDICTION), np.zeros(50, dtype=PREDICTION)
    snapshot.predict(rows["features"], 0.3, before)
    layer.learn(make_outcomes(50, 500, slower=5))
    snapshot.predict(rows["features"], 0.3, after)
    assert before.tobytes() == after.tobytes()


def test_prediction_equals_the_plain_form() -> None:
    """Linear model, tree, base model and bounds, written with numpy for one row at a time."""
    layer = OnlineLayer(HEADS, ProportionalBase(), LearningConfig(tree_cpu_share=1.0), cpu_ns=lambda: 0)
    for seed in range(20):
        layer.learn(make_outcomes(seed, 200, step=True))
    snapshot = layer.snapshot(1)
    assert (snapshot._correction.roots >= 0).any()
    rows = make_outcomes(98, 40)
    out = np.zeros(40, dtype=PREDICTION)
    snapshot.predict(rows["features"], 0.25, out)
    offsets = ProportionalBase().predict_log(rows["features"])
    for row, said, offset in zip(rows["features"], out, offsets, strict=True):
        logs = [_log(snapshot, head, row, 0.25, offset[head]) for head in range(len(HEADS))]
        work = math.exp(logs[0]) + math.exp(logs[1])
        bounds, group = snapshot._correction.bounds, int(row[FEATURE_INDEX["type_code"]])
        quantile = bounds[1 + group if bounds[1 + group, 2] >= 20 else 0, 0] + snapshot._correction.doubt[0]
        assert said["work_ns"] == pytest.approx(work, rel=1e-5)
        assert said["upper_ns"] == pytest.approx(work * math.exp(max(quantile, 0)), rel=1e-5)
        assert said["variant_work_ns"][1] == pytest.approx(math.exp(logs[0]) + math.exp(logs[2]), rel=1e-5)
        assert said["variant_ratio"][:2] == pytest.approx([math.exp(logs[3]), math.exp(logs[4])], rel=1e-5)


def _log(snapshot: Snapshot, head: int, row: np.ndarray, host_load: float, offset: float) -> float:
    x = np.array(
        [1.0, np.log2(row[0] + 1.0) - 12, np.log2(row[1] + 1.0) - 4, host_load]
        + [float(row[FEATURE_INDEX[name]]) * scale + shift for name, scale, shift in SHARES]
    )
    model = snapshot._correction
    total = offset + model.weights[head, :9] @ x[:9] + model.weights[head, 9 + int(row[FEATURE_INDEX["type_code"]])]
    node = model.roots[head]
    while node >= 0 and model.inputs[node] >= 0:
        node = model.left[node] if x[model.inputs[node]] <= model.values[node] else model.right[node]
    return float(total + (model.values[node] if node >= 0 else 0.0))


def test_the_first_two_features_are_length_and_packets() -> None:
    assert (FEATURE_INDEX["length_bytes"], FEATURE_INDEX["packets"]) == (0, 1)
    assert INPUT_NAMES[:2] == ("constant", "log2_length")


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=FEATURE_COUNT, max_size=FEATURE_COUNT
    ),
    host_load=st.floats(allow_nan=True, allow_infinity=True),
    wait=st.floats(allow_nan=True, allow_infinity=True),
)
def test_whatever_comes_in_predictions_are_finite_and_not_negative(
    values: list[float], host_load: float, wait: float
) -> None:
    features = np.array([values, values], dtype=np.float32)
    for snapshot in (TAUGHT, FIRST):
        out = np.zeros(2, dtype=PREDICTION)
        snapshot.predict(features, host_load, out)
        numbers = out.view(np.float32)
        assert np.isfinite(numbers).all()
        assert (numbers >= 0).all()
        assert (out["upper_ns"] >= out["work_ns"]).all()
        late = np.zeros(1, dtype=LATENCY)
        snapshot.predict_latency(np.array([wait]), np.array([wait]), LaneState(host_load=host_load), 1e6, late)
        assert np.isfinite(late.view(np.float32)).all()
        assert 0 <= late["miss_chance"][0] <= 1


def test_an_output_that_is_a_column_of_something_else_is_filled_too() -> None:
    rows = make_outcomes(1, 8)
    wide = np.zeros(8, dtype=[("other", "<i8"), ("said", PREDICTION)])
    plain = np.zeros(8, dtype=PREDICTION)
    LAYER.snapshot(1).predict(rows["features"], 0.5, wide["said"])
    LAYER.snapshot(1).predict(rows["features"], 0.5, plain)
    np.testing.assert_array_equal(wide["said"]["work_ns"], plain["work_ns"])
    LAYER.snapshot(1).predict(rows["features"][:0], 0.5, plain[:0])


def test_chains_without_variants_or_heads_are_predicted_too() -> None:
    rows = make_outcomes(1, 4)
    for heads in ((), (Head("useful_time", 0, 0, "map"),), HEADS[1:2]):
        out = np.ones(4, dtype=PREDICTION)
        first_snapshot(plan_heads(heads), None).predict(rows["features"], 0.0, out)
        assert (out["variant_work_ns"] == 0).all() or heads
        assert out["variant_work_ns"].shape == (4, MAX_VARIANTS)
        assert ((out["work_ns"] > 0) == bool(heads)).all()


@settings(max_examples=100, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_bytes_are_refused(share: float) -> None:
    content = LAYER.snapshot(1).to_bytes()
    with pytest.raises(ContentRefused):
        Snapshot.from_bytes(content[: int(share * len(content))], PLAN, None)


@pytest.mark.parametrize(
    ("name", "change"),
    [("left", 0), ("right", 10**9), ("inputs", 99), ("values", np.nan), ("weights", np.inf), ("roots", 10**6)],
)
def test_arrays_that_a_kernel_could_not_follow_are_refused(name: str, change: float) -> None:
    facts, arrays = unpack_arrays(TAUGHT.to_bytes())
    assert len(arrays["correction.inputs"]) > 1
    broken = arrays[f"correction.{name}"].copy()
    broken.flat[0] = change
    with pytest.raises(ContentRefused):
        Snapshot.from_bytes(pack_arrays(facts, arrays | {f"correction.{name}": broken}), PLAN, None)


def test_a_snapshot_of_another_chain_is_refused() -> None:
    content = LAYER.snapshot(1).to_bytes()
    with pytest.raises(ContentRefused, match="other heads"):
        Snapshot.from_bytes(content, plan_heads(HEADS[:2]), None)
    with pytest.raises(ContentRefused, match="other heads"):
        Snapshot.from_bytes(content, PLAN, ProportionalBase())
