"""Finished segments as sinks see them: views of slots, made only when a sink looks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamspec.core.interfaces import Rows, Slots
from streamspec.core.segment import HEADER, PACKET
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


class SlotDelivery:
    """Implements ``Delivery`` on a slot; valid while the slot is held."""

    __slots__ = (
        "_records_at",
        "_records_bytes",
        "_slot",
        "_view",
        "arrival_ns",
        "content",
        "error",
        "key",
        "length",
        "link_type",
        "meta",
        "original",
        "packet_count",
        "payload",
        "segment_id",
        "source",
        "timestamp_ns",
    )

    def __init__(self, view: DeliveryView, slot: int) -> None:
        self._view = view
        self._slot = slot
        memory, layout = view.memory, view.arena.layout
        base = slot * HEADER.itemsize
        (
            self.segment_id,
            self.arrival_ns,
            self.timestamp_ns,
            self.length,
            self.packet_count,
            source,
            self.content,
            self.link_type,
            key_bytes,
            meta_bytes,
        ) = _INTAKE.unpack_from(memory, base)
        self.source = view.source_names[source]
        offset, payload_bytes, in_output, records_bytes, delta_bytes, error_bytes = _RESULT.unpack_from(
            memory, base + _RESULT_AT
        )
        start = view.arena.offset(slot)
        self.original: memoryview = memory[start : start + self.length]
        key_at = start + layout.meta_offset
        self.key = bytes(memory[key_at : key_at + key_bytes])
        self.meta = bytes(memory[key_at + key_bytes : key_at + key_bytes + meta_bytes])
        self._records_at = payload_bytes if in_output else 0
        self._records_bytes = records_bytes
        if in_output:
            self.payload: memoryview = view.output_of(slot)[offset : offset + payload_bytes]
        else:
            self.payload = memory[start + offset : start + offset + payload_bytes]
        self.error = ""
        if error_bytes:
            error_at = self._records_at + records_bytes + delta_bytes
            self.error = bytes(view.output_of(slot)[error_at : error_at + error_bytes]).decode(errors="replace")

    @property
    def packets(self) -> Rows:
        return self._view.arena.packets(self._slot)[: self.packet_count].view(PACKET)

    @property
    def records(self) -> Sequence[tuple[str, memoryview]]:
        if not self._records_bytes:
            return ()
        output = self._view.output_of(self._slot)
        return wire.decode_records(output[self._records_at : self._records_at + self._records_bytes])

    def deltas(self) -> list[tuple[int, memoryview]]:
        """What its stages left for their reducers."""
        *_, records_bytes, delta_bytes, _ = _RESULT.unpack_from(
            self._view.memory, self._slot * HEADER.itemsize + _RESULT_AT
        )
        start = self._records_at + records_bytes
        return wire.decode_deltas(self._view.output_of(self._slot)[start : start + delta_bytes])


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
