"""Messages of one length, laid out once and sent by ``sendmmsg`` as often as one likes."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from streamspec.sources.udp_socket import MESSAGE, VECTOR

_sendmmsg = ctypes.CDLL(None).sendmmsg
_sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Outgoing:
    """Messages for a connected or bound socket.

    Args:
        memory: what they are read from at each sending; kept.
        starts: where each begins in it, bytes.
        length_bytes: of each.
    """

    def __init__(self, memory: npt.NDArray[np.uint8], starts: npt.ArrayLike, length_bytes: int) -> None:
        offsets = np.asarray(starts, dtype=np.uint64)
        self._memory = memory
        self._vectors = np.zeros(len(offsets), dtype=VECTOR)
        self._vectors["base"] = np.uint64(memory.ctypes.data) + offsets
        self._vectors["length"] = length_bytes
        rows = np.arange(len(offsets), dtype=np.uint64)
        self._messages = np.zeros(len(offsets), dtype=MESSAGE)
        self._messages["vector"] = self._vectors.ctypes.data + rows * np.uint64(VECTOR.itemsize)
        self._messages["vector_length"] = 1
        self._address = self._messages.ctypes.data

    def send(self, descriptor: int, first: int, count: int) -> int:
        """Send so many from the first on; returns how many the kernel took."""
        taken: int = _sendmmsg(descriptor, self._address + first * MESSAGE.itemsize, count, 0)
        return max(0, taken)
