"""Packets of capture files: classic pcap in both byte orders and resolutions, pcapng, and both in gzip.

Sources: the Internet-Drafts ``draft-ietf-opsawg-pcap`` and ``draft-ietf-opsawg-pcapng``.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loadgen.errors import UsageError

CLASSIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""Magic of classic pcap to byte order and nanoseconds per unit of the time's fraction."""
PCAPNG = b"\n\r\r\n"
GZIP = b"\x1f\x8b"
_LITTLE = b"\x4d\x3c\x2b\x1a"
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6
_RESOLUTION, _OFFSET = 9, 14
_MAX_PACKET_BYTES = 1 << 24


class Packet(NamedTuple):
    """One packet as captured; the time is 0 where the file has none."""

    timestamp_ns: int
    link_type: int
    content: bytes


class _Interface(NamedTuple):
    """Of a pcapng section: link type, snapshot length, ticks of its clock per second, seconds to add."""

    link_type: int
    snap_bytes: int
    ticks_per_second: int
    offset_seconds: int


def read_capture(path: Path) -> Iterator[Packet]:
    """Packets in file order; damage ends the file, a packet that it cuts is left out.

    Raises:
        UsageError: the file cannot be read or is no capture.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror or error}") from None
    if content[:2] == GZIP:
        content = _inflate(path, content)
    if content[:4] in CLASSIC:
        yield from _classic(content, *CLASSIC[content[:4]])
    elif content[:4] == PCAPNG:
        yield from _pcapng(content)
    else:
        raise UsageError(f"{path}: neither pcap nor pcapng")


def _inflate(path: Path, content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: not a whole gzip file: {error}") from None


def _classic(content: bytes, order: str, unit_ns: int) -> Iterator[Packet]:
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
        yield Packet(seconds * 10**9 + fraction * unit_ns, link_type, content[position : position + captured])
        position += captured


def _pcapng(content: bytes) -> Iterator[Packet]:
    order, position = "<", 0
    interfaces: list[_Interface] = []
    while position + 12 <= len(content):
        if content[position : position + 4] == PCAPNG:
            order = "<" if content[position + 8 : position + 12] == _LITTLE else ">"
            interfaces = []
        number, size = struct.unpack_from(order + "II", content, position)
        if size < 12 or size % 4 or position + size > len(content):
            return
        body = content[position + 8 : position + size - 4]
        if number == _INTERFACE and len(body) >= 8:
            interfaces.append(_interface(body, order))
        elif (packet := _block_packet(number, body, order, interfaces)) is not None:
            yield packet
        position += size


def _interface(body: bytes, order: str) -> _Interface:
    link_type, _, snap_bytes = struct.unpack_from(order + "HHI", body)
    ticks, offset, position = 10**6, 0, 8
    while position + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, position)
        value = body[position + 4 : position + 4 + size]
        if code == 0:
            break
        if code == _RESOLUTION and len(value) == 1:
            exponent = value[0] & 0x7F
            ticks = 1 << min(exponent, 63) if value[0] & 0x80 else 10 ** min(exponent, 18)
        elif code == _OFFSET and len(value) == 8:
            offset = struct.unpack(order + "q", value)[0]
        position += 4 + (size + 3) // 4 * 4
    return _Interface(link_type, snap_bytes, ticks, offset)


def _block_packet(number: int, body: bytes, order: str, interfaces: list[_Interface]) -> Packet | None:
    """The packet of a block; None for other blocks and for packets that the block or its interface lacks."""
    if number == _SIMPLE_PACKET and len(body) >= 4 and interfaces:
        wire = struct.unpack_from(order + "I", body)[0]
        captured = min(wire, interfaces[0].snap_bytes or wire)
        return Packet(0, interfaces[0].link_type, body[4 : 4 + captured]) if 4 + captured <= len(body) else None
    if number not in (_PACKET, _OLD_PACKET) or len(body) < 20:
        return None
    index, high, low, captured = struct.unpack_from(order + ("IIII" if number == _PACKET else "HxxIII"), body)
    if index >= len(interfaces) or 20 + captured > len(body):
        return None
    interface = interfaces[index]
    timestamp_ns = (high << 32 | low) * 10**9 // interface.ticks_per_second + interface.offset_seconds * 10**9
    return Packet(timestamp_ns, interface.link_type, body[20 : 20 + captured])
