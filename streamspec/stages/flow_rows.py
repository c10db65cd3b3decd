"""Rows of the flow meter: ``DELTA`` from workers to the reducer, ``FLOW`` in the table and in its exports.

A flow is keyed by its two end points in a fixed order, so that both directions meet in one row: end point
``a`` is the one whose (address, port) compares smaller. Columns with two values are indexed by direction,
0 for packets from ``a`` to ``b`` and 1 for packets from ``b`` to ``a``; which of them is *forward* (sent by
the initiator) is decided when a record is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.core.interfaces import Rows

_KEY: list[tuple[str, Any, int]] = [
    ("a_head", "<u8", 0),  # first eight bytes of the address, as they lie in memory
    ("a_tail", "<u8", 8),
    ("b_head", "<u8", 16),
    ("b_tail", "<u8", 24),
    ("transport", "<u8", 32),  # the next five columns in one word
    ("a_port", "<u2", 32),
    ("b_port", "<u2", 34),
    ("protocol", "u1", 36),
    ("ip_version", "u1", 37),
    ("key_vlan", "<u2", 38),  # VLAN, where it is part of the key; else 0
    ("a_address", ("u1", (16,)), 0),
    ("b_address", ("u1", (16,)), 16),
]
_COUNTERS: list[tuple[str, Any, int]] = [
    ("octets", ("<u8", (2,)), 40),  # total length of IP packets
    ("first_ns", ("<i8", (2,)), 56),  # NEVER_FIRST when there was no packet in that direction
    ("last_ns", ("<i8", (2,)), 72),
]


def _dtype(columns: list[tuple[str, Any, int]], itemsize: int) -> np.dtype[np.void]:
    names, formats, offsets = zip(*columns, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize})


DELTA = _dtype(
    [
        *_KEY,
        *_COUNTERS,
        ("packets", ("<u4", (2,)), 88),
        ("tcp_flags", ("<u2", (2,)), 96),  # union over the packets
        ("icmp_type_code", "<u2", 100),  # of the earliest packet
        ("vlan", "<u2", 102),  # of the earliest packet
        ("initiator", "u1", 104),  # direction of the earliest packet
        ("opening", "u1", 105),  # the first packet is a SYN without ACK: a connection begins here
    ],
    112,
)
"""Packets of one flow within one segment."""

FLOW = _dtype(
    [
        *_KEY,
        *_COUNTERS,
        ("packets", ("<u8", (2,)), 88),
        ("tcp_flags", ("<u2", (2,)), 104),
        ("icmp_type_code", "<u2", 108),
        ("vlan", "<u2", 110),
        ("initiator", "u1", 112),
        ("continued", "u1", 113),  # an earlier record was cut by the active timeout; the initiator stays
        ("ended", "u1", 114),  # FIN from both sides or RST: waits in the list of ended flows
        ("reason", "u1", 115),  # flowEndReason, set when exported
        ("touched_ns", "<i8", 120),  # stream time when it last had packets
    ],
    128,
)
"""One flow, two cache lines."""

NEVER_FIRST = 2**63 - 1
NEVER_LAST = -(2**63)
"""Neutral to minimum and maximum."""

# flowEndReason, IANA IPFIX registry, element 136
IDLE_TIMEOUT = 1
ACTIVE_TIMEOUT = 2
END_OF_FLOW = 3
FORCED_END = 4
LACK_OF_RESOURCES = 5

TCP_FIN = 0x01
TCP_SYN = 0x02
TCP_RST = 0x04
TCP_ACK = 0x10


def aligned_zeros(rows: int, dtype: np.dtype[np.void]) -> Rows:
    """Zeroed rows that begin at a cache line. Memory is taken by the kernel when a row is first touched."""
    raw = np.zeros(rows * dtype.itemsize + 64, dtype=np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + rows * dtype.itemsize].view(dtype)
