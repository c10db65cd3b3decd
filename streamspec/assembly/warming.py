"""The first decision and the first prediction, on traffic that does not exist, before any source is open.

They compile kernels (seconds, once per installation) or load them (milliseconds); in front of live traffic that would
be a gap in which sources that cannot wait lose what arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamspec.assembly.control import starting_plan, traffic_classes
from streamspec.core.control import (
    COST_BIN_MIDDLES_NS,
    CostHistogram,
    LaneState,
    Observation,
    TrafficState,
    VariantState,
)
from streamspec.core.features import FEATURE_COUNT
from streamspec.core.prediction import PREDICTION, variant_stage

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig
    from streamspec.engine.foresight import Foresight


def warm_policies(config: ServiceConfig) -> None:
    """Let policies of their own decide once; nothing of it stays but compiled code."""
    if config.control_mode == "off":
        return
    cycle = config.control.build(starting_plan(config), "recommend")
    for moment in (1.0, 2.0):
        cycle.decide(_busy_observation(config, moment))


def warm_foresight(foresight: Foresight) -> None:
    """Predict nothing in particular."""
    if foresight.predictor is not None:
        features = np.zeros((2, FEATURE_COUNT), dtype=np.float32)
        foresight.predictor.predict(features, 0.0, np.zeros(2, dtype=PREDICTION))


def _busy_observation(config: ServiceConfig, now_seconds: float) -> Observation:
    """More work than the workers can do, of all costs, in every variant."""
    plan = starting_plan(config)
    rates = tuple(1e8 / middle for middle in COST_BIN_MIDDLES_NS)
    work = tuple(0.1 for _ in COST_BIN_MIDDLES_NS)
    arrivals = CostHistogram(rates, work, rates, rates, work, work)
    stage = variant_stage(config.stages)
    keys = config.stages[stage].cost_keys if stage >= 0 else ()
    return Observation(
        now_seconds=now_seconds,
        usable_cores=2,
        workers_ceiling=config.workers_ceiling,
        workers_observed=plan.workers,
        lanes=tuple(
            LaneState(lane.name, index, lane.allocation, lane.traffic, queued=1000, queued_work_seconds=1.0)
            for index, lane in enumerate(plan.lanes)
        ),
        traffic=tuple(
            TrafficState(one.name, one.objective, one.urgency, arrivals, burst_ratio=2.0)
            for one in traffic_classes(config)
        ),
        variants=tuple(VariantState(index, 0.5, 1.0 + index, 1e6 / (1 + index)) for index in range(len(keys))),
        routed_work_seconds_per_second=5.0,
    )
