"""Words at any address: what kernels load, store and copy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core import words
from streamspec.core.jit import lean_kernel

_TEXT = np.frombuffer(b"some text", dtype=np.uint8)


@lean_kernel
def _load(memory: np.ndarray, at: int) -> tuple[int, int, int, int]:
    return (
        words.load_be16(memory, at),
        words.load_be32(memory, at),
        words.load_u32(memory, at),
        words.load_u64(memory, at),
    )


@lean_kernel
def _store(memory: np.ndarray, at: int, value: int) -> int:
    words.store_u64(memory, at, value)
    words.store_u32(memory, at + 8, value)
    return words.put_text(memory, at + 12, _TEXT)


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=8, max_size=24), st.integers(0, 16))
def test_loads_are_those_of_the_bytes(content: bytes, at: int) -> None:
    at = min(at, len(content) - 8)
    big16, big32, little32, little64 = _load(np.frombuffer(content, dtype=np.uint8), at)
    assert big16 == int.from_bytes(content[at : at + 2], "big")
    assert big32 == int.from_bytes(content[at : at + 4], "big")
    assert little32 == int.from_bytes(content[at : at + 4], "little")
    assert little64 == int.from_bytes(content[at : at + 8], "little")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**63 - 1), st.integers(0, 9))
def test_stores_touch_their_bytes_alone(value: int, at: int) -> None:
    memory = np.full(32, 0xAA, dtype=np.uint8)
    end = _store(memory, at, value)
    expected = value.to_bytes(8, "little") + (value & 0xFFFFFFFF).to_bytes(4, "little") + b"some text"
    assert end == at + len(expected)
    assert memory.tobytes() == b"\xaa" * at + expected + b"\xaa" * (32 - end)


@lean_kernel
def _trailing(value: int) -> int:
    return words.trailing_zeros(value)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 62))
def test_trailing_zeros(bits: int) -> None:
    assert _trailing(1 << bits) == bits
