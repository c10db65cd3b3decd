"""Compiled half of the ``pcap`` source for classic captures: record headers become rows of a packet table.

A window of the file lies at the start of a buffer; :func:`index_records` walks its record headers in place,
so that the bytes of a packet are never touched here. What a record looks like: draft-ietf-opsawg-pcap.

Counted per kind in an ``int64`` array (:data:`KINDS` names its places), so that Python looks once per window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from streamspec.core.interfaces import Bytes, Counts, Rows
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.core.segment import CONTENT_PACKETS, PACKET_TRUNCATED
from streamspec.core.words import load_be32, load_u32

Record = Any
"""One row of a structured array inside a kernel: its fields are attributes there."""

int64 = cast(Callable[[Any], int], np.int64)
"""Makes what is read from an array a signed number: numba's ``int`` would keep it unsigned, and signed
and unsigned numbers that meet in one variable become floating point."""

KINDS = (
    "truncated_record",  # the file ends inside a record; what is there of the packet is taken
    "malformed_record",  # impossible lengths
    "malformed_bytes",  # passed over in search of the next sound record or block
    "oversized_packets",  # longer than a slot; cut
    "malformed_block",  # pcapng: impossible block
    "unknown_interface",  # pcapng: a packet of an interface that was not described
    "malformed_file",
)
TRUNCATED_RECORD, MALFORMED_RECORD, MALFORMED_BYTES, OVERSIZED, MALFORMED_BLOCK, UNKNOWN_INTERFACE, MALFORMED_FILE = (
    range(len(KINDS))
)

ON_TRACK, SEARCHING, ENDED = range(3)
"""Where a walk is: at a sound record, behind damage, or nothing further can be read."""

CLASSIC = np.dtype(
    [
        ("swapped", "<i8"),  # 1: the file's byte order is not this machine's (little endian)
        ("header_bytes", "<i8"),  # of a record: 16, or 24 with Kuznetzov's extension
        ("tick_ns", "<i8"),  # 1000 for microseconds, 1 for nanoseconds
        ("limit_bytes", "<i8"),  # most bytes that a sound record captures
        ("last_seconds", "<i8"),  # of the last sound record, -1 before the first
        ("search", "<i8"),  # 1: search for a sound record behind damage, 0: the file ends there
        ("track", "<i8"),  # ON_TRACK, SEARCHING or ENDED
    ]
)
"""How to read a classic file, and where the walk is; one row."""

NANOSECONDS = 1_000_000_000
RESYNC_SECONDS = 7 * 86_400
"""After damage, a record further from the last one in time than this is not believed."""


@inlined_kernel
def u32(buffer: Bytes, at: int, swapped: bool) -> int:
    """Four bytes in the file's order."""
    return load_be32(buffer, at) if swapped else load_u32(buffer, at)


@inlined_kernel
def put_packet(row: Record, timestamp_ns: int, offset: int, captured_bytes: int, wire_bytes: int, flags: int) -> None:
    """Fill one row of the packet table; ``wire_bytes`` is never left below ``captured_bytes``."""
    row.timestamp_ns = timestamp_ns
    row.offset = offset
    row.captured_bytes = captured_bytes
    row.wire_bytes = max(wire_bytes, captured_bytes)
    row.flags = flags


@lean_kernel
def index_records(
    buffer: Bytes, available: int, final: bool, rows: Rows, state: Rows, counts: Counts
) -> tuple[int, int]:
    """Index the records of a window.

    Args:
        buffer: the window begins at its start, with a record (or in the middle of damage, when searching).
        available: bytes of the window; less than the whole buffer only when it may be called again with more.
        final: the data ends with the window.
        rows: ``PACKET`` rows to fill.
        state: ``CLASSIC``, one row.
        counts: by :data:`KINDS`.

    Returns:
        Rows filled, and bytes used up: where the next window begins. That may lie past the window, when the
        rest of a packet does not fit into the buffer. ``(0, 0)``: a record needs a larger window.
    """
    walk = state[0]
    swapped, header = walk.swapped != 0, walk.header_bytes
    at, count = 0, 0
    while count < rows.shape[0] and walk.track != ENDED:
        if walk.track == SEARCHING:
            found = find_record(buffer, at, available, final, state)
            counts[MALFORMED_BYTES] += found - at
            at = found
            if walk.track == SEARCHING:
                break
        count, at = index_sound(buffer, at, available, rows, count, walk)
        if count == rows.shape[0]:
            break
        left = available - at
        if left < header:
            if final and left > 0:
                counts[TRUNCATED_RECORD] += 1
                at = available
            break
        captured, wire = u32(buffer, at + 8, swapped), u32(buffer, at + 12, swapped)
        whole_buffer = at == 0 and available == buffer.shape[0]
        if captured > walk.limit_bytes and walk.search:
            counts[MALFORMED_RECORD] += 1
            counts[MALFORMED_BYTES] += 1
            walk.track = SEARCHING
            at += 1
            continue
        room = left - header
        if captured > room and not final and not whole_buffer:
            break  # a window that begins here shows more of it
        if captured > walk.limit_bytes:
            # Its length is wrong, the packet itself often is not: what follows is taken as this packet's.
            counts[MALFORMED_RECORD] += 1
            walk.track = ENDED
            wire = room
        elif captured > room:
            counts[TRUNCATED_RECORD if final else OVERSIZED] += 1
        seconds = u32(buffer, at, swapped)
        timestamp_ns = seconds * NANOSECONDS + u32(buffer, at + 4, swapped) * walk.tick_ns
        flags = PACKET_TRUNCATED if captured > room else 0
        put_packet(rows[count], timestamp_ns, at + header, min(captured, room), wire, flags)
        walk.last_seconds = seconds
        count += 1
        at += header + (room if final and captured > room else captured)
    return count, at


@inlined_kernel
def index_sound(buffer: Bytes, at: int, available: int, rows: Rows, count: int, walk: Record) -> tuple[int, int]:
    """The common case of :func:`index_records`: whole records, as far as they reach. Returns rows filled in all, and
    where the first record begins that is not whole or not sound."""
    swapped, header, tick_ns, limit_bytes = walk.swapped != 0, walk.header_bytes, walk.tick_ns, walk.limit_bytes
    last_seconds = walk.last_seconds
    while count < rows.shape[0] and at + header <= available:
        captured = u32(buffer, at + 8, swapped)
        following = at + header + captured
        if captured > limit_bytes or following > available:
            break
        last_seconds = u32(buffer, at, swapped)
        timestamp_ns = last_seconds * NANOSECONDS + u32(buffer, at + 4, swapped) * tick_ns
        put_packet(rows[count], timestamp_ns, at + header, captured, u32(buffer, at + 12, swapped), 0)
        count += 1
        at = following
    walk.last_seconds = last_seconds
    return count, at


@lean_kernel
def find_record(buffer: Bytes, start: int, available: int, final: bool, state: Rows) -> int:
    """Search for a sound record that is followed by another or by the end of the data.

    Returns where it begins, back on track; or how far the search got, still searching.
    """
    walk = state[0]
    header = walk.header_bytes
    at = start
    while at + header <= available:
        if looks_sound(buffer, at, state):
            after = at + header + u32(buffer, at + 8, walk.swapped != 0)
            if after + header <= available:
                if looks_sound(buffer, after, state):
                    walk.track = ON_TRACK
                    return at
            elif final:
                if after == available:
                    walk.track = ON_TRACK
                    return at
            elif at > 0:
                return at  # the next window begins here and shows what follows
        at += 1
    return available if final else at


@inlined_kernel
def looks_sound(buffer: Bytes, at: int, state: Rows) -> bool:
    """Whether a record header may begin here, to the strictness that a search through garbage needs."""
    walk = state[0]
    swapped = walk.swapped != 0
    captured, wire = u32(buffer, at + 8, swapped), u32(buffer, at + 12, swapped)
    if captured == 0 or captured > walk.limit_bytes or wire < captured or wire > walk.limit_bytes:
        return False
    if u32(buffer, at + 4, swapped) * walk.tick_ns >= NANOSECONDS:
        return False
    away = u32(buffer, at, swapped) - walk.last_seconds
    return bool(walk.last_seconds < 0 or abs(away) <= RESYNC_SECONDS)


@lean_kernel
def fill_header(headers: Rows, slot: int, rows: Rows, count: int, arrival_ns: int, link_type: int) -> None:
    """The source's columns of a slot's header, for ``count`` packets (at least one) in ``rows``."""
    header, last = headers[slot], rows[count - 1]
    header.arrival_ns = arrival_ns
    header.timestamp_ns = rows[0].timestamp_ns
    header.length = last.offset + last.captured_bytes
    header.packets = count
    header.content = CONTENT_PACKETS
    header.link_type = link_type


@lean_kernel
def put_key(headers: Rows, slot: int, key_hash: np.uint64, key: Bytes, memory: Bytes, at: int) -> None:
    """Store a stream key whose hash is known: what ``Intake.set_key`` does, ``at`` being where the meta region of the
    slot begins."""
    for i in range(len(key)):
        memory[at + i] = key[i]
    header = headers[slot]
    header.key_hash = key_hash
    header.key_bytes = len(key)
    header.meta_bytes = 0


@lean_kernel
def schedule(rows: Rows, count: int, last_ns: int, elapsed_ns: int, max_gap_ns: int, due_ns: Counts) -> None:
    """Write for each packet how long after the start of the replay it is due, in recorded nanoseconds.

    ``due[i] = due[i-1] + clamp(timestamp[i] - timestamp[i-1], 0, max_gap)``. Time that runs backwards counts
    as no time.

    Args:
        rows: ``PACKET``, of which ``count`` are used.
        last_ns, elapsed_ns: timestamp and due time of the packet before.
        due_ns: ``int64``, at least ``count`` long.
    """
    for i in range(count):
        timestamp_ns = rows[i].timestamp_ns
        if timestamp_ns > last_ns:
            # unsigned, since the difference of hostile timestamps needs 64 bits
            gap_ns = np.uint64(timestamp_ns) - np.uint64(last_ns)
            elapsed_ns += int64(min(gap_ns, np.uint64(max_gap_ns)))
        last_ns = timestamp_ns
        due_ns[i] = elapsed_ns


@lean_kernel
def shift_offsets(rows: Rows, source: Rows, first: int, count: int, by: int) -> None:
    """Copy rows ``first`` to ``first + count`` of ``source`` to the start of ``rows``, offsets less ``by``."""
    for i in range(count):
        rows[i] = source[first + i]
        rows[i].offset -= by
