"""Compiled counting of what arrives and what finishes, a batch at a time, for the observation of a window.

Shapes: T traffic classes, L lanes, B = ``COST_BINS`` of predicted work, V variants. Counts are float64, times
nanoseconds; the observer turns them into rates.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamspec.core.control import COST_BINS
from streamspec.core.interfaces import Counts, Rows, Slots
from streamspec.core.jit import kernel
from streamspec.core.outcome import DELIVERED, SHED
from streamspec.core.segment import MAX_STAGES

Floats = npt.NDArray[np.float64]

TENTHS = 10
KEY_BUCKETS = 1024

ARRIVED_SEGMENTS, ARRIVED_WORK, FINISHED, MISSED, MEASURED, MEASURED_SQUARES, BIN_COLUMNS = range(7)
"""Columns of ``bins (T, B, BIN_COLUMNS)``."""

LATENCY_SUM, ORDER_SUM, SINK_SUM, WAIT_COLUMNS = range(4)
"""Columns of ``waits (T, WAIT_COLUMNS)``."""

LANE_ARRIVED, LANE_FINISHED, LANE_MISSED, LANE_USEFUL, LANE_SERVICE, LANE_COLUMNS = range(6)
"""Columns of ``lanes (L, LANE_COLUMNS)``."""

SAMPLES, ABSOLUTE_ERROR, MODEL_MEASURED, MODEL_PREDICTED, ABOVE_UPPER, UNUSABLE, LOOKED, MODEL_COLUMNS = range(8)
"""Entries of ``model (MODEL_COLUMNS,)``."""

VARIANT_CHOSEN, VARIANT_WORK, VARIANT_BYTES, VARIANT_COLUMNS = range(4)
"""Columns of ``variants (V, VARIANT_COLUMNS)``."""


@kernel
def work_bin(work_ns: float) -> int:
    """As ``core.control.cost_bins``: what is not a positive finite number counts as the heaviest."""
    if not (work_ns > 0.0 and work_ns < math.inf):
        return COST_BINS - 1
    return min(max(math.floor(2.0 * math.log2(work_ns / 1000.0)), 0), COST_BINS - 1)


@kernel
def arrived(
    headers: Rows,
    slots: Slots,
    predictions: Rows,
    looks: Rows,
    traffic_of_lane: Counts,
    tenth: int,
    bins: Floats,
    tenths: Floats,
    keys: Floats,
    lanes: Floats,
    variants: Floats,
    model: Floats,
) -> None:
    """Count routed segments, by the work of the variants chosen for them. ``tenths`` is ``(T, TENTHS)``, ``keys``
    ``(T, KEY_BUCKETS)``: that work by time and by stream key."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        header = headers[slot]
        row = predictions[slot]
        traffic = traffic_of_lane[header.lane]
        work_ns = float(looks[slot].expected_ns)
        place = work_bin(work_ns)
        bins[traffic, place, ARRIVED_SEGMENTS] += 1
        bins[traffic, place, ARRIVED_WORK] += work_ns
        tenths[traffic, tenth] += work_ns
        keys[traffic, header.key_hash % np.uint64(KEY_BUCKETS)] += work_ns
        lanes[header.lane, LANE_ARRIVED] += 1
        model[LOOKED] += 1
        if not (work_ns > 0.0 and work_ns < math.inf):
            model[UNUSABLE] += 1
        for variant in range(variants.shape[0]):
            variants[variant, VARIANT_WORK] += row.variant_work_ns[variant]
            variants[variant, VARIANT_BYTES] += row.variant_ratio[variant] * header.length


@kernel
def finished(
    outcomes: Rows,
    traffic_of_lane: Counts,
    objectives_ns: Floats,
    stage: int,
    bins: Floats,
    waits: Floats,
    lanes: Floats,
    variants: Floats,
    model: Floats,
) -> None:
    """Count outcomes. ``objectives_ns`` is ``(T,)``; ``stage`` is the one with variants, -1 for none."""
    for i in range(outcomes.shape[0]):
        out = outcomes[i]
        lane = min(int(out.lane), traffic_of_lane.shape[0] - 1)
        traffic = traffic_of_lane[lane]
        predicted = float(out.predicted_ns)
        place = work_bin(predicted)
        measured = 0.0
        for s in range(MAX_STAGES):
            measured += out.useful_ns[s]
        missed = out.ending == SHED or out.latency_ns > objectives_ns[traffic]
        bins[traffic, place, FINISHED] += 1
        bins[traffic, place, MISSED] += missed
        bins[traffic, place, MEASURED] += measured
        bins[traffic, place, MEASURED_SQUARES] += measured * measured
        if out.ending == SHED:
            continue
        lanes[lane, LANE_FINISHED] += 1
        lanes[lane, LANE_MISSED] += missed
        lanes[lane, LANE_USEFUL] += measured
        lanes[lane, LANE_SERVICE] += out.service_ns
        waits[traffic, LATENCY_SUM] += out.latency_ns
        waits[traffic, ORDER_SUM] += out.order_ns
        waits[traffic, SINK_SUM] += out.sink_ns
        if stage >= 0 and 0 <= out.variant[stage] < variants.shape[0]:
            variants[out.variant[stage], VARIANT_CHOSEN] += 1
        if out.ending == DELIVERED and predicted > 0.0 and measured > 0.0:
            model[SAMPLES] += 1
            model[ABSOLUTE_ERROR] += abs(predicted - measured)
            model[MODEL_MEASURED] += measured
            model[MODEL_PREDICTED] += predicted
            model[ABOVE_UPPER] += measured > out.predicted_upper_ns
