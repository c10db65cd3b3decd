"""The shared-memory arena: a header table and fixed slots in one anonymous file, mapped by all processes.

Free slots are a stack, so that a lightly loaded service touches few pages and keeps them in cache.
Memory is taken by the kernel on first touch; its ceiling is :attr:`Arena.size_bytes`.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from streamspec.core.errors import ConfigError
from streamspec.core.interfaces import Bytes, Rows, Slots
from streamspec.core.segment import HEADER, OPEN, PACKET, SlotLayout


class Arena:
    """Slots in shared memory. Create it once in the dispatcher; workers map it by descriptor.

    Args:
        layout: regions of a slot.
        slots: number of slots.
        fd: descriptor of an existing arena to map, or None to create one.

    Attributes:
        fd: descriptor to pass to workers.
        memory: the whole mapping, ``uint8``, shape ``(size_bytes,)``.
        headers: ``HEADER`` rows, shape ``(slots,)``.
    """

    def __init__(self, layout: SlotLayout, slots: int, fd: int | None = None) -> None:
        if slots < 2:
            raise ConfigError(
                "the arena has room for fewer than two segments",
                where="engine.arena_bytes",
                allowed=f"at least {2 * layout.stride} bytes for these segments",
            )
        self.layout = layout
        self.slots = slots
        self._stride = layout.stride
        self._slots_offset = (slots * HEADER.itemsize + 4095) // 4096 * 4096
        self.size_bytes = self._slots_offset + slots * layout.stride
        if fd is None:
            fd = os.memfd_create("streamspec-arena", os.MFD_CLOEXEC)
            os.ftruncate(fd, self.size_bytes)
        self.fd = fd
        self._mapping = mmap.mmap(fd, self.size_bytes)
        self.memory: Bytes = np.frombuffer(self._mapping, dtype=np.uint8)
        self.headers: Rows = np.frombuffer(self._mapping, dtype=HEADER, count=slots)
        self._packet_bytes = layout.packet_capacity * PACKET.itemsize
        self._free = np.arange(slots - 1, -1, -1, dtype=np.int32)
        self.free_slots = slots

    @staticmethod
    def slots_within(layout: SlotLayout, size_bytes: int) -> int:
        """How many slots fit into ``size_bytes``."""
        return max(0, (size_bytes - 4096) // (layout.stride + HEADER.itemsize))

    # -- addresses ----------------------------------------------------------------------------
    def offset(self, slot: int) -> int:
        """Byte offset of a slot in :attr:`memory`."""
        return self._slots_offset + slot * self._stride

    def payload(self, slot: int) -> Bytes:
        """The payload region, ``uint8``, shape ``(layout.payload_bytes,)``."""
        start = self.offset(slot)
        return self.memory[start : start + self.layout.payload_bytes]

    def packets(self, slot: int) -> Rows:
        """The packet table, ``PACKET``, shape ``(layout.packet_capacity,)``."""
        start = self.offset(slot) + self.layout.packets_offset
        return self.memory[start : start + self._packet_bytes].view(PACKET)

    def meta(self, slot: int) -> Bytes:
        """The region of key and metadata."""
        start = self.offset(slot) + self.layout.meta_offset
        return self.memory[start : start + self.layout.meta_bytes]

    def output(self, slot: int) -> Bytes:
        """The output region."""
        start = self.offset(slot) + self.layout.output_offset
        return self.memory[start : start + self.layout.output_bytes]

    # -- ownership ----------------------------------------------------------------------------
    def acquire(self) -> int:
        """A free slot, its header zeroed and in state OPEN; -1 when none is free."""
        if not self.free_slots:
            return -1
        self.free_slots -= 1
        slot = int(self._free[self.free_slots])
        self.headers[slot] = _EMPTY
        return slot

    def acquire_many(self, count: int) -> Slots:
        """Up to ``count`` free slots as ``int32``; headers as :meth:`acquire` leaves them."""
        count = min(count, self.free_slots)
        self.free_slots -= count
        slots = self._free[self.free_slots : self.free_slots + count].copy()
        from streamspec.engine.kernels import prepare  # only the dispatcher pays for numba

        prepare(self.headers, slots)
        return slots

    def release(self, slot: int) -> None:
        """Give one slot back."""
        self.headers["state"][slot] = 0
        self._free[self.free_slots] = slot
        self.free_slots += 1

    def release_many(self, slots: Slots) -> None:
        """Give slots back (``int32``)."""
        count = len(slots)
        self.headers["state"][slots] = 0
        self._free[self.free_slots : self.free_slots + count] = slots
        self.free_slots += count

    def close(self) -> None:
        """Unmap and close. Views handed out before must be gone, or the mapping lives until they are."""
        del self.memory, self.headers
        try:
            self._mapping.close()
        except BufferError:  # a view is still alive; its owner unmaps by going away
            pass
        os.close(self.fd)


_EMPTY = np.zeros((), dtype=HEADER)
_EMPTY["state"] = OPEN
_EMPTY["variant"] = -1
