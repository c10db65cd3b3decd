"""A lane: one queue of segments with its own workers, nice level, cores and batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamspec.core.interfaces import Bytes, Rows, Slots
from streamspec.core.resources import Allocation
from streamspec.engine import kernels
from streamspec.engine.foresight_kernels import queued_work

if TYPE_CHECKING:
    from streamspec.engine.fleet import Worker
    from streamspec.engine.foresight import Foresight


class Lane:
    """Queue and allocation of one lane; decides nothing.

    Attributes:
        name, index: the index is the column ``lane`` of headers.
        urgency: smaller is more urgent; the least urgent lane is shed first.
        allocation: what was decided for it.
        workers: ready workers assigned to it now.
    """

    def __init__(self, name: str, index: int, allocation: Allocation, *, urgency: int, headers: Rows) -> None:
        self.name = name
        self.index = index
        self.urgency = urgency
        self.allocation = allocation
        self.workers: list[Worker] = []
        self._headers = headers
        self._ring = np.empty(1 << (len(headers) - 1).bit_length(), dtype=np.int32)
        self._marks = np.zeros(2, dtype=np.int64)
        self._taken = np.empty(256, dtype=np.int32)

    def __len__(self) -> int:
        return int(self._marks[1])

    def push(self, slots: Slots) -> None:
        """Append those of the slots that were routed here."""
        kernels.push(self._ring, self._marks, self._headers, slots, self.index)

    def push_front(self, slots: Slots) -> None:
        """Put those of the slots that belong here before all others."""
        kernels.push_front(self._ring, self._marks, self._headers, slots, self.index)

    def plan_batch(self, foresight: Foresight, most: int, now_ns: int) -> tuple[int, float]:
        """See :meth:`Foresight.plan_batch`."""
        return foresight.plan_batch(self._ring, self._marks, most, self.index, now_ns)

    def pop(self, limit: int, worker: int, now_ns: int) -> Slots:
        """Up to ``limit`` (at most 256) slots for a worker; a view that the next call overwrites."""
        count = kernels.pop(self._ring, self._marks, self._headers, min(limit, 256), worker, now_ns, self._taken)
        return self._taken[:count]

    def pop_everything(self) -> Slots:
        """Empty the queue; the slots in order."""
        mask = len(self._ring) - 1
        head, count = int(self._marks[0]), int(self._marks[1])
        slots: Slots = self._ring[(head + np.arange(count)) & mask]
        self._marks[1] = 0
        return slots

    def shed_oldest(self, may_shed: Bytes) -> int:
        """Remove the oldest queued slot whose source cannot wait; -1 when there is none."""
        return kernels.shed_oldest(self._ring, self._marks, self._headers, may_shed)

    def queued_work_ns(self, predictions: Rows, variant_stage: int) -> tuple[float, float]:
        """Predicted useful time of everything queued, expected and pessimistic, in nanoseconds.
        ``predictions``: ``PREDICTION`` rows by slot; ``variant_stage``: the stage with variants, or -1."""
        return queued_work(self._ring, self._marks, self._headers, predictions, variant_stage)

    def oldest_arrival_ns(self) -> int:
        """Monotonic time at which the first in the queue arrived; 0 when it is empty."""
        if not self._marks[1]:
            return 0
        return int(self._headers["arrival_ns"][self._ring[self._marks[0]]])
