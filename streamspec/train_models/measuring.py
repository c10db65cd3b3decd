"""What segments cost: the worker's own code runs the configured chain over them, in every variant, several times.

Segments lie in an arena as in the service, and hundreds of others run between two turns of one, so that it finds the
caches as cold as in a stream. The smallest useful time of all turns counts: what else the machine does only adds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamspec.config import ServiceConfig
from streamspec.core.interfaces import Bytes, Rows
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import Features, Head, chain_heads
from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS, DONE, MAX_STAGES, PACKET
from streamspec.engine.arena import Arena
from streamspec.engine.worker import SegmentRunner, build_chain
from streamspec.profiler.kernels import NO_LINK
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiles.base_model import head_names
from streamspec.profiles.head_plan import Floats
from streamspec.stages.chain import FACTORY

BATCH = 192
"""Segments in the arena at a time."""


@dataclass(frozen=True)
class Measured:
    """What a batch of segments cost.

    Attributes:
        features: ``float32``, shape ``(n, FEATURE_COUNT)``.
        values: of each head of the chain, shape ``(n, heads)``: nanoseconds, or bytes out / bytes in; NaN where the
            stage failed.
    """

    features: Features
    values: Floats


class ChainBench:
    """The stages of a configuration, ready to be measured. Close it.

    Args:
        config: whose stages, sizes and profiler count.
        repetitions: turns of each variant, 1 and up.
        every_byte: profile all of long segments, not a sample.
    """

    def __init__(self, config: ServiceConfig, *, repetitions: int = 5, every_byte: bool = False) -> None:
        self.heads: tuple[Head, ...] = chain_heads(config.stages)
        self.names = head_names(self.heads)
        self._repetitions = repetitions
        self._profiler = Profiler(sample_bytes=0) if every_byte else config.profiler.build()
        spec = {"factory": FACTORY, "stages": [stage.model_dump(mode="json") for stage in config.stages]}
        self._stages = len(config.stages)
        self._variants = [len(stage.cost_keys) for stage in config.stages]
        self._arena = Arena(config.engine.layout, BATCH)
        self._runner = SegmentRunner(self._arena, 1, build_chain(spec))
        self._slots = np.arange(BATCH, dtype=np.int32)

    def close(self) -> None:
        """Give the memory back."""
        del self._runner
        gc.collect()  # the segment and its views hold the mapping
        self._arena.close()

    def measure(self, contents: Sequence[Content], turned: Callable[[int], None] | None = None) -> Measured:
        """Measure some segments, none larger than a slot.

        Args:
            contents: the segments.
            turned: called with the number of segments whenever so many have run once through the chain.
        """
        parts = [
            self._measure_some(contents[first : first + BATCH], turned) for first in range(0, len(contents), BATCH)
        ]
        return Measured(
            np.concatenate([part.features for part in parts]), np.concatenate([part.values for part in parts])
        )

    @property
    def turns(self) -> int:
        """How often each segment runs through the chain."""
        return self._repetitions * (1 + sum(count - 1 for count in self._variants))

    def _measure_some(self, contents: Sequence[Content], turned: Callable[[int], None] | None) -> Measured:
        count = len(contents)
        for slot, content in enumerate(contents):
            self._fill(slot, content)
        headers = self._arena.headers[:count]
        features = np.zeros((count, OUTCOME["features"].shape[0]), dtype=np.float32)
        self._profiler.profile(self._arena, self._arena.headers, self._slots[:count], features)
        times = np.full((count, len(self.heads)), np.inf)
        sizes = np.full((count, len(self.heads)), np.nan)
        for _ in range(self._repetitions):
            for stage, variant in self._choices():
                headers["variant"] = -1
                if stage >= 0:
                    headers["variant"][:, stage] = variant
                self._run(count)
                self._read(headers, stage, variant, times, sizes)
                if turned is not None:
                    turned(count)
        ratio = np.array([head.target == "output_ratio" for head in self.heads], dtype=bool)
        values = np.where(ratio, sizes / np.maximum(headers["length"], 1)[:, np.newaxis], times)
        values[~np.isfinite(values) | (values <= 0)] = np.nan
        return Measured(features, values)

    def _choices(self) -> Iterator[tuple[int, int]]:
        """The chain with all defaults, then with every other variant of each stage."""
        yield -1, -1
        for stage, count in enumerate(self._variants):
            default = next(head.variant for head in self.heads if head.stage == stage and head.is_default)
            for variant in range(count):
                if variant != default:
                    yield stage, variant

    def _run(self, count: int) -> None:
        runner = self._runner
        gc.disable()
        try:
            for slot in range(count):
                runner.run(slot)
        finally:
            gc.enable()
        runner.context.counts.clear()

    def _read(self, headers: Rows, stage: int, variant: int, times: Floats, sizes: Floats) -> None:
        """Stages behind another variant than the default see another payload; their time does not count."""
        done = headers["state"] == DONE
        for index, head in enumerate(self.heads):
            chosen = (
                head.variant == variant
                if head.stage == stage
                else head.is_default and (head.stage < stage or stage < 0)
            )
            if not chosen:
                continue
            if head.target == "useful_time":
                useful = np.where(done, headers["useful_ns"][:, head.stage], np.inf)
                times[:, index] = np.minimum(times[:, index], useful)
            elif self._is_last_to_change(head.stage):
                sizes[:, index] = np.where(done, headers["payload_bytes"], np.nan)

    def _is_last_to_change(self, stage: int) -> bool:
        """The size that is known is that of the chain's result."""
        return all(head.stage <= stage for head in self.heads if head.target == "output_ratio")

    def _fill(self, slot: int, content: Content) -> None:
        arena, payload = self._arena, np.frombuffer(content.payload, dtype=np.uint8)
        header = arena.headers[slot : slot + 1]
        header[:] = 0
        header["segment_id"], header["length"] = slot + 1, len(payload)
        arena.payload(slot)[: len(payload)] = payload
        packets = content.packets if content.packets is not None else whole(payload)
        arena.packets(slot)[: len(packets)] = packets
        header["packets"] = len(packets)
        if content.link_type == NO_LINK:
            header["content"] = CONTENT_MESSAGES
        else:
            header["content"], header["link_type"] = CONTENT_PACKETS, content.link_type


def whole(payload: Bytes) -> Rows:
    """The packet table of a segment of one message."""
    table = np.zeros(1, dtype=PACKET)
    table["captured_bytes"] = table["wire_bytes"] = len(payload)
    return table


def outcomes_of(heads: Sequence[Head], measured: Measured, variants: Sequence[int]) -> Rows:
    """What a service would have recorded of these segments, had it run the given variant of the stage with variants.

    Args:
        heads: of the chain.
        measured: the segments.
        variants: of each segment, for the stages that have it; others run their default.
    """
    rows = np.zeros(len(measured.features), dtype=OUTCOME)
    rows["features"], rows["profiled"] = measured.features, 1
    rows["length"] = measured.features[:, 0].astype(np.uint32)
    rows["packets"] = np.minimum(measured.features[:, 1], 2**31).astype(np.uint32)
    rows["variant"] = -1
    chosen = np.asarray(variants)
    useful = np.zeros((len(rows), MAX_STAGES))
    for index, head in enumerate(heads):
        several = any(other.stage == head.stage and other.variant for other in heads)
        mine = chosen == head.variant if several else np.full(len(rows), head.is_default)
        value = measured.values[:, index]
        if head.target == "useful_time":
            useful[mine, head.stage] = np.nan_to_num(value[mine])
            if several:
                rows["variant"][mine, head.stage] = head.variant
        else:
            out = np.nan_to_num(value[mine]) * rows["length"][mine]
            rows["payload_bytes_out"][mine] = rows["bytes_out"][mine] = np.round(out).astype(np.uint32)
    rows["useful_ns"] = useful.astype(np.int64)
    rows["service_ns"] = rows["latency_ns"] = rows["useful_ns"].sum(axis=1)
    return rows
