"""Contracts of control: bins, the speed-up curve, and documents that JSON can carry."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspec.core.control import (
    COST_BIN_EDGES_NS,
    COST_BINS,
    Decision,
    Forecast,
    LanePlan,
    Observation,
    Plan,
    Proposal,
    SpeedUp,
    cost_bins,
    document,
)


@given(st.floats(1.0, 1e13))
def test_a_bin_holds_what_lies_between_its_edges(work_ns: float) -> None:
    place = int(cost_bins(work_ns))
    assert place == 0 or COST_BIN_EDGES_NS[place] <= work_ns * 1.000001
    assert place == COST_BINS - 1 or work_ns < COST_BIN_EDGES_NS[place + 1] * 1.000001


def test_what_is_no_cost_counts_as_the_heaviest() -> None:
    assert cost_bins([math.nan, math.inf, -1.0, 0.0]).tolist() == [COST_BINS - 1] * 4


@pytest.mark.parametrize(
    ("curve", "workers", "cores", "speed"),
    [
        ((0.0,), 2, 4, 2.0),  # nothing is known: linear
        ((0.0,), 9, 4, 4.0),  # and flat beyond the cores
        ((0.0, 0.9), 3, 4, 2.7),
        ((0.0, 0.9, 1.6), 2, 2, 1.6),
        ((0.0, 0.9, 1.6), 5, 2, 1.6),
        ((0.0, 0.9, 1.6, 1.2), 3, 2, 1.2),
    ],
)
def test_speed_is_measured_or_carried_on(curve: tuple[float, ...], workers: int, cores: int, speed: float) -> None:
    assert SpeedUp(curve).at(workers, cores) == pytest.approx(speed)


def test_the_peak_is_the_fewest_workers_that_reach_it() -> None:
    assert SpeedUp((0.0, 1.0, 1.85, 1.86, 1.7)).peak_workers(4, 2) == 2
    assert SpeedUp().peak_workers(8, 4) == 4


def test_a_decision_is_a_json_document() -> None:
    lane = LanePlan("all")
    step = Proposal("lanes", "", (lane,), (lane, lane), "up", "test")
    decision = Decision(
        1, 2.0, "auto", ("planner",), Observation(2.0), Forecast(), Plan((lane,)), Plan((lane,)), (step,), done=(step,)
    )
    text = json.dumps(document(decision), allow_nan=False)
    read = json.loads(text)
    assert read["done"][0]["after"][0]["up_to_work_ns"] is None
    assert read["before"]["lanes"][0]["allocation"]["cores"] == []
    assert document({"a": np.float64(1.0)}) == {"a": 1.0}
