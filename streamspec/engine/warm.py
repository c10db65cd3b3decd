"""Every kernel of the data path once, on segments that do not exist.

The first call of a kernel compiles it (seconds, all together) or loads it from the cache (milliseconds).
Where that happened in the first batch, sources that cannot wait would lose what arrives meanwhile.
"""

from __future__ import annotations

import numpy as np

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.interfaces import Rows, Slots
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import PREDICTION
from streamspec.core.resources import Allocation
from streamspec.core.segment import HEADER
from streamspec.engine import foresight_kernels, kernels
from streamspec.engine.accounts import Accounts
from streamspec.engine.lane import Lane
from streamspec.engine.order import OrderLines
from streamspec.engine.router import LaneRule, RuleRouter


def warm_kernels() -> None:
    """Compile or load them, on scratch memory with the types of the real one."""
    headers = np.zeros(2, dtype=HEADER)
    slots, out = np.arange(2, dtype=np.int32), np.empty(2, dtype=np.int32)
    accounts = Accounts(["warm"])
    kernels.prepare(headers, slots)
    for ordered in (True, False):
        order = OrderLines(headers, ordered=ordered)
        order.commit(slots, 0, 1, 0, accounts.vector)
        order.complete(slots[:0], 0)
        order.complete(np.frombuffer(b"", dtype=np.int32), 0)  # read-only, as a worker's message is
        order.remove(0)
    lane = Lane("warm", 0, Allocation(), urgency=0, headers=headers)
    lane.push(slots[:1])
    lane.push_front(slots[1:])
    lane.shed_oldest(np.ones(1, dtype=np.uint8))
    lane.queued_work_ns(np.zeros(2, dtype=PREDICTION), -1)
    lane.pop(1, 1, 0)
    kernels.held_by(headers, 1, out)
    kernels.overdue(headers, 0, out)
    kernels.sink_backlog(headers, 0)
    kernels.part(headers, slots, 1, 0, out, out.copy())
    kernels.drop_pending(headers, slots, out)
    accounts.finish(headers, slots, 0)
    _warm_foresight(headers, slots)


def _warm_foresight(headers: Rows, slots: Slots) -> None:
    predictions = np.zeros(2, dtype=PREDICTION)
    looks = np.zeros(2, dtype=foresight_kernels.LOOK)
    RuleRouter([LaneRule(0, max_work_ns=1.0), LaneRule(0)], lambda slot: b"", looks).route(headers, slots)
    foresight_kernels.expect(headers, slots, predictions, 0, looks)
    foresight_kernels.choose_variants(headers, slots, predictions, 0, 1, 0.0)
    queue, marks = np.zeros(1, dtype=np.int32), np.zeros(2, dtype=np.int64)
    foresight_kernels.plan_batch(queue, marks, 1, headers, predictions, 0, 1, 0.0, 1.0, 1.0, 0)
    foresight_kernels.keep(
        slots,
        np.zeros((2, FEATURE_COUNT), dtype=np.float32),
        predictions,
        0,
        0.0,
        np.zeros((2, FEATURE_COUNT), dtype=np.float32),
        predictions.copy(),
        looks,
        np.zeros(foresight_kernels.TYPES, dtype=np.int64),
    )
    foresight_kernels.note(
        headers,
        slots,
        np.zeros((2, FEATURE_COUNT), dtype=np.float32),
        predictions,
        looks,
        -1,
        np.zeros(2, dtype=OUTCOME),
    )
