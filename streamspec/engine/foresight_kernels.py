"""Compiled bookkeeping of predictions, a batch of slots at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.interfaces import Counts, Rows, Slots
from streamspec.core.jit import kernel
from streamspec.core.prediction import Features

TYPES = len(TYPE_NAMES)
_TYPE_COLUMN = FEATURE_INDEX["type_code"]

LOOK = np.dtype(
    [
        ("version", "<u4"),  # of the model's snapshot
        ("host_load", "<f4"),
        ("expected_ns", "<f4"),  # predicted work in the variant that the price of its arrival chose
        ("profiled", "u1"),  # 1: features are filled
        ("type_code", "u1"),
    ],
    align=True,
)
"""How a segment was looked at when it was committed."""


@kernel
def keep(
    slots: Slots,
    features: Features,
    rows: Rows,
    version: int,
    host_load: float,
    all_features: Features,
    all_rows: Rows,
    looks: Rows,
    types: Counts,
) -> None:
    """Store what was seen and predicted of a batch under its slots, and count it by type."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        all_features[slot] = features[i]
        all_rows[slot] = rows[i]
        looks[slot].version = version
        looks[slot].host_load = host_load
        looks[slot].profiled = 1
        looks[slot].expected_ns = rows[i].work_ns
        kind = int(features[i, _TYPE_COLUMN])
        looks[slot].type_code = 0
        if 0 <= kind < types.shape[0]:
            looks[slot].type_code = kind
            types[kind] += 1


@kernel
def expected_work(row: Any, variant: int) -> float:
    """Predicted nanoseconds of one ``PREDICTION`` row in the variant chosen, -1 for the default one."""
    if 0 <= variant < row.variant_work_ns.shape[0] and row.variant_work_ns[variant] > 0:
        return float(row.variant_work_ns[variant])
    return float(row.work_ns)


@kernel
def queued_work(ring: Slots, marks: Counts, headers: Rows, predictions: Rows, stage: int) -> tuple[float, float]:
    """Predicted nanoseconds of everything in a lane's queue, expected and pessimistic. ``stage`` has the variants,
    -1 for none."""
    mask = ring.shape[0] - 1
    total = 0.0
    upper = 0.0
    for i in range(marks[1]):
        slot = ring[(marks[0] + i) & mask]
        row = predictions[slot]
        variant = headers[slot].variant[stage] if stage >= 0 else -1
        work = expected_work(row, variant)
        total += work
        upper += work * (row.upper_ns / row.work_ns) if row.work_ns > 0 else 0.0
    return total, upper


NO_PRICE = -1.0
"""Every stage keeps its default variant as long as there is time for it."""
_LATE_RATIO = 0.5
"""Share of the objective behind which nothing but the fastest variant is chosen."""
_SPENDABLE_RATIO = 0.8
"""Share of the objective within which a segment shall be finished, predicted on the pessimistic side."""
_STEEPNESS = 7.0
"""How the price falls with age: to a thousandth when a segment is as old as ``_LATE_RATIO`` says."""


@kernel
def _cheapest(row: Any, length: int, count: int, price_ns: float, margin: float, room_ns: float) -> int:
    """The variant with the smallest ``work + bytes_out * price`` of those whose work times ``margin`` fits into the
    room; -1 when none does, or none is predicted."""
    best = -1
    best_cost = 0.0
    for variant in range(count):
        work = row.variant_work_ns[variant]
        if not work > 0 or not work * margin <= room_ns:
            continue
        cost = work + row.variant_ratio[variant] * length * price_ns
        if best < 0 or cost < best_cost:
            best = variant
            best_cost = cost
    return best


@kernel
def variant_in_time(row: Any, length: int, count: int, price_ns: float, spent_ns: float, limit_ns: float) -> int:
    """The variant for a segment that waited ``spent_ns`` and has ``limit_ns`` from its arrival on; -1: the default.

    The longer it waited, the less a byte of output is worth, so that a queue makes what leaves it cheaper at once,
    long before a decision does. A variant that would be late is not taken while a faster one is there.
    """
    age = spent_ns / (_LATE_RATIO * limit_ns)
    margin = row.upper_ns / row.work_ns if row.work_ns > 0 else 1.0
    room = _SPENDABLE_RATIO * limit_ns - spent_ns
    if price_ns < 0 and age < 1.0 and row.work_ns * margin <= room:
        return -1
    price = 0.0 if age >= 1.0 or price_ns < 0 else price_ns * math.exp(-_STEEPNESS * age * age)
    best = _cheapest(row, length, count, price, margin, room)
    return best if best >= 0 else _cheapest(row, length, count, 0.0, 1.0, math.inf)


@kernel
def plan_batch(
    ring: Slots,
    marks: Counts,
    most: int,
    headers: Rows,
    predictions: Rows,
    stage: int,
    count: int,
    price_ns: float,
    limit_ns: float,
    batch_ns: float,
    now_ns: int,
) -> tuple[int, float]:
    """How many from the head of a queue go to a worker together, and their predicted nanoseconds.

    Args:
        ring, marks: the queue.
        most: at least 1; fewer go when their predicted work is more than ``batch_ns``.
        headers: whose column ``variant[stage]`` is written, when ``count`` variants of a ``stage`` are predicted.
        price_ns: of a byte of output, or ``NO_PRICE``.
        limit_ns: the latency that the lane is held to.
    """
    mask = ring.shape[0] - 1
    total = 0.0
    for i in range(min(most, marks[1])):
        slot = ring[(marks[0] + i) & mask]
        row = predictions[slot]
        variant = -1
        if stage >= 0 and count > 0:
            spent_ns = max(now_ns - headers[slot].arrival_ns, 0) + total
            variant = variant_in_time(row, headers[slot].length, count, price_ns, spent_ns, limit_ns)
        work = expected_work(row, variant)
        if i > 0 and total + work > batch_ns:
            return i, total
        if stage >= 0:
            headers[slot].variant[stage] = variant
        total += work
    return min(most, marks[1]), total


@kernel
def choose_variants(headers: Rows, slots: Slots, predictions: Rows, stage: int, count: int, price_ns: float) -> None:
    """Give each segment the variant with the smallest ``work + bytes_out * price``.

    Args:
        headers, slots: whose column ``variant[stage]`` is written.
        predictions: by slot; a variant without a prediction is not chosen.
        stage, count: which stage, and how many variants it has.
        price_ns: what a byte of output costs, in nanoseconds of CPU time.
    """
    for i in range(slots.shape[0]):
        slot = slots[i]
        length = headers[slot].length
        headers[slot].variant[stage] = _cheapest(predictions[slot], length, count, price_ns, 1.0, math.inf)


@kernel
def expect(headers: Rows, slots: Slots, predictions: Rows, stage: int, looks: Rows) -> None:
    """Note the predicted work of the variants that were chosen."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        looks[slot].expected_ns = expected_work(predictions[slot], headers[slot].variant[stage])


@kernel
def note(
    headers: Rows, slots: Slots, features: Features, predictions: Rows, looks: Rows, stage: int, outcomes: Rows
) -> None:
    """Write into outcomes what had been seen and predicted of their slots."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        out = outcomes[i]
        look = looks[slot]
        out.profiled = look.profiled
        out.model_version = look.version
        out.host_load = look.host_load
        row = predictions[slot]
        expected = expected_work(row, headers[slot].variant[stage] if stage >= 0 else -1)
        out.predicted_ns = expected
        out.predicted_upper_ns = expected * (row.upper_ns / row.work_ns) if row.work_ns > 0 else 0.0
        for column in range(features.shape[1]):
            out.features[column] = features[slot, column]
        look.profiled = 0
