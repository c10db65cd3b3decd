"""Runs the kernels of decode and meter on a fixed set of bad packets and prints digests of what came out.

``python -m tests.stages.kernel_probe``; with ``NUMBA_DISABLE_JIT=1`` as plain Python, where numpy checks every
index. Each packet lies right before a page that may not be touched, so compiled code that reads one byte too
many dies of it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import random

import numpy as np

from streamspec.core.segment import CONTENT_PACKETS, PACKET
from streamspec.stages.decode import DecodeStage
from streamspec.stages.flow_table import FlowTable
from streamspec.stages.meter import MeterStage
from streamspec.testing.stages import RecordingContext, StageSegment
from tests.stages import test_decode as samples
from tests.stages.flow_chain import packet_segment

PAGE = mmap.PAGESIZE


def templates() -> list[tuple[int, bytes]]:
    """Link type and packet: one of each kind that ``test_decode`` knows."""
    found: list[tuple[int, bytes]] = []
    for mark in samples.test_link_layers_lead_to_ip.pytestmark:
        found += [(case.values[0], case.values[1]) for case in mark.args[1]]
    for mark in samples.test_tunnels_are_opened_or_left_closed_as_configured.pytestmark:
        if mark.args[0] != "outer_version":
            found += [(1, samples.ethernet(samples.ipv4(case.values[1], case.values[0]))) for case in mark.args[1]]
    for mark in samples.test_ipv6_extension_headers_are_walked.pytestmark:
        for case in mark.args[1]:
            packet = samples.ipv6(case.values[1] + samples.UDP, case.values[0])
            found.append((1, samples.ethernet(packet, 0x86DD)))
    found += [(1, samples.ethernet(samples.INNER)), (1, samples.ethernet(samples.ipv4(bytes(12), 132)))]
    return found


def variants() -> list[tuple[int, bytes]]:
    """Every template cut off at every length, and with bytes changed."""
    rng = random.Random(7)
    found = []
    for link_type, packet in templates():
        found += [(link_type, packet[:size]) for size in range(len(packet) + 1)]
        for _ in range(40):
            changed = bytearray(packet[: rng.randrange(len(packet) + 1)])
            for _ in range(rng.randrange(3)):
                if changed:
                    changed[rng.randrange(len(changed))] = rng.choice([0, 1, 4, 0x45, 0x7F, 0xFF, rng.randrange(256)])
            found.append((link_type, bytes(changed)))
    return found


def guarded_pages() -> tuple[mmap.mmap, np.ndarray]:
    """A mapping of two pages, and the first as an array; the second may not be touched."""
    mapping = mmap.mmap(-1, 2 * PAGE)
    memory = np.frombuffer(mapping, dtype=np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(memory.ctypes.data + PAGE), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return mapping, memory[:PAGE]


def decode_digest() -> str:
    """Of the rows of all variants, each at the very end of readable memory."""
    _mapping, memory = guarded_pages()
    digest = hashlib.sha256()
    stages = [DecodeStage(inner=True), DecodeStage(inner=False)]
    for link_type, packet in variants():
        place = memory[PAGE - len(packet) :]
        place[:] = np.frombuffer(packet, dtype=np.uint8)
        table = np.zeros(1, dtype=PACKET)
        table["captured_bytes"] = table["wire_bytes"] = len(packet)
        for stage in stages:
            segment = StageSegment(place, table, place.data, content=CONTENT_PACKETS, link_type=link_type)
            stage.process(segment, RecordingContext())
            digest.update(segment.notes["decoded"].tobytes())
    return digest.hexdigest()


def meter_digest() -> str:
    """Of the records of all variants in a table that is too small, with times that jump."""
    rng = random.Random(8)
    decode, meter, table = DecodeStage(), MeterStage(), FlowTable(max_flows=7, seed=1)
    digest = hashlib.sha256()
    now_ns = 10**18
    packets = [(link_type, packet) for link_type, packet in variants() if packet]
    for start in range(0, len(packets), 25):
        timed = []
        for _, packet in packets[start : start + 25]:
            now_ns += rng.choice([0, 1000, 10**9, 10**9, 20 * 10**9, 40 * 10**9, -(10**10)])
            timed.append((now_ns, packet, len(packet) + rng.choice([0, 0, 100])))
        segment = packet_segment(timed, packets[start][0])
        context = RecordingContext()
        decode.process(segment, context)
        meter.process(segment, context)
        for delta in context.deltas:
            digest.update(delta)
            table.merge(memoryview(delta))
        for _, lines, _ in table.collect(final=False):
            digest.update(lines)
    for _, lines, _ in table.collect(final=True):
        digest.update(lines)
    return digest.hexdigest()


if __name__ == "__main__":
    np.seterr(over="ignore")  # hashes multiply modulo 2**64
    print(json.dumps({"packets": len(variants()), "decode": decode_digest(), "meter": meter_digest()}))
