"""Captures: real ones as dpkt reads them, rare forms byte by byte, damage never a crash."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.capture import CLASSIC, Packet, read_capture
from loadgen.errors import UsageError
from loadgen.layers import LOOP, NULL, RAW_IP, SLL, SLL2, transport_payload

ETHERNET = 1


def _udp(content: bytes, *, version: int = 4, between: tuple[int, bytes] | None = None) -> bytes:
    """An IP packet; ``between``: number and bytes of an IPv6 extension header, its next header left to us."""
    segment = struct.pack(">HHHH", 1000, 53, 8 + len(content), 0) + content
    if version == 4:
        return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 17, 0) + bytes(8) + segment
    number, header = (17, b"") if between is None else between
    body = (b"\x11" + header[1:] if header else b"") + segment
    return struct.pack(">IHBB", 6 << 28, len(body), number, 64) + bytes(32) + body


def _frame(kind: int, rest: bytes) -> bytes:
    return bytes(12) + struct.pack(">H", kind) + rest


WRAPPED = {
    "ethernet": (ETHERNET, _frame(0x0800, _udp(b"hello"))),
    "trailer": (ETHERNET, _frame(0x0800, _udp(b"hello") + bytes(13))),
    "vlan": (ETHERNET, _frame(0x8100, b"\0\5\x08\0" + _udp(b"hello"))),
    "qinq": (ETHERNET, _frame(0x88A8, b"\0\5\x81\0\0\6\x86\xdd" + _udp(b"hello", version=6))),
    "mpls": (ETHERNET, _frame(0x8847, b"\0\1\0\x40" + b"\0\2\1\x40" + _udp(b"hello"))),
    "pppoe": (ETHERNET, _frame(0x8864, b"\x11\0\0\1\0\x30\0\x21" + _udp(b"hello"))),
    "pppoe with a short protocol": (ETHERNET, _frame(0x8864, b"\x11\0\0\1\0\x30\x57" + _udp(b"hello", version=6))),
    "hop-by-hop": (ETHERNET, _frame(0x86DD, _udp(b"hello", version=6, between=(0, bytes(8))))),
    "routing": (RAW_IP[2], _udp(b"hello", version=6, between=(43, b"\0\1" + bytes(14)))),
    "first fragment": (RAW_IP[0], _udp(b"hello", version=6, between=(44, b"\0\0\0\1" + bytes(4)))),
    "cooked": (SLL, bytes(14) + b"\x08\0" + _udp(b"hello")),
    "cooked 2": (SLL2, b"\x86\xdd" + bytes(18) + _udp(b"hello", version=6)),
    "loopback": (NULL, b"\2\0\0\0" + _udp(b"hello")),
    "loopback of OpenBSD": (LOOP, b"\0\0\0\2" + _udp(b"hello")),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_payload_is_found_behind_every_link_layer(name: str) -> None:
    link_type, content = WRAPPED[name]
    payload = transport_payload(Packet(0, link_type, content))
    assert payload is not None
    assert payload.content == b"hello"
    assert payload.flow[-4:] == struct.pack(">HH", 1000, 53)


@pytest.mark.parametrize(
    ("link_type", "content"),
    [
        (ETHERNET, _frame(0x0806, b"arp" * 10)),
        (ETHERNET, _frame(0x0800, _udp(b""))),
        (ETHERNET, _frame(0x0800, _udp(b"later fragment").replace(b"\0\1\0\0", b"\0\1\0\x09", 1))),
        (RAW_IP[2], _udp(b"later fragment", version=6, between=(44, b"\0\0\1\x08" + bytes(4)))),
        (ETHERNET, _frame(0x8864, b"\x11\0\0\1\0\x30\xc0\x21" + bytes(40))),
        (ETHERNET, _frame(0x8847, bytes(40))),
        (9999, bytes(60)),
    ],
)
def test_packets_without_a_payload_of_their_own_have_none(link_type: int, content: bytes) -> None:
    assert transport_payload(Packet(0, link_type, content)) is None


@given(st.sampled_from([NULL, ETHERNET, LOOP, SLL, SLL2, *RAW_IP, 147]), st.binary(max_size=120), st.data())
@settings(deadline=None, max_examples=150)
def test_no_packet_crashes_it(link_type: int, content: bytes, data: st.DataObject) -> None:
    transport_payload(Packet(0, link_type, content))
    link_type, whole = data.draw(st.sampled_from(sorted(WRAPPED.values())))
    broken = bytearray(whole)
    broken[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    transport_payload(Packet(0, link_type, bytes(broken[: data.draw(st.integers(0, len(whole)))])))


def _read(content: bytes) -> list[Packet]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(content)
        return list(read_capture(path))


@pytest.mark.parametrize("magic", CLASSIC)
@pytest.mark.parametrize("packed", [False, True])
def test_classic_captures_in_each_order_and_resolution(magic: bytes, packed: bool) -> None:
    order, unit_ns = CLASSIC[magic]
    content = magic + struct.pack(order + "HHiIII", 2, 4, 0, 0, 65535, 1)
    for number in range(3):
        content += struct.pack(order + "IIII", 100 + number, 7, 4, 60) + b"abc" + bytes([number])
    packets = _read(gzip.compress(content) if packed else content)
    assert packets == [Packet((100 + n) * 10**9 + 7 * unit_ns, 1, b"abc" + bytes([n])) for n in range(3)]
    assert len(_read(content[:-1])) == 2  # the packet that the end cuts is left out


def _block(order: str, number: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", number) + size + body + size


def _section(order: str) -> bytes:
    magic = struct.pack(order + "I", 0x1A2B3C4D)
    return _block(order, 0x0A0D0D0A, magic + struct.pack(order + "HHq", 1, 0, -1))


def _option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_blocks_resolutions_offsets_and_sections(order: str) -> None:
    options = _option(order, 9, b"\x09") + _option(order, 14, struct.pack(order + "q", 1000)) + bytes(4)
    content = _section(order)
    content += _block(order, 1, struct.pack(order + "HHI", 1, 0, 0))
    content += _block(order, 1, struct.pack(order + "HHI", 101, 0, 3) + options)
    content += _block(order, 5, b"statistics.")
    content += _block(order, 6, struct.pack(order + "IIIII", 0, 0, 5_000_000, 2, 9) + b"ab")
    content += _block(order, 6, struct.pack(order + "IIIII", 1, 1, 5, 2, 9) + b"cd")
    content += _block(order, 6, struct.pack(order + "IIIII", 7, 0, 5, 2, 9) + b"no such interface")
    content += _block(order, 2, struct.pack(order + "HHIIII", 1, 0, 0, 9, 1, 1) + b"e")
    content += _block(order, 3, struct.pack(order + "I", 5) + b"whole")
    content += _section("<") + _block("<", 1, struct.pack("<HHI", 147, 0, 0) + _option("<", 9, b"\x8a") + bytes(4))
    content += _block("<", 6, struct.pack("<IIIII", 0, 0, 512, 1, 1) + b"f")
    assert _read(content) == [
        Packet(5 * 10**9, 1, b"ab"),
        Packet((1 << 32) + 5 + 1000 * 10**9, 101, b"cd"),
        Packet(9 + 1000 * 10**9, 101, b"e"),
        Packet(0, 1, b"whole"),
        Packet(500_000_000, 147, b"f"),  # 512 of 1024 ticks
    ]


@given(st.sampled_from([*CLASSIC, b"\n\r\r\n" + bytes(4) + b"\x4d\x3c\x2b\x1a"]), st.binary(max_size=300))
@settings(deadline=None, max_examples=150)
def test_no_capture_crashes_it(start: bytes, rest: bytes) -> None:
    for packet in _read(start + rest):
        transport_payload(packet)


def test_what_is_no_capture_says_so(tmp_path: Path) -> None:
    for name, content in {"text": b"hello world", "empty": b"", "torn.gz": gzip.compress(b"x" * 100)[:-9]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            list(read_capture(tmp_path / name))
    with pytest.raises(UsageError, match="cannot read"):
        list(read_capture(tmp_path / "absent"))


def _by_dpkt(path: Path) -> list[bytes] | None:
    try:
        with path.open("rb") as file:
            return [bytes(content) for _, content in dpkt.pcap.UniversalReader(file)]
    except Exception:  # whatever dpkt cannot read is no oracle
        return None


def _payload_by_dpkt(content: bytes) -> bytes | None:
    ip = dpkt.ethernet.Ethernet(content).data
    if not isinstance(ip, dpkt.ip.IP) or ip.offset or not isinstance(ip.data, dpkt.udp.UDP | dpkt.tcp.TCP):
        return None
    return bytes(ip.data.data) or None


def _captures(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix in (".pcap", ".pcapng"))


@pytest.mark.captures
@pytest.mark.slow
def test_real_captures_are_read_as_dpkt_reads_them(captures: Path) -> None:
    read = compared = differing = 0
    for path in _captures(captures):
        packets: list[Packet] = []
        with contextlib.suppress(UsageError):
            packets = list(read_capture(path))
        read += len(packets)
        payloads = [transport_payload(packet) for packet in packets]
        expected = _by_dpkt(path)
        if expected is None or "malformed" in path.parts or len(packets) > 500:
            continue
        if path.suffix == ".pcapng" and len(packets) != len(expected):
            continue  # dpkt leaves out simple and obsolete packet blocks
        assert [packet.content for packet in packets] == expected[: len(packets)], path.name
        assert len(expected) - len(packets) <= 1, path.name
        for packet, payload in zip(packets, payloads, strict=True):
            if packet.link_type == ETHERNET and packet.content[12:14] == b"\x08\0":
                with contextlib.suppress(dpkt.UnpackError, IndexError, struct.error):
                    compared += 1
                    differing += (payload and payload.content) != _payload_by_dpkt(packet.content)
    assert read > 100_000
    assert compared > 10_000
    assert differing <= compared // 1000  # broken lengths, where dpkt reads on
