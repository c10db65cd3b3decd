"""What controls, put together: traffic classes, the observer, the cycle of policies and guard, and its controller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamspec.assembly.egress import egress_shares
from streamspec.core.control import EVERYTHING, LanePlan, Mode, Objective, Plan
from streamspec.core.prediction import variant_stage
from streamspec.core.resources import Allocation
from streamspec.engine.controller import Controller, Surroundings
from streamspec.engine.observer import Observer, Traffic
from streamspec.telemetry.state import ComponentHealth, KnobStatus

if TYPE_CHECKING:
    from streamspec.assembly.effects import HostEffects
    from streamspec.assembly.ledger import Ledger
    from streamspec.config import ServiceConfig
    from streamspec.config.models import ObjectiveConfig
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.engine.router import LaneRule


def traffic_classes(config: ServiceConfig) -> list[Traffic]:
    """The lanes that are written by hand, or the one class ``default``; in order of matching."""
    return [
        Traffic(lane.name, _objective(lane.objective or config.objective), lane.urgency)
        for lane in config.effective_lanes
    ]


def allocations(config: ServiceConfig) -> dict[str, Allocation]:
    """What each configured lane is given at the start."""
    shares = egress_shares(config)
    return {
        lane.name: Allocation(
            lane.workers, lane.nice, frozenset(lane.cores), lane.batch, bytes_per_second=shares.get(lane.name, 0.0)
        )
        for lane in config.effective_lanes
    }


def starting_plan(config: ServiceConfig) -> Plan:
    """The setting that the configuration amounts to."""
    given = allocations(config)
    return Plan(
        tuple(
            LanePlan(
                name=lane.name,
                allocation=given[lane.name],
                traffic=lane.name,
                up_to_work_ns=EVERYTHING,
                urgency=lane.urgency,
            )
            for lane in config.effective_lanes
        )
    )


def build_observer(config: ServiceConfig) -> Observer:
    """Counts for the configured chain and traffic classes."""
    stage = variant_stage(config.stages)
    return Observer(
        traffic_classes(config),
        window=max(round(config.control.window / config.control.period), 1),
        variants=len(config.stages[stage].cost_keys) if stage >= 0 else 0,
        variant_stage=stage,
        default_variant=config.stages[stage].default_variant if stage >= 0 else 0,
    )


@dataclass
class Control:
    """The controller of one service, as HTTP sees it. Implements ``ControlReader``."""

    controller: Controller
    ledger: Ledger
    effects: HostEffects

    @property
    def mode(self) -> Mode:
        """See ``ControlConfig.mode``."""
        return self.controller.cycle.mode

    @property
    def fallback(self) -> str:
        """Why predictions are not used now; empty when they are."""
        return self.controller.cycle.guard.fallback

    def set_mode(self, mode: Mode) -> None:
        """Another mode from the next turn on."""
        self.controller.cycle.mode = mode

    def knobs(self, lane: str) -> Sequence[KnobStatus]:
        """Settings beyond workers, nice level and batch: desired, granted and observed."""
        return self.effects.knobs(lane)

    def health(self) -> Sequence[ComponentHealth]:
        """The controller, with its fallback and whether its turns fail; and every actuator."""
        return [self._own_health(), *self.effects.health()]

    def _own_health(self) -> ComponentHealth:
        if self.controller.failures:
            reason = f"{self.controller.failures} turns failed, see the log"
            return ComponentHealth("controller", "degraded", reason)
        if self.mode != "off" and self.fallback:
            return ComponentHealth("controller", "degraded", f"predictions are not used: {self.fallback}")
        return ComponentHealth("controller")


def build_control(
    config: ServiceConfig,
    dispatcher: Dispatcher,
    observer: Observer,
    rules: dict[str, LaneRule],
    surroundings: Surroundings,
    ledger: Ledger,
    usable_cores: int,
    effects: HostEffects,
) -> Control:
    """The controller for a dispatcher that runs the :func:`starting_plan`.

    Args:
        rules: which segments belong to each traffic class, in order of matching.
        surroundings: the host, the model and the effects.
        effects: among the surroundings' effects.
    """
    controller = Controller(
        dispatcher,
        observer,
        config.control.build(starting_plan(config), config.control_mode),
        rules,
        _objective(config.objective),
        usable_cores=usable_cores,
        workers_ceiling=config.workers_ceiling,
        surroundings=surroundings,
        ledger=ledger,
    )
    return Control(controller, ledger, effects)


def _objective(objective: ObjectiveConfig) -> Objective:
    return Objective(objective.latency, objective.percentile)
