"""The worker process: takes batches of slots, runs the whole stage chain on each, reports them done.

Started as ``python -m streamspec.engine.worker SPEC`` with the arena and one socket as descriptors. It
knows no component: ``SPEC["factory"]`` names the function that builds the chain. A crash here, in a C
library too, costs this process only.
"""

from __future__ import annotations

import array
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from streamspec.core.errors import StreamspecError
from streamspec.core.interfaces import BatchedStage, Bytes, OpenableStage, Rows, SegmentBatch, Slots, Stage
from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.core.segment import (
    DONE,
    ERROR_KINDS,
    FAILED,
    HEADER,
    PACKET,
    PAYLOAD_BY_MESSAGE,
    RUNNING,
    SlotLayout,
)
from streamspec.engine import wire
from streamspec.engine.arena import Arena
from streamspec.engine.worker_grants import GrantLine

_FIELDS = HEADER.fields
assert _FIELDS is not None
_STATE_AT = _FIELDS["state"][1]
_WORKER_AT = _FIELDS["worker"][1]
_STARTED_AT = _FIELDS["started_ns"][1]
_USEFUL_AT = _FIELDS["useful_ns"][1]
_VARIANT_AT = _FIELDS["variant"][1]
_ERROR_KIND_AT = _FIELDS["error_kind"][1]
_SPILLED_AT = _FIELDS["spilled"][1]
_INTAKE = struct.Struct("<Q24xq16xIIHHHHHH")  # segment_id, timestamp_ns, length ... meta_bytes
_VARIANT = struct.Struct("<h")
_RESULT = struct.Struct("<qIIIIII")  # finished_ns ... error_bytes
_FINISHED_AT = _FIELDS["finished_ns"][1]

REPORT_INTERVAL_NS = 500_000
"""Finished slots are reported at least this often, so that a light segment does not wait for its batch."""
COUNTS_INTERVAL_NS = 50_000_000
SPILL_LIMIT_BYTES = 256 << 20
ERROR_TEXT_BYTES = 4096


class ArenaSegment:
    """Implements ``Segment`` on a slot; one instance is reused for all."""

    __slots__ = (
        "_arena",
        "_cut",
        "_key",
        "_original",
        "_packets",
        "content",
        "key_bytes",
        "length",
        "link_type",
        "notes",
        "packet_count",
        "payload",
        "segment_id",
        "slot",
        "timestamp_ns",
    )

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.slot = -1
        self.payload: memoryview | Any = memoryview(b"")
        self.notes: dict[str, Any] = {}
        self._original: Bytes | None = None
        self._packets: Rows | None = None
        self._key: bytes | None = None
        self._cut: tuple[memoryview, bytes] | None = None

    @property
    def original(self) -> Bytes:
        if self._original is None:
            self._original = self._arena.payload(self.slot)[: self.length]
        return self._original

    @property
    def packets(self) -> Rows:
        if self._packets is None:
            self._packets = self._arena.packets(self.slot)[: self.packet_count].view(PACKET)
        return self._packets

    @property
    def key(self) -> bytes:
        if self._key is None:
            self._key = self._arena.meta(self.slot)[: self.key_bytes].tobytes()
        return self._key

    def replace_messages(self, messages: Sequence[bytes | memoryview]) -> None:
        if len(messages) != self.packet_count:
            raise ValueError(f"{len(messages)} messages for {self.packet_count} rows")
        self.payload = memoryview(b"".join(messages))
        self._cut = self.payload, array.array("I", map(len, messages)).tobytes()

    @property
    def message_sizes(self) -> bytes:
        """Of the present payload, one ``uint32`` per row; empty when it is not cut into messages."""
        return self._cut[1] if self._cut is not None and self._cut[0] is self.payload else b""

    def load(self, slot: int, intake: tuple[int, ...], payload: memoryview) -> None:
        """Point at another slot."""
        self.slot = slot
        (
            self.segment_id,
            self.timestamp_ns,
            self.length,
            self.packet_count,
            _,
            _,
            self.content,
            self.link_type,
            self.key_bytes,
            _,
        ) = intake
        self.payload = payload
        self._original = None
        self._packets = None
        self._key = None
        self._cut = None
        if self.notes:
            self.notes = {}


@dataclass(slots=True)
class WorkerContext:
    """Implements ``StageContext``; collects what the stages of one segment say."""

    variant: int = -1
    stage: int = 0
    names: Sequence[str] = ()
    records: dict[str, list[bytes]] = field(default_factory=dict)
    deltas: list[tuple[int, bytes | memoryview]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    line: GrantLine | None = None

    def emit(self, record_type: str, line: bytes) -> None:
        self.records.setdefault(record_type, []).append(line)

    def delta(self, content: bytes | memoryview) -> None:
        self.deltas.append((self.stage, content))

    def count(self, reason: str, count: int = 1) -> None:
        of_stage = self.counts.setdefault(self.names[self.stage], {})
        of_stage[reason] = of_stage.get(reason, 0) + count

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
        if self.line is None:
            return Refusal("this chain runs without a service")
        return self.line.request(self.names[self.stage], asked, on_change)


class SegmentRunner:
    """Runs the chain on one slot and writes result and outcome into shared memory."""

    def __init__(
        self, arena: Arena, worker: int, stages: Sequence[tuple[str, Stage]], line: GrantLine | None = None
    ) -> None:
        self._arena = arena
        self._worker = worker
        self._memory = arena.memory.data.cast("B")
        # State and start are read by the dispatcher at any time. Stores through these views are whole;
        # ``struct.pack_into`` would first fill with zeros.
        table = self._memory[: arena.slots * HEADER.itemsize]
        self._words, self._long_words = table.cast("I"), table.cast("q")
        self._segment = ArenaSegment(arena)
        self.context = WorkerContext(names=tuple(name for name, _ in stages), line=line)
        self._steps: list[tuple[int, Callable[[Any, Any], None]]] = [
            (index, stage.process) for index, (_, stage) in enumerate(stages)
        ]
        self._useful = struct.Struct(f"<{len(stages)}q")
        self._variants = struct.Struct(f"<{len(stages)}h")
        self._no_time = [0] * len(stages)
        self._batched = [(i, stage) for i, (_, stage) in enumerate(stages) if _wants_batches(stage)]

    def begin(self, slots: Slots) -> None:
        """Let stages that work on many segments at once begin with these. Their time is shared by the segments."""
        self._no_time = [0] * len(self._no_time)
        if not self._batched or not len(slots):
            return
        arena, layout = self._arena, self._arena.layout
        rows = arena.headers[slots]
        starts = np.array([arena.offset(slot) for slot in slots.tolist()], dtype=np.int64)
        places = np.stack([starts, rows["length"], starts + layout.packets_offset, rows["packets"]])
        for index, stage in self._batched:
            before = time.thread_time_ns()
            stage.begin(SegmentBatch(rows["segment_id"], places, rows["variant"][:, index]))
            self._no_time[index] = (time.thread_time_ns() - before) // len(slots)

    def run(self, slot: int) -> bytes | None:
        """Process one slot. Returns the output when the slot has no room for it, else None."""
        memory, context, segment = self._memory, self.context, self._segment
        base = slot * HEADER.itemsize
        self._long_words[(base + _STARTED_AT) >> 3] = time.monotonic_ns()
        self._words[(base + _WORKER_AT) >> 2] = self._worker
        self._words[(base + _STATE_AT) >> 2] = RUNNING
        intake = _INTAKE.unpack_from(memory, base)
        start = self._arena.offset(slot)
        payload = memory[start : start + intake[2]]
        segment.load(slot, intake, payload)
        if context.records or context.deltas:
            context.records, context.deltas = {}, []
        useful = self._no_time.copy()
        error = b""
        index = 0
        before = time.thread_time_ns()
        try:
            for (index, process), variant in zip(
                self._steps, self._variants.unpack_from(memory, base + _VARIANT_AT), strict=True
            ):
                context.stage = index
                context.variant = variant
                process(segment, context)
                after = time.thread_time_ns()
                useful[index] += after - before
                before = after
                if context.variant != variant:
                    _VARIANT.pack_into(memory, base + _VARIANT_AT + 2 * index, context.variant)
        except (Exception, SystemExit) as raised:
            useful[index] += time.thread_time_ns() - before
            error = self._describe(raised, index)
        self._useful.pack_into(memory, base + _USEFUL_AT, *useful)
        if error:
            segment.payload = payload
            context.records, context.deltas = {}, []
        return self._store(slot, base, payload, error, FAILED if error else DONE)

    def _describe(self, error: BaseException, stage: int) -> bytes:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"stage {self.context.names[stage]}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        return text.encode(errors="replace")[:ERROR_TEXT_BYTES]

    def _store(self, slot: int, base: int, arrived: memoryview, error: bytes, state: int) -> bytes | None:
        context, result = self.context, self._segment.payload
        changed = result is not arrived
        records = wire.encode_records(context.records) if context.records else b""
        deltas = wire.encode_deltas(context.deltas)
        delta_bytes = sum(map(len, deltas))
        body = memoryview(result).cast("B") if changed and len(result) else b""
        sizes = self._segment.message_sizes if changed else b""
        total = len(body) + len(sizes) + len(records) + delta_bytes + len(error)
        spill = None
        if total:
            capacity = self._arena.layout.output_bytes
            if total <= capacity:
                self._write_output(slot, (body, sizes, records, *deltas, error))
            elif total <= SPILL_LIMIT_BYTES:
                spill = b"".join((body, sizes, records, *deltas, error))
            else:
                return self._too_large(slot, base, arrived, total)
        memory = self._memory
        memory[base + _SPILLED_AT] = spill is not None
        memory[base + _ERROR_KIND_AT] = 1 if error else 0
        size = len(body) if changed else len(arrived)
        _RESULT.pack_into(
            memory,
            base + _FINISHED_AT,
            time.monotonic_ns(),
            0,
            size,
            PAYLOAD_BY_MESSAGE if sizes else changed,
            len(records),
            delta_bytes,
            len(error),
        )
        self._words[(base + _STATE_AT) >> 2] = state
        return spill

    def _too_large(self, slot: int, base: int, arrived: memoryview, total: int) -> bytes | None:
        self._segment.payload = arrived
        self.context.records, self.context.deltas = {}, []
        text = f"the results take {total} bytes; allowed: {SPILL_LIMIT_BYTES}".encode()
        kept = self._store(slot, base, arrived, text, FAILED)
        self._memory[base + _ERROR_KIND_AT] = ERROR_KINDS.index("output_too_large")
        return kept

    def _write_output(self, slot: int, parts: Sequence[bytes | memoryview]) -> None:
        position = self._arena.offset(slot) + self._arena.layout.output_offset
        for part in parts:
            if part:
                self._memory[position : position + len(part)] = part
                position += len(part)


class WorkerLoop:
    """Receives batches and reports them until the dispatcher closes the socket or says so."""

    def __init__(self, connection: socket.socket, line: GrantLine, runner: SegmentRunner) -> None:
        self._connection = connection
        self._line = line
        self._runner = runner
        self._counts_sent_ns = 0

    def run(self) -> None:
        """Returns when there is nothing more to do."""
        receive = self._line.receive
        while message := receive():
            if wire.kind_of(message) >= 0:
                self._run_batch(array.array("i", message))
            elif wire.decode_control(message).get("exit"):
                break
        self._send_counts(force=True)

    def _run_batch(self, slots: array.array[int]) -> None:
        run, now_ns = self._runner.run, time.monotonic_ns
        done: array.array[int] = array.array("i")
        reported_ns = now_ns()
        last = len(slots) - 1
        self._runner.begin(np.frombuffer(slots, dtype=np.int32))
        for position, slot in enumerate(slots):
            spill = run(slot)
            if spill is not None:
                self._send_spill(slot, spill)
            done.append(slot)
            if position == last or now_ns() - reported_ns > REPORT_INTERVAL_NS:
                if self._runner.context.counts:
                    self._send_counts(force=False)
                self._connection.send(done)
                del done[:]
                reported_ns = now_ns()

    def _send_spill(self, slot: int, content: bytes) -> None:
        fd = os.memfd_create("streamspec-spill", os.MFD_CLOEXEC)
        try:
            written = 0
            while written < len(content):
                written += os.write(fd, memoryview(content)[written:])
            socket.send_fds(self._connection, [wire.encode_spill(slot, len(content))], [fd])
        finally:
            os.close(fd)

    def _send_counts(self, *, force: bool) -> None:
        counts = self._runner.context.counts
        now_ns = time.monotonic_ns()
        if not counts or (not force and now_ns - self._counts_sent_ns < COUNTS_INTERVAL_NS):
            return
        try:
            self._connection.send(wire.encode_control({"counts": counts}))
        except (BrokenPipeError, ConnectionResetError):
            return
        self._counts_sent_ns = now_ns
        counts.clear()


def _wants_batches(stage: Stage) -> TypeGuard[BatchedStage]:
    return isinstance(stage, BatchedStage) and stage.batched


def build_chain(spec: dict[str, Any]) -> list[tuple[str, Stage]]:
    """Call ``SPEC["factory"]`` (``module:function``) and open the stages."""
    module, _, function = spec["factory"].partition(":")
    for folder in spec.get("path", ()):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    stages: list[tuple[str, Stage]] = getattr(importlib.import_module(module), function)(spec["stages"])
    for _, stage in stages:
        if isinstance(stage, OpenableStage):
            stage.open()
    return stages


def main(argument: str) -> int:
    """Entry of the process. ``argument`` is the JSON spec."""
    spec = json.loads(argument)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the dispatcher's to handle
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans
    connection = socket.socket(fileno=spec["socket"])
    arena = Arena(SlotLayout(**spec["layout"]), spec["slots"], fd=spec["arena"])
    line = GrantLine(connection)
    try:
        stages = build_chain(spec)
        line.declare(stages)
        line.attach(stages, arena)
    except StreamspecError as error:
        connection.send(wire.encode_control({"failed": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        connection.send(wire.encode_control({"failed": f"{type(error).__name__}: {error}", "exit_code": 70}))
        return 70
    runner = SegmentRunner(arena, spec["worker"], stages, line)
    gc.collect()
    gc.freeze()
    try:
        connection.send(wire.encode_control({"ready": True}))
        WorkerLoop(connection, line, runner).run()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the dispatcher is gone
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
