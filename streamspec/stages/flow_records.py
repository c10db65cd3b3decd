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

Which of the times are there is the ``timestamps`` of ``meter``: milliseconds alone unless told otherwise, since
the text of the others makes records half as long again and twice as dear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.core.interfaces import Bytes, Rows
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.core.words import put_text
from streamspec.stages.link_kernels import int64
from streamspec.stages.text_kernels import put_ipv4, put_ipv6, put_number, put_signed, put_time

LONGEST_LINE_BYTES = 1024
"""No line is longer, whatever the values: names take about 500 bytes, values at most 330. What is left of it behind
a line is written to, in whole words."""

TIMESTAMPS = ("milliseconds", "nanoseconds", "both")
"""Which times a record has; kernels take the index."""
MILLISECONDS, NANOSECONDS, BOTH = range(3)


def _text(text: str) -> Bytes:
    return np.frombuffer(text.encode(), dtype=np.uint8)


_BEGIN = _text('{"type":"flow"')
_START_MILLISECONDS = _text(',"flowStartMilliseconds":')
_END_MILLISECONDS = _text(',"flowEndMilliseconds":')
_START_NANOSECONDS = _text(',"flowStartNanoseconds":"')
_END_NANOSECONDS = _text('","flowEndNanoseconds":"')
_REVERSE_START = _text(',"reverseFlowStartNanoseconds":"')
_REVERSE_END = _text('","reverseFlowEndNanoseconds":"')
_QUOTE = _text('"')
_SOURCE_4 = _text(',"sourceIPv4Address":"')
_DESTINATION_4 = _text('","destinationIPv4Address":"')
_SOURCE_6 = _text(',"sourceIPv6Address":"')
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

_NS_PER_MS = 1_000_000


@lean_kernel
def write_lines(flows: Rows, out: Bytes, timestamps: int) -> int:
    """Write a line for each of the ``FLOW`` rows; returns the bytes written.

    ``out`` has room for ``len(flows) * LONGEST_LINE_BYTES``; ``timestamps`` is an index of :data:`TIMESTAMPS`.
    """
    at = 0
    for i in range(len(flows)):
        at = _write_line(flows[i], out, at, timestamps)
    return at


@lean_kernel
def _write_line(flow: Any, out: Bytes, at: int, timestamps: int) -> int:
    forward = int64(flow["initiator"])
    reverse = 1 - forward
    at = _write_times(flow, out, put_text(out, at, _BEGIN), reverse, timestamps)
    at = _write_end_points(flow, out, at, forward)
    at = put_number(out, put_text(out, at, _PROTOCOL), np.uint64(flow["protocol"]))
    at = put_number(out, put_text(out, at, _PACKETS), flow["packets"][forward])
    at = put_number(out, put_text(out, at, _OCTETS), flow["octets"][forward])
    at = put_number(out, put_text(out, at, _REVERSE_PACKETS), flow["packets"][reverse])
    at = put_number(out, put_text(out, at, _REVERSE_OCTETS), flow["octets"][reverse])
    protocol = flow["protocol"]
    if protocol == 6:
        at = put_number(out, put_text(out, at, _TCP_FLAGS), np.uint64(flow["tcp_flags"][forward]))
        at = put_number(out, put_text(out, at, _REVERSE_TCP_FLAGS), np.uint64(flow["tcp_flags"][reverse]))
    elif protocol == 1:
        at = put_number(out, put_text(out, at, _ICMP_4), np.uint64(flow["icmp_type_code"]))
    elif protocol == 58:
        at = put_number(out, put_text(out, at, _ICMP_6), np.uint64(flow["icmp_type_code"]))
    if flow["vlan"]:
        at = put_number(out, put_text(out, at, _VLAN), np.uint64(flow["vlan"]))
    at = put_number(out, put_text(out, at, _REASON), np.uint64(flow["reason"]))
    return put_text(out, at, _FINISH)


@inlined_kernel
def _write_times(flow: Any, out: Bytes, at: int, reverse: int, timestamps: int) -> int:
    start_ns = min(int64(flow["first_ns"][0]), int64(flow["first_ns"][1]))
    end_ns = max(int64(flow["last_ns"][0]), int64(flow["last_ns"][1]))
    if timestamps != NANOSECONDS:
        at = put_signed(out, put_text(out, at, _START_MILLISECONDS), start_ns // _NS_PER_MS)
        at = put_signed(out, put_text(out, at, _END_MILLISECONDS), end_ns // _NS_PER_MS)
    if timestamps != MILLISECONDS:
        at = put_time(out, put_text(out, at, _START_NANOSECONDS), start_ns)
        at = put_text(out, put_time(out, put_text(out, at, _END_NANOSECONDS), end_ns), _QUOTE)
        if flow["packets"][reverse]:
            at = put_time(out, put_text(out, at, _REVERSE_START), int64(flow["first_ns"][reverse]))
            at = put_time(out, put_text(out, at, _REVERSE_END), int64(flow["last_ns"][reverse]))
            at = put_text(out, at, _QUOTE)
    return at


@inlined_kernel
def _write_end_points(flow: Any, out: Bytes, at: int, forward: int) -> int:
    a_address = flow["a_address"]
    b_address = flow["b_address"]
    source = b_address if forward else a_address
    destination = a_address if forward else b_address
    if flow["ip_version"] == 4:
        at = put_ipv4(out, put_text(out, at, _SOURCE_4), source)
        at = put_ipv4(out, put_text(out, at, _DESTINATION_4), destination)
    else:
        at = put_ipv6(out, put_text(out, at, _SOURCE_6), source)
        at = put_ipv6(out, put_text(out, at, _DESTINATION_6), destination)
    a_port = np.uint64(flow["a_port"])
    b_port = np.uint64(flow["b_port"])
    at = put_number(out, put_text(out, at, _SOURCE_PORT), b_port if forward else a_port)
    return put_number(out, put_text(out, at, _DESTINATION_PORT), a_port if forward else b_port)
