"""The guard: policies propose, it disposes. Every step passes its rules in one order; each refusal has a reason.

Order: undo what did harm; fall back when predictions may not be used; then for each proposal (urgent first, then up,
sideways, down): validity, bounds and largest step, trust, diagnosis, peak, dead band, budget, blacklist, one knob at a
time, cooldown. Up is granted at once; down only when consecutive decisions agree for a while, and then the largest
they asked for. It knows no clock: time comes with the observation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from streamspec.core.control import (
    LANE_KNOBS,
    Advice,
    Knob,
    Observation,
    Plan,
    Proposal,
    Refusal,
    Ruling,
    Settled,
    Value,
)
from streamspec.engine.guard_bounds import (
    CAPACITY,
    CONTINUOUS,
    FREE,
    Clamped,
    clamp_lanes,
    clamp_scalar,
    present_value,
    refuse,
    widened_dead_band,
    with_value,
    within_dead_band,
)
from streamspec.engine.guard_budget import MissBudget
from streamspec.engine.guard_config import GuardConfig
from streamspec.engine.guard_effects import Effects, Step, measured_effect, saturated
from streamspec.engine.guard_trust import Trust

_ORDER = {"up": 1, "sideways": 2, "down": 3}
WAITS_ELSEWHERE = 0.5
"""Share of latency spent at sinks or in order lines from which on more workers do not help."""

BACKLOG_RATIO = 0.5
"""Share of the objective's latency from which on what waits is a backlog."""


@dataclass
class _Agreement:
    """Decisions in a row that asked for less of one knob."""

    since_seconds: float
    asked: deque[Proposal] = field(default_factory=lambda: deque(maxlen=256))


class Guard:
    """Holds what must be remembered between rulings: agreement, cooldown, watched step, blacklist, trust.

    Args:
        config: the rules' numbers.
        safe: the setting of the configuration; in force while predictions may not be used.
    """

    def __init__(self, config: GuardConfig, safe: Plan) -> None:
        self.config = config
        self.safe = safe
        self.effects = Effects(config)
        self.budget = MissBudget(config.budget_memory)
        self._trust = Trust(config.trust)
        self._agreements: dict[tuple[str, str], _Agreement] = {}
        self._last: dict[str, float] = {}
        self._number = 0

    @property
    def fallback(self) -> str:
        """Why predictions are not used now; empty when they are."""
        return self._trust.fallback

    def rule(
        self,
        observation: Observation,
        plan: Plan,
        advice: Iterable[Advice],
        *,
        acting: bool = True,
        glance: bool = False,
    ) -> Ruling:
        """Dispose of what policies propose.

        Args:
            observation: as the policies saw it.
            plan: in force now.
            advice: of all policies.
            acting: the plan will be applied; ``False`` (mode ``recommend``) leaves no memory of steps.
            glance: between decisions, with reflexes only: verdicts, trust and agreement wait for the next decision.
        """
        self._number += 1
        court = _Court(self, observation, plan, self._number, acting)
        if not glance:
            self.budget.update(observation)
            court.settle()
            court.fall_back(self._trust.update(observation.model))
        else:
            court.fallback = self._trust.fallback
        proposals = [proposal for one in advice for proposal in one.proposals]
        proposals.sort(key=lambda proposal: (not proposal.urgent, _ORDER.get(proposal.direction, 4)))
        for proposal in proposals:
            court.hear(proposal)
        if not glance:
            self._forget_agreements(proposals)
        return court.ruling()

    def _forget_agreements(self, proposals: list[Proposal]) -> None:
        asked = {_subject(proposal) for proposal in proposals if proposal.direction == "down"}
        for subject in [subject for subject in self._agreements if subject not in asked]:
            del self._agreements[subject]


def _subject(proposal: Proposal) -> tuple[str, str]:
    """Lanes and workers are one subject: a plan with fewer lanes may come as either."""
    return ("capacity", "") if proposal.knob in CAPACITY else (proposal.knob, proposal.lane)


class _Court:
    """One ruling in the making."""

    def __init__(self, guard: Guard, observation: Observation, plan: Plan, number: int, acting: bool) -> None:
        self._guard = guard
        self._config = guard.config
        self._seen = observation
        self._plan = plan
        self._number = number
        self._acting = acting
        self._ceiling = min(guard.config.bounds.workers or observation.workers_ceiling, observation.workers_ceiling)
        self._ceiling = max(self._ceiling, 1)
        self._done: list[Proposal] = []
        self._refused: list[Refusal] = []
        self._settled: list[Settled] = []
        self.fallback = ""

    def ruling(self) -> Ruling:
        """What was decided."""
        return Ruling(
            self._number, self._plan, tuple(self._done), tuple(self._refused), tuple(self._settled), self.fallback
        )

    # -- before any proposal ------------------------------------------------------------------
    def settle(self) -> None:
        """Verdict on the watched step; what did harm is taken back now."""
        acquitted = self._guard.effects.acquit(self._seen)
        settled, back = self._guard.effects.settle(self._seen)
        self._settled += [verdict for verdict in (acquitted, settled) if verdict is not None]
        if back is not None and present_value(back, self._plan) != back.after:
            clamped = self._clamp(back)
            if not clamped.refused:
                self._take(replace(back, after=clamped.value), watch=False)

    def fall_back(self, why: str) -> None:
        """While predictions may not be used, the setting of the configuration holds; but a price of bytes that gave
        way to a backlog stays until that is gone, for the default variant may be the dearest."""
        self.fallback = why
        if not why:
            return
        safe, plan, seen = self._guard.safe, self._plan, self._seen
        backlog = seen.oldest_age_seconds > BACKLOG_RATIO * seen.objective.latency_seconds
        if _shape(plan) != _shape(safe) or plan.workers < safe.workers:
            self._take(_fallback_step("lanes", plan.lanes, safe.lanes, why), watch=False)
        if plan.variant_price != safe.variant_price and not (backlog and plan.variant_price is not None):
            self._take(_fallback_step("variant_price", plan.variant_price, safe.variant_price, why), watch=False)

    # -- proposals ----------------------------------------------------------------------------
    def hear(self, proposal: Proposal) -> None:
        """Grant, cut or refuse one proposal."""
        clamped = self._clamp(proposal)
        verdict = clamped if clamped.refused else self._check(replace(proposal, after=clamped.value))
        if verdict is not None:
            self._refused.append(Refusal(proposal, verdict.rule, verdict.why))
            return
        granted = self._granted(replace(proposal, after=clamped.value))
        if granted is None:
            return
        if clamped.rule:
            self._refused.append(Refusal(proposal, clamped.rule, clamped.why, granted.after))
        self._take(granted, watch=granted.knob not in FREE)

    def _clamp(self, proposal: Proposal) -> Clamped:
        if proposal.knob in LANE_KNOBS and self._plan.lane(proposal.lane) is None:
            return refuse("invalid", f"there is no lane {proposal.lane!r}")
        if proposal.knob == "lanes":
            return clamp_lanes(proposal, self._plan, self._config, self._ceiling)
        if proposal.knob == "intake":
            known = proposal.after in ("open", "slow", "paused")
            return Clamped(proposal.after) if known else refuse("invalid", f"{proposal.after!r} is no intake")
        if proposal.knob == "cores":
            known = isinstance(proposal.after, frozenset) and all(isinstance(core, int) for core in proposal.after)
            return Clamped(proposal.after) if known else refuse("invalid", "not a set of CPU numbers")
        if proposal.knob == "variant_price" and proposal.after is None:
            return Clamped(None)
        return clamp_scalar(proposal, self._plan, self._config, self._ceiling)

    def _check(self, proposal: Proposal) -> Clamped | None:
        """The first rule that refuses; ``None`` when none does."""
        before = present_value(proposal, self._plan)
        if proposal.after == before:
            return refuse("bounds", "it is at the bound already")
        if self.fallback and proposal.basis == "model":
            return refuse("distrust", self.fallback)
        if self.fallback and proposal.knob == "lanes" and _shape(self._with(proposal)) != _shape(self._plan):
            return refuse("distrust", f"no lanes by predicted cost: {self.fallback}")
        if proposal.urgent:
            return None
        for rule in (
            self._diagnosis,
            self._peak,
            self._dead_band,
            self._budget,
            self._blacklist,
            self._one_knob,
            self._pause,
        ):
            verdict = rule(proposal, before)
            if verdict is not None:
                return verdict
        return None

    def _diagnosis(self, proposal: Proposal, before: Value) -> Clamped | None:
        """More workers do not help against a slow sink or one heavy key (Dhalion's missing resolver)."""
        if proposal.direction != "up" or self._workers_after(proposal) <= self._plan.workers:
            return None
        if self._seen.sinks.wait_ratio > WAITS_ELSEWHERE and self._seen.sinks.waiting:
            return refuse("slow_sink", f"{self._seen.sinks.wait_ratio:.0%} of latency is waiting for sinks")
        for traffic in self._seen.traffic:
            if traffic.order_wait_ratio > WAITS_ELSEWHERE and traffic.heaviest_key_ratio > WAITS_ELSEWHERE:
                return refuse("skew", f"one key has {traffic.heaviest_key_ratio:.0%} of the work of {traffic.name}")
        return None

    def _peak(self, proposal: Proposal, before: Value) -> Clamped | None:
        """No growth past the peak of the measured speed-up curve, beyond one preempted worker per lane."""
        after = self._workers_after(proposal)
        if proposal.direction != "up" or after <= self._plan.workers:
            return None
        curve, cores = self._seen.speed_up, self._seen.usable_cores
        peak = curve.peak_workers(self._ceiling, cores)
        measured = curve.useful_seconds_per_second
        fewer = after <= peak + 2 and curve.at(after, cores) >= curve.at(peak, cores) * 0.95
        if after <= peak or fewer or after >= len(measured) or measured[after] <= 0:
            return None
        return refuse("peak", f"{peak} workers do {measured[peak]:.2f}, {after} do {measured[after]:.2f} s per second")

    def _dead_band(self, proposal: Proposal, before: Value) -> Clamped | None:
        band = widened_dead_band(self._config, self._seen.since_start_seconds)
        if proposal.knob in CONTINUOUS and within_dead_band(before, proposal.after, band):
            return refuse("dead_band", f"less than {band:.0%} of the present value")
        return None

    def _budget(self, proposal: Proposal, before: Value) -> Clamped | None:
        """No fewer workers than configured while the objective's budget of misses is spent."""
        fewest = min(self._guard.safe.workers, self._plan.workers)
        if proposal.direction != "down" or self._workers_after(proposal) >= fewest or self._elsewhere():
            return None
        for traffic in self._seen.traffic:
            spent = self._guard.budget.spent(traffic)
            if spent > self._config.budget_ratio:
                return refuse("budget", f"{spent:.0%} of what {traffic.name} may miss is spent")
        return None

    def _elsewhere(self) -> bool:
        order = max((traffic.order_wait_ratio for traffic in self._seen.traffic), default=0.0)
        return max(self._seen.sinks.wait_ratio, order) > WAITS_ELSEWHERE

    def _blacklist(self, proposal: Proposal, before: Value) -> Clamped | None:
        why = self._guard.effects.blacklisted(proposal, self._workers_after(proposal), self._seen)
        return refuse("blacklist", why) if why else None

    def _one_knob(self, proposal: Proposal, before: Value) -> Clamped | None:
        """One step at a time, so that its effect can be told; capacity may always go up."""
        if proposal.knob in FREE or (proposal.direction == "up" and proposal.knob in CAPACITY):
            return None
        taken = next((done for done in self._done if done.knob not in FREE), None)
        if taken is not None:
            return refuse("one_knob_at_a_time", f"{taken.knob} is changed now")
        pending = self._guard.effects.pending
        if pending is not None:
            return refuse("one_knob_at_a_time", f"the effect of decision {pending.number} is being measured")
        return None

    def _pause(self, proposal: Proposal, before: Value) -> Clamped | None:
        """Cooldown of steps up and sideways; steps down wait for agreement instead."""
        if proposal.knob in FREE:
            return None
        waits = {"up": self._config.up_again_after, "sideways": self._config.sideways_after}.get(
            proposal.direction, 0.0
        )
        passed = self._seen.now_seconds - self._guard._last.get(_subject(proposal)[0], -math.inf)
        if passed < waits:
            return refuse("cooldown", f"changed {passed:.1f} s ago, {waits:g} s must pass")
        if proposal.direction == "down" and self._seen.since_start_seconds < self._config.learn_first:
            return refuse("cooldown", f"nothing is taken away in the first {self._config.learn_first:g} s")
        return None

    def _granted(self, proposal: Proposal) -> Proposal | None:
        """For a step down: the largest that agreeing decisions asked for, or ``None`` until they agree."""
        if proposal.direction != "down" or proposal.urgent or proposal.knob in FREE:
            return proposal
        subject, now = _subject(proposal), self._seen.now_seconds
        agreement = self._guard._agreements.setdefault(subject, _Agreement(now))
        agreement.asked.append(proposal)
        passed = now - agreement.since_seconds
        wanted, needed = self._config.down_after, self._config.down_after_decisions
        if len(agreement.asked) < needed or passed < wanted - 1e-9:
            self._refused.append(
                Refusal(
                    proposal, "cooldown", f"{len(agreement.asked)} of {needed} decisions, {passed:.1f} of {wanted:g} s"
                )
            )
            return None
        return max(reversed(agreement.asked), key=self._size)

    def _size(self, proposal: Proposal) -> float:
        if proposal.knob in CAPACITY:
            return float(self._workers_after(proposal))
        return float(proposal.after) if isinstance(proposal.after, int | float) else 0.0

    def _workers_after(self, proposal: Proposal) -> int:
        if proposal.knob not in ("workers", "lanes"):
            return self._plan.workers
        if proposal.knob == "workers" and self._plan.lane(proposal.lane) is None:
            return self._plan.workers
        return with_value(self._plan, proposal, proposal.after).workers

    def _with(self, proposal: Proposal) -> Plan:
        return with_value(self._plan, proposal, proposal.after)

    def _take(self, proposal: Proposal, *, watch: bool) -> None:
        """Put a granted step into the plan."""
        before = present_value(proposal, self._plan)
        if before == proposal.after:
            return
        proposal = replace(proposal, before=before)
        earlier = self._plan.workers
        self._plan = with_value(self._plan, proposal, proposal.after)
        self._done.append(proposal)
        if not self._acting or proposal.knob in FREE:
            return
        effects = self._guard.effects
        overtaken = effects.overtaken(proposal, self._seen)
        if overtaken is not None:
            self._settled.append(overtaken)
        self._guard._agreements.pop(_subject(proposal), None)
        self._guard._last[_subject(proposal)[0]] = self._seen.now_seconds
        if watch:
            effects.watch(
                Step(
                    self._number,
                    proposal,
                    before,
                    self._seen.now_seconds,
                    measured_effect(self._seen),
                    self._seen.routed_work_seconds_per_second,
                    saturated(self._seen),
                    earlier,
                    self._plan.workers,
                )
            )


def _shape(plan: Plan) -> list[tuple[str, str, float]]:
    return [(lane.name, lane.traffic, lane.up_to_work_ns) for lane in plan.lanes]


def _fallback_step(knob: Knob, before: Value, after: Value, why: str) -> Proposal:
    return Proposal(
        knob=knob,
        lane="",
        before=before,
        after=after,
        direction="up",
        reason="fallback",
        detail=why,
        basis="rule",
        policy="guard",
        urgent=True,
    )
