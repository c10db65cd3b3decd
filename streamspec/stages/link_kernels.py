"""Kernels that walk link layers: from the first byte of a packet, or of what a tunnel carries, to IP.

A position in a packet is described by ``(kind, at)``: which header begins at byte ``at``. Kinds are
EtherTypes, and the numbers above 16 bits below for headers that no EtherType announces. ``end`` is the
first byte that must not be read. Negative kinds are errors: minus a status of ``decoded``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import inlined_kernel
from streamspec.core.words import load_be16 as be16
from streamspec.core.words import load_be32 as be32
from streamspec.stages.decoded import (
    LINK_HEADERS_TOO_DEEP,
    NOT_IP,
    TRUNCATED_LINK_HEADER,
    UNKNOWN_LINK_TYPE,
)

IPV4 = 0x0800
IPV6 = 0x86DD
ETHERNET = 0x6558  # "transparent Ethernet bridging" announces an Ethernet header
MPLS = 0x8847
MPLS_UPSTREAM = 0x8848
PPPOE_SESSION = 0x8864
PPP_IN_GRE = 0x880B
VLAN = 0x8100
VLAN_SERVICE = 0x88A8  # IEEE 802.1ad, "QinQ"
VLAN_9100 = 0x9100  # QinQ before the standard
VLAN_9200 = 0x9200
ERSPAN_2 = 0x88BE
ERSPAN_3 = 0x22EB
PPP = 0x10001
LLC = 0x10002
RAW_IP = 0x10003  # version in the first four bits

SMALLEST_ETHERTYPE = 0x0600  # below it is the length of an IEEE 802.3 frame

int64 = cast(Callable[[Any], int], np.int64)
"""Makes what is read from an array a signed number: numba's ``int`` would keep it unsigned, and signed
and unsigned numbers that meet in one variable become floating point."""

MAX_LINK_HEADERS = 12
MAX_MPLS_LABELS = 24


@inlined_kernel
def first_header(buffer: Bytes, at: int, end: int, link_type: int) -> tuple[int, int]:
    """What a packet of this link type (LINKTYPE registry of tcpdump.org) begins with."""
    if link_type == 1:
        return ETHERNET, at
    if link_type in (12, 14, 101):
        return RAW_IP, at
    if link_type == 228:
        return IPV4, at
    if link_type == 229:
        return IPV6, at
    if link_type in (0, 108):
        return _loopback(buffer, at, end)
    if link_type == 113:
        return _cooked(buffer, at, end, 14, 16)
    if link_type == 276:
        return _cooked(buffer, at, end, 0, 20)
    if link_type in (9, 50, 104):
        return _serial(buffer, at, end, link_type)
    return -UNKNOWN_LINK_TYPE, at


@inlined_kernel
def _loopback(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """Address family in four bytes, in the byte order of the host that captured (NULL) or big-endian (LOOP)."""
    if at + 4 > end:
        return -TRUNCATED_LINK_HEADER, at
    family = be32(buffer, at)
    if family > 0xFFFF:
        family = int64(buffer[at]) | (int64(buffer[at + 1]) << 8)
    if family == 2:
        return IPV4, at + 4
    # AF_INET6: Linux 10, Windows 23, NetBSD and OpenBSD 24, FreeBSD 28, Darwin 30
    if family in (10, 23, 24, 28, 30):
        return IPV6, at + 4
    return -NOT_IP, at


@inlined_kernel
def _cooked(buffer: Bytes, at: int, end: int, protocol_at: int, header_bytes: int) -> tuple[int, int]:
    """Linux "cooked" captures: an EtherType, or a small number for frames without one."""
    if at + header_bytes > end:
        return -TRUNCATED_LINK_HEADER, at
    protocol = be16(buffer, at + protocol_at)
    if protocol >= SMALLEST_ETHERTYPE:
        return protocol, at + header_bytes
    if protocol == 4:  # LINUX_SLL_P_802_2
        return LLC, at + header_bytes
    return -NOT_IP, at


@inlined_kernel
def _serial(buffer: Bytes, at: int, end: int, link_type: int) -> tuple[int, int]:
    """PPP (9), PPP in HDLC framing or Cisco HDLC (50), Cisco HDLC (104)."""
    if link_type == 9:
        return PPP, at
    if at + 4 > end:
        return -TRUNCATED_LINK_HEADER, at
    if link_type == 50 and buffer[at] == 0xFF:
        return PPP, at
    return be16(buffer, at + 2), at + 4


@inlined_kernel
def find_ip(buffer: Bytes, kind: int, at: int, end: int, vlan: int) -> tuple[int, int, int]:
    """Walk link headers until IP. ``vlan`` is kept unless it is 0. Returns ``(kind, at, vlan)`` with kind
    ``IPV4``, ``IPV6`` or an error."""
    for _ in range(MAX_LINK_HEADERS):
        if kind in (IPV4, IPV6) or kind < 0:
            return kind, at, vlan
        if kind == ETHERNET:
            if at + 14 > end:
                return -TRUNCATED_LINK_HEADER, at, vlan
            kind = _type_or_length(be16(buffer, at + 12))
            at += 14
        elif kind in (VLAN, VLAN_SERVICE, VLAN_9100, VLAN_9200):
            if at + 4 > end:
                return -TRUNCATED_LINK_HEADER, at, vlan
            if vlan == 0:
                vlan = be16(buffer, at) & 0xFFF
            kind = _type_or_length(be16(buffer, at + 2))
            at += 4
        else:
            kind, at = _open_link_header(buffer, kind, at, end)
    return -LINK_HEADERS_TOO_DEEP, at, vlan


@inlined_kernel
def _type_or_length(value: int) -> int:
    return value if value >= SMALLEST_ETHERTYPE else LLC


@inlined_kernel
def _open_link_header(buffer: Bytes, kind: int, at: int, end: int) -> tuple[int, int]:
    """The rarer headers."""
    if kind == RAW_IP:
        return _by_version(buffer, at, end)
    if kind in (MPLS, MPLS_UPSTREAM):
        return _mpls(buffer, at, end)
    if kind == PPPOE_SESSION:  # version and type, code, session, length (RFC 2516)
        if at + 6 > end:
            return -TRUNCATED_LINK_HEADER, at
        return PPP, at + 6
    if kind in (PPP, PPP_IN_GRE):
        return _ppp(buffer, at, end)
    if kind == LLC:
        return _llc(buffer, at, end)
    return -NOT_IP, at


@inlined_kernel
def _by_version(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        return -TRUNCATED_LINK_HEADER, at
    version = buffer[at] >> 4
    if version == 4:
        return IPV4, at
    if version == 6:
        return IPV6, at
    return -NOT_IP, at


@inlined_kernel
def _mpls(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """A label stack (RFC 3032). What follows is not announced: IP by its version, else an Ethernet
    pseudowire, with a control word when it begins with zeros (RFC 4385)."""
    for _ in range(MAX_MPLS_LABELS):
        if at + 4 > end:
            return -TRUNCATED_LINK_HEADER, at
        bottom = buffer[at + 2] & 1
        at += 4
        if bottom:
            break
    else:
        return -LINK_HEADERS_TOO_DEEP, at
    kind, at = _by_version(buffer, at, end)
    if kind != -NOT_IP:
        return kind, at
    if at + 2 <= end and be16(buffer, at) == 0:
        at += 4
    return ETHERNET, at


@inlined_kernel
def _ppp(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """Optional address and control FF 03, then the protocol in one (odd) or two bytes (RFC 1661, 1662)."""
    if at + 2 > end:
        return -TRUNCATED_LINK_HEADER, at
    if buffer[at] == 0xFF and buffer[at + 1] == 0x03:
        at += 2
        if at + 2 > end:
            return -TRUNCATED_LINK_HEADER, at
    if buffer[at] & 1:
        protocol = int64(buffer[at])
        at += 1
    else:
        protocol = be16(buffer, at)
        at += 2
    if protocol == 0x0021:
        return IPV4, at
    if protocol == 0x0057:
        return IPV6, at
    if protocol in (0x0281, 0x0283):
        return MPLS, at
    return -NOT_IP, at


@inlined_kernel
def _llc(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """IEEE 802.2: IP, or SNAP with an EtherType (RFC 1042)."""
    if at + 3 > end:
        return -TRUNCATED_LINK_HEADER, at
    access_points = be16(buffer, at)
    if access_points == 0x0606:
        return IPV4, at + 3
    if access_points != 0xAAAA or at + 8 > end:
        return -NOT_IP, at
    if buffer[at + 3] or buffer[at + 4] or buffer[at + 5]:  # an organisation's own protocol numbers
        return -NOT_IP, at
    kind = be16(buffer, at + 6)
    return (kind if kind >= SMALLEST_ETHERTYPE else -NOT_IP), at + 8


@inlined_kernel
def open_gre(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """GRE (RFC 1701, 2784, 2890), version 1 with PPP (RFC 2637), and ERSPAN.

    Returns what is inside, or kind 0 when that cannot be followed.
    """
    if at + 4 > end:
        return 0, at
    flags = be16(buffer, at)
    kind = be16(buffer, at + 2)
    at += 4
    if flags & 0xC000:  # checksum or routing: checksum and offset are both there
        at += 4
    if flags & 0x2000:
        at += 4
    if flags & 0x1000:
        at += 4
    if flags & 0x0007 == 1 and flags & 0x0080:
        at += 4
    if flags & 0x4000:
        at = _after_routing(buffer, at, end)
    if at >= end or at < 0:  # a bare acknowledgement of version 1, or cut off
        return 0, at
    if kind in (ERSPAN_2, ERSPAN_3):
        return _open_erspan(buffer, kind, at, end, flags & 0x1000 != 0)
    return (kind if kind >= SMALLEST_ETHERTYPE else 0), at


@inlined_kernel
def _after_routing(buffer: Bytes, at: int, end: int) -> int:
    """Skip source route entries (RFC 1701): family, offset, length; an empty one ends the list."""
    for _ in range(16):
        if at + 4 > end:
            return -1
        length = int64(buffer[at + 3])
        if be16(buffer, at) == 0 and length == 0:
            return at + 4
        at += 4 + length
    return -1


@inlined_kernel
def _open_erspan(buffer: Bytes, kind: int, at: int, end: int, sequenced: bool) -> tuple[int, int]:
    """Mirrored Ethernet: type I has no header of its own, II has 8 bytes, III has 12 and an optional 8."""
    if kind == ERSPAN_2:
        return ETHERNET, (at + 8 if sequenced else at)
    if at + 12 > end:
        return 0, at
    return ETHERNET, (at + 20 if buffer[at + 11] & 1 else at + 12)


@inlined_kernel
def open_vxlan(buffer: Bytes, at: int, end: int) -> tuple[int, int]:
    """VXLAN (RFC 7348): eight bytes with the I flag set and the reserved flags clear, then Ethernet."""
    if at + 8 > end or buffer[at] & 0x08 == 0:
        return 0, at
    return ETHERNET, at + 8
