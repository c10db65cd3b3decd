"""The transport payload of a captured packet. Only what lies in front of it is looked at; see the RFCs for the rest."""

from __future__ import annotations

from typing import NamedTuple

from loadgen.capture import Packet

NULL, ETHERNET, LOOP, SLL, SLL2, USER0 = 0, 1, 108, 113, 276, 147
RAW_IP = (12, 14, 101, 228, 229)
_IPV4, _IPV6, _VLANS, _MPLS, _PPPOE = 0x0800, 0x86DD, (0x8100, 0x88A8, 0x9100), (0x8847, 0x8848), 0x8864
_PPP_IP = (0x21, 0x57)
_TYPE_OFFSETS = {ETHERNET: (12, 14), SLL: (14, 16), SLL2: (0, 20)}
"""Where the protocol's number stands, and where what it names begins."""
_SKIPPED_HEADERS = (0, 43, 60, 135)
"""IPv6 extension headers that are a next header, a length in 8 bytes less one, and a rest."""
_TCP, _UDP, _FRAGMENT = 6, 17, 44


class Payload(NamedTuple):
    """What a packet carried for its application, and whose it is: protocol, addresses and ports in one."""

    flow: bytes
    content: bytes


def transport_payload(packet: Packet) -> Payload | None:
    """The UDP or TCP payload of an IPv4 or IPv6 packet; None without one, and for fragments but the first."""
    ip = _network_layer(packet.link_type, packet.content)
    version = ip[0] >> 4 if len(ip) >= 20 else 0
    if version == 4 and ip[0] & 15 >= 5 and not int.from_bytes(ip[6:8], "big") & 0x1FFF:
        end = int.from_bytes(ip[2:4], "big") or len(ip)  # zero: the sender left segmentation to its card
        return _transport(ip[(ip[0] & 15) * 4 : end], ip[9], ip[12:20])
    if version == 6 and len(ip) >= 40:
        end = 40 + (int.from_bytes(ip[4:6], "big") or len(ip))
        protocol, segment = _behind_extensions(ip[6], ip[40:end])
        return _transport(segment, protocol, ip[8:40])
    return None


def _network_layer(link_type: int, content: bytes) -> bytes:
    """From the IP header on; empty when there is none."""
    if link_type in RAW_IP:
        return content
    if link_type in (NULL, LOOP):
        return content[4:]
    if link_type not in _TYPE_OFFSETS:
        return b""
    spot, start = _TYPE_OFFSETS[link_type]
    protocol = int.from_bytes(content[spot : spot + 2], "big")
    while protocol in _VLANS and len(content) >= start + 4:
        protocol = int.from_bytes(content[start + 2 : start + 4], "big")
        start += 4
    if protocol in _MPLS:
        return _behind_labels(content[start:])
    if protocol == _PPPOE:
        return _behind_ppp(content[start + 6 :])
    return content[start:] if protocol in (_IPV4, _IPV6) else b""


def _behind_ppp(content: bytes) -> bytes:
    """Behind PPP's protocol number, which takes one byte when that is odd (RFC 1661, section 6.5)."""
    length = 1 if content[:1] and content[0] & 1 else 2
    protocol = int.from_bytes(content[:length], "big")
    return content[length:] if protocol in _PPP_IP else b""


def _behind_labels(content: bytes) -> bytes:
    """Behind the MPLS label that says it is the last."""
    position = 0
    while position + 4 <= len(content):
        last = content[position + 2] & 1
        position += 4
        if last:
            return content[position:]
    return b""


def _behind_extensions(protocol: int, content: bytes) -> tuple[int, bytes]:
    """The protocol behind IPv6 extension headers and what it has; protocol 0 when there is none."""
    while len(content) >= 8:
        if protocol in _SKIPPED_HEADERS:
            length = 8 * (content[1] + 1)
        elif protocol == _FRAGMENT and not int.from_bytes(content[2:4], "big") & 0xFFF8:
            length = 8
        else:
            break
        protocol, content = content[0], content[length:]
    return protocol, content


def _transport(segment: bytes, protocol: int, addresses: bytes) -> Payload | None:
    if protocol == _UDP and len(segment) > 8:
        length = int.from_bytes(segment[4:6], "big")
        content = segment[8 : length if length >= 8 else len(segment)]
    elif protocol == _TCP and len(segment) > 20 and segment[12] >> 4 >= 5:
        content = segment[(segment[12] >> 4) * 4 :]
    else:
        return None
    return Payload(bytes([protocol]) + addresses + segment[:4], content) if content else None
