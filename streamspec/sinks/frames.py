"""What sinks over a network write: a delivery cut into pieces, and pieces built into frames.

With ``content: payload`` a payload that no stage changed is cut by its packet table, one piece per message, and so
is one that a stage made message by message; any other that a stage transformed is a single piece. With
``content: records`` each JSON line is a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.errors import InternalError
from streamspec.core.interfaces import Bytes, Delivery, DeliveryBatch
from streamspec.sinks import frame_kernels
from streamspec.sinks.egress import Content, Framing
from streamspec.sinks.frame_kernels import Offsets

OVERHEAD_BYTES: dict[Framing, int] = {"length": frame_kernels.PREFIX_BYTES, "newline": 1, "raw": 0}

_NO_OFFSETS = np.zeros(0, dtype=np.uint32)
_ZERO = np.zeros(1, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of one buffer: ``content`` is ``uint8``; ``starts`` and ``sizes`` are ``uint32``, one per piece."""

    content: Bytes
    starts: Offsets
    sizes: Offsets

    @property
    def address(self) -> int:
        """Of the buffer in memory, for system calls."""
        return address_of(self.content)


def address_of(array: npt.NDArray[Any]) -> int:
    """Where the array begins in this process."""
    address: int = array.__array_interface__["data"][0]
    return address


def as_bytes(view: memoryview) -> Bytes:
    """The same memory as ``uint8``."""
    return np.frombuffer(view, dtype=np.uint8) if len(view) else np.zeros(0, dtype=np.uint8)


def whole(content: Bytes) -> Pieces:
    """The buffer as one piece."""
    return Pieces(content, _ZERO, np.array([len(content)], dtype=np.uint32))


def is_unchanged(delivery: Delivery) -> bool:
    """Whether the result payload is the very memory that arrived (a stage that transforms makes new memory)."""
    payload, original = delivery.payload, delivery.original
    if len(payload) != len(original):
        return False
    return not len(payload) or address_of(as_bytes(payload)) == address_of(as_bytes(original))


def payload_pieces(delivery: Delivery) -> Iterator[Pieces]:
    """The messages of an unchanged payload, or of one that a stage made message by message; any other transformed
    payload as one piece; nothing for no payload."""
    packets = delivery.packets
    content = as_bytes(delivery.payload)
    if messages := delivery.messages:
        sizes = np.array([len(message) for message in messages], dtype=np.uint32)
        yield Pieces(content, (np.cumsum(sizes, dtype=np.uint32) - sizes).astype(np.uint32), sizes)
        return
    if len(packets) and is_unchanged(delivery):
        starts, sizes = packets["offset"], packets["captured_bytes"]
        if frame_kernels.count_outside(starts, sizes, len(content)):
            raise InternalError("a packet table points beyond its payload", where=delivery.source)
        yield Pieces(content, starts, sizes)
    elif len(content):
        yield whole(content)


def line_pieces(delivery: Delivery) -> Iterator[Pieces]:
    """The JSON lines of all records, without their newlines."""
    for _, lines in delivery.records:
        content = as_bytes(lines)
        count = frame_kernels.find_lines(content, _NO_OFFSETS, _NO_OFFSETS)
        starts, sizes = np.empty((2, count), dtype=np.uint32)
        frame_kernels.find_lines(content, starts, sizes)
        yield Pieces(content, starts, sizes)


def record_pieces(delivery: Delivery) -> Iterator[Pieces]:
    """The JSON lines as they are, newlines included, one piece per record type."""
    for _, lines in delivery.records:
        yield whole(as_bytes(lines))


def pieces_of(delivery: Delivery, content: Content) -> Iterator[Pieces]:
    """What a delivery has to say, in order."""
    return payload_pieces(delivery) if content == "payload" else line_pieces(delivery)


@dataclass(slots=True)
class Chunk:
    """Frames of some whole deliveries, in memory of its own."""

    content: memoryview
    segments: int


class FrameBuilder:
    """Builds the bytes that go into a stream.

    Args:
        content: what of each delivery.
        framing: how a reader finds the pieces again; ``raw`` puts them one behind the other (records keep
            their newlines).
        chunk_bytes: deliveries are gathered up to about this size.
    """

    def __init__(self, content: Content, framing: Framing, chunk_bytes: int) -> None:
        if content == "records" and framing != "length":
            framing = "raw"  # the lines bring their newlines along
            self._cut = record_pieces
        else:
            self._cut = payload_pieces if content == "payload" else line_pieces
        self._prefix = framing == "length"
        self._newline = framing == "newline"
        self._overhead = OVERHEAD_BYTES[framing]
        self.chunk_bytes = chunk_bytes

    def chunks(self, batch: DeliveryBatch) -> Iterator[Chunk]:
        """The batch, cut between deliveries; deliveries without content are left out."""
        gathered: list[Pieces] = []
        size, segments = 0, 0
        for delivery in batch:
            before = size
            for pieces in self._cut(delivery):
                gathered.append(pieces)
                size += int(pieces.sizes.sum(dtype=np.int64)) + len(pieces.sizes) * self._overhead
            segments += size > before
            if size >= self.chunk_bytes:
                yield self._build(gathered, size, segments)
                gathered, size, segments = [], 0, 0
        if size:
            yield self._build(gathered, size, segments)

    def _build(self, gathered: list[Pieces], size: int, segments: int) -> Chunk:
        out = np.empty(size, dtype=np.uint8)
        position = 0
        for pieces in gathered:
            position = frame_kernels.write_frames(
                pieces.content, pieces.starts, pieces.sizes, self._prefix, self._newline, out, position
            )
        return Chunk(out.data, segments)
