"""The whole vector against its plain form, for every kind of content and for hostile input."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX, FEATURE_NAMES, FEATURES, INFER_TYPE
from streamspec.profiler.kernels import NO_LINK, NO_TABLE, make_scratch, profile_batch
from streamspec.profiler.profiler import Content, Profiler, lay_out
from tests.profiler import plain

LENGTHS = [0, 1, 2, 3, 4, 7, 8, 9, 63, 64, 65, 127, 128, 129, 191, 192, 511, 512, 513, 1024, 1025, 1600, 2500]


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes of every make: random, constant, few values, periodic, text of one to four bytes a character,
    almost UTF-8, base64 with breaks, counters, JSON."""
    length = draw(st.sampled_from(LENGTHS) | st.integers(0, 3000))
    noise = random.Random(draw(st.integers(0, 2**32)))
    make = draw(st.integers(0, 8))
    if make == 0:
        return noise.randbytes(length)
    if make == 1:
        return bytes([noise.randrange(256)]) * length
    if make == 2:
        return bytes(noise.choices(b"\0\xff", k=length))
    if make == 3:
        return (noise.randbytes(noise.randrange(1, 70)) * (length + 1))[:length]
    if make == 4:
        return "".join(noise.choices("aé中😀 z9", k=length)).encode()[:length]
    if make == 5:
        return bytes(noise.choices(b"\xe0\xed\xf0\xf4\x80\x90\x9f\xa0\xbf\xc2\xc0A\xff", k=length))
    if make == 6:
        return bytes(noise.choices(b"abcXYZ0189+/-_= ", [20] * 15 + [3], k=length))
    if make == 7:
        return bytes((index * 3 + noise.randrange(3)) % 256 for index in range(length))
    return (b'{"name": "value", "count": 12345}, ' * (length // 30 + 1))[:length]


PROFILERS = {sample_bytes: Profiler(sample_bytes=sample_bytes) for sample_bytes in (0, 1024, 1100, 2048)}


def assert_equals_plain(content: bytes, sample_bytes: int, packets: int = 1) -> None:
    table = None if packets == 1 else np.zeros(packets, dtype=[("row", "u1", 24)])
    got = PROFILERS[sample_bytes].profile_contents([Content(content, table)])[0]
    for name, expected in plain.features(content, sample_bytes, packets).items():
        value = got[FEATURE_INDEX[name]]
        assert np.isclose(value, expected, rtol=1e-5, atol=1e-6), (name, value, expected)


@settings(deadline=None, max_examples=150)
@given(contents(), st.sampled_from(sorted(PROFILERS)))
def test_every_feature_equals_its_plain_form(content: bytes, sample_bytes: int) -> None:
    assert_equals_plain(content, sample_bytes)


@pytest.mark.parametrize("value", [0, 0x41, 0x80, 0xFF])
def test_equal_bytes_of_every_short_length(value: int) -> None:
    for length in [*range(10), 64, 127, 128, 1023, 1024, 1025]:
        assert_equals_plain(bytes([value]) * length, 1024)


@pytest.mark.slow
@pytest.mark.parametrize("sample_bytes", [0, 2048])
def test_the_longest_segments(sample_bytes: int) -> None:
    noise = random.Random(7)
    words = [noise.randbytes(noise.randrange(2, 9)) for _ in range(500)]
    assert_equals_plain(b"".join(noise.choices(words, k=40_000))[:200_000], sample_bytes)


def test_an_empty_segment_has_its_packets_and_nothing_else() -> None:
    row = PROFILERS[0].profile_contents([Content(b"")])[0]
    assert np.flatnonzero(row).tolist() == [FEATURE_INDEX["packets"]]


@settings(deadline=None, max_examples=80)
@given(contents(), st.sampled_from(sorted(PROFILERS)))
def test_every_value_is_finite_and_within_the_range_of_the_schema(content: bytes, sample_bytes: int) -> None:
    row = PROFILERS[sample_bytes].profile_contents([Content(content)])[0]
    assert np.isfinite(row).all()
    for feature, value in zip(FEATURES, row.tolist(), strict=True):
        assert feature.low <= value <= feature.high * (1 + 1e-6), feature.name


@settings(deadline=None, max_examples=80)
@given(contents(), st.binary(max_size=100), st.binary(max_size=100))
def test_what_lies_around_a_segment_changes_nothing(content: bytes, before: bytes, after: bytes) -> None:
    memory = np.frombuffer(bytearray(before + content + after), dtype=np.uint8)
    got = np.zeros((1, FEATURE_COUNT), dtype=np.float32)
    one = [np.array([v], dtype=np.int64) for v in (len(before), len(content), 1, NO_TABLE, NO_LINK, INFER_TYPE)]
    profile_batch(memory, *one, 1024, make_scratch(), got)
    assert np.array_equal(got, PROFILERS[1024].profile_contents([Content(content)]))


def test_a_segment_is_not_affected_by_those_before_it_in_the_batch() -> None:
    noise = random.Random(3)
    batch = [Content(noise.randbytes(size)) for size in (5000, 3, 0, 64, 1500, 20_000)]
    batch += [Content(b"A" * 9000), Content("中文".encode() * 400)]
    together = PROFILERS[1024].profile_contents(batch)
    alone = [PROFILERS[1024].profile_contents([content])[0] for content in batch]
    assert np.array_equal(together, np.array(alone))


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=300),
    st.integers(-(2**40), 2**40),
    st.integers(-(2**40), 2**40),
    st.integers(0, 2**32 - 1),
    st.integers(-1, 2**33) | st.integers(-1, 300),
    st.integers(-1, 300),
)
def test_descriptions_that_lie_outside_of_the_memory_are_cut_off(
    content: bytes, start: int, length: int, packets: int, table: int, link_type: int
) -> None:
    memory = np.frombuffer(bytearray(content), dtype=np.uint8)
    got = np.zeros((1, FEATURE_COUNT), dtype=np.float32)
    one = [np.array([v], dtype=np.int64) for v in (start, length, packets, table, link_type, INFER_TYPE)]
    profile_batch(memory, *one, 1024, make_scratch(), got)
    assert np.isfinite(got).all()
    assert 0 <= got[0, FEATURE_INDEX["length_bytes"]] <= len(content)


def test_a_declared_type_is_taken_without_looking() -> None:
    got = PROFILERS[0].profile_contents([Content(b"GET / HTTP/1.1\r\n\r\n", declared=6), Content(b"", declared=3)])
    assert got[:, FEATURE_INDEX["type_code"]].tolist() == [6, 3]


def test_the_last_column_is_the_type() -> None:
    assert FEATURE_NAMES[-1] == "type_code"


_GUARDED = """
    import ctypes, mmap, random
    import numpy as np
    from streamspec.core.features import FEATURE_COUNT
    from streamspec.profiler.kernels import make_scratch, profile_batch
    pages = mmap.mmap(-1, 9 * mmap.PAGESIZE)
    memory = np.frombuffer(pages, dtype=np.uint8)[: 8 * mmap.PAGESIZE]
    libc = ctypes.CDLL(None, use_errno=True)
    last = ctypes.c_void_p(memory.ctypes.data + memory.size)
    assert libc.mprotect(last, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    noise = random.Random(1)
    scratch = make_scratch()
    out = np.zeros((1, FEATURE_COUNT), dtype=np.float32)
    texts = [b"GET", b"SSH-", b"{\\"", b"<3", b"\\x16\\x03\\x01", b"\\xc3\\0\\0\\0\\x01\\x08", b"a,b\\n", b"\\0" * 20]
    for length in [*range(0, 300), 511, 512, 513, 1000, 5000, 20000, memory.size]:
        memory[:] = np.frombuffer(noise.randbytes(memory.size), dtype=np.uint8)
        text = noise.choice(texts)[:length]
        start = memory.size - length
        memory[start : start + len(text)] = np.frombuffer(text, dtype=np.uint8)
        for link in (-1, 1, 101):
            row = [np.array([value], dtype=np.int64) for value in (start, length, 1, -1, link, -1)]
            profile_batch(memory, *row, 4096, scratch, out)
            profile_batch(memory, *row, 0, scratch, out)
    print("done")
"""


@pytest.mark.slow
def test_no_kernel_reads_behind_the_memory() -> None:
    """A page that may not be read lies behind it: one byte too many would kill the process."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_GUARDED)], capture_output=True, text=True, timeout=55, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "done"), ran.stderr


HOSTILE = {
    "zeros": bytes(65536),
    "one letter": b"A" * 65536,
    "alternating": b"A," * 32768,
    "runs of nine": b"AAAAAAAAA," * 6554,
    "broken UTF-8": b"\xe0\x80\xf4\x90" * 16384,
    "long characters": "😀".encode() * 16384,
    "JSON names": b'"":' * 21845,
    "commas": b",\n" * 32768,
    "digits": b"1" * 65536,
    "labels": b"\x3f" * 65536,
}


@pytest.mark.slow
@pytest.mark.parametrize("sample_bytes", [0, 4096])
def test_no_content_takes_much_longer_than_random_bytes(sample_bytes: int) -> None:
    profiler = Profiler(sample_bytes=sample_bytes)

    def cost(content: bytes) -> int:
        memory, rows = lay_out([Content(content)] * 8)
        out, scratch = np.zeros((8, FEATURE_COUNT), dtype=np.float32), make_scratch()
        best = 1 << 62
        for _ in range(9):
            started = time.thread_time_ns()
            profile_batch(memory, *rows, profiler.sample_bytes, scratch, out)
            best = min(best, time.thread_time_ns() - started)
        return best

    usual = cost(random.Random(1).randbytes(65536))
    costs = {name: round(cost(content) / usual, 2) for name, content in HOSTILE.items()}
    assert max(costs.values()) < 4, costs
