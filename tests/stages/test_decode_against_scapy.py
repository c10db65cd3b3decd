"""On valid packets that scapy builds, the rows say what scapy was told."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import GRE, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, Loopback
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from streamspec.stages.decode import DecodeStage
from streamspec.testing.stages import run_stage
from tests.stages.flow_chain import packet_segment
from tests.stages.flow_reference import describe

pytestmark = pytest.mark.slow

ENDS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}  # else scapy asks the network for them
PORT = st.integers(1, 4788)
BODY = st.binary(max_size=64)
TAG = st.integers(1, 4094)


@st.composite
def transports(draw: st.DrawFn, version: int) -> Packet:
    kind = draw(st.sampled_from(["tcp", "udp", "sctp", "icmp", "other"]))
    ports = {"sport": draw(PORT), "dport": draw(PORT)}
    body = Raw(draw(BODY))
    if kind == "tcp":
        options = [("MSS", 1460)] if draw(st.booleans()) else []
        return TCP(**ports, flags=draw(st.integers(0, 0x1FF)), options=options) / body
    if kind == "udp":
        return UDP(**ports) / body
    if kind == "sctp":
        return SCTP(**ports) / body
    if kind == "icmp":
        return (ICMP(type=8, code=0) if version == 4 else ICMPv6EchoRequest()) / body
    return body


@st.composite
def networks(draw: st.DrawFn) -> Packet:
    """IP with options or extension headers, and a transport."""
    if draw(st.booleans()):
        options = [IPOption_RR(length=7, pointer=4, routers=["0.0.0.0"])] if draw(st.booleans()) else []
        addresses = {end: str(IPv4Address(draw(st.integers(0, 2**32 - 1)))) for end in ("src", "dst")}
        content = draw(transports(4))
        protocol = {"proto": 89} if isinstance(content, Raw) else {}
        flags = draw(st.sampled_from(["", "DF", "MF"]))
        return IP(**addresses, **protocol, ttl=draw(st.integers(1, 255)), flags=flags, options=options) / content
    addresses = {end: str(IPv6Address(draw(st.integers(0, 2**128 - 1)))) for end in ("src", "dst")}
    packet = IPv6(**addresses, hlim=draw(st.integers(1, 255)))
    content = draw(transports(6))
    extensions = draw(st.lists(st.sampled_from(["hop", "destination", "routing", "fragment"]), max_size=3, unique=True))
    for extension in extensions:
        packet /= {
            "hop": IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
            "destination": IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))]),
            "routing": IPv6ExtHdrRouting(addresses=["2001:db8::5"]),
            "fragment": IPv6ExtHdrFragment(offset=0, m=1, id=7),
        }[extension]
    if isinstance(content, Raw):
        packet.lastlayer().nh = 59
    return packet / content


@st.composite
def frames(draw: st.DrawFn) -> tuple[int, Packet]:
    """Link type and packet."""
    packet = draw(networks())
    for _ in range(draw(st.integers(0, 2))):
        packet = _tunnelled(draw, packet)
    link = draw(st.sampled_from(["ethernet", "vlan", "qinq", "mpls", "pppoe", "snap", "sll", "sll2", "raw", "null"]))
    version = packet.version
    kind = 0x0800 if version == 4 else 0x86DD
    built: dict[str, tuple[int, Any]] = {
        "ethernet": (1, lambda: Ether(**ENDS, type=kind)),
        "vlan": (1, lambda: Ether(**ENDS) / Dot1Q(vlan=draw(TAG), type=kind)),
        "qinq": (1, lambda: Ether(**ENDS) / Dot1AD(vlan=draw(TAG)) / Dot1Q(vlan=draw(TAG), type=kind)),
        "mpls": (
            1,
            lambda: Ether(**ENDS, type=0x8847) / MPLS(label=draw(TAG), s=0, ttl=1) / MPLS(label=16, s=1, ttl=1),
        ),
        "pppoe": (1, lambda: Ether(**ENDS) / PPPoE(sessionid=1) / PPP(proto=0x21 if version == 4 else 0x57)),
        "snap": (1, lambda: Ether(**ENDS, type=100) / LLC() / SNAP(code=kind)),
        "sll": (113, lambda: CookedLinux(proto=kind)),
        "sll2": (276, lambda: CookedLinuxV2(proto=kind)),
        "null": (0, lambda: Loopback(type=2 if version == 4 else 30)),
        "raw": (101, lambda: None),
    }
    link_type, header = built[link]
    made = header()
    return link_type, packet if made is None else made / packet


def _tunnelled(draw: st.DrawFn, packet: Packet) -> Packet:
    """Put a packet into a tunnel that ends in an IP header of its own."""
    outer = IP(src="10.0.0.1", dst="10.0.0.2") if draw(st.booleans()) else IPv6(src="fd00::1", dst="fd00::2")
    protocol = "proto" if isinstance(outer, IP) else "nh"
    ether = Ether(**ENDS, type=0x0800 if packet.version == 4 else 0x86DD) / packet
    how = draw(st.sampled_from(["ip", "gre", "gre-key", "gre-ethernet", "vxlan"]))
    if how == "ip":
        setattr(outer, protocol, 4 if packet.version == 4 else 41)
        return outer / packet
    if how == "vxlan":
        return outer / UDP(sport=draw(PORT), dport=4789) / VXLAN(vni=7, flags=8) / ether
    setattr(outer, protocol, 47)
    if how == "gre-ethernet":
        return outer / GRE(proto=0x6558) / ether
    flags = {"key_present": 1, "key": 5, "seqnum_present": 1, "sequence_number": 1} if how == "gre-key" else {}
    return outer / GRE(proto=0x0800 if packet.version == 4 else 0x86DD, **flags) / packet


@settings(deadline=None, max_examples=150)
@given(frames(), st.booleans())
def test_rows_say_what_scapy_and_dpkt_say(frame: tuple[int, Packet], inner: bool) -> None:
    link_type, packet = frame
    raw = bytes(packet)
    segment = packet_segment([(0, raw, len(raw))], link_type)
    run_stage(DecodeStage(inner=inner), segment)
    row = segment.notes["decoded"][0]
    layer = _described(packet, inner)
    assert row["status"] == 0
    assert row["ip_version"] == layer.version
    assert row["ttl"] == (layer.ttl if layer.version == 4 else layer.hlim)
    assert row["ip_bytes"] == len(bytes(layer))
    first = 12 if layer.version == 4 else 0
    width = IPv4Address if layer.version == 4 else IPv6Address
    assert str(width(row["source_address"].tobytes()[first:])) == str(width(layer.src))
    assert str(width(row["destination_address"].tobytes()[first:])) == str(width(layer.dst))
    transport = _transport(layer)
    ports = int(row["source_port"]), int(row["destination_port"])
    assert ports == ((0, 0) if transport is None else (transport.sport, transport.dport))
    if isinstance(transport, TCP | UDP):
        begin = int(row["payload_offset"])
        assert raw[begin : begin + int(row["payload_bytes"])] == bytes(transport.payload)
    found = describe(link_type, raw, len(raw), inner=inner)
    assert found is not None
    assert found.key[2:] == (int(row["protocol"]), *ports)


def _described(packet: Packet, inner: bool) -> Packet:
    """scapy's layer of the packet that the row is about."""
    layers = []
    layer = packet
    while layer and not isinstance(layer, Raw):
        if isinstance(layer, IP | IPv6):
            layers.append(layer)
        layer = layer.payload
    return layers[-1 if inner else 0]


def _transport(layer: Packet) -> Packet | None:
    """TCP, UDP or SCTP right under this IP layer."""
    layer = layer.payload
    while layer and not isinstance(layer, IP | IPv6 | GRE | Raw):
        if isinstance(layer, TCP | UDP | SCTP):
            return layer
        layer = layer.payload
    return None
