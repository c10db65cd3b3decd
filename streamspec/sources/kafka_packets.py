"""Records of Kafka that hold packets: one packet, packets with a length before each, or a capture file.

The value is copied into a slot as it is and walked there by the kernels of the ``tcp`` and ``pcap`` sources, so
that a value with thousands of packets costs Python as much as one with a single packet.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from streamspec.core.interfaces import Intake
from streamspec.core.segment import CONTENT_PACKETS
from streamspec.sources.framing_kernels import TOO_LARGE, scan_length_frames
from streamspec.sources.kafka_intake import MILLISECOND_NS, Group, MessageIntake, Units
from streamspec.sources.pcap_formats import FILE_HEADER_BYTES, CaptureFormat, ClassicFormat
from streamspec.sources.pcapng import BlockFormat

PacketFraming = Literal["single", "length", "capture"]


class PacketIntake(MessageIntake):
    """Records as segments of packets; each record is one segment.

    Args:
        framing: how packets lie in a value.
        link_type: of the packets, where no capture says it.
    """

    content = CONTENT_PACKETS

    def __init__(
        self, intake: Intake, units: Units, *, framing: PacketFraming, link_type: int, from_production: bool
    ) -> None:
        super().__init__(intake, units, gather_bytes=0, from_production=from_production)
        self._framing = framing
        self._link_type = link_type
        self._words = intake.memory[: len(intake.memory) // 8 * 8].view(np.int64)

    def _copy(self, slot: int, at: int, group: Group) -> tuple[int, int, int, str]:
        size, _, _, fault = super()._copy(slot, at, group)
        if fault:
            return size, 0, self._link_type, fault
        timestamp_ns = group[0].timestamp * MILLISECOND_NS
        if self._framing == "single":
            return size, 1, self._link_type, ""
        if self._framing == "length":
            rows, fault = self._index_frames(slot, size, timestamp_ns)
            return size, rows, self._link_type, fault
        return (size, *self._index_capture(slot, size))

    def _table(self, slot: int) -> int:
        return (self._intake.offset(slot) + self._intake.layout.packets_offset) // 8

    def _index_frames(self, slot: int, size: int, timestamp_ns: int) -> tuple[int, str]:
        intake = self._intake
        rows, position, needed = scan_length_frames(
            intake.memory,
            self._words,
            intake.offset(slot),
            self._table(slot),
            intake.layout.packet_capacity,
            0,
            0,
            size,
            0,
            size,
            timestamp_ns,
        )
        if position == size:
            return rows, ""
        if rows == intake.layout.packet_capacity:
            return rows, f"more packets in one record than engine.segment_packets ({rows})"
        what = (
            "announces more bytes than the record has" if needed == TOO_LARGE or needed > size - position else "is cut"
        )
        return rows, f"packet {rows} at byte {position} {what}"

    def _index_capture(self, slot: int, size: int) -> tuple[int, int, str]:
        payload, rows = self._intake.payload(slot), self._intake.packets(slot)
        head = payload[: min(size, FILE_HEADER_BYTES)].tobytes()
        format: CaptureFormat | None = None
        if len(head) == FILE_HEADER_BYTES:
            format = BlockFormat.recognise(head, False) or ClassicFormat.recognise(head, False)
        if format is None:
            return 0, 0, "the value is not a capture file"
        start = format.first_position
        count, used, link_type = format.index(payload[start:size], size - start, True, rows)
        rows["offset"][:count] += np.uint32(start)
        if start + used < size or format.counts.any():
            if count == len(rows):
                return count, link_type, f"more packets in one record than engine.segment_packets ({count})"
            return count, link_type, f"the capture is damaged behind packet {count}"
        return count, link_type, ""
