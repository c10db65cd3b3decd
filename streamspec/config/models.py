"""The configuration of a service as frozen models; components bring their own (see their ``registry``).

Each default is written with its unit and range in the field's description, which is also what
``streamspec schema`` prints.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from streamspec.admin.config import AdminConfig
from streamspec.config.checks import cross_findings
from streamspec.config.control import ControlConfig
from streamspec.config.problems import format_path
from streamspec.core.component import ComponentConfig
from streamspec.core.features import TYPE_NAMES
from streamspec.core.segment import MAX_STAGES, SlotLayout
from streamspec.core.units import Bytes, BytesPerSecond, Seconds
from streamspec.engine.arena import Arena
from streamspec.profiler.config import ProfilerConfig
from streamspec.profiles.config import LearningConfig, ProfilesConfig
from streamspec.sinks.registry import SinkConfig
from streamspec.sources.registry import SourceConfig
from streamspec.stages.registry import StageConfig

KIB = 1024
MIB = 1024 * KIB

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]
"""How components and lanes are called: they become labels of metrics and parts of paths."""


def usable_cores() -> int:
    """CPUs that this process may run on (a container's or taskset's limit counts)."""
    return len(os.sched_getaffinity(0))


class ObjectiveConfig(ComponentConfig):
    """What the service is asked to hold."""

    latency: Seconds = Field(
        default=0.05,
        gt=0,
        le=86_400,
        description="Latency objective in seconds, from arrival until every sink has the segment (0 to 86400). "
        "Smaller values cost more workers.",
    )
    percentile: float = Field(
        default=99.0,
        ge=50,
        lt=100,
        description="Percentile of segments that must meet it (50 to below 100). Higher values cost more workers.",
    )


class EngineConfig(ComponentConfig):
    """Workers, memory and what happens to a segment that fails."""

    workers: int = Field(
        default_factory=usable_cores,
        ge=1,
        le=256,
        description="Worker processes (1 to 256; default: usable cores, and up to twice as many where the service "
        "controls itself). Where it is written, control stays below it; with `lanes`, what they leave over stands by.",
    )
    spare: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Warm workers beyond those of the lanes (0 to 64), ready when one dies or a lane grows. "
        "Each costs its resident memory.",
    )
    arena_bytes: Bytes = Field(
        default=256 * MIB,
        ge=1 * MIB,
        le=1024 * 1024 * MIB,
        description="Ceiling of the shared memory that holds all segments (1 MiB to 1 TiB). It bounds how much may "
        "wait: more absorbs longer bursts, less sheds or slows sources earlier.",
    )
    segment_bytes: Bytes = Field(
        default=64 * KIB,
        ge=64,
        le=256 * MIB,
        description="Payload at which a segment is full (64 B to 256 MiB). Larger segments cost less per packet and "
        "wait longer to fill.",
    )
    segment_packets: int = Field(
        default=2048,
        ge=1,
        le=1 << 20,
        description="Packets at which a segment is full (1 to 1048576); each takes 32 bytes of its slot.",
    )
    max_packet_bytes: Bytes = Field(
        default=64 * KIB,
        ge=64,
        le=256 * MIB,
        description="Largest packet, frame or record taken (64 B to 256 MiB); larger ones are refused by the source "
        "and counted. A slot holds the larger of this and `segment_bytes`.",
    )
    meta_bytes: Bytes = Field(
        default=1 * KIB,
        ge=256,
        le=64 * KIB,
        description="Room for the stream key and the source's metadata of a segment (256 B to 64 KiB).",
    )
    output_bytes: Bytes | None = Field(
        default=None,
        ge=4 * KIB,
        le=512 * MIB,
        description="Room for the results of a segment in its slot (4 KiB to 512 MiB; default: the payload's room "
        "plus 64 KiB). Larger results travel through a file, which is slower.",
    )
    order: Literal["key", "none"] = Field(
        default="key",
        description="`key`: segments of one stream key reach the sinks in the order of their arrival; `none`: as "
        "soon as they are finished, which is faster when one key has most of the traffic.",
    )
    retries: int = Field(
        default=2,
        ge=0,
        le=100,
        description="How often a segment is tried again after a stage raised (0 to 100), then it is dead-lettered.",
    )
    time_limit: Seconds = Field(
        default=30.0,
        gt=0,
        le=86_400,
        description="Seconds that one segment may take in the stages (up to 86400); then its worker is replaced. "
        "Must exceed the slowest honest segment.",
    )
    max_deaths: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Workers that may die in one segment (1 to 100) before it is dead-lettered.",
    )
    drain_timeout: Seconds = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="Seconds that a stop waits for segments under way (0 to 86400); what is left then is counted.",
    )

    @property
    def payload_bytes(self) -> int:
        """Payload region of a slot."""
        return max(self.segment_bytes, self.max_packet_bytes)

    @property
    def layout(self) -> SlotLayout:
        """The regions of a slot for these sizes."""
        output = self.output_bytes if self.output_bytes is not None else self.payload_bytes + 64 * KIB
        return SlotLayout(
            payload_bytes=self.payload_bytes,
            packet_capacity=self.segment_packets,
            meta_bytes=self.meta_bytes,
            output_bytes=output,
        )

    @model_validator(mode="after")
    def _arena_holds_segments(self) -> EngineConfig:
        if Arena.slots_within(self.layout, self.arena_bytes) < 4:
            raise ValueError(
                f"arena_bytes holds fewer than four segments; these need {self.layout.stride} bytes each: "
                "raise arena_bytes or lower segment_bytes, max_packet_bytes or output_bytes"
            )
        return self


class LaneMatch(ComponentConfig):
    """Which segments go to a lane: all given conditions must hold; none given means every segment."""

    sources: tuple[str, ...] = Field(default=(), description="Names under `sources`; empty means any.")
    min_bytes: Bytes | None = Field(default=None, ge=0, description="Least payload bytes, inclusive.")
    max_bytes: Bytes | None = Field(default=None, ge=0, description="Most payload bytes, inclusive.")
    keys: tuple[str, ...] = Field(default=(), description="Prefixes of the stream key (UTF-8); empty means any.")
    content: Literal["packets", "messages"] | None = Field(
        default=None, description="`packets`: link-layer packets; `messages`: application messages; unset means both."
    )

    types: tuple[Literal[TYPE_NAMES], ...] = Field(  # type: ignore[valid-type]
        default=(), description="What segments hold, as inferred or declared, e.g. `[json, syslog]`; empty means any."
    )

    @property
    def everything(self) -> bool:
        """True when no condition is set."""
        return self == LaneMatch()

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> LaneMatch:
        if self.min_bytes is not None and self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes exceeds max_bytes, so that nothing matches")
        return self


class LaneConfig(ComponentConfig):
    """One lane: which segments it takes and what it is given."""

    name: Name = Field(description="Name of the lane in logs and metrics; unique.")
    match: LaneMatch = Field(default=LaneMatch(), description="Segments of this lane; the first lane that fits wins.")
    workers: int = Field(default=1, ge=1, le=256, description="Warm workers of this lane (1 to 256).")
    nice: int = Field(
        default=0,
        ge=-20,
        le=19,
        description="Nice level of its workers (-20 urgent to 19). Below 0 needs CAP_SYS_NICE. A lane of short "
        "segments two or more levels below the others takes the core from them at once.",
    )
    cores: tuple[int, ...] = Field(
        default=(),
        description="CPU numbers its workers may use; empty means any; with `control.mode: auto` those that fit "
        "the topology of the host, while there are more cores than workers.",
    )
    batch: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Most segments handed to a worker in one message (1 to 256). Larger batches cost less per "
        "segment and make short segments wait for each other.",
    )
    bytes_per_second: BytesPerSecond | None = Field(
        default=None,
        gt=0,
        description="Egress that this lane is sure of, or text such as `20 Mbit/s` (above 0; unset: an equal part of "
        "what the others leave). Needs `control.egress`; what one lane does not use, others may.",
    )
    objective: ObjectiveConfig | None = Field(
        default=None, description="What segments of this lane are held to; unset: the service's objective."
    )
    urgency: int = Field(
        default=0,
        ge=-1000,
        le=1000,
        description="Smaller is more urgent (-1000 to 1000); when memory is short, the largest value is shed first.",
    )

    @field_validator("cores")
    @classmethod
    def _cores_are_usable(cls, cores: tuple[int, ...]) -> tuple[int, ...]:
        usable = os.sched_getaffinity(0)
        missing = sorted(set(cores) - usable)
        if missing:
            raise ValueError(f"cores {missing} are not usable here; usable: {sorted(usable)}")
        return tuple(sorted(set(cores)))


class LoggingConfig(ComponentConfig):
    """What is logged to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severity logged.")
    format: Literal["auto", "text", "json"] = Field(
        default="auto", description="`auto`: text on a terminal and JSON otherwise."
    )


class ServiceConfig(ComponentConfig):
    """A whole configuration file."""

    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="The latency to hold.")
    sources: dict[Name, SourceConfig] = Field(min_length=1, max_length=1000, description="Where segments come from.")
    stages: tuple[StageConfig, ...] = Field(
        default=(), max_length=MAX_STAGES, description=f"What is done to a segment, in this order (up to {MAX_STAGES})."
    )
    sinks: dict[Name, SinkConfig] = Field(min_length=1, max_length=100, description="Where results go; each gets all.")
    dead_letter: SinkConfig | None = Field(
        default=None, description="Where segments go that failed for good; unset: they are counted and logged only."
    )
    profiler: ProfilerConfig = Field(default=ProfilerConfig(), description="How closely segments are looked at.")
    learning: LearningConfig = Field(default=LearningConfig(), description="What is learned while the stream runs.")
    profiles: ProfilesConfig = Field(
        default=ProfilesConfig(), description="Where models and what was learned are kept."
    )
    control: ControlConfig = Field(default=ControlConfig(), description="Who decides on lanes, workers and variants.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="Workers, memory, retries.")
    lanes: tuple[LaneConfig, ...] = Field(
        default=(),
        max_length=64,
        description="Lanes in order of matching; the last one must take everything. Unset: one lane `default` "
        "with all workers.",
    )
    logging: LoggingConfig = Field(default=LoggingConfig(), description="Log lines on standard error.")
    admin: AdminConfig | None = Field(
        default=None,
        description="Dashboard, API, metrics and health over HTTP; unset: no port is opened. `admin: {}` is enough.",
    )

    @model_validator(mode="after")
    def _sections_agree(self) -> ServiceConfig:
        tree = {
            "lanes": [lane.model_dump(include={"name", "match", "workers", "bytes_per_second"}) for lane in self.lanes],
            "sources": self.sources,
            "sinks": {name: sink.model_dump(include={"delivery"}) for name, sink in self.sinks.items()},
            "engine": self.engine.model_dump(include={"workers"}, exclude_unset=True),
            "stages": [stage.model_dump(include={"type"}) for stage in self.stages],
            "control": self.control.model_dump(include={"egress"}),
        }
        for path, what, _ in cross_findings(tree):
            raise PydanticCustomError("cross_check", "{path}: {what}", {"path": format_path(path), "what": what})
        return self

    @property
    def effective_lanes(self) -> tuple[LaneConfig, ...]:
        """The lanes as configured, or the one default lane with all workers. Never empty."""
        return self.lanes or (LaneConfig(name="default", workers=self.engine.workers),)

    @property
    def control_mode(self) -> Literal["off", "recommend", "auto"]:
        """As written; else ``auto``, but ``off`` where lanes are written by hand or there is nothing to decide on."""
        if self.control.mode is not None:
            return self.control.mode
        return "off" if self.lanes or not self.stages or not self.profiler.enabled else "auto"

    @property
    def workers_ceiling(self) -> int:
        """Most workers of all lanes together: as the guard's bounds say, else `engine.workers` where it is written,
        else two per usable core, so that a light lane can take the core from a heavy one's worker."""
        bound = self.control.guard.bounds.workers
        if bound is not None:
            return bound
        asked = sum(lane.workers for lane in self.effective_lanes)
        return max(asked, self.engine.workers if self._workers_are_written else 2 * usable_cores())

    @property
    def fleet_workers(self) -> int:
        """Worker processes to start: those of the lanes, those left over, and the spare ones. With control, enough
        that lanes can grow at once."""
        asked = sum(lane.workers for lane in self.effective_lanes)
        explicit = self.engine.workers if self._workers_are_written else 0
        ready = 0
        if self.control_mode == "auto" and not explicit:
            ready = min(self.workers_ceiling, usable_cores() + max(2, usable_cores() // 4))
        return max(asked, explicit, ready) + self.engine.spare

    @property
    def _workers_are_written(self) -> bool:
        return "workers" in self.engine.model_fields_set
