"""The whole of decode and meter on packets at hand: packets in, flow records out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import numpy as np

from streamspec.core.segment import CONTENT_PACKETS
from streamspec.core.tally import Tally
from streamspec.stages.decode import DecodeStage
from streamspec.stages.flow_table import FlowTable
from streamspec.stages.meter import MeterStage
from streamspec.testing.stages import RecordingContext, StageSegment, make_segment

Packet = tuple[int, bytes, int]
"""Time in nanoseconds, bytes, length on the wire."""


def packet_segment(packets: Sequence[Packet], link_type: int = 1) -> StageSegment:
    """A segment of these packets."""
    segment = make_segment(
        [data for _, data, _ in packets],
        [stamp for stamp, _, _ in packets],
        content=CONTENT_PACKETS,
        link_type=link_type,
    )
    segment.packets["wire_bytes"] = [wire for _, _, wire in packets]
    return segment


def plain(packets: Sequence[bytes], *, gap_ns: int = 1000, start_ns: int = 10**18) -> list[Packet]:
    """Whole packets at equal distances in time."""
    return [(start_ns + i * gap_ns, data, len(data)) for i, data in enumerate(packets)]


class Chain:
    """A worker's two stages (several workers share one table) and the reducer."""

    def __init__(
        self, *, tunnels: str = "inner", workers: int = 1, table: FlowTable | None = None, **meter: Any
    ) -> None:
        self.decoders = [DecodeStage(inner=tunnels == "inner") for _ in range(workers)]
        self.meters = [MeterStage(**meter) for _ in range(workers)]
        self.table = FlowTable(max_flows=100_000) if table is None else table
        self.tally = Tally()

    def feed(self, packets: Sequence[Packet], link_type: int = 1, worker: int = 0) -> np.ndarray[Any, Any]:
        """One segment; returns a copy of the decoded rows."""
        segment = packet_segment(packets, link_type)
        context = RecordingContext(tally=self.tally)
        self.decoders[worker].process(segment, context)
        self.meters[worker].process(segment, context)
        for delta in context.deltas:
            self.table.merge(memoryview(delta))
        return segment.notes["decoded"].copy()

    def records(self, *, final: bool = True) -> list[dict[str, Any]]:
        """What the reducer gives now."""
        return [
            json.loads(line)
            for record_type, lines, count in self.table.collect(final=final)
            for line in checked(record_type, lines, count)
        ]


def checked(record_type: str, lines: bytes | memoryview, count: int) -> list[bytes]:
    """The lines of one batch; their number is what the reducer says."""
    assert record_type == "flow"
    text = bytes(lines)
    assert text.endswith(b"\n")
    split = text[:-1].split(b"\n")
    assert len(split) == count
    return split


def one_way(records: Sequence[dict[str, Any]]) -> dict[tuple[bytes, bytes, int, int, int], tuple[int, int]]:
    """Packets and bytes per direction, keyed as in ``flow_reference``, summed over records."""
    totals: dict[tuple[bytes, bytes, int, int, int], tuple[int, int]] = {}
    for record in records:
        version = "6" if "sourceIPv6Address" in record else "4"
        source = ip_address(record[f"sourceIPv{version}Address"]).packed
        destination = ip_address(record[f"destinationIPv{version}Address"]).packed
        ports = record["sourceTransportPort"], record["destinationTransportPort"]
        protocol = record["protocolIdentifier"]
        for key, prefix in (
            ((source, destination, protocol, *ports), ""),
            ((destination, source, protocol, *ports[::-1]), "reverse"),
        ):
            packets = record[f"{prefix}PacketDeltaCount" if prefix else "packetDeltaCount"]
            octets = record[f"{prefix}OctetDeltaCount" if prefix else "octetDeltaCount"]
            if packets:
                before = totals.get(key, (0, 0))
                totals[key] = (before[0] + packets, before[1] + octets)
    return totals
