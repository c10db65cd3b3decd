"""TLS records (RFC 8446 section 5, RFC 5246): some handshakes, mostly application data of full entropy."""

from __future__ import annotations

import struct
from random import Random

from loadgen.kinds.kind import Kind
from loadgen.kinds.words import hostname

_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION = 20, 21, 22, 23
_RECORD_BYTES = 5
_LONGEST_RECORD = 16384
_SUITES = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x9C, 0x9D, 0x2F)
_HELLO_SHARE = 0.12
_HELLO_BYTES = 517
"""What common clients pad theirs to."""


def generate(rng: Random, size: int) -> bytes:
    """A client's hello, the end of a handshake with first data, or application data."""
    draw = rng.random()
    if draw < _HELLO_SHARE and size >= 300:
        hello = _client_hello(rng, _HELLO_BYTES if size > 2 * _HELLO_BYTES else size)
        return hello + _application(rng, size - len(hello))  # early data
    if draw < 2 * _HELLO_SHARE and size >= 120:
        finished = _record(_CHANGE_CIPHER_SPEC, b"\x01") + _record(_HANDSHAKE, rng.randbytes(40))
        return finished + _application(rng, size - len(finished))
    return _application(rng, size)


def _record(content_type: int, body: bytes, version: int = 0x0303) -> bytes:
    return struct.pack(">BHH", content_type, version, len(body)) + body


def _application(rng: Random, size: int) -> bytes:
    """Records that fill ``size`` exactly; none is shorter than one byte of content."""
    parts: list[bytes] = []
    while size:
        record = min(size, _RECORD_BYTES + rng.choice((1400, 4096, _LONGEST_RECORD)))
        if 0 < size - record <= _RECORD_BYTES:
            record -= _RECORD_BYTES + 1
        parts.append(_record(_APPLICATION, rng.randbytes(record - _RECORD_BYTES)))
        size -= record
    return b"".join(parts)


def _extension(number: int, body: bytes) -> bytes:
    return struct.pack(">HH", number, len(body)) + body


def _client_hello(rng: Random, size: int) -> bytes:
    """A TLS 1.3 hello; the padding extension (RFC 7685) fills it up."""
    name = hostname(rng).encode()
    server_name = struct.pack(">HBH", len(name) + 3, 0, len(name)) + name
    suites = rng.sample(_SUITES, rng.randrange(6, len(_SUITES)))
    extensions = [
        _extension(0, server_name),
        _extension(10, struct.pack(">HHHH", 6, 29, 23, 24)),
        _extension(13, struct.pack(">HHHHH", 8, 0x0403, 0x0804, 0x0401, 0x0503)),
        _extension(16, b"\x00\x0c\x02h2\x08http/1.1"),
        _extension(43, b"\x04\x03\x04\x03\x03"),
        _extension(51, struct.pack(">HHH", 36, 29, 32) + rng.randbytes(32)),
    ]
    fixed = b"\x03\x03" + rng.randbytes(32) + b"\x20" + rng.randbytes(32)
    fixed += struct.pack(f">H{len(suites)}H", 2 * len(suites), *suites) + b"\x01\x00"
    joined = b"".join(extensions)
    padding = size - _RECORD_BYTES - 4 - len(fixed) - 2 - len(joined) - 4
    joined += _extension(21, bytes(padding))
    body = fixed + struct.pack(">H", len(joined)) + joined
    return _record(_HANDSHAKE, b"\x01" + len(body).to_bytes(3, "big") + body, version=0x0301)


KIND = Kind("tls", generate, _RECORD_BYTES + 1, 1100, 0.7, "TLS records: handshakes and encrypted data")
