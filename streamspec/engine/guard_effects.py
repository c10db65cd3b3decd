"""What a step was expected to do against what it did: verdicts, undo, and a blacklist of what did harm."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamspec.core.control import Effect, LanePlan, Observation, Proposal, Settled, Value
from streamspec.engine.guard_bounds import CAPACITY
from streamspec.engine.guard_config import GuardConfig

LOAD_RATIO = 0.15
"""Two windows with work within this ratio of each other are the same load."""
REGRET_SECONDS = 60.0
"""A step up within this time of a step down, at the same load, says that the one down was wrong."""
ENOUGH_SEGMENTS = 30.0
GIVE_UP_WINDOWS = 20.0


def measured_effect(observation: Observation) -> Effect:
    """What the window shows."""
    p99 = [lane.latency_p99_seconds for lane in observation.lanes if lane.latency_p99_seconds is not None]
    chosen = sum(variant.chosen_ratio * variant.bytes_out_per_second for variant in observation.variants)
    return Effect(
        miss_ratio=observation.miss_ratio,
        latency_p99_seconds=max(p99, default=None),
        workers=float(sum(lane.allocation.workers for lane in observation.lanes)),
        useful_seconds_per_second=sum(lane.useful_seconds_per_second for lane in observation.lanes),
        bytes_out_per_second=chosen if observation.variants else None,
    )


def saturated(observation: Observation) -> bool:
    """Work waits and every worker is busy all the time, so that throughput shows capacity."""
    queued = sum(lane.queued for lane in observation.lanes)
    workers = sum(lane.workers_observed for lane in observation.lanes)
    busy = sum(lane.busy_ratio * lane.workers_observed for lane in observation.lanes)
    return queued > 2 * workers and busy > 0.97 * workers


@dataclass(frozen=True)
class Step:
    """A step that is being watched."""

    number: int
    proposal: Proposal
    before_value: Value
    at_seconds: float
    before: Effect
    before_work: float
    before_saturated: bool
    workers_before: int
    workers_after: int


@dataclass
class _Entry:
    direction: str
    knob: str
    lane: str
    workers: int
    shape: Value
    work: float
    until_seconds: float
    times: int = 1


@dataclass(frozen=True)
class _Suspect:
    """A step down that a step up followed, at ``at_seconds`` and for ``reason``."""

    step: Step
    reason: str
    at_seconds: float
    unsettled: bool


@dataclass
class Effects:
    """Watches one step at a time and remembers what did harm."""

    config: GuardConfig
    pending: Step | None = None
    _last_down: Step | None = None
    _suspect: _Suspect | None = None
    _entries: list[_Entry] = field(default_factory=list)

    def watch(self, step: Step) -> None:
        """Follow this step from now on."""
        self.pending = step

    def settle(self, observation: Observation) -> tuple[Settled | None, Proposal | None]:
        """The verdict on the watched step if it is time, and the step back if it did harm."""
        step = self.pending
        if step is None:
            return None, None
        passed = observation.now_seconds - step.at_seconds
        if passed < self.config.settle + observation.window_seconds - 1e-6:
            return None, None
        finished = sum(lane.finished_per_second for lane in observation.lanes) * observation.window_seconds
        if finished < ENOUGH_SEGMENTS:
            if passed < GIVE_UP_WINDOWS * observation.window_seconds:
                return None, None
            self.pending = None
            return Settled(step.number, "unmeasured", measured_effect(observation), "too few segments"), None
        self.pending = None
        why = self._harm(step, observation)
        measured = measured_effect(observation)
        if not why:
            self._last_down = step if step.proposal.direction == "down" else self._last_down
            return Settled(step.number, "kept", measured), None
        self.blacklist(step, observation.now_seconds)
        return Settled(step.number, "undone", measured, why), _back(step, why)

    def overtaken(self, by: Proposal, observation: Observation) -> Settled | None:
        """Another step is taken, so that a watched one can no longer be measured. One up soon after one down makes
        the one down suspect: whether the load had risen is known a window later (see :meth:`acquit`)."""
        step, self.pending = self.pending, None
        judged = step or self._last_down
        up = by.direction == "up" and by.knob in CAPACITY and by.reason != "fallback"
        if judged is not None and judged.proposal.direction == "down" and up:
            self._last_down = None
            if observation.now_seconds - judged.at_seconds < REGRET_SECONDS:
                self._suspect = _Suspect(judged, by.reason, observation.now_seconds, judged is step)
                return None
        return None if step is None else Settled(step.number, "overtaken", measured_effect(observation), by.reason)

    def acquit(self, observation: Observation) -> Settled | None:
        """The verdict on a suspect step down, once a whole window lies after the step up: at the same load it was
        wrong, and is blacklisted."""
        suspect = self._suspect
        if suspect is None or observation.now_seconds - suspect.at_seconds < observation.window_seconds - 1e-6:
            return None
        self._suspect = None
        step, measured = suspect.step, measured_effect(observation)
        if _work(observation) <= step.before_work * (1.0 + LOAD_RATIO):
            self.blacklist(step, observation.now_seconds)
            return Settled(step.number, "undone", measured, f"{suspect.reason} came at the same load")
        return Settled(step.number, "overtaken", measured, suspect.reason) if suspect.unsettled else None

    def _harm(self, step: Step, observation: Observation) -> str:
        measured = measured_effect(observation)
        missed, before = measured.miss_ratio or 0.0, step.before.miss_ratio or 0.0
        budget = observation.objective.miss_budget_ratio
        if step.proposal.direction == "up":
            if not (step.before_saturated and saturated(observation) and step.workers_after > step.workers_before):
                return ""
            useful, was = measured.useful_seconds_per_second or 0.0, step.before.useful_seconds_per_second or 0.0
            if useful < was * (1.0 - self.config.harm_ratio):
                return f"throughput fell from {was:.2f} to {useful:.2f} s of work per second"
            return ""
        if missed > max(budget, before + 0.5 * budget) and not _elsewhere(observation):
            return f"misses went from {before:.2%} to {missed:.2%}"
        return ""

    # -- blacklist ----------------------------------------------------------------------------
    def blacklist(self, step: Step, now_seconds: float) -> None:
        """Do not take this step again for a while; longer each time."""
        proposal = step.proposal
        entry = next(
            (
                e
                for e in self._entries
                if (e.direction, e.knob, e.lane, e.workers) == _key(proposal, step.workers_after)
            ),
            None,
        )
        if entry is None:
            entry = _Entry(*_key(proposal, step.workers_after), proposal.after, step.before_work, 0.0, times=0)
            self._entries.append(entry)
        entry.work, entry.shape = step.before_work, proposal.after
        entry.until_seconds = now_seconds + self.config.blacklist * min(2.0**entry.times, 32.0)
        entry.times += 1
        del self._entries[:-64]

    def blacklisted(self, proposal: Proposal, workers_after: int, observation: Observation) -> str:
        """Why this step is not taken again yet; empty when it may be."""
        work = _work(observation)
        for entry in self._entries:
            left = entry.until_seconds - observation.now_seconds
            if left <= 0 or entry.direction != proposal.direction or entry.knob != _group(proposal):
                continue
            if proposal.knob not in CAPACITY:
                alike = entry.lane == proposal.lane and entry.shape == proposal.after
            elif proposal.direction == "down":
                alike = workers_after <= entry.workers and work > entry.work * (1.0 - 2 * LOAD_RATIO)
            elif proposal.direction == "up":
                alike = workers_after >= entry.workers
            else:
                alike = _same_shape(entry.shape, proposal.after) and _same_load(work, entry.work)
            if alike:
                return f"it did harm {entry.times} times; not again for {left:.0f} s"
        return ""


def _group(proposal: Proposal) -> str:
    return "capacity" if proposal.knob in CAPACITY else proposal.knob


def _key(proposal: Proposal, workers_after: int) -> tuple[str, str, str, int]:
    lane = "" if proposal.knob in CAPACITY else proposal.lane
    return proposal.direction, _group(proposal), lane, workers_after


def _same_shape(one: Value, other: Value) -> bool:
    if not isinstance(one, tuple) or not isinstance(other, tuple):
        return one == other
    return _shape(one) == _shape(other)


def _shape(lanes: tuple[LanePlan, ...]) -> list[tuple[str, float, int]]:
    return [(lane.name, lane.up_to_work_ns, lane.allocation.workers) for lane in lanes]


def _work(observation: Observation) -> float:
    return observation.routed_work_seconds_per_second


def _same_load(one: float, other: float) -> bool:
    return abs(one - other) <= LOAD_RATIO * max(one, other, 1e-9)


def _elsewhere(observation: Observation) -> bool:
    """Latency comes from sinks or from order, not from workers."""
    order = max((traffic.order_wait_ratio for traffic in observation.traffic), default=0.0)
    return observation.sinks.wait_ratio > 0.5 or order > 0.5


def _back(step: Step, why: str) -> Proposal:
    return Proposal(
        knob=step.proposal.knob,
        lane=step.proposal.lane,
        before=step.proposal.after,
        after=step.before_value,
        direction="down" if step.proposal.direction == "up" else "up",
        reason="undo_harmful_step",
        detail=why,
        expected=step.before,
        basis="measured",
        policy="guard",
        urgent=True,
    )
