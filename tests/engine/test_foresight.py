"""What is seen and predicted of segments, from commit to outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from streamspec.core.features import FEATURE_INDEX
from streamspec.core.interfaces import Rows, SlotMemory, Slots
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import Features
from streamspec.core.segment import SlotLayout
from streamspec.engine import foresight_kernels as kernels
from streamspec.engine.arena import Arena
from streamspec.engine.foresight import Foresight


class LengthProfiler:
    def profile(self, slots_in: SlotMemory, headers: Rows, slots: Slots, out: Features) -> None:
        out[:] = 0
        out[:, FEATURE_INDEX["length_bytes"]] = headers["length"][slots]
        out[:, FEATURE_INDEX["type_code"]] = 2


@dataclass
class _LinearPredictor:
    version: int = 7
    coverage: float = 0.9

    def predict(self, features: Features, host_load: float, out: Rows) -> None:
        out["work_ns"] = 1000 * features[:, 0]
        out["upper_ns"] = 1500 * features[:, 0]
        out["variant_work_ns"][:, :3] = features[:, :1] * np.float32([500, 1000, 4000])
        out["variant_ratio"][:, :3] = [0.8, 0.5, 0.3]


@pytest.fixture
def foresight() -> Iterator[Foresight]:
    layout = SlotLayout(payload_bytes=64, packet_capacity=1, meta_bytes=256, output_bytes=64)
    arena = Arena(layout, 8)
    arena.headers["length"] = [10, 20, 30, 40, 0, 0, 0, 0]
    arena.headers["variant"] = -1
    made = Foresight(arena, LengthProfiler(), _LinearPredictor(), variant_stage=1, variants=3)
    yield made
    arena.close()


SLOTS = np.array([3, 1], dtype=np.int32)


def test_a_batch_is_seen_and_predicted_under_its_slots(foresight: Foresight) -> None:
    foresight.look(SLOTS)
    assert foresight.predictions["work_ns"].tolist() == [0, 20_000, 0, 40_000, 0, 0, 0, 0]
    assert foresight.types[2] == 2


def test_devices_are_expected_by_their_work_and_without_a_price(foresight: Foresight) -> None:
    devices = Foresight(
        foresight._arena, LengthProfiler(), _LinearPredictor(), variant_stage=1, variants=3, priced=False
    )
    headers = foresight._arena.headers
    for made, variant, expected_ns in ((foresight, -1, [40_000, 20_000]), (devices, 0, [20_000, 10_000])):
        made.look(SLOTS)
        made.expect(SLOTS)
        assert headers["variant"][SLOTS, 1].tolist() == [variant, variant]
        assert made.looks["expected_ns"][SLOTS].tolist() == expected_ns


def test_outcomes_say_what_was_predicted_for_the_variant_that_ran(foresight: Foresight) -> None:
    foresight.host_load = 0.5
    foresight.look(SLOTS)
    headers = foresight._arena.headers
    headers["variant"][1, 1] = 2
    outcomes = np.zeros(2, dtype=OUTCOME)
    foresight.note(headers, SLOTS, outcomes)
    assert outcomes["predicted_ns"].tolist() == [40_000, 80_000]
    assert outcomes["predicted_upper_ns"].tolist() == [60_000, 120_000]
    assert outcomes["features"][:, 0].tolist() == [40, 20]
    assert outcomes["model_version"].tolist() == [7, 7]
    assert outcomes["host_load"].tolist() == [0.5, 0.5]
    assert outcomes["profiled"].all()


def test_a_slot_that_was_not_looked_at_again_is_not_learned_from_twice(foresight: Foresight) -> None:
    foresight.look(SLOTS)
    outcomes = np.zeros(2, dtype=OUTCOME)
    foresight.note(foresight._arena.headers, SLOTS, outcomes)
    foresight.note(foresight._arena.headers, SLOTS, outcomes)
    assert not outcomes["profiled"].any()


@pytest.mark.parametrize(("price_ns", "variant"), [(0.0, 0), (2000.0, 1), (100_000.0, 2)])
def test_the_price_of_output_decides_the_variant(foresight: Foresight, price_ns: float, variant: int) -> None:
    foresight.look(SLOTS)
    foresight.price_ns = price_ns
    foresight.choose_variants(SLOTS)
    assert foresight._arena.headers["variant"][SLOTS, 1].tolist() == [variant, variant]


def test_what_arrives_is_expected_in_the_variant_that_the_price_chooses(foresight: Foresight) -> None:
    foresight.look(SLOTS)
    assert foresight.looks["expected_ns"][SLOTS].tolist() == [40_000, 20_000]
    foresight.price_ns = 0.0
    foresight.expect(SLOTS)
    assert foresight.looks["expected_ns"][SLOTS].tolist() == [20_000, 10_000]


def test_without_a_price_every_stage_keeps_its_default(foresight: Foresight) -> None:
    foresight.look(SLOTS)
    foresight.choose_variants(SLOTS)
    assert (foresight._arena.headers["variant"] == -1).all()


def plan_batch(foresight: Foresight, now_ns: float = 0.0) -> tuple[int, float, list[int]]:
    """What of a queue that holds both slots goes to a worker, and the variants of both."""
    foresight.look(SLOTS)
    marks = np.array([0, 2], dtype=np.int64)
    planned = foresight.plan_batch(SLOTS, marks, 16, 0, int(now_ns))
    return *planned, foresight._arena.headers["variant"][SLOTS, 1].tolist()


@pytest.mark.parametrize(("age_ratio", "variant"), [(0.0, 2), (0.25, 2), (0.4, 0), (0.6, 0), (2.0, 0)])
def test_the_longer_a_segment_waited_the_cheaper_it_becomes(
    foresight: Foresight, age_ratio: float, variant: int
) -> None:
    foresight.price_ns, foresight.limits_ns = 100_000.0, [1e9]
    assert plan_batch(foresight, age_ratio * 1e9)[2] == [variant, variant]


def test_a_variant_that_would_be_late_is_not_taken_while_a_faster_one_is_there(foresight: Foresight) -> None:
    foresight.price_ns, foresight.limits_ns = 1e9, [150_000.0]
    assert plan_batch(foresight)[2][0] == 1
    foresight.limits_ns = [1000.0]
    assert plan_batch(foresight)[2][0] == 0


@pytest.mark.parametrize(("limit_ns", "planned"), [(1e6, (2, 30_000)), (400_000.0, (1, 20_000)), (1000.0, (1, 20_000))])
def test_a_worker_is_given_little_work_at_once(
    foresight: Foresight, limit_ns: float, planned: tuple[int, float]
) -> None:
    foresight.price_ns, foresight.limits_ns = 0.0, [limit_ns]
    assert plan_batch(foresight)[:2] == planned


def test_without_a_price_the_default_variant_stays_until_there_is_no_time_for_it(foresight: Foresight) -> None:
    foresight.limits_ns = [1e9]
    assert plan_batch(foresight, 0.4e9)[2] == [-1, -1]
    assert plan_batch(foresight, 0.6e9)[2] == [0, 0]
    foresight.hurries = False
    assert plan_batch(foresight, 0.6e9)[2] == [-1, -1]


def test_without_price_and_objective_a_batch_is_full_and_in_its_default(foresight: Foresight) -> None:
    assert plan_batch(foresight, 1e12) == (2, 60_000, [-1, -1])
    foresight.price_ns = 1e9
    assert plan_batch(foresight, 1e12) == (2, 240_000, [2, 2])


def test_the_work_of_a_queue_counts_the_chosen_variants(foresight: Foresight) -> None:
    foresight.look(SLOTS)
    headers = foresight._arena.headers
    headers["variant"][3, 1] = 0
    ring, marks = np.array([9, 3, 1, 9], dtype=np.int32), np.array([1, 2], dtype=np.int64)
    total, upper = kernels.queued_work(ring, marks, headers, foresight.predictions, 1)
    assert (total, upper) == (40_000 * 0.5 + 20_000, 1.5 * (40_000 * 0.5 + 20_000))
