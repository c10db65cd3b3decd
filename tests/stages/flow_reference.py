"""Flows by dpkt: an independent count of packets and IP bytes per 5-tuple, in plain Python.

dpkt takes headers apart, one at a time (its own descent stops at what it has no class for, and at an IPv6
fragment header that is not the last extension). Written here because dpkt does them differently or not at
all: PPP without address and control bytes, Cisco HDLC, VXLAN, ERSPAN, source routes of GRE, and the definitions
that this project made:

* A packet counts when its IP header is sound: right version, header length of at least 20 bytes, no shorter
  than it says, all of it captured. dpkt is more lenient.
* Its bytes are the total length the header gives; where that is 0 (segmentation offload, jumbograms),
  the length on the wire from the IP header on.
* Ports count when the transport header is whole, or when the capture cut it off and they are there. They are
  0 for later fragments and for all but TCP, UDP, UDP-Lite, SCTP and DCCP.
* IPv6 extension headers that are cut off make the packet one of the extension's protocol.
* A fragment is not opened as a tunnel. What a tunnel carries counts when it is sound IP, else the outer packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dpkt
from dpkt import ethernet, gre, ip, ip6, ppp, sll, sll2

PORTS = (6, 17, 33, 132, 136)
WHOLE_HEADER = {6: 20, 17: 8, 33: 12, 132: 12, 136: 8}
Key = tuple[bytes, bytes, int, int, int]
"""Source, destination, protocol, source port, destination port."""


@dataclass(frozen=True)
class Found:
    """One IP packet: its key, its bytes, and whether it is a fragment."""

    key: Key
    size: int
    payload: bytes
    wire_payload: int
    fragment: bool


def read(path: Path) -> tuple[int, list[tuple[int, bytes, int]]] | None:
    """Link type and packets (nanoseconds, bytes, wire length) as far as dpkt reads the capture."""
    packets: list[tuple[int, bytes, int]] = []
    with path.open("rb") as file:
        try:
            reader = dpkt.pcap.UniversalReader(file)
            iteration = iter(reader)
            for seconds, packet in iteration:
                stamp = min(max(int(seconds * 1_000_000_000), 0), 2**62)
                packets.append((stamp, packet, max(_wire_length(iteration), len(packet))))
        except (ValueError, dpkt.UnpackError):
            if not packets:
                return None
    return reader.datalink() & 0xFFFF, packets


def _wire_length(iteration: Iterator[object]) -> int:
    """How long the packet was on the wire: dpkt's readers know, in a local variable, and do not tell."""
    known = iteration.gi_frame.f_locals
    if "hdr" in known:
        return int(known["hdr"].len)
    block = known.get("epb") or known.get("pb")
    return int(block.pkt_len)


def count(link_type: int, packets: Iterable[tuple[int, bytes, int]], *, inner: bool) -> dict[Key, tuple[int, int]]:
    """Packets and bytes per key, one direction."""
    totals: dict[Key, tuple[int, int]] = {}
    for _, packet, wire in packets:
        found = describe(link_type, packet, wire, inner=inner)
        if found is not None:
            before = totals.get(found.key, (0, 0))
            totals[found.key] = (before[0] + 1, before[1] + found.size)
    return totals


def describe(link_type: int, packet: bytes, wire: int, *, inner: bool) -> Found | None:
    """The outermost or innermost sound IP packet."""
    cut = wire > len(packet)
    network = _network(link_type, packet)
    found = _sound(network, wire - len(packet) + len(network or b""), cut)
    for _ in range(3):
        if not inner or found is None or found.fragment:
            break
        deeper = _sound(_inside(found), found.wire_payload - len(found.payload), cut, relative=True)
        if deeper is None:
            break
        found = deeper
    return found


# -- link layers -------------------------------------------------------------------------------
def _network(link_type: int, packet: bytes) -> bytes | None:
    """Bytes of the IP packet within a captured one, or None."""
    try:
        if link_type == 1:
            return _of_ethernet(packet)
        if link_type == 113:
            return _of_type(sll.SLL(packet[:16]).ethtype, packet[16:])
        if link_type == 276:
            return _of_type(sll2.SLL2(packet[:20]).ethtype, packet[20:])
        if link_type in (0, 108):
            return _of_loopback(packet)
        if link_type in (12, 14, 101, 228, 229):
            return packet
        if link_type == 9:
            return _of_ppp(packet)
        if link_type == 104:
            return _of_type(struct.unpack_from("!H", packet, 2)[0], packet[4:])
    except (dpkt.UnpackError, struct.error, IndexError):
        return None
    return None


def _of_ethernet(frame: bytes) -> bytes | None:
    kind = struct.unpack_from("!H", frame, 12)[0]
    body = frame[14:]
    return _of_type(kind, body) if kind >= 0x600 else _of_llc(body)


def _of_type(kind: int, body: bytes) -> bytes | None:
    """dpkt's own tag and label classes, one after the other (its Ethernet stops after two tags)."""
    for _ in range(11):
        if kind in (0x800, 0x86DD):
            return body if body and body[0] >> 4 == (4 if kind == 0x800 else 6) else None
        if kind in (0x8100, 0x88A8, 0x9100, 0x9200):
            kind, body = ethernet.VLANtag8021Q(body).type, body[4:]
            if kind < 0x600:
                return _of_llc(body)
        elif kind in (0x8847, 0x8848):
            return _of_mpls(body)
        elif kind == 0x8864:
            return _of_ppp(body[6:])
        elif kind == 0x6558:
            return _of_ethernet(body)
        elif kind == 0x880B:
            return _of_ppp(body)
        else:
            return None
    return None


def _of_mpls(body: bytes) -> bytes | None:
    for _ in range(24):
        label = ethernet.MPLSlabel(body)
        body = body[4:]
        if label.s:
            break
    else:
        return None
    if body[0] >> 4 in (4, 6):
        return body
    return _of_ethernet(body[4:] if body[:2] == b"\0\0" else body)


def _of_ppp(body: bytes) -> bytes | None:
    """dpkt's PPP wants address and control bytes; give it some."""
    framed = body if body[:2] == b"\xff\x03" else b"\xff\x03" + body
    packet = ppp.PPP(framed[:4])
    if packet.p in (0x21, 0x57):
        return _behind_ppp(body)
    return _of_mpls(_behind_ppp(body)) if packet.p in (0x281, 0x283) else None


def _behind_ppp(body: bytes) -> bytes:
    body = body[2:] if body[:2] == b"\xff\x03" else body
    return body[1:] if body[0] & 1 else body[2:]


def _of_llc(body: bytes) -> bytes | None:
    if body[:3] == b"\x06\x06\x03":
        return body[3:]
    if body[:2] == b"\xaa\xaa" and body[3:6] == b"\0\0\0":
        return _of_type(struct.unpack_from("!H", body, 6)[0], body[8:])
    return None


def _of_loopback(packet: bytes) -> bytes | None:
    family = struct.unpack_from("<I", packet)[0]
    if family > 0xFFFF:
        family = struct.unpack_from(">I", packet)[0]
    return packet[4:] if family in (2, 10, 23, 24, 28, 30) else None


# -- network and transport ---------------------------------------------------------------------
def _sound(packet: bytes | None, wire: int, cut: bool, *, relative: bool = False) -> Found | None:
    """``wire``: length on the wire from the IP header on; if ``relative``, what it is longer than ``packet``."""
    if not packet:
        return None
    if relative:
        wire += len(packet)
    try:
        if packet[0] >> 4 == 4:
            return _ipv4(packet, wire, cut)
        if packet[0] >> 4 == 6 and len(packet) >= 40:
            return _ipv6(packet, wire, cut)
    except dpkt.UnpackError:
        pass
    return None


def _ipv4(packet: bytes, wire: int, cut: bool) -> Found | None:
    header = ip.IP(packet[:20])
    header_bytes = header.hl * 4
    if len(packet) < header_bytes or (header.len and header.len < header_bytes):
        return None
    size = header.len or wire
    body = packet[header_bytes:size]
    ports = (0, 0) if header.offset else _ports(header.p, body, cut)
    fragment = bool(header.mf or header.offset)
    return Found((header.src, header.dst, header.p, *ports), size, body, size - header_bytes, fragment)


def _ipv6(packet: bytes, wire: int, cut: bool) -> Found:
    size_field, protocol = struct.unpack_from("!HB", packet, 4)
    source, destination = packet[8:24], packet[24:40]
    size = size_field + 40 if size_field or protocol == 59 else wire
    body = packet[40:size]
    skipped, fragment, later, whole = 0, False, False, True
    for _ in range(8):
        if protocol not in (0, 43, 44, 51, 60, 139, 140):
            break
        if len(body) < 8:
            whole = False
            break
        following = body[0]
        if protocol == 44:
            extension = ip6.IP6FragmentHeader(body)
            fragment = bool(extension.m_flag or extension.frag_off) or fragment
            later = extension.frag_off > 0
            step = 8
        else:
            step = (body[1] + 2) * 4 if protocol == 51 else (body[1] + 1) * 8
        protocol, body, skipped = following, body[step:], skipped + step
        if later:
            break
    else:
        whole = False
    ports = _ports(protocol, body, cut) if whole and not later else (0, 0)
    key = (source, destination, protocol, *ports)
    return Found(key, size, body if whole else b"", size - 40 - skipped, fragment or not whole)


def _ports(protocol: int, body: bytes, cut: bool) -> tuple[int, int]:
    if protocol not in PORTS or len(body) < 4:
        return 0, 0
    if len(body) < WHOLE_HEADER[protocol] and not cut:
        return 0, 0
    if protocol == 6 and len(body) >= 20 and body[12] >> 4 < 5:
        return 0, 0
    return struct.unpack_from("!HH", body)


# -- tunnels -----------------------------------------------------------------------------------
def _inside(found: Found) -> bytes | None:
    protocol, body = found.key[2], found.payload
    try:
        if protocol in (4, 41):
            return body if body and body[0] >> 4 == (4 if protocol == 4 else 6) else None
        if protocol == 47:
            return _of_gre(body)
        if protocol == 17 and found.key[4] == 4789 and len(body) >= 16 and body[8] & 8:
            length = struct.unpack_from("!H", body, 4)[0]
            return _of_ethernet(body[16 : length or None])
    except (dpkt.UnpackError, struct.error, IndexError):
        return None
    return None


def _of_gre(body: bytes) -> bytes | None:
    flags, kind = struct.unpack_from("!HH", body)
    if flags & 0x4000 or flags & 7 == 1:
        return _of_gre_by_hand(body, flags, kind)
    packet = gre.GRE(body[:16])
    at = 4 + sum(4 for flag in (gre.GRE_CP | gre.GRE_RP, gre.GRE_KP, gre.GRE_SP) if packet.flags & flag)
    content = body[at:]
    if kind == 0x88BE:
        return _of_ethernet(content[8:] if packet.flags & gre.GRE_SP else content)
    if kind == 0x22EB:
        return _of_ethernet(content[20:] if content[11] & 1 else content[12:])
    return _of_type(kind, content)


def _of_gre_by_hand(body: bytes, flags: int, kind: int) -> bytes | None:
    at = 4 + 4 * sum(1 for mask in (0xC000, 0x2000, 0x1000) if flags & mask)
    if flags & 7 == 1 and flags & 0x80:
        at += 4
    while flags & 0x4000:
        family, _, length = struct.unpack_from("!HBB", body, at)
        at += 4 + length
        if family == 0 and length == 0:
            break
    return _of_type(kind, body[at:]) if at < len(body) else None
