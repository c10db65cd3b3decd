"""``sendmmsg(2)`` and ``recvmmsg(2)``: many datagrams a call, described by an array in memory."""

from __future__ import annotations

import ctypes
import socket

import numpy as np
import numpy.typing as npt

MESSAGE_HEADER = np.dtype(
    [
        ("name", "<u8"),
        ("name_bytes", "<u4"),
        ("pad0", "<u4"),
        ("vectors", "<u8"),
        ("vector_count", "<u8"),
        ("control", "<u8"),
        ("control_bytes", "<u8"),
        ("flags", "<i4"),
        ("pad1", "<u4"),
        ("done_bytes", "<u4"),
        ("pad2", "<u4"),
    ]
)
"""``struct mmsghdr`` of 64-bit Linux."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_libc.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class Headers:
    """Headers of ``count`` datagrams, of ``vectors_each`` vectors each.

    Attributes:
        vectors: ``(address, bytes)`` uint64, shape ``(count * vectors_each, 2)``, to be filled in.
    """

    def __init__(self, count: int, vectors_each: int) -> None:
        self.count = count
        self.vectors: npt.NDArray[np.uint64] = np.zeros((count * vectors_each, 2), dtype=np.uint64)
        self._headers = np.zeros(count, dtype=MESSAGE_HEADER)
        self._headers["vectors"] = self.vectors.ctypes.data + 16 * vectors_each * np.arange(count)
        self._headers["vector_count"] = vectors_each
        self._address = self._headers.ctypes.data

    @property
    def done_bytes(self) -> npt.NDArray[np.uint32]:
        """Bytes of each datagram that the latest call moved."""
        done: npt.NDArray[np.uint32] = self._headers["done_bytes"]
        return done

    def send(self, descriptor: int, first: int, last: int) -> int:
        """Send datagrams ``first`` to ``last``; says how many, or -1 with :func:`last_errno`. Never blocks."""
        address = self._address + first * MESSAGE_HEADER.itemsize
        return int(_libc.sendmmsg(descriptor, address, last - first, socket.MSG_DONTWAIT))

    def receive(self, descriptor: int) -> int:
        """Receive as many datagrams as there are, and fit; says how many, or -1. Never blocks."""
        return int(_libc.recvmmsg(descriptor, self._address, self.count, socket.MSG_DONTWAIT, None))


def last_errno() -> int:
    """Why the latest call of this thread returned -1."""
    return ctypes.get_errno()
