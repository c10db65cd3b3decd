"""Packets to flows on one core: the kernels of ``decode`` and ``meter``, and the stages around them.

``python -m benchmarks.flow_kernels [--json] [--packets 1000000] [--segment-bytes 65536] [--rounds 3]``

About a million packets are laid out in memory from the Ethernet captures of the folder of real captures
(``STREAMSPEC_CAPTURES``; generated packets where there is none), repeated with later times each round, cut
into segments. As in the service, each segment is written into one of a few slots just before it is worked on;
that copy is not counted. Times are CPU time of this thread, the best of the rounds, in nanoseconds a packet.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streamspec.core.interfaces import Bytes, Rows
from streamspec.core.segment import CONTENT_PACKETS, LINK_ETHERNET, PACKET
from streamspec.stages.decode import DecodeStage
from streamspec.stages.decoded import DECODED, STATUS_NAMES
from streamspec.stages.flow_rows import DELTA, aligned_zeros
from streamspec.stages.flow_table import FlowTable
from streamspec.stages.meter import MeterStage
from streamspec.testing.stages import RecordingContext, StageSegment

CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[2] / "shared" / "pcaps"))
SLOTS = 32
PACKETS_PER_SEGMENT = 2048


@dataclass
class Traffic:
    """Segments of packets: where each lies, and its packet table with offsets from its own start."""

    source: str
    memory: Bytes
    segments: list[tuple[int, int, Rows]] = field(default_factory=list)
    packets: int = 0

    def batches(self) -> Iterator[list[tuple[int, int, Rows]]]:
        """A few segments at a time."""
        for start in range(0, len(self.segments), SLOTS):
            yield self.segments[start : start + SLOTS]


def captured_packets(folder: Path) -> list[tuple[int, bytes]]:
    """Packets of all Ethernet captures that dpkt reads, one capture behind the other."""
    import dpkt

    found: list[tuple[int, bytes]] = []
    for path in sorted(folder.glob("*.pcap*")):
        with path.open("rb") as file:
            try:
                reader = dpkt.pcap.UniversalReader(file)
                if reader.datalink() & 0xFFFF == LINK_ETHERNET:
                    found += [(int(seconds * 1e9), packet) for seconds, packet in reader]
            except (ValueError, dpkt.UnpackError):
                continue
    return found


def generated_packets(flows: int = 5000, packets: int = 170_000) -> list[tuple[int, bytes]]:
    """TCP and UDP over IPv4 of the size mix of real links."""
    rng = np.random.default_rng(1)
    found = []
    for number, flow in enumerate(rng.zipf(1.3, packets) % flows):
        size = int(rng.choice([0, 30, 500, 1400]))
        protocol = 6 if flow % 3 else 17
        transport = struct.pack("!HH", 1024 + int(flow), 443)
        transport += bytes([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]) if protocol == 6 else bytes(4)
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(transport) + size, 0, 0, 64, protocol, 0,
                         struct.pack("!I", 0x0A000000 + int(flow)), b"\xc0\xa8\x00\x01")  # fmt: skip
        found.append((number * 10_000, bytes(12) + b"\x08\x00" + ip + transport + bytes(size)))
    return found


def lay_out(packets: list[tuple[int, bytes]], source: str, total: int, segment_bytes: int) -> Traffic:
    """Repeat the packets up to ``total`` and cut them into segments."""
    sizes = np.array([len(packet) for _, packet in packets], dtype=np.int64)
    stamps = np.array([stamp % 2**62 for stamp, _ in packets], dtype=np.int64)
    # captures of many years behind one another: gaps are clamped, so that time goes forward
    times = 10**18 + np.cumsum(np.clip(np.diff(stamps, prepend=stamps[0]), 0, 10**9))
    starts = np.cumsum(sizes) - sizes
    traffic = Traffic(source, np.frombuffer(b"".join(packet for _, packet in packets), dtype=np.uint8))
    shift_ns = int(times[-1] - times[0]) + 10**9
    round_number = 0
    while traffic.packets < total:
        first = 0
        while first < len(packets) and traffic.packets < total:
            last = int(np.searchsorted(starts + sizes, starts[first] + segment_bytes, side="right"))
            last = min(max(last, first + 1), first + PACKETS_PER_SEGMENT, len(packets))
            table = np.zeros(last - first, dtype=PACKET)
            table["timestamp_ns"] = times[first:last] + round_number * shift_ns
            table["captured_bytes"] = table["wire_bytes"] = sizes[first:last]
            table["offset"] = starts[first:last] - starts[first]
            begin, end = int(starts[first]), int(starts[last - 1] + sizes[last - 1])
            traffic.segments.append((begin, end, table))
            traffic.packets += last - first
            first = last
        round_number += 1
    return traffic


class Slots:
    """Memory that segments are written into before they are worked on, as a source does."""

    def __init__(self, segment_bytes: int) -> None:
        self._memory = np.zeros((SLOTS, segment_bytes + 65536 * 4), dtype=np.uint8)

    def fill(self, traffic: Traffic, batch: Sequence[tuple[int, int, Rows]]) -> list[tuple[Bytes, Rows]]:
        """Copy the segments of a batch in."""
        filled = []
        for slot, (begin, end, table) in enumerate(batch):
            payload = self._memory[slot, : end - begin]
            payload[:] = traffic.memory[begin:end]
            filled.append((payload, table.copy()))
        return filled


def run_kernels(traffic: Traffic, slots: Slots) -> dict[str, float]:
    """CPU time of each kernel over all packets, in ns per packet."""
    from streamspec.stages.decode_kernels import decode_packets
    from streamspec.stages.meter_kernels import aggregate

    rows = [aligned_zeros(PACKETS_PER_SEGMENT, DECODED) for _ in range(SLOTS)]
    deltas = [aligned_zeros(PACKETS_PER_SEGMENT, DELTA) for _ in range(SLOTS)]
    counts = np.zeros(len(STATUS_NAMES), dtype=np.int64)
    table = np.zeros(2 * PACKETS_PER_SEGMENT, dtype=np.int64)
    flows = FlowTable()
    spent = dict.fromkeys(("decode", "aggregate", "merge", "write"), 0)
    generation = delta_count = record_count = 0
    now_ns = time.thread_time_ns
    for batch in traffic.batches():
        filled = slots.fill(traffic, batch)
        began = now_ns()
        for (payload, packets), into in zip(filled, rows, strict=False):
            decode_packets(payload, packets, LINK_ETHERNET, True, into[: len(packets)], counts)
        decoded = now_ns()
        made = []
        for (_, packets), of, into in zip(filled, rows, deltas, strict=False):
            generation += 1
            size = len(packets)
            made.append(aggregate(of[:size], packets, 30 * 10**9, 37 * 10**9, False, generation, table, into))
        aggregated = now_ns()
        for into, count in zip(deltas, made, strict=False):
            flows.merge(into[:count].view(np.uint8).data)
        merged = now_ns()
        record_count += sum(count for _, _, count in flows.collect(final=False))
        spent["write"] += now_ns() - merged
        spent["decode"] += decoded - began
        spent["aggregate"] += aggregated - decoded
        spent["merge"] += merged - aggregated
        delta_count += sum(made)
    result = {f"{name}_ns": value / traffic.packets for name, value in spent.items()}
    result |= {"deltas": delta_count, "records": record_count + sum(c for _, _, c in flows.collect(final=True))}
    return result


def run_stages(traffic: Traffic, slots: Slots) -> dict[str, float]:
    """CPU time of both stages and the reducer as the engine calls them, in ns per packet."""
    decode, meter, flows = DecodeStage(), MeterStage(), FlowTable()
    spent = 0
    for batch in traffic.batches():
        segments = [
            StageSegment(payload, packets, payload.data, content=CONTENT_PACKETS, link_type=LINK_ETHERNET)
            for payload, packets in slots.fill(traffic, batch)
        ]
        context = RecordingContext()
        began = time.thread_time_ns()
        for segment in segments:
            decode.process(segment, context)
            meter.process(segment, context)
            flows.merge(memoryview(context.deltas.pop()) if context.deltas else memoryview(b""))
        flows.collect(final=False)
        spent += time.thread_time_ns() - began
    return {"stages_ns": spent / traffic.packets}


def run_records(flows: int = 200_000) -> dict[str, float]:
    """Flow records per second, encoded to JSON lines."""
    table = FlowTable(max_flows=flows)
    deltas = aligned_zeros(flows, DELTA)
    rng = np.random.default_rng(2)
    for column in ("a_tail", "b_tail"):
        deltas[column] = (rng.integers(0, 2**32, flows, dtype=np.uint64) << np.uint64(32)) | np.uint64(0xFFFF0000)
    deltas["ip_version"], deltas["protocol"], deltas["a_port"], deltas["b_port"] = 4, 6, 443, 50000
    deltas["packets"], deltas["octets"], deltas["tcp_flags"] = 12, 3456, 0x1B
    deltas["first_ns"], deltas["last_ns"] = 1_700_000_000_123_456_789, 1_700_000_001_123_456_789
    for start in range(0, flows, 1000):
        table.merge(deltas[start : start + 1000].view(np.uint8).data)
    began = time.thread_time_ns()
    written = sum(count for _, _, count in table.collect(final=True))
    return {"records_per_second": written / (time.thread_time_ns() - began) * 1e9}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; ``--json`` prints one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--segment-bytes", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    packets = captured_packets(CAPTURES) if CAPTURES.is_dir() else []
    source = "captures" if packets else "generated"
    traffic = lay_out(packets or generated_packets(), source, options.packets, options.segment_bytes)
    slots = Slots(options.segment_bytes)
    run_kernels(Traffic("warm-up", traffic.memory, traffic.segments[:1], 1), slots)
    rounds = [run_kernels(traffic, slots) | run_stages(traffic, slots) | run_records() for _ in range(options.rounds)]
    best: dict[str, Any] = {
        name: (max if name == "records_per_second" else min)(one[name] for one in rounds) for name in rounds[0]
    }
    best |= {"packets": traffic.packets, "segments": len(traffic.segments), "source": traffic.source}
    best["packets_per_second"] = 1e9 / best["stages_ns"]
    if options.json:
        print(json.dumps(best))
        return 0
    print(f"{best['packets']:,} packets ({best['source']}) in {best['segments']:,} segments, ns a packet:")
    for name in ("decode", "aggregate", "merge", "write"):
        print(f"  {name:<10} {best[f'{name}_ns']:6.1f}")
    print(f"  stages     {best['stages_ns']:6.1f}   = {best['packets_per_second'] / 1e6:.1f} million packets/s")
    print(f"{best['deltas']:,} deltas, {best['records']:,} records ({best['records_per_second']:,.0f}/s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
