"""DNS queries and responses in wire format (RFC 1035), with EDNS(0) padding (RFC 7830) to the wanted size."""

from __future__ import annotations

import struct
from random import Random

from loadgen.kinds.kind import Kind
from loadgen.kinds.words import hostname, text

_A, _CNAME, _MX, _TXT, _AAAA, _OPT = 1, 5, 15, 16, 28, 41
_HEADER_BYTES = 12
_OPT_BYTES = 11
_PADDING_BYTES = 4
_POINTER_TO_QUESTION = b"\xc0\x0c"
_QUESTION = b"\x01a\x00" + struct.pack(">HH", _A, 1)
_SHORTEST_BYTES = _HEADER_BYTES + len(_QUESTION) + _OPT_BYTES + _PADDING_BYTES


def generate(rng: Random, size: int) -> bytes:
    """A query, or a response with as many answers as fit."""
    question = _name(hostname(rng)) + struct.pack(">HH", rng.choice((_A, _A, _AAAA, _MX, _TXT)), 1)
    room = size - _HEADER_BYTES - len(question) - _OPT_BYTES - _PADDING_BYTES
    if room < 0:
        question = _QUESTION
        room = size - _SHORTEST_BYTES
    response = rng.random() < 0.5 or room > 300
    answers = _answers(rng, room) if response else []
    padding = room - sum(map(len, answers))
    option = struct.pack(">HH", 12, padding) + bytes(padding)
    opt = b"\0" + struct.pack(">HHIH", _OPT, 1232, 0, len(option)) + option
    flags = 0x8180 if response else 0x0100
    header = struct.pack(">HHHHHH", rng.getrandbits(16), flags, 1, len(answers), 0, 1)
    return header + question + b"".join(answers) + opt


def _name(dotted: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in dotted.split(".")) + b"\0"


def _answers(rng: Random, room: int) -> list[bytes]:
    answers: list[bytes] = []
    most = 60 if room > 300 else rng.randrange(1, 7)
    while len(answers) < most:
        answer = _answer(rng)
        if len(answer) > room:
            break
        answers.append(answer)
        room -= len(answer)
    return answers


def _answer(rng: Random) -> bytes:
    kind = rng.choices((_A, _AAAA, _CNAME, _MX, _TXT), (45, 20, 15, 5, 15))[0]
    if kind == _A:
        content = bytes([192, 0, 2, rng.randrange(256)])
    elif kind == _AAAA:
        content = bytes.fromhex("20010db8") + rng.randbytes(12)
    elif kind == _CNAME:
        content = _name(hostname(rng))
    elif kind == _MX:
        content = struct.pack(">H", rng.choice((5, 10, 20))) + _name(hostname(rng))
    else:
        line = ("v=spf1 " + text(rng, rng.randrange(20, 180))).encode()
        content = bytes([len(line)]) + line
    ttl = rng.choice((60, 300, 3600))
    return _POINTER_TO_QUESTION + struct.pack(">HHIH", kind, 1, ttl, len(content)) + content


KIND = Kind("dns", generate, _SHORTEST_BYTES, 110, 0.5, "DNS queries and responses", largest_bytes=60_000)
