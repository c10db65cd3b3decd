"""Packets of capture files for replay: classic pcap and pcapng, and the transport payload of a packet."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loadgen.errors import UsageError

ETHERNET, RAW_IP, SLL = 1, (101, 228, 229), 113
_CLASSIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_VLAN = (0x8100, 0x88A8, 0x9100)
_MAX_PACKET_BYTES = 1 << 20


class Packet(NamedTuple):
    """One packet as captured."""

    timestamp_ns: int
    link_type: int
    content: bytes


class Payload(NamedTuple):
    """What a packet carried for its application, and whose it is: addresses, ports and protocol in one."""

    flow: bytes
    content: bytes


def read_capture(path: Path) -> Iterator[Packet]:
    """Packets in file order; damage ends the file. Raises UsageError when it is no capture."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise UsageError(f"{path}: cannot read: {error}") from None
    if content[:4] in _CLASSIC:
        yield from _classic(content, *_CLASSIC[content[:4]])
    elif content[:4] == b"\n\r\r\n":
        yield from _pcapng(content)
    else:
        raise UsageError(f"{path}: neither pcap nor pcapng")


def _classic(content: bytes, order: str, scale_ns: int) -> Iterator[Packet]:
    if len(content) < 24:
        return
    link_type = struct.unpack_from(order + "I", content, 20)[0] & 0xFFFF
    record = struct.Struct(order + "IIII")
    position = 24
    while position + 16 <= len(content):
        seconds, fraction, captured, _ = record.unpack_from(content, position)
        position += 16
        if captured > _MAX_PACKET_BYTES or position + captured > len(content):
            return
        yield Packet(seconds * 10**9 + fraction * scale_ns, link_type, content[position : position + captured])
        position += captured


def _pcapng(content: bytes) -> Iterator[Packet]:
    order, position = "<", 0
    interfaces: list[tuple[int, int]] = []
    while position + 12 <= len(content):
        kind = content[position : position + 4]
        if kind == b"\n\r\r\n":
            order = "<" if content[position + 8 : position + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        number, size = struct.unpack_from(order + "II", content, position)
        if size < 12 or size % 4 or position + size > len(content):
            return
        body = content[position + 8 : position + size - 4]
        if number == 1 and len(body) >= 8:
            interfaces.append((struct.unpack_from(order + "H", body)[0], _ticks_per_second(body[8:], order)))
        elif number == 6 and len(body) >= 20:
            index, high, low, captured, _ = struct.unpack_from(order + "IIIII", body)
            if index < len(interfaces) and 20 + captured <= len(body):
                link_type, ticks = interfaces[index]
                yield Packet((high << 32 | low) * 10**9 // ticks, link_type, body[20 : 20 + captured])
        position += size


def _ticks_per_second(options: bytes, order: str) -> int:
    position = 0
    while position + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, position)
        if code == 0:
            break
        if code == 9 and size == 1 and position + 4 < len(options):
            resolution = options[position + 4]
            exponent = min(resolution & 0x7F, 63)
            return int(2**exponent if resolution & 0x80 else 10 ** min(exponent, 18))
        position += 4 + (size + 3) // 4 * 4
    return 10**6


def transport_payload(packet: Packet) -> Payload | None:
    """The UDP or TCP payload of an IPv4 or IPv6 packet that is not a later fragment; None without one."""
    ip = _network_layer(packet)
    if len(ip) < 20:
        return None
    if ip[0] >> 4 == 4:
        header, protocol = (ip[0] & 15) * 4, ip[9]
        end = min(int.from_bytes(ip[2:4], "big") or len(ip), len(ip))
        addresses = ip[12:20]
        if int.from_bytes(ip[6:8], "big") & 0x1FFF:
            return None
    elif ip[0] >> 4 == 6 and len(ip) >= 40:
        header, protocol, addresses = 40, ip[6], ip[8:40]
        end = min(40 + int.from_bytes(ip[4:6], "big"), len(ip))
    else:
        return None
    return _transport(ip[header:end], protocol, addresses)


def _transport(segment: bytes, protocol: int, addresses: bytes) -> Payload | None:
    if protocol == 17 and len(segment) > 8:
        content = segment[8:]
    elif protocol == 6 and len(segment) > 20:
        content = segment[(segment[12] >> 4) * 4 :]
    else:
        return None
    return Payload(bytes([protocol]) + addresses + segment[:4], content) if content else None


def _network_layer(packet: Packet) -> bytes:
    content = packet.content
    if packet.link_type in RAW_IP:
        return content
    position = {ETHERNET: 12, SLL: 14}.get(packet.link_type)
    if position is None or len(content) < position + 2:
        return b""
    kind = int.from_bytes(content[position : position + 2], "big")
    while kind in _VLAN and len(content) >= position + 6:
        position += 4
        kind = int.from_bytes(content[position : position + 2], "big")
    return content[position + 2 :] if kind in (0x0800, 0x86DD) else b""
