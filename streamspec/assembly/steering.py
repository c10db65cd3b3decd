"""What looks into segments, learns, and controls: everything that is built anew when a reload changes it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from streamspec.assembly.control import Control, build_control, build_observer
from streamspec.assembly.effects import build_effects
from streamspec.assembly.learning import Learning
from streamspec.assembly.ledger import Ledger
from streamspec.assembly.warming import warm_foresight, warm_policies
from streamspec.core.control import HostState
from streamspec.core.prediction import variant_stage
from streamspec.engine.controller import ModelFacts, Surroundings, lane_specs
from streamspec.engine.foresight import Foresight
from streamspec.monitors.host import HostMonitor

if TYPE_CHECKING:
    from streamspec.assembly.gpu import GpuPool
    from streamspec.config import ServiceConfig
    from streamspec.engine.arena import Arena
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.engine.router import LaneRule
    from streamspec.profiler.profiler import Profiler
    from streamspec.telemetry.decisions import DecisionLog

HOST_SECONDS = 0.5
"""How often the host is looked at."""


def build_foresight(config: ServiceConfig, arena: Arena) -> tuple[Profiler, Foresight] | tuple[None, None]:
    """Looks into the segments of the configured chain; nothing where there is no stage whose cost could differ."""
    if not config.stages or not config.profiler.enabled:
        return None, None
    profiler = config.profiler.build()
    stage = variant_stage(config.stages)
    variants = len(config.stages[stage].cost_keys) if stage >= 0 else 0
    priced = stage < 0 or config.stages[stage].changes_payload
    foresight = Foresight(arena, profiler, variant_stage=stage, variants=variants, priced=priced)
    foresight.hurries = config.control.variants.enabled
    return profiler, foresight


class Steering:
    """Of one service, for one configuration.

    Args:
        config: validated.
        dispatcher: that runs it.
        log: where decisions are read.
        rules: which segments belong to each traffic class, in order of matching.
        gpu: the service's pool of GPU memory.
    """

    def __init__(
        self,
        config: ServiceConfig,
        dispatcher: Dispatcher,
        log: DecisionLog,
        rules: dict[str, LaneRule],
        gpu: GpuPool | None = None,
    ) -> None:
        self.learning: Learning | None = None
        self._dispatcher = dispatcher
        self._config = config
        self._host = HostMonitor(clock=dispatcher.clock)
        self._host_state = HostState()
        self._timer: asyncio.TimerHandle | None = None
        self.observer = build_observer(config)
        dispatcher.watch(self.observer)
        if dispatcher.foresight is not None:
            self.learning = Learning(config, dispatcher, dispatcher.foresight)
            warm_foresight(dispatcher.foresight)
        warm_policies(config)
        self.ledger = Ledger(log, self.learning.database if self.learning is not None else None)
        usable_cores = len(os.sched_getaffinity(0))
        self.effects = build_effects(config, dispatcher, gpu, lambda: self.control.mode == "auto")
        surroundings = Surroundings(
            host=lambda: self._host_state, model=self._model, caches=self.effects.caches, effects=(self.effects,)
        )
        self.control: Control = build_control(
            config, dispatcher, self.observer, rules, surroundings, self.ledger, usable_cores, self.effects
        )

    def start(self) -> None:
        """Begin to learn and to decide."""
        if self.learning is not None:
            self.learning.start()
        self._look_at_host()
        control = self._config.control
        self.effects.start(self.control.controller.cycle.plan)
        self.control.controller.start(control.period, control.glance)

    async def warm(self) -> None:
        """Return when what other instances have learned is known, or that takes too long."""
        if self.learning is not None:
            await self.learning.warm()

    async def close(self) -> None:
        """Stop deciding, let the learner finish, keep what there is to keep."""
        self.control.controller.close()
        await self.effects.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._dispatcher.unwatch(self.observer)
        await asyncio.to_thread(self.ledger.close)
        if self.learning is not None:
            await self.learning.close()

    def lane_objectives_seconds(self) -> dict[str, float]:
        """Latency objective of each lane: that of its traffic class."""
        by_class = {traffic.name: traffic.objective.latency_seconds for traffic in self.observer.traffic}
        return {lane.name: by_class[lane.traffic] for lane in self.control.controller.cycle.plan.lanes}

    def summary(self) -> dict[str, Any]:
        """What was learned and decided."""
        controller, learning = self.control.controller, self.learning
        return {
            "control": {
                "mode": self.control.mode,
                "fallback": self.control.fallback,
                "decisions": dict(self.ledger.log.outcomes),
                "refusals": dict(self.ledger.log.refusals),
                "busy_seconds": round(controller.busy_seconds, 4),
            },
            "learning": None
            if learning is None
            else {
                "learned": learning.client.learned,
                "skipped": dict(learning.client.skipped),
                "model_version": learning.client.snapshot.version,
                "base_model": learning.base_name or None,
                "sharing": None if learning.sharing is None else dict(learning.sharing.summary()),
            },
        }

    def rules_changed(self, rules: dict[str, LaneRule]) -> None:
        """The sources are others: the present lanes take their segments by these rules."""
        controller = self.control.controller
        controller.rules = rules
        self._dispatcher.set_lanes(lane_specs(controller.cycle.plan, rules))

    def _model(self) -> ModelFacts:
        if self.learning is None:
            return ModelFacts()
        return ModelFacts(self.learning.published_ns, self.learning.drift)

    def _look_at_host(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HOST_SECONDS, self._look_at_host)
        pids = [os.getpid(), *(worker.pid for worker in self._dispatcher.fleet.present())]
        if self.learning is not None and self.learning.client.pid is not None:
            pids.append(self.learning.client.pid)
        self._host_state = self._host.sample(pids).state
        if self._dispatcher.foresight is not None:
            self._dispatcher.foresight.host_load = self._host_state.cpu_busy_ratio
