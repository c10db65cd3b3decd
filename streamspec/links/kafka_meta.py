"""Where a segment came from in Kafka, as the source's metadata of a segment: topic, partition, headers.

The source packs it into the slot, and a Kafka sink reads it there to keep headers, to name topics, and to
commit offsets inside its transactions. Layout, little-endian: ``version u8, flags u8, partition i32,
offset i64, token u64, topic length u8, topic``, then per header ``name length u16, name, value length i32
(-1: none), value``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

Headers = Sequence[tuple[str, bytes | None]]

_VERSION = 1
_NO_KEY, _NO_VALUE, _GATHERED = 1, 2, 4
_PLAIN = bytes((_VERSION, 0))
_HEAD = struct.Struct("<BBiqQB")
_NAME = struct.Struct("<H")
_VALUE = struct.Struct("<i")


class Origin(NamedTuple):
    """What :func:`unpack` gives.

    Attributes:
        has_key: whether the record had a key (else the stream key is made up).
        has_value: whether the record had a value (a tombstone has none).
        lone: the segment is this one record, not several that were gathered.
        offset: of the first record of the segment.
        token: the source's word for the segment.
    """

    has_key: bool
    has_value: bool
    lone: bool
    partition: int
    offset: int
    token: int
    topic: str
    headers: list[tuple[str, bytes | None]]


def pack(topic: bytes, partition: int, token: int, record: Any, *, lone: bool = True) -> bytes:
    """The metadata of a segment whose first record is ``record`` (aiokafka's); ``topic`` is encoded already."""
    flags = (0 if lone else _GATHERED) | (_NO_KEY if record.key is None else 0)
    flags |= _NO_VALUE if record.value is None else 0
    head = _HEAD.pack(_VERSION, flags, partition, record.offset, token, len(topic)) + topic
    return head + pack_headers(record.headers) if record.headers else head


def is_plain(meta: bytes) -> bool:
    """Whether it is a lone record with key and value and without headers, which most are."""
    return meta[:2] == _PLAIN and len(meta) == _HEAD.size + meta[_HEAD.size - 1]


def without_headers(meta: bytes) -> bytes:
    """What was packed, less the headers."""
    return meta[: _HEAD.size + meta[_HEAD.size - 1]]


def pack_headers(headers: Headers) -> bytes:
    """Headers for :func:`pack`. Names longer than 64 KiB are cut."""
    parts: list[bytes] = []
    for name, value in headers:
        encoded = name.encode("utf-8", "surrogateescape")[:65535]
        parts += (_NAME.pack(len(encoded)), encoded, _VALUE.pack(-1 if value is None else len(value)), value or b"")
    return b"".join(parts)


def unpack(meta: bytes) -> Origin | None:
    """What was packed; None for the metadata of another kind of source."""
    if len(meta) < _HEAD.size or meta[0] != _VERSION:
        return None
    _, flags, partition, offset, token, topic_bytes = _HEAD.unpack_from(meta)
    lone = not flags & _GATHERED
    position = _HEAD.size + topic_bytes
    if position > len(meta):
        return None
    topic = meta[_HEAD.size : position].decode("utf-8", "surrogateescape")
    headers: list[tuple[str, bytes | None]] = []
    try:
        while position < len(meta):
            (size,) = _NAME.unpack_from(meta, position)
            position += _NAME.size
            name = meta[position : position + size].decode("utf-8", "surrogateescape")
            position += size
            (size,) = _VALUE.unpack_from(meta, position)
            position += _VALUE.size
            headers.append((name, None if size < 0 else meta[position : position + size]))
            position += max(size, 0)
    except struct.error:
        return None
    return Origin(not flags & _NO_KEY, not flags & _NO_VALUE, lone, partition, offset, token, topic, headers)
