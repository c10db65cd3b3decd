"""What travels between dispatcher and worker: one ``SOCK_SEQPACKET`` message is one batch or one order.

A batch is ``int32`` slot numbers (dispatcher: "work on these"; worker: "these are done"). A message that
begins with :data:`CONTROL` carries a JSON object; one that begins with :data:`SPILL` names a slot whose
output lies in the file whose descriptor comes with it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any

CONTROL = -1
SPILL = -2
MESSAGE_BYTES = 256 * 1024
"""Receive buffer of both sides; larger control messages are refused by the sender's kernel."""

_CONTROL_PREFIX = struct.pack("<i", CONTROL)
_SPILL = struct.Struct("<iiQ")


def encode_control(content: dict[str, Any]) -> bytes:
    """A control message."""
    return _CONTROL_PREFIX + json.dumps(content).encode()


def decode_control(message: bytes) -> dict[str, Any]:
    """The object of a control message."""
    content: dict[str, Any] = json.loads(message[4:])
    return content


def encode_spill(slot: int, size_bytes: int) -> bytes:
    """Announces the descriptor that comes with it."""
    return _SPILL.pack(SPILL, slot, size_bytes)


def decode_spill(message: bytes) -> tuple[int, int]:
    """Slot and size in bytes."""
    _, slot, size_bytes = _SPILL.unpack(message)
    return slot, size_bytes


def kind_of(message: bytes) -> int:
    """CONTROL, SPILL, or a slot number >= 0 for a batch."""
    return int.from_bytes(message[:4], "little", signed=True)


# -- the output region: payload | records | deltas | error -------------------------------------
_RECORDS = struct.Struct("<BI")
_DELTA = struct.Struct("<BI")


def encode_records(records: dict[str, list[bytes]]) -> bytes:
    """Lines grouped by record type."""
    parts: list[bytes] = []
    for record_type, lines in records.items():
        name = record_type.encode()
        body = b"\n".join(lines) + b"\n"
        parts += (_RECORDS.pack(len(name), len(body)), name, body)
    return b"".join(parts)


def decode_records(region: memoryview) -> list[tuple[str, memoryview]]:
    """``(record_type, newline-ended lines)``; the views point into ``region``."""
    found = []
    position = 0
    while position < len(region):
        name_bytes, body_bytes = _RECORDS.unpack_from(region, position)
        position += _RECORDS.size
        name = bytes(region[position : position + name_bytes]).decode()
        position += name_bytes
        found.append((name, region[position : position + body_bytes]))
        position += body_bytes
    return found


def encode_deltas(deltas: Iterable[tuple[int, bytes | memoryview]]) -> list[bytes | memoryview]:
    """``(stage index, content)`` pairs, as parts that follow each other."""
    parts: list[bytes | memoryview] = []
    for stage, content in deltas:
        parts += (_DELTA.pack(stage, len(content)), content)
    return parts


def decode_deltas(region: memoryview) -> list[tuple[int, memoryview]]:
    """``(stage index, content)``; the views point into ``region``."""
    found = []
    position = 0
    while position < len(region):
        stage, size = _DELTA.unpack_from(region, position)
        position += _DELTA.size
        found.append((stage, region[position : position + size]))
        position += size
    return found
