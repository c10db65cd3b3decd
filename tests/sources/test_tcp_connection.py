"""A connection fed by hand: however the bytes come in and slots run out, the same frames come out."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.segment import SlotLayout
from streamspec.sources.tcp_connection import Connection
from streamspec.sources.tcp_reception import Framing, Reception
from streamspec.testing.clock import ManualClock
from streamspec.testing.intake import RecordingIntake

TINY = SlotLayout(payload_bytes=192, packet_capacity=5, meta_bytes=256, output_bytes=4096)
LIMIT = 100
FLUSH = 0
"""Among the sizes of reads: linger has passed."""


def encode(framing: Framing, frames: Sequence[bytes]) -> bytes:
    if framing == "length":
        return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
    return b"".join(frame + b"\n" for frame in frames) if framing == "newline" else b"".join(frames)


class Feed:
    """A connection on an arena of few slots that are all held until nothing else helps."""

    def __init__(self, framing: Framing, *, slots: int = 2, segment_bytes: int = 192, limit: int = LIMIT) -> None:
        self.intake = RecordingIntake(slots=slots, layout=TINY, hold=True)
        self.reception = Reception(
            self.intake, framing, max_frame_bytes=limit, segment_bytes=segment_bytes, linger_ns=10**9
        )
        self.connection = Connection(self.reception, b"peer:1")

    async def read(self, content: bytes) -> None:
        """One readiness of the socket with this much to read."""
        while content:
            buffer = self.connection.get_buffer(-1)
            size = min(len(buffer), len(content))
            buffer[:size] = content[:size]
            self.connection.buffer_updated(size)
            content = content[size:]
            while self.reception.waiting:
                self.make_room()
                await self.reception.serve_one()

    def make_room(self) -> None:
        self.reception.commit()
        self.intake.free_held()

    def expire(self) -> None:
        """Linger has passed for whatever slot the connection has."""
        clock = self.intake.clock
        assert isinstance(clock, ManualClock)
        clock.advance(2.0)
        self.reception._expire()

    def frames(self) -> list[bytes]:
        """All that was committed."""
        self.make_room()
        for segment in self.intake.committed:
            assert segment.header["packets"] > 0
            assert segment.header["timestamp_ns"] == segment.packets["timestamp_ns"][0]
            assert segment.key == b"peer:1"
        return [frame for segment in self.intake.committed for frame in segment.messages()]

    def close(self) -> None:
        assert self.intake.arena.free_slots == self.intake.arena.slots, "a slot was not given back"
        self.reception.close()
        self.intake.close()


async def feed(
    framing: Framing, stream: bytes, reads: Sequence[int], **options: int
) -> tuple[list[bytes], dict[str, int]]:
    one = Feed(framing, **options)
    position, turn = 0, 0
    while position < len(stream):
        size = reads[turn % len(reads)] if turn < 3 * len(reads) else 64
        turn += 1
        if size == FLUSH:
            one.expire()
        else:
            await one.read(stream[position : position + size])
            position += size
    one.connection.end()
    result = one.frames(), one.intake.tally.counts
    one.close()
    return result


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["length", "newline"]),
    st.lists(st.binary(max_size=LIMIT).map(lambda b: b.replace(b"\n", b"")), max_size=40),
    st.lists(st.one_of(st.just(FLUSH), st.integers(1, 8), st.integers(1, 400)), min_size=1, max_size=40),
    st.integers(2, 6),
    st.integers(1, 192),
)
def test_any_chunking_gives_the_same_frames(
    framing: Framing, frames: list[bytes], reads: list[int], slots: int, segment_bytes: int
) -> None:
    stream = encode(framing, frames)
    found, counts = asyncio.run(feed(framing, stream, reads, slots=slots, segment_bytes=segment_bytes))
    assert found == frames
    assert counts == {}


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=1500), st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(2, 4))
def test_chunks_keep_every_byte(stream: bytes, reads: list[int], slots: int) -> None:
    found, counts = asyncio.run(feed("chunks", stream, reads, slots=slots))
    assert b"".join(found) == stream
    assert all(0 < len(chunk) <= LIMIT for chunk in found)
    assert counts == {}


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["length", "newline"]), st.binary(max_size=1500), st.lists(st.integers(0, 300), min_size=1))
def test_random_bytes_are_framed_or_counted(framing: Framing, stream: bytes, reads: list[int]) -> None:
    found, counts = asyncio.run(feed(framing, stream, reads))
    encoded = encode(framing, found)
    assert stream.startswith(encoded)
    assert (encoded == stream) == (counts == {})
    assert set(counts) <= {"frame_too_large", "incomplete_frames"}


@pytest.mark.parametrize("framing", ["length", "newline"])
async def test_every_split_position(framing: Framing) -> None:
    frames = [b"first", b"", b"x" * LIMIT, b"last"]
    stream = encode(framing, frames)
    for split in range(1, len(stream)):
        assert await feed(framing, stream, [split, FLUSH, len(stream)]) == (frames, {}), split
        assert await feed(framing, stream, [split, len(stream)]) == (frames, {}), split


@pytest.mark.parametrize(("framing", "limit"), [("length", 188), ("newline", 191)])
async def test_a_frame_may_fill_a_whole_slot(framing: Framing, limit: int) -> None:
    frames = [b"a" * limit, b"b", b"c" * limit, b"d" * limit, b"e" * (limit - 1)]
    stream = encode(framing, frames)
    for segment_bytes in (1, 64, 192):
        for read in (1, 50, 192, len(stream)):
            assert await feed(framing, stream, [read], segment_bytes=segment_bytes, limit=limit) == (frames, {})


async def test_a_segment_is_closed_at_its_size_and_at_its_packets() -> None:
    one = Feed("length", slots=8, segment_bytes=60)
    await one.read(encode("length", [b"x" * 26] * 3))
    assert one.frames() == [b"x" * 26] * 2
    one.expire()
    await one.read(encode("length", [b""] * 12))
    one.expire()
    assert one.frames() == [b"x" * 26] * 3 + [b""] * 12
    assert [len(s.packets) for s in one.intake.committed] == [2, 1, 5, 5, 2]
    one.close()


async def test_times_are_those_of_the_first_byte() -> None:
    one = Feed("length", slots=8)
    clock = one.intake.clock
    assert isinstance(clock, ManualClock)
    start_ns = clock.now_ns
    stream = encode("length", [b"a" * 70, b"b" * 70])
    await one.read(stream[:40])
    clock.advance(0.1)
    await one.read(stream[40:90])  # the first frame ends in this read, and the second begins
    clock.advance(0.1)
    await one.read(stream[90:])
    assert one.frames() == []
    one.expire()
    assert one.frames() == [b"a" * 70, b"b" * 70]
    (segment,) = one.intake.committed
    assert segment.header["arrival_ns"] == start_ns
    assert segment.packets["timestamp_ns"].tolist() == [start_ns + 100_000_000, start_ns + 200_000_000]
    one.close()


async def test_a_tail_brings_its_time_along() -> None:
    one = Feed("length", slots=8, segment_bytes=20)
    clock = one.intake.clock
    assert isinstance(clock, ManualClock)
    await one.read(encode("length", [b"a" * 20]) + b"\0")
    tail_ns = clock.now_ns
    one.expire()
    clock.advance(5.0)
    await one.read(b"\0\0\1x")
    one.expire()
    assert one.frames() == [b"a" * 20, b"x"]
    assert one.intake.committed[1].header["arrival_ns"] == tail_ns
    one.close()


async def test_a_half_frame_holds_no_slot_after_linger() -> None:
    one = Feed("length")
    await one.read(b"\0\0\0\x05he")
    assert one.intake.arena.free_slots == 1
    one.expire()
    assert one.intake.arena.free_slots == 2
    await one.read(b"llo")
    one.expire()
    assert one.frames() == [b"hello"]
    one.close()


async def test_a_slot_without_bytes_is_given_back() -> None:
    """TLS asks for a buffer before it knows whether there is anything to read."""
    one = Feed("length")
    one.connection.get_buffer(-1)
    assert one.intake.arena.free_slots == 1
    one.expire()
    assert one.frames() == []
    one.close()


async def test_frames_before_one_too_large_count_and_nothing_after() -> None:
    one = Feed("newline")
    await one.read(b"good\n" + b"x" * LIMIT + b"y\nlater\n")
    await one.read(b"more\n")
    one.connection.end()
    assert one.frames() == [b"good"]
    assert one.intake.tally.counts == {"frame_too_large": 1}
    one.close()
