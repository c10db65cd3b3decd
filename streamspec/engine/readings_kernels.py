"""Compiled sums over outcome rows, for what is shown of a running service."""

from __future__ import annotations

import math

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.interfaces import Counts, Rows
from streamspec.core.jit import kernel
from streamspec.core.outcome import DELIVERED
from streamspec.core.outcome import SHED as ENDING_SHED
from streamspec.core.segment import ERROR_KINDS, MAX_STAGES
from streamspec.engine.kernels import bucket_of

TYPE_CODE = FEATURE_INDEX["type_code"]
NOT_PROFILED = len(TYPE_NAMES)
CONTENT_ROWS = len(TYPE_NAMES) + 1
STAGE_ERROR = ERROR_KINDS.index("stage_error")
NO_STAGE = MAX_STAGES

WORK_CELLS = 48
"""Cells of predicted and of measured work, two per octave from 1.024 us; the outer ones are open."""

# Columns of the lanes' sums, int64.
(
    SEGMENTS,  # delivered
    BYTES,  # payload in
    LATE,  # latency above the objective
    LATENCY_NS,
    WAIT_NS,
    USEFUL_NS,
    PREDICTED_SEGMENTS,
    PREDICTED_NS,
    MEASURED_NS,
    ERROR_NS,
    ABOVE_UPPER,
    COLUMNS,
) = range(12)


@kernel
def work_cell(work_ns: float) -> int:
    """The cell of an amount of work."""
    if work_ns < 1024.0:
        return 0
    return min(int(2.0 * (math.log2(work_ns) - 10.0)), WORK_CELLS - 1)


@kernel
def add_rows(
    rows: Rows,
    objectives_ns: Counts,
    lanes: Counts,
    useful: Counts,
    content: Counts,
    errors: Counts,
    stages: Counts,
    cells: Counts,
) -> None:
    """Add finished segments.

    ``objectives_ns`` is ``int64 (lanes,)``; ``lanes`` ``(lanes, COLUMNS)``; ``useful`` ``(lanes, buckets)``, a
    histogram of useful time; ``content`` ``(CONTENT_ROWS, 2)``, segments and bytes; ``errors`` ``(kinds,
    MAX_STAGES + 1)``; ``stages`` ``(MAX_STAGES,)``, useful nanoseconds; ``cells`` ``(WORK_CELLS, WORK_CELLS)``,
    predicted by measured.
    """
    for i in range(rows.shape[0]):
        row = rows[i]
        kind = int(row.features[TYPE_CODE]) if row.profiled else NOT_PROFILED
        kind = kind if 0 <= kind < CONTENT_ROWS else NOT_PROFILED
        content[kind, 0] += 1
        content[kind, 1] += row.length
        if row.ending == ENDING_SHED:
            continue
        total = 0
        last = NO_STAGE
        for stage in range(MAX_STAGES):
            spent = row.useful_ns[stage]
            total += spent
            stages[stage] += spent
            if spent > 0:
                last = stage
        if row.ending != DELIVERED:
            errors[row.error_kind, last if row.error_kind == STAGE_ERROR else NO_STAGE] += 1
            continue
        if row.lane >= lanes.shape[0]:
            continue
        lane = lanes[row.lane]
        lane[SEGMENTS] += 1
        lane[BYTES] += row.length
        lane[LATENCY_NS] += row.latency_ns
        lane[WAIT_NS] += max(row.wait_ns, 0)
        lane[USEFUL_NS] += total
        if row.latency_ns > objectives_ns[row.lane]:
            lane[LATE] += 1
        useful[row.lane, bucket_of(total)] += 1
        if row.predicted_ns > 0:
            lane[PREDICTED_SEGMENTS] += 1
            lane[PREDICTED_NS] += int(row.predicted_ns)
            lane[MEASURED_NS] += total
            lane[ERROR_NS] += int(abs(row.predicted_ns - total))
            if total > row.predicted_upper_ns:
                lane[ABOVE_UPPER] += 1
            cells[work_cell(row.predicted_ns), work_cell(total)] += 1
