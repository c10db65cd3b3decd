"""Kernels that write flow records: one JSON object per line, fields named as IPFIX information elements.

Names are those of the IANA IPFIX registry (https://www.iana.org/assignments/ipfix); the reverse direction of
a flow has the prefix ``reverse`` (RFC 5103). Forward is the direction of the first packet.

=============================================================  ==========================================
field                                                          value
=============================================================  ==========================================
``type``                                                       always ``"flow"``
``flowStartMilliseconds``, ``flowEndMilliseconds``             first and last packet of either direction,
                                                               integer since 1970
``flowStartNanoseconds``, ``flowEndNanoseconds``               the same as RFC 3339 text in UTC, all digits
``reverseFlowStartNanoseconds``, ``reverseFlowEndNanoseconds`` of the reverse direction, when it has packets
``sourceIPv4Address``, ``destinationIPv4Address``              or ``...IPv6Address``, as RFC 5952 text
``sourceTransportPort``, ``destinationTransportPort``          0 for protocols without ports and for later
                                                               fragments
``protocolIdentifier``                                         integer
``packetDeltaCount``, ``octetDeltaCount``                      packets, and bytes of them from the IP header
                                                               on; ``reverse...`` likewise, 0 if none
``tcpControlBits``, ``reverseTcpControlBits``                  union of the flags, TCP only
``icmpTypeCodeIPv4``                                           or ``...IPv6``: type * 256 + code of the first
                                                               packet, ICMP only
``vlanId``                                                     of the first packet, when tagged
``flowEndReason``                                              1 idle timeout, 2 active timeout, 3 end of flow
                                                               detected, 4 forced end (end of the stream),
                                                               5 lack of resources
=============================================================  ==========================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.core.interfaces import Bytes, Rows
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.stages.link_kernels import int64

LONGEST_LINE_BYTES = 1024
"""No line is longer, whatever the values: names take about 500 bytes, values at most 330."""


def _text(text: str) -> Bytes:
    return np.frombuffer(text.encode(), dtype=np.uint8)


_BEGIN = _text('{"type":"flow","flowStartMilliseconds":')
_END_MILLISECONDS = _text(',"flowEndMilliseconds":')
_START_NANOSECONDS = _text(',"flowStartNanoseconds":"')
_END_NANOSECONDS = _text('","flowEndNanoseconds":"')
_REVERSE_START = _text('","reverseFlowStartNanoseconds":"')
_REVERSE_END = _text('","reverseFlowEndNanoseconds":"')
_SOURCE_4 = _text('","sourceIPv4Address":"')
_DESTINATION_4 = _text('","destinationIPv4Address":"')
_SOURCE_6 = _text('","sourceIPv6Address":"')
_DESTINATION_6 = _text('","destinationIPv6Address":"')
_SOURCE_PORT = _text('","sourceTransportPort":')
_DESTINATION_PORT = _text(',"destinationTransportPort":')
_PROTOCOL = _text(',"protocolIdentifier":')
_PACKETS = _text(',"packetDeltaCount":')
_OCTETS = _text(',"octetDeltaCount":')
_REVERSE_PACKETS = _text(',"reversePacketDeltaCount":')
_REVERSE_OCTETS = _text(',"reverseOctetDeltaCount":')
_TCP_FLAGS = _text(',"tcpControlBits":')
_REVERSE_TCP_FLAGS = _text(',"reverseTcpControlBits":')
_ICMP_4 = _text(',"icmpTypeCodeIPv4":')
_ICMP_6 = _text(',"icmpTypeCodeIPv6":')
_VLAN = _text(',"vlanId":')
_REASON = _text(',"flowEndReason":')
_FINISH = _text("}\n")
_HEX = _text("0123456789abcdef")

_POWERS = np.array([10**digits for digits in range(20)], dtype=np.uint64)

_10 = np.uint64(10)
_NS_PER_MS = 1_000_000
_NS_PER_SECOND = 1_000_000_000
_SECONDS_PER_DAY = 86400


@lean_kernel
def write_lines(flows: Rows, out: Bytes) -> int:
    """Write a line for each of the ``FLOW`` rows; returns the bytes written.

    ``out`` has room for ``len(flows) * LONGEST_LINE_BYTES``.
    """
    at = 0
    for i in range(len(flows)):
        at = _write_line(flows[i], out, at)
    return at


@lean_kernel
def _write_line(flow: Any, out: Bytes, at: int) -> int:
    forward = int64(flow["initiator"])
    reverse = 1 - forward
    at = _write_times(flow, out, at, reverse)
    at = _write_end_points(flow, out, at, forward)
    at = _put_number(out, _put(out, at, _PROTOCOL), np.uint64(flow["protocol"]))
    at = _put_number(out, _put(out, at, _PACKETS), flow["packets"][forward])
    at = _put_number(out, _put(out, at, _OCTETS), flow["octets"][forward])
    at = _put_number(out, _put(out, at, _REVERSE_PACKETS), flow["packets"][reverse])
    at = _put_number(out, _put(out, at, _REVERSE_OCTETS), flow["octets"][reverse])
    protocol = flow["protocol"]
    if protocol == 6:
        at = _put_number(out, _put(out, at, _TCP_FLAGS), np.uint64(flow["tcp_flags"][forward]))
        at = _put_number(out, _put(out, at, _REVERSE_TCP_FLAGS), np.uint64(flow["tcp_flags"][reverse]))
    elif protocol == 1:
        at = _put_number(out, _put(out, at, _ICMP_4), np.uint64(flow["icmp_type_code"]))
    elif protocol == 58:
        at = _put_number(out, _put(out, at, _ICMP_6), np.uint64(flow["icmp_type_code"]))
    if flow["vlan"]:
        at = _put_number(out, _put(out, at, _VLAN), np.uint64(flow["vlan"]))
    at = _put_number(out, _put(out, at, _REASON), np.uint64(flow["reason"]))
    return _put(out, at, _FINISH)


@lean_kernel
def _write_times(flow: Any, out: Bytes, at: int, reverse: int) -> int:
    start_ns = min(int64(flow["first_ns"][0]), int64(flow["first_ns"][1]))
    end_ns = max(int64(flow["last_ns"][0]), int64(flow["last_ns"][1]))
    at = _put_signed(out, _put(out, at, _BEGIN), start_ns // _NS_PER_MS)
    at = _put_signed(out, _put(out, at, _END_MILLISECONDS), end_ns // _NS_PER_MS)
    at = _put_time(out, _put(out, at, _START_NANOSECONDS), start_ns)
    at = _put_time(out, _put(out, at, _END_NANOSECONDS), end_ns)
    if flow["packets"][reverse]:
        at = _put_time(out, _put(out, at, _REVERSE_START), int64(flow["first_ns"][reverse]))
        at = _put_time(out, _put(out, at, _REVERSE_END), int64(flow["last_ns"][reverse]))
    return at


@lean_kernel
def _write_end_points(flow: Any, out: Bytes, at: int, forward: int) -> int:
    a_address = flow["a_address"]
    b_address = flow["b_address"]
    source = b_address if forward else a_address
    destination = a_address if forward else b_address
    if flow["ip_version"] == 4:
        at = _put_ipv4(out, _put(out, at, _SOURCE_4), source)
        at = _put_ipv4(out, _put(out, at, _DESTINATION_4), destination)
    else:
        at = _put_ipv6(out, _put(out, at, _SOURCE_6), source)
        at = _put_ipv6(out, _put(out, at, _DESTINATION_6), destination)
    a_port = np.uint64(flow["a_port"])
    b_port = np.uint64(flow["b_port"])
    at = _put_number(out, _put(out, at, _SOURCE_PORT), b_port if forward else a_port)
    return _put_number(out, _put(out, at, _DESTINATION_PORT), a_port if forward else b_port)


# -- pieces ------------------------------------------------------------------------------------
@inlined_kernel
def _put(out: Bytes, at: int, text: Bytes) -> int:
    for i in range(len(text)):
        out[at + i] = text[i]
    return at + len(text)


@lean_kernel
def _put_number(out: Bytes, at: int, value: np.uint64) -> int:
    digits = 1
    while digits < 20 and value >= _POWERS[digits]:
        digits += 1
    return _put_digits(out, at, value, digits)


@lean_kernel
def _put_digits(out: Bytes, at: int, value: np.uint64, digits: int) -> int:
    """The last ``digits`` digits of a number, with leading zeros."""
    for position in range(at + digits - 1, at - 1, -1):
        rest = value // _10
        out[position] = 48 + (value - rest * _10)
        value = rest
    return at + digits


@lean_kernel
def _put_signed(out: Bytes, at: int, value: int) -> int:
    if value < 0:
        out[at] = 45  # "-"
        return _put_number(out, at + 1, np.uint64(-value))
    return _put_number(out, at, np.uint64(value))


@lean_kernel
def _put_time(out: Bytes, at: int, time_ns: int) -> int:
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


@lean_kernel
def _put_ipv4(out: Bytes, at: int, address: Bytes) -> int:
    for i in range(12, 16):
        at = _put_number(out, at, np.uint64(address[i]))
        out[at] = 46  # "."
        at += 1
    return at - 1


@lean_kernel
def _put_ipv6(out: Bytes, at: int, address: Bytes) -> int:
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
