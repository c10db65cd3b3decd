"""From numbers of bins and workers to lanes with names, cuts, nice levels and batches, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamspec.core.control import COST_BIN_EDGES_NS, COST_BINS, DEFAULT_TRAFFIC, EVERYTHING, LanePlan, cost_bins
from streamspec.core.resources import Allocation
from streamspec.policies.forecast import Demand, Floats

NAMES: dict[int, tuple[str, ...]] = {1: ("all",), 2: ("light", "heavy"), 3: ("light", "medium", "heavy")}
NICE = (0, 10, 19)
"""By place: each level has about a tenth of the weight of the one before, which is preemption in all but name."""

MAX_BATCH = 64
BATCH_SHARE = 0.1
"""Share of the objective that a message's segments may take together."""


@dataclass(frozen=True)
class Split:
    """Lanes of one traffic class as bins: lane i has bins from ``cuts[i - 1]`` to below ``cuts[i]``."""

    cuts: tuple[int, ...]
    workers: tuple[int, ...]

    @property
    def total(self) -> int:
        """Workers together."""
        return sum(self.workers)

    @property
    def cut_array(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """For kernels: three entries."""
        return np.array([*self.cuts, *[COST_BINS] * (3 - len(self.cuts))], dtype=np.int64)[:3]

    @property
    def worker_array(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """For kernels: three entries."""
        return np.array([*self.workers, 0, 0, 0], dtype=np.int64)[:3]


def split_of(lanes: Sequence[LanePlan]) -> Split:
    """The bins of lanes of one class, in their order; more than three are read as their first three."""
    ends = [lane.up_to_work_ns for lane in lanes[:3]]
    cuts = [COST_BINS if end == EVERYTHING else int(cost_bins(end * 1.0001)) for end in ends[:-1]]
    return Split((*cuts, COST_BINS), tuple(lane.allocation.workers for lane in lanes[:3]))


def lanes_of(
    split: Split, traffic: str, urgency: int, demand: Demand, limit_seconds: float, present: Sequence[LanePlan]
) -> tuple[LanePlan, ...]:
    """Lanes for a split. What a lane of the same name has beside workers, nice level and batch stays with it; the
    bandwidth of the class stays with the class."""
    known = {lane.name: lane for lane in present}
    count = len(split.workers)
    names = [name if traffic == DEFAULT_TRAFFIC else f"{traffic}-{name}" for name in NAMES[count]]
    bandwidth = sum(lane.allocation.bytes_per_second for lane in present) / count if set(known) != set(names) else 0.0
    lanes: list[LanePlan] = []
    low = 0
    for place, (workers, cut) in enumerate(zip(split.workers, split.cuts, strict=True)):
        old = known.get(names[place])
        was = old.allocation if old is not None else Allocation(batch=0)
        batch = _batch(demand.cost, demand.rate, low, cut, limit_seconds, was.batch)
        allocation = Allocation(
            workers,
            NICE[place],
            was.cores,
            batch,
            bandwidth or was.bytes_per_second,
            was.cache_bytes,
            was.gpu_memory_bytes,
        )
        up_to = EVERYTHING if place == count - 1 else COST_BIN_EDGES_NS[cut]
        lanes.append(LanePlan(names[place], allocation, traffic, up_to, urgency * 10 + place))
        low = cut
    return tuple(lanes)


def _batch(cost: Floats, rate: Floats, low: int, high: int, limit_seconds: float, present: int) -> int:
    """A power of two; the present one stays unless it is four times off. It suits a segment of mean cost: of dearer
    ones the dispatcher sends fewer at once."""
    segments = float(rate[low:high].sum())
    if not segments > 0:
        return present or 1
    mean = float((rate[low:high] * cost[low:high]).sum()) / segments
    room = min(max(BATCH_SHARE * limit_seconds / max(mean, 1e-9), 1.0), float(MAX_BATCH))
    batch = 1 << (int(room).bit_length() - 1)
    return present if present and batch < present * 4 and present < batch * 4 else batch
