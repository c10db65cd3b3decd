"""The marker of an audited message: 64 ASCII bytes in front of its body, to be found again at a sink.

    @LG1:<run>:<key>:<sequence>:<intended ns>:<body bytes>:<crc>;

All fields are hexadecimal of fixed width (8, 5, 10, 16, 6, 8 digits). It is text without a newline, so it
survives newline framing, JSON strings and base64, and it can be written by a kernel in place. The CRC-32
(the zlib one) covers the body *and then* the marker up to the CRC: in that order the CRC of a pooled body
is computed once, and sending only extends it over 55 bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAGIC = b"@LG1:"
MARKER_BYTES = 64
HEAD_BYTES = 55
"""What the CRC covers of the marker: all up to and including the colon before the CRC."""
WIDTHS = (8, 5, 10, 16, 6, 8)
LONGEST_BODY_BYTES = 16**6 - 1
MOST_KEYS = 16**5

_MARKER = re.compile(MAGIC + b":".join(b"([0-9a-f]{%d})" % width for width in WIDTHS) + b";")


class Found(NamedTuple):
    """One marker in a payload. ``state`` is ``intact``, ``corrupt`` (the CRC is wrong) or ``cut`` (the
    payload ends before the body does; the fields are then unproven)."""

    run: int
    key: int
    sequence: int
    intended_ns: int
    state: str
    start: int
    """Offset of the marker in the payload."""
    end: int
    """Offset behind the body."""


def write_marker(run: int, key: int, sequence: int, intended_ns: int, body: bytes) -> bytes:
    """The marker for ``body``; the plain form of the kernel :func:`loadgen.kernels.stamp`."""
    head = b"@LG1:%08x:%05x:%010x:%016x:%06x:" % (run, key, sequence, intended_ns, len(body))
    return head + b"%08x;" % zlib.crc32(head, zlib.crc32(body))


def find_markers(payload: bytes) -> Iterator[Found]:
    """All markers in ``payload``, in order.

    Behind an intact message the search goes on after its body, so that bodies are never searched. Behind a
    corrupt one it goes on right after the marker, because the length is then not to be trusted.
    """
    position = 0
    while (match := _MARKER.search(payload, position)) is not None:
        run, key, sequence, intended_ns, length, crc = (int(field, 16) for field in match.groups())
        body_end = match.end() + length
        if body_end > len(payload):
            state = "cut"
        else:
            body_crc = zlib.crc32(memoryview(payload)[match.end() : body_end])
            intact = zlib.crc32(payload[match.start() : match.start() + HEAD_BYTES], body_crc) == crc
            state = "intact" if intact else "corrupt"
        yield Found(run, key, sequence, intended_ns, state, match.start(), body_end)
        position = body_end if state == "intact" else match.end()


def open_end(payload: bytes, found: Sequence[Found] | None = None) -> int:
    """Where a message begins that the end of ``payload`` cuts off: the offset of its marker, or of what may be
    the first bytes of one; ``len(payload)`` when nothing is cut. For joining pieces of a stream.

    Args:
        found: all of :func:`find_markers`, if they are known already.
    """
    markers = find_markers(payload) if found is None else found
    cut = next((marker.start for marker in markers if marker.state == "cut"), len(payload))
    start = max(0, len(payload) - MARKER_BYTES + 1)
    while 0 <= (start := payload.find(MAGIC[:1], start)) < cut:
        if MAGIC.startswith(payload[start : start + len(MAGIC)]):
            return start
        start += 1
    return cut
