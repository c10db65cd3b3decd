"""Batches through the online models: inputs from features, learning row by row, predicting."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_INDEX
from streamspec.core.jit import kernel
from streamspec.core.prediction import MAX_VARIANTS
from streamspec.profiles.bound_kernels import QUANTILE, bound_row, move_bounds
from streamspec.profiles.change_kernels import ALARM_ALL
from streamspec.profiles.head_plan import PlanArrays
from streamspec.profiles.online_inputs import (
    FIRST_SHARE,
    GROUPS,
    INPUTS,
    LENGTH,
    LINEAR_INPUTS,
    PACKETS,
    SHARES,
    TYPE,
    WEIGHTS,
)
from streamspec.profiles.tracking_kernels import ALARMS, DOUBT_ALL, Tracking, linear, track

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_SHARE_COLUMNS = np.array([FEATURE_INDEX[name] for name, _, _ in SHARES])
_SHARE_SCALES = np.array([scale for _, scale, _ in SHARES])
_SHARE_SHIFTS = np.array([shift for _, _, shift in SHARES])

DOUBT_DECAY = 0.98
LOWEST_LOG, HIGHEST_LOG = -4.0, 41.0  # of nanoseconds: e^41 is ten years
LOWEST_RATIO, HIGHEST_RATIO = 1e-4, 16.0


class Correction(NamedTuple):
    """What is predicted with: linear models, trees where they are champion, and bounds.

    Attributes:
        weights: ``(heads, WEIGHTS)``.
        roots: ``(heads,)``, first node of the tree that is added; -1 where the linear model is champion alone.
        inputs: ``(nodes,)``, input that a node compares, -1 for a leaf.
        values: ``(nodes,)``, threshold of a node (at most it: left), value of a leaf.
        left, right: ``(nodes,)``, next node.
        bounds: ``(1 + GROUPS, bound_kernels.COLUMNS)``, for all types and for each.
        doubt: ``(1,)``, log factor that bounds are widened by.
    """

    weights: Floats
    roots: Indices
    inputs: Indices
    values: Floats
    left: Indices
    right: Indices
    bounds: Floats
    doubt: Floats


class Learned(NamedTuple):
    """What :func:`learn_rows` says of each row.

    Attributes:
        inputs: ``(n, INPUTS)``.
        residuals: ``(n, heads)``, log of the outcome less base and linear prediction made before it was learned;
            NaN where the head was not measured.
        work_ns: ``(n,)``, useful time predicted of the chain as it ran; 0 where nothing was measured.
        alarms: ``(n,)``, ``ALARM_*`` of the useful times.
    """

    inputs: Floats
    residuals: Floats
    work_ns: Floats
    alarms: Indices


@kernel
def clean(value: float, low: float, high: float) -> float:
    """``value`` within bounds, 0 when it is no number."""
    if not math.isfinite(value):
        return 0.0
    return min(max(value, low), high)


@kernel
def fill_inputs(features: Singles, host_load: float, x: Floats) -> int:
    """Inputs of one segment; returns its type."""
    x[0] = 1.0
    x[1] = math.log2(clean(features[LENGTH], 0.0, 4.3e9) + 1.0) - 12.0
    x[2] = math.log2(clean(features[PACKETS], 0.0, 4.3e9) + 1.0) - 4.0
    x[3] = clean(host_load, 0.0, 1.0)
    for i in range(INPUTS - FIRST_SHARE):
        x[FIRST_SHARE + i] = clean(features[_SHARE_COLUMNS[i]], 0.0, 8.0) * _SHARE_SCALES[i] + _SHARE_SHIFTS[i]
    return int(clean(features[TYPE], 0.0, GROUPS - 1.0))


@kernel
def tree_value(model: Correction, head: int, x: Floats) -> float:
    """What the tree of a head adds; 0 where there is none."""
    node = model.roots[head]
    if node < 0:
        return 0.0
    while model.inputs[node] >= 0:
        node = model.left[node] if x[model.inputs[node]] <= model.values[node] else model.right[node]
    return float(model.values[node])


@kernel
def _log_of(model: Correction, head: int, x: Floats, group: int, offset: float) -> float:
    total = offset + model.weights[head, LINEAR_INPUTS + group]
    for i in range(LINEAR_INPUTS):
        total += model.weights[head, i] * x[i]
    return float(min(max(total + tree_value(model, head, x), LOWEST_LOG), HIGHEST_LOG))


@kernel
def upper_factor(model: Correction, group: int) -> float:
    """The upper bound of work over its prediction, for one type."""
    return math.exp(min(max(model.bounds[bound_row(model.bounds, group), QUANTILE] + model.doubt[0], 0.0), 8.0))


@kernel
def predict_rows(
    features: Singles, offsets: Floats, host_load: float, plan: PlanArrays, model: Correction, out: Singles
) -> None:
    """Fill ``out``: ``PREDICTION`` rows as float32, shape ``(n, 2 + 2 * MAX_VARIANTS)``.

    Args:
        features: ``(n, FEATURE_COUNT)``.
        offsets: ``(n, heads)``, what the base model says, 0 where it says nothing.
    """
    x = np.zeros(INPUTS)
    stages = plan.time_heads.shape[0]
    for row in range(features.shape[0]):
        group = fill_inputs(features[row], host_load, x)
        fixed = varied_default = 0.0
        for stage in range(stages):
            head = plan.time_heads[stage, plan.defaults[stage]]
            if head < 0:
                continue
            work = math.exp(_log_of(model, head, x, group, offsets[row, head]))
            if stage == plan.varied_stage:
                varied_default = work
            else:
                fixed += work
        total = fixed + varied_default
        out[row, 0] = total
        out[row, 1] = total * upper_factor(model, group)
        for variant in range(MAX_VARIANTS):
            work = ratio = 0.0
            if plan.varied_stage >= 0:
                head = plan.time_heads[plan.varied_stage, variant]
                if head >= 0:
                    if variant == plan.defaults[plan.varied_stage]:
                        work = total
                    else:
                        work = fixed + math.exp(_log_of(model, head, x, group, offsets[row, head]))
            head = plan.ratio_heads[variant]
            if head >= 0:
                ratio = math.exp(_log_of(model, head, x, group, offsets[row, head]))
                ratio = min(max(ratio, LOWEST_RATIO), HIGHEST_RATIO)
            out[row, 2 + variant] = work
            out[row, 2 + MAX_VARIANTS + variant] = ratio


@kernel
def learn_rows(
    features: Singles,
    offsets: Floats,
    host_load: Singles,
    useful_ns: Indices,
    variants: npt.NDArray[np.int16],
    ratios: Floats,
    plan: PlanArrays,
    state: Tracking,
    model: Correction,
    coverage: float,
    said: Learned,
) -> None:
    """Learn outcomes in order: each is predicted, then learned, before the next.

    Args:
        features, offsets: as for :func:`predict_rows`.
        host_load: ``(n,)``.
        useful_ns, variants: ``(n, MAX_STAGES)``.
        ratios: ``(n,)``, bytes out / bytes in; not positive where unknown.
        state: the linear models, changed.
        model: what was published last: its trees are predicted with here too, its bounds and doubt are changed by
            what it was wrong by itself, lag included.
        said: filled.
    """
    scratch = np.zeros(WEIGHTS)
    for row in range(features.shape[0]):
        x = said.inputs[row]
        group = fill_inputs(features[row], host_load[row], x)
        said.residuals[row, :] = np.nan
        alarms = 0
        predicted = published = measured = 0.0
        for stage in range(plan.time_heads.shape[0]):
            head = plan.time_heads[stage, _variant_of(plan, variants, row, stage)]
            if head < 0 or useful_ns[row, stage] <= 0:
                continue
            before = linear(state, head, x, group)
            log = offsets[row, head] + before + tree_value(model, head, x)
            predicted += math.exp(min(max(log, LOWEST_LOG), HIGHEST_LOG))
            published += math.exp(_log_of(model, head, x, group, offsets[row, head]))
            measured += useful_ns[row, stage]
            y = math.log(useful_ns[row, stage]) - offsets[row, head]
            said.residuals[row, head] = y - before
            alarms |= track(state, head, x, group, y, scratch)
        if plan.ratio_stage >= 0 and ratios[row] > 0.0:
            head = plan.ratio_heads[_variant_of(plan, variants, row, plan.ratio_stage)]
            if head >= 0:
                y = math.log(ratios[row]) - offsets[row, head]
                said.residuals[row, head] = y - linear(state, head, x, group)
                track(state, head, x, group, y, scratch)
        said.alarms[row] = alarms & ALARMS
        said.work_ns[row] = predicted
        if measured > 0.0:
            _bound(model, group, math.log(measured / published), alarms, coverage)


@kernel
def _variant_of(plan: PlanArrays, variants: npt.NDArray[np.int16], row: int, stage: int) -> int:
    variant = variants[row, stage]
    return int(variant) if 0 <= variant < MAX_VARIANTS else int(plan.defaults[stage])


@kernel
def _bound(model: Correction, group: int, error: float, alarms: int, coverage: float) -> None:
    """Learn one error of the whole chain's work, and let the doubt fade or grow."""
    before = model.doubt[0]
    doubt = before * DOUBT_DECAY
    if alarms & (ALARM_ALL | DOUBT_ALL):
        doubt = max(doubt, min(abs(error), 2.0))
    elif alarms:
        doubt = max(doubt, 0.5 * min(abs(error), 2.0))
    model.doubt[0] = doubt if doubt > 1e-3 else 0.0
    move_bounds(model.bounds, group, error, coverage, before, doubt > 0.1)
