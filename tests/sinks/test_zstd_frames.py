"""The end of the last whole frame, against a decompressor."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.sinks.zstd_frames import MAGIC, frame_end, whole_frames


def _frame(content: bytes, *, checksum: bool, size: bool, streamed: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=checksum, write_content_size=size)
    if not streamed:
        return compressor.compress(content)
    stream = compressor.compressobj()
    half = len(content) // 2
    parts = [stream.compress(content[:half]), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*parts, stream.compress(content[half:]), stream.flush()])


FRAMES = st.builds(
    _frame,
    st.one_of(st.binary(max_size=300), st.integers(0, 300_000).map(bytes)),
    checksum=st.booleans(),
    size=st.booleans(),
    streamed=st.booleans(),
)
SKIPPABLE = st.builds(lambda n, b: struct.pack("<II", 0x184D2A50 + n, len(b)) + b, st.integers(0, 15), st.binary())


@given(st.lists(st.one_of(FRAMES, FRAMES, SKIPPABLE), max_size=5), st.integers(0, 60))
@settings(deadline=None, max_examples=150)
def test_frames_end_where_they_end_and_a_cut_one_does_not_count(frames: list[bytes], cut: int) -> None:
    whole = b"".join(frames)
    content = whole[: max(len(whole) - cut, 0)]
    ends = [0]
    for frame in frames:
        ends.append(ends[-1] + len(frame))
    assert whole_frames(content) == max(end for end in ends if end <= len(content))


@given(st.binary(max_size=60), st.sampled_from([b"", MAGIC, MAGIC + b"\x20"]))
@settings(deadline=None, max_examples=150)
def test_other_bytes_are_no_frames_and_no_fault(content: bytes, start: bytes) -> None:
    content = start + content
    end = frame_end(content, 0)
    assert -1 <= end <= len(content)
    assert 0 <= whole_frames(content) <= len(content)


@pytest.mark.parametrize("dictionary_bytes", [0, 1, 2, 4])
def test_headers_with_a_dictionary_id(dictionary_bytes: int) -> None:
    identifier = {0: 0, 1: 200, 2: 40_000, 4: 1_000_000}[dictionary_bytes]
    samples = [b"sensor=%d value=%d\n" % (i, i * 7 % 50) for i in range(500)]
    trained = zstandard.train_dictionary(1000, samples, dict_id=identifier or 1)
    frame = zstandard.ZstdCompressor(dict_data=trained, write_dict_id=bool(identifier)).compress(samples[0])
    assert frame_end(frame, 0) == len(frame)
    assert frame_end(frame[:-1], 0) == -1


def test_a_last_frame_whose_content_was_lost_does_not_count() -> None:
    """What some file systems leave after a power cut: the length is there, the bytes are zeros."""
    first, second = (zstandard.ZstdCompressor(write_checksum=True).compress(text * 50) for text in (b"one", b"two"))
    damaged = bytearray(first + second)
    damaged[-4:] = bytes(4)
    assert whole_frames(bytes(damaged)) == len(first)
    assert whole_frames(first + bytes(500)) == len(first)
