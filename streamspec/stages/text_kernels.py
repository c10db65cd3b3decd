"""Kernels that write numbers, addresses and times as text, for lines made by the hundred thousand.

All take ``out`` and the place ``at`` to write to, and return where they ended. They write whole words: up to
:data:`SLACK_BYTES` behind the end are overwritten, which the buffer must have.
"""

from __future__ import annotations

import numpy as np

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.core.words import store_u32, store_u64, trailing_zeros
from streamspec.stages.link_kernels import int64

SLACK_BYTES = 8

_HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_OCTETS = np.array([int.from_bytes(f"{octet}.".encode(), "little") for octet in range(256)], dtype=np.int64)
_OCTET_BYTES = np.array([len(f"{octet}.") for octet in range(256)], dtype=np.int64)

_ZEROS = 0x3030303030303030  # eight times "0"
_LAST_BYTE = 1 << 56
_EIGHT_DIGITS = 100_000_000
_10 = np.uint64(10)
_1E8 = np.uint64(_EIGHT_DIGITS)

_NS_PER_SECOND = 1_000_000_000
_SECONDS_PER_DAY = 86400


@inlined_kernel
def eight_digits(value: int) -> int:
    """The digits of a number below 100 million as eight bytes of 0 to 9, the first in the lowest byte.

    The number is cut in halves, pairs and digits, all lanes of the word at a time; dividing by 100 and 10 is
    a multiplication that is exact for so few digits.
    """
    high = value // 10_000
    halves = high | ((value - high * 10_000) << 32)
    hundreds = ((halves * 10486) >> 20) & 0x0000007F0000007F
    pairs = hundreds | ((halves - 100 * hundreds) << 16)
    tens = ((pairs * 103) >> 10) & 0x000F000F000F000F
    return tens | ((pairs - 10 * tens) << 8)


@inlined_kernel
def _put_small(out: Bytes, at: int, value: int) -> int:
    """A number below 100 million."""
    digits = eight_digits(value)
    leading = trailing_zeros(digits | _LAST_BYTE) & 56  # bits of zeros before the first digit
    store_u64(out, at, (digits | _ZEROS) >> leading)
    return at + 8 - (leading >> 3)


@lean_kernel
def put_number(out: Bytes, at: int, value: np.uint64) -> int:
    """A number of up to 20 digits."""
    if value < _1E8:
        return _put_small(out, at, int64(value))
    high = value // _1E8
    at = put_number_of_twelve(out, at, high)
    store_u64(out, at, eight_digits(int64(value - high * _1E8)) | _ZEROS)
    return at + 8


@inlined_kernel
def put_number_of_twelve(out: Bytes, at: int, value: np.uint64) -> int:
    """What stands before the last eight digits: at most twelve."""
    if value < _1E8:
        return _put_small(out, at, int64(value))
    high = value // _1E8
    at = _put_small(out, at, int64(high))
    store_u64(out, at, eight_digits(int64(value - high * _1E8)) | _ZEROS)
    return at + 8


@inlined_kernel
def put_signed(out: Bytes, at: int, value: int) -> int:
    """A number that may be negative."""
    if value < 0:
        out[at] = 45  # "-"
        return put_number(out, at + 1, np.uint64(-value))
    return put_number(out, at, np.uint64(value))


@lean_kernel
def _put_digits(out: Bytes, at: int, value: np.uint64, digits: int) -> int:
    """The last ``digits`` digits of a number, with leading zeros."""
    for position in range(at + digits - 1, at - 1, -1):
        rest = value // _10
        out[position] = 48 + (value - rest * _10)
        value = rest
    return at + digits


@lean_kernel
def put_time(out: Bytes, at: int, time_ns: int) -> int:
    """``2024-05-06T07:08:09.123456789Z`` (RFC 3339). Nanoseconds in 64 bits are the years 1677 to 2262."""
    seconds = time_ns // _NS_PER_SECOND
    days = seconds // _SECONDS_PER_DAY
    year, month, day = civil_date(days)
    second_of_day = seconds - days * _SECONDS_PER_DAY
    at = _put_digits(out, at, np.uint64(year), 4)
    out[at] = 45  # "-"
    at = _put_digits(out, at + 1, np.uint64(month), 2)
    out[at] = 45
    at = _put_digits(out, at + 1, np.uint64(day), 2)
    out[at] = 84  # "T"
    at = _put_digits(out, at + 1, np.uint64(second_of_day // 3600), 2)
    out[at] = 58  # ":"
    at = _put_digits(out, at + 1, np.uint64(second_of_day // 60 % 60), 2)
    out[at] = 58
    at = _put_digits(out, at + 1, np.uint64(second_of_day % 60), 2)
    out[at] = 46  # "."
    at = _put_digits(out, at + 1, np.uint64(time_ns - seconds * _NS_PER_SECOND), 9)
    out[at] = 90  # "Z"
    return at + 1


@lean_kernel
def civil_date(days: int) -> tuple[int, int, int]:
    """Year, month and day of the Gregorian calendar from days since 1970-01-01.

    Counted in years that begin in March, so that the leap day is the last: month lengths from March on are
    ``(153 * month + 2) // 5``, and 400 years have 146097 days.
    """
    days += 719468  # since 0000-03-01
    era = days // 146097
    day_of_era = days - era * 146097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    return year, month, day


@inlined_kernel
def put_ipv4(out: Bytes, at: int, address: Bytes) -> int:
    """The last four of sixteen bytes in dotted form."""
    for i in range(12, 16):
        octet = address[i]
        store_u32(out, at, _OCTETS[octet])
        at += _OCTET_BYTES[octet]
    return at - 1


@lean_kernel
def put_ipv6(out: Bytes, at: int, address: Bytes) -> int:
    """RFC 5952: lower case, no leading zeros, the first of the longest runs of zero groups as ``::``."""
    run_at, run_length = _longest_zeros(address)
    group = 0
    while group < 8:
        if group == run_at:
            out[at] = 58  # ":"
            out[at + 1] = 58
            at += 2
            group += run_length
            continue
        if group and group != run_at + run_length:
            out[at] = 58
            at += 1
        value = (int64(address[2 * group]) << 8) | int64(address[2 * group + 1])
        for shift in (12, 8, 4, 0):
            if shift == 0 or value >> shift:
                out[at] = _HEX[(value >> shift) & 15]
                at += 1
        group += 1
    return at


@lean_kernel
def _longest_zeros(address: Bytes) -> tuple[int, int]:
    """Where the longest run of at least two zero groups begins, and its length; ``(-9, 0)`` for none."""
    best_at = -9
    best = 1
    length = 0
    for group in range(8):
        if address[2 * group] or address[2 * group + 1]:
            length = 0
            continue
        length += 1
        if length > best:
            best = length
            best_at = group + 1 - length
    return (best_at, best) if best > 1 else (-9, 0)
