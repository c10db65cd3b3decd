"""Contracts of control: what is observed, what is proposed, what is decided. Frozen, and JSON by ``document``.

The loop: the engine fills an :class:`Observation`; policies answer with an :class:`Advice` (proposals and the
forecast behind them); the guard turns the present :class:`Plan` and the proposals into a :class:`Ruling`; the
engine applies its plan; one :class:`Decision` per ruling goes to the ledger, and its measured effect follows.

Rates are per second over the observation's window. "Work" is predicted useful CPU time of the whole chain in the
variant that was chosen for the segment. A ratio is 0 to 1 unless it says otherwise. NaN never occurs: what is not
known is ``None``, an empty tuple, or the neutral value named at the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from streamspec.core.resources import Allocation

# -- bins of predicted cost -------------------------------------------------------------------
COST_BINS = 56
"""Bins of predicted work, two per octave, from 1 us to 268 s; the outer ones are open."""

COST_BIN_EDGES_NS: tuple[float, ...] = tuple(1000.0 * 2.0 ** (index / 2) for index in range(COST_BINS + 1))
"""Bin ``i`` holds work from ``edges[i]`` to below ``edges[i + 1]``."""

COST_BIN_MIDDLES_NS: tuple[float, ...] = tuple(1000.0 * 2.0 ** ((index + 0.5) / 2) for index in range(COST_BINS))

EVERYTHING = math.inf
"""Cut point of the last lane: it takes whatever no lane before it took."""


def cost_bins(work_ns: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The bin of each amount of predicted work; what is not a positive finite number counts as the heaviest."""
    work = np.asarray(work_ns, dtype=np.float64)
    known = np.isfinite(work) & (work > 0.0)
    position = np.floor(2.0 * np.log2(np.where(known, work, 1.0) / 1000.0))
    return np.where(known, np.clip(position, 0, COST_BINS - 1), COST_BINS - 1).astype(np.int64)


# -- what is seen -----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Objective:
    """Latency to hold and for how many."""

    latency_seconds: float = 0.05
    percentile: float = 99.0

    @property
    def miss_budget_ratio(self) -> float:
        """Share of segments that may miss the latency."""
        return max(1.0 - self.percentile / 100.0, 1e-6)


@dataclass(frozen=True, slots=True)
class CostHistogram:
    """Arrivals of one traffic class by predicted work; each tuple has :data:`COST_BINS` entries or none.

    Attributes:
        per_second: segments per second.
        work_seconds_per_second: predicted work arriving per second.
        finished_per_second: segments finished per second, by the work that was predicted of them.
        misses_per_second: those among them that missed the objective; shed ones count as missed.
        measured_seconds_per_second: useful time measured of the finished ones.
        measured_squares_per_second: sum of its squares (seconds squared), for the spread within a bin.
    """

    per_second: tuple[float, ...] = ()
    work_seconds_per_second: tuple[float, ...] = ()
    finished_per_second: tuple[float, ...] = ()
    misses_per_second: tuple[float, ...] = ()
    measured_seconds_per_second: tuple[float, ...] = ()
    measured_squares_per_second: tuple[float, ...] = ()

    @property
    def total_per_second(self) -> float:
        """Segments per second."""
        return float(sum(self.per_second))

    @property
    def total_work_ratio(self) -> float:
        """Seconds of work that arrive per second."""
        return float(sum(self.work_seconds_per_second))


DEFAULT_TRAFFIC = "default"


@dataclass(frozen=True, slots=True)
class TrafficState:
    """One traffic class (without any in the configuration, the only one: ``default``).

    Attributes:
        objective: its own, or the service's.
        urgency: smaller is more urgent.
        arrivals: histogram over predicted work.
        heaviest_key_ratio: share of the arriving work that has one stream key.
        order_wait_ratio: share of the summed latency that segments spent finished, waiting for an earlier one
            of their key.
        burst_ratio: largest work that arrived in any tenth of the window, over the mean of the tenths (>= 1).
    """

    name: str = DEFAULT_TRAFFIC
    objective: Objective = field(default_factory=Objective)
    urgency: int = 0
    arrivals: CostHistogram = field(default_factory=CostHistogram)
    heaviest_key_ratio: float = 0.0
    order_wait_ratio: float = 0.0
    burst_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class LaneState:
    """One lane as it is.

    Attributes:
        allocation: as granted.
        traffic: the class it serves.
        up_to_work_ns: it takes segments of at most this predicted work that no lane before it took.
        workers_observed: ready workers it has now.
        queued_work_seconds, queued_upper_seconds: sum of predictions over its queue and what its workers hold,
            and the sum of their pessimistic bounds.
        oldest_age_seconds: of the first in its queue, since arrival; 0 when empty.
        useful_seconds_per_second: CPU time its workers spent in stages.
        busy_ratio: share of its workers' time in which they had a segment (0 when unknown).
        latency_p50_seconds, latency_p99_seconds: of what finished within the window; ``None``: nothing did.
        miss_ratio: share of them that missed the objective.
        since_change_seconds: since its allocation or cut last changed.
    """

    name: str
    index: int = 0
    allocation: Allocation = field(default_factory=Allocation)
    traffic: str = DEFAULT_TRAFFIC
    up_to_work_ns: float = EVERYTHING
    workers_observed: int = 1
    queued: int = 0
    queued_work_seconds: float = 0.0
    queued_upper_seconds: float = 0.0
    in_flight: int = 0
    oldest_age_seconds: float = 0.0
    arrivals_per_second: float = 0.0
    finished_per_second: float = 0.0
    useful_seconds_per_second: float = 0.0
    busy_ratio: float = 0.0
    latency_p50_seconds: float | None = None
    latency_p99_seconds: float | None = None
    miss_ratio: float = 0.0
    since_change_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """How far predictions may be believed.

    Attributes:
        version: of the snapshot in use; 0 before the first.
        trusted: its owner's own word (self-assessment of the predictor).
        age_seconds: since the snapshot was published or last confirmed by its owner.
        samples: outcomes in the window that had a prediction.
        error_ratio: sum of absolute errors over sum of measured work in the window.
        bias_ratio: measured over predicted work in the window; 1 is right, above 1 it promised too little.
        above_upper_ratio: share whose measured work exceeded the pessimistic bound.
        drift: the drift detector's word.
        inside_ratio: share of arrivals whose features lie within what the model has seen.
        unusable_ratio: share of arrivals without a usable prediction (not profiled, NaN features).
    """

    version: int = 0
    trusted: bool = True
    age_seconds: float = 0.0
    samples: int = 0
    error_ratio: float = 0.0
    bias_ratio: float = 1.0
    above_upper_ratio: float = 0.0
    drift: bool = False
    inside_ratio: float = 1.0
    unusable_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class SpeedUp:
    """Measured speed-up curve.

    Attributes:
        useful_seconds_per_second: by number of busy workers, entry 0 is none (0.0); 0.0 elsewhere means not
            measured. Only samples with waiting work count, so that idle time is never read as capacity.
        samples: by number of busy workers.
    """

    useful_seconds_per_second: tuple[float, ...] = (0.0,)
    samples: tuple[int, ...] = (0,)

    def at(self, workers: int, cores: int) -> float:
        """Useful seconds per second of ``workers`` busy ones: measured; beyond what was measured, linear up to
        the cores from the largest measured number, and flat above."""
        if workers <= 0:
            return 0.0
        known = [n for n in range(1, len(self.useful_seconds_per_second)) if self.useful_seconds_per_second[n] > 0]
        below = max((n for n in known if n <= workers), default=0)
        if below == workers:
            return self.useful_seconds_per_second[workers]
        start = self.useful_seconds_per_second[below] if below else 0.0
        return start + max(min(workers, cores) - below, 0) * (start / min(below, cores) if below else 1.0)

    def peak_workers(self, ceiling: int, cores: int, *, noise_ratio: float = 0.03) -> int:
        """Fewest workers, up to ``ceiling``, that reach the highest speed within ``noise_ratio``."""
        best = max((self.at(n, cores) for n in range(1, ceiling + 1)), default=0.0)
        return next((n for n in range(1, ceiling + 1) if self.at(n, cores) >= best * (1 - noise_ratio)), 1)


@dataclass(frozen=True, slots=True)
class VariantState:
    """What the present arrivals cost if all took this variant of the chain's variable stage.

    Attributes:
        index: of the variant.
        chosen_ratio: share of segments for which it was chosen.
        work_seconds_per_second: predicted work of the whole chain.
        bytes_out_per_second: predicted bytes after that stage.
        default: it is the stage's default.
    """

    index: int
    chosen_ratio: float = 0.0
    work_seconds_per_second: float = 0.0
    bytes_out_per_second: float = 0.0
    default: bool = False


@dataclass(frozen=True, slots=True)
class HostState:
    """The machine, as far as it is known; zero is neutral."""

    cpu_busy_ratio: float = 0.0
    """Share of the usable cores that is busy, with what others do."""
    others_busy_ratio: float = 0.0
    """Share of the usable cores that other processes take."""
    steal_ratio: float = 0.0
    pressure_ratio: float = 0.0
    """PSI: share of time in which something waited for a CPU."""
    memory_available_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class SinkState:
    """Delivery, to tell a slow sink from slow workers.

    Attributes:
        waiting: finished segments that sinks have not taken yet.
        oldest_age_seconds: how long the first of them has waited.
        wait_ratio: share of the summed latency that segments spent waiting for sinks.
    """

    waiting: int = 0
    oldest_age_seconds: float = 0.0
    wait_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheState:
    """The caches of a lane's workers together, by the lane's name: their own signal is the hit rate, never latency.
    ``used_bytes`` 0: not known; evictions: entries that were forgotten for want of room."""

    name: str
    granted_bytes: int = 0
    used_bytes: int = 0
    hits_per_second: float = 0.0
    misses_per_second: float = 0.0
    evictions_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything a policy may know. ``window_seconds`` is what rates are taken over.

    Attributes:
        now_seconds: monotonic, passed in; policies read no clock.
        since_start_seconds: since the service began to take traffic.
        usable_cores: CPUs this service may use.
        workers_ceiling: most workers the fleet may have.
        workers_observed: warm workers the fleet has.
        lanes: in order of urgency, at least one.
        traffic: at least one class.
        arena_used_ratio: share of the slots that is taken.
        shed_per_second: segments dropped.
        variant_price: the price that routed these arrivals, seconds per byte; ``None``: default variants.
        routed_work_seconds_per_second: predicted work that arrived, with the variants as chosen.
        caches: by name.
        targets: values of tuned targets by knob (``headroom``, ``batch``, ...).
    """

    now_seconds: float
    window_seconds: float = 1.0
    since_start_seconds: float = math.inf
    objective: Objective = field(default_factory=Objective)
    usable_cores: int = 1
    workers_ceiling: int = 1
    workers_observed: int = 1
    lanes: tuple[LaneState, ...] = ()
    traffic: tuple[TrafficState, ...] = ()
    arena_used_ratio: float = 0.0
    shed_per_second: float = 0.0
    model: ModelHealth = field(default_factory=ModelHealth)
    speed_up: SpeedUp = field(default_factory=SpeedUp)
    variants: tuple[VariantState, ...] = ()
    variant_price: float | None = None
    routed_work_seconds_per_second: float = 0.0
    host: HostState = field(default_factory=HostState)
    sinks: SinkState = field(default_factory=SinkState)
    caches: tuple[CacheState, ...] = ()
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def miss_ratio(self) -> float:
        """Share of what finished in the window that missed its objective, over all lanes."""
        finished = sum(lane.finished_per_second for lane in self.lanes)
        missed = sum(lane.finished_per_second * lane.miss_ratio for lane in self.lanes) + self.shed_per_second
        return missed / (finished + self.shed_per_second) if finished + self.shed_per_second > 0 else 0.0

    @property
    def oldest_age_seconds(self) -> float:
        """Of the oldest segment in any lane queue."""
        return max((lane.oldest_age_seconds for lane in self.lanes), default=0.0)


# -- what is wanted ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LanePlan:
    """One lane as it shall be. Within a traffic class, lanes stand in ascending order of ``up_to_work_ns`` and
    the last has :data:`EVERYTHING`; a segment goes to the first that takes it."""

    name: str
    allocation: Allocation = field(default_factory=Allocation)
    traffic: str = DEFAULT_TRAFFIC
    up_to_work_ns: float = EVERYTHING
    urgency: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole setting; the engine applies the difference to what is.

    Attributes:
        lanes: most urgent first.
        variant_price: seconds of CPU that one byte of output is worth; each segment takes the variant with the
            smallest ``work_seconds + bytes_out * price``. ``None``: every stage its default variant.
        intake: ``open``; ``slow``: sources that can wait are read at a reduced rate; ``paused``: not at all.
        targets: of the policies themselves, set by the tuner (``headroom``).
    """

    lanes: tuple[LanePlan, ...]
    variant_price: float | None = None
    intake: Literal["open", "slow", "paused"] = "open"
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Workers of all lanes."""
        return sum(lane.allocation.workers for lane in self.lanes)

    def lane(self, name: str) -> LanePlan | None:
        """The lane of that name, or ``None``."""
        return next((lane for lane in self.lanes if lane.name == name), None)


Knob = Literal[
    "lanes",  # how many, their cuts, and with them workers and nice levels: value is the tuple of LanePlan
    "workers",
    "nice",
    "cores",
    "batch",
    "bytes_per_second",
    "cache_bytes",
    "gpu_memory_bytes",
    "variant_price",
    "intake",
    "headroom",
]
LANE_KNOBS: tuple[Knob, ...] = (
    "workers",
    "nice",
    "cores",
    "batch",
    "bytes_per_second",
    "cache_bytes",
    "gpu_memory_bytes",
)
"""Knobs that are fields of a lane's ``Allocation``."""

Value = float | int | str | frozenset[int] | tuple[LanePlan, ...] | None
Direction = Literal["up", "down", "sideways"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a step is expected to lead to, or led to; ``None``: nothing said.

    Attributes:
        miss_ratio: share of segments that miss the objective; ``miss_upper_ratio`` its pessimistic bound.
        latency_p99_seconds: over all lanes.
        workers: worker-seconds per second.
        useful_seconds_per_second: throughput in work.
        bytes_out_per_second: of the variable stage.
        hit_ratio: of the cache concerned.
    """

    miss_ratio: float | None = None
    miss_upper_ratio: float | None = None
    latency_p99_seconds: float | None = None
    workers: float | None = None
    useful_seconds_per_second: float | None = None
    bytes_out_per_second: float | None = None
    hit_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """One step of one knob that a policy suggests.

    Attributes:
        knob: which.
        lane: name of the lane, empty for the service as a whole.
        before, after: values of the knob.
        direction: ``up`` is the safe way (more resources, less risk) and may be taken at once.
        reason: short literal in snake_case, bounded.
        detail: the numbers behind it, for people.
        basis: ``model`` leans on predictions, ``measured`` on what was measured alone, ``rule`` on neither.
        urgent: reflexes; cooldown and "one knob at a time" do not hold it back.
        propensity: probability with which a randomised policy proposed it.
    """

    knob: Knob
    lane: str
    before: Value
    after: Value
    direction: Direction
    reason: str
    detail: str = ""
    expected: Effect = field(default_factory=Effect)
    basis: Literal["model", "measured", "rule"] = "model"
    policy: str = ""
    urgent: bool = False
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a policy believes is coming; kept with the decision so that it can be held against what came.

    Attributes:
        work_seconds_per_second, upper_seconds_per_second: work per second, and its pessimistic bound.
        capacity_seconds_per_second: of the present allocation.
        drain_seconds: until what is queued now is done, pessimistically.
        miss_ratio: expected of the present plan.
    """

    work_seconds_per_second: float = 0.0
    upper_seconds_per_second: float = 0.0
    capacity_seconds_per_second: float = 0.0
    drain_seconds: float = 0.0
    miss_ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class Advice:
    """A policy's answer; no proposals means that the present plan is right."""

    policy: str
    proposals: tuple[Proposal, ...] = ()
    forecast: Forecast = field(default_factory=Forecast)


# -- what is decided --------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Refusal:
    """A proposal that the guard did not let through, or only in part (``granted`` is what it made of it)."""

    proposal: Proposal
    rule: str
    why: str
    granted: Value = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of an earlier step: ``kept``, ``undone`` (harmful: taken back and blacklisted), ``overtaken``
    (another step came before it could be measured) or ``unmeasured`` (too little traffic to tell)."""

    number: int
    verdict: Literal["kept", "undone", "overtaken", "unmeasured"]
    measured: Effect
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """The guard's answer: the plan to apply and what happened to each proposal.

    Attributes:
        number: of the decision, ascending.
        plan: to be applied now; equal to the present one when nothing is done.
        done: steps that ``plan`` contains, in the extent that was granted; undo steps included.
        refused: with the rule and why.
        settled: verdicts on earlier decisions.
        fallback: why predictions are not used now; empty when they are.
    """

    number: int
    plan: Plan
    done: tuple[Proposal, ...] = ()
    refused: tuple[Refusal, ...] = ()
    settled: tuple[Settled, ...] = ()
    fallback: str = ""


Mode = Literal["off", "recommend", "auto"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the ledger. In mode ``recommend`` ``done`` says what would have been done.

    ``measured`` and ``verdict`` are filled in by a later :class:`Settled` of the same number; ``settled`` are those
    on earlier decisions that came with this one.
    """

    number: int
    at_seconds: float
    mode: Mode
    policies: tuple[str, ...]
    seen: Observation
    forecast: Forecast
    before: Plan
    after: Plan
    proposed: tuple[Proposal, ...] = ()
    refused: tuple[Refusal, ...] = ()
    done: tuple[Proposal, ...] = ()
    settled: tuple[Settled, ...] = ()
    fallback: str = ""
    expected: Effect = field(default_factory=Effect)
    measured: Effect | None = None
    verdict: str = "pending"


class Policy(Protocol):
    """Decides. Facts in, proposals out; it may remember observations, and knows no clock and no I/O."""

    name: str

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """Proposals to change ``plan``, the setting now in force."""


def document(value: Any) -> Any:
    """A value of this module as JSON knows it: dataclasses become objects, sets and tuples become lists, and
    numbers that are not finite become ``null``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: document(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): document(entry) for key, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(document(entry) for entry in value)
    if isinstance(value, tuple | list):
        return [document(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
