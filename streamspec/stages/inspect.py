"""Stage ``inspect``: regular expressions over packets with Hyperscan, and an alert for each rule that matches.

A pattern never matches across two packets, and no Python runs for packets in which nothing matches; how, says
:mod:`streamspec.stages.patterns`. One alert is emitted for each packet and rule, with the end of the first match
from the start of what was searched, and the number of places where a match ends (up to ``SPAN_MATCHES``).

Content that was searched before is not searched again while it is in the verdict cache
(:mod:`streamspec.stages.verdict_cache`), which is as large as the service grants.

With ``device: gpu`` or ``auto`` a GPU looks first (:mod:`streamspec.stages.gpu_inspect`): an automaton says in which
packets a rule may match, and only those are searched here. Alerts are the same, in the same order. The two devices are
variants of the stage.

Counts ``alerts``, ``alerts_suppressed`` (beyond ``max_alerts_per_segment``), ``cache_hits``, ``cache_misses``,
``cache_evictions``; ``on_gpu`` segments that a GPU looked at, ``gpu_REASON`` those that
it should have, ``rules_by_cpu``.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import Field, field_validator

from streamspec.core.component import StageConfigBase
from streamspec.core.errors import ConfigError
from streamspec.core.interfaces import AskGrant, Bytes, Segment, SegmentBatch, SlotMemory, StageContext
from streamspec.core.paths import InputFile
from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.core.timestamps import timestamp_text
from streamspec.core.units import Bytes as ByteCount
from streamspec.stages import decoded
from streamspec.stages.gpu_inspect import CPU, GPU, DeviceWish, GpuInspection
from streamspec.stages.patterns import Match, Offsets, PatternSearch
from streamspec.stages.rules import Rule, read_rules, unique_rules
from streamspec.stages.verdict_cache import VerdictCache


class InspectConfig(StageConfigBase):
    """Look for patterns."""

    type: Literal["inspect"] = Field(description="Regular expressions by Hyperscan; emits records of type `alert`.")
    rules: tuple[InputFile, ...] = Field(min_length=1, description="Rules files; see `configs/rules/basic.yaml`.")
    scope: Literal["payload", "packet", "segment"] = Field(
        default="payload",
        description="What a match may span. `payload`: the transport payload of each packet when `decode` ran before, "
        "else each message, or the whole payload where an earlier stage has changed it; `packet`: each packet with "
        "its headers, as it arrived; `segment`: the present payload as one.",
    )
    max_alerts_per_segment: int = Field(
        default=1000, ge=1, description="Alerts of one segment that are emitted (1 and up); the rest are counted."
    )
    cache_bytes: ByteCount = Field(
        default=4 << 20,
        ge=0,
        le=1 << 40,
        description="Memory of each worker for verdicts of content that it has searched before (0 to 1 TiB; 0: none). "
        "More finds repeated content again after a longer time; without repetition it switches itself off.",
    )

    device: DeviceWish = Field(
        default="cpu",
        description="Who looks first: `cpu`; `gpu`, and the CPU where there is none, or it fails; `auto`: for each "
        "batch the one that is expected to be faster, transfer and queue counted in, so that small batches stay on "
        "the CPU. Each worker that gets `gpu_memory` has a context of its own on the device. Needs the extra `gpu`.",
    )
    gpu_memory: ByteCount = Field(
        default=64 << 20,
        ge=1 << 16,
        le=1 << 40,
        description="Device memory that each worker asks for (64 KiB to 1 TiB): it holds the rules as tables, about "
        "2 MB for 1,000 rules. Without the grant the CPU does the work.",
    )

    @property
    def cost_keys(self) -> tuple[str, ...]:
        """By device."""
        return ("inspect",) if self.device == "cpu" else ("inspect", "inspect:gpu")

    @property
    def default_variant(self) -> int:
        """The device that is expected to be taken while nothing is known."""
        return GPU if self.device == "gpu" else CPU

    @field_validator("rules", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("rules")
    @classmethod
    def _can_be_read(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            unique_rules([rule for path in value for rule in read_rules(path)])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    def build(self) -> Inspect:
        """The stage."""
        return Inspect(self)


@dataclass(frozen=True, slots=True)
class _Spans:
    """What is searched of one segment: ``memory[starts[i]:ends[i]]``, by packet or as one; ``arrived``: in what
    arrived, where a device may have looked before."""

    memory: Bytes
    starts: Offsets
    ends: Offsets
    by_packet: bool
    arrived: bool = True


class Inspect:
    """Implements ``Stage``, ``OpenableStage``, ``ResourcefulStage`` and ``BatchedStage``."""

    def __init__(self, config: InspectConfig) -> None:
        self.batched = config.device != "cpu"
        self._gpu: GpuInspection | None = None
        self.resources = ResourceRequest(cache_bytes=config.cache_bytes)
        self._cache = VerdictCache()
        self._config = config
        self._rules: dict[int, Rule] = {}

    def open(self) -> None:
        """Compile the rules. Raises ConfigError with ``file:line`` for a pattern that cannot be compiled."""
        rules = unique_rules([rule for path in self._config.rules for rule in read_rules(path)])
        self._rules = {rule.id: rule for rule in rules}
        self._search = PatternSearch(rules)
        if self.batched:
            config, automaton = self._config, self._search.automaton()
            whole = config.scope == "segment"
            self._gpu = GpuInspection(config.device, config.gpu_memory, automaton, whole=whole)

    def on_resources(self, grant: Grant | Refusal) -> None:
        """The size of the verdict cache; without a grant it is off."""
        self._cache.resize(grant.amounts.cache_bytes if isinstance(grant, Grant) else 0)

    def attach(self, slots_in: SlotMemory, ask: AskGrant) -> None:
        """See ``BatchedStage``."""
        if self._gpu is not None:
            self._gpu.attach(slots_in, ask)

    def begin(self, batch: SegmentBatch) -> None:
        """See ``BatchedStage``."""
        if self._gpu is not None:
            self._gpu.begin(batch)

    def process(self, segment: Segment, context: StageContext) -> None:
        """Emit the alerts of one segment."""
        spans = self._spans(segment)
        if self._gpu is None:
            found = self._searched(spans, context)
        else:
            found = self._looked_first(self._gpu, segment, spans, context)
        if not found:
            return
        limit = self._config.max_alerts_per_segment
        for match in found[:limit]:
            context.emit("alert", orjson.dumps(self._alert(segment, spans.by_packet, match)))
        context.count("alerts", min(len(found), limit))
        context.count("alerts_suppressed", max(len(found) - limit, 0))

    def _looked_first(self, gpu: GpuInspection, segment: Segment, spans: _Spans, context: StageContext) -> list[Match]:
        """As :meth:`_searched`, where a device was shown the segment before."""
        begun_ns = time.perf_counter_ns()
        suspects = gpu.suspects(segment.segment_id) if spans.arrived else None
        if suspects is None:
            context.variant = CPU
            found = self._searched(spans, context)
        else:
            context.variant = GPU
            context.count("on_gpu")
            found = self._search.search(spans.memory, spans.starts, spans.ends, suspects)
        gpu.spent(time.perf_counter_ns() - begun_ns)
        for reason, count in gpu.counts.items():
            context.count(reason, count)
        gpu.counts.clear()
        return found

    def _searched(self, spans: _Spans, context: StageContext) -> list[Match]:
        """By the CPU, or remembered."""
        cache = self._cache
        hits, misses, evictions = cache.hits, cache.misses, cache.evictions
        found = cache.verdict(spans.memory, spans.starts, spans.ends, self._search.search)
        if cache.hits > hits:
            context.count("cache_hits")
        elif cache.misses > misses:
            context.count("cache_misses")
            if cache.evictions > evictions:
                context.count("cache_evictions", cache.evictions - evictions)
        return found

    def _spans(self, segment: Segment) -> _Spans:
        scope, original = self._config.scope, segment.original
        rows = segment.notes.get(decoded.NOTE)
        if scope == "payload" and rows is not None:
            starts = rows["payload_offset"].astype(np.int64)
            return _Spans(original, starts, starts + rows["payload_bytes"], True)
        packets = segment.packets
        present = np.frombuffer(segment.payload, dtype=np.uint8)
        # The packet table describes the payload as it arrived, in the arena; a transformed one lies elsewhere.
        changed = len(present) != len(original) or not np.may_share_memory(present, original)
        if scope == "segment" or not len(packets) or (scope == "payload" and changed):
            ends = np.array([len(present)], np.int64)
            return _Spans(present, np.zeros(1, np.int64), ends, False, arrived=not changed)
        starts = packets["offset"].astype(np.int64)
        return _Spans(original, starts, starts + packets["captured_bytes"], True)

    def _alert(self, segment: Segment, by_packet: bool, match: Match) -> dict[str, Any]:
        index, rule_id, end, matches = match
        rule = self._rules[rule_id]
        timestamp_ns = int(segment.packets["timestamp_ns"][index]) if by_packet else segment.timestamp_ns
        alert: dict[str, Any] = {
            "record": "alert",
            "rule_id": rule.id,
            "name": rule.name,
            "severity": rule.severity,
            "segment_id": segment.segment_id,
            "key": segment.key.decode(errors="backslashreplace"),
            "timestamp": timestamp_text(timestamp_ns),
            "match_end": end,
            "matches": matches,
        }
        if by_packet:
            alert["packet"] = index
            rows = segment.notes.get(decoded.NOTE)
            if rows is not None:
                alert |= _five_tuple(rows[index])
        return alert


def _five_tuple(row: np.void) -> dict[str, Any]:
    if row["ip_version"] not in (4, 6):
        return {}
    family, size = (socket.AF_INET, 4) if row["ip_version"] == 4 else (socket.AF_INET6, 16)
    source, destination = row["source_address"].tobytes(), row["destination_address"].tobytes()
    return {
        "source_address": socket.inet_ntop(family, source[-size:]),
        "destination_address": socket.inet_ntop(family, destination[-size:]),
        "source_port": int(row["source_port"]),
        "destination_port": int(row["destination_port"]),
        "protocol": int(row["protocol"]),
    }
