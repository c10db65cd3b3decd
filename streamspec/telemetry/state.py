"""What a service is doing, as frozen values that are JSON as they stand; the HTTP server, the dashboard and
``streamspec top`` know nothing else of a running service.

Totals count from the start. What is called *recent* is taken over the last :data:`WINDOW_SECONDS`. ``None``
means that there is nothing to say yet (no segment was finished, nothing was predicted).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from streamspec.core.errors import StreamspecError
from streamspec.telemetry.nvml import DeviceUse

if TYPE_CHECKING:
    from streamspec.telemetry.decisions import DecisionLog

WINDOW_SECONDS = 5
"""What recent figures are taken over."""

Mode = Literal["off", "recommend", "auto"]
Phase = Literal["starting", "running", "draining", "stopped"]
Condition = Literal["ok", "degraded", "failed"]


class NotControllable(StreamspecError):
    """This service has nothing to switch there (learning or control is not part of its configuration)."""


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """One component and how it is; ``reason`` is empty when it is ``ok``.

    ``required``: without it the service is not ready; others degrade alone.
    """

    component: str
    condition: Condition = "ok"
    reason: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class KnobStatus:
    """One setting of a lane: as decided, as given, and as read back from the host. ``cores`` is their number."""

    knob: str
    unit: str
    desired: float | None = None
    granted: float | None = None
    observed: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process: nice level and cores are the host's own words."""

    index: int
    pid: int
    nice: int | None = None
    cores: tuple[int, ...] = ()
    in_flight_segments: int = 0


@dataclass(frozen=True, slots=True)
class WorkTotals:
    """Useful CPU time of the stage chain, predicted and measured, of the segments that had a prediction."""

    segments: int = 0
    predicted_seconds: float = 0.0
    measured_seconds: float = 0.0
    error_seconds: float = 0.0
    """Sum of the absolute errors."""
    above_upper_segments: int = 0
    """Those that cost more than their pessimistic bound."""

    @property
    def error_ratio(self) -> float | None:
        """Sum of absolute errors over sum of work."""
        return self.error_seconds / self.measured_seconds if self.measured_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane: totals, recent figures, and its resources.

    Attributes:
        delivered_bytes: payload bytes in of what was delivered.
        late_segments: delivered, and missed the latency objective.
        latency_high_seconds, wait_high_seconds: recent, at the objective's percentile.
        busy_ratio: recent useful CPU time over the time of its workers.
    """

    name: str
    index: int
    urgency: int = 0
    objective_seconds: float = 0.0
    queued_segments: int = 0
    in_flight_segments: int = 0
    oldest_seconds: float = 0.0
    delivered_segments: int = 0
    delivered_bytes: int = 0
    late_segments: int = 0
    useful_seconds: float = 0.0
    work: WorkTotals = field(default_factory=WorkTotals)
    segments_per_second: float = 0.0
    bytes_per_second: float = 0.0
    latency_p50_seconds: float | None = None
    latency_high_seconds: float | None = None
    wait_high_seconds: float | None = None
    busy_ratio: float = 0.0
    workers: tuple[WorkerStatus, ...] = ()
    knobs: tuple[KnobStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source: events by reason, and for logs the readings of each partition (``lag_records``,
    ``span_records``, ...)."""

    name: str
    type: str
    running: bool
    events: Mapping[str, int]
    partitions: Mapping[str, Mapping[str, float]]
    kernel_dropped: int = 0
    socket_dropped: int = 0
    arena_dropped: int = 0

    @property
    def dropped(self) -> int:
        """Packets that never became part of a segment."""
        return self.kernel_dropped + self.socket_dropped + self.arena_dropped


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink: events by reason."""

    name: str
    type: str
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of the chain: useful CPU time and events by reason."""

    name: str
    useful_seconds: float
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ContentShare:
    """Finished segments of one kind of content, in total and recently."""

    type: str
    segments: int
    bytes: int
    segments_per_second: float = 0.0
    bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Dead-lettered segments; ``stage`` is empty where it is not known (its worker died)."""

    kind: str
    stage: str
    segments: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What came in and what became of it."""

    received_segments: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    delivered_segments: int = 0
    delivered_bytes: int = 0
    shed_segments: int = 0
    dead_lettered_segments: int = 0
    unfinished_segments: int = 0
    retries: int = 0
    dropped_packets: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Recent, per second."""

    received_segments: float = 0.0
    received_packets: float = 0.0
    received_bytes: float = 0.0
    delivered_segments: float = 0.0
    shed_segments: float = 0.0
    dead_lettered_segments: float = 0.0
    dropped_packets: float = 0.0
    predicted_seconds: float | None = None
    """Work predicted, of the segments that had a prediction."""
    measured_seconds: float = 0.0
    """Work measured, of all."""


@dataclass(frozen=True, slots=True)
class ObjectiveStatus:
    """The latency to hold, and whether all lanes hold it recently."""

    latency_seconds: float
    percentile: float
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class ArenaStatus:
    """Shared memory for segments."""

    slots: int
    free_slots: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """Worker processes: asked for, ready, ready without a lane, replaced since the start."""

    size: int
    ready: int
    standing_by: int
    restarts: int


@dataclass(frozen=True, slots=True)
class LearningStatus:
    """The learner: outcomes learned, waiting and skipped by reason; the model in use.

    ``error_ratio``: its own progressive error, sum of absolute errors over sum of work.
    """

    learned: int = 0
    waiting: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    model_version: int = 0
    model_age_seconds: float = 0.0
    error_ratio: float | None = None
    drifts: int = 0
    paused: bool = False


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """The controller: its mode, and steps by what became of them and refusals by rule of the guard."""

    mode: Mode = "off"
    outcomes: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    fallback: str = ""
    """Why predictions are not used now; empty when they are."""


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything. ``work_cells`` is ``(predicted, measured, segments)``, recent, in cells of half an octave:
    cell ``i`` begins at ``1.024 us * 2**(i / 2)``."""

    version: str
    phase: Phase
    now_seconds: float
    started_seconds: float
    uptime_seconds: float
    objective: ObjectiveStatus
    totals: Totals
    rates: Rates
    lanes: tuple[LaneStatus, ...]
    sources: tuple[SourceStatus, ...]
    sinks: tuple[SinkStatus, ...]
    stages: tuple[StageStatus, ...]
    content: tuple[ContentShare, ...]
    errors: tuple[ErrorCount, ...]
    shed: Mapping[str, int]
    records: Mapping[str, int]
    arena: ArenaStatus
    fleet: FleetStatus
    control: ControlStatus
    learning: LearningStatus | None
    health: tuple[ComponentHealth, ...]
    work_error_ratio: float | None
    work_cells: tuple[tuple[int, int, int], ...]
    loop_lag_seconds: float
    gpus: tuple[DeviceUse, ...] = ()

    @property
    def not_ready(self) -> tuple[ComponentHealth, ...]:
        """Required components that have failed; empty when the service is ready."""
        return tuple(part for part in self.health if part.required and part.condition == "failed")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts at upper edges in seconds, ascending; the sum and the number of observations."""

    edges: tuple[tuple[float, int], ...]
    sum_seconds: float
    count: int


@dataclass(frozen=True, slots=True)
class Histograms:
    """Of all lanes, by name, and of the event loop's lag."""

    latency: Mapping[str, Histogram]
    wait: Mapping[str, Histogram]
    useful: Mapping[str, Histogram]
    loop_lag: Histogram


@runtime_checkable
class PartitionedSource(Protocol):
    """A source that reads partitions of a log."""

    def status(self) -> Mapping[str, Any]:
        """``partitions``: by name ``lag_records`` (behind the end of the log), ``span_records`` (from the first
        unfinished record to the newest one taken), ``oldest_age_seconds``, ``paused``, ..."""


class StateReader(Protocol):
    """Reads a running service."""

    decisions: DecisionLog

    def tick(self) -> ServiceState:
        """Move the window of recent figures on, and read. To be called once a second by one caller."""

    def read(self) -> ServiceState:
        """Totals as they are now; recent figures as of the last :meth:`tick`."""

    def histograms(self) -> Histograms:
        """As they are now."""


class Controls(Protocol):
    """What may be switched from outside. Each raises :class:`NotControllable` where there is nothing to switch."""

    def set_mode(self, mode: Mode) -> None:
        """Another mode of the controller."""

    def pause_learning(self, paused: bool) -> None:
        """Stop or resume learning; what is finished meanwhile is counted as skipped."""


class LearningReader(Protocol):
    """What the learner's owner offers."""

    def status(self) -> LearningStatus: ...

    def pause(self, paused: bool) -> None: ...

    def health(self) -> Sequence[ComponentHealth]: ...


class ControlReader(Protocol):
    """What the controller's owner offers."""

    @property
    def mode(self) -> Mode: ...

    @property
    def fallback(self) -> str:
        """Why predictions are not used now; empty when they are."""

    def set_mode(self, mode: Mode) -> None: ...

    def knobs(self, lane: str) -> Sequence[KnobStatus]:
        """Settings beyond workers, nice level, cores and batch (bandwidth, caches, GPU memory)."""

    def health(self) -> Sequence[ComponentHealth]:
        """One per actuator, and the fallback where there is one."""
