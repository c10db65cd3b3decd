"""Which bytes a sample reads, and that its error keeps the stated bounds."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_INDEX, FEATURES
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiler.report import cut_packets
from streamspec.profiler.sampling_kernels import (
    BLOCK_BYTES,
    DEFAULT_SAMPLE_BYTES,
    block_count,
    block_start,
    clustered_bound,
    entropy_bound,
    share_bound,
)
from tests.profiler import plain
from tests.profiler.conftest import manifest, read_capture

BLOCKS = DEFAULT_SAMPLE_BYTES // BLOCK_BYTES
HISTOGRAM_SHARES = [
    index
    for name, index in FEATURE_INDEX.items()
    if name.endswith("_share") and not name.startswith(("base64", "alphanumeric", "utf8", "repetition", "period"))
]
ENTROPIES = [FEATURE_INDEX["entropy_bits"], FEATURE_INDEX["difference_entropy_bits"]]


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1 << 20))
def test_blocks_are_within_the_segment_in_order_and_apart(length: int, sample_bytes: int) -> None:
    blocks = block_count(length, sample_bytes)
    if blocks == 1:
        assert block_start(length, 1, 0) == 0
        return
    assert length > blocks * BLOCK_BYTES
    assert blocks * BLOCK_BYTES <= sample_bytes
    shown = range(blocks) if blocks < 100 else [*range(50), *range(blocks - 50, blocks)]
    starts = [(index, block_start(length, blocks, index)) for index in shown]
    for index, start in starts:
        assert index * length // blocks <= start
        assert start + BLOCK_BYTES <= (index + 1) * length // blocks


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 10**6), st.sampled_from([0, 1024, 1500, 4096, 65536]))
def test_the_blocks_are_those_of_the_plain_form(length: int, sample_bytes: int) -> None:
    blocks = block_count(length, sample_bytes)
    starts = [block_start(length, blocks, index) for index in range(blocks)]
    assert starts == [start for start, _ in plain.blocks(length, sample_bytes)]


def test_a_short_segment_and_a_sample_of_zero_are_read_whole() -> None:
    assert block_count(4096, 4096) == block_count(10**9, 0) == 1
    assert block_count(4097, 4096) == BLOCKS


def _errors(contents: list[bytes], whole: Profiler, sampling: Profiler) -> npt.NDArray[np.float32]:
    named = [Content(content) for content in contents]
    return np.abs(sampling.profile_contents(named) - whole.profile_contents(named))


def _stretch(noise: np.random.Generator, size: int) -> bytes:
    """Bytes drawn from one distribution: uniform, skewed, few values, or constant."""
    weights = noise.dirichlet(np.full(256, noise.choice([0.01, 0.1, 1.0, 100.0])))
    return noise.choice(256, size=size, p=weights).astype(np.uint8).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("size", [4097, 16384, 65536, 300_000])
def test_segments_alike_everywhere_keep_the_bounds(size: int, whole: Profiler, sampling: Profiler) -> None:
    noise = np.random.default_rng(size)
    errors = _errors([_stretch(noise, size) for _ in range(40)], whole, sampling)
    assert errors[:, HISTOGRAM_SHARES].max() <= share_bound(DEFAULT_SAMPLE_BYTES, BLOCKS)
    assert errors[:, ENTROPIES].max() <= entropy_bound(DEFAULT_SAMPLE_BYTES, BLOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [1, 2, 5])
def test_segments_of_several_stretches_keep_the_bounds(changes: int, whole: Profiler, sampling: Profiler) -> None:
    noise = np.random.default_rng(changes)
    contents = []
    for _ in range(40):
        sizes = noise.multinomial(65536, noise.dirichlet(np.ones(changes + 1)))
        contents.append(b"".join(_stretch(noise, size) for size in sizes))
    errors = _errors(contents, whole, sampling)
    assert errors[:, HISTOGRAM_SHARES].max() <= share_bound(DEFAULT_SAMPLE_BYTES, BLOCKS, changes)
    assert errors[:, ENTROPIES].max() <= entropy_bound(DEFAULT_SAMPLE_BYTES, BLOCKS, changes)


@pytest.mark.slow
def test_records_of_any_size_are_not_met_at_one_phase_only(whole: Profiler, sampling: Profiler) -> None:
    """Packets of one size with text in front: the worst case of blocks at equal distances."""
    noise = random.Random(5)
    contents = []
    for record in range(64, 4100, 61):
        unit = b"h" * (record // 4) + noise.randbytes(record - record // 4)
        contents.append((unit * (65536 // record + 1))[:65536])
    errors = _errors(contents, whole, sampling)
    assert errors[:, HISTOGRAM_SHARES].max() <= clustered_bound(BLOCKS)
    assert errors[:, ENTROPIES].max() <= 1.5
    assert np.percentile(errors[:, ENTROPIES], 90) <= 0.8


def test_probes_and_exact_features_are_the_same_sampled_or_not(whole: Profiler, sampling: Profiler) -> None:
    noise = np.random.default_rng(1)
    errors = _errors([_stretch(noise, size) for size in (5000, 16384, 65536)], whole, sampling)
    same = [FEATURE_INDEX[feature.name] for feature in FEATURES if feature.sampling in ("exact", "probe")]
    assert not errors[:, same].any()


def test_lower_bounds_bound(whole: Profiler, sampling: Profiler) -> None:
    noise = np.random.default_rng(2)
    contents = [Content(_stretch(noise, 30_000)) for _ in range(20)]
    full, sampled = whole.profile_contents(contents), sampling.profile_contents(contents)
    for name, sign in (("minimum", -1), ("maximum", 1), ("distinct_values", 1)):
        column = FEATURE_INDEX[name]
        assert (sign * (full - sampled)[:, column] >= 0).all()


MEASURED = {
    # (mean, 95th percentile, 99th percentile) of the absolute error that is allowed: half as much again as was measured
    "entropy_bits": (0.10, 0.30, 0.40),
    "difference_entropy_bits": (0.08, 0.28, 0.35),
    "top_share": (0.013, 0.040, 0.060),
    "zero_share": (0.013, 0.040, 0.060),
    "printable_share": (0.022, 0.060, 0.090),
    "lower_share": (0.016, 0.050, 0.080),
    "digit_share": (0.010, 0.045, 0.080),
    "base64_run_share": (0.018, 0.100, 0.150),
    "alphanumeric_run_share": (0.020, 0.085, 0.135),
    "utf8_valid_share": (0.013, 0.030, 0.045),
    "repetition_share": (0.200, 0.500, 0.600),
}


@pytest.mark.slow
@pytest.mark.captures
@pytest.mark.parametrize("segment_bytes", [16384, 65536])
def test_the_error_on_real_captures(captures: Path, segment_bytes: int, whole: Profiler, sampling: Profiler) -> None:
    contents: list[Content] = []
    for entry in manifest(captures)[::3]:
        packets = list(read_capture(captures / entry["file"]))
        cut = cut_packets(entry["file"], (packet for _, packet in packets), 1, segment_bytes)
        contents += [content for _, content in cut if len(content.payload) > segment_bytes * 3 // 4][:8]
    assert len(contents) > 60
    errors = np.abs(sampling.profile_contents(contents) - whole.profile_contents(contents))
    for name, allowed in MEASURED.items():
        column = errors[:, FEATURE_INDEX[name]]
        found = (column.mean(), *np.percentile(column, (95, 99)))
        assert all(value <= most for value, most in zip(found, allowed, strict=True)), (name, found, allowed)
