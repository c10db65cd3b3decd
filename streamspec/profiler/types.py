"""The type of a segment's content, inferred from the beginnings of a few of its messages.

In order, the first that fits: magic numbers and first words (:data:`PREFIXES`), protocols that are known by
their structure (TLS records, DNS, QUIC), text formats (syslog, JSON, CSV), padding, and what parses as a protobuf
message. Each of up to :data:`MOST_MESSAGES` messages has one vote, the first two. A type declared in the
configuration is taken without looking.

Every check reads at most the first 512 bytes of a message and stays within it.
"""

from __future__ import annotations

import sys

import numpy as np

from streamspec.core.features import TYPE_CODES, TYPE_NAMES
from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler.packet_kernels import NO_HINT, locate, read_u16, read_u32
from streamspec.profiler.protocol_kernels import is_dns, is_protobuf, is_quic, is_tls
from streamspec.profiler.text_type_kernels import WINDOW_BYTES, copy_window, is_printable, text_type
from streamspec.profiler.vector import load_u64, to_int

MOST_MESSAGES = 8
"""Messages that are looked at, spread evenly over the segment."""

MAJORITY = np.uint64((MOST_MESSAGES + 1) // 2 + 1)
"""Votes that cannot be beaten by the others."""

MOST_EMPTY = 8
"""Packets that are tried for one message, since acknowledgements carry nothing."""

FIRST_WEIGHT = 2
"""Votes of the first message: what follows it is often its body, of which nothing can be told."""

PACKET_ROW_BYTES = 24

UNKNOWN = TYPE_CODES["unknown"]
TLS, QUIC, DNS, PROTOBUF, PADDING = (TYPE_CODES[name] for name in ("tls", "quic", "dns", "protobuf", "padding"))

PREFIXES: tuple[tuple[str, bytes], ...] = (
    ("ssh", b"SSH-"),
    ("http", b"GET "),
    ("http", b"POST "),
    ("http", b"PUT "),
    ("http", b"HEAD "),
    ("http", b"DELETE "),
    ("http", b"OPTIONS "),
    ("http", b"PATCH "),
    ("http", b"CONNECT "),
    ("http", b"TRACE /"),
    ("http", b"HTTP/1."),
    ("http", b"PRI * HT"),  # HTTP/2, RFC 9113, section 3.4
    ("http", b"M-SEARCH"),  # SSDP speaks HTTP over UDP
    ("http", b"NOTIFY *"),
    ("compressed", b"\x1f\x8b\x08"),  # gzip, RFC 1952
    ("compressed", b"\x28\xb5\x2f\xfd"),  # zstd, RFC 8878
    ("compressed", b"\x04\x22\x4d\x18"),  # LZ4 frame
    ("compressed", b"\xfd7zXZ\x00"),
    ("compressed", b"BZh"),
    ("compressed", b"\xff\x06\x00\x00sNaP"),  # snappy frames
    ("compressed", b"PK\x03\x04"),
    ("image", b"\xff\xd8\xff"),
    ("image", b"\x89PNG\r\n\x1a\n"),
    ("image", b"GIF87a"),
    ("image", b"GIF89a"),
    ("image", b"II*\x00"),
    ("image", b"MM\x00*"),
    ("image", b"RIFF"),  # with WEBP at 8, checked beside
    ("executable", b"\x7fELF"),
    ("executable", b"MZ"),  # with a plausible offset of the PE header, checked beside
    ("executable", b"\xca\xfe\xba\xbe"),
    ("executable", b"\xcf\xfa\xed\xfe"),
    ("executable", b"\xce\xfa\xed\xfe"),
    ("executable", b"\x00asm"),
    ("executable", b"dex\n"),
    ("executable", b"#!/"),
)
"""First bytes (at most eight) and what they say."""

_ORDER = sys.byteorder
_LITTLE = _ORDER == "little"
_WORDS = np.array([int.from_bytes(first.ljust(8, b"\0"), _ORDER) for _, first in PREFIXES], dtype=np.uint64)
_MASKS = np.array(
    [int.from_bytes((b"\xff" * len(first)).ljust(8, b"\0"), _ORDER) for _, first in PREFIXES], dtype=np.uint64
)
_LENGTHS = np.array([len(first) for _, first in PREFIXES], dtype=np.int64)
_TYPES = np.array([TYPE_CODES[name] for name, _ in PREFIXES], dtype=np.int64)
_FIRST = np.zeros(256, dtype=np.bool_)
_FIRST[[first[0] for _, first in PREFIXES]] = True
"""Which bytes may begin a prefix; most messages begin with another."""
_TEXT = np.zeros(256, dtype=np.bool_)
_TEXT[[*range(0x09, 0x0E), *range(0x20, 0x7F), *range(0x80, 0xF5)]] = True
"""Which bytes may occur in text."""
_GLANCE_BYTES = 16
"""Of these one is no text in almost everything that is none."""
_RIFF = [first for _, first in PREFIXES].index(b"RIFF")
_MZ = [first for _, first in PREFIXES].index(b"MZ")


@lean_kernel
def _by_prefix(memory: Bytes, at: int, end: int) -> int:
    """The type that the first bytes name, or unknown."""
    size = end - at
    if size < 8:
        word = np.uint64(0)
        for index in range(size):
            word |= np.uint64(memory[at + index]) << np.uint64(8 * index if _LITTLE else 56 - 8 * index)
    else:
        word = load_u64(memory, at)
    for index in range(len(_WORDS)):
        if word & _MASKS[index] == _WORDS[index] and size >= _LENGTHS[index]:
            if index == _RIFF and not (size >= 12 and read_u32(memory, at + 8) == 0x57454250):
                continue
            if index == _MZ and not (size >= 64 and memory[at + 62] == 0 and memory[at + 63] == 0):
                continue
            code: int = to_int(_TYPES[index])
            return code
    return UNKNOWN


@lean_kernel
def _is_padding(memory: Bytes, at: int, end: int) -> bool:
    """At least 16 bytes, and the first 512 are all the same."""
    limit = min(end, at + WINDOW_BYTES)
    same = at + 1
    while same < limit and memory[same] == memory[at]:
        same += 1
    return same == limit and end - at >= 16


@lean_kernel
def _may_be_text(memory: Bytes, at: int, end: int) -> bool:
    limit = min(end, at + _GLANCE_BYTES)
    while at < limit and _TEXT[memory[at]]:
        at += 1
    return at == limit


@lean_kernel
def message_type(memory: Bytes, at: int, end: int, hint: int, window: Bytes) -> int:
    """The type code of the message in bytes ``at`` to ``end``, which is not empty.

    ``hint`` is the type that its ports suggest, taken when the content says nothing. ``window``: scratch of
    ``WINDOW_BYTES``.
    """
    if _FIRST[memory[at]]:
        code = _by_prefix(memory, at, end)
        if code != UNKNOWN:
            return code
    if is_tls(memory, at, end):
        return TLS
    if is_quic(memory, at, end):
        return QUIC
    if _is_padding(memory, at, end):
        return PADDING
    if _may_be_text(memory, at, end):
        size = copy_window(memory, at, end, window)
        if is_printable(window, size):
            code = text_type(window, size, end - at <= WINDOW_BYTES)
            return code if code != UNKNOWN else hint
    if is_dns(memory, at, end):
        return DNS
    if end - at > 2 and 12 <= read_u16(memory, at) <= end - at - 2 and is_dns(memory, at + 2, end):
        return DNS  # over TCP: length first (RFC 1035, 4.2.2)
    if hint != NO_HINT:
        return hint
    return PROTOBUF if is_protobuf(memory, at, end) else UNKNOWN


@lean_kernel
def _row(memory: Bytes, table: int, index: int, length: int) -> tuple[int, int]:
    """Offset and size of a packet, as its row of the packet table has them; size 0 when they do not fit."""
    at = table + index * PACKET_ROW_BYTES + 8
    offset = (
        to_int(memory[at]) | to_int(memory[at + 1]) << 8 | to_int(memory[at + 2]) << 16 | to_int(memory[at + 3]) << 24
    )
    size = (
        to_int(memory[at + 4])
        | to_int(memory[at + 5]) << 8
        | to_int(memory[at + 6]) << 16
        | to_int(memory[at + 7]) << 24
    )
    return offset, size if offset + size <= length else 0


@lean_kernel
def segment_type(
    memory: Bytes, start: int, length: int, packets: int, table: int, link_type: int, window: Bytes
) -> int:
    """The type code of a segment.

    Args:
        memory: everything; the segment's ``length`` bytes begin at ``start``.
        packets: rows of its packet table, which begins at byte ``table``; -1 when there is none, and the segment
            is taken as one message.
        link_type: ``LINK_*`` when the messages are captured packets, -1 when they are messages.
        window: scratch of ``WINDOW_BYTES``.
    """
    if table < 0 or packets <= 0 or table + packets * PACKET_ROW_BYTES > len(memory):
        packets = 1
        table = -1
    votes = np.uint64(0)  # four bits for each of at most sixteen types
    asked = min(packets, MOST_MESSAGES)
    for index in range(asked):
        first = index * packets // asked
        following = min((index + 1) * packets // asked, first + MOST_EMPTY)
        at, end, hint = start, start + length, NO_HINT
        for packet in range(first, following):
            at, end, hint = _message(memory, start, length, table, packet, link_type)
            if at < end:
                break
        if at < end:
            place = np.uint64(4 * message_type(memory, at, end, hint, window))
            votes += np.uint64(FIRST_WEIGHT if index == 0 else 1) << place
            if place and votes >> place & np.uint64(15) >= MAJORITY:
                break
    return _winner(votes)


@lean_kernel
def _message(memory: Bytes, start: int, length: int, table: int, packet: int, link_type: int) -> tuple[int, int, int]:
    """``(start, end, hint)`` of what the packet carries; start and end are equal when that is nothing."""
    offset, size = 0, length
    if table >= 0:
        offset, size = _row(memory, table, packet, length)
    if link_type >= 0 and size > 0:
        return locate(memory, start + offset, start + offset + size, link_type)
    return start + offset, start + offset + size, NO_HINT


@lean_kernel
def _winner(votes: np.uint64) -> int:
    """The known type with most votes, when it has a fifth of them; a guess (protobuf) needs half."""
    total = most = 0
    winner = UNKNOWN
    for code in range(len(TYPE_NAMES)):
        count = to_int(votes >> np.uint64(4 * code) & np.uint64(15))
        total += count
        if code != UNKNOWN and count > most:
            most = count
            winner = code
    share = 2 if winner == PROTOBUF else 5
    return winner if most * share >= total and most else UNKNOWN
