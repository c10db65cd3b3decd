"""Masks of 64 bytes against NumPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler import vector


@lean_kernel
def _masks(memory: Bytes, at: int, other: int, low: int, high: int, out: np.ndarray) -> None:
    out[0] = vector.range_mask(memory, at, np.uint8(low), np.uint8(high))
    out[1] = vector.equal_mask(memory, at, np.uint8(low))
    out[2] = vector.same_mask(memory, at, other)
    out[3] = vector.count_ones(out[0])
    out[4] = vector.trailing_zeros(out[0])
    out[5] = vector.leading_zeros(out[0])
    out[6] = vector.load_u32(memory, at)
    out[7] = vector.load_u64(memory, at)
    vector.prefetch(memory, at)


def _to_mask(chosen: np.ndarray) -> int:
    return sum(1 << index for index, value in enumerate(chosen.tolist()) if value)


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=140, max_size=140), st.integers(0, 76), st.integers(0, 76), st.integers(0, 255), st.data())
def test_masks_equal_their_plain_form(content: bytes, at: int, other: int, low: int, data: st.DataObject) -> None:
    high = data.draw(st.integers(low, 255))
    memory = np.frombuffer(bytearray(content), dtype=np.uint8)
    out = np.zeros(8, dtype=np.uint64)
    _masks(memory, at, other, low, high, out)
    chunk, another = memory[at : at + 64], memory[other : other + 64]
    within = _to_mask((chunk >= low) & (chunk <= high))
    bits = f"{within:064b}"
    assert out.tolist() == [
        within,
        _to_mask(chunk == low),
        _to_mask(chunk == another),
        bits.count("1"),
        64 - len(bits.rstrip("0")) if within else 64,
        len(bits) - len(bits.lstrip("0")) if within else 64,
        int.from_bytes(content[at : at + 4], "little"),
        int.from_bytes(content[at : at + 8], "little"),
    ]


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=100), st.data())
def test_a_copy_is_padded_with_zeros(content: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content)))
    size = data.draw(st.integers(0, min(64, len(content) - at)))
    memory = np.frombuffer(bytearray(content), dtype=np.uint8)
    target = np.full(80, 7, dtype=np.uint8)
    vector.copy_padded(memory, at, size, target, 64)
    assert target.tobytes() == content[at : at + size].ljust(64, b"\0") + b"\7" * 16
