"""Finished segments as sinks see them: views of slots, made only when a sink looks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamspec.core.interfaces import Rows, Slots
from streamspec.core.segment import HEADER, PACKET, PAYLOAD_BY_MESSAGE
from streamspec.engine import wire
from streamspec.engine.arena import Arena

_FIELDS = HEADER.fields
assert _FIELDS is not None
# segment_id, arrival_ns, timestamp_ns | length, packets, source, content, link_type, key_bytes, meta_bytes
_INTAKE = struct.Struct("<Q16xqq16xIIH2xHHHH")
# payload_offset, payload_bytes, payload_in_output, records_bytes, delta_bytes, error_bytes
_RESULT = struct.Struct("<IIIIII")
_RESULT_AT = _FIELDS["payload_offset"][1]
_NOTHING = memoryview(b"")
_SIZE_BYTES = 4


class SlotDelivery:
    """Implements ``Delivery`` on a slot; valid while the slot is held. Views are made when they are asked for: most
    sinks look at few of them."""

    __slots__ = (
        "_error_bytes",
        "_in_output",
        "_key_bytes",
        "_meta_bytes",
        "_payload_bytes",
        "_payload_offset",
        "_records_bytes",
        "_results_bytes",
        "_sizes_bytes",
        "_slot",
        "_source",
        "_view",
        "arrival_ns",
        "content",
        "length",
        "link_type",
        "packet_count",
        "segment_id",
        "timestamp_ns",
    )

    def __init__(self, view: DeliveryView, slot: int) -> None:
        self._view = view
        self._slot = slot
        base = slot * HEADER.itemsize
        (
            self.segment_id,
            self.arrival_ns,
            self.timestamp_ns,
            self.length,
            self.packet_count,
            self._source,
            self.content,
            self.link_type,
            self._key_bytes,
            self._meta_bytes,
        ) = _INTAKE.unpack_from(view.memory, base)
        (
            self._payload_offset,
            self._payload_bytes,
            self._in_output,
            self._records_bytes,
            delta_bytes,
            self._error_bytes,
        ) = _RESULT.unpack_from(view.memory, base + _RESULT_AT)
        self._results_bytes = self._records_bytes + delta_bytes
        self._sizes_bytes = _SIZE_BYTES * self.packet_count if self._in_output == PAYLOAD_BY_MESSAGE else 0

    @property
    def source(self) -> str:
        name: str = self._view.source_names[self._source]
        return name

    @property
    def original(self) -> memoryview:
        start = self._view.arena.offset(self._slot)
        return self._view.memory[start : start + self.length]

    @property
    def key(self) -> bytes:
        return self._meta(0, self._key_bytes)

    @property
    def meta(self) -> bytes:
        return self._meta(self._key_bytes, self._key_bytes + self._meta_bytes)

    def _meta(self, first: int, end: int) -> bytes:
        start = self._view.arena.offset(self._slot) + self._view.arena.layout.meta_offset
        return bytes(self._view.memory[start + first : start + end])

    @property
    def payload(self) -> memoryview:
        if self._in_output:
            return self._view.output_of(self._slot)[self._payload_offset : self._payload_offset + self._payload_bytes]
        start = self._view.arena.offset(self._slot) + self._payload_offset
        return self._view.memory[start : start + self._payload_bytes]

    @property
    def messages(self) -> Sequence[memoryview]:
        if not self._sizes_bytes:
            return ()
        output = self._view.output_of(self._slot)
        made, start = [], self._payload_offset
        for size in output[self._payload_bytes : self._payload_bytes + self._sizes_bytes].cast("I").tolist():
            made.append(output[start : start + size])
            start += size
        return made

    @property
    def packets(self) -> Rows:
        return self._view.arena.packets(self._slot)[: self.packet_count].view(PACKET)

    @property
    def records(self) -> Sequence[tuple[str, memoryview]]:
        if not self._records_bytes:
            return ()
        start = self._records_at
        return wire.decode_records(self._view.output_of(self._slot)[start : start + self._records_bytes])

    @property
    def error(self) -> str:
        if not self._error_bytes:
            return ""
        start = self._records_at + self._results_bytes
        text = self._view.output_of(self._slot)[start : start + self._error_bytes]
        return bytes(text).decode(errors="replace")

    @property
    def _records_at(self) -> int:
        return self._payload_bytes + self._sizes_bytes if self._in_output else 0


@dataclass(frozen=True, slots=True)
class RecordDelivery:
    """Implements ``Delivery`` for records of a reducer."""

    records: Sequence[tuple[str, memoryview]]
    count: int
    segment_id: int = 0
    source: str = ""
    key: bytes = b""
    meta: bytes = b""
    timestamp_ns: int = 0
    arrival_ns: int = 0
    length: int = 0
    content: int = 0
    link_type: int = 0
    error: str = ""
    payload: memoryview = _NOTHING
    messages: Sequence[memoryview] = ()
    original: memoryview = _NOTHING

    @property
    def packets(self) -> Rows:
        return np.zeros(0, dtype=PACKET)


class DeliveryView:
    """What all deliveries of one arena share."""

    def __init__(self, arena: Arena, source_names: list[str], spilled: Callable[[int], memoryview | None]) -> None:
        self.arena = arena
        self.memory = arena.memory.data.cast("B")
        self.source_names = source_names
        self._spilled = spilled

    def output_of(self, slot: int) -> memoryview:
        """The output region of a slot, or the file that stands for it."""
        spilled = self._spilled(slot)
        if spilled is not None:
            return spilled
        start = self.arena.offset(slot) + self.arena.layout.output_offset
        return self.memory[start : start + self.arena.layout.output_bytes]

    def deltas(self, slot: int) -> list[tuple[int, memoryview]]:
        """What the stages of a segment left for their reducers."""
        _, payload_bytes, in_output, records_bytes, delta_bytes, _ = _RESULT.unpack_from(
            self.memory, slot * HEADER.itemsize + _RESULT_AT
        )
        start = (payload_bytes if in_output else 0) + records_bytes
        if in_output == PAYLOAD_BY_MESSAGE:
            start += _SIZE_BYTES * int(self.arena.headers["packets"][slot])
        return wire.decode_deltas(self.output_of(slot)[start : start + delta_bytes])


class SlotBatch:
    """Implements ``DeliveryBatch`` over slots."""

    __slots__ = ("_view", "slots")

    def __init__(self, view: DeliveryView, slots: Slots) -> None:
        self._view = view
        self.slots = slots

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[SlotDelivery]:
        view = self._view
        for slot in self.slots.tolist():
            yield SlotDelivery(view, slot)


class RecordBatch:
    """Implements ``DeliveryBatch`` over one reducer's records."""

    __slots__ = ("_delivery",)

    def __init__(self, delivery: RecordDelivery) -> None:
        self._delivery = delivery

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[RecordDelivery]:
        yield self._delivery
