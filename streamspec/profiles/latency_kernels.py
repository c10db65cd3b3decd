"""What comes on top of waiting and work: the residual of end-to-end latency, and the chance to miss the objective.

``latency = (wait + work) * e^residual``; the residual is a tracked linear model of the state of lane and host, the
chance a tracked logistic model of how many standard deviations the objective lies above that.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import kernel
from streamspec.profiles.bound_kernels import QUANTILE, move_bounds
from streamspec.profiles.online_kernels import clean
from streamspec.profiles.tracking_kernels import NOISE, Tracking, linear, track, track_chance

Floats = npt.NDArray[np.float64]

LATENCY_INPUTS = 7
LANES = 16
"""Lanes with a weight of their own; further ones share them in turn."""
MISS_INPUTS = 4
LONGEST_NS = 1e18
"""Times are looked at up to here: 30 years."""
FIELDS = 7
WAIT, WORK, LOAD, LANE, WORKERS, BATCH, NICE = range(FIELDS)
"""Columns of the facts that latency is predicted from; times in nanoseconds."""


class LatencyState(NamedTuple):
    """The models of latency.

    Attributes:
        residual: one model with a group for each lane.
        miss: one model without groups.
        bounds: ``(1, bound_kernels.COLUMNS)``.
    """

    residual: Tracking
    miss: Tracking
    bounds: Floats


@kernel
def _inputs(facts: Floats, x: Floats) -> int:
    work, wait = max(clean(facts[WORK], 0.0, LONGEST_NS), 1.0), clean(facts[WAIT], 0.0, LONGEST_NS)
    x[0] = 1.0
    x[1] = (math.log(work) - 12.0) / 4.0
    x[2] = math.log((wait + work) / work) / 4.0
    x[3] = clean(facts[LOAD], 0.0, 1.0)
    x[4] = math.log2(max(facts[WORKERS], 1.0)) / 4.0
    x[5] = math.log2(max(facts[BATCH], 1.0)) / 4.0
    x[6] = facts[NICE] / 10.0
    return int(facts[LANE]) % LANES


@kernel
def _miss_inputs(state: LatencyState, facts: Floats, log_latency: float, log_objective: float, z: Floats) -> None:
    deviation = max(math.sqrt(state.residual.numbers[0, NOISE]), 0.05)
    z[0] = 1.0
    z[1] = min(max((log_objective - log_latency) / deviation, -8.0), 8.0)
    z[2] = clean(facts[LOAD], 0.0, 1.0)
    z[3] = math.log2(max(facts[WORKERS], 1.0)) / 4.0


@kernel
def learn_latencies(
    facts: Floats, latency_ns: Floats, objective_ns: float, state: LatencyState, coverage: float
) -> None:
    """Learn measured latencies in order. ``facts`` has shape ``(n, FIELDS)`` with the wait that was measured and the
    work that was predicted; ``objective_ns`` is 0 when there is no objective."""
    x, z = np.zeros(LATENCY_INPUTS), np.zeros(MISS_INPUTS)
    scratch = np.zeros(LATENCY_INPUTS + LANES)
    for row in range(facts.shape[0]):
        known = facts[row, WAIT] + facts[row, WORK]
        if latency_ns[row] <= 0.0 or facts[row, WORK] <= 0.0:
            continue
        lane = _inputs(facts[row], x)
        said = linear(state.residual, 0, x, lane)
        y = math.log(latency_ns[row] / known)
        if objective_ns > 0.0:
            _miss_inputs(state, facts[row], math.log(known) + said, math.log(objective_ns), z)
            track_chance(state.miss, 0, z, -1, 1.0 if latency_ns[row] > objective_ns else 0.0, scratch)
        alarms = track(state.residual, 0, x, lane, y, scratch)
        move_bounds(state.bounds, -1, y - said, coverage, 0.0, alarms > 0)


@kernel
def predict_latencies(facts: Floats, objective_ns: float, state: LatencyState, out: npt.NDArray[np.float32]) -> None:
    """Fill ``out`` (``LATENCY`` rows as float32, ``(n, 3)``): expected, upper, chance to miss."""
    x, z = np.zeros(LATENCY_INPUTS), np.zeros(MISS_INPUTS)
    for row in range(facts.shape[0]):
        lane = _inputs(facts[row], x)
        known = clean(facts[row, WAIT], 0.0, LONGEST_NS) + max(clean(facts[row, WORK], 0.0, LONGEST_NS), 1.0)
        log = math.log(known) + linear(state.residual, 0, x, lane)
        log = min(max(log, 0.0), 43.0)
        out[row, 0] = math.exp(log)
        out[row, 1] = math.exp(log + max(state.bounds[0, QUANTILE], 0.0))
        out[row, 2] = 0.0
        if objective_ns > 0.0:
            _miss_inputs(state, facts[row], log, math.log(objective_ns), z)
            out[row, 2] = 1.0 / (1.0 + math.exp(-min(max(linear(state.miss, 0, z, -1), -30.0), 30.0)))
