"""Stage meter in the worker: one delta per flow of a segment, however it is cut."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamspec.core.errors import StageError
from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS
from streamspec.stages.decode import DecodeStage
from streamspec.stages.flow_rows import DELTA, NEVER_FIRST, NEVER_LAST
from streamspec.stages.flow_table import FlowTable
from streamspec.stages.meter import MeterConfig, MeterStage
from streamspec.testing.stages import RecordingContext, make_segment, run_stage
from tests.stages.flow_chain import Chain, Packet, one_way, packet_segment, plain

SECOND = 10**9
START_NS = 1_700_000_000 * SECOND
SYN, FIN, RST, ACK = 2, 1, 4, 16


def tcp(
    source: str, destination: str, flags: int = ACK, *, ports: tuple[int, int] = (1000, 80), vlan: int = 0
) -> bytes:
    """An Ethernet frame of a TCP packet without payload; of IPv6 when the addresses are."""
    ends = ip_address(source).packed, ip_address(destination).packed
    transport = struct.pack("!HHIIHHHH", *ports, 0, 0, 0x5000 | flags, 0, 0, 0)
    if len(ends[0]) == 4:
        kind, packet = 0x0800, struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 9, 6, 0, *ends) + transport
    else:
        kind, packet = 0x86DD, struct.pack("!IHBB16s16s", 6 << 28, 20, 6, 9, *ends) + transport
    tags = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return bytes(12) + tags + struct.pack("!H", kind) + packet


def icmp(source: str, destination: str, kind: int) -> bytes:
    ends = ip_address(source).packed, ip_address(destination).packed
    return bytes(12) + struct.pack("!HBBHHHBBH4s4sBB6x", 0x0800, 0x45, 0, 28, 0, 0, 9, 1, 0, *ends, kind, 0)


A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def deltas_of(packets: list[Packet], **meter: Any) -> np.ndarray[Any, Any]:
    """The deltas of one segment."""
    segment = packet_segment(packets)
    run_stage(DecodeStage(), segment)
    context = run_stage(MeterStage(**meter), segment)
    return np.frombuffer(b"".join(context.deltas), dtype=DELTA)


def at(seconds: float, packet: bytes) -> Packet:
    return START_NS + round(seconds * SECOND), packet, len(packet)


def test_both_directions_of_a_flow_are_one_delta() -> None:
    packets = [
        at(0, tcp(B, A, SYN, ports=(9, 80))),
        at(1, tcp(A, B, SYN | ACK, ports=(80, 9))),
        at(2, tcp(B, A, ports=(9, 80))),
    ]
    (delta,) = deltas_of(packets)
    assert (delta["a_port"], delta["b_port"], delta["protocol"], delta["ip_version"]) == (80, 9, 6, 4)
    assert delta["initiator"] == 1
    assert delta["opening"] == 1
    assert delta["packets"].tolist() == [1, 2]
    assert delta["octets"].tolist() == [40, 80]
    assert delta["tcp_flags"].tolist() == [SYN | ACK, SYN | ACK]
    assert delta["first_ns"].tolist() == [START_NS + SECOND, START_NS]
    assert delta["last_ns"].tolist() == [START_NS + SECOND, START_NS + 2 * SECOND]


def test_a_direction_without_packets_has_no_times() -> None:
    (delta,) = deltas_of([at(0, tcp(A, B))])
    assert delta["packets"].tolist() == [1, 0]
    assert delta["first_ns"][1] == NEVER_FIRST
    assert delta["last_ns"][1] == NEVER_LAST


def test_icmp_request_and_reply_are_one_flow_of_the_type_that_came_first() -> None:
    (delta,) = deltas_of([at(0, icmp(A, B, 8)), at(1, icmp(B, A, 0))])
    assert delta["icmp_type_code"] == 8 * 256
    assert delta["packets"].tolist() == [1, 1]
    assert delta["tcp_flags"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("seconds", "packets"),
    [
        pytest.param([0, 30], [2], id="pause-of-idle-timeout"),
        pytest.param([0, 30.1], [1, 1], id="longer-pause"),
        pytest.param([40, 0], [1, 1], id="far-back"),
        pytest.param([10, 0, 20], [3], id="a-little-back"),
        pytest.param([0, 20, 37], [3], id="within-span"),
        pytest.param([0, 20, 38], [2, 1], id="longer-than-span"),
        pytest.param([0, 1, 40, 41], [2, 2], id="two-bursts"),
    ],
)
def test_a_delta_ends_at_a_pause_and_at_the_longest_span(seconds: list[float], packets: list[int]) -> None:
    made = deltas_of([at(second, tcp(A, B)) for second in seconds])
    assert made["packets"][:, 0].tolist() == packets


def test_each_opening_of_a_connection_begins_a_delta() -> None:
    flags = [SYN, ACK, FIN | ACK, SYN, SYN, ACK]
    made = deltas_of([at(i / 10, tcp(A, B, flag)) for i, flag in enumerate(flags)])
    assert made["packets"][:, 0].tolist() == [3, 1, 2]
    assert made["opening"].tolist() == [1, 1, 1]


def test_the_vlan_divides_flows_only_where_it_is_part_of_the_key() -> None:
    packets = [at(0, tcp(A, B, vlan=7)), at(0, tcp(A, B, vlan=8)), at(0, tcp(A, B, vlan=7))]
    (delta,) = deltas_of(packets)
    assert (delta["vlan"], delta["key_vlan"], delta["packets"][0]) == (7, 0, 3)
    made = deltas_of(packets, vlan_in_key=True)
    assert made["vlan"].tolist() == made["key_vlan"].tolist() == [7, 8]
    assert made["packets"][:, 0].tolist() == [2, 1]


def test_equal_addresses_are_ordered_by_port() -> None:
    packets = [at(0, tcp(A, A, ports=(5, 6))), at(0, tcp(A, A, ports=(6, 5))), at(0, tcp(A, A, ports=(5, 5)))]
    made = deltas_of(packets)
    assert made["packets"].tolist() == [[1, 1], [1, 0]]


def test_packets_without_ip_are_in_no_flow() -> None:
    segment = packet_segment(plain([bytes(12) + b"\x08\x06" + bytes(28)]))
    run_stage(DecodeStage(), segment)
    assert run_stage(MeterStage(), segment).deltas == []


def test_messages_pass_untouched() -> None:
    segment = make_segment([b"text"], content=CONTENT_MESSAGES)
    assert run_stage(MeterStage(), segment).deltas == []


def test_packets_that_were_not_decoded_are_refused() -> None:
    with pytest.raises(StageError, match="put a stage of type decode before it"):
        run_stage(MeterStage(), make_segment([b"x"], content=CONTENT_PACKETS))


def test_tables_grow_with_the_segment_and_serve_the_next_one() -> None:
    meter, decode = MeterStage(), DecodeStage()
    meter.open()
    for packets in (10, 5000, 3):
        segment = packet_segment(plain([tcp(A, B, ports=(1 + i, 80)) for i in range(packets)] * 2))
        decode.process(segment, RecordingContext())
        context = run_stage(meter, segment)
        made = np.frombuffer(context.deltas[0], dtype=DELTA)
        assert made["packets"][:, 0].tolist() == [2] * packets


def test_flows_whose_hashes_collide_are_still_told_apart() -> None:
    packets = plain([tcp(A, B, ports=(1 + i % 100, 80)) for i in range(1000)])
    segment = packet_segment(packets)
    run_stage(DecodeStage(), segment)
    segment.notes["decoded"]["flow_hash"] = 5
    table = FlowTable(max_flows=1000)
    for delta in run_stage(MeterStage(), segment).deltas:
        table.merge(memoryview(delta))
    totals = one_way(Chain(table=table).records())
    assert len(totals) == 100
    assert set(totals.values()) == {(10, 400)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"idle_timeout": 0},
        {"idle_timeout": "10 min"},
        {"end_linger": "31 s"},
        {"max_flows": 0},
        {"active": 5},
    ],
)
def test_configuration_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MeterConfig(type="meter", **wrong)


def test_configuration_builds_both_halves() -> None:
    config = MeterConfig(type="meter", idle_timeout="30 s", active_timeout="5 min", max_flows=10)
    assert isinstance(config.build(), MeterStage)
    assert isinstance(config.build_reducer(), FlowTable)


# -- properties --------------------------------------------------------------------------------
HOSTS_4 = [A, B, C]
HOSTS_6 = ["2001:db8::1", "2001:db8::2"]


@st.composite
def traffic(draw: st.DrawFn) -> list[Packet]:
    """Packets of a few flows within a second, sometimes a little out of order."""
    packets = []
    now_ns = START_NS
    for _ in range(draw(st.integers(1, 60))):
        now_ns += draw(st.integers(-2_000_000, 10_000_000))
        source = draw(st.sampled_from(HOSTS_4 + HOSTS_6))
        destination = draw(st.sampled_from(HOSTS_6 if ":" in source else HOSTS_4))
        ports = draw(st.sampled_from([(1000, 80), (80, 1000), (1001, 80), (80, 80)]))
        frame = tcp(source, destination, draw(st.integers(0, 31)), ports=ports)
        packets.append((now_ns, frame, len(frame)))
    return packets


@settings(deadline=None, max_examples=60)
@given(traffic())
def test_deltas_add_up_to_the_packets(packets: list[Packet]) -> None:
    segment = packet_segment(packets)
    run_stage(DecodeStage(), segment)
    made = np.frombuffer(b"".join(run_stage(MeterStage(), segment).deltas), dtype=DELTA)
    expected: dict[tuple[bytes, bytes, int, int], list[int]] = {}
    for row, (stamp, _, _) in zip(segment.notes["decoded"], packets, strict=True):
        key = (
            row["source_address"].tobytes(),
            row["destination_address"].tobytes(),
            int(row["source_port"]),
            int(row["destination_port"]),
        )
        sums = expected.setdefault(key, [0, 0, stamp, stamp, 0])
        sums[0] += 1
        sums[1] += int(row["ip_bytes"])
        sums[2] = min(sums[2], stamp)
        sums[3] = max(sums[3], stamp)
        sums[4] |= int(row["tcp_flags"])
    found: dict[tuple[bytes, bytes, int, int], list[int]] = {}
    for delta in made:
        a, b = delta["a_address"].tobytes(), delta["b_address"].tobytes()
        ports = int(delta["a_port"]), int(delta["b_port"])
        for side, key in enumerate([(a, b, *ports), (b, a, *ports[::-1])]):
            if delta["packets"][side]:
                sums = found.setdefault(key, [0, 0, NEVER_FIRST, NEVER_LAST, 0])
                sums[0] += int(delta["packets"][side])
                sums[1] += int(delta["octets"][side])
                sums[2] = min(sums[2], int(delta["first_ns"][side]))
                sums[3] = max(sums[3], int(delta["last_ns"][side]))
                sums[4] |= int(delta["tcp_flags"][side])
    assert found == expected


@settings(deadline=None, max_examples=60)
@given(traffic(), st.data())
def test_where_segments_are_cut_and_which_worker_has_them_does_not_matter(
    packets: list[Packet], data: st.DataObject
) -> None:
    whole = Chain(table=FlowTable(max_flows=100, seed=1))
    whole.feed(packets)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(packets)), max_size=12)) | {0, len(packets)})
    parts = Chain(workers=3, table=FlowTable(max_flows=100, seed=2))
    for begin, end in pairwise(cuts):
        parts.feed(packets[begin:end], worker=data.draw(st.integers(0, 2)))
    assert sorted(map(str, parts.records())) == sorted(map(str, whole.records()))
