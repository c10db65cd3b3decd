"""Compiled half of the ``pcap`` sink: packets become records of a capture, and torn records are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from streamspec.core.copying import copy_bytes
from streamspec.core.interfaces import Bytes, Rows
from streamspec.core.jit import inlined_kernel, lean_kernel

RECORD_BYTES = 16
"""Header of a record: seconds, nanoseconds, captured bytes, bytes on the wire; little endian."""
LARGEST_PACKET_BYTES = 256 * 1024
"""Longer packets are cut: other programs take a longer record for damage."""
NANOSECONDS = 1_000_000_000
LATEST_SECONDS = 2**32 - 1

int64 = cast(Callable[[Any], int], np.int64)


@lean_kernel
def records_bytes(packets: Rows, content_bytes: int) -> tuple[int, int]:
    """How many bytes the records of these ``PACKET`` rows take, and how many of them will be cut."""
    total, cut = 0, 0
    for i in range(packets.shape[0]):
        total += RECORD_BYTES + present_bytes(packets[i], content_bytes)
        if packets[i].captured_bytes > LARGEST_PACKET_BYTES:
            cut += 1
    return total, cut


@inlined_kernel
def present_bytes(packet: Any, content_bytes: int) -> int:
    """Bytes of a packet that are written: at most the largest, and what lies within the payload."""
    left = max(content_bytes - int64(packet.offset), 0)
    return min(int64(packet.captured_bytes), left, LARGEST_PACKET_BYTES)


@lean_kernel
def write_records(content: Bytes, packets: Rows, out: Bytes, position: int) -> int:
    """Write the packets as records to ``out`` from ``position`` on; returns the position behind them.
    ``out`` must have room, as :func:`records_bytes` says."""
    for i in range(packets.shape[0]):
        packet = packets[i]
        size = present_bytes(packet, content.shape[0])
        timestamp_ns = max(int64(packet.timestamp_ns), 0)
        seconds = timestamp_ns // NANOSECONDS
        put32(out, position, min(seconds, LATEST_SECONDS))
        put32(out, position + 4, timestamp_ns - seconds * NANOSECONDS)
        put32(out, position + 8, size)
        put32(out, position + 12, max(int64(packet.wire_bytes), size))
        position += RECORD_BYTES
        copy_bytes(out, position, content, int64(packet.offset), size)
        position += size
    return position


@inlined_kernel
def put32(out: Bytes, at: int, value: int) -> None:
    """Four bytes, little endian."""
    out[at] = value & 255
    out[at + 1] = value >> 8 & 255
    out[at + 2] = value >> 16 & 255
    out[at + 3] = value >> 24 & 255


@lean_kernel
def whole_records(buffer: Bytes, available: int) -> int:
    """How many of the bytes are whole records, from the start on."""
    at = 0
    while at + RECORD_BYTES <= available:
        size = (
            int64(buffer[at + 8])
            | int64(buffer[at + 9]) << 8
            | int64(buffer[at + 10]) << 16
            | int64(buffer[at + 11]) << 24
        )
        if size > LARGEST_PACKET_BYTES or at + RECORD_BYTES + size > available:
            break
        at += RECORD_BYTES + size
    return at
