"""The kernel of ``decode``: all packets of a segment in one call, one ``DECODED`` row each.

No byte outside ``packet.offset .. packet.offset + captured_bytes`` is read, whatever the packet says
about itself: each header is checked against ``end`` before it is looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Bytes, Rows
from streamspec.core.jit import inlined_kernel
from streamspec.core.words import load_be16 as be16
from streamspec.core.words import load_u32, load_u64
from streamspec.stages.decoded import (
    FRAGMENT_FORBIDDEN,
    FRAGMENT_LATER,
    FRAGMENT_MORE,
    IPV6_EXTENSIONS_TOO_DEEP,
    MALFORMED_IPV4_HEADER,
    MALFORMED_IPV6_HEADER,
    MALFORMED_TCP_HEADER,
    MALFORMED_TUNNEL,
    MALFORMED_UDP_HEADER,
    NOT_IP,
    OK,
    TRUNCATED_ICMP,
    TRUNCATED_IPV4_HEADER,
    TRUNCATED_IPV6_EXTENSION,
    TRUNCATED_IPV6_HEADER,
    TRUNCATED_SCTP,
    TRUNCATED_TCP,
    TRUNCATED_UDP,
    TUNNELS_TOO_DEEP,
)
from streamspec.stages.link_kernels import IPV4, IPV6, find_ip, first_header, int64, open_gre, open_vxlan

ICMP = 1
IP_IN_IP = 4
TCP = 6
DCCP = 33
UDP = 17
IPV6_IN_IP = 41
GRE = 47
ICMPV6 = 58
SCTP = 132
UDP_LITE = 136
VXLAN_PORT = 4789

MAX_TUNNELS = 3
MAX_EXTENSIONS = 8  # at most 2 KiB each, so that ``l3_offset`` fits into 16 bits at any depth

_MAPPED = np.uint64(0xFFFF0000)  # bytes 8..11 of ::ffff:a.b.c.d in a little-endian word
_MIX_1 = np.uint64(0x9E3779B97F4A7C15)
_MIX_2 = np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)


@inlined_kernel
def decode_packets(
    buffer: Bytes, packets: Rows, link_type: int, inner: bool, rows: Rows, counts: npt.NDArray[np.int64]
) -> int:
    """Fill ``rows[:len(packets)]`` from packets that lie in ``buffer``.

    Args:
        buffer: the segment, ``uint8``.
        packets: ``PACKET`` rows.
        link_type: of all packets.
        inner: describe the innermost packet of tunnels, else the outermost.
        rows: ``DECODED`` rows to write, at least as many as packets.
        counts: by status, ``int64``, shape ``(len(STATUS_NAMES),)``; added to.

    Returns:
        How many packets are not ``OK``.
    """
    unusual = 0
    size = len(buffer)
    for i in range(len(packets)):
        packet = packets[i]
        row = rows[i]
        start = int64(packet["offset"])
        captured_end = min(start + int64(packet["captured_bytes"]), size)
        wire_end = max(start + int64(packet["wire_bytes"]), captured_end)
        status = _decode_packet(buffer, start, captured_end, wire_end, link_type, inner, row)
        row["status"] = status
        if status != OK:
            unusual += 1
            counts[status] += 1
    counts[OK] += len(packets) - unusual
    return unusual


@inlined_kernel
def _clear(row: Any) -> None:
    """Of a packet without IP; with IP each column is written anyway."""
    row["source_head"] = 0
    row["source_tail"] = 0
    row["destination_head"] = 0
    row["destination_tail"] = 0
    row["flow_hash"] = 0
    row["payload_offset"] = 0
    row["payload_bytes"] = 0
    row["ip_bytes"] = 0
    row["l3_offset"] = 0
    row["source_port"] = 0
    row["destination_port"] = 0
    row["vlan"] = 0
    row["tcp_flags"] = 0
    row["ip_version"] = 0
    row["protocol"] = 0
    row["ttl"] = 0
    row["fragment"] = 0
    row["tunnel_depth"] = 0


@inlined_kernel
def _decode_packet(buffer: Bytes, start: int, end: int, wire_end: int, link_type: int, inner: bool, row: Any) -> int:
    """Describe one packet; returns its status.

    Each turn of the loop writes the row anew for a deeper IP packet, after its header proved sound, so
    that the row always describes the innermost sound one.
    """
    kind, at = first_header(buffer, start, end, link_type)
    cut = end < wire_end
    vlan = 0
    status = OK
    for depth in range(MAX_TUNNELS + 1):
        kind, at, vlan = find_ip(buffer, kind, at, end, vlan)
        if kind < 0:
            if depth == 0:
                _clear(row)
                return -kind
            status = status if kind == -NOT_IP else MALFORMED_TUNNEL
            break
        error, size = _check_ip(buffer, kind, at, end, wire_end)
        if error:
            if depth == 0:
                _clear(row)
                return error
            status = MALFORMED_TUNNEL
            break
        end = min(end, at + size)
        wire_end = at + size
        row["ip_bytes"] = size
        row["l3_offset"] = at - start
        row["vlan"] = vlan
        row["tunnel_depth"] = depth
        status, at = _write_ip(buffer, kind, at, end, row)
        if status == OK:
            status, at = _write_transport(buffer, at, end, cut, row)
        if not inner or status != OK or row["fragment"] & (FRAGMENT_MORE | FRAGMENT_LATER):
            break
        kind, at = _open_tunnel(buffer, at, end, row)
        if kind == 0:
            break
    else:
        status = TUNNELS_TOO_DEEP
    row["flow_hash"] = flow_hash(row)
    return status


@inlined_kernel
def _check_ip(buffer: Bytes, kind: int, at: int, end: int, wire_end: int) -> tuple[int, int]:
    """``(status, total length)`` of the IP header at ``at``.

    A total length of 0 is what a capture shows before the network card cuts a large segment (and, in
    IPv6, a jumbogram): the length on the wire counts then.
    """
    if kind == IPV4:
        if at + 20 > end:
            return TRUNCATED_IPV4_HEADER, 0
        header_bytes = (int64(buffer[at]) & 15) * 4
        size = be16(buffer, at + 2)
        if buffer[at] >> 4 != 4 or header_bytes < 20 or (size != 0 and size < header_bytes):
            return MALFORMED_IPV4_HEADER, 0
        if at + header_bytes > end:
            return TRUNCATED_IPV4_HEADER, 0
        return OK, (size if size else wire_end - at)
    if at + 40 > end:
        return TRUNCATED_IPV6_HEADER, 0
    if buffer[at] >> 4 != 6:
        return MALFORMED_IPV6_HEADER, 0
    size = be16(buffer, at + 4)
    if size == 0 and buffer[at + 6] != 59:  # 59: "no next header", really empty
        return OK, wire_end - at
    return OK, size + 40


@inlined_kernel
def _write_ip(buffer: Bytes, kind: int, at: int, end: int, row: Any) -> tuple[int, int]:
    """Addresses, protocol, fragment; returns ``(status, first byte after the IP headers)``."""
    row["source_port"] = 0
    row["destination_port"] = 0
    row["tcp_flags"] = 0
    if kind == IPV4:
        row["ip_version"] = 4
        row["source_head"] = 0
        row["source_tail"] = _MAPPED | (_native32(buffer, at + 12) << _32)
        row["destination_head"] = 0
        row["destination_tail"] = _MAPPED | (_native32(buffer, at + 16) << _32)
        row["ttl"] = buffer[at + 8]
        row["protocol"] = buffer[at + 9]
        word = be16(buffer, at + 6)
        # reserved, DF, MF, 13 bits of offset
        row["fragment"] = (
            ((word >> 13) & 1) * FRAGMENT_MORE
            + (FRAGMENT_LATER if word & 0x1FFF else 0)
            + ((word >> 14) & 1) * FRAGMENT_FORBIDDEN
        )
        return OK, at + (int64(buffer[at]) & 15) * 4
    row["ip_version"] = 6
    row["source_head"] = load_u64(buffer, at + 8)
    row["source_tail"] = load_u64(buffer, at + 16)
    row["destination_head"] = load_u64(buffer, at + 24)
    row["destination_tail"] = load_u64(buffer, at + 32)
    row["ttl"] = buffer[at + 7]
    status, protocol, at, fragment = _extensions(buffer, int64(buffer[at + 6]), at + 40, end)
    row["protocol"] = protocol
    row["fragment"] = fragment
    row["payload_offset"] = min(at, end)
    row["payload_bytes"] = max(end - at, 0)
    return status, at


@inlined_kernel
def _extensions(buffer: Bytes, protocol: int, at: int, end: int) -> tuple[int, int, int, int]:
    """Follow IPv6 extension headers (RFC 8200, 4302): ``(status, protocol, at, fragment)``."""
    fragment = 0
    for _ in range(MAX_EXTENSIONS):
        # hop-by-hop, routing, fragment, authentication, destination, host identity, shim6
        if protocol not in (0, 43, 44, 51, 60, 139, 140):
            return OK, protocol, at, fragment
        if at + 8 > end:
            return TRUNCATED_IPV6_EXTENSION, protocol, at, fragment
        following = int64(buffer[at])
        if protocol == 44:
            word = be16(buffer, at + 2)
            fragment = FRAGMENT_MORE if word & 1 else 0
            if word >> 3:  # what follows is the middle of something: its bytes are no headers
                return OK, following, at + 8, fragment | FRAGMENT_LATER
            at += 8
        elif protocol == 51:
            at += (int64(buffer[at + 1]) + 2) * 4
        else:
            at += (int64(buffer[at + 1]) + 1) * 8
        protocol = following
    return IPV6_EXTENSIONS_TOO_DEEP, protocol, at, fragment


@inlined_kernel
def _write_transport(buffer: Bytes, at: int, end: int, cut: bool, row: Any) -> tuple[int, int]:
    """Ports, flags and payload; returns ``(status, first byte of the payload)``.

    A header that the capture cut off (``cut``) gives its ports if they are there, since the packet belongs
    to that flow; a header that was never whole gives none.
    """
    protocol = int64(row["protocol"])
    status = OK
    header_bytes = 0
    if row["fragment"] & FRAGMENT_LATER:
        pass
    elif protocol == TCP:
        status, header_bytes = _tcp(buffer, at, end, cut, row)
    elif protocol in (UDP, UDP_LITE):
        status, header_bytes, end = _udp(buffer, at, end, cut, protocol, row)
    elif protocol in (ICMP, ICMPV6):
        if at + 4 > end:
            status = TRUNCATED_ICMP
        else:
            row["icmp_type_code"] = be16(buffer, at)
            header_bytes = 8
    elif protocol in (SCTP, DCCP):
        header_bytes = 12
        if at + 12 <= end or cut:
            _ports(buffer, at, end, row)
        if at + 12 > end and protocol == SCTP:
            status = TRUNCATED_SCTP
    at = min(at + header_bytes, end)
    row["payload_offset"] = at
    row["payload_bytes"] = end - at
    return status, at


@inlined_kernel
def _ports(buffer: Bytes, at: int, end: int, row: Any) -> None:
    if at + 4 <= end:
        row["source_port"] = be16(buffer, at)
        row["destination_port"] = be16(buffer, at + 2)


@inlined_kernel
def _tcp(buffer: Bytes, at: int, end: int, cut: bool, row: Any) -> tuple[int, int]:
    """``(status, header bytes)`` of a TCP header (RFC 9293)."""
    if at + 20 > end:
        if cut:
            _ports(buffer, at, end, row)
        return TRUNCATED_TCP, 20
    word = be16(buffer, at + 12)
    header_bytes = (word >> 12) * 4
    if header_bytes < 20:
        return MALFORMED_TCP_HEADER, 20
    _ports(buffer, at, end, row)
    row["tcp_flags"] = word & 0xFFF
    return (TRUNCATED_TCP if at + header_bytes > end else OK), header_bytes


@inlined_kernel
def _udp(buffer: Bytes, at: int, end: int, cut: bool, protocol: int, row: Any) -> tuple[int, int, int]:
    """``(status, header bytes, end of the datagram)``. The length may be 0 in jumbograms, and is a
    checksum coverage in UDP-Lite."""
    if at + 8 > end:
        if cut:
            _ports(buffer, at, end, row)
        return TRUNCATED_UDP, 8, end
    _ports(buffer, at, end, row)
    size = be16(buffer, at + 4)
    if protocol == UDP_LITE or size == 0:
        return OK, 8, end
    if size < 8:
        return MALFORMED_UDP_HEADER, 8, end
    return OK, 8, min(end, at + size)


@inlined_kernel
def _open_tunnel(buffer: Bytes, at: int, end: int, row: Any) -> tuple[int, int]:
    """What the payload at ``at`` carries if the packet is a tunnel's, else kind 0."""
    protocol = row["protocol"]
    if protocol == TCP:
        return 0, at
    if protocol == UDP:
        if row["destination_port"] == VXLAN_PORT:
            return open_vxlan(buffer, at, end)
        return 0, at
    if protocol == IP_IN_IP:
        return IPV4, at
    if protocol == IPV6_IN_IP:
        return IPV6, at
    if protocol == GRE:
        return open_gre(buffer, at, end)
    return 0, at


@inlined_kernel
def _native32(buffer: Bytes, at: int) -> np.uint64:
    """Four bytes as they lie in memory, as the low half of a word: addresses are moved, not understood."""
    return np.uint64(load_u32(buffer, at))


@inlined_kernel
def flow_hash(row: Any) -> np.uint64:
    """32 bits over addresses, ports and protocol, the same for both directions.

    Each end point is mixed by a multiplication and the two are added, so their order does not matter.
    It needs no secret: tables that live longer than a segment use a hash of their own.
    """
    source = row["source_tail"] ^ (row["source_head"] * _MIX_2) ^ np.uint64(row["source_port"])
    destination = row["destination_tail"] ^ (row["destination_head"] * _MIX_2) ^ np.uint64(row["destination_port"])
    source *= _MIX_1
    destination *= _MIX_1
    mixed = (source ^ (source >> _32)) + (destination ^ (destination >> _32)) + np.uint64(row["protocol"])
    return np.uint64((mixed * _MIX_2) >> _32)
