"""Files that are compressed already: whole gzip (RFC 1952) and zstd (RFC 8878) files of text."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

import zstandard

from loadgen.kinds.kind import Kind
from loadgen.kinds.words import text

_GZIP_BYTES = 20
_SKIPPABLE_BYTES = 8
_ROUNDS = 5
_LIBRARY_BYTES = 512 * 1024


def generate(rng: Random, size: int) -> bytes:
    """One file of exactly ``size`` bytes: as much text as fits, the rest in a field that readers skip."""
    return _gzip(rng, size) if rng.random() < 0.5 else _zstd(rng, size)


def _gzip(rng: Random, size: int) -> bytes:
    """A gzip member; its extra field takes up what the text leaves."""
    room = size - _GZIP_BYTES
    plain, deflated = _fit(rng, room, _deflate)
    extra = room - len(deflated)
    header = b"\x1f\x8b\x08\x04" + struct.pack("<IBBH", rng.getrandbits(31), 0, 3, extra) + rng.randbytes(extra)
    return header + deflated + struct.pack("<II", zlib.crc32(plain), len(plain))


def _zstd(rng: Random, size: int) -> bytes:
    """A zstd frame and, unless it fits exactly, a skippable frame behind it."""
    compress = zstandard.ZstdCompressor(level=3).compress
    _, frame = _fit(rng, size - _SKIPPABLE_BYTES, compress)
    left = size - len(frame) - _SKIPPABLE_BYTES
    return frame + struct.pack("<II", 0x184D2A50, left) + rng.randbytes(left)


def _deflate(plain: bytes) -> bytes:
    squeeze = zlib.compressobj(6, zlib.DEFLATED, -15)
    return squeeze.compress(plain) + squeeze.flush()


@cache
def _library() -> bytes:
    """Text that messages take pieces of: making it anew for each is most of the time."""
    return text(Random(0), _LIBRARY_BYTES).encode()


def _source(rng: Random, size: int) -> bytes:
    if size > _LIBRARY_BYTES // 2:
        return text(rng, size).encode()
    start = rng.randrange(_LIBRARY_BYTES - size)
    return _library()[start : start + size]


def _fit(rng: Random, room: int, compress: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
    """Text and its compressed form, which takes nearly ``room`` bytes and never more."""
    source = _source(rng, 4 * room + 64)
    best = (b"", compress(b""))
    cut = 2 * room
    for _ in range(_ROUNDS):
        small = compress(source[:cut])
        if len(best[1]) < len(small) <= room:
            best = (source[:cut], small)
        if 0.9 * room <= len(small) <= room:
            break
        cut = min(len(source), max(1, int(cut * 0.98 * room / len(small))))
    return best


KIND = Kind("compressed", generate, 64, 1300, 0.7, "whole gzip and zstd files of text", largest_bytes=256 * 1024)
