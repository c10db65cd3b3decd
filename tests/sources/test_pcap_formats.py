"""Classic and pcapng captures in every variant against dpkt, and against what was written."""

from __future__ import annotations

import hashlib
import io
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import dpkt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamspec.core.segment import SlotLayout
from streamspec.sources.pcapng import MAX_INTERFACES
from streamspec.testing import captures as written
from streamspec.testing.captures import EXTENDED, MICROSECONDS, NANOSECONDS, Order, Packet
from tests.sources.reading import LAYOUT, Read, read, read_now

BILLION = 1_000_000_000
QUICK = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

orders = st.sampled_from(["<", ">"])
packets = st.builds(
    lambda seconds, micros, content, more: Packet(
        seconds * BILLION + micros * 1000, content, len(content) + more if more else None
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 999_999),
    st.binary(max_size=200),
    st.integers(0, 70_000),
)
layouts = st.builds(
    SlotLayout,
    payload_bytes=st.sampled_from([512, 600, 4096, 65536]),
    packet_capacity=st.integers(1, 50),
    meta_bytes=st.just(256),
    output_bytes=st.just(64),
)


@pytest.fixture
def reading(tmp_path: Path) -> Callable[..., Read]:
    """Reads a file of the given bytes."""

    def run(content: bytes, layout: SlotLayout = LAYOUT, **fields: object) -> Read:
        path = tmp_path / "capture"
        path.write_bytes(content)
        return read(path, layout=layout, **fields)

    return run


# -- classic ----------------------------------------------------------------------------------
@pytest.mark.slow
@QUICK
@given(
    st.lists(packets, max_size=40), orders, st.sampled_from([MICROSECONDS, NANOSECONDS, EXTENDED]), layouts,
    st.sampled_from([1, 101, 113, 276]),
)  # fmt: skip
def test_a_classic_capture_is_read_as_written(
    reading: Callable[..., Read], given: list[Packet], order: Order, magic: int, layout: SlotLayout, link_type: int
) -> None:
    content = written.classic(given, order=order, magic=magic, link_type=link_type)
    result = reading(content, layout)
    assert result.packets == [(link_type, p.timestamp_ns, p.content, p.wire) for p in given]
    assert result.counts == {}
    assert result.cut == 0


@pytest.mark.slow
@QUICK
@given(st.lists(packets, max_size=40), orders, st.sampled_from([MICROSECONDS, NANOSECONDS]))
def test_a_classic_capture_is_read_as_dpkt_reads_it(
    reading: Callable[..., Read], given: list[Packet], order: Order, magic: int
) -> None:
    content = written.classic(given, order=order, magic=magic)
    expected = list(dpkt.pcap.Reader(io.BytesIO(content)))
    result = reading(content)
    assert result.contents == [packet for _, packet in expected]
    assert [p[1] / 1e9 for p in result.packets] == pytest.approx([float(t) for t, _ in expected], abs=1e-6)


@pytest.mark.parametrize(("number", "expected"), [(12, 101), (14, 101), (0x30000001, 1), (0xFFFF0000 | 113, 113)])
def test_link_types_are_made_sound(reading: Callable[..., Read], number: int, expected: int) -> None:
    (packet,) = reading(written.classic([Packet(0, b"x")], link_type=number)).packets
    assert packet[0] == expected


def test_a_packet_longer_than_a_slot_is_cut_and_counted(reading: Callable[..., Read]) -> None:
    layout = SlotLayout(payload_bytes=512, packet_capacity=8, meta_bytes=256, output_bytes=64)
    given = [Packet(1, b"a" * 100), Packet(2, b"b" * 2000), Packet(3, b"c" * 100), Packet(4, b"d" * 496)]
    result = reading(written.classic(given, magic=NANOSECONDS), layout)
    assert result.packets == [
        (1, 1, b"a" * 100, 100),
        (1, 2, b"b" * 496, 2000),
        (1, 3, b"c" * 100, 100),
        (1, 4, b"d" * 496, 496),
    ]
    assert result.counts == {"oversized_packets": 1}
    assert result.cut == 1


@pytest.mark.parametrize("missing", [1, 50, 99])
def test_what_is_there_of_a_cut_last_record_is_taken(reading: Callable[..., Read], missing: int) -> None:
    content = written.classic([Packet(1000, b"a" * 100), Packet(2000, b"b" * 100)])
    result = reading(content[:-missing])
    assert result.packets == [(1, 1000, b"a" * 100, 100), (1, 2000, b"b" * (100 - missing), 100)]
    assert result.counts == {"truncated_record": 1}
    assert result.cut == 1


@pytest.mark.parametrize("left", [1, 15])
def test_a_cut_record_header_is_counted(reading: Callable[..., Read], left: int) -> None:
    content = written.classic([Packet(1000, b"a" * 100)])
    result = reading(content + bytes(left))
    assert len(result.packets) == 1
    assert result.counts == {"truncated_record": 1}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("damage", [b"\xff" * 16, b"\xff" * 7, b"\xff" * 3000, random.Random(7).randbytes(100_000)])
def test_reading_goes_on_behind_damage(reading: Callable[..., Read], order: Order, damage: bytes) -> None:
    seconds = 1_700_000_000
    before = [Packet((seconds + i) * BILLION, bytes([i]) * (40 + i)) for i in range(20)]
    after = [Packet((seconds + 30 + i) * BILLION, bytes([i]) * (40 + i)) for i in range(20)]
    records = b"".join(written.classic_record(p, order=order) for p in after)
    content = written.classic(before, order=order) + b"\xff" * 16 + damage + records
    result = reading(content, after_damage="search")
    assert result.contents == [p.content for p in before + after]
    assert result.counts["malformed_record"] == 1
    assert result.counts["malformed_bytes"] == 16 + len(damage)


@pytest.mark.parametrize("rest", [0, 5, 1000, 200_000])
def test_what_follows_an_impossible_length_is_that_packet(reading: Callable[..., Read], rest: int) -> None:
    content = written.classic([Packet(1000, b"a" * 100), Packet(2000, b"b" * 70_000)])
    content += struct.pack("<IIII", 1, 2, 300_000_000, 60) + b"c" * rest
    layout = SlotLayout(payload_bytes=80_000, packet_capacity=20, meta_bytes=256, output_bytes=64)
    result = reading(content, layout)
    assert result.contents == [b"a" * 100, b"b" * 70_000, b"c" * min(rest, 80_000 - 16)]
    assert result.packets[-1][3] == len(result.contents[-1])
    assert result.counts == {"malformed_record": 1}
    assert result.cut == 1


@pytest.mark.parametrize(
    "content", [b"", b"\xd4\xc3\xb2\xa1", b"not a capture, whatever it is called", bytes(5000), b"\x0a\x0d\x0d\x0a" * 9]
)
def test_a_file_of_no_known_format_is_counted(reading: Callable[..., Read], content: bytes) -> None:
    result = reading(content)
    assert result.segments == []
    assert result.counts == {"malformed_file": 1}


# -- pcapng -----------------------------------------------------------------------------------
def to_nanoseconds(ticks: int, resolution: int | None, offset_seconds: int | None) -> int:
    """Timestamp of a pcapng packet, exactly."""
    if resolution is None:
        resolution = 6
    base = 2 if resolution & 0x80 else 10
    exact = Fraction(ticks * BILLION, base ** (resolution & 0x7F))
    return int(exact) + (offset_seconds or 0) * BILLION


class Writing:
    """Draws a pcapng capture and keeps what a reader should see."""

    def __init__(self, draw: Callable[..., object]) -> None:
        self.draw = draw
        self.content = b""
        self.expected: list[tuple[int, int, bytes, int]] = []
        self.last_ns = 0

    def section(self) -> None:
        order: Order = self.draw(orders)  # type: ignore[assignment]
        self.content += written.section(order)
        interfaces: list[tuple[int, int, int | None, int | None]] = []
        for kind in self.draw(st.lists(st.integers(0, 6), max_size=25)):  # type: ignore[attr-defined]
            if kind == 0 or not interfaces:
                interfaces.append(self.interface(order))
            elif kind == 1:
                junk = self.draw(st.binary(max_size=100))
                self.content += written.block(self.draw(st.sampled_from([4, 5, 10, 0xBAD, 0x80000001])), junk, order)  # type: ignore[arg-type]
            else:
                self.packet(order, kind, interfaces)

    def interface(self, order: Order) -> tuple[int, int, int | None, int | None]:
        link_type = self.draw(st.sampled_from([1, 1, 1, 101, 113]))
        snap = self.draw(st.sampled_from([0, 0, 50]))
        resolution = self.draw(st.sampled_from([None, 0, 3, 6, 9, 12, 0x80, 0x8A, 0x94, 0xA0, 0xA1, 0xB0, 0xBF]))
        offset = self.draw(st.sampled_from([None, 0, 1000, -5]))
        self.content += written.interface(
            order, link_type=link_type, snap=snap, resolution=resolution, offset_seconds=offset  # type: ignore[arg-type]
        )  # fmt: skip
        return link_type, snap, resolution, offset  # type: ignore[return-value]

    def packet(self, order: Order, kind: int, interfaces: list[tuple[int, int, int | None, int | None]]) -> None:
        content: bytes = self.draw(st.binary(max_size=120))  # type: ignore[assignment]
        wire = len(content) + self.draw(st.sampled_from([0, 0, 7]))  # type: ignore[operator]
        number = 0 if kind == 2 else self.draw(st.integers(0, len(interfaces) - 1))
        link_type, snap, resolution, offset = interfaces[number]  # type: ignore[index]
        if kind == 2:  # a simple packet's captured length is not written down
            content = content[:snap] if snap else content
            wire = len(content) if len(content) < (snap or 2**32) else wire
            self.content += written.simple(order, content, wire)
        else:
            ticks = self.ticks(resolution)
            self.last_ns = to_nanoseconds(ticks, resolution, offset)
            build = written.obsolete if kind == 3 else written.enhanced
            self.content += build(order, number, ticks, content, wire)  # type: ignore[arg-type]
        self.expected.append((link_type, self.last_ns, content, wire))

    def ticks(self, resolution: int | None) -> int:
        """Any that is before the year 2200 or so."""
        base = 2 if (resolution or 6) & 0x80 else 10
        per_second = base ** ((6 if resolution is None else resolution) & 0x7F)
        return self.draw(st.integers(0, min(7_000_000_000 * per_second, 2**64 - 1)))  # type: ignore[return-value]


@st.composite
def blocks(draw: Callable[..., object]) -> Writing:
    """A pcapng capture of several sections."""
    writing = Writing(draw)
    for _ in range(draw(st.integers(1, 3))):  # type: ignore[call-overload]
        writing.section()
    return writing


@pytest.mark.slow
@QUICK
@given(blocks(), layouts)
def test_a_pcapng_capture_is_read_as_written(
    reading: Callable[..., Read], writing: Writing, layout: SlotLayout
) -> None:
    result = reading(writing.content, layout)
    assert result.packets == writing.expected
    assert result.counts == {}


@pytest.mark.slow
@QUICK
@given(st.lists(packets, max_size=40), orders, st.booleans())
def test_a_pcapng_capture_is_read_as_dpkt_reads_it(
    reading: Callable[..., Read], given: list[Packet], order: Order, old: bool
) -> None:
    build = written.obsolete if old else written.enhanced
    content = written.section(order) + written.interface(order, resolution=6)
    content += b"".join(build(order, 0, p.timestamp_ns // 1000, p.content, p.wire) for p in given)
    expected = list(dpkt.pcapng.Reader(io.BytesIO(content)))
    result = reading(content)
    assert result.contents == [packet for _, packet in expected]
    assert [p[1] / 1e9 for p in result.packets] == pytest.approx([t for t, _ in expected], abs=1e-5)


def test_a_segment_has_one_link_type(reading: Callable[..., Read]) -> None:
    content = written.section() + written.interface(link_type=1) + written.interface(link_type=101)
    for number in (0, 0, 1, 1, 1, 0):
        content += written.enhanced("<", number, 0, b"packet", 6)
    result = reading(content)
    assert [(int(s.header["link_type"]), len(s.packets)) for s in result.segments] == [(1, 2), (101, 3), (1, 1)]


def test_packets_of_unknown_interfaces_are_counted(reading: Callable[..., Read]) -> None:
    content = written.section() + written.interface() + written.enhanced("<", 1, 0, b"lost", 4)
    content += written.enhanced("<", 0, 0, b"kept", 4) + written.section() + written.enhanced("<", 0, 0, b"lost", 4)
    result = reading(content)
    assert result.contents == [b"kept"]
    assert result.counts == {"unknown_interface": 2}


def test_endless_interfaces_do_not_fill_the_memory(reading: Callable[..., Read]) -> None:
    content = written.section() + written.interface() * (MAX_INTERFACES + 1)
    content += written.enhanced("<", MAX_INTERFACES - 1, 0, b"last", 4)
    content += written.enhanced("<", MAX_INTERFACES, 0, b"beyond", 6)
    result = reading(content)
    assert result.contents == [b"last"]
    assert result.counts == {"unknown_interface": 1}


def test_blocks_longer_than_a_slot_are_passed_over_or_cut(reading: Callable[..., Read]) -> None:
    layout = SlotLayout(payload_bytes=512, packet_capacity=8, meta_bytes=256, output_bytes=64)
    content = written.section() + written.block(10, bytes(10_000)) + written.interface()
    content += written.enhanced("<", 0, 1, b"a" * 3000, 3000) + written.enhanced("<", 0, 2, b"b", 1)
    result = reading(content, layout)
    assert result.packets == [(1, 1000, b"a" * 484, 3000), (1, 2000, b"b", 1)]
    assert result.counts == {"oversized_packets": 1}


@pytest.mark.parametrize("order", ["<", ">"])
def test_reading_goes_on_behind_a_damaged_block(reading: Callable[..., Read], order: Order) -> None:
    good = [written.enhanced(order, 0, i, bytes([i]) * 50, 50) for i in range(20)]
    bad = bytearray(good[5])
    bad[6 if order == "<" else 5] ^= 0x55  # its length
    content = written.section(order) + written.interface(order) + b"".join(good[:5]) + bytes(bad)
    content += random.Random(3).randbytes(100_000) + b"".join(good[6:])
    ended = reading(content)
    assert ended.contents == [bytes([i]) * 50 for i in range(5)]
    assert ended.counts == {"malformed_block": 1, "malformed_bytes": 4}
    result = reading(content, after_damage="search")
    assert result.contents == [bytes([i]) * 50 for i in range(20) if i != 5]
    assert result.counts["malformed_block"] == 1
    assert result.counts["malformed_bytes"] == len(bad) + 100_000


def test_a_capture_length_beyond_its_block_loses_that_packet_only(reading: Callable[..., Read]) -> None:
    good = written.enhanced("<", 0, 0, b"good", 4)
    bad = bytearray(good)
    bad[20:24] = (1000).to_bytes(4, "little")
    result = reading(written.section() + written.interface() + good + bytes(bad) + good)
    assert result.contents == [b"good", b"good"]
    assert result.counts == {"malformed_record": 1}


def test_a_section_of_another_version_is_passed_over(reading: Callable[..., Read]) -> None:
    good = written.section() + written.interface() + written.enhanced("<", 0, 0, b"good", 4)
    other = written.section(version=(9, 0))
    assert reading(good + other + good).contents == [b"good"]
    result = reading(good + other + good, after_damage="search")
    assert result.contents == [b"good", b"good"]
    assert result.counts["malformed_block"] == 1


# -- damage of any kind -----------------------------------------------------------------------
def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Cut out, put in and overwrite at the given places."""
    out = bytearray(content)
    for at, cut, new in changes:
        at %= len(out) + 1
        out[at : at + cut] = new
    return bytes(out)


changes = st.lists(
    st.tuples(st.integers(0, 100_000), st.sampled_from([0, 1, 2, 4, 100]), st.binary(max_size=8)), max_size=6
)


@pytest.mark.slow
@QUICK
@given(st.lists(packets, max_size=30), orders, changes, layouts, st.sampled_from(["end", "search"]))
def test_damage_to_a_classic_capture_stops_nothing(
    reading: Callable[..., Read], given: list[Packet], order: Order, changes: list[tuple[int, int, bytes]],
    layout: SlotLayout, after_damage: str,
) -> None:  # fmt: skip
    content = written.classic(given, order=order)
    result = reading(content[:24] + damaged(content[24:], changes), layout, after_damage=after_damage)
    assert sum(map(len, result.contents)) <= len(content) + 8 * len(changes)


@pytest.mark.slow
@QUICK
@given(blocks(), changes, layouts, st.sampled_from(["end", "search"]))
def test_damage_to_a_pcapng_capture_stops_nothing(
    reading: Callable[..., Read], writing: Writing, changes: list[tuple[int, int, bytes]], layout: SlotLayout,
    after_damage: str,
) -> None:  # fmt: skip
    result = reading(damaged(writing.content, changes), layout, after_damage=after_damage)
    assert sum(map(len, result.contents)) <= len(writing.content) + 8 * len(changes)


@pytest.mark.slow
@QUICK
@given(st.sampled_from([written.classic([]), written.section() + written.interface()]), st.binary(max_size=3000))
def test_random_bytes_stop_nothing(reading: Callable[..., Read], start: bytes, content: bytes) -> None:
    reading(start + content)
    reading(start + content, after_damage="search")


# -- real captures ----------------------------------------------------------------------------
def dpkt_packets(path: Path) -> list[bytes] | None:
    """The packets that dpkt reads, None when it cannot read the whole file."""
    with path.open("rb") as file:
        try:
            return [packet for _, packet in dpkt.pcap.UniversalReader(file)]
        except (ValueError, dpkt.Error):
            return None


def digest(contents: list[bytes]) -> tuple[int, list[int], str]:
    """Number, lengths and hash of packets."""
    return len(contents), list(map(len, contents)), hashlib.sha256(b"".join(contents)).hexdigest()


def beyond_dpkt(path: Path) -> bool:
    """Whether this is a pcapng capture with simple packets or several sections, which dpkt passes over."""
    content = path.read_bytes()
    if content[:4] != b"\x0a\x0d\x0d\x0a":
        return False
    order = "<" if content[8] == 0x4D else ">"
    kinds, at = [], 0
    while at + 12 <= len(content):
        kind, total = struct.unpack_from(f"{order}II", content, at)
        kinds.append(kind)
        at += max(total, 12)
    return kinds.count(0x0A0D0D0A) > 1 or 3 in kinds


@pytest.mark.captures
@pytest.mark.slow
async def test_real_captures_are_read_as_dpkt_reads_them(captures: Path) -> None:
    layout = SlotLayout(payload_bytes=256 * 1024, packet_capacity=4096, meta_bytes=256, output_bytes=64)
    files = [p for p in sorted(captures.rglob("*")) if p.suffix in (".pcap", ".pcapng", ".cap")]
    compared, different = 0, []
    for path in files:
        result = await read_now(path, layout=layout)
        result.check(layout)
        expected = dpkt_packets(path)
        if expected is None or beyond_dpkt(path):
            assert len(result.contents) >= len(expected or ())
            continue
        compared += 1
        if digest(expected) != digest(result.contents):
            different.append((path.name, len(expected), len(result.contents), result.counts))
    assert compared > 750
    assert different == []
