"""Cuts the packets of a batch into pieces that threads of a device search side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Bytes, Counts
from streamspec.core.jit import kernel

Words = npt.NDArray[np.int32]
to_int: Any = np.int64
_ROW_BYTES = 24  # of PACKET
_OFFSET_AT = 8


@kernel
def _read(memory: Bytes, at: int) -> int:
    """Four bytes, lowest first; signed, since an unsigned plus a signed number is floating here."""
    value: int = to_int(memory[at]) | to_int(memory[at + 1]) << 8
    value |= to_int(memory[at + 2]) << 16 | to_int(memory[at + 3]) << 24
    return value


@kernel
def cut(
    memory: Bytes,
    segments: Counts,
    first: int,
    whole: bool,
    piece_bytes: int,
    overlap: int,
    starts: Counts,
    lengths: Words,
    spans: Words,
    first_spans: Counts,
) -> tuple[int, int, int]:
    """Fill ``starts, lengths, spans`` with the pieces of segments from ``first`` on, as many as fit whole.

    Args:
        segments: ``(4, n)``: start and length of each payload in ``memory``, start and rows of its packet table.
        whole: a segment is one span; otherwise each packet is, where there are packets.
        piece_bytes, overlap: a piece is followed by ``overlap`` bytes of the next one.
        first_spans: by segment, the number of its first span in this launch; filled.

    Returns:
        The segment after the last one taken, pieces, spans.
    """
    pieces = span = 0
    room = len(starts)
    for segment in range(first, segments.shape[1]):
        start, length = segments[0, segment], segments[1, segment]
        table, rows = segments[2, segment], segments[3, segment]
        count = 1 if whole or rows == 0 else rows
        need = count + length // piece_bytes + 1
        if pieces + need > room:
            return segment, pieces, span
        first_spans[segment] = span
        for row in range(count):
            at, high = to_int(0), length
            if not whole and rows:
                entry = table + row * _ROW_BYTES + _OFFSET_AT
                at = min(_read(memory, entry), length)
                high = min(at + _read(memory, entry + 4), length)
            while at < high and pieces < room:
                starts[pieces] = start + at
                lengths[pieces] = min(high - at, piece_bytes + overlap)
                spans[pieces] = span
                pieces += 1
                at += piece_bytes
            if at < high:  # packets that lie on each other take more than there is room for
                return segment, -1, span
            span += 1
    return segments.shape[1], pieces, span
