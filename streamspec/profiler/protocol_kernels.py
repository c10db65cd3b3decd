"""Protocols that are known by the structure of a message: TLS, QUIC, DNS, and what parses as protobuf.

Each check looks at the message in bytes ``at`` to ``end`` and stays within it.
"""

from __future__ import annotations

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler.packet_kernels import read_u16, read_u32
from streamspec.profiler.vector import to_int

_BROKEN = -1
"""In place of the value of a varint that does not end in time."""


@lean_kernel
def is_tls(memory: Bytes, at: int, end: int) -> bool:
    """A record of TLS (RFC 8446, 5.1) or DTLS (RFC 6347, 4.1): type, version, plausible length."""
    size = end - at
    if size < 5 or not 20 <= memory[at] <= 24:
        return False
    if memory[at + 1] == 3 and memory[at + 2] <= 4:
        return 1 <= read_u16(memory, at + 3) <= 16384 + 2048
    return size >= 13 and memory[at + 1] == 0xFE and memory[at + 2] >= 0xFC and 1 <= read_u16(memory, at + 11) <= 18432


@lean_kernel
def is_quic(memory: Bytes, at: int, end: int) -> bool:
    """A long header (RFC 8999, 5.1; RFC 9000, 17.2) of a known version, or Google's predecessor."""
    if end - at < 7 or not memory[at] & 0x80:
        return False
    version = read_u32(memory, at + 1)
    destination = to_int(memory[at + 5])
    known = version in (1, 0x6B3343CF) or version >> 8 == 0xFF0000 or version >> 24 in (0x51, 0x54)
    if not known or destination > 20 or at + 6 + destination >= end:
        return False
    return version >> 24 in (0x51, 0x54) or memory[at + 6 + destination] <= 20


@lean_kernel
def is_dns(memory: Bytes, at: int, end: int) -> bool:
    """A header (RFC 1035, 4.1.1) with plausible counts, and a first name whose labels and type make sense."""
    if end - at < 17:
        return False
    questions, answers = read_u16(memory, at + 4), read_u16(memory, at + 6)
    others = read_u16(memory, at + 8) + read_u16(memory, at + 10)
    operation = memory[at + 2] >> 3 & 15
    if operation > 6 or memory[at + 3] & 0x40 or questions > 16 or answers > 256 or others > 256:
        return False
    response = memory[at + 2] >> 7
    if not (questions or (response and answers)):
        return False
    return _has_name(memory, at + 12, end)


@lean_kernel
def _has_name(memory: Bytes, at: int, end: int) -> bool:
    """Labels without control characters (RFC 6763 allows spaces and UTF-8), then a known class of a record."""
    total = 0
    while at < end and memory[at]:
        label = to_int(memory[at])
        total += label + 1
        if label > 63 or total > 255 or at + 1 + label > end:
            return False
        for index in range(at + 1, at + 1 + label):
            if memory[index] < 0x20 or memory[index] == 0x7F:
                return False
        at += label + 1
    if at + 5 > end:
        return False
    kind, record_class = read_u16(memory, at + 1), read_u16(memory, at + 3) & 0x7FFF
    return 0 < kind < 512 and record_class in (1, 3, 4, 254, 255)


@lean_kernel
def is_protobuf(memory: Bytes, at: int, end: int) -> bool:
    """Parses as fields of a protobuf message: at least four, or two that end with the message."""
    limit = min(end, at + 256)
    fields = 0
    while at < limit and fields < 16:
        tag, at = _varint(memory, at, end)
        wire, number = tag & 7, tag >> 3
        if tag < 0 or not 0 < number < 512:
            return False
        if wire == 0:
            value, at = _varint(memory, at, end)
            if value == _BROKEN:
                return False
        elif wire == 2:
            size, at = _varint(memory, at, end)
            if size < 0 or size > 1 << 20:
                return False
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return False
        fields += 1
    return fields >= 4 or (fields >= 2 and at == end)


@lean_kernel
def _varint(memory: Bytes, at: int, end: int) -> tuple[int, int]:
    """A varint of at most ten bytes and where it ends; ``_BROKEN`` when it does not end in time."""
    value = 0
    for index in range(10):
        if at + index >= end:
            return _BROKEN, end
        byte = to_int(memory[at + index])
        if index < 9:
            value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return _BROKEN, end
