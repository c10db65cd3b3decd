"""Features counted on a device are those of the CPU, to the last bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_COUNT, FEATURE_NAMES
from streamspec.core.segment import CONTENT_MESSAGES, HEADER
from streamspec.links import cuda
from streamspec.profiler.kernels import make_scratch
from streamspec.profiler.profiler import Content, Profiler, lay_out
from streamspec.testing.cuda import FaultyDevice
from tests.gpu.arenas import filled
from tests.profiler import samples

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

SCRATCH = make_scratch()
THREADS = 8
"""Of a block: the simulator runs each as a thread of Python, and tiles are small then, so that many are crossed."""


def _check(payloads: list[bytes], threads: int = THREADS) -> None:
    from streamspec.profiler.gpu_features import GpuFeatures

    contents = [Content(payload) for payload in payloads]
    expected = Profiler(sample_bytes=0).profile_contents(contents)
    memory, rows = lay_out(contents)
    device = cuda.open_device("0", 1 << 20)
    features = GpuFeatures(device, memory.copy(), max(map(len, payloads)), threads=threads)
    out = np.full((len(payloads), FEATURE_COUNT), np.nan, dtype=np.float32)
    features.profile(rows, np.arange(len(payloads)), SCRATCH, out)
    features.close()
    for payload, one, other in zip(payloads, expected, out, strict=True):
        wrong = [(name, a, b) for name, a, b in zip(FEATURE_NAMES, one.tolist(), other.tolist(), strict=True) if a != b]
        assert not wrong, (payload[:80], len(payload), wrong)


RUNS = st.lists(st.tuples(st.sampled_from(b'aZ09+/=_- \n{"\x00\x80\xff'), st.integers(1, 90)), max_size=12)
TEXT = st.text(st.characters(codec="utf-8"), max_size=120).map(str.encode)
CUT = st.tuples(TEXT, st.integers(0, 4), st.integers(0, 4)).map(lambda c: c[0][c[1] : len(c[0]) - c[2]])
PAYLOAD = st.one_of(
    st.binary(max_size=600), TEXT, CUT, RUNS.map(lambda runs: b"".join(bytes([value]) * count for value, count in runs))
)


@given(st.lists(PAYLOAD, min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
@example([b""])
@example([b"x"])
@example([b"\x80\x80\x80"])
@example([b"\x80\x80\x80\x80"])
@example([b"A" * 512])
@example([b"\xe0\x9f\xbf\xed\xa0\x80\xf0\x8f\xbf\xbf\xf4\x90\x80\x80\xc0\xaf" * 20])
def test_features_are_those_of_the_cpu(payloads: list[bytes]) -> None:
    _check(payloads)


def test_pieces_of_64_kib_are_counted_apart() -> None:
    noise = random.Random(1)
    block = noise.randbytes(3000)
    _check([(block * 23)[:65_700]], threads=128)


def test_more_segments_than_one_launch_takes() -> None:
    noise = random.Random(2)
    _check([noise.randbytes(noise.randrange(20)) for _ in range(140)], threads=1)


def test_messages_of_known_types() -> None:
    _check([samples.dns_query(), samples.dns_answer(), samples.tls_record(200), samples.quic_initial()])


def test_a_profiler_with_a_device_says_what_one_without_says_whatever_becomes_of_it() -> None:
    noise = random.Random(3)
    segments = [[noise.randbytes(noise.randrange(1, 90)) for _ in range(3)] for _ in range(6)] + [[b""], [b"x" * 3000]]
    arena, made = filled(segments)
    arena.headers = np.zeros(len(made), dtype=HEADER)
    for segment in made:
        row = arena.headers[segment.slot : segment.slot + 1]
        row["length"], row["packets"], row["content"] = segment.length, segment.packet_count, CONTENT_MESSAGES
    slots = np.arange(len(made), dtype=np.int32)
    expected = np.zeros((len(made), FEATURE_COUNT), dtype=np.float32)
    Profiler(sample_bytes=1024).profile(arena, arena.headers, slots, expected)
    device, gone = FaultyDevice("0", 0), []
    profiler = Profiler(sample_bytes=1024, device="gpu")
    profiler.use_gpu(device, arena, lambda: gone.append(1))
    assert profiler.gpu is not None
    for fault in (None, "device_lost", None):
        if fault is not None:
            device.fail("wait", cuda.fault_reason(fault))
        out = np.full_like(expected, np.nan)
        profiler.profile(arena, arena.headers, slots, out)
        np.testing.assert_array_equal(out, expected)
    assert profiler.gpu.summary() == {"on_gpu": len(made) - 1, "gpu_device_lost": len(made) - 1}, "one is sampled"
    assert gone == [1]
    assert device.closed
