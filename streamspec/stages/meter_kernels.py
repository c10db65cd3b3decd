"""The worker's kernel of ``meter``: one ``DELTA`` per flow of a segment, from the rows of ``decode``.

A packet of the same flow as the one before it costs a comparison of five words; others are found by the
hash that ``decode`` computed, in a table that is as small as the segment and is never cleared: a slot is
valid when it carries the number of the present segment (``generation``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Rows
from streamspec.core.jit import inlined_kernel
from streamspec.stages.flow_rows import NEVER_FIRST, NEVER_LAST, TCP_ACK, TCP_SYN
from streamspec.stages.link_kernels import int64

INDEX_BITS = 24
"""A slot is ``generation << INDEX_BITS | index of the delta``; so many packets a segment may have."""
_INDEX_MASK = (1 << INDEX_BITS) - 1
MAX_PROBES = 16

_TCP = 6
_ICMP = 1
_ICMPV6 = 58
_16 = np.uint64(16)
_32 = np.uint64(32)
_40 = np.uint64(40)
_48 = np.uint64(48)


@inlined_kernel
def aggregate(
    rows: Rows,
    packets: Rows,
    idle_ns: int,
    span_ns: int,
    vlan_in_key: bool,
    generation: int,
    slots: npt.NDArray[np.int64],
    deltas: Rows,
) -> int:
    """Sum a segment up by flow.

    Args:
        rows: ``DECODED``; rows without an IP header are passed over.
        packets: ``PACKET`` rows of the same packets, for their time.
        idle_ns: a longer pause begins another delta.
        span_ns: a delta covers no more time than this, so that the reducer can keep to the active timeout.
        vlan_in_key: flows of different VLANs are kept apart.
        generation: another number than in the calls before, above 0.
        slots: table, ``int64``, a power of two of at least ``2 * len(rows)`` long; kept between calls.
        deltas: rows to write, at least ``len(rows)``.

    Returns:
        Number of deltas. Deltas of one flow are in order of time; there are several where a pause, the
        span, or a new connection (a SYN without ACK) divides them.
    """
    mask = len(slots) - 1
    count = 0
    index = -1
    position = 0
    for i in range(len(rows)):
        row = rows[i]
        if row["ip_version"] == 0:
            continue
        timestamp_ns = int64(packets[i]["timestamp_ns"])
        direction, a_head, a_tail, b_head, b_tail, transport = flow_key(row, vlan_in_key)
        if index < 0 or not _same(deltas[index], a_head, a_tail, b_head, b_tail, transport):
            position = int64(row["flow_hash"]) & mask
            index = -1
            for _ in range(MAX_PROBES):
                slot = slots[position]
                if slot >> INDEX_BITS != generation:
                    break
                found = slot & _INDEX_MASK
                if _same(deltas[found], a_head, a_tail, b_head, b_tail, transport):
                    index = found
                    break
                # after the last probe the slot is taken over: its flow begins a second delta, no more
                position = (position + 1) & mask
        opening = row["protocol"] == _TCP and row["tcp_flags"] & (TCP_SYN | TCP_ACK) == TCP_SYN
        if index < 0 or opening or _divides(deltas[index], timestamp_ns, idle_ns, span_ns):
            index = count
            count += 1
            slots[position] = (generation << INDEX_BITS) | index
            delta = deltas[index]
            delta["a_head"] = a_head
            delta["a_tail"] = a_tail
            delta["b_head"] = b_head
            delta["b_tail"] = b_tail
            delta["transport"] = transport
            _begin(delta, opening)
        _add(deltas[index], row, direction, timestamp_ns)
    return count


@inlined_kernel
def flow_key(row: Any, vlan_in_key: bool) -> tuple[int, Any, Any, Any, Any, np.uint64]:
    """``(direction, a_head, a_tail, b_head, b_tail, transport)``, see ``flow_rows``. Selections, not
    branches: which side sends is as good as random to the processor."""
    source_head = row["source_head"]
    source_tail = row["source_tail"]
    destination_head = row["destination_head"]
    destination_tail = row["destination_tail"]
    source_port = np.uint64(row["source_port"])
    destination_port = np.uint64(row["destination_port"])
    swap = (source_head > destination_head) | (
        (source_head == destination_head)
        & ((source_tail > destination_tail) | ((source_tail == destination_tail) & (source_port > destination_port)))
    )
    a_head = destination_head if swap else source_head
    a_tail = destination_tail if swap else source_tail
    b_head = source_head if swap else destination_head
    b_tail = source_tail if swap else destination_tail
    a_port = destination_port if swap else source_port
    b_port = source_port if swap else destination_port
    transport = a_port | (b_port << _16) | (np.uint64(row["protocol"]) << _32) | (np.uint64(row["ip_version"]) << _40)
    if vlan_in_key:
        transport |= np.uint64(row["vlan"]) << _48
    return int64(swap), a_head, a_tail, b_head, b_tail, transport


@inlined_kernel
def _same(delta: Any, a_head: Any, a_tail: Any, b_head: Any, b_tail: Any, transport: np.uint64) -> bool:
    differs = (
        (delta["a_tail"] ^ a_tail)
        | (delta["b_tail"] ^ b_tail)
        | (delta["transport"] ^ transport)
        | (delta["a_head"] ^ a_head)
        | (delta["b_head"] ^ b_head)
    )
    return bool(differs == 0)


@inlined_kernel
def _divides(delta: Any, timestamp_ns: int, idle_ns: int, span_ns: int) -> bool:
    first_ns = min(int64(delta["first_ns"][0]), int64(delta["first_ns"][1]))
    last_ns = max(int64(delta["last_ns"][0]), int64(delta["last_ns"][1]))
    if timestamp_ns - last_ns > idle_ns or first_ns - timestamp_ns > idle_ns:
        return True
    return max(last_ns, timestamp_ns) - min(first_ns, timestamp_ns) > span_ns


@inlined_kernel
def _begin(delta: Any, opening: bool) -> None:
    for side in range(2):
        delta["octets"][side] = 0
        delta["packets"][side] = 0
        delta["tcp_flags"][side] = 0
        delta["first_ns"][side] = NEVER_FIRST
        delta["last_ns"][side] = NEVER_LAST
    delta["opening"] = opening


@inlined_kernel
def _add(delta: Any, row: Any, direction: int, timestamp_ns: int) -> None:
    protocol = row["protocol"]
    if timestamp_ns < min(int64(delta["first_ns"][0]), int64(delta["first_ns"][1])):
        delta["icmp_type_code"] = row["icmp_type_code"] if protocol in (_ICMP, _ICMPV6) else 0
        delta["vlan"] = row["vlan"]
        delta["initiator"] = direction
    delta["packets"][direction] += 1
    delta["octets"][direction] += row["ip_bytes"]
    delta["first_ns"][direction] = min(int64(delta["first_ns"][direction]), timestamp_ns)
    delta["last_ns"][direction] = max(int64(delta["last_ns"][direction]), timestamp_ns)
    if protocol == _TCP:
        delta["tcp_flags"][direction] |= row["tcp_flags"]
