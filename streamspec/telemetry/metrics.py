"""Every metric, once: its name, what it says, and where its value comes from. ``docs/metrics.md`` is made of this.

Nothing is counted here: values are read from a :class:`ServiceState` when a scraper asks. Base units; labels are
names from the configuration or bounded literals.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from streamspec.telemetry.state import Histogram, Histograms, ServiceState

PREFIX = "streamspec_"
Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
Sample = tuple[Labels, "float | Histogram"]


@dataclass(frozen=True)
class Reading:
    """What one scrape sees."""

    state: ServiceState
    histograms: Histograms


@dataclass(frozen=True)
class Metric:
    """One metric; ``name`` without prefix, and for counters without ``_total``."""

    name: str
    kind: Kind
    help: str
    labels: Labels
    read: Callable[[Reading], Iterable[Sample]]

    @property
    def full_name(self) -> str:
        """As a scraper sees it."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


def _one(read: Callable[[ServiceState], float | None]) -> Callable[[Reading], Iterator[Sample]]:
    def samples(reading: Reading) -> Iterator[Sample]:
        value = read(reading.state)
        if value is not None:
            yield (), value

    return samples


def _each(read: Callable[[ServiceState], Iterable[tuple[Labels, float]]]) -> Callable[[Reading], Iterable[Sample]]:
    return lambda reading: read(reading.state)


def _histogram(read: Callable[[Histograms], Iterable[tuple[str, Histogram]]]) -> Callable[[Reading], Iterable[Sample]]:
    return lambda reading: (((lane,), histogram) for lane, histogram in read(reading.histograms))


def _settings(state: ServiceState) -> Iterator[tuple[Labels, float]]:
    for lane in state.lanes:
        for knob in lane.knobs:
            for amount in ("desired", "granted", "observed"):
                value = getattr(knob, amount)
                if value is not None:
                    yield (lane.name, knob.knob, amount), value


def _drops(state: ServiceState) -> Iterator[tuple[Labels, float]]:
    for source in state.sources:
        yield (source.name, "kernel"), source.kernel_dropped
        yield (source.name, "socket"), source.socket_dropped
        yield (source.name, "arena"), source.arena_dropped


def _gpus(name: str) -> Callable[[ServiceState], Iterator[tuple[Labels, float]]]:
    """One figure of each device that tells it."""

    def read(state: ServiceState) -> Iterator[tuple[Labels, float]]:
        for gpu in state.gpus:
            value = getattr(gpu, name)
            if value is not None:
                yield (gpu.place,), value

    return read


def _partitions(name: str) -> Callable[[ServiceState], Iterator[tuple[Labels, float]]]:
    def read(state: ServiceState) -> Iterator[tuple[Labels, float]]:
        return (
            ((source.name, partition), numbers[name])
            for source in state.sources
            for partition, numbers in source.partitions.items()
            if name in numbers
        )

    return read


def _learned(state: ServiceState) -> Iterator[tuple[Labels, float]]:
    if state.learning is not None:
        yield ("learned",), state.learning.learned
        for reason, count in state.learning.skipped.items():
            yield (f"skipped_{reason}",), count


_MODES = ("off", "recommend", "auto")
_PHASES = ("starting", "running", "draining", "stopped")

METRICS: tuple[Metric, ...] = (
    Metric(
        "build_information",
        "gauge",
        "1, with the versions as labels.",
        ("version", "python"),
        lambda reading: [((reading.state.version, platform.python_version()), 1.0)],
    ),
    Metric("start_time_seconds", "gauge", "Start, since 1970.", (), _one(lambda s: s.started_seconds)),
    Metric(
        "phase",
        "gauge",
        "1 for the present phase of the service.",
        ("phase",),
        _each(lambda s: (((phase,), float(phase == s.phase)) for phase in _PHASES)),
    ),
    Metric(
        "component_healthy",
        "gauge",
        "1 ok, 0.5 degraded, 0 failed.",
        ("component",),
        _each(lambda s: (((h.component,), {"ok": 1.0, "degraded": 0.5}.get(h.condition, 0.0)) for h in s.health)),
    ),
    # -- what came in and what became of it ---------------------------------------------------
    Metric("received_segments", "counter", "Segments taken in.", (), _one(lambda s: s.totals.received_segments)),
    Metric("received_packets", "counter", "Packets in them.", (), _one(lambda s: s.totals.received_packets)),
    Metric("received_bytes", "counter", "Payload bytes in them.", (), _one(lambda s: s.totals.received_bytes)),
    Metric(
        "delivered_segments",
        "counter",
        "Segments that every sink has.",
        (),
        _one(lambda s: s.totals.delivered_segments),
    ),
    Metric(
        "delivered_bytes",
        "counter",
        "Bytes of their results, payload and records.",
        (),
        _one(lambda s: s.totals.delivered_bytes),
    ),
    Metric(
        "shed_segments",
        "counter",
        "Segments dropped by choice.",
        ("reason",),
        _each(lambda s: (((reason,), count) for reason, count in s.shed.items())),
    ),
    Metric(
        "dead_lettered_segments",
        "counter",
        "Segments that failed for good.",
        (),
        _one(lambda s: s.totals.dead_lettered_segments),
    ),
    Metric(
        "errors",
        "counter",
        "Dead-lettered segments by kind of error and stage (empty: not known).",
        ("kind", "stage"),
        _each(lambda s: (((error.kind, error.stage), error.segments) for error in s.errors)),
    ),
    Metric(
        "unfinished_segments",
        "gauge",
        "Segments received and not finished yet.",
        (),
        _one(lambda s: s.totals.unfinished_segments),
    ),
    Metric("retries", "counter", "Attempts beyond the first.", (), _one(lambda s: s.totals.retries)),
    Metric(
        "dropped_packets",
        "counter",
        "Packets lost before they were part of a segment, by where: the kernel's ring, the socket's buffer, or "
        "no room in the arena.",
        ("source", "by"),
        _each(_drops),
    ),
    # -- components ---------------------------------------------------------------------------
    Metric(
        "source_events",
        "counter",
        "Events of sources by reason.",
        ("source", "reason"),
        _each(lambda s: (((p.name, reason), n) for p in s.sources for reason, n in p.events.items())),
    ),
    Metric(
        "stage_events",
        "counter",
        "Events of stages by reason.",
        ("stage", "reason"),
        _each(lambda s: (((p.name, reason), n) for p in s.stages for reason, n in p.events.items())),
    ),
    Metric(
        "sink_events",
        "counter",
        "Events of sinks by reason.",
        ("sink", "reason"),
        _each(lambda s: (((p.name, reason), n) for p in s.sinks for reason, n in p.events.items())),
    ),
    Metric(
        "records",
        "counter",
        "Records from reducers, such as flow records, by type.",
        ("type",),
        _each(lambda s: (((kind,), count) for kind, count in s.records.items())),
    ),
    Metric(
        "stage_useful_seconds",
        "counter",
        "CPU time of each stage.",
        ("stage",),
        _each(lambda s: (((stage.name,), stage.useful_seconds) for stage in s.stages)),
    ),
    Metric(
        "kafka_lag_records",
        "gauge",
        "Records behind the end of a partition.",
        ("source", "partition"),
        _each(_partitions("lag_records")),
    ),
    Metric(
        "kafka_span_records",
        "gauge",
        "Records from the first unfinished one to the newest one taken.",
        ("source", "partition"),
        _each(_partitions("span_records")),
    ),
    # -- lanes --------------------------------------------------------------------------------
    Metric(
        "lane_queued_segments",
        "gauge",
        "Segments in the queue of a lane.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.queued_segments) for lane in s.lanes)),
    ),
    Metric(
        "lane_in_flight_segments",
        "gauge",
        "Segments with the workers of a lane.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.in_flight_segments) for lane in s.lanes)),
    ),
    Metric(
        "lane_oldest_seconds",
        "gauge",
        "Age of the first segment in the queue.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.oldest_seconds) for lane in s.lanes)),
    ),
    Metric(
        "lane_delivered_segments",
        "counter",
        "Segments delivered by a lane.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.delivered_segments) for lane in s.lanes)),
    ),
    Metric(
        "lane_delivered_bytes",
        "counter",
        "Payload bytes of segments delivered by a lane, as they arrived.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.delivered_bytes) for lane in s.lanes)),
    ),
    Metric(
        "lane_late_segments",
        "counter",
        "Segments delivered later than the objective's latency.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.late_segments) for lane in s.lanes)),
    ),
    Metric(
        "lane_busy_ratio",
        "gauge",
        "Recent useful CPU time over the time of the lane's workers.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.busy_ratio) for lane in s.lanes)),
    ),
    Metric(
        "lane_setting",
        "gauge",
        "Value of each knob of a lane: desired (decided), granted (given), observed (read back from the host). "
        "`cores` is their number.",
        ("lane", "knob", "amount"),
        _each(_settings),
    ),
    *(
        Metric(
            f"gpu_{name}", "gauge", f"{text} `gpu`: index, or UUID of a MIG instance.", ("gpu",), _each(_gpus(field))
        )
        for field, name, text in (
            ("busy_ratio", "busy_ratio", "Share of the last period in which a kernel ran."),
            ("memory_busy_ratio", "memory_busy_ratio", "Share in which memory was read or written."),
            ("total_bytes", "memory_bytes", "Memory of a device."),
            ("used_bytes", "memory_used_bytes", "Memory in use, by all processes."),
            ("temperature_celsius", "temperature_celsius", "Temperature."),
            ("power_watts", "power_watts", "Power."),
            ("clock_hertz", "clock_hertz", "Clock of the processors."),
            ("memory_clock_hertz", "memory_clock_hertz", "Clock of the memory."),
        )
    ),
    Metric(
        "gpu_process_memory_bytes",
        "gauge",
        "Memory of each process that NVML tells of.",
        ("gpu", "pid"),
        _each(lambda s: (((gpu.place, pid), used) for gpu in s.gpus for pid, used in gpu.by_pid.items())),
    ),
    Metric(
        "latency_seconds",
        "histogram",
        "From arrival until every sink has the segment.",
        ("lane",),
        _histogram(lambda h: h.latency.items()),
    ),
    Metric(
        "wait_seconds",
        "histogram",
        "From arrival to the start of the first stage.",
        ("lane",),
        _histogram(lambda h: h.wait.items()),
    ),
    Metric(
        "useful_seconds",
        "histogram",
        "CPU time of the stage chain per segment.",
        ("lane",),
        _histogram(lambda h: h.useful.items()),
    ),
    Metric(
        "objective_latency_seconds",
        "gauge",
        "Latency to hold.",
        (),
        _one(lambda s: s.objective.latency_seconds),
    ),
    Metric(
        "objective_ratio",
        "gauge",
        "Share of segments that must hold it.",
        (),
        _one(lambda s: s.objective.percentile / 100.0),
    ),
    # -- content, prediction ------------------------------------------------------------------
    Metric(
        "content_segments",
        "counter",
        "Finished segments by kind of content.",
        ("type",),
        _each(lambda s: (((share.type,), share.segments) for share in s.content)),
    ),
    Metric(
        "content_bytes",
        "counter",
        "Their payload bytes.",
        ("type",),
        _each(lambda s: (((share.type,), share.bytes) for share in s.content)),
    ),
    Metric(
        "predicted_segments",
        "counter",
        "Delivered segments whose work had been predicted.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.work.segments) for lane in s.lanes)),
    ),
    Metric(
        "predicted_work_seconds",
        "counter",
        "Work predicted of them.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.work.predicted_seconds) for lane in s.lanes)),
    ),
    Metric(
        "measured_work_seconds",
        "counter",
        "Work measured of them.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.work.measured_seconds) for lane in s.lanes)),
    ),
    Metric(
        "work_error_seconds",
        "counter",
        "Sum of the absolute differences; over the measured work it is the relative error.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.work.error_seconds) for lane in s.lanes)),
    ),
    Metric(
        "above_upper_segments",
        "counter",
        "Predicted segments that took more than the pessimistic bound.",
        ("lane",),
        _each(lambda s: (((lane.name,), lane.work.above_upper_segments) for lane in s.lanes)),
    ),
    # -- learning, control --------------------------------------------------------------------
    Metric(
        "learner_outcomes",
        "counter",
        "Outcomes learned from, or skipped and why.",
        ("fate",),
        _each(_learned),
    ),
    Metric(
        "learner_waiting_outcomes",
        "gauge",
        "Outcomes that the learner has not come to yet.",
        (),
        _one(lambda s: None if s.learning is None else s.learning.waiting),
    ),
    Metric(
        "model_version",
        "gauge",
        "Snapshot in use.",
        (),
        _one(lambda s: None if s.learning is None else s.learning.model_version),
    ),
    Metric(
        "model_age_seconds",
        "gauge",
        "Since the snapshot was published or confirmed.",
        (),
        _one(lambda s: None if s.learning is None else s.learning.model_age_seconds),
    ),
    Metric(
        "model_drifts",
        "counter",
        "Times that drift was found.",
        (),
        _one(lambda s: None if s.learning is None else s.learning.drifts),
    ),
    Metric(
        "control_mode",
        "gauge",
        "1 for the present mode of the controller.",
        ("mode",),
        _each(lambda s: (((mode,), float(mode == s.control.mode)) for mode in _MODES)),
    ),
    Metric(
        "decisions",
        "counter",
        "Decisions by outcome; one that is settled later counts once more, as its verdict.",
        ("outcome",),
        _each(lambda s: (((outcome,), count) for outcome, count in s.control.outcomes.items())),
    ),
    Metric(
        "refusals",
        "counter",
        "Steps that the guard refused, by its rule.",
        ("guard",),
        _each(lambda s: (((rule,), count) for rule, count in s.control.refusals.items())),
    ),
    # -- the engine ---------------------------------------------------------------------------
    Metric("arena_slots", "gauge", "Segments that have room.", (), _one(lambda s: s.arena.slots)),
    Metric("arena_free_slots", "gauge", "Room that is free.", (), _one(lambda s: s.arena.free_slots)),
    Metric("arena_bytes", "gauge", "Ceiling of the shared memory.", (), _one(lambda s: s.arena.size_bytes)),
    Metric(
        "workers",
        "gauge",
        "Worker processes: asked for, ready, and ready without a lane.",
        ("state",),
        _each(
            lambda s: [
                (("wanted",), s.fleet.size),
                (("ready",), s.fleet.ready),
                (("standing_by",), s.fleet.standing_by),
            ]
        ),
    ),
    Metric(
        "worker_restarts",
        "counter",
        "Workers replaced after they ended by themselves.",
        (),
        _one(lambda s: s.fleet.restarts),
    ),
    Metric(
        "loop_lag_seconds",
        "histogram",
        "How late the dispatcher's event loop wakes up.",
        (),
        lambda reading: [((), reading.histograms.loop_lag)],
    ),
)
"""In the order in which they are exposed."""


def metrics_page() -> str:
    """``docs/metrics.md``. Print it with ``python -m streamspec.telemetry.metrics``."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m streamspec.telemetry.metrics > docs/metrics.md`. Served at `/metrics`; base units, all "
        "times in seconds. Beside these: `streamspec_process_*` of the dispatcher process (CPU time, memory, files).",
        "",
        "| name | kind | labels | says |",
        "|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or ""
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(metrics_page(), end="")
