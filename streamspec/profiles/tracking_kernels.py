"""The step of the fast models: linear regression by a Kalman filter whose weights walk, and doubts itself in time.

The weights are a random walk seen through ``y = w.x + noise`` (Kalman 1960; recursive least squares is the case
without a walk). The covariance tells what is still unknown, so the first segments teach much and later ones little;
a weight that is not exercised grows uncertain again, up to what it was before. The noise is estimated beside it,
and errors beyond ``CLIP`` standard deviations are cut (Huber 1964), so that one preempted segment does not matter.

Two tests run for all segments and for each group (type of content). The quick one (Page 1954; two-sided, on the error
in standard deviations) is a doubt: the covariance of what can have changed is raised, and the filter learns it anew
in a few segments. That may happen now and then without reason. The slow one (:mod:`streamspec.profiles.change_kernels`)
is an alarm: costs have changed, and somebody is told.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import inlined_kernel, kernel
from streamspec.profiles.change_kernels import (
    ALARM_ALL,
    ALARM_GROUP,
    SEEN,
    SHORT,
    SHORT_BLOCK,
    new_watch,
    watch_change,
)

Floats = npt.NDArray[np.float64]

CLIP = 3.0
NOISE_FLOOR = 4e-4  # (2 %)^2
NOISE_GAIN = 0.01
SETTLED = 20  # segments before errors are cut and tested
PAGE_SLACK = 0.5  # standard deviations that pass unnoticed
PAGE_LIMIT = 10.0
PAGE_CUT = 4.0
GROUP_SHARE = 0.3  # of a group's first variance that an alarm of all segments gives back to it
LOSS_GAIN = 1 / 300

NOISE, COUNT, LOSS, DRIFTS, LOSS_COUNT = range(5)
NUMBERS = 5
"""Columns of ``Tracking.numbers``: noise variance, outcomes learned, recent absolute error, alarms, and how many
outcomes the recent error is of."""

ALARMS = ALARM_ALL | ALARM_GROUP
DOUBT_ALL, DOUBT_GROUP = 4, 8
"""What :func:`track` returns beside ``ALARM_ALL`` and ``ALARM_GROUP``."""


class Tracking(NamedTuple):
    """State of ``n`` models of ``d`` weights and ``g`` groups; the last ``g`` weights belong to the groups.

    Attributes:
        weights: ``(n, d)``.
        covariance: ``(n, d, d)``.
        numbers: ``(n, NUMBERS)``.
        sums: ``(n, 1 + g, 2)``, of the quick test upwards and downwards.
        watch: ``(n, 1 + g, change_kernels.COLUMNS)``, of the slow one.
        prior: ``(n, d)``, first variance of each weight.
        walk: ``(d,)``, standard deviation of a step of each weight, in those of the noise.
    """

    weights: Floats
    covariance: Floats
    numbers: Floats
    sums: Floats
    watch: Floats
    prior: Floats
    walk: Floats


def new_tracking(means: Floats, prior: Floats, walk: Floats, groups: int) -> Tracking:
    """Models that have learned nothing: ``means`` and ``prior`` have shape ``(n, d)``, ``walk`` ``(d,)``."""
    count, _ = means.shape
    covariance = np.zeros((count, means.shape[1], means.shape[1]))
    for one, variances in zip(covariance, prior, strict=True):
        np.fill_diagonal(one, variances)
    numbers = np.zeros((count, NUMBERS))
    numbers[:, NOISE] = 0.1
    sums, watch = np.zeros((count, 1 + groups, 2)), new_watch(count, groups)
    return Tracking(means.copy(), covariance, numbers, sums, watch, prior.copy(), walk.copy())


@kernel
def linear(state: Tracking, model: int, x: Floats, group: int) -> float:
    """Prediction of one model. ``x`` has the inputs before the groups; ``group`` is -1 for none."""
    inputs = state.weights.shape[1] - (state.sums.shape[1] - 1)
    total = 0.0
    for i in range(inputs):
        total += state.weights[model, i] * x[i]
    if group >= 0:
        total += state.weights[model, inputs + group]
    return total


@kernel
def track(state: Tracking, model: int, x: Floats, group: int, y: float, scratch: Floats) -> int:
    """Learn one outcome; returns alarms and doubts. ``scratch`` has ``d`` places."""
    error = y - linear(state, model, x, group)
    if not math.isfinite(error):
        return 0
    numbers = state.numbers
    expected = state.weights[model, 0] * x[0]
    if group >= 0:
        expected += state.weights[model, state.weights.shape[1] - (state.sums.shape[1] - 1) + group]
    _walk(state, model)
    variance = max(_spread(state, model, x, group, scratch), 0.0)
    total = variance + numbers[model, NOISE]
    deviation = math.sqrt(total)
    settled = numbers[model, COUNT] >= SETTLED
    cut = min(max(error, -CLIP * deviation), CLIP * deviation) if settled else error
    _correct(state, model, scratch, cut / total, total)
    _measure(numbers, model, cut * cut / total, abs(error))
    if not settled:
        return 0
    alarms = watch_change(state.watch[model], group, expected + error, expected)
    lasting = state.watch[model, 0, SHORT] if state.watch[model, 0, SEEN] >= 2 * SHORT_BLOCK else 0.0
    doubts = _page(state, model, group, error / math.sqrt(variance + max(numbers[model, NOISE], lasting)))
    if alarms:
        numbers[model, DRIFTS] += 1.0
        numbers[model, LOSS_COUNT] = min(numbers[model, LOSS_COUNT], 20.0)
        if not doubts:
            _doubt(state, model, group, DOUBT_ALL if alarms & ALARM_ALL else DOUBT_GROUP)
    return alarms | doubts


@kernel
def track_chance(state: Tracking, model: int, x: Floats, group: int, happened: float, scratch: Floats) -> None:
    """As :func:`track` for a probability: logistic regression by the extended Kalman filter (Fahrmeir 1992)."""
    chance = 1.0 / (1.0 + math.exp(-min(max(linear(state, model, x, group), -30.0), 30.0)))
    _walk(state, model)
    variance = max(_spread(state, model, x, group, scratch), 0.0)
    noise = 1.0 / max(chance * (1.0 - chance), 1e-3)
    total = variance + noise
    _correct(state, model, scratch, (happened - chance) * noise / total, total)
    _measure(state.numbers, model, 0.0, abs(happened - chance))


@inlined_kernel
def _walk(state: Tracking, model: int) -> None:
    noise = state.numbers[model, NOISE]
    for i in range(state.walk.shape[0]):
        grown = state.covariance[model, i, i] + state.walk[i] * state.walk[i] * noise
        if grown <= state.prior[model, i]:
            state.covariance[model, i, i] = grown


@inlined_kernel
def _spread(state: Tracking, model: int, x: Floats, group: int, scratch: Floats) -> float:
    """Covariance times ``x`` into ``scratch``; returns ``x``' covariance ``x``."""
    weights = state.weights.shape[1]
    inputs = weights - (state.sums.shape[1] - 1)
    for i in range(weights):
        total = 0.0
        for j in range(inputs):
            total += state.covariance[model, i, j] * x[j]
        if group >= 0:
            total += state.covariance[model, i, inputs + group]
        scratch[i] = total
    variance = 0.0
    for i in range(inputs):
        variance += x[i] * scratch[i]
    if group >= 0:
        variance += scratch[inputs + group]
    return variance


@inlined_kernel
def _correct(state: Tracking, model: int, scratch: Floats, step: float, total: float) -> None:
    weights = state.weights.shape[1]
    for i in range(weights):
        state.weights[model, i] += scratch[i] * step
        share = scratch[i] / total
        for j in range(weights):
            state.covariance[model, i, j] -= share * scratch[j]
        if state.covariance[model, i, i] < 1e-12:  # rounding, after very many steps
            state.covariance[model, i, i] = 1e-12


@inlined_kernel
def _measure(numbers: Floats, model: int, squared: float, loss: float) -> None:
    count = numbers[model, COUNT]
    gain = max(1.0 / (count + 2.0), NOISE_GAIN)
    noise = numbers[model, NOISE]
    numbers[model, NOISE] = max(noise + gain * (min(squared, 9.0) * noise - noise), NOISE_FLOOR)
    numbers[model, COUNT] = count + 1.0
    numbers[model, LOSS_COUNT] += 1.0
    numbers[model, LOSS] += max(1.0 / numbers[model, LOSS_COUNT], LOSS_GAIN) * (loss - numbers[model, LOSS])


@kernel
def _page(state: Tracking, model: int, group: int, score: float) -> int:
    cut = min(max(score, -PAGE_CUT), PAGE_CUT)
    doubts = 0
    for level in range(2):
        row = 0 if level == 0 else 1 + group
        if level == 1 and group < 0:
            continue
        up = max(state.sums[model, row, 0] + cut - PAGE_SLACK, 0.0)
        down = max(state.sums[model, row, 1] - cut - PAGE_SLACK, 0.0)
        state.sums[model, row, 0] = up
        state.sums[model, row, 1] = down
        if up > PAGE_LIMIT or down > PAGE_LIMIT:
            doubts |= DOUBT_ALL if level == 0 else DOUBT_GROUP
    if doubts:
        _doubt(state, model, group, doubts)
    return doubts


@kernel
def _doubt(state: Tracking, model: int, group: int, doubts: int) -> None:
    """Raise the covariance of what can have changed, and begin the quick test anew."""
    inputs = state.weights.shape[1] - (state.sums.shape[1] - 1)
    covariance, prior = state.covariance, state.prior
    if doubts & DOUBT_ALL:
        covariance[model, 0, 0] += max(min(prior[model, 0], 2.0 * prior[model, 0] - covariance[model, 0, 0]), 0.0)
        for i in range(inputs, state.weights.shape[1]):
            if covariance[model, i, i] < prior[model, i]:
                covariance[model, i, i] += prior[model, i] * GROUP_SHARE
        state.sums[model, :, :] = 0.0
    else:
        own, first = inputs + group, prior[model, inputs + group]
        covariance[model, own, own] += max(min(first, 2.0 * first - covariance[model, own, own]), 0.0)
        state.sums[model, 1 + group, :] = 0.0
