"""Drops and queues of sockets: of our own by ``SO_MEMINFO``, of the whole namespace from ``/proc/net``."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamspec.monitors.files import read_text

SO_MEMINFO = 55
_FIELDS = 9  # SK_MEMINFO_VARS, include/uapi/linux/sock_diag.h
_libc = ctypes.CDLL(None, use_errno=True)

COUNTED = {
    "Udp": ("InErrors", "RcvbufErrors", "SndbufErrors", "NoPorts"),
    "TcpExt": ("ListenOverflows", "ListenDrops", "TCPBacklogDrop", "TCPRcvQDrop", "TCPTimeouts"),
    "Tcp": ("RetransSegs",),
}


@dataclass(frozen=True, slots=True)
class SocketUse:
    """One socket.

    Attributes:
        receive_queue_bytes, receive_limit_bytes: memory of what waits to be read, and its limit.
        send_queue_bytes, send_limit_bytes: the same for what waits to be sent.
        drops: packets dropped since it was opened.
    """

    receive_queue_bytes: int
    receive_limit_bytes: int
    send_queue_bytes: int
    send_limit_bytes: int
    drops: int


def socket_use(descriptor: int) -> SocketUse | None:
    """``None`` when the descriptor is closed or no socket. One system call."""
    values = (ctypes.c_uint32 * _FIELDS)()
    size = ctypes.c_uint32(ctypes.sizeof(values))
    if _libc.getsockopt(descriptor, socket.SOL_SOCKET, SO_MEMINFO, values, ctypes.byref(size)) != 0:
        return None
    received, receive_limit, _, send_limit, _, send_queued, _, _, drops = values
    return SocketUse(received, receive_limit, send_queued, send_limit, drops)


class SocketMonitor:
    """What the kernel counted since the call before.

    Args:
        proc: root.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._before: dict[str, int] = {}

    def sample(self) -> Mapping[str, int]:
        """Increases by counter, e.g. ``Udp.RcvbufErrors``; only those that exist. The first call has zeros."""
        now = {**self._read("net/snmp"), **self._read("net/netstat")}
        before, self._before = self._before, now
        return {name: max(0, count - before.get(name, count)) for name, count in now.items()}

    def _read(self, name: str) -> dict[str, int]:
        """Two lines per protocol: names, then numbers."""
        lines = read_text(self._proc / name).splitlines()
        found: dict[str, int] = {}
        for names, numbers in zip(lines[::2], lines[1::2], strict=False):
            protocol, _, columns = names.partition(":")
            wanted = COUNTED.get(protocol)
            if wanted:
                values = dict(zip(columns.split(), numbers.partition(":")[2].split(), strict=False))
                found |= {f"{protocol}.{key}": int(values[key]) for key in wanted if key in values}
        return found
