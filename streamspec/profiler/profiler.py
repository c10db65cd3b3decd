"""The profiler: features of batches of segments, where they lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_COUNT, INFER_TYPE, MAX_PATTERN_GROUPS
from streamspec.core.interfaces import Bytes, Counts, Rows, SlotMemory, Slots
from streamspec.core.segment import PACKET
from streamspec.profiler.kernels import NO_LINK, NO_TABLE, Scratch, make_scratch, profile_batch, read_headers
from streamspec.profiler.patterns import PatternCounter
from streamspec.profiler.sampling_kernels import DEFAULT_SAMPLE_BYTES

if TYPE_CHECKING:
    from streamspec.links.cuda import Device
    from streamspec.profiler.gpu_profiling import GpuProfiling

DeviceWish = Literal["auto", "cpu", "gpu"]
Features = npt.NDArray[np.float32]

_ROWS = 6  # starts, lengths, packet counts, table starts, link types, declared types
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Content:
    """A segment outside of an arena.

    Attributes:
        payload: its bytes.
        packets: ``PACKET`` rows with offsets into the payload; None when it is one message.
        link_type: ``LINK_*`` when these are captured packets, -1 when they are messages.
        declared: type code, or ``INFER_TYPE``.
    """

    payload: bytes | bytearray | memoryview
    packets: Rows | None = None
    link_type: int = NO_LINK
    declared: int = INFER_TYPE


class Profiler:
    """Computes features. Any number of threads may use it; the work is done without the GIL.

    Args:
        sample_bytes: bytes read of a longer segment; 0 reads every byte of each.
        declared: type code by index of the source, for sources whose type is not to be inferred.
        patterns: counter of the user's patterns.
        device: whether :meth:`use_gpu` is for all that can go there, or for what is expected to be faster there.

    Attributes:
        pattern_names: names of the columns of the ``patterns`` vector that are in use.
        gpu: what :meth:`use_gpu` made, None without.
    """

    def __init__(
        self,
        *,
        sample_bytes: int = DEFAULT_SAMPLE_BYTES,
        declared: Mapping[int, int] | None = None,
        patterns: PatternCounter | None = None,
        device: DeviceWish = "cpu",
    ) -> None:
        self.sample_bytes = sample_bytes
        self.device: DeviceWish = device
        self.gpu: GpuProfiling | None = None
        self._declared = np.zeros(0, dtype=np.int64)
        for source, code in (declared or {}).items():
            self.declare(source, code)
        self._patterns = patterns
        self.pattern_names = patterns.names if patterns else ()
        self._threads = threading.local()
        self.profile_contents([Content(b"")])  # loads the kernels now rather than in front of the first segment

    def declare(self, source: int, code: int) -> None:
        """Take segments of that source as of this type (an index into ``TYPE_NAMES``) from now on; ``INFER_TYPE``
        goes back to looking."""
        missing = source + 1 - len(self._declared)
        if missing > 0:
            self._declared = np.concatenate([self._declared, np.full(missing, INFER_TYPE, dtype=np.int64)])
        self._declared[source] = code

    def profile(self, slots_in: SlotMemory, headers: Rows, slots: Slots, out: Features) -> None:
        """Fill ``out`` (``float32``, shape ``(len(slots), FEATURE_COUNT)``) with the features of these slots.

        Args:
            slots_in: the arena, or an intake.
            headers: its ``HEADER`` rows, with ``length``, ``packets``, ``content``, ``link_type``, ``source``.
            slots: ``int32`` slot numbers.
        """
        rows, scratch = self._workspace(len(slots))
        first, layout = slots_in.offset(0), slots_in.layout
        read_headers(headers, slots, first, layout.stride, layout.packets_offset, self._declared, rows)
        if self.gpu is not None and self.gpu.serves(slots_in.memory):
            self.gpu.profile(slots_in.memory, rows, len(slots), scratch, out, self._run)
            return
        self._run(slots_in.memory, rows, len(slots), scratch, out)

    def use_gpu(self, device: Device, slots_in: SlotMemory, released: Callable[[], object]) -> None:
        """Profile segments in that memory on a device from now on, as :attr:`device` says; by one thread only.

        Args:
            released: called once when the device is of no more use.

        Raises:
            DeviceFault: it cannot be used; nothing has changed.
        """
        from streamspec.profiler.gpu_features import GpuFeatures
        from streamspec.profiler.gpu_profiling import GpuProfiling

        features = GpuFeatures(device, slots_in.memory, slots_in.layout.payload_bytes)
        self.gpu = GpuProfiling(self.device, features, released, sample_bytes=self.sample_bytes)

    def count_patterns(self, slots_in: SlotMemory, headers: Rows, slots: Slots, out: Features) -> None:
        """Fill ``out`` (``float32``, shape ``(len(slots), MAX_PATTERN_GROUPS)``) with the matches per group of
        patterns; zeros when there are none. Costs a call of Hyperscan per segment."""
        out[:] = 0
        if self._patterns is None:
            return
        for row, slot, length in zip(out, slots.tolist(), headers["length"][slots].tolist(), strict=True):
            start = slots_in.offset(slot)
            self._patterns.count(slots_in.memory[start : start + length], row)

    def profile_contents(self, contents: Sequence[Content]) -> Features:
        """The features of segments that lie anywhere, shape ``(len(contents), FEATURE_COUNT)``."""
        out = np.zeros((len(contents), FEATURE_COUNT), dtype=np.float32)
        memory, rows = lay_out(contents)
        self._run(memory, rows, len(contents), self._workspace(0)[1], out)
        return out

    def count_patterns_in(self, contents: Sequence[Content]) -> Features:
        """As :meth:`count_patterns`, for segments that lie anywhere."""
        out = np.zeros((len(contents), MAX_PATTERN_GROUPS), dtype=np.float32)
        if self._patterns is not None:
            for content, row in zip(contents, out, strict=True):
                self._patterns.count(np.frombuffer(content.payload, dtype=np.uint8), row)
        return out

    def _run(self, memory: Bytes, rows: Counts, count: int, scratch: Scratch, out: Features) -> None:
        starts, lengths, packets, tables, links, declared = (row[:count] for row in rows)
        # A column of a structured array is not contiguous; the kernel exists for contiguous rows only.
        target = out if out.flags.c_contiguous else np.empty(out.shape, dtype=np.float32)
        profile_batch(memory, starts, lengths, packets, tables, links, declared, self.sample_bytes, scratch, target)
        if target is not out:
            out[:] = target

    def _workspace(self, count: int) -> tuple[Counts, Scratch]:
        """This thread's working memory, with room for ``count`` segments."""
        threads = self._threads
        if not hasattr(threads, "scratch"):
            threads.scratch = make_scratch()
            threads.rows = np.zeros((_ROWS, 0), dtype=np.int64)
        if threads.rows.shape[1] < count:
            threads.rows = np.zeros((_ROWS, max(count, 256)), dtype=np.int64)
        return threads.rows, threads.scratch


def lay_out(contents: Iterable[Content]) -> tuple[Bytes, Counts]:
    """Copy segments and their packet tables into one memory; returns it and the rows for the kernel."""
    memory = bytearray()
    columns = []
    for content in contents:
        start, length = len(memory), len(content.payload)
        memory += content.payload
        memory += bytes(-len(memory) % _ALIGNMENT)
        packets = 1 if content.packets is None else len(content.packets)
        table = NO_TABLE
        if content.packets is not None:
            table = len(memory)
            memory += np.ascontiguousarray(content.packets, dtype=PACKET).tobytes()
            memory += bytes(-len(memory) % _ALIGNMENT)
        columns.append((start, length, packets, table, content.link_type, content.declared))
    memory += bytes(_ALIGNMENT)
    rows = np.array(columns, dtype=np.int64).reshape(-1, _ROWS).T
    return np.frombuffer(memory, dtype=np.uint8), np.ascontiguousarray(rows)
