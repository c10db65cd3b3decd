"""pcapng captures (draft-ietf-opsawg-pcapng): sections and interfaces; packets are the kernel's."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from streamspec.core.interfaces import Bytes, Rows
from streamspec.sources import pcapng_kernels as kernels
from streamspec.sources.pcap_formats import LARGEST_PACKET_BYTES, limit_bytes, new_counts, sound_link_type
from streamspec.sources.pcap_kernels import MALFORMED_BLOCK, TRUNCATED_RECORD

MAX_INTERFACES = 1024
"""Interfaces of a section that are kept; packets of further ones count as of an unknown interface."""
SECTION_BYTES = 28
"""Smallest section header block."""

_SECTION = struct.pack("<I", kernels.SECTION_HEADER)
_BYTE_ORDERS = {struct.pack("<I", 0x1A2B3C4D): "<", struct.pack(">I", 0x1A2B3C4D): ">"}
_OPTION_END, _OPTION_TSRESOL, _OPTION_TSOFFSET = 0, 9, 14
_MAJOR_VERSION = 1
_NEVER = 2**64 - 1
_LARGEST_OFFSET_SECONDS = 2**33


class BlockFormat:
    """Implements :class:`~streamspec.sources.pcap_formats.CaptureFormat`.

    Args:
        search: look for a sound block behind damage, instead of ending there.
    """

    def __init__(self, search: bool) -> None:
        self.first_position = 0
        self.counts = new_counts()
        self._order = "<"
        self._interfaces = np.zeros(16, dtype=kernels.INTERFACES)
        self._state = np.zeros(1, dtype=kernels.BLOCKS)
        self._state["limit_bytes"] = LARGEST_PACKET_BYTES
        self._state["search"] = search

    @classmethod
    def recognise(cls, start: bytes, search: bool) -> BlockFormat | None:
        """The format of a file that begins with these bytes (at least 16), if it is a pcapng capture."""
        return None if _byte_order(start) is None else cls(search)

    @property
    def track(self) -> int:
        return int(self._state["track"][0])

    def index(self, buffer: Bytes, available: int, final: bool, rows: Rows) -> tuple[int, int, int]:
        state = self._state
        state["link_type"] = -1
        count, at = 0, 0
        while True:
            count, at, why = kernels.index_blocks(
                buffer, at, available, final, rows, count, self._interfaces, state, self.counts
            )
            if why == kernels.OTHER_LINK and count == 0:
                state["link_type"] = -1  # it was that of a packet which could not be taken
            elif why == kernels.SECTION:
                step = self._take_section(buffer[at:available], final)
                at += step
                if not step:
                    break
            elif why == kernels.INTERFACE:
                at += self._take_interface(buffer[at:available])
            else:
                break
        return count, at, max(int(state["link_type"][0]), 0)

    # -- sections -----------------------------------------------------------------------------
    def _take_section(self, block: Bytes, final: bool) -> int:
        """Begin a section. Returns the bytes passed over, 0 when the block has to be seen whole."""
        if len(block) < SECTION_BYTES:
            if not final:
                return 0
            self.counts[TRUNCATED_RECORD] += 1
            return len(block)
        head = block[:SECTION_BYTES].tobytes()
        order = _byte_order(head)
        total = 0 if order is None else struct.unpack_from(f"{order}I", head, 4)[0]
        if order is None or not SECTION_BYTES <= total <= kernels.LARGEST_BLOCK_BYTES or total % 4:
            self.counts[MALFORMED_BLOCK] += 1
            return kernels.leave_track(self._state, self.counts)
        if final and total > len(block):
            self.counts[TRUNCATED_RECORD] += 1
        self._order = order
        self._state["swapped"] = order == ">"
        self._state["interfaces"] = 0
        return int(total)

    # -- interfaces ---------------------------------------------------------------------------
    def _take_interface(self, block: Bytes) -> int:
        """Take up an interface description. Returns the bytes passed over."""
        total = int(struct.unpack(f"{self._order}I", block[4:8].tobytes())[0])
        content = block[:total].tobytes()[8 : total - 4]
        if len(content) < 8:
            self.counts[MALFORMED_BLOCK] += 1
            return total
        used = int(self._state["interfaces"][0])
        if used < MAX_INTERFACES:
            if used == len(self._interfaces):
                self._interfaces = np.concatenate([self._interfaces, np.zeros_like(self._interfaces)])
            self._describe(self._interfaces[used : used + 1], content)
            self._state["interfaces"] = used + 1
        return total

    def _describe(self, row: Rows, content: bytes) -> None:
        number, _, snap_bytes = struct.unpack_from(f"{self._order}HHI", content)
        link_type = sound_link_type(number)
        row["link_type"], row["snap_bytes"] = link_type, snap_bytes
        row["unit"], row["scale"], row["offset_ns"] = kernels.DECIMAL, 1000, 0
        self._state["limit_bytes"] = max(int(self._state["limit_bytes"][0]), limit_bytes(link_type))
        for code, value in self._options(content[8:]):
            if code == _OPTION_TSRESOL and value:
                row["unit"], row["scale"] = unit_of(value[0])
            elif code == _OPTION_TSOFFSET and len(value) == 8:
                (seconds,) = struct.unpack(f"{self._order}q", value)
                if abs(seconds) <= _LARGEST_OFFSET_SECONDS:
                    row["offset_ns"] = seconds * 1_000_000_000

    def _options(self, content: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 4 <= len(content):
            code, size = struct.unpack_from(f"{self._order}HH", content, at)
            if code == _OPTION_END:
                return
            yield code, content[at + 4 : at + 4 + size]
            at += 4 + (size + 3) // 4 * 4


def _byte_order(start: bytes) -> str | None:
    """Byte order of the section that begins here, None when none of a known version does."""
    order = _BYTE_ORDERS.get(start[8:12]) if start[:4] == _SECTION else None
    if order is None or struct.unpack_from(f"{order}H", start, 12)[0] != _MAJOR_VERSION:
        return None
    return order


def unit_of(resolution: int) -> tuple[int, int]:
    """``if_tsresol`` as ``(unit, scale)`` of an interface: 10**-n seconds, or 2**-n with the highest bit set."""
    exponent = resolution & 0x7F
    if resolution & 0x80:
        return (kernels.BINARY, exponent) if exponent < 64 else (kernels.COARSE_DECIMAL, _NEVER)
    if exponent <= 9:
        return kernels.DECIMAL, 10 ** (9 - exponent)
    return kernels.COARSE_DECIMAL, min(10 ** (exponent - 9), _NEVER)
