"""What a format of capture files is to the ``pcap`` source, and the classic one.

A format keeps where the walk is and indexes one window of the file at a time.
"""

from __future__ import annotations

import struct
from typing import Protocol

import numpy as np

from streamspec.core.interfaces import Bytes, Counts, Rows
from streamspec.core.segment import LINK_RAW_IP
from streamspec.sources.pcap_kernels import CLASSIC, KINDS, index_records

FILE_HEADER_BYTES = 24
LARGEST_PACKET_BYTES = 256 * 1024
"""Most bytes that a record of a sound capture holds: libpcap's and Wireshark's limit too."""
LARGEST_TRANSFER_BYTES = 128 * 1024 * 1024
LONG_LINK_TYPES = frozenset({189, 220, 231, 249})
"""USB and D-Bus, whose records hold whole transfers."""

MICROSECONDS, NANOSECONDS, EXTENDED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34
"""First word of a classic capture; the last is Kuznetzov's, with longer record headers."""
_RAW_LINK_TYPES = (12, 14)
"""What raw IP is called in captures of systems that wrote their own number instead of LINKTYPE_RAW."""


class CaptureFormat(Protocol):
    """Where the walk through one file is."""

    first_position: int
    """Where in the file the first window begins."""
    counts: Counts
    """What was wrong so far, by :data:`~streamspec.sources.pcap_kernels.KINDS`."""

    @property
    def track(self) -> int:
        """``ON_TRACK``; ``SEARCHING`` for a sound record, when windows should be as large as possible; or
        ``ENDED``, when nothing further can be read."""

    def index(self, buffer: Bytes, available: int, final: bool, rows: Rows) -> tuple[int, int, int]:
        """Index a window as :func:`~streamspec.sources.pcap_kernels.index_records` does.

        Returns rows filled, bytes used up, and the link type of the packets (one for all).
        """


def new_counts() -> Counts:
    """Zero for each kind of fault."""
    return np.zeros(len(KINDS), dtype=np.int64)


def sound_link_type(number: int) -> int:
    """The registered number for what a file says. Bits above 16 tell the length of frame check sequences."""
    number &= 0xFFFF
    return LINK_RAW_IP if number in _RAW_LINK_TYPES else number


def limit_bytes(link_type: int) -> int:
    """Most bytes that a packet of this link type may have captured."""
    return LARGEST_TRANSFER_BYTES if link_type in LONG_LINK_TYPES else LARGEST_PACKET_BYTES


class ClassicFormat:
    """The format of libpcap. Implements :class:`CaptureFormat`.

    Args:
        magic: first word of the file, in its own byte order.
        swapped: the file is big endian.
        link_type: of all its packets.
        search: look for a sound record behind damage, instead of ending there.

    Attributes:
        state: ``CLASSIC``, one row: where the walk is.
        link_type: of all packets.
    """

    @classmethod
    def recognise(cls, start: bytes, search: bool) -> ClassicFormat | None:
        """The format of a file that begins with these 24 bytes, if it is a classic capture."""
        for order in "<>":
            magic, *_, link_type = struct.unpack_from(f"{order}IHHiIII", start)
            if magic in (MICROSECONDS, NANOSECONDS, EXTENDED):
                return cls(magic, order == ">", sound_link_type(link_type), search)
        return None

    def __init__(self, magic: int, swapped: bool, link_type: int, search: bool) -> None:
        self.first_position = FILE_HEADER_BYTES
        self.counts = new_counts()
        self.link_type = link_type
        self.state = np.zeros(1, dtype=CLASSIC)
        row = self.state[0]
        row["swapped"] = swapped
        row["header_bytes"] = 24 if magic == EXTENDED else 16
        row["tick_ns"] = 1 if magic == NANOSECONDS else 1000
        row["limit_bytes"] = limit_bytes(link_type)
        row["last_seconds"] = -1
        row["search"] = search

    @property
    def track(self) -> int:
        return int(self.state["track"][0])

    def index(self, buffer: Bytes, available: int, final: bool, rows: Rows) -> tuple[int, int, int]:
        count, used = index_records(buffer, available, final, rows, self.state, self.counts)
        return count, used, self.link_type
