"""From a ring to segments: what the ``af_packet`` source does at a wake-up, without an event loop."""

from __future__ import annotations

import numpy as np

from streamspec.core.interfaces import Bytes, Intake, Rows
from streamspec.core.segment import HEADER, PACKET
from streamspec.sources.af_packet_kernels import FULL, NOTHING, WALK, take_packets
from streamspec.sources.af_packet_ring import PacketRing
from streamspec.sources.pcap_kernels import fill_header

WITHOUT_SLOT = -1
OLDEST_ARRIVAL_NS = 10_000_000_000
"""Packets are not believed to have waited longer in the ring; a larger difference is a clock that was set."""


def load_kernels() -> None:
    """Compile the kernels, or load them from the cache, so that the first packets do not wait for it."""
    ring, rows, headers = np.zeros(64, dtype=np.uint8), np.zeros(1, dtype=PACKET), np.zeros(1, dtype=HEADER)
    walk, used = np.zeros(1, dtype=WALK), np.zeros(2, dtype=np.int64)
    take_packets(ring, ring.view(np.uint32), ring.view(np.uint16), walk, ring, 64, rows, used)
    fill_header(headers, 0, rows, 1, 0, 0)


class Reception:
    """Copies packets of one ring into segments, of which one at a time is open.

    Args:
        intake: where segments go.
        ring: where packets come from.
        key: stream key of all segments.
        segment_bytes: payload at which a segment is full.
    """

    def __init__(self, intake: Intake, ring: PacketRing, key: bytes, segment_bytes: int) -> None:
        self._intake = intake
        self._ring = ring
        self._key = key
        self._room = min(segment_bytes, intake.layout.payload_bytes)
        self._slot = -1
        self._opened_ns = 0
        self._used = np.zeros(2, dtype=np.int64)  # payload bytes and rows of the open segment
        self._payload: Bytes = np.zeros(0, dtype=np.uint8)
        self._rows: Rows = np.zeros(0, dtype=PACKET)

    @property
    def opened_ns(self) -> int | None:
        """When the open segment was opened (monotonic clock), None when there is none."""
        return self._opened_ns if self._slot >= 0 else None

    @property
    def open_packets(self) -> int:
        """Packets in the open segment."""
        return int(self._used[1]) if self._slot >= 0 else 0

    def take(self, most_blocks: int) -> int:
        """Copy what is ready, up to so many blocks.

        Returns:
            ``NOTHING`` more is ready; ``ENOUGH``; or ``WITHOUT_SLOT`` when the rest has to stay in the ring.
        """
        ring = self._ring
        ring.walk["budget"] = most_blocks
        why = FULL
        while why == FULL:
            if self._slot < 0:
                if not ring.is_ready:
                    return NOTHING
                if not self._open():
                    return WITHOUT_SLOT
            why = take_packets(
                ring.ring, ring.words, ring.halves, ring.walk, self._payload, self._room, self._rows, self._used
            )
            if why == FULL:
                self.close_segment()
        return why

    def _open(self) -> bool:
        slot = self._intake.acquire_by_shedding()
        if slot < 0:
            return False
        self._slot = slot
        self._opened_ns = self._intake.clock.monotonic_ns()
        self._payload, self._rows = self._intake.payload(slot), self._intake.packets(slot)
        self._used[:] = 0
        return True

    def close_segment(self) -> None:
        """Hand in the open segment, if there is one."""
        slot, self._slot = self._slot, -1
        if slot < 0:
            return
        intake, count = self._intake, int(self._used[1])
        if not count:
            intake.release(slot)
            return
        # Packets carry the wall clock; latency counts from when the kernel had the first one.
        waited_ns = intake.clock.time_ns() - int(self._rows[0]["timestamp_ns"])
        arrival_ns = intake.clock.monotonic_ns() - min(max(waited_ns, 0), OLDEST_ARRIVAL_NS)
        fill_header(intake.headers, slot, self._rows, count, arrival_ns, self._ring.link_type)
        intake.set_key(slot, self._key)
        intake.commit([slot])

    def count_losses(self) -> None:
        """Ask the kernel what was lost, and count it."""
        tally, statistics, walk = self._intake.tally, self._ring.statistics(), self._ring.walk
        tally.add("kernel_drops", statistics.drops)
        tally.add("ring_freezes", statistics.freezes)
        tally.add("oversized_packets", int(walk["oversized"][0]))
        walk["oversized"] = 0

    def abandon(self) -> None:
        """Hand in the open segment and let go of the ring; packets left in it are counted."""
        self.close_segment()
        self.count_losses()
        self._intake.tally.add("arena_full_drops", self._ring.unread_packets())
        self._ring.close()
