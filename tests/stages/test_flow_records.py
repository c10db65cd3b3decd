"""Flow records as JSON lines: names of IPFIX, text of addresses and times."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.stages.flow_records import BOTH, LONGEST_LINE_BYTES, write_lines
from streamspec.stages.flow_rows import FLOW, NEVER_FIRST, NEVER_LAST, aligned_zeros
from streamspec.stages.flow_table import FlowTable
from streamspec.stages.meter import MeterConfig
from tests.stages.flow_chain import Chain
from tests.stages.test_meter import ACK, A, B, at, icmp, tcp


def written(flow: Any) -> dict[str, Any]:
    """The record of one row; its line is within the bound."""
    out = np.zeros(LONGEST_LINE_BYTES, dtype=np.uint8)
    size = write_lines(flow, out, BOTH)
    record: dict[str, Any] = json.loads(out[:size].tobytes())
    return record


def test_a_whole_record() -> None:
    chain = Chain(table=FlowTable(timestamps="both"))
    chain.feed([at(0.123456789, tcp(A, B, 2, vlan=7)), at(0.5, tcp(B, A, 18, ports=(80, 1000)))])
    assert chain.records() == [
        {
            "type": "flow",
            "flowStartMilliseconds": 1700000000123,
            "flowEndMilliseconds": 1700000000500,
            "flowStartNanoseconds": "2023-11-14T22:13:20.123456789Z",
            "flowEndNanoseconds": "2023-11-14T22:13:20.500000000Z",
            "reverseFlowStartNanoseconds": "2023-11-14T22:13:20.500000000Z",
            "reverseFlowEndNanoseconds": "2023-11-14T22:13:20.500000000Z",
            "sourceIPv4Address": A,
            "destinationIPv4Address": B,
            "sourceTransportPort": 1000,
            "destinationTransportPort": 80,
            "protocolIdentifier": 6,
            "packetDeltaCount": 1,
            "octetDeltaCount": 40,
            "reversePacketDeltaCount": 1,
            "reverseOctetDeltaCount": 40,
            "tcpControlBits": 2,
            "reverseTcpControlBits": 18,
            "vlanId": 7,
            "flowEndReason": 4,
        }
    ]


def test_one_way_flows_have_no_reverse_times_and_zero_counts() -> None:
    chain = Chain(table=FlowTable(timestamps="both"))
    chain.feed([at(0, tcp("2001:db8::1", "2001:db8::2", ACK))])
    (record,) = chain.records()
    assert "reverseFlowStartNanoseconds" not in record
    assert (record["reversePacketDeltaCount"], record["reverseOctetDeltaCount"]) == (0, 0)
    assert (record["sourceIPv6Address"], record["octetDeltaCount"]) == ("2001:db8::1", 60)
    assert "vlanId" not in record


@pytest.mark.parametrize(
    ("timestamps", "names"),
    [
        ("milliseconds", ["flowStartMilliseconds", "flowEndMilliseconds"]),
        (
            "nanoseconds",
            [
                "flowStartNanoseconds",
                "flowEndNanoseconds",
                "reverseFlowStartNanoseconds",
                "reverseFlowEndNanoseconds",
            ],
        ),
    ],
)
def test_a_record_has_the_times_that_were_asked_for(timestamps: str, names: list[str]) -> None:
    table = MeterConfig.model_validate({"type": "meter", "timestamps": timestamps}).build_reducer()
    assert isinstance(table, FlowTable)
    chain = Chain(table=table)
    chain.feed([at(0, tcp(A, B, 2)), at(1, tcp(B, A, 18, ports=(80, 1000)))])
    (record,) = chain.records()
    assert [name for name in record if name.endswith("seconds")] == names


def test_icmp_has_type_and_code_and_no_flags() -> None:
    chain = Chain()
    chain.feed([at(0, icmp(A, B, 8))])
    (record,) = chain.records()
    assert record["icmpTypeCodeIPv4"] == 2048
    assert (record["sourceTransportPort"], record["destinationTransportPort"]) == (0, 0)
    assert "tcpControlBits" not in record


@pytest.mark.parametrize("version", [4, 6])
def test_the_longest_line_is_within_its_bound(version: int) -> None:
    flow = aligned_zeros(1, FLOW)
    flow.view(np.uint8)[:] = 255
    flow["ip_version"], flow["protocol"], flow["initiator"] = version, 6, 0
    flow["first_ns"], flow["last_ns"] = NEVER_LAST, NEVER_LAST
    record = written(flow)
    assert record["packetDeltaCount"] == record["reverseOctetDeltaCount"] == 2**64 - 1
    assert record["flowStartNanoseconds"] == "1677-09-21T00:12:43.145224192Z"


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**128 - 1), st.lists(st.integers(0, 7)), st.integers(0, 1))
def test_ipv6_addresses_are_as_python_writes_them(address: int, zeros: list[int], forward: int) -> None:
    packed = bytearray(address.to_bytes(16, "big"))
    for group in zeros:
        packed[2 * group : 2 * group + 2] = b"\0\0"
    flow = aligned_zeros(1, FLOW)
    flow["ip_version"], flow["initiator"] = 6, forward
    flow["a_address"] = list(packed)
    record = written(flow)
    ends = ["sourceIPv6Address", "destinationIPv6Address"]
    assert record[ends[forward]] == str(IPv6Address(bytes(packed)))
    assert record[ends[1 - forward]] == "::"


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 65535), st.integers(0, 2**64 - 1))
def test_ipv4_addresses_ports_and_counts(address: int, port: int, count: int) -> None:
    flow = aligned_zeros(1, FLOW)
    flow["ip_version"] = 4
    flow["b_address"][0, 12:] = list(address.to_bytes(4, "big"))
    flow["b_port"], flow["octets"] = port, [count, 0]
    record = written(flow)
    assert record["destinationIPv4Address"] == str(IPv4Address(address))
    assert (record["destinationTransportPort"], record["octetDeltaCount"]) == (port, count)


@settings(deadline=None, max_examples=100)
@given(st.integers(NEVER_LAST, NEVER_FIRST))
def test_times_are_as_python_writes_them(time_ns: int) -> None:
    flow = aligned_zeros(1, FLOW)
    flow["first_ns"], flow["last_ns"] = time_ns, time_ns
    record = written(flow)
    seconds, rest = divmod(time_ns, 10**9)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert record["flowStartNanoseconds"] == f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
    assert record["flowEndMilliseconds"] == time_ns // 10**6
