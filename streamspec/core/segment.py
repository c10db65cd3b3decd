"""The segment: what is profiled, routed, timed and learned from, and how it lies in shared memory.

A segment is one or many packets (datagrams, frames, records) of one stream key. It occupies one
*slot* of the arena. A slot is ``payload | packet table | meta | output``; its *header* is one row of
:data:`HEADER` in a table at the start of the arena. The dispatcher owns a header and the first three
regions until the segment is sent; from then to its completion the worker owns the ``outcome`` columns
and the output region. Both are numpy views of the same mapping, so nothing is copied or encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

MAX_STAGES = 16
"""Longest stage chain; bounds the useful-time column of a header."""

# -- states of a slot -------------------------------------------------------------------------
FREE, OPEN, QUEUED, SENT, RUNNING, DONE, FAILED, SHED = range(8)

# -- what the payload of a segment is ---------------------------------------------------------
CONTENT_PACKETS = 0
"""Link-layer packets; ``link_type`` says which layer (LINKTYPE registry of tcpdump.org)."""
CONTENT_MESSAGES = 1
"""Application messages: datagram payloads, frames of a TCP stream, records of a topic."""

LINK_NULL = 0
LINK_ETHERNET = 1
LINK_RAW_IP = 101
LINK_LOOP = 108
LINK_LINUX_SLL = 113
LINK_IPV4 = 228
LINK_IPV6 = 229
LINK_LINUX_SLL2 = 276

PACKET = np.dtype(
    [
        ("timestamp_ns", "<i8"),  # capture or arrival time, nanoseconds since 1970
        ("offset", "<u4"),  # first byte, from the start of the payload
        ("captured_bytes", "<u4"),  # bytes present
        ("wire_bytes", "<u4"),  # bytes the packet had on the wire (>= captured_bytes)
        ("flags", "<u4"),  # PACKET_TRUNCATED, ...
    ]
)
"""One row of a slot's packet table, in order of arrival."""

PACKET_TRUNCATED = 1

HEADER = np.dtype(
    [
        # written by the dispatcher -----------------------------------------------------------
        ("segment_id", "<u8"),  # unique in this process, ascending in order of commit
        ("key_hash", "<u8"),  # of the stream key; order is kept per key
        ("token", "<u8"),  # the source's own word for "acknowledge this"
        ("arrival_ns", "<i8"),  # monotonic clock, first byte of the segment
        ("timestamp_ns", "<i8"),  # wall clock or capture time of the first packet
        ("queued_ns", "<i8"),  # monotonic clock, entry into the lane queue
        ("sent_ns", "<i8"),  # monotonic clock, handed to a worker
        ("length", "<u4"),  # payload bytes
        ("packets", "<u4"),  # rows used in the packet table
        ("source", "<u2"),  # index of the source
        ("lane", "<u2"),  # index of the lane
        ("content", "<u2"),  # CONTENT_*
        ("link_type", "<u2"),  # LINK_*, when content is packets
        ("key_bytes", "<u2"),  # stream key at the start of the meta region
        ("meta_bytes", "<u2"),  # the source's own metadata after the key (e.g. Kafka headers)
        ("attempts", "u1"),  # times a stage raised
        ("deaths", "u1"),  # workers that died in it
        ("spilled", "u1"),  # output lies in a file passed beside the completion
        ("error_kind", "u1"),  # index into ERROR_KINDS, 0 = none
        ("pending", "<u2"),  # sinks that still hold it
        ("holder", "<u2"),  # worker that has it now, 0 = none; the dispatcher's column
        ("reserved", "<u2", (2,)),
        ("variant", "<i2", (MAX_STAGES,)),  # per stage: variant chosen, -1 = the stage's default
        # written by the worker -------------------------------------------
        ("state", "<u4"),
        ("worker", "<u4"),
        ("started_ns", "<i8"),  # monotonic clock
        ("finished_ns", "<i8"),
        ("payload_offset", "<u4"),  # of the result: see payload_in_output
        ("payload_bytes", "<u4"),
        ("payload_in_output", "<u4"),  # PAYLOAD_*: where the result lies
        ("records_bytes", "<u4"),  # encoded records, after the result payload in the output region
        ("delta_bytes", "<u4"),  # encoded deltas for reducers, after the records
        ("error_bytes", "<u4"),  # UTF-8 error text, after the deltas
        ("useful_ns", "<i8", (MAX_STAGES,)),  # thread CPU time per stage
        # the dispatcher's again, after the completion -----------------------
        ("released_ns", "<i8"),  # monotonic clock, given to the sinks
        ("padding", "u1", (16,)),  # to five cache lines: rows of two workers share none
    ],
    align=True,
)
"""One row per slot in the header table. All times are nanoseconds."""

PAYLOAD_IN_PLACE, PAYLOAD_IN_OUTPUT, PAYLOAD_BY_MESSAGE = range(3)
"""Where the result payload lies: in the slot's own payload region; at the start of the output region; there as well,
as one result per row of the packet table, whose sizes (``uint32``) follow it, before the records."""

ERROR_KINDS = ("none", "stage_error", "worker_died", "time_limit", "output_too_large", "unreadable")
"""Bounded reasons of a failed segment."""


@dataclass(frozen=True)
class SlotLayout:
    """Sizes of the four regions of a slot, in bytes (``packet_capacity`` in rows)."""

    payload_bytes: int
    packet_capacity: int
    meta_bytes: int
    output_bytes: int

    @cached_property
    def packets_offset(self) -> int:
        """Start of the packet table within the slot."""
        return _align(self.payload_bytes, 64)

    @cached_property
    def meta_offset(self) -> int:
        """Start of the key and metadata within the slot."""
        return self.packets_offset + self.packet_capacity * PACKET.itemsize

    @cached_property
    def output_offset(self) -> int:
        """Start of the output region within the slot."""
        return _align(self.meta_offset + self.meta_bytes, 64)

    @cached_property
    def stride(self) -> int:
        """Distance between two slots; an odd number of cache lines past a page, so that the first
        lines of different slots do not all fall into one cache set."""
        return _align(self.output_offset + self.output_bytes, 4096) + 64


def _align(value: int, boundary: int) -> int:
    return (value + boundary - 1) // boundary * boundary
