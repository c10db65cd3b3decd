"""Where a packet's application bytes begin: link layers, IP versions, damage, and dpkt as oracle."""

from __future__ import annotations

import struct
from pathlib import Path

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import TYPE_CODES
from streamspec.core.segment import (
    LINK_ETHERNET,
    LINK_IPV4,
    LINK_IPV6,
    LINK_LINUX_SLL,
    LINK_LINUX_SLL2,
    LINK_LOOP,
    LINK_NULL,
    LINK_RAW_IP,
)
from streamspec.profiler.packet_kernels import NO_HINT, locate
from tests.profiler.conftest import manifest, read_capture
from tests.profiler.samples import ethernet, ipv4, ipv6, tcp, tcp_frame, udp4

BODY = b"what the application said"
UDP = struct.pack(">HHHH", 40000, 9000, 8 + len(BODY), 0) + BODY
HOP_BY_HOP = bytes([60, 0]) + bytes(6)
DESTINATION = bytes([17, 1]) + bytes(14)


def carried(packet: bytes, link_type: int) -> tuple[bytes, int]:
    memory = np.frombuffer(bytearray(packet), dtype=np.uint8)
    start, end, hint = locate(memory, 0, len(packet), link_type)
    assert 0 <= start <= end <= len(packet)
    return packet[start:end], hint


@pytest.mark.parametrize(
    ("packet", "link_type"),
    [
        (ethernet(udp4(BODY)), LINK_ETHERNET),
        (tcp_frame(BODY), LINK_ETHERNET),
        (ethernet(udp4(BODY), tags=b"\x81\x00\x00\x07"), LINK_ETHERNET),
        (ethernet(udp4(BODY), tags=b"\x88\xa8\x00\x07\x81\x00\x00\x08"), LINK_ETHERNET),
        (ethernet(ipv6(UDP, 17), 0x86DD), LINK_ETHERNET),
        (ipv4(tcp(BODY, options=bytes(12)), 6, options=bytes(8)), LINK_RAW_IP),
        (udp4(BODY), LINK_IPV4),
        (ipv6(HOP_BY_HOP + DESTINATION + UDP, 0), LINK_IPV6),
        (bytes(14) + b"\x08\x00" + udp4(BODY), LINK_LINUX_SLL),
        (bytes(20) + udp4(BODY), LINK_LINUX_SLL2),
        (b"\x02\0\0\0" + udp4(BODY), LINK_NULL),
        (b"\0\0\0\x02" + udp4(BODY), LINK_LOOP),
    ],
)
def test_the_payload_of_udp_and_tcp_is_found_in_every_link_layer(packet: bytes, link_type: int) -> None:
    assert carried(packet, link_type)[0] == BODY


def test_what_the_link_appended_is_not_payload() -> None:
    assert carried(tcp_frame(b"x"), LINK_ETHERNET)[0] == b"x"
    assert carried(ethernet(ipv4(tcp(b""), 6)), LINK_ETHERNET)[0] == b""


@pytest.mark.parametrize(
    ("packet", "link_type"),
    [
        (ethernet(bytes(28), 0x0806), LINK_ETHERNET),
        (b"\x40" + bytes(40), LINK_RAW_IP),
        (b"\x95" + bytes(40), LINK_RAW_IP),
        (b"anything", 147),
        (b"short", LINK_ETHERNET),
        (b"", LINK_ETHERNET),
    ],
)
def test_what_has_no_transport_is_taken_whole(packet: bytes, link_type: int) -> None:
    start, end, _ = locate(np.frombuffer(bytearray(packet + b"\0"), dtype=np.uint8), 0, len(packet), link_type)
    assert end == len(packet)
    assert start <= end


def test_a_later_fragment_has_no_ports() -> None:
    packet = ipv4(struct.pack(">HH", 443, 443) + BODY, 17, fragment=100)
    assert carried(packet, LINK_RAW_IP)[1] == NO_HINT


@pytest.mark.parametrize(
    ("packet", "hint"),
    [
        (tcp_frame(BODY, (443, 50000)), "tls"),
        (tcp_frame(BODY, (50000, 22)), "ssh"),
        (ethernet(udp4(BODY, (50000, 443))), "quic"),
    ],
)
def test_ports_hint_at_encrypted_protocols(packet: bytes, hint: str) -> None:
    assert carried(packet, LINK_ETHERNET)[1] == TYPE_CODES[hint]


@settings(deadline=None, max_examples=150)
@given(
    st.binary(max_size=120) | st.builds(lambda head, rest: head + rest, st.just(tcp_frame(BODY)[:30]), st.binary()),
    st.sampled_from([LINK_ETHERNET, LINK_RAW_IP, LINK_NULL, LINK_LINUX_SLL, LINK_LINUX_SLL2, 147]),
)
def test_random_bytes_never_lead_outside_of_the_packet(packet: bytes, link_type: int) -> None:
    carried(packet or b"\0", link_type)


@pytest.mark.parametrize("packet", [tcp_frame(BODY), ethernet(ipv6(HOP_BY_HOP + DESTINATION + UDP, 0), 0x86DD)])
def test_a_packet_cut_off_anywhere_stays_within_its_bytes(packet: bytes) -> None:
    for size in range(len(packet)):
        carried(packet[:size] or b"\0", LINK_ETHERNET)


@pytest.mark.slow
@pytest.mark.captures
def test_dpkt_finds_the_same_payload_in_real_packets(captures: Path) -> None:
    compared = 0
    for entry in manifest(captures)[::8]:
        for number, (link_type, packet) in enumerate(read_capture(captures / entry["file"])):
            if link_type != LINK_ETHERNET or number == 100:
                break
            expected = _by_dpkt(packet)
            if expected is not None:
                assert carried(packet, link_type)[0] == expected, (entry["file"], number)
                compared += 1
    assert compared > 500


def _by_dpkt(packet: bytes) -> bytes | None:
    """The payload, for packets about which there is no doubt: whole, not a fragment, not in a tunnel."""
    try:
        ip = dpkt.ethernet.Ethernet(packet).data
    except (dpkt.Error, IndexError):
        return None
    if not isinstance(ip, dpkt.ip.IP) or ip.offset or ip.mf or len(ip) != ip.len:
        return None
    if packet[12:14] != b"\x08\x00":
        return None
    transport = ip.data
    if isinstance(transport, dpkt.tcp.TCP):
        return bytes(transport.data) if transport.off >= 5 else None
    if isinstance(transport, dpkt.udp.UDP):
        return bytes(transport.data)
    return None
