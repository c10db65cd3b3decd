"""Which bytes of a long segment are read, and what that costs in accuracy.

Up to ``sample_bytes`` a segment is read whole. Beyond that it is cut into equal strata, and one block of
:data:`BLOCK_BYTES` is read in each, at a place that depends on nothing but the length: the same segment always
gives the same features. Within its stratum block *i* is shifted by the fractional part of *i* squared times the golden
ratio, so that records of a fixed size are not always met at the same phase: over all sizes of records up to 8 KiB
the worst error of a share was 0.23 so, where blocks at equal distances or shifted by multiples of the ratio had one
of 0.7.

Bounds on the error of a share *p* of a class of bytes (all histogram features are sums of such shares), with
*n* bytes read in *b* blocks (default: n = 4096, b = 32):

- Bytes that are alike everywhere (each drawn from one distribution): the standard error is at most
  ``0.5 / sqrt(n)``, that is 0.008; :func:`share_bound` gives three of them.
- A segment of at most *c* changes between stretches that are each alike: every change lies in one stratum and
  spoils at most that one, which adds ``c / b`` at the very most (:func:`share_bound` with ``changes``).
- Bytes that are alike within a block and differ between blocks, as the headers and bodies of packets do: the
  *b* blocks are what is drawn, and the standard error is at most ``0.5 / sqrt(b)``, that is 0.09
  (:func:`clustered_bound`).
- Entropy: the plug-in estimate of *n* bytes lies too low by about ``(distinct - 1) / (2 n ln 2)`` (Miller and
  Madow, 1955), 0.045 bits for uniform bytes, which is added; its standard deviation is at most
  ``log2(n) / sqrt(n)`` (Antos and Kontoyiannis, 2001). :func:`entropy_bound` gives three of them plus what the
  changes can do by Fannes' and Audenaert's inequality.

Nothing can be promised for a segment made to deceive, which hides all that matters between the blocks: it gets
the cost estimate of what was seen, and ``sample_bytes: 0`` reads all. The tests hold these bounds on generated
segments, and the measured errors on real captures below fixed ones.
"""

from __future__ import annotations

import math

from streamspec.core.jit import lean_kernel

BLOCK_BYTES = 128
"""Bytes read in each stratum. With 256 the errors on real captures were a fifth larger;
64 would double the cache misses."""

DEFAULT_SAMPLE_BYTES = 4096

_GOLDEN = 2654435769  # 2**32 / golden ratio


@lean_kernel
def block_count(length: int, sample_bytes: int) -> int:
    """How many blocks of a segment are read: 1 (all of it) up to ``sample_bytes``, or when that is 0 or less."""
    if sample_bytes <= 0 or length <= sample_bytes:
        return 1
    blocks = max(sample_bytes // BLOCK_BYTES, 1)
    return blocks if length > blocks * BLOCK_BYTES else 1


@lean_kernel
def block_start(length: int, blocks: int, index: int) -> int:
    """Where block ``index`` of ``blocks`` begins in a segment; 0 when there is one, which is then the whole."""
    if blocks <= 1:
        return 0
    low = index * length // blocks
    slack = (index + 1) * length // blocks - low - BLOCK_BYTES
    shift = (index * index * _GOLDEN & 0xFFFF_FFFF) * slack >> 32
    return low + shift


def share_bound(read_bytes: int, blocks: int, changes: int = 0) -> float:
    """Largest error of a sampled share to be expected (three standard errors); see the module."""
    return min(1.0, 1.5 / math.sqrt(read_bytes) + changes / blocks)


def clustered_bound(blocks: int) -> float:
    """As :func:`share_bound`, when blocks may differ from each other as much as they like; see the module."""
    return min(1.0, 1.5 / math.sqrt(blocks))


def entropy_bound(read_bytes: int, blocks: int, changes: int = 0) -> float:
    """Largest error of a sampled entropy to be expected, in bits; see the module."""
    distance = min(1.0, changes / blocks)
    spoiled = 0.0
    if distance:
        inside = -distance * math.log2(distance) - (1 - distance) * math.log2(1 - distance) if distance < 1 else 0.0
        spoiled = distance * math.log2(255) + inside
    return min(8.0, 3 * math.log2(read_bytes) / math.sqrt(read_bytes) + spoiled)
