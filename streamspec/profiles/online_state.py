"""Online models as arrays that have learned nothing yet: what is believed before the first outcome."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamspec.profiles.bound_kernels import new_bounds
from streamspec.profiles.head_plan import HeadPlan, Indices
from streamspec.profiles.latency_kernels import LANES, LATENCY_INPUTS, MISS_INPUTS, LatencyState
from streamspec.profiles.online_inputs import GROUPS, LINEAR_INPUTS, WEIGHTS
from streamspec.profiles.online_kernels import Correction
from streamspec.profiles.tracking_kernels import Tracking, new_tracking

Floats = npt.NDArray[np.float64]

_LOG_NS_OF_4_KIB, _PER_BIT_OF_LENGTH = 9.0, 0.6  # 8 us for 4 KiB and in proportion to length^0.87
_LOG_RATIO = -0.3
_SLOWER_WALK = 0.15  # of the weights, to that of the intercept


def new_heads(plan: HeadPlan, columns: Indices, adaptation: float) -> Tracking:
    """Linear models of the heads of a chain.

    Args:
        plan: the heads.
        columns: of the base model by head, -1 where it says nothing.
        adaptation: see ``LearningConfig.adaptation``.
    """
    means, prior = np.zeros((len(plan), WEIGHTS)), np.zeros((len(plan), WEIGHTS))
    for index, head in enumerate(plan.heads):
        if columns[index] >= 0:  # the base model may be off by the speed of this machine, little by content
            prior[index, 0], prior[index, 1:LINEAR_INPUTS], prior[index, LINEAR_INPUTS:] = 1.0, 0.04, 0.25
            continue
        is_time = head.target == "useful_time"
        means[index, 0] = _LOG_NS_OF_4_KIB if is_time else _LOG_RATIO
        means[index, 1] = _PER_BIT_OF_LENGTH if is_time else 0.0
        prior[index] = 1.0
        prior[index, 0] = 25.0 if is_time else 1.0
    walk = np.full(WEIGHTS, adaptation)
    walk[1:LINEAR_INPUTS] = _SLOWER_WALK * adaptation
    return new_tracking(means, prior, walk, GROUPS)


def new_correction(heads: Tracking, *, has_base: bool) -> Correction:
    """Linear models alone, with bounds that say how little is known."""
    count = len(heads.weights)
    none = np.zeros(0, dtype=np.int64)
    bounds = new_bounds(1 + GROUPS, 0.4 if has_base else 1.5)
    return Correction(
        heads.weights.copy(), np.full(count, -1, dtype=np.int64), none, np.zeros(0), none, none, bounds, np.zeros(1)
    )


def new_latency(adaptation: float) -> LatencyState:
    """Models of latency: at first it is wait plus work and a half more, and missed when that exceeds the objective."""
    size = LATENCY_INPUTS + LANES
    means, prior, walk = np.zeros((1, size)), np.full((1, size), 0.25), np.full(size, adaptation)
    means[0, 0], prior[0, 0] = 0.4, 4.0
    walk[1:LATENCY_INPUTS] = _SLOWER_WALK * adaptation
    miss, miss_prior = np.zeros((1, MISS_INPUTS)), np.full((1, MISS_INPUTS), 0.25)
    miss[0, 1] = -1.7  # the logistic curve that is nearest to the normal distribution
    bounds = new_bounds(1, 1.0)
    return LatencyState(
        new_tracking(means, prior, walk, LANES),
        new_tracking(miss, miss_prior, np.full(MISS_INPUTS, 0.002), 0),
        bounds,
    )
