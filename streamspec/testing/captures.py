"""Capture files in every variant that the ``pcap`` source reads, built byte by byte for tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Order = Literal["<", ">"]

MICROSECONDS, NANOSECONDS, EXTENDED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


@dataclass(frozen=True)
class Packet:
    """One packet of a capture.

    Attributes:
        timestamp_ns: since 1970; files that count microseconds lose the rest.
        content: captured bytes.
        wire_bytes: length on the wire, ``len(content)`` unless given.
    """

    timestamp_ns: int
    content: bytes
    wire_bytes: int | None = None

    @property
    def wire(self) -> int:
        """Length on the wire."""
        return len(self.content) if self.wire_bytes is None else self.wire_bytes


def classic(
    packets: Iterable[Packet], *, order: Order = "<", magic: int = MICROSECONDS, link_type: int = 1, snap: int = 262144
) -> bytes:
    """A classic capture."""
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snap, link_type)]
    parts += [classic_record(packet, order=order, magic=magic) for packet in packets]
    return b"".join(parts)


def classic_record(packet: Packet, *, order: Order = "<", magic: int = MICROSECONDS) -> bytes:
    """One record of a classic capture."""
    seconds, rest = divmod(packet.timestamp_ns, 1_000_000_000)
    ticks = rest if magic == NANOSECONDS else rest // 1000
    head = struct.pack(f"{order}IIII", seconds, ticks, len(packet.content), packet.wire)
    return head + (bytes(8) if magic == EXTENDED else b"") + packet.content


# -- pcapng -----------------------------------------------------------------------------------
def block(kind: int, content: bytes, order: Order = "<") -> bytes:
    """A block around its content, padded to four bytes."""
    content += bytes(-len(content) % 4)
    total = len(content) + 12
    return struct.pack(f"{order}II", kind, total) + content + struct.pack(f"{order}I", total)


def options(given: Iterable[tuple[int, bytes]], order: Order = "<") -> bytes:
    """Options with the end mark behind them."""
    parts = [
        struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)
        for code, value in [*given, (0, b"")]
    ]
    return b"".join(parts)


def section(order: Order = "<", version: tuple[int, int] = (1, 0)) -> bytes:
    """A section header of unknown length."""
    return block(
        0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, *version, -1) + options([(4, b"test")], order), order
    )


def interface(
    order: Order = "<",
    *,
    link_type: int = 1,
    snap: int = 0,
    resolution: int | None = None,
    offset_seconds: int | None = None,
) -> bytes:
    """An interface description."""
    given = [(2, b"eth0")]
    if resolution is not None:
        given.append((9, bytes([resolution])))
    if offset_seconds is not None:
        given.append((14, struct.pack(f"{order}q", offset_seconds)))
    return block(1, struct.pack(f"{order}HHI", link_type, 0, snap) + options(given, order), order)


def enhanced(order: Order, number: int, ticks: int, content: bytes, wire: int) -> bytes:
    """An enhanced packet block with a comment."""
    head = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(content), wire)
    return block(6, head + content + bytes(-len(content) % 4) + options([(1, b"note")], order), order)


def obsolete(order: Order, number: int, ticks: int, content: bytes, wire: int) -> bytes:
    """An obsolete packet block."""
    head = struct.pack(f"{order}HHIIII", number, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(content), wire)
    return block(2, head + content, order)


def simple(order: Order, content: bytes, wire: int) -> bytes:
    """A simple packet block: no timestamp, always of the first interface."""
    return block(3, struct.pack(f"{order}I", wire) + content, order)
