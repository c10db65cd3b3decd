"""The online layer: what it learns, how fast it follows changes, and that it does so for ever."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_INDEX
from streamspec.core.interfaces import Rows
from streamspec.core.prediction import LATENCY, PREDICTION, Features, Head, LaneState
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.head_plan import Floats
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.snapshot import Snapshot
from streamspec.profiles.unpickling import dump_state, load_state
from streamspec.testing.outcomes import COMPRESS_1, HEADS, INSPECT, NOISE, make_outcomes

NO_TREES = LearningConfig(tree_cpu_share=0.0)


class ProportionalBase:
    """A base model of another machine: right but for a factor."""

    heads: Sequence[str] = tuple(f"{head.target}:{head.cost_key}" for head in HEADS)

    def predict_log(self, features: Features) -> Floats:
        length = np.maximum(features[:, FEATURE_INDEX["length_bytes"]], 1).astype(np.float64)
        entropy = features[:, FEATURE_INDEX["entropy_bits"]].astype(np.float64)
        times = [np.log(c * length / 1024) + 6.9 for c in (1.0, 10.0, 2.5)]
        times[1:] = [time - (entropy - 5) / 3 for time in times[1:]]
        return np.stack([*times, *[np.log(np.maximum(entropy, 0.1) / 8)] * 2], axis=1)


def learn(layer: OnlineLayer, rows: Rows, batch: int = 64) -> Floats:
    """:func:`learn_and_predict`, the work alone."""
    return learn_and_predict(layer, rows, batch)["work_ns"].astype(np.float64)


def learn_and_predict(layer: OnlineLayer, rows: Rows, batch: int = 64) -> Rows:
    """Learn in batches, as the process does; what was predicted of each row just before its batch was learned."""
    said = np.zeros(len(rows), dtype=PREDICTION)
    for first in range(0, len(rows), batch):
        some = rows[first : first + batch]
        layer.snapshot(first).predict(some["features"], 0.5, said[first : first + batch])
        layer.learn(some)
    return said


def work_error(predicted: npt.NDArray[np.floating], rows: Rows) -> float:
    measured = rows["useful_ns"].sum(1)
    return float(np.abs(predicted - measured).sum() / measured.sum())


def predict(snapshot: Snapshot, rows: Rows, host_load: float = 0.5) -> Rows:
    out = np.zeros(len(rows), dtype=PREDICTION)
    snapshot.predict(rows["features"], host_load, out)
    return out


# -- what it learns -----------------------------------------------------------------------------
def test_without_a_base_it_learns_cost_from_content() -> None:
    layer = OnlineLayer(HEADS, config=NO_TREES)
    rows = make_outcomes(1, 2000)
    said = learn(layer, rows)
    assert work_error(said[1500:], rows[1500:]) < 0.15
    by_size = np.polyfit(np.log(rows["length"]), np.log(rows["useful_ns"].sum(1)), 1)
    assert work_error(said[1500:], rows[1500:]) < 0.4 * work_error(
        np.exp(np.polyval(by_size, np.log(rows["length"][1500:]))), rows[1500:]
    )


def test_before_anything_is_learned_larger_segments_cost_more() -> None:
    rows = make_outcomes(1, 500)
    said = predict(OnlineLayer(HEADS).snapshot(1), rows)["work_ns"]
    assert np.corrcoef(np.log(said), np.log(rows["length"]))[0, 1] > 0.99


def test_a_base_of_another_machine_is_corrected_in_a_few_segments() -> None:
    layer = OnlineLayer(HEADS, ProportionalBase(), NO_TREES)
    rows = make_outcomes(1, 128)
    said = learn(layer, rows, batch=16)
    assert work_error(said[:16], rows[:16]) > 0.4
    assert work_error(said[64:], rows[64:]) < 0.13


def test_output_ratio_is_learned_per_variant() -> None:
    layer = OnlineLayer(HEADS, config=NO_TREES)
    rows = make_outcomes(1, 3000)
    rows["variant"][::2, 1] = 1
    rows["payload_bytes_out"][::2] = rows["length"][::2]
    learn(layer, rows)
    said = predict(layer.snapshot(1), rows)["variant_ratio"]
    truth = rows["payload_bytes_out"][1::2] / rows["length"][1::2]
    assert np.abs(said[1::2, 0] - truth).mean() < 0.06
    assert said[:, 1].mean() == pytest.approx(1.0, abs=0.05)
    assert (said[:, 2:] == 0).all()


def test_a_variant_that_never_ran_takes_over_the_speed_of_the_machine() -> None:
    layer = OnlineLayer(HEADS, ProportionalBase(), NO_TREES)  # it is twice as slow as the base says
    rows = make_outcomes(1, 300)
    learn(layer, rows)
    said = predict(layer.snapshot(1), rows)
    expected = np.exp(ProportionalBase().predict_log(rows["features"]))[:, [INSPECT, COMPRESS_1]].sum(1) * 2
    assert np.median(said["variant_work_ns"][:, 1] / expected) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(said["variant_work_ns"][:, 0], said["work_ns"], rtol=1e-6)


def test_upper_holds_for_the_stated_share_of_segments() -> None:
    for coverage in (0.8, 0.9, 0.95):
        layer = OnlineLayer(HEADS, ProportionalBase(), LearningConfig(tree_cpu_share=0, coverage=coverage))
        rows = make_outcomes(1, 4000)
        said = learn_and_predict(layer, rows)[1000:]
        assert (rows["useful_ns"].sum(1)[1000:] <= said["upper_ns"]).mean() == pytest.approx(coverage, abs=0.02)
        assert np.median(said["upper_ns"] / said["work_ns"]) < np.exp(3 * NOISE)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95, 0.99])
def test_upper_of_the_chain_holds_whatever_its_stages_share(coverage: float) -> None:
    """Heavy tails, types that differ, stages that are slow together, and a snapshot that is 128 outcomes old."""
    layer = OnlineLayer(HEADS, ProportionalBase(), LearningConfig(tree_cpu_share=0, coverage=coverage))
    rows, rng = make_outcomes(1, 8000), np.random.default_rng(1)
    kind = rows["features"][:, FEATURE_INDEX["type_code"]]
    together = rng.normal(0, 1, len(rows)) * np.where(kind < 5, 0.4, 0.1)
    wild = np.where(rng.random(len(rows)) < 0.03, 10.0, 1.0)
    rows["useful_ns"][:, :2] = rows["useful_ns"][:, :2] * (np.exp(together) * wild)[:, None]
    said = learn_and_predict(layer, rows, batch=128)[1000:]
    below = rows["useful_ns"].sum(1)[1000:] <= said["upper_ns"]
    assert below.mean() == pytest.approx(coverage, abs=0.02)
    for some in (kind[1000:] < 5, kind[1000:] >= 5):
        assert below[some].mean() == pytest.approx(coverage, abs=0.03)


# -- changes ------------------------------------------------------------------------------------
def test_a_machine_twice_as_slow_is_followed_and_uncertainty_widens_meanwhile() -> None:
    layer = OnlineLayer(HEADS, ProportionalBase(), NO_TREES)
    before, after = make_outcomes(1, 2000), make_outcomes(2, 600, slower=2.0)
    earlier = work_error(learn(layer, before)[1000:], before[1000:])
    calm = predict(layer.snapshot(1), before)
    lesson = layer.learn(after[:8])
    assert lesson.drifts
    doubtful = predict(layer.snapshot(2), before)
    assert np.median(doubtful["upper_ns"] / doubtful["work_ns"]) > 1.3 * np.median(calm["upper_ns"] / calm["work_ns"])
    said = learn(layer, after[8:])
    assert work_error(said[292:], after[300:]) < 1.3 * earlier


def test_a_stage_that_got_dearer_for_one_type_is_followed() -> None:
    layer = OnlineLayer(HEADS, ProportionalBase(), NO_TREES)
    before, after = make_outcomes(1, 2000), make_outcomes(2, 900)
    earlier = work_error(learn(layer, before)[1000:], before[1000:])
    of_type = after["features"][:, FEATURE_INDEX["type_code"]] == 5
    after["useful_ns"][of_type, 1] *= 3
    said = learn(layer, after)
    assert work_error(said[300:], after[300:]) < 1.3 * earlier
    assert work_error(said[300:][of_type[300:]], after[300:][of_type[300:]]) < 2 * earlier


# -- champion and challenger --------------------------------------------------------------------
def test_a_tree_becomes_champion_where_a_line_is_not_enough() -> None:
    layer = OnlineLayer(HEADS, config=LearningConfig(tree_cpu_share=1.0), cpu_ns=lambda: 0)
    now = make_outcomes(1, 4000, step=True)
    learn(layer, now)
    status = layer.status()["heads"]
    assert status["useful_time:compress:zstd:9#1"]["champion"] == "tree"
    rows = make_outcomes(2, 1000, step=True)
    linear = OnlineLayer(HEADS, config=NO_TREES)
    learn(linear, now)
    with_tree, alone = (work_error(predict(one.snapshot(1), rows)["work_ns"], rows) for one in (layer, linear))
    assert with_tree < 0.7 * alone


def test_a_tree_that_does_not_help_stays_challenger() -> None:
    layer = OnlineLayer(HEADS, ProportionalBase(), LearningConfig(tree_cpu_share=1.0), cpu_ns=lambda: 0)
    learn(layer, make_outcomes(1, 1500))
    assert layer.status()["heads"]["useful_time:inspect#1"]["champion"] == "linear"


def clock(step_ns: int) -> Callable[[], int]:
    now = 0

    def read() -> int:
        nonlocal now
        now += step_ns
        return now

    return read


def test_trees_keep_to_their_budget_and_count_what_they_skip() -> None:
    # 10 ms pass between two readings of the clock, each measured piece of work takes 1 ms: a tenth is one piece
    layer = OnlineLayer(
        HEADS, config=LearningConfig(tree_cpu_share=0.1), now_ns=clock(10_000_000), cpu_ns=clock(1_000_000)
    )
    lessons = [layer.learn(make_outcomes(seed, 64)) for seed in range(200)]
    done, skipped = sum(one.tree_learned for one in lessons), sum(one.tree_skipped for one in lessons)
    assert done + skipped == 200 * 64 * 3
    assert sum(one.learned for one in lessons) == 200 * 64
    spent_ms = sum(1 for one in lessons if one.tree_learned)
    assert spent_ms <= 0.1 * 10 * 201 + 1


# -- exactly once, in order ---------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 120), max_size=8))
def test_batches_of_any_size_teach_the_same_as_one_by_one(cuts: list[int]) -> None:
    rows = make_outcomes(3, 120)
    rows["variant"][::3, 1] = 1
    alone, batched = OnlineLayer(HEADS, config=NO_TREES), OnlineLayer(HEADS, config=NO_TREES)
    for row in rows:
        alone.learn_one(row)
    edges = sorted({0, 120, *cuts})
    for first, last in itertools.pairwise(edges):
        batched.learn(rows[first:last])
    assert alone.learned == batched.learned == 120
    ours, theirs = predict(alone.snapshot(1), rows), predict(batched.snapshot(1), rows)
    np.testing.assert_allclose(ours["work_ns"], theirs["work_ns"], rtol=1e-6)
    np.testing.assert_allclose(ours["upper_ns"], theirs["upper_ns"], rtol=1e-6)


def test_what_measured_nothing_is_counted_as_such() -> None:
    rows = make_outcomes(1, 10)
    rows["useful_ns"][:4] = 0
    lesson = OnlineLayer(HEADS, config=NO_TREES).learn(rows)
    assert (lesson.learned, lesson.unmeasured) == (6, 4)


# -- latency ------------------------------------------------------------------------------------
def test_latency_and_the_chance_to_miss_follow_what_is_measured() -> None:
    objective_ns = 2e6
    layer = OnlineLayer(HEADS, ProportionalBase(), NO_TREES, objective_ns=objective_ns)
    learn(layer, make_outcomes(1, 4000))
    rows = make_outcomes(2, 2000)
    snapshot = layer.snapshot(1)
    work = predict(snapshot, rows)["work_ns"].astype(np.float64)
    out = np.zeros(len(rows), dtype=LATENCY)
    snapshot.predict_latency(
        rows["wait_ns"].astype(np.float64), work, LaneState(workers=2, host_load=0.5), objective_ns, out
    )
    assert np.median(np.abs(np.log(out["expected_ns"] / rows["latency_ns"]))) < 0.15
    assert (rows["latency_ns"] <= out["upper_ns"]).mean() == pytest.approx(0.9, abs=0.04)
    missed = rows["latency_ns"] > objective_ns
    assert out["miss_chance"].mean() == pytest.approx(missed.mean(), abs=0.03)
    assert out["miss_chance"][missed].mean() > 0.8
    assert out["miss_chance"][~missed].mean() < 0.1
    snapshot.predict_latency(rows["wait_ns"].astype(np.float64), work, LaneState(), 0.0, out)
    assert (out["miss_chance"] == 0).all()


# -- state --------------------------------------------------------------------------------------
def test_a_restored_layer_goes_on_as_if_nothing_had_happened() -> None:
    config = LearningConfig(tree_cpu_share=1.0)
    layer = OnlineLayer(HEADS, config=config, cpu_ns=lambda: 0)
    learn(layer, make_outcomes(1, 3000, step=True))
    other = OnlineLayer(HEADS, config=config, cpu_ns=lambda: 0)
    assert other.restore(layer.state()) == len(HEADS)
    more = make_outcomes(2, 500, step=True)
    np.testing.assert_allclose(learn(other, more), learn(layer, more), rtol=1e-9)
    assert other.status() == layer.status()


def test_a_chain_with_other_stages_takes_over_the_heads_it_has() -> None:
    layer = OnlineLayer(HEADS, config=NO_TREES)
    rows = make_outcomes(1, 500)
    learn(layer, rows)
    other = OnlineLayer((Head("useful_time", 0, 0, "map"), Head("useful_time", 1, 0, "inspect")), config=NO_TREES)
    assert other.restore(layer.state()) == 1
    status = other.status()["heads"]
    assert status["useful_time:inspect#1"]["learned"] == 500
    assert status["useful_time:map#1"]["learned"] == 0


@pytest.mark.parametrize("change", ["base", "format", "feature_schema", "inputs"])
def test_a_state_of_something_else_is_refused_and_changes_nothing(change: str) -> None:
    layer = OnlineLayer(HEADS, config=NO_TREES)
    state = load_state(layer.state())
    state[change] = "other"
    layer.learn(make_outcomes(1, 100))
    before = layer.status()
    with pytest.raises(ContentRefused):
        layer.restore(dump_state(state))
    assert layer.status() == before


@pytest.mark.parametrize("content", [b"", b"no pickle", dump_state([1, 2]), dump_state({"format": 1})])
def test_a_damaged_state_is_refused(content: bytes) -> None:
    with pytest.raises(ContentRefused):
        OnlineLayer(HEADS).restore(content)


def test_a_state_with_a_number_that_is_none_is_refused() -> None:
    layer = OnlineLayer(HEADS)
    state = load_state(layer.state())
    state["tracking"][0][0, 0] = np.nan
    with pytest.raises(ContentRefused):
        layer.restore(dump_state(state))


# -- for ever -----------------------------------------------------------------------------------
@pytest.mark.slow
def test_memory_is_bounded_over_an_endless_stream() -> None:
    """Content and cost keep changing; the state stops growing."""
    layer = OnlineLayer(HEADS, config=LearningConfig(tree_cpu_share=1.0), cpu_ns=lambda: 0)
    sizes = []
    for round_number in range(12):
        for seed in range(4):
            layer.learn(make_outcomes(100 * round_number + seed, 250, slower=1 + round_number % 3, step=True))
        layer.snapshot(round_number)
        sizes.append(len(layer.state()))
    gc.collect()
    assert max(sizes[6:]) < 1.5 * max(sizes[:6]) + 50_000
    assert max(sizes) < 4_000_000
    assert len(layer.snapshot(99).to_bytes()) < 64 * 1024
