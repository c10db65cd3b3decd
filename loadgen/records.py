"""The file of ``loadgen receive``: messages with their time of arrival.

``LGR2`` and a newline, then per message, little-endian: arrival (nanoseconds since 1970, ``u64``), the number of
the peer or connection (``u32``), length (``u32``), bytes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = b"LGR2\n"
_HEAD = struct.Struct("<QII")
HEAD_BYTES = _HEAD.size


class Record(NamedTuple):
    """One message."""

    arrival_ns: int
    key: int
    content: bytes


def write_record(arrival_ns: int, key: int, content: bytes) -> bytes:
    """A record as it lies in the file."""
    return _HEAD.pack(arrival_ns, key, len(content)) + content


def read_records(path: Path) -> Iterator[Record]:
    """The messages of a file; a torn end is left out. Raises ValueError for a file without the magic."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{path}: not a receiver's file")
        position = len(MAGIC)
        while position + HEAD_BYTES <= len(content):
            arrival_ns, key, size = _HEAD.unpack_from(content, position)
            position += HEAD_BYTES
            if position + size > len(content):
                return
            yield Record(arrival_ns, key, content[position : position + size])
            position += size
