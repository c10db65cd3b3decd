"""Which kind of text a message is: syslog, JSON or CSV.

All functions look at ``window``, a copy of the message's first 512 bytes (:data:`WINDOW_BYTES`) with zeros behind
its ``size`` bytes, so that none reads outside of the message; ``whole`` says that the message ends within it.
"""

from __future__ import annotations

import numpy as np

from streamspec.core.features import TYPE_CODES
from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler.text_kernels import well_formed
from streamspec.profiler.vector import ALL, CHUNK, NONE, copy_padded, count_ones, equal_mask, range_mask, to_int

JSON, CSV, SYSLOG, UNKNOWN = (TYPE_CODES[name] for name in ("json", "csv", "syslog", "unknown"))

WINDOW_BYTES = 512
HIGHEST_PRIORITY = 191
"""Of syslog: facility 23, severity 7 (RFC 5424, 6.2.1)."""
NAMES_PER_WINDOW = 6
"""Quotes followed by a colon in 512 bytes that make text a piece of JSON."""

_U1 = np.uint64(1)


@lean_kernel
def copy_window(memory: Bytes, at: int, end: int, window: Bytes) -> int:
    """Fill ``window`` from the message in bytes ``at`` to ``end``; returns how many bytes there are."""
    size = min(end - at, WINDOW_BYTES)
    copy_padded(memory, at, size, window, WINDOW_BYTES)
    return size


@lean_kernel
def is_printable(window: Bytes, size: int) -> bool:
    """Text throughout the first 64 bytes: no control characters but white space, and three quarters ASCII or UTF-8."""
    size = min(size, CHUNK)
    present = ALL >> np.uint64(CHUNK - size)
    high = range_mask(window, 0, np.uint8(0x80), np.uint8(0xF4))
    ascii_text = range_mask(window, 0, np.uint8(0x20), np.uint8(0x7E)) | range_mask(
        window, 0, np.uint8(0x09), np.uint8(0x0D)
    )
    if (ascii_text | high) & present != present:
        return False
    few: bool = count_ones(high) <= size // 4
    return few or well_formed(window, 0, present, NONE, NONE, True)[0] == 0


@lean_kernel
def _is_digit(value: int) -> bool:
    return 0x30 <= value <= 0x39


@lean_kernel
def _has_priority(window: Bytes, at: int, size: int) -> bool:
    """``<PRI>`` of one to three digits, at most 191."""
    value = 0
    for index in range(at + 1, min(size, at + 5)):
        if window[index] == 0x3E:
            return index > at + 1 and value <= HIGHEST_PRIORITY
        if not _is_digit(window[index]):
            return False
        value = value * 10 + to_int(window[index]) - 0x30
    return False


@lean_kernel
def _has_bsd_time(window: Bytes, size: int) -> bool:
    """``Mmm dd hh:mm:ss`` and a space, as lines of log files begin."""
    if size < 16 or not 0x41 <= window[0] <= 0x53:
        return False
    if window[3] != 0x20 or window[6] != 0x20 or window[15] != 0x20 or window[9] != 0x3A or window[12] != 0x3A:
        return False
    digits = 0
    for index in (5, 7, 8, 10, 11, 13, 14):
        digits += _is_digit(window[index])
    return digits == 7


@lean_kernel
def is_syslog(window: Bytes, size: int) -> bool:
    """RFC 5424, RFC 3164 with or without its priority, or either behind an octet count (RFC 6587, 3.4.1)."""
    at = 0
    while at < min(size, 5) and _is_digit(window[at]):
        at += 1
    if at and at + 1 < size and window[at] == 0x20:
        at += 1
    if at < size and window[at] == 0x3C:
        return _has_priority(window, at, size)
    return _has_bsd_time(window, size)


@lean_kernel
def _skip_space(window: Bytes, at: int, size: int) -> int:
    while at < size and window[at] in (0x20, 0x09, 0x0A, 0x0D):
        at += 1
    return at


@lean_kernel
def begins_json(window: Bytes, size: int) -> bool:
    """An object or an array (RFC 8259) whose first element could be one."""
    at = _skip_space(window, 0, size)
    if at >= size:
        return False
    opening = window[at]
    at = _skip_space(window, at + 1, size)
    if at >= size:
        return False
    if opening == 0x7B:
        return window[at] in (0x22, 0x7D)
    if opening != 0x5B:
        return False
    if window[at] == 0x2D or _is_digit(window[at]):
        return _is_array_of_numbers(window, at, size)
    return window[at] in (0x7B, 0x5B, 0x22, 0x5D)


@lean_kernel
def _is_array_of_numbers(window: Bytes, at: int, size: int) -> bool:
    """Only characters of numbers up to the first comma or bracket: ``[2024-01-01 10:00]`` of a log is no array."""
    while at < size and (_is_digit(window[at]) or window[at] in (0x2D, 0x2B, 0x2E, 0x45, 0x65)):
        at += 1
    at = _skip_space(window, at, size)
    return at < size and window[at] in (0x2C, 0x5D)


@lean_kernel
def is_inside_json(window: Bytes, size: int) -> bool:
    """A piece of JSON text: six names in 512 bytes at least, that is quotes followed by colons."""
    quotes = names = 0
    for offset in range(0, WINDOW_BYTES, CHUNK):
        quote = equal_mask(window, offset, np.uint8(0x22))
        quotes += count_ones(quote)
        names += count_ones(quote << _U1 & equal_mask(window, offset, np.uint8(0x3A)))
    return names > 0 and names * WINDOW_BYTES >= NAMES_PER_WINDOW * size and quotes >= 2 * names


@lean_kernel
def _has_columns(window: Bytes, size: int, whole: bool, separator: int) -> bool:
    """Whether every line has the same number of ``separator``, once at least.

    A first line that was cut at its beginning may differ; a last one counts only when the message ends with it.
    Two lines suffice with two separators each, four with one.
    """
    first = expected = -1
    lines = count = 0
    for offset in range(0, WINDOW_BYTES, CHUNK):
        marks = equal_mask(window, offset, np.uint8(separator))
        breaks = equal_mask(window, offset, np.uint8(0x0A))
        if whole and 0 < size - offset <= CHUNK and window[size - 1] != 0x0A:
            breaks |= _U1 << np.uint64(size - offset - 1)
        while breaks != NONE:
            before = (breaks - _U1) & ~breaks
            count += count_ones(marks & before)
            marks &= ~before
            breaks &= breaks - _U1
            if first < 0:
                first = count
            elif lines and count != expected:
                return False
            else:
                expected = count
                lines += 1
            count = 0
        count += count_ones(marks)
    if lines and first == expected:
        lines += 1
    return (expected >= 2 and lines >= 2) or (expected == 1 and lines >= 4)


@lean_kernel
def is_csv(window: Bytes, size: int, whole: bool) -> bool:
    """Lines with the same number of commas, semicolons, tabs or vertical bars (RFC 4180, without its quoting)."""
    found = False
    breaks = 0
    for offset in range(0, WINDOW_BYTES, CHUNK):
        breaks += count_ones(equal_mask(window, offset, np.uint8(0x0A)))
    if breaks == 0:
        return False
    for separator in (0x2C, 0x3B, 0x09, 0x7C):
        found = found or _has_columns(window, size, whole, separator)
    return found


@lean_kernel
def text_type(window: Bytes, size: int, whole: bool) -> int:
    """The type code of a printable message: syslog, JSON, CSV or unknown."""
    if is_syslog(window, size):
        return SYSLOG
    if begins_json(window, size) or is_inside_json(window, size):
        return JSON
    return CSV if is_csv(window, size, whole) else UNKNOWN
