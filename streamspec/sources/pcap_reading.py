"""Several windows of a classic capture at once, read and indexed by one kernel without a turn of Python.

What lies in the page cache and is sound goes this way, straight into the slots. Everything else, such as a read that
would wait for a disk, damage, or the end of a file inside a record, is left to the caller where it came up.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
from numba import types

from streamspec.core.interfaces import Bytes, Intake, Rows, Slots
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.core.segment import CONTENT_PACKETS
from streamspec.core.words import load_u32, load_u64, store_u64
from streamspec.sources.pcap_kernels import NANOSECONDS, int64, u32

_preadv2: Any = types.ExternalFunction(
    "preadv2", types.int64(types.int32, types.int64, types.int32, types.int64, types.int32)
)
AVAILABLE = hasattr(ctypes.CDLL(None), "preadv2") and hasattr(os, "RWF_NOWAIT")
"""Whether this system has what the kernel calls."""

READING = np.dtype(
    [
        # the file ---------------------------------------------------------------------------------
        ("descriptor", "<i4"),
        ("link_type", "<i4"),
        ("file_bytes", "<i8"),
        ("position", "<i8"),  # where the next window begins
        ("window_bytes", "<i8"),  # to read for it
        ("segment_bytes", "<i8"),  # most to read for one
        ("smallest_bytes", "<i8"),  # least
        # the slots --------------------------------------------------------------------------------
        ("memory_address", "<i8"),  # of the mapping that holds them
        ("first_offset", "<i8"),  # of slot 0 in it
        ("stride", "<i8"),
        ("packets_offset", "<i8"),  # of regions within a slot
        ("meta_offset", "<i8"),
        ("packet_capacity", "<i8"),
        # what the kernel needs and leaves ---------------------------------------------------------
        ("key_hash", "<u8"),
        ("arrival_ns", "<i8"),
        ("vector_address", "<i8"),  # of the next two, which are an ``iovec``
        ("target", "<i8"),
        ("target_bytes", "<i8"),
        ("packets", "<i8"),  # of the windows read by the last call
    ]
)
"""How to read a file into slots; one row."""

PIECE_BYTES = 256 * 1024
"""Read at a time: the record headers in it are still in the second-level cache when they are looked at."""
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


def new_reading(intake: Intake) -> Rows:
    """A row that knows the slots of an intake; the columns of the file are 0."""
    reading = np.zeros(1, dtype=READING)
    layout = intake.layout
    fields = READING.fields
    assert fields is not None
    reading["memory_address"] = intake.memory.ctypes.data
    reading["first_offset"] = intake.offset(0)
    reading["stride"] = intake.offset(1) - intake.offset(0)
    reading["packets_offset"] = layout.packets_offset
    reading["meta_offset"] = layout.meta_offset
    reading["packet_capacity"] = layout.packet_capacity
    reading["vector_address"] = reading.ctypes.data + fields["target"][1]
    return reading


@lean_kernel
def read_windows(reading: Rows, walk: Rows, slots: Slots, key: Bytes, memory: Bytes, headers: Rows) -> int:
    """Fill the first slots with a window each; returns how many, and leaves the place behind them in ``reading``.

    Args:
        reading: ``READING``, one row.
        walk: ``CLASSIC``, one row, on track.
        slots: open ones.
        key: stream key, of the hash in ``reading``.
        memory, headers: as an intake has them.
    """
    plan = reading[0]
    plan.packets = 0
    for i in range(len(slots)):
        slot = slots[i]
        base = plan.first_offset + slot * plan.stride
        wanted = min(plan.window_bytes, plan.file_bytes - plan.position)
        if wanted <= 0:
            return i
        count, used, available = 0, 0, 0
        while available < wanted and count < plan.packet_capacity:
            plan.target = plan.memory_address + base + available
            plan.target_bytes = min(PIECE_BYTES, wanted - available)
            read = _preadv2(plan.descriptor, plan.vector_address, 1, plan.position + available, _NOWAIT)
            if read != plan.target_bytes:
                return i
            available += read
            count, used = _index(plan, walk[0], memory, base, available, count, used)
        if count == 0:
            return i
        plan.position += used
        plan.packets += count
        plan.window_bytes = min(plan.segment_bytes, max(2 * used, plan.smallest_bytes))
        _complete(plan, headers[slot], key, memory, base, count)
    return len(slots)


@inlined_kernel
def _index(plan: Any, walk: Any, memory: Bytes, base: int, available: int, count: int, at: int) -> tuple[int, int]:
    """As ``pcap_kernels.index_sound``, into the packet table of the slot at ``base``: rows, and bytes used. Goes on
    behind ``count`` rows, which used ``at`` bytes."""
    swapped, header, tick_ns, limit_bytes = walk.swapped != 0, walk.header_bytes, walk.tick_ns, walk.limit_bytes
    row = base + plan.packets_offset + count * 24
    capacity, last_seconds = plan.packet_capacity, walk.last_seconds
    while count < capacity and at + header <= available:
        here = base + at
        captured = u32(memory, here + 8, swapped)
        following = at + header + captured
        if captured > limit_bytes or following > available:
            break
        last_seconds = u32(memory, here, swapped)
        wire = max(u32(memory, here + 12, swapped), captured)
        store_u64(memory, row, last_seconds * NANOSECONDS + u32(memory, here + 4, swapped) * tick_ns)
        store_u64(memory, row + 8, (at + header) | captured << 32)
        store_u64(memory, row + 16, wire)
        row += 24
        count += 1
        at = following
    walk.last_seconds = last_seconds
    return count, at


@inlined_kernel
def _complete(plan: Any, header: Any, key: Bytes, memory: Bytes, base: int, count: int) -> None:
    """The source's columns of the header, and the stream key."""
    first = base + plan.packets_offset
    last = first + (count - 1) * 24
    header.arrival_ns = plan.arrival_ns
    header.timestamp_ns = int64(load_u64(memory, first))
    header.length = load_u32(memory, last + 8) + load_u32(memory, last + 12)
    header.packets = count
    header.content = CONTENT_PACKETS
    header.link_type = plan.link_type
    for i in range(len(key)):
        memory[base + plan.meta_offset + i] = key[i]
    header.key_hash = plan.key_hash
    header.key_bytes = len(key)
    header.meta_bytes = 0
