"""Padding: one byte, or a short pattern, over and over (keep-alives, erased flash, fillers)."""

from __future__ import annotations

from random import Random

from loadgen.kinds.kind import Kind

_PATTERNS = (b"\0", b"\0", b"\0", b"\xff", b"A", b"\xaa\x55", b"\xde\xad\xbe\xef")


def generate(rng: Random, size: int) -> bytes:
    """``size`` bytes of one pattern."""
    pattern = rng.choice(_PATTERNS)
    return (pattern * (size // len(pattern) + 1))[:size]


KIND = Kind("padding", generate, 1, 800, 0.8, "zeros, constants and short patterns")
