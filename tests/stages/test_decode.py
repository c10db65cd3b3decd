"""Stage decode: one packet of each kind, properties over generated and random packets, counts by kind."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS
from streamspec.stages import decoded
from streamspec.stages.decode import DecodeConfig, DecodeStage
from streamspec.stages.decoded import STATUS_NAMES
from streamspec.testing.stages import RecordingContext, make_segment, run_stage
from tests.stages.flow_chain import packet_segment

MACS = bytes.fromhex("020000000001020000000002")
LINK_TYPES = (0, 1, 9, 12, 14, 50, 101, 104, 108, 113, 228, 229, 276, 147)

# -- building packets by hand ------------------------------------------------------------------
UDP = struct.pack("!HHHH", 5000, 53, 12, 0) + b"data"
TCP = struct.pack("!HHIIHHHH", 40000, 80, 1, 2, 0x5018, 512, 0, 0) + b"GET /"
A4, B4 = ip_address("192.0.2.1").packed, ip_address("198.51.100.7").packed
A6, B6 = ip_address("2001:db8::1").packed, ip_address("2001:db8::2").packed


def ipv4(payload: bytes, protocol: int = 17, *, options: bytes = b"", word: int = 0, total: int | None = None) -> bytes:
    header_bytes = 20 + len(options)
    total = header_bytes + len(payload) if total is None else total
    return (
        struct.pack("!BBHHHBBH4s4s", 0x40 | header_bytes // 4, 0, total, 1, word, 64, protocol, 0, A4, B4)
        + options
        + payload
    )


def ipv6(payload: bytes, protocol: int = 17, size: int | None = None) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload) if size is None else size, protocol, 60, A6, B6) + payload


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    return MACS + struct.pack("!H", kind) + payload


def tag(number: int, payload: bytes, kind: int = 0x0800) -> bytes:
    return struct.pack("!HH", number, kind) + payload


def label(number: int, payload: bytes, *, bottom: bool = True) -> bytes:
    return struct.pack("!I", number << 12 | bottom << 8 | 64) + payload


def decode_one(packet: bytes, link_type: int = 1, *, wire: int | None = None, tunnels: str = "inner") -> Any:
    """The row of one packet, as a dictionary."""
    segment = packet_segment([(0, packet, len(packet) if wire is None else wire)], link_type)
    run_stage(DecodeStage(inner=tunnels == "inner"), segment)
    row = segment.notes[decoded.NOTE][0]
    described = {name: row[name].item() for name in decoded.DECODED.names[2:]}
    for name in ("source_address", "destination_address"):
        packed = row[name].tobytes()
        described[name] = str(ip_address(packed[12:] if row["ip_version"] == 4 else packed))
    payload = segment.original[described["payload_offset"] :][: described["payload_bytes"]]
    return described | {"status": STATUS_NAMES[row["status"]], "payload": payload.tobytes()}


V4 = ipv4(UDP)
V6 = ipv6(UDP)
PPPOE = struct.pack("!BBHH", 0x11, 0, 7, len(V4) + 2)
SNAP = b"\xaa\xaa\x03\0\0\0"


@pytest.mark.parametrize(
    ("link_type", "packet", "l3_offset", "vlan"),
    [
        pytest.param(1, ethernet(V4), 14, 0, id="ethernet"),
        pytest.param(1, ethernet(V4 + bytes(18)), 14, 0, id="ethernet-padded"),
        pytest.param(1, ethernet(V6, 0x86DD), 14, 0, id="ethernet-ipv6"),
        pytest.param(1, ethernet(tag(0xE123, V4), 0x8100), 18, 0x123, id="vlan"),
        pytest.param(1, ethernet(tag(5, tag(6, V4), 0x8100), 0x88A8), 22, 5, id="qinq"),
        pytest.param(1, ethernet(tag(5, tag(6, V6, 0x86DD), 0x8100), 0x9100), 22, 5, id="qinq-9100"),
        pytest.param(1, ethernet(tag(0, tag(6, V4), 0x8100), 0x8100), 22, 6, id="priority-tag"),
        pytest.param(1, ethernet(label(3, V4), 0x8847), 18, 0, id="mpls"),
        pytest.param(1, ethernet(label(3, label(4, V6), bottom=False), 0x8847), 22, 0, id="mpls-stack"),
        pytest.param(1, ethernet(label(3, ethernet(V4)), 0x8847), 32, 0, id="mpls-pseudowire"),
        pytest.param(1, ethernet(label(3, bytes(4) + ethernet(V4)), 0x8848), 36, 0, id="mpls-control-word"),
        pytest.param(1, ethernet(PPPOE + b"\0\x21" + V4, 0x8864), 22, 0, id="pppoe"),
        pytest.param(1, ethernet(PPPOE + b"\x57" + V6, 0x8864), 21, 0, id="pppoe-short-protocol"),
        pytest.param(1, ethernet(SNAP + b"\x08\0" + V4, 60), 22, 0, id="snap"),
        pytest.param(1, ethernet(b"\x06\x06\x03" + V4, 60), 17, 0, id="llc"),
        pytest.param(113, bytes(14) + b"\x08\0" + V4, 16, 0, id="sll"),
        pytest.param(113, bytes(14) + b"\x81\0" + tag(9, V4), 20, 9, id="sll-vlan"),
        pytest.param(113, bytes(14) + b"\0\x04" + SNAP + b"\x08\0" + V4, 24, 0, id="sll-llc"),
        pytest.param(276, b"\x86\xdd" + bytes(18) + V6, 20, 0, id="sll2"),
        pytest.param(101, V4, 0, 0, id="raw-4"),
        pytest.param(101, V6, 0, 0, id="raw-6"),
        pytest.param(12, V6, 0, 0, id="raw-12"),
        pytest.param(14, V4, 0, 0, id="raw-14"),
        pytest.param(228, V4, 0, 0, id="ipv4"),
        pytest.param(229, V6, 0, 0, id="ipv6"),
        pytest.param(0, struct.pack("<I", 2) + V4, 4, 0, id="null-little"),
        pytest.param(0, struct.pack(">I", 2) + V4, 4, 0, id="null-big"),
        pytest.param(0, struct.pack("<I", 30) + V6, 4, 0, id="null-darwin-6"),
        pytest.param(108, struct.pack(">I", 24) + V6, 4, 0, id="loop-6"),
        pytest.param(9, b"\xff\x03\0\x21" + V4, 4, 0, id="ppp"),
        pytest.param(9, b"\0\x57" + V6, 2, 0, id="ppp-no-address"),
        pytest.param(9, b"\x02\x81" + label(1, V4), 6, 0, id="ppp-mpls"),
        pytest.param(50, b"\xff\x03\0\x21" + V4, 4, 0, id="ppp-hdlc"),
        pytest.param(104, b"\x0f\0\x08\0" + V4, 4, 0, id="cisco-hdlc"),
    ],
)
def test_link_layers_lead_to_ip(link_type: int, packet: bytes, l3_offset: int, vlan: int) -> None:
    row = decode_one(packet, link_type)
    assert row["status"] == "ok"
    assert (row["l3_offset"], row["vlan"], row["tunnel_depth"]) == (l3_offset, vlan, 0)
    assert (row["source_port"], row["destination_port"], row["protocol"]) == (5000, 53, 17)
    assert row["payload"] == b"data"
    if row["ip_version"] == 4:
        assert (row["source_address"], row["destination_address"]) == ("192.0.2.1", "198.51.100.7")
        assert (row["ip_bytes"], row["ttl"]) == (32, 64)
    else:
        assert (row["source_address"], row["destination_address"]) == ("2001:db8::1", "2001:db8::2")
        assert (row["ip_bytes"], row["ttl"]) == (52, 60)


def gre(flags: int, kind: int, optional: bytes, payload: bytes) -> bytes:
    return struct.pack("!HH", flags, kind) + optional + payload


VXLAN = struct.pack("!HHHH", 60000, 4789, 0, 0) + b"\x08\0\0\0\0\0\x07\0"
ROUTE = struct.pack("!HBB", 2048, 0, 4) + bytes(4) + bytes(4)
INNER = ipv4(TCP, 6)


@pytest.mark.parametrize(
    ("protocol", "content"),
    [
        pytest.param(4, INNER, id="ip-in-ip"),
        pytest.param(41, ipv6(TCP, 6), id="6in4"),
        pytest.param(47, gre(0, 0x0800, b"", INNER), id="gre"),
        pytest.param(47, gre(0x8000, 0x0800, bytes(4), INNER), id="gre-checksum"),
        pytest.param(47, gre(0x2000, 0x86DD, bytes(4), ipv6(TCP, 6)), id="gre-key"),
        pytest.param(47, gre(0x3000, 0x0800, bytes(8), INNER), id="gre-key-sequence"),
        pytest.param(47, gre(0xB000, 0x0800, bytes(12), INNER), id="gre-all"),
        pytest.param(47, gre(0x4000, 0x0800, bytes(4) + ROUTE, INNER), id="gre-routing"),
        pytest.param(47, gre(0, 0x6558, b"", ethernet(INNER)), id="gre-ethernet"),
        pytest.param(47, gre(0, 0x6558, b"", ethernet(tag(7, INNER), 0x8100)), id="gre-ethernet-vlan"),
        pytest.param(47, gre(0, 0x8847, b"", label(7, INNER)), id="gre-mpls"),
        pytest.param(47, gre(0x3081, 0x880B, bytes(12), b"\xff\x03\0\x21" + INNER), id="gre-pptp"),
        pytest.param(47, gre(0x1000, 0x88BE, bytes(4), bytes(8) + ethernet(INNER)), id="erspan-2"),
        pytest.param(47, gre(0, 0x88BE, b"", ethernet(INNER)), id="erspan-1"),
        pytest.param(47, gre(0x1000, 0x22EB, bytes(4), bytes(12) + ethernet(INNER)), id="erspan-3"),
        pytest.param(47, gre(0x1000, 0x22EB, bytes(4), bytes(11) + b"\1" + bytes(8) + ethernet(INNER)), id="erspan-3o"),
        pytest.param(17, VXLAN + ethernet(INNER), id="vxlan"),
        pytest.param(17, VXLAN + ethernet(ipv6(TCP, 6), 0x86DD), id="vxlan-6"),
    ],
)
@pytest.mark.parametrize("outer_version", [4, 6])
def test_tunnels_are_opened_or_left_closed_as_configured(protocol: int, content: bytes, outer_version: int) -> None:
    outer = ipv4(content, protocol) if outer_version == 4 else ipv6(content, protocol)
    packet = ethernet(outer, 0x0800 if outer_version == 4 else 0x86DD)
    row = decode_one(packet)
    assert (row["status"], row["tunnel_depth"]) == ("ok", 1)
    assert (row["protocol"], row["source_port"], row["destination_port"]) == (6, 40000, 80)
    assert row["tcp_flags"] == 0x018
    assert row["payload"] == b"GET /"
    assert row["ip_bytes"] in (45, 65)
    closed = decode_one(packet, tunnels="outer")
    assert (closed["protocol"], closed["tunnel_depth"], closed["ip_version"]) == (protocol, 0, outer_version)
    assert closed["ip_bytes"] == len(outer)


def test_the_innermost_of_nested_tunnels_is_described_until_three_deep() -> None:
    packet = ipv4(ipv4(ipv4(INNER, 4), 4), 4)
    assert decode_one(ethernet(packet))["tunnel_depth"] == 3
    row = decode_one(ethernet(ipv4(packet, 4)))
    assert (row["status"], row["tunnel_depth"], row["protocol"]) == ("tunnels_too_deep", 3, 4)


@pytest.mark.parametrize(
    ("protocol", "content", "status"),
    [
        pytest.param(4, b"\x65" + INNER[1:], "malformed_tunnel", id="wrong-version"),
        pytest.param(4, INNER[:15], "malformed_tunnel", id="cut-off"),
        pytest.param(17, VXLAN + ethernet(bytes(28), 0x0806), "ok", id="vxlan-arp"),
        pytest.param(17, VXLAN[:8] + bytes(8) + ethernet(INNER), "ok", id="vxlan-without-flag"),
        pytest.param(17, VXLAN[:11], "ok", id="short-on-vxlan-port"),
        pytest.param(17, VXLAN + MACS, "malformed_tunnel", id="vxlan-cut-off"),
        pytest.param(47, gre(0, 0x0001, b"", bytes(20)), "ok", id="gre-keepalive"),
        pytest.param(47, b"\0\0", "ok", id="gre-cut-off"),
        pytest.param(47, gre(0x4000, 0x0800, bytes(4), bytes([0, 1, 0, 0]) * 20), "ok", id="gre-endless-routing"),
        pytest.param(47, gre(0x2081, 0x880B, bytes(8), b""), "ok", id="pptp-acknowledgement"),
    ],
)
def test_a_tunnel_without_sound_ip_inside_is_described_by_its_outer_packet(
    protocol: int, content: bytes, status: str
) -> None:
    row = decode_one(ethernet(ipv4(content, protocol)))
    assert (row["status"], row["tunnel_depth"], row["protocol"]) == (status, 0, protocol)
    assert row["ip_bytes"] == 20 + len(content)


def extension(following: int, units: int = 0) -> bytes:
    return bytes([following, units]) + bytes(6 + 8 * units)


@pytest.mark.parametrize(
    ("first", "chain"),
    [
        pytest.param(0, extension(17), id="hop-by-hop"),
        pytest.param(60, extension(17, 3), id="destination"),
        pytest.param(43, extension(0x2C) + bytes([17, 0, 0, 0, 0, 0, 0, 1]), id="routing-atomic-fragment"),
        pytest.param(51, bytes([17, 4]) + bytes(22), id="authentication"),
        pytest.param(0, extension(43) + extension(60) + extension(139) + extension(17), id="four"),
    ],
)
def test_ipv6_extension_headers_are_walked(first: int, chain: bytes) -> None:
    row = decode_one(ethernet(ipv6(chain + UDP, first), 0x86DD))
    assert (row["status"], row["protocol"], row["source_port"], row["payload"]) == ("ok", 17, 5000, b"data")
    assert row["ip_bytes"] == 40 + len(chain) + len(UDP)


def test_ipv4_options_are_skipped() -> None:
    row = decode_one(ethernet(ipv4(UDP, options=bytes([1] * 40))))
    assert (row["source_port"], row["payload"], row["ip_bytes"]) == (5000, b"data", 72)


@pytest.mark.parametrize(
    ("packet", "kind", "fragment", "ports"),
    [
        (ipv4(UDP, word=0x4000), 0x0800, decoded.FRAGMENT_FORBIDDEN, (5000, 53)),
        (ipv4(UDP, word=0x2000), 0x0800, decoded.FRAGMENT_MORE, (5000, 53)),
        (ipv4(UDP, word=0x2001), 0x0800, decoded.FRAGMENT_MORE | decoded.FRAGMENT_LATER, (0, 0)),
        (ipv4(UDP, word=0x0042), 0x0800, decoded.FRAGMENT_LATER, (0, 0)),
        (ipv6(bytes([17, 0, 0, 1, 0, 0, 0, 9]) + UDP, 44), 0x86DD, decoded.FRAGMENT_MORE, (5000, 53)),
        (ipv6(bytes([17, 0, 0, 8, 0, 0, 0, 9]) + UDP, 44), 0x86DD, decoded.FRAGMENT_LATER, (0, 0)),
    ],
)
def test_fragments_have_ports_only_in_the_first(
    packet: bytes, kind: int, fragment: int, ports: tuple[int, int]
) -> None:
    row = decode_one(ethernet(packet, kind))
    assert (row["status"], row["fragment"]) == ("ok", fragment)
    assert (row["source_port"], row["destination_port"]) == ports
    assert row["payload"] == (b"data" if ports[0] else UDP)


def test_fragments_of_tunnels_are_not_opened() -> None:
    row = decode_one(ethernet(ipv4(INNER, 4, word=0x2000)))
    assert (row["status"], row["protocol"], row["tunnel_depth"]) == ("ok", 4, 0)


@pytest.mark.parametrize(
    ("protocol", "content", "ports", "payload"),
    [
        (132, struct.pack("!HHII", 7, 9, 1, 2) + b"chunk", (7, 9), b"chunk"),
        (136, struct.pack("!HHHH", 7, 9, 8, 0) + b"lite", (7, 9), b"lite"),
        (33, struct.pack("!HH", 7, 9) + bytes(8) + b"dccp", (7, 9), b"dccp"),
        (1, bytes([8, 3]) + bytes(6) + b"ping", (0, 0), b"ping"),
        (58, bytes([8, 3]) + bytes(6) + b"ping", (0, 0), b"ping"),
        (89, b"ospf", (0, 0), b"ospf"),
    ],
)
def test_transports(protocol: int, content: bytes, ports: tuple[int, int], payload: bytes) -> None:
    row = decode_one(ethernet(ipv4(content, protocol)))
    assert (row["status"], row["source_port"], row["destination_port"]) == ("ok", *ports)
    assert row["payload"] == payload
    assert row["icmp_type_code"] == (8 * 256 + 3 if protocol in (1, 58) else 0)


def test_a_udp_length_shorter_than_the_packet_bounds_the_payload() -> None:
    assert decode_one(ethernet(ipv4(UDP + b"trailer")))["payload"] == b"data"


@pytest.mark.parametrize(
    ("packet", "size"),
    [(ethernet(ipv4(TCP, 6, total=0)), 45), (ethernet(ipv6(TCP, 6, size=0), 0x86DD), 65)],
)
def test_a_total_length_of_zero_means_the_length_on_the_wire(packet: bytes, size: int) -> None:
    row = decode_one(packet)
    assert (row["status"], row["ip_bytes"], row["payload"]) == ("ok", size, b"GET /")
    assert decode_one(packet[:60], wire=len(packet) + 1000)["ip_bytes"] == size + 1000


def test_an_ipv6_packet_may_be_empty() -> None:
    row = decode_one(ethernet(ipv6(b"", 59) + bytes(6), 0x86DD))
    assert (row["status"], row["ip_bytes"], row["payload"]) == ("ok", 40, b"")


TOO_DEEP = ethernet(b"".join(tag(1, b"", 0x8100) for _ in range(20)), 0x8100)


@pytest.mark.parametrize(
    ("status", "packet", "link_type"),
    [
        ("not_ip", ethernet(bytes(28), 0x0806), 1),
        ("not_ip", ethernet(b"\x42\x42\x03" + bytes(35), 38), 1),
        ("not_ip", bytes(14) + b"\0\1" + bytes(40), 113),
        ("not_ip", struct.pack("<I", 77) + V4, 0),
        ("not_ip", b"\x50" + V4[1:], 101),
        ("unknown_link_type", V4, 147),
        ("truncated_link_header", MACS, 1),
        ("truncated_link_header", b"", 1),
        ("truncated_link_header", b"", 101),
        ("truncated_link_header", bytes(15), 113),
        ("truncated_link_header", ethernet(b"\0", 0x8100), 1),
        ("truncated_link_header", ethernet(label(1, b"", bottom=False), 0x8847), 1),
        ("link_headers_too_deep", TOO_DEEP, 1),
        ("link_headers_too_deep", ethernet(label(1, b"", bottom=False) * 30, 0x8847), 1),
        ("truncated_ipv4_header", ethernet(V4[:19]), 1),
        ("truncated_ipv4_header", ethernet(ipv4(b"", options=bytes(20))[:30]), 1),
        ("malformed_ipv4_header", ethernet(b"\x55" + V4[1:]), 1),
        ("malformed_ipv4_header", ethernet(b"\x44" + V4[1:]), 1),
        ("malformed_ipv4_header", ethernet(ipv4(UDP, total=19)), 1),
        ("truncated_ipv6_header", ethernet(V6[:39], 0x86DD), 1),
        ("malformed_ipv6_header", ethernet(b"\x45" + V6[1:], 0x86DD), 1),
    ],
)
def test_packets_without_sound_ip_leave_an_empty_row_and_are_counted(
    status: str, packet: bytes, link_type: int
) -> None:
    segment = packet_segment([(0, ethernet(V4), 46), (0, packet, len(packet))], link_type)
    stage = DecodeStage()
    stage._rows["ttl"] = 99  # left by another segment
    context = run_stage(stage, segment)
    row = segment.notes["decoded"][1]
    assert STATUS_NAMES[row["status"]] == status
    row["status"] = 0
    assert not any(row.tobytes())
    assert context.tally[status] >= 1


@pytest.mark.parametrize(
    ("status", "packet", "kind", "ports"),
    [
        ("truncated_tcp", ipv4(TCP[:19], 6), 0x0800, (0, 0)),
        ("truncated_tcp", ipv4(TCP[:12] + b"\xf0" + TCP[13:], 6), 0x0800, (40000, 80)),
        ("malformed_tcp_header", ipv4(TCP[:12] + b"\x40" + TCP[13:], 6), 0x0800, (0, 0)),
        ("truncated_udp", ipv4(UDP[:7]), 0x0800, (0, 0)),
        ("malformed_udp_header", ipv4(UDP[:4] + b"\0\7" + UDP[6:]), 0x0800, (5000, 53)),
        ("truncated_sctp", ipv4(bytes(11), 132), 0x0800, (0, 0)),
        ("truncated_icmp", ipv4(b"\x08", 1), 0x0800, (0, 0)),
        ("truncated_ipv6_extension", ipv6(extension(17)[:7], 0), 0x86DD, (0, 0)),
        ("ipv6_extensions_too_deep", ipv6(extension(0) * 9 + UDP, 0), 0x86DD, (0, 0)),
    ],
)
def test_packets_with_sound_ip_are_described_and_counted(
    status: str, packet: bytes, kind: int, ports: tuple[int, int]
) -> None:
    row = decode_one(ethernet(packet, kind))
    assert row["status"] == status
    assert row["ip_bytes"] == len(packet)
    assert (row["source_port"], row["destination_port"]) == ports


@pytest.mark.parametrize(("transport", "protocol"), [(TCP, 6), (UDP, 17), (bytes([0, 7, 0, 9]) + bytes(8), 132)])
def test_a_header_that_the_capture_cut_off_gives_its_ports(transport: bytes, protocol: int) -> None:
    whole = ethernet(ipv4(transport, protocol))
    row = decode_one(whole[:39], wire=len(whole))
    assert row["status"].startswith("truncated_")
    assert (row["source_port"], row["destination_port"]) == struct.unpack_from("!HH", transport)
    assert row["ip_bytes"] == 20 + len(transport)
    assert decode_one(whole[:37], wire=len(whole))["source_port"] == 0


def test_messages_pass_untouched() -> None:
    segment = make_segment([ethernet(V4)], content=CONTENT_MESSAGES)
    payload = segment.payload
    context = run_stage(DecodeStage(), segment)
    assert segment.payload is payload
    assert not segment.notes
    assert not context.tally.counts


def test_counts_are_of_one_segment_and_rows_grow_with_it() -> None:
    stage = DecodeStage()
    stage.open()
    packets = [ethernet(V4), ethernet(bytes(28), 0x0806)] * 3000
    for _ in range(2):
        segment = make_segment(packets, content=CONTENT_PACKETS, link_type=1)
        context = run_stage(stage, segment)
        assert context.tally.counts == {"not_ip": 3000}
        assert segment.notes["decoded"]["ip_version"].tolist() == [4, 0] * 3000


def test_a_segment_of_no_packets_has_no_rows() -> None:
    segment = make_segment([], content=CONTENT_PACKETS, link_type=1)
    run_stage(DecodeStage(), segment)
    assert len(segment.notes["decoded"]) == 0


def test_a_packet_table_that_points_outside_is_clamped() -> None:
    segment = packet_segment([(0, ethernet(V4), 46)] * 3)
    segment.packets["offset"][1] = 2**32 - 1
    segment.packets["captured_bytes"][2] = 2**32 - 1
    run_stage(DecodeStage(), segment)
    assert segment.notes["decoded"]["ip_version"].tolist() == [4, 0, 4]


def test_configuration() -> None:
    assert DecodeConfig(type="decode").tunnels == "inner"
    assert isinstance(DecodeConfig(type="decode", tunnels="outer").build(), DecodeStage)


# -- properties --------------------------------------------------------------------------------
PREFIXES = st.sampled_from(
    [b"", MACS, MACS + b"\x08\0\x45", MACS + b"\x86\xdd\x60", MACS + b"\x81\0", MACS + b"\x88\x47"]
)
NOISE = st.builds(bytes.__add__, PREFIXES, st.binary(max_size=120))


@settings(deadline=None, max_examples=150)
@given(st.lists(NOISE, max_size=20), st.sampled_from(LINK_TYPES), st.booleans())
def test_random_bytes_give_rows_within_their_packet(packets: list[bytes], link_type: int, inner: bool) -> None:
    segment = packet_segment([(0, packet, len(packet)) for packet in packets], link_type)
    run_stage(DecodeStage(inner=inner), segment)
    for row, packet in zip(segment.notes["decoded"], segment.packets, strict=True):
        if row["ip_version"]:
            begin = int(row["payload_offset"])
            end = begin + int(row["payload_bytes"])
            assert packet["offset"] <= begin <= end <= packet["offset"] + packet["captured_bytes"]
            assert packet["offset"] + row["l3_offset"] <= begin


@settings(deadline=None, max_examples=100)
@given(st.lists(NOISE, min_size=1, max_size=8), st.sampled_from(LINK_TYPES), st.binary(max_size=40))
def test_a_packet_is_described_by_its_own_bytes_alone(packets: list[bytes], link_type: int, behind: bytes) -> None:
    together = packet_segment([(0, packet, len(packet)) for packet in packets], link_type)
    together.original = np.frombuffer(bytes(together.original) + behind, dtype=np.uint8)
    stage = DecodeStage()
    stage.process(together, RecordingContext())
    rows = together.notes["decoded"].copy()
    for row, packet, place in zip(rows, packets, together.packets, strict=True):
        alone = packet_segment([(0, packet, len(packet))], link_type)
        run_stage(DecodeStage(), alone)
        expected = alone.notes["decoded"][0]
        if expected["ip_version"]:
            expected["payload_offset"] += place["offset"]
        assert row.tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=50)
@given(
    st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.integers(0, 65535), st.integers(0, 65535)
)
def test_both_directions_have_the_same_hash(source: bytes, destination: bytes, port: int, other: int) -> None:
    def hash_of(one: bytes, two: bytes, first: int, second: int) -> int:
        packet = ipv4(struct.pack("!HHHH", first, second, 8, 0))
        return int(decode_one(packet[:12] + one + two + packet[20:], 228)["flow_hash"])

    assert hash_of(source, destination, port, other) == hash_of(destination, source, other, port)
