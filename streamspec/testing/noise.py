"""Log costs of outcomes on an invented shared host, for tests and benchmarks of what must not look like a change."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import kernel
from streamspec.profiles.tracking_kernels import Tracking, new_tracking, track

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Host(NamedTuple):
    """How a host disturbs what runs on it; times in outcomes, of which there are a thousand a second.

    Attributes:
        sigma: standard deviation of the log of each time.
        outlier_share: of times that are ten times longer.
        deviation, lasts: of a log factor that changes slowly (autoregressive, of first order).
        stall_every, stall_length: how often everything is two to five times slower, and for how long.
    """

    sigma: float = 0.3
    outlier_share: float = 0.02
    deviation: float = 0.1
    lasts: float = 100.0
    stall_every: float = 30_000.0
    stall_length: int = 50


def host_noise(host: Host, count: int, rng: np.random.Generator) -> Floats:
    """Log factors of ``count`` outcomes in a row."""
    keeps = math.exp(-1.0 / host.lasts)
    steps = rng.normal(0.0, host.deviation * math.sqrt(1.0 - keeps * keeps), count)
    noise = _follow(steps, keeps)
    for first in np.flatnonzero(rng.random(count) < 1.0 / host.stall_every).tolist():
        noise[first : first + host.stall_length] += rng.uniform(0.7, 1.6)
    noise += rng.normal(0.0, host.sigma, count)
    noise[rng.random(count) < host.outlier_share] += math.log(10.0)
    return noise


@kernel
def _follow(steps: Floats, keeps: float) -> Floats:
    levels, level = np.empty_like(steps), 0.0
    for index in range(len(steps)):
        level = keeps * level + steps[index]
        levels[index] = level
    return levels


SHARES = (0.4, 0.25, 0.15, 0.1, 0.05, 0.05)
"""Of six types of content."""


class Change(NamedTuple):
    """One type's cost is ``factor`` times as high from outcome ``at`` on."""

    at: int
    group: int
    factor: float


def alarms_of(host: Host, count: int, seed: int, change: Change | None = None) -> tuple[Indices, Indices]:
    """What one head's model returns for each of ``count`` outcomes, and the type of each (``SHARES``)."""
    rng = np.random.default_rng(seed)
    group = rng.choice(len(SHARES), count, p=SHARES)
    logs = rng.normal(0.0, 0.3, len(SHARES))[group] + host_noise(host, count, rng)
    if change is not None:
        logs[(np.arange(count) >= change.at) & (group == change.group)] += math.log(change.factor)
    size = 1 + len(SHARES)
    prior = np.full((1, size), 0.25)
    prior[0, 0] = 1.0
    state = new_tracking(np.zeros((1, size)), prior, np.full(size, 0.02), len(SHARES))
    said = np.zeros(count, dtype=np.int64)
    _learn(state, group, logs, said)
    return said, group


@kernel
def _learn(state: Tracking, group: Indices, logs: Floats, said: Indices) -> None:
    x, scratch = np.ones(1), np.zeros(state.weights.shape[1])
    for index in range(len(logs)):
        said[index] = track(state, 0, x, group[index], logs[index], scratch)
