"""The controller: observe, let policies propose and the guard dispose, apply the difference, keep the account.

It decides nothing. :meth:`Controller.step` is one turn of the loop on the time that it is given; the timer that
calls it and the effects beyond the dispatcher (bandwidth classes, cores) are at the rim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from streamspec.core.control import (
    CacheState,
    Decision,
    HostState,
    LanePlan,
    Objective,
    Observation,
    Plan,
)
from streamspec.engine.cycle import Cycle
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.observer import Observer
from streamspec.engine.router import LaneRule

_log = structlog.get_logger("streamspec.controller")


class Effects(Protocol):
    """What lies beyond the dispatcher: told of each plan that comes into force."""

    def apply(self, plan: Plan) -> None:
        """Bring the host in line with the plan, soon; failures degrade that knob alone and are logged."""


@dataclass(frozen=True)
class ModelFacts:
    """What the owner of the predictor says of it.

    Attributes:
        published_ns: when the snapshot in use was published or confirmed last; 0: it does not age.
        drift, trusted: its own words.
    """

    published_ns: int = 0
    drift: bool = False
    trusted: bool = True


@dataclass
class Surroundings:
    """What the controller is told by others; each callable is cheap."""

    host: Callable[[], HostState] = HostState
    model: Callable[[], ModelFacts] = ModelFacts
    caches: Callable[[], tuple[CacheState, ...]] = tuple
    effects: Sequence[Effects] = ()


@dataclass
class Controller:
    """One per service.

    Args:
        dispatcher, observer: of the service.
        cycle: policies, guard, mode and the plan in force; its lanes are the dispatcher's.
        rules: by traffic class, which segments belong to it, in order of matching.
        objective: of the service.
        usable_cores, workers_ceiling: bounds.
        ledger: told of every decision that does, refuses or settles something.
    """

    dispatcher: Dispatcher
    observer: Observer
    cycle: Cycle
    rules: Mapping[str, LaneRule]
    objective: Objective
    usable_cores: int = 1
    workers_ceiling: int = 1
    surroundings: Surroundings = field(default_factory=Surroundings)
    ledger: Callable[[Decision], None] = lambda decision: None

    def __post_init__(self) -> None:
        self.started_ns = self.dispatcher.clock.monotonic_ns()
        self.busy_seconds = 0.0
        self.turns = 0
        self.failures = 0
        self._changed_ns: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    # -- the loop -----------------------------------------------------------------------------
    def start(self, period_seconds: float, glance_seconds: float) -> None:
        """Take a turn once a period, and glances between, until :meth:`close`."""
        self._hold_to_objectives()
        loop = asyncio.get_running_loop()
        glances = max(round(period_seconds / glance_seconds), 1)
        interval_seconds = period_seconds / glances
        count = 0

        def turn() -> None:
            nonlocal count
            count += 1
            self._timer = loop.call_later(interval_seconds, turn)
            try:
                self.step(glance=count % glances > 0)
            except Exception:  # the stream goes on with the plan in force
                self.failures += 1
                _log.exception("control turn failed")

        self._timer = loop.call_later(interval_seconds, turn)

    def close(self) -> None:
        """Take no more turns."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def step(self, *, glance: bool = False) -> Decision | None:
        """One turn, or a glance between turns. Returns the decision, if one was made."""
        now_ns = self.dispatcher.clock.monotonic_ns()
        self._hold_to_objectives()
        observation = self.observe(now_ns, glance=glance)
        self.turns += not glance
        if self.cycle.mode == "off":
            return None
        before = self.cycle.plan
        decision = self.cycle.glance(observation) if glance else self.cycle.decide(observation)
        if self.cycle.plan != before:
            self.enforce(before, self.cycle.plan, now_ns)
        if decision is not None and (decision.done or decision.refused or decision.settled):
            # The policies' time is monotonic; people's is not.
            self.ledger(replace(decision, at_seconds=self.dispatcher.clock.time_ns() / 1e9))
        self.busy_seconds += (self.dispatcher.clock.monotonic_ns() - now_ns) / 1e9
        return decision

    def observe(self, now_ns: int, *, glance: bool = False) -> Observation:
        """The observation of the window that ends now."""
        model = self.surroundings.model()
        return self.observer.observe(
            self.dispatcher,
            now_ns,
            objective=self.objective,
            usable_cores=self.usable_cores,
            workers_ceiling=self.workers_ceiling,
            cuts={lane.name: lane.up_to_work_ns for lane in self.cycle.plan.lanes},
            changed_ns=self._changed_ns,
            host=self.surroundings.host(),
            caches=self.surroundings.caches(),
            targets=self.cycle.plan.targets,
            price=self.cycle.plan.variant_price,
            published_ns=model.published_ns,
            started_ns=self.started_ns,
            drift=model.drift,
            trusted=model.trusted,
            glance=glance,
        )

    # -- doing --------------------------------------------------------------------------------
    def enforce(self, before: Plan, plan: Plan, now_ns: int) -> None:
        """Bring dispatcher and host, which are in line with ``before``, in line with ``plan``."""
        if _shape(before.lanes) != _shape(plan.lanes):
            self.dispatcher.set_lanes(lane_specs(plan, self.rules))
            self._changed_ns = {lane.name: now_ns for lane in plan.lanes}
        else:
            for old, new in zip(before.lanes, plan.lanes, strict=True):
                if old != new:
                    self._changed_ns[new.name] = now_ns
                if old.up_to_work_ns != new.up_to_work_ns:
                    self.dispatcher.cut(new.name, new.up_to_work_ns)
            changed = {
                new.name: new.allocation
                for old, new in zip(before.lanes, plan.lanes, strict=True)
                if old.allocation != new.allocation
            }
            if changed:
                self.dispatcher.apply_all(changed)
        foresight = self.dispatcher.foresight
        if foresight is not None:
            foresight.price_ns = None if plan.variant_price is None else plan.variant_price * 1e9
            self._hold_to_objectives()
        if plan.intake != before.intake:
            self.dispatcher.set_intake(plan.intake)
        for effects in self.surroundings.effects:
            effects.apply(plan)

    def _hold_to_objectives(self) -> None:
        """Let what waits in a lane be hurried by the objective of its traffic class, when decisions are ours."""
        if self.dispatcher.foresight is not None:
            self.dispatcher.foresight.limits_ns = self.observer.limits_ns() if self.cycle.mode == "auto" else ()


def lane_specs(plan: Plan, rules: Mapping[str, LaneRule]) -> list[LaneSpec]:
    """The lanes of a plan as the dispatcher takes them, in order of matching: by traffic class, then by cut.
    ``rules``: by traffic class, in order of matching."""
    order = list(rules)
    lanes = sorted(plan.lanes, key=lambda lane: (order.index(lane.traffic), lane.up_to_work_ns))
    return [
        LaneSpec(
            name=lane.name,
            allocation=lane.allocation,
            urgency=lane.urgency,
            traffic=order.index(lane.traffic),
            rule=replace(rules[lane.traffic], lane=index, max_work_ns=lane.up_to_work_ns),
        )
        for index, lane in enumerate(lanes)
    ]


def _shape(lanes: Sequence[LanePlan]) -> list[tuple[str, str, int]]:
    """What cannot be changed without making the lanes anew."""
    return [(lane.name, lane.traffic, lane.urgency) for lane in lanes]
