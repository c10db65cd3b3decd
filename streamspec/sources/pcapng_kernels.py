"""Compiled half of the ``pcap`` source for pcapng captures (draft-ietf-opsawg-pcapng).

:func:`index_blocks` walks the blocks of a window, turns packet blocks (enhanced, simple, and the obsolete
packet block) into rows of a packet table, and passes over blocks of other kinds. It comes back to Python for
a section header and an interface description, which are rare, and where the link type changes.
"""

from __future__ import annotations

import numpy as np

from streamspec.core.interfaces import Bytes, Counts, Rows
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.core.segment import PACKET_TRUNCATED
from streamspec.sources.pcap_kernels import (
    ENDED,
    MALFORMED_BLOCK,
    MALFORMED_BYTES,
    MALFORMED_RECORD,
    NANOSECONDS,
    ON_TRACK,
    OVERSIZED,
    SEARCHING,
    TRUNCATED_RECORD,
    UNKNOWN_INTERFACE,
    Record,
    int64,
    put_packet,
    u32,
)

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6

SMALLEST_BLOCK_BYTES = 12
LARGEST_BLOCK_BYTES = 16 * 1024 * 1024
"""As Wireshark's limit. A longer block is taken for damage."""

LARGEST_OPTIONS_BYTES = 64 * 1024
"""Most bytes of options believed of a packet block that is longer than a window."""

MORE, SECTION, INTERFACE, OTHER_LINK = range(4)
"""Why :func:`index_blocks` came back: it needs another window (or rows), or what lies at the position is a
section header, an interface description, or a packet of another link type."""

DECIMAL, COARSE_DECIMAL, BINARY = range(3)

INTERFACES = np.dtype(
    [
        ("link_type", "<i8"),
        ("snap_bytes", "<i8"),  # 0: no limit
        ("unit", "<i8"),  # of timestamps: DECIMAL, COARSE_DECIMAL or BINARY
        ("scale", "<u8"),  # nanoseconds per tick; ticks per nanosecond; or n of a tick of 2**-n seconds
        ("offset_ns", "<i8"),  # added to each timestamp
    ]
)
"""One row per interface of the present section."""

BLOCKS = np.dtype(
    [
        ("swapped", "<i8"),  # 1: the section's byte order is not this machine's (little endian)
        ("interfaces", "<i8"),  # rows used in INTERFACES
        ("link_type", "<i8"),  # of the packets indexed so far in this segment, -1 when there are none
        ("limit_bytes", "<i8"),  # most bytes that a sound packet captures
        ("last_ns", "<i8"),  # timestamp of the last packet, for packets that have none
        ("search", "<i8"),  # 1: search for a sound block behind damage, 0: the file ends there
        ("track", "<i8"),  # ON_TRACK, SEARCHING or ENDED
    ]
)
"""Where the walk is; one row."""


@lean_kernel
def index_blocks(
    buffer: Bytes,
    start: int,
    available: int,
    final: bool,
    rows: Rows,
    count: int,
    interfaces: Rows,
    state: Rows,
    counts: Counts,
) -> tuple[int, int, int]:
    """Index the blocks of a window, from byte ``start`` and row ``count`` on.

    Other arguments as for :func:`streamspec.sources.pcap_kernels.index_records`.

    Returns:
        Rows used, bytes used up (may lie past the window), and why it came back.
    """
    walk = state[0]
    at = start
    while count < rows.shape[0] and walk.track != ENDED:
        if walk.track == SEARCHING:
            found = find_block(buffer, at, available, final, state)
            counts[MALFORMED_BYTES] += found - at
            at = found
            if walk.track == SEARCHING:
                break
        left = available - at
        if left < SMALLEST_BLOCK_BYTES:
            if final and left > 0:
                counts[TRUNCATED_RECORD] += 1
                at = available
            break
        swapped = walk.swapped != 0
        kind, total = u32(buffer, at, swapped), u32(buffer, at + 4, swapped)
        if kind == SECTION_HEADER:
            return count, at, SECTION
        if is_damaged(buffer, at, total, left, swapped):
            counts[MALFORMED_BLOCK] += 1
            at += leave_track(state, counts)
            continue
        if total > left and not final and (at > 0 or available < buffer.shape[0]):
            break  # a window that begins here shows the whole block
        if kind == INTERFACE_DESCRIPTION:
            return count, at, INTERFACE
        if kind in (ENHANCED_PACKET, SIMPLE_PACKET, OBSOLETE_PACKET):
            if changes_link(buffer, at, kind, interfaces, state):
                return count, at, OTHER_LINK
            count += take_packet(buffer, at, available, final, rows[count], interfaces, state, counts)
        elif total > left and final:
            counts[TRUNCATED_RECORD] += 1
        at += total
    return count, at, MORE


@inlined_kernel
def leave_track(state: Rows, counts: Counts) -> int:
    """There is damage: search behind it, or end. Returns the bytes to pass over."""
    walk = state[0]
    counts[MALFORMED_BYTES] += 4
    walk.track = SEARCHING if walk.search else ENDED
    return 4


@inlined_kernel
def length_is_sound(total: int) -> bool:
    """Whether this can be the length of a block."""
    return SMALLEST_BLOCK_BYTES <= total <= LARGEST_BLOCK_BYTES and total & 3 == 0


@inlined_kernel
def is_damaged(buffer: Bytes, at: int, total: int, left: int, swapped: bool) -> bool:
    """Whether the length in front cannot be right. The one behind tells, if it is in the window; if not, the
    length of the packet does, since a block that is wrongly believed to be long hides all that follows."""
    if not length_is_sound(total):
        return True
    if total <= left:
        return u32(buffer, at + total - 4, swapped) != total
    kind = u32(buffer, at, swapped)
    if kind in (ENHANCED_PACKET, OBSOLETE_PACKET) and left >= 28:
        return total > u32(buffer, at + 20, swapped) + 32 + LARGEST_OPTIONS_BYTES
    return kind == SIMPLE_PACKET and total > u32(buffer, at + 8, swapped) + 16 + 3


@inlined_kernel
def interface_of(buffer: Bytes, at: int, kind: int, swapped: bool) -> int:
    """Index of the interface that a packet block names."""
    if kind == SIMPLE_PACKET:
        return 0
    if kind == ENHANCED_PACKET:
        return u32(buffer, at + 8, swapped)
    b0, b1 = int64(buffer[at + 8]), int64(buffer[at + 9])
    return b0 << 8 | b1 if swapped else b1 << 8 | b0


@inlined_kernel
def changes_link(buffer: Bytes, at: int, kind: int, interfaces: Rows, state: Rows) -> bool:
    """Whether a packet block's interface has another link type than the segment; the first one decides it."""
    walk = state[0]
    index = interface_of(buffer, at, kind, walk.swapped != 0)
    if index >= walk.interfaces:
        return False
    link_type = interfaces[index].link_type
    if walk.link_type < 0:
        walk.link_type = link_type
    return int64(walk.link_type) != int64(link_type)


@lean_kernel
def take_packet(
    buffer: Bytes,
    at: int,
    available: int,
    final: bool,
    row: Record,
    interfaces: Rows,
    state: Rows,
    counts: Counts,
) -> int:
    """Fill ``row`` from the packet block at ``at``; 1 when there was a packet to take."""
    walk = state[0]
    swapped = walk.swapped != 0
    kind, total = u32(buffer, at, swapped), u32(buffer, at + 4, swapped)
    header = 12 if kind == SIMPLE_PACKET else 28
    if total < header + 4:
        counts[MALFORMED_RECORD] += 1
        return 0
    room = available - at - header
    if room < 0:
        counts[TRUNCATED_RECORD] += 1
        return 0
    index = interface_of(buffer, at, kind, swapped)
    if index >= walk.interfaces:
        counts[UNKNOWN_INTERFACE] += 1
        return 0
    interface = interfaces[index]
    most = total - header - 4
    if kind == SIMPLE_PACKET:
        wire = u32(buffer, at + 8, swapped)
        captured = min(wire, most)
        if interface.snap_bytes > 0:
            captured = min(captured, interface.snap_bytes)
    else:
        captured, wire = u32(buffer, at + 20, swapped), u32(buffer, at + 24, swapped)
        high, low = u32(buffer, at + 12, swapped), u32(buffer, at + 16, swapped)
        walk.last_ns = nanoseconds(high, low, interface)
    if captured > most or captured > walk.limit_bytes:
        counts[MALFORMED_RECORD] += 1
        return 0
    flags = 0
    if captured > room:
        counts[TRUNCATED_RECORD if final else OVERSIZED] += 1
        flags = PACKET_TRUNCATED
    elif final and total > room + header:
        counts[TRUNCATED_RECORD] += 1  # only what follows the packet is missing
    put_packet(row, walk.last_ns, at + header, min(captured, room), wire, flags)
    return 1


@inlined_kernel
def nanoseconds(high: int, low: int, interface: Record) -> int:
    """A timestamp in nanoseconds since 1970 from its two halves; absurd ones wrap around."""
    ticks = np.uint64(high) << np.uint64(32) | np.uint64(low)
    billion = np.uint64(NANOSECONDS)
    scale = np.uint64(interface.scale)
    if interface.unit == DECIMAL:
        whole = ticks * scale
    elif interface.unit == COARSE_DECIMAL:
        whole = ticks // scale
    else:
        # Seconds, and the rest in two halves, so that no product needs more than 64 bits.
        seconds = ticks >> scale
        rest = ticks & ((np.uint64(1) << scale) - np.uint64(1))
        if scale <= np.uint64(32):
            whole = seconds * billion + (rest * billion >> scale)
        else:
            low_bits = scale - np.uint64(32)
            rest_low = (rest & ((np.uint64(1) << low_bits) - np.uint64(1))) * billion >> low_bits
            whole = seconds * billion + ((rest >> low_bits) * billion + rest_low >> np.uint64(32))
    return int64(whole) + int64(interface.offset_ns)


@lean_kernel
def find_block(buffer: Bytes, start: int, available: int, final: bool, state: Rows) -> int:
    """Search in steps of four bytes for a block of a known kind whose two lengths agree.

    Returns where it begins, back on track; or how far the search got, still searching.
    """
    walk = state[0]
    swapped = walk.swapped != 0
    at = start
    while at + SMALLEST_BLOCK_BYTES <= available:
        kind, total = u32(buffer, at, swapped), u32(buffer, at + 4, swapped)
        if kind == SECTION_HEADER:
            magic = u32(buffer, at + 8, False)
            if magic == 0x1A2B3C4D or magic == 0x4D3C2B1A:
                walk.track = ON_TRACK
                return at
        elif 0 < kind < 16 and length_is_sound(total):
            if at + total <= available:
                if u32(buffer, at + total - 4, swapped) == total:
                    walk.track = ON_TRACK
                    return at
            elif at > 0 and not final:
                return at  # the next window begins here and shows the whole block
        at += 4
    return available if final else at
