"""The reducer of meter: timeouts by scenario, a plain model beside the kernels, limits, and time that misbehaves."""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.interfaces import Reducer
from streamspec.stages import flow_table
from streamspec.stages.flow_rows import DELTA, NEVER_FIRST, NEVER_LAST, aligned_zeros
from streamspec.stages.flow_table import BATCH_ROWS, CHUNK_ROWS, FlowTable
from streamspec.stages.flow_table_kernels import BEHIND_LIMIT
from tests.stages.flow_chain import Chain
from tests.stages.test_meter import ACK, FIN, RST, SECOND, START_NS, SYN, A, B, at, tcp

PUSH = ACK | 8


def scenario(*steps: tuple[float, str, int]) -> list[tuple[float, bytes]]:
    """Seconds, ``>`` or ``<`` (the server's side) or a flow's number, flags."""
    packets = []
    for seconds, who, flags in steps:
        if who in "><":
            ends, ports = ((A, B), (1000, 80)) if who == ">" else ((B, A), (80, 1000))
        else:
            ends, ports = (A, B), (2000 + int(who), 80)
        packets.append((seconds, tcp(*ends, flags, ports=ports)))
    return packets


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(0, ">", ACK)], [(4, 1, 0)], id="end-of-stream"),
        pytest.param([(0, ">", ACK), (30, "<", ACK)], [(4, 1, 1)], id="not-yet-idle"),
        pytest.param([(0, ">", ACK), (30.1, ">", ACK)], [(1, 1, 0), (4, 1, 0)], id="idle"),
        pytest.param([(0, ">", ACK), (31, "1", ACK)], [(1, 1, 0), (4, 1, 0)], id="idle-by-the-time-of-others"),
        pytest.param([(0, ">", ACK), (20, ">", ACK), (40, "1", ACK)], [(4, 2, 0), (4, 1, 0)], id="kept-alive"),
        pytest.param(
            [(second, ">", ACK) for second in range(0, 320, 20)],
            [(4, 16, 0)],
            id="up-to-the-active-timeout",
        ),
        pytest.param(
            [(second, ">" if second else "<", ACK) for second in range(0, 340, 20)],
            [(2, 1, 15), (4, 0, 1)],
            id="active-timeout-keeps-the-initiator",
        ),
        pytest.param(
            [(0, ">", SYN), (0, "<", SYN | ACK), (1, ">", FIN), (1, "<", FIN), (1.1, ">", ACK), (3.2, "1", ACK)],
            [(3, 3, 2), (4, 1, 0)],
            id="finished-by-both",
        ),
        pytest.param([(0, ">", FIN), (3, "1", ACK)], [(4, 1, 0), (4, 1, 0)], id="finished-by-one-only"),
        pytest.param([(0, ">", ACK), (0, "<", RST), (3, "1", ACK)], [(3, 1, 1), (4, 1, 0)], id="reset"),
        pytest.param(
            [(0, "<", RST), (1.5, ">", ACK), (3, "1", ACK), (4, "1", ACK)], [(3, 1, 1), (4, 2, 0)], id="straggler"
        ),
        pytest.param(
            [(0, ">", SYN), (0.1, ">", FIN), (0.1, "<", FIN), (0.2, ">", SYN), (0.3, "<", SYN | ACK)],
            [(3, 2, 1), (4, 1, 1)],
            id="port-used-again",
        ),
        pytest.param([(0, ">", SYN), (1, ">", SYN), (2, "<", SYN | ACK)], [(4, 2, 1)], id="repeated-opening"),
        pytest.param([(0, "<", RST)], [(3, 1, 0)], id="ended-at-end-of-stream"),
        pytest.param([(5, ">", ACK), (0, "<", ACK)], [(4, 1, 1)], id="back-in-time-within-idle"),
    ],
)
@pytest.mark.parametrize("one_segment", [False, True])
def test_scenarios(
    steps: list[tuple[float, str, int]], expected: list[tuple[int, int, int]], one_segment: bool
) -> None:
    packets = [at(seconds, packet) for seconds, packet in scenario(*steps)]
    chain = Chain()
    if one_segment:
        chain.feed(packets)
    else:
        for packet in packets:
            chain.feed([packet])
    records = chain.records()
    found = [(r["flowEndReason"], r["packetDeltaCount"], r["reversePacketDeltaCount"]) for r in records]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize("segments", [1, 2])
def test_packets_further_back_than_the_idle_timeout_are_another_flow(segments: int) -> None:
    chain = Chain()
    packets = [at(100, tcp(A, B)), at(0, tcp(A, B))]
    for part in [packets] if segments == 1 else [packets[:1], packets[1:]]:
        chain.feed(part)
    assert [r["flowStartMilliseconds"] // 1000 for r in chain.records()] == [1_700_000_100, 1_700_000_000]


def test_the_sender_of_the_earliest_packet_is_the_initiator_whatever_comes_first() -> None:
    chain = Chain()
    chain.feed([at(2, tcp(A, B))])
    chain.feed([at(1, tcp(B, A, ports=(80, 1000)))])
    (record,) = chain.records()
    assert (record["sourceIPv4Address"], record["sourceTransportPort"]) == (B, 80)


def test_the_initiator_stays_through_the_active_timeout() -> None:
    chain = Chain()
    for second in range(0, 320, 20):
        chain.feed([at(second, tcp(B, A, ports=(80, 1000)) if second == 0 else tcp(A, B))])
    chain.feed([at(320, tcp(A, B))])
    records = chain.records()
    assert [r["flowEndReason"] for r in records] == [2, 4]
    assert {r["sourceIPv4Address"] for r in records} == {B}


def test_records_cover_no_more_than_the_active_timeout() -> None:
    chain = Chain()
    for begin in range(0, 3000, 100):
        chain.feed([at(begin + step / 2, tcp(A, B)) for step in range(200)])
    records = chain.records()
    spans = [r["flowEndMilliseconds"] - r["flowStartMilliseconds"] for r in records]
    assert max(spans) <= 300_000
    assert min(spans[:-1]) >= 260_000
    assert sum(r["packetDeltaCount"] for r in records) == 6000


def test_records_come_out_as_soon_as_they_are_due() -> None:
    chain = Chain()
    chain.feed([at(0, tcp(A, B))])
    assert chain.records(final=False) == []
    assert chain.table.live_flows == 1
    chain.feed([at(40, tcp(A, B, ports=(5, 6)))])
    assert [r["flowEndReason"] for r in chain.records(final=False)] == [1]
    assert chain.table.live_flows == 1
    assert len(chain.records(final=True)) == 1
    assert chain.table.live_flows == 0
    assert chain.table.collect(final=True) == []


def test_a_full_table_gives_up_the_flow_idle_for_longest() -> None:
    chain = Chain(table=FlowTable(max_flows=2))
    for second, port in enumerate([1, 2, 1, 3, 4]):
        chain.feed([at(second, tcp(A, B, ports=(port, 80)))])
    assert [(r["sourceTransportPort"], r["flowEndReason"]) for r in chain.records(final=False)] == [(2, 5), (1, 5)]
    assert chain.table.live_flows == 2


def test_a_full_table_gives_up_ended_flows_first() -> None:
    chain = Chain(table=FlowTable(max_flows=2))
    chain.feed(
        [at(0, tcp(A, B, ports=(1, 80))), at(0.1, tcp(A, B, RST, ports=(2, 80))), at(0.2, tcp(A, B, ports=(3, 80)))]
    )
    assert [(r["sourceTransportPort"], r["flowEndReason"]) for r in chain.records(final=False)] == [(2, 3)]


def test_a_packet_from_the_far_future_stops_expiry_for_a_while_only() -> None:
    chain = Chain()
    chain.feed([at(10**9, tcp(A, B, ports=(1, 80)))])
    for step in range(BEHIND_LIMIT):
        chain.feed([at(step * 0.01, tcp(A, B, ports=(2, 80)))])
    assert chain.records(final=False) == []
    chain.feed([at(60, tcp(A, B, ports=(3, 80)))])
    reasons = {r["sourceTransportPort"]: r["flowEndReason"] for r in chain.records(final=False)}
    assert reasons == {1: 1, 2: 1}


def test_two_sources_whose_clocks_are_years_apart_do_not_disturb_each_other() -> None:
    chain = Chain()
    for second in range(0, 100, 10):
        chain.feed([at(second, tcp(A, B, ports=(1, 80)))])
        chain.feed([at(second - 10**8, tcp(A, B, ports=(2, 80)))])
    records = chain.records()
    assert [(r["flowEndReason"], r["packetDeltaCount"]) for r in records] == [(4, 10), (4, 10)]


# -- deltas made by hand -----------------------------------------------------------------------
def make_deltas(count: int) -> Any:
    """Deltas of as many UDP flows, one packet each at the same time."""
    deltas = aligned_zeros(count, DELTA)
    deltas["a_tail"] = np.arange(count)
    deltas["b_tail"] = 7
    deltas["ip_version"], deltas["protocol"] = 6, 17
    deltas["packets"], deltas["octets"] = [1, 0], [100, 0]
    deltas["first_ns"], deltas["last_ns"] = [START_NS, NEVER_FIRST], [START_NS, NEVER_LAST]
    return deltas


def test_the_index_grows_and_every_flow_is_found_again() -> None:
    deltas = make_deltas(20_000)
    table = FlowTable(max_flows=30_000)
    for _ in range(3):
        for start in range(0, 20_000, 700):
            table.merge(memoryview(deltas[start : start + 700].tobytes()))
    assert table.live_flows == 20_000
    records = Chain(table=table).records()
    assert {r["packetDeltaCount"] for r in records} == {3}
    assert len({r["sourceIPv6Address"] for r in records}) == 20_000


def test_one_merge_may_bring_more_than_a_batch_of_records_holds() -> None:
    deltas = make_deltas(3 * CHUNK_ROWS + 5)
    table = FlowTable(max_flows=10)
    table.merge(memoryview(deltas.tobytes()))
    assert sum(count for _, _, count in table.collect(final=False)) == len(deltas) - 10
    later = make_deltas(1)
    later["last_ns"][:, 0] = later["first_ns"][:, 0] = START_NS + 100 * SECOND
    table.merge(memoryview(later.tobytes()))
    assert table.live_flows == 1


def test_many_flows_may_expire_at_once() -> None:
    table = FlowTable(max_flows=20_000)
    for part in np.array_split(make_deltas(19_000), 40):
        table.merge(memoryview(part.tobytes()))
    later = make_deltas(19_001)[19_000:]
    later["last_ns"][:, 0] = later["first_ns"][:, 0] = START_NS + 31 * SECOND
    table.merge(memoryview(later.tobytes()))
    batches = table.collect(final=False)
    assert sum(count for _, _, count in batches) == 19_000
    assert all(count <= BATCH_ROWS for _, _, count in batches)
    assert table.live_flows == 1


def test_memory_of_rows_is_used_again() -> None:
    table = FlowTable(max_flows=10_000)
    deltas = make_deltas(100)
    for round_number in range(50):
        moved = deltas.copy().view(DELTA)
        moved["a_tail"] += 1000 * round_number
        moved["first_ns"][:, 0] += 40 * SECOND * round_number
        moved["last_ns"][:, 0] += 40 * SECOND * round_number
        table.merge(memoryview(moved.tobytes()))
    assert int(np.count_nonzero(table._flows["ip_version"])) <= 200


def test_it_is_a_reducer() -> None:
    reducer: Reducer = FlowTable(max_flows=1)
    assert reducer.collect(final=False) == []


# -- a plain model -----------------------------------------------------------------------------
@dataclass
class PlainFlow:
    """What the table keeps of a flow with one direction."""

    first_ns: int
    last_ns: int
    packets: int = 0
    flags: int = 0
    ended: bool = False


@dataclass
class PlainTable:
    """The table as dictionaries in order of the last packet."""

    max_flows: int
    idle_ns: int = 30 * SECOND
    active_ns: int = 300 * SECOND
    linger_ns: int = 2 * SECOND
    now_ns: int = -(2**62)
    alive: OrderedDict[int, tuple[PlainFlow, int]] = field(default_factory=OrderedDict)
    ended: OrderedDict[int, tuple[PlainFlow, int]] = field(default_factory=OrderedDict)
    records: list[tuple[int, int, int, int]] = field(default_factory=list)

    def merge(self, key: int, first_ns: int, last_ns: int, flags: int, opening: bool) -> None:
        self.now_ns = max(self.now_ns, last_ns)
        flow, _ = self.alive.pop(key, None) or self.ended.pop(key, None) or (None, 0)
        if flow is None:
            if len(self.alive) + len(self.ended) == self.max_flows:
                source, reason = (self.ended, 3) if self.ended else (self.alive, 5)
                old, (gone, _) = source.popitem(last=False)
                self._close(old, gone, reason)
            flow = PlainFlow(first_ns, last_ns)
        else:
            reason = self._reason(flow, first_ns, last_ns, opening)
            if reason:
                self._close(key, flow, reason)
                flow = PlainFlow(first_ns, last_ns)
        flow.packets += 1
        flow.flags |= flags
        flow.first_ns, flow.last_ns = min(flow.first_ns, first_ns), max(flow.last_ns, last_ns)
        flow.ended = flow.ended or bool(flow.flags & RST)
        (self.ended if flow.ended else self.alive)[key] = (flow, self.now_ns)
        self._expire(self.alive, self.idle_ns, 1)
        self._expire(self.ended, self.linger_ns, 3)

    def _reason(self, flow: PlainFlow, first_ns: int, last_ns: int, opening: bool) -> int:
        if flow.ended and opening:
            return 3
        if first_ns - flow.last_ns > self.idle_ns or flow.first_ns - last_ns > self.idle_ns:
            return 3 if flow.ended else 1
        return 2 if max(flow.last_ns, last_ns) - min(flow.first_ns, first_ns) > self.active_ns else 0

    def _expire(self, flows: OrderedDict[int, tuple[PlainFlow, int]], timeout_ns: int, reason: int) -> None:
        while flows:
            key, (flow, touched_ns) = next(iter(flows.items()))
            if self.now_ns - touched_ns <= timeout_ns:
                return
            del flows[key]
            self._close(key, flow, reason)

    def _close(self, key: int, flow: PlainFlow, reason: int) -> None:
        self.records.append((key, reason, flow.packets, flow.first_ns))

    def finish(self) -> None:
        for flows, reason in ((self.alive, 4), (self.ended, 3)):
            for key, (flow, _) in flows.items():
                self._close(key, flow, reason)


STEP = st.tuples(
    st.integers(1, 12),  # key
    st.sampled_from([0, 0.001, 0.5, 1.5, 3, 20, 31, -5, -50]),  # seconds on from the step before
    st.sampled_from([0, 0.5, 10]),  # length of the delta
    st.sampled_from([0, 0, 0, RST]),
    st.booleans(),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(STEP, max_size=120), st.integers(1, 6), st.integers(0, 2**62))
def test_the_table_does_what_a_plain_one_does(
    steps: list[tuple[int, float, float, int, bool]], max_flows: int, seed: int
) -> None:
    original, flow_table.SMALLEST_INDEX = flow_table.SMALLEST_INDEX, 16  # so that keys collide and gaps close
    try:
        table, model = FlowTable(max_flows=max_flows, seed=seed), PlainTable(max_flows)
    finally:
        flow_table.SMALLEST_INDEX = original
    now_ns = START_NS
    for key, pause, length, flags, opening in steps:
        now_ns += round(pause * SECOND)
        last_ns = now_ns + round(length * SECOND)
        table.merge(_delta(key, now_ns, last_ns, flags, opening))
        model.merge(key, now_ns, last_ns, flags, opening)
    model.finish()
    found = [
        (r["destinationTransportPort"], r["flowEndReason"], r["packetDeltaCount"], r["flowStartMilliseconds"])
        for r in Chain(table=table).records()
    ]
    assert found == [(key, reason, packets, first // 10**6) for key, reason, packets, first in model.records]


def _delta(key: int, first_ns: int, last_ns: int, flags: int, opening: bool) -> memoryview:
    """One packet from ``a`` to ``b``, packed column by column as ``DELTA`` says."""
    packed = struct.pack("<QQQQ", 0, 0xFFFF0000, 0, 0xFFFF0000) + struct.pack("<HHBBH", 1, key, 6, 4, 0)
    packed += struct.pack("<QQqqqq", 40, 0, first_ns, NEVER_FIRST, last_ns, NEVER_LAST)
    packed += struct.pack("<IIHHHHBB6x", 1, 0, flags, 0, 0, 0, 0, opening)
    assert len(packed) == DELTA.itemsize
    return memoryview(packed)
