"""The socket of the ``udp`` source: binding, kernel options, and ``recvmmsg`` into a staging area."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

import numpy as np

from streamspec.core.address import join_address
from streamspec.core.errors import DependencyUnavailable

MESSAGE = np.dtype(
    [
        ("name", "<u8"),
        ("name_bytes", "<u4"),
        ("gap", "<u4"),
        ("vector", "<u8"),
        ("vector_length", "<u8"),
        ("control", "<u8"),
        ("control_bytes", "<i8"),
        ("flags", "<i4"),
        ("gap2", "<u4"),
        ("received_bytes", "<i4"),  # on the wire, also when more than fitted (MSG_TRUNC)
        ("gap3", "<u4"),
    ]
)
"""``struct mmsghdr`` of 64-bit Linux, see recvmmsg(2)."""

VECTOR = np.dtype([("base", "<u8"), ("length", "<u8")])
"""``struct iovec``."""

NAME_BYTES = 32
"""Room for a peer address; ``sockaddr_in6`` has 28 bytes and the rest stays zero."""
CONTROL_BYTES = 64
"""Room for the control messages of a datagram: a timestamp (32) and the drops (24)."""

# Numbers of <asm-generic/socket.h> and <linux/in.h> that the socket module does not name.
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_RXQ_OVFL = 40
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8
IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29

_REJECT_ALL = (ctypes.c_uint16 * 4)(0x06, 0, 0, 0)  # one BPF instruction: return 0, keep nothing of a datagram

_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int
_RECEIVE_FLAGS = socket.MSG_DONTWAIT | socket.MSG_TRUNC
_NOTHING_NOW = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM)

_PORT = struct.Struct("!2xH")
_IPV6_REST = struct.Struct("=8x16sI")
_MAPPED = bytes(10) + b"\xff\xff"
"""Prefix of an IPv4 address that reached a socket of both families (RFC 4291, 2.5.5.2)."""


# -- binding ----------------------------------------------------------------------------------
def bind_datagram_socket(host: str, port: int, *, reuse_port: bool, where: str) -> socket.socket:
    """A bound, non-blocking socket that reports drops and times of arrival.

    Raises:
        DependencyUnavailable: the address is taken, not of this host, or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:  # an unknown name, or a scope (fe80::1%eth9) that is no interface
        raise _unavailable(error, host, port, where) from error
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        bound.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _unavailable(error, host, port, where) from error
    return bound


def _unavailable(error: OSError, host: str, port: int, where: str) -> DependencyUnavailable:
    what, next_step = {
        errno.EADDRINUSE: (
            "the UDP port is in use",
            f"stop what has it (`ss -ulnp 'sport = :{port}'` shows it) or choose another port",
        ),
        errno.EADDRNOTAVAIL: (
            "no interface of this host has that address",
            "choose one that `ip address` shows, or 0.0.0.0 or [::] for all",
        ),
        errno.EACCES: ("not allowed to bind that port", "choose a port from 1024 on or grant CAP_NET_BIND_SERVICE"),
    }.get(error.errno or 0, (f"cannot bind: {error.strerror}", "choose another address"))
    return DependencyUnavailable(what, where=where, value=join_address(host, port), next_step=next_step)


def join_multicast(bound: socket.socket, group: str, interface: str | None, *, where: str) -> None:
    """Join ``group`` on ``interface`` (None: the kernel chooses by route), and take only what is sent to groups
    that this socket joined.

    Raises:
        DependencyUnavailable: no such interface, or the kernel refuses the group.
    """
    index = interface_index(interface, where=where) if interface else 0
    try:
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            membership = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        else:
            bound.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            membership = socket.inet_aton(group) + socket.inet_aton("0.0.0.0") + struct.pack("@i", index)
            bound.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        raise DependencyUnavailable(
            f"cannot join the multicast group: {error.strerror or error}",
            where=f"{where}.multicast_group",
            value=group,
            next_step="name an interface that is up and has multicast (`ip link` shows MULTICAST), in `interface`",
        ) from error


def interface_index(interface: str, *, where: str) -> int:
    """Index of a network interface; raises DependencyUnavailable with the names there are."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise DependencyUnavailable(
            "no such network interface",
            where=f"{where}.interface",
            value=interface,
            allowed=", ".join(name for _, name in socket.if_nameindex()),
            next_step="choose one of these",
        ) from error


def grow_receive_buffer(bound: socket.socket, asked_bytes: int) -> int:
    """Ask for a receive buffer, past the host's limit where the process may, and return what was granted.

    The kernel doubles the number for its own overhead (socket(7)); the result is comparable to ``asked_bytes``.
    """
    try:
        bound.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, asked_bytes)
    except PermissionError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked_bytes)
    return bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


# -- drops ------------------------------------------------------------------------------------
def read_socket_drops(bound: socket.socket) -> int:
    """Datagrams that the kernel dropped at this socket so far, modulo 2**32: the number that SO_RXQ_OVFL
    attaches to datagrams, but also right when none came after the drops."""
    memory = bound.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * (SK_MEMINFO_DROPS + 1))
    return int(struct.unpack_from("@I", memory, 4 * SK_MEMINFO_DROPS)[0])


def refuse_datagrams(bound: socket.socket) -> None:
    """Let nothing new into the socket's queue, so that reading what is there comes to an end."""
    program = struct.pack("@HP", len(_REJECT_ALL) // 4, ctypes.addressof(_REJECT_ALL))
    bound.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


# -- receiving --------------------------------------------------------------------------------
class ReceiveBatch:
    """Prepared ``mmsghdr`` rows over a staging area, for many ``recvmmsg`` calls.

    The staging area is virtual: of a datagram's room only the pages that it touches become resident.

    Args:
        bound: the socket.
        size: datagrams per call.
        datagram_bytes: room for one; longer ones are cut.
    """

    def __init__(self, bound: socket.socket, size: int, datagram_bytes: int) -> None:
        self.size = size
        self.datagram_bytes = datagram_bytes
        # An odd number of cache lines past a power of two: datagrams do not all start in the same cache sets.
        self.stride = (datagram_bytes + 63) // 64 * 64 + 192
        self.staging = np.zeros(size * self.stride, dtype=np.uint8)
        self._names = np.zeros((size, NAME_BYTES), dtype=np.uint8)
        self._controls = np.zeros((size, CONTROL_BYTES), dtype=np.uint8)
        self._vectors = np.zeros(size, dtype=VECTOR)
        self.messages = np.zeros(size, dtype=MESSAGE)
        self.names = self._names.view(np.int64)
        self.controls = self._controls.view(np.int64)
        self._point()
        self._names_buffer = self._names.reshape(-1).data
        self._family = bound.family
        self._descriptor = bound.fileno()
        self._address = self.messages.ctypes.data

    def _point(self) -> None:
        row = np.arange(self.size, dtype=np.uint64)
        self._vectors["base"] = self.staging.ctypes.data + row * np.uint64(self.stride)
        self._vectors["length"] = self.datagram_bytes
        self.messages["name"] = self._names.ctypes.data + row * np.uint64(NAME_BYTES)
        self.messages["name_bytes"] = NAME_BYTES
        self.messages["vector"] = self._vectors.ctypes.data + row * np.uint64(VECTOR.itemsize)
        self.messages["vector_length"] = 1
        self.messages["control"] = self._controls.ctypes.data + row * np.uint64(CONTROL_BYTES)
        self.messages["control_bytes"] = CONTROL_BYTES

    def receive(self) -> int:
        """Fill the batch from the socket without waiting; the number of datagrams, 0 when there is none now.

        Raises:
            OSError: the socket is broken.
        """
        count: int = _recvmmsg(self._descriptor, self._address, self.size, _RECEIVE_FLAGS, None)
        if count >= 0:
            return count
        code = ctypes.get_errno()
        if code in _NOTHING_NOW:
            return 0
        raise OSError(code, os.strerror(code))

    def peer(self, i: int) -> bytes:
        """The address of datagram ``i`` as a stream key: ``10.0.0.1:5000``, ``[2001:db8::1]:5000``."""
        start = i * NAME_BYTES
        (port,) = _PORT.unpack_from(self._names_buffer, start)
        if self._family == socket.AF_INET:
            return b"%d.%d.%d.%d:%d" % (*self._names_buffer[start + 4 : start + 8], port)
        address, scope = _IPV6_REST.unpack_from(self._names_buffer, start)
        if address.startswith(_MAPPED):
            return b"%d.%d.%d.%d:%d" % (*address[12:], port)
        suffix = b"%%%d" % scope if scope else b""
        return b"[%b%b]:%d" % (socket.inet_ntop(socket.AF_INET6, address).encode(), suffix, port)
