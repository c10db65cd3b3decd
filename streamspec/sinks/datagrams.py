"""Datagrams listed by a kernel and sent by ``sendmmsg``: no Python per datagram, and no copy before the kernel's."""

from __future__ import annotations

import ctypes
import os
import socket

import numpy as np

from streamspec.sinks import frame_kernels
from streamspec.sinks.frames import Pieces, address_of

MESSAGE_WORDS = 8
"""``struct mmsghdr`` on 64-bit Linux: name, its length, iovec, their number, control, its length, flags | sent."""
_VECTOR, _VECTORS = 2, 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class DatagramList:
    """Up to ``capacity`` datagrams to one connected socket. The memory that they lie in must stay as it is
    until they are sent.

    Attributes:
        too_large: datagrams left out so far.
    """

    def __init__(self, capacity: int, largest_bytes: int, most_bytes: int) -> None:
        self._largest_bytes = largest_bytes
        self.most_bytes = most_bytes
        self._vectors = np.zeros((capacity, 2), dtype=np.uint64)
        self._messages = np.zeros((capacity, MESSAGE_WORDS), dtype=np.uint64)
        start = address_of(self._vectors)
        self._messages[:, _VECTOR] = start + np.arange(capacity, dtype=np.uint64) * self._vectors.itemsize * 2
        self._messages[:, _VECTORS] = 1
        self._address = address_of(self._messages)
        self._counts = np.zeros(3, dtype=np.int64)
        self._first = 0

    @property
    def left(self) -> int:
        """Datagrams not yet sent."""
        return int(self._counts[0]) - self._first

    @property
    def size_bytes(self) -> int:
        """Bytes of all datagrams listed."""
        return int(self._counts[1])

    def add(self, pieces: Pieces, first: int) -> int:
        """List the pieces from ``first`` on, as far as there is room; returns the next one."""
        address = address_of(pieces.content)
        return frame_kernels.list_datagrams(
            address,
            pieces.starts,
            pieces.sizes,
            first,
            self._largest_bytes,
            self.most_bytes,
            self._vectors,
            self._counts,
        )

    def send(self, target: socket.socket) -> int:
        """Send from the first on that is left; returns how many went out, at least one. Raises OSError for
        the first one; an error of a later one only ends the call early."""
        start = self._address + self._first * MESSAGE_WORDS * 8
        sent: int = _libc.sendmmsg(target.fileno(), start, self.left, socket.MSG_DONTWAIT)
        if sent < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._first += sent
        return sent

    def skip(self) -> None:
        """Leave out the first one that is left."""
        self._first += 1

    def clear(self) -> None:
        """Forget all datagrams."""
        self._counts[:2] = 0
        self._first = 0

    def take_too_large(self) -> int:
        """How many were left out as too large since the last call."""
        count = int(self._counts[2])
        self._counts[2] = 0
        return count
