"""Base of the policies' configuration models, and what several policies read off an observation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from streamspec.core.component import ComponentConfig
from streamspec.core.control import Direction, Effect, LanePlan, Observation, Plan, Policy, Proposal

LEAST_ROOM = 0.1
"""Cores that workers are never thought to be without: a host that looks full does something."""


class PolicyConfigBase(ComponentConfig):
    """A policy's configuration; the field ``type`` of each subclass names it in YAML."""

    def build(self) -> Policy:
        """The policy, without any memory yet."""
        raise NotImplementedError


def measured_curve(observation: Observation) -> npt.NDArray[np.float64]:
    """Useful seconds per second by number of busy workers, up to the ceiling and a few more.

    What was not measured is linear up to the cores and flat above; a measured number is never taken for better
    than a perfect speed-up, nor than what workers do now and the host's idle time together: the dispatcher, the
    learner and other programs need cores, too.
    """
    cores, most = observation.usable_cores, observation.workers_ceiling + 3
    room = float(cores)
    if observation.host.cpu_busy_ratio > 0.0:
        done = sum(lane.useful_seconds_per_second for lane in observation.lanes)
        room = max(done + cores * (1.0 - observation.host.cpu_busy_ratio), LEAST_ROOM)
    speeds = [min(observation.speed_up.at(n, cores), float(min(n, cores)), room) for n in range(most + 1)]
    return np.asarray(speeds)


def useful_ceiling(observation: Observation) -> int:
    """Workers beyond which the measured speed-up curve says that nothing is gained."""
    return observation.speed_up.peak_workers(observation.workers_ceiling, observation.usable_cores)


def preempted_room(observation: Observation, curve: npt.NDArray[np.float64], most: int = 2) -> int:
    """Workers that may stand beyond the useful ones, for further lanes: while they cost no throughput to speak of."""
    peak = useful_ceiling(observation)
    room = 0
    while room < min(most, observation.workers_ceiling - peak) and curve[peak + room + 1] >= 0.95 * curve[peak]:
        room += 1
    return room


def with_workers(lane: LanePlan, workers: int) -> LanePlan:
    """The lane with another number of workers."""
    return replace(lane, allocation=replace(lane.allocation, workers=workers))


def workers_step(
    policy: str, plan: Plan, lane: LanePlan, workers: int, reason: str, detail: str, expected: Effect | None = None
) -> Proposal:
    """Proposal of another number of workers, from what was measured alone."""
    before = lane.allocation.workers
    direction: Direction = "up" if workers > before else "down"
    return Proposal(
        knob="workers",
        lane=lane.name,
        before=before,
        after=workers,
        direction=direction,
        reason=reason,
        detail=detail,
        expected=expected or Effect(workers=float(plan.workers - before + workers)),
        basis="measured",
        policy=policy,
    )


def known(value: float | None, otherwise: float) -> float:
    """A finite value, or ``otherwise``."""
    return otherwise if value is None or not math.isfinite(value) else value
