"""Compiled half of the ``af_packet`` source: packets of a TPACKET_V3 ring go into a slot, tightly packed.

The kernel fills blocks of the ring and hands each over by a word of status; here a block is walked, its
packets are copied, and it is given back. Layout: <linux/if_packet.h>, ``tpacket_block_desc`` and
``tpacket3_hdr``; all words are in the machine's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from streamspec.core.copying import copy_bytes
from streamspec.core.interfaces import Bytes, Counts, Rows
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.core.segment import PACKET_TRUNCATED
from streamspec.sources.pcap_kernels import int64, put_packet

Words = npt.NDArray[np.uint32]
Halves = npt.NDArray[np.uint16]

WALK = np.dtype(
    [
        ("block_bytes", "<i8"),
        ("blocks", "<i8"),
        ("skip_outgoing", "<i8"),  # 1: leave out what this host sends
        ("ethernet", "<i8"),  # 1: VLAN tags belong behind two addresses of six bytes
        ("block", "<i8"),  # number of the block that is read next
        ("packet", "<i8"),  # byte in the ring of the next packet, 0 when the block is not begun
        ("left", "<i8"),  # packets left in the block
        ("budget", "<i8"),  # blocks that may still be finished
        ("oversized", "<i8"),  # packets cut because they were longer than a slot
    ]
)
"""Where in the ring the reader is; one row."""

NOTHING, FULL, ENOUGH = range(3)
"""Why :func:`take_packets` came back: no block is ready, the slot is full, or the budget is spent."""

# Words of a block: version, offset of private bytes, status, packets, offset of the first packet.
STATUS_WORD, PACKETS_WORD, FIRST_WORD = 2, 3, 4
STATUS_KERNEL, STATUS_USER = 0, 1
# Words of a packet: next offset, seconds, nanoseconds, captured, on the wire, status, ..., VLAN.
NANOSECOND_WORD, CAPTURED_WORD, WIRE_WORD, PACKET_STATUS_WORD, VLAN_WORD = 2, 3, 4, 5, 8
MAC_HALF, TPID_HALF = 12, 18
ADDRESS_BYTES = 48
"""Where in a packet its ``sockaddr_ll`` begins."""
PACKET_TYPE_BYTE = ADDRESS_BYTES + 10
PACKET_OUTGOING = 4
VLAN_VALID, VLAN_TPID_VALID = 1 << 4, 1 << 6
VLAN_TAG_BYTES = 4
ETHERNET_ADDRESSES_BYTES = 12
NANOSECONDS = 1_000_000_000


def _fence(typing_context: Any) -> Any:
    """Nothing is read or written earlier, or later, than it stands in the code, as seen by other processors."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


fence: Any = intrinsic(_fence)


@lean_kernel
def take_packets(
    ring: Bytes,
    words: Words,
    halves: Halves,
    walk_row: Rows,
    payload: Bytes,
    room_bytes: int,
    rows: Rows,
    used: Counts,
) -> int:
    """Copy packets from the ring into a slot until it is full or no block is ready.

    Args:
        ring: the mapping; ``words`` and ``halves`` are the same memory.
        walk_row: ``WALK``, one row.
        payload, rows: the slot's.
        room_bytes: payload bytes at which the slot is full.
        used: payload bytes and rows used so far, changed here.

    Returns:
        ``NOTHING``, ``FULL`` or ``ENOUGH``.
    """
    walk = walk_row[0]
    length, count = used[0], used[1]
    why = ENOUGH
    while walk.budget > 0:
        block = walk.block * walk.block_bytes
        if walk.packet == 0:
            if not words[(block >> 2) + STATUS_WORD] & np.uint32(STATUS_USER):
                why = NOTHING
                break
            fence()
            walk.left = words[(block >> 2) + PACKETS_WORD]
            walk.packet = block + words[(block >> 2) + FIRST_WORD]
        while walk.left > 0:
            at = walk.packet
            if not (walk.skip_outgoing and ring[at + PACKET_TYPE_BYTE] == PACKET_OUTGOING):
                size = packet_bytes(words, at, walk.ethernet)
                if count == rows.shape[0] or (count > 0 and length + size > room_bytes):
                    why = FULL
                    break
                if length + size > payload.shape[0]:
                    walk.oversized += 1
                length += copy_packet(ring, words, halves, at, walk.ethernet, payload, length, rows, count)
                count += 1
            walk.packet += words[at >> 2]
            walk.left -= 1
        if why == FULL:
            break
        walk.packet = 0
        walk.block = walk.block + 1 if walk.block + 1 < walk.blocks else 0
        fence()
        words[(block >> 2) + STATUS_WORD] = STATUS_KERNEL
        walk.budget -= 1
    used[0], used[1] = length, count
    return why


@inlined_kernel
def packet_bytes(words: Words, at: int, ethernet: int) -> int:
    """Captured bytes, with the VLAN tag that the kernel has taken out."""
    word = at >> 2
    size = int64(words[word + CAPTURED_WORD])
    if ethernet and words[word + PACKET_STATUS_WORD] & np.uint32(VLAN_VALID) and size >= ETHERNET_ADDRESSES_BYTES:
        size += VLAN_TAG_BYTES
    return size


@inlined_kernel
def copy_packet(
    ring: Bytes,
    words: Words,
    halves: Halves,
    at: int,
    ethernet: int,
    payload: Bytes,
    length: int,
    rows: Rows,
    count: int,
) -> int:
    """Copy one packet behind the others and fill its row. Returns its bytes, cut to what fits."""
    word = at >> 2
    captured = int64(words[word + CAPTURED_WORD])
    wire = int64(words[word + WIRE_WORD])
    source = at + int64(halves[(at >> 1) + MAC_HALF])
    tagged = packet_bytes(words, at, ethernet)
    tag = tagged - captured
    size = int64(min(tagged, payload.shape[0] - length))
    if tag and size >= ETHERNET_ADDRESSES_BYTES + VLAN_TAG_BYTES:
        copy_bytes(payload, length, ring, source, ETHERNET_ADDRESSES_BYTES)
        put_tag(words, halves, at, payload, length + ETHERNET_ADDRESSES_BYTES)
        behind = length + ETHERNET_ADDRESSES_BYTES + VLAN_TAG_BYTES
        rest = size - ETHERNET_ADDRESSES_BYTES - VLAN_TAG_BYTES
        copy_bytes(payload, behind, ring, source + ETHERNET_ADDRESSES_BYTES, rest)
    else:
        copy_bytes(payload, length, ring, source, min(size, captured))
        size = min(size, captured)
    timestamp_ns = int64(words[word + 1]) * NANOSECONDS + int64(words[word + NANOSECOND_WORD])
    flags = PACKET_TRUNCATED if size < wire + tag else 0
    put_packet(rows[count], timestamp_ns, length, size, wire + tag, flags)
    return size


@inlined_kernel
def put_tag(words: Words, halves: Halves, at: int, payload: Bytes, to: int) -> None:
    """Write the VLAN tag of a packet in network order; IEEE 802.1Q unless the kernel says which."""
    tpid = int64(0x8100)
    if words[(at >> 2) + PACKET_STATUS_WORD] & np.uint32(VLAN_TPID_VALID):
        tpid = int64(halves[(at >> 1) + TPID_HALF])
    tci = int64(words[(at >> 2) + VLAN_WORD])
    payload[to] = tpid >> 8 & 0xFF
    payload[to + 1] = tpid & 0xFF
    payload[to + 2] = tci >> 8 & 0xFF
    payload[to + 3] = tci & 0xFF
