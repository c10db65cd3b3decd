"""Media: RTP packets (RFC 3550) with H.264 fragments (RFC 6184), and baseline JPEG files (ITU-T T.81)."""

from __future__ import annotations

import struct
from random import Random

from loadgen.kinds.kind import Kind

_RTP_BYTES = 14
_LARGEST_RTP = 1460


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


_QUANTISATION = bytes(min(255, 16 + 2 * (i // 8 + i % 8) + i) for i in range(64))
_CODE_LENGTHS = bytes((0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0))
_JPEG_HEAD = (
    b"\xff\xd8"
    + _segment(0xE0, b"JFIF\0\x01\x01\x00\x00\x48\x00\x48\x00\x00")
    + _segment(0xDB, b"\0" + _QUANTISATION)
    + _segment(0xC0, struct.pack(">BHHB", 8, 480, 640, 1) + b"\x01\x11\x00")
    + _segment(0xC4, b"\x00" + _CODE_LENGTHS + bytes(range(12)))
    + _segment(0xC4, b"\x10" + _CODE_LENGTHS + bytes(range(12)))
    + _segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")
)


def generate(rng: Random, size: int) -> bytes:
    """An RTP packet while one holds ``size``, sometimes a JPEG file; larger ones are JPEG files."""
    jpeg = size > _LARGEST_RTP or (size >= 2 * len(_JPEG_HEAD) and rng.random() < 0.3)
    return _jpeg(rng, size) if jpeg else _rtp(rng, size)


def _rtp(rng: Random, size: int) -> bytes:
    marker = 0x80 if rng.random() < 0.05 else 0
    header = struct.pack(">BBHII", 0x80, marker | 96, rng.getrandbits(16), rng.getrandbits(32), rng.getrandbits(32))
    fragment = bytes((0x7C, rng.choice((0x01, 0x05, 0x85, 0x41))))
    return header + fragment + rng.randbytes(size - _RTP_BYTES)


def _jpeg(rng: Random, size: int) -> bytes:
    """The entropy-coded scan has no bare 0xFF: each is followed by a zero byte, as the standard wants."""
    room = size - len(_JPEG_HEAD) - 2
    scan = rng.randbytes(room).replace(b"\xff", b"\xff\0")[:room]
    if scan.endswith(b"\xff"):
        scan = scan[:-1] + b"\x7f"
    return _JPEG_HEAD + scan + b"\xff\xd9"


KIND = Kind("media", generate, _RTP_BYTES, 1150, 0.25, "RTP video and JPEG images")
