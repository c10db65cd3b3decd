"""What finished beyond the committed offset, as text for Kafka's commit metadata (at most 4096 bytes).

The committed offset is the first one that is not finished. Behind it lie runs, alternately unfinished and
finished; their lengths are written as varints (LEB128), followed by a CRC-32 over the committed offset and
those lengths, in base64 behind the name of the format. Whoever cannot read it reads everything from the
committed offset on: what cannot be decoded means replay, never skip. The checksum covers the offset, so that
metadata that somebody kept while moving the offset is refused as well.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Sequence

LARGEST_METADATA_BYTES = 4096
"""``offset.metadata.max.bytes`` of a broker by default."""

_PREFIX = "streamspec1:"
_CHECK_BYTES = 4
_ROOM_BYTES = (LARGEST_METADATA_BYTES - len(_PREFIX)) // 4 * 3 - _CHECK_BYTES
_LARGEST_RUN = 1 << 40
"""Longer ones are not ours; a hostile length cannot make us reserve memory."""


def encode(offset: int, runs: Sequence[int]) -> str:
    """Text for the commit of ``offset``.

    Args:
        offset: first unfinished one.
        runs: lengths, unfinished and finished in turn, beginning with unfinished. What does not fit is left
            out at the end, and would be replayed.
    """
    if len(runs) < 2:
        return ""
    content = bytearray()
    fitting = 0
    for index, length in enumerate(runs):
        _append_varint(content, length)
        if len(content) > _ROOM_BYTES:
            break
        if index % 2:
            fitting = len(content)
    if not fitting:
        return ""
    del content[fitting:]
    return _PREFIX + base64.b64encode(_check(offset, content) + content).decode()


def decode(offset: int, text: str) -> list[int] | None:
    """The runs behind ``offset``; empty for no metadata, None for what is not ours or damaged."""
    if not text:
        return []
    if not text.startswith(_PREFIX) or len(text) > LARGEST_METADATA_BYTES:
        return None
    try:
        raw = base64.b64decode(text[len(_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        return None
    content = raw[_CHECK_BYTES:]
    if raw[:_CHECK_BYTES] != _check(offset, content):
        return None
    return _read_varints(content)


def _check(offset: int, content: bytes | bytearray) -> bytes:
    return struct.pack("<I", zlib.crc32(content, zlib.crc32(struct.pack("<q", offset))))


def _append_varint(content: bytearray, value: int) -> None:
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    content.append(value)


def _read_varints(content: bytes) -> list[int] | None:
    runs: list[int] = []
    value, shift = 0, 0
    for byte in content:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 42:
                return None
            continue
        if value > _LARGEST_RUN:
            return None
        runs.append(value)
        value, shift = 0, 0
    return None if shift or len(runs) % 2 else runs
