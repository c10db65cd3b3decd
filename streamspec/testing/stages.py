"""Run one stage on one payload without an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamspec.core.interfaces import Bytes, Rows, Stage
from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.core.segment import CONTENT_MESSAGES, PACKET
from streamspec.core.tally import Tally


@dataclass
class StageSegment:
    """Implements ``Segment`` on ordinary memory."""

    original: Bytes
    packets: Rows
    payload: memoryview
    key: bytes = b""
    segment_id: int = 1
    timestamp_ns: int = 0
    content: int = CONTENT_MESSAGES
    link_type: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    messages: Sequence[bytes] = ()

    def replace_messages(self, messages: Sequence[bytes | memoryview]) -> None:
        if len(messages) != len(self.packets):
            raise ValueError(f"{len(messages)} messages for {len(self.packets)} rows")
        self.payload = memoryview(b"".join(messages))
        self.messages = [bytes(message) for message in messages]


@dataclass
class RecordingContext:
    """Implements ``StageContext`` and keeps what the stage said; grants what is asked, or refuses with ``refusal``."""

    variant: int = -1
    records: list[tuple[str, bytes]] = field(default_factory=list)
    deltas: list[bytes] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    grants: list[Grant] = field(default_factory=list)
    refusal: str = ""

    def emit(self, record_type: str, line: bytes) -> None:
        self.records.append((record_type, line))

    def delta(self, content: bytes | memoryview) -> None:
        self.deltas.append(bytes(content))

    def count(self, reason: str, count: int = 1) -> None:
        self.tally.add(reason, count)

    def request(
        self,
        *,
        threads: int = 0,
        cache: int | str = 0,
        gpu_memory: int | str = 0,
        bandwidth: float | str = 0,
        on_change: Callable[[Grant], None] | None = None,
    ) -> Grant | Refusal:
        asked = ResourceRequest.of(threads=threads, cache=cache, gpu_memory=gpu_memory, bandwidth=bandwidth)
        if self.refusal:
            return Refusal(self.refusal)
        self.grants.append(Grant(len(self.grants) + 1, asked, on_change=on_change))
        return self.grants[-1]


def make_segment(messages: list[bytes], timestamps_ns: list[int] | None = None, **fields: Any) -> StageSegment:
    """A segment of these messages (or packets), packed one behind the other."""
    raw = np.frombuffer(b"".join(messages), dtype=np.uint8)
    table = np.zeros(len(messages), dtype=PACKET)
    sizes = np.array([len(m) for m in messages], dtype=np.uint32)
    table["captured_bytes"] = table["wire_bytes"] = sizes
    table["offset"] = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(messages) else []
    if timestamps_ns is not None:
        table["timestamp_ns"] = timestamps_ns
    return StageSegment(original=raw, packets=table, payload=raw.data, **fields)


def run_stage(stage: Stage, segment: StageSegment, variant: int = -1) -> RecordingContext:
    """Process the segment and return what came out beside its payload."""
    context = RecordingContext(variant=variant)
    stage.process(segment, context)
    return context
