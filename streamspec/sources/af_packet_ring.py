"""A packet socket with a TPACKET_V3 ring that this process and the kernel share (packet(7), packet_mmap)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import socket
import struct
from dataclasses import dataclass

import numpy as np

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Bytes
from streamspec.core.segment import LINK_ETHERNET, LINK_RAW_IP
from streamspec.sources.af_packet_kernels import PACKETS_WORD, STATUS_USER, STATUS_WORD, WALK, Words

# Numbers of <linux/if_packet.h>, <linux/sockios.h> and <linux/if_arp.h> that the socket module does not name.
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
PACKET_FANOUT = 18
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
TPACKET_V3 = 2
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SIOCGIFFLAGS = 0x8913
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933
IFF_LOOPBACK = 8

FRAME_BYTES = 2048
"""Only has to divide a block; TPACKET_V3 packs packets as they come."""

LINK_TYPES = {
    1: LINK_ETHERNET,
    772: LINK_ETHERNET,  # loopback
    519: LINK_RAW_IP,  # raw IP, as of mobile modems
    768: LINK_RAW_IP,  # IP in IP
    769: LINK_RAW_IP,  # IPv6 in IPv6
    776: LINK_RAW_IP,  # IPv6 in IPv4
    65534: LINK_RAW_IP,  # tun, WireGuard
    801: 105,  # IEEE 802.11
    803: 127,  # IEEE 802.11 with radiotap
}
"""LINKTYPE of what an interface of an ARPHRD type delivers."""

FANOUT_MODES = {"hash": 0, "lb": 1, "cpu": 2, "rollover": 3}


@dataclass(frozen=True, slots=True)
class RingOptions:
    """What a ring is opened with; see ``AfPacketConfig`` for the meaning of each."""

    interface: str
    block_bytes: int
    blocks: int
    block_timeout_ms: int
    snap_bytes: int | None
    promiscuous: bool
    outgoing: bool | None
    fanout: tuple[int, str] | None


@dataclass(frozen=True, slots=True)
class RingStatistics:
    """Since the last question: packets lost because the ring was full, and how often it became full."""

    drops: int
    freezes: int


class PacketRing:
    """An open ring.

    Args:
        options: see :class:`RingOptions`.
        where: for errors.

    Attributes:
        socket: to wait on; readable while a block is ready.
        ring, words, halves: the mapping as bytes, 32-bit and 16-bit words.
        walk: ``WALK``, one row.
        link_type: of the interface.
        index: of the interface.

    Raises:
        DependencyUnavailable: no such interface, no CAP_NET_RAW, or not that much memory.
    """

    def __init__(self, options: RingOptions, where: str) -> None:
        self._where = where
        self._options = options
        self.socket = _packet_socket(where)
        try:
            self.index = self._interface_index()
            self.link_type, loopback = self._look_at_interface()
            ignores = self._configure(loopback)
            self._mapping = mmap.mmap(self.socket.fileno(), options.block_bytes * options.blocks)
        except BaseException:
            self.socket.close()
            raise
        self.ring: Bytes = np.frombuffer(self._mapping, dtype=np.uint8)
        self.words = self.ring.view(np.uint32)
        self.halves = self.ring.view(np.uint16)
        self.walk = np.zeros(1, dtype=WALK)
        self.walk["block_bytes"], self.walk["blocks"] = options.block_bytes, options.blocks
        self.walk["skip_outgoing"] = not ignores
        self.walk["ethernet"] = self.link_type == LINK_ETHERNET
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # -- opening ------------------------------------------------------------------------------
    def _interface_index(self) -> int:
        name = self._options.interface
        try:
            return self._ask_for_index()
        except OSError as error:
            present = ", ".join(name for _, name in socket.if_nameindex())
            raise DependencyUnavailable(
                "no such network interface",
                where=f"{self._where}.interface",
                value=name,
                allowed=present,
                next_step="see `ip link`",
            ) from error

    def _ask_for_index(self) -> int:
        """Index of the interface, in the network namespace of the socket."""
        answer = fcntl.ioctl(self.socket, SIOCGIFINDEX, self._options.interface.encode().ljust(40, b"\0"))
        return int(struct.unpack_from("=i", answer, 16)[0])

    def _look_at_interface(self) -> tuple[int, bool]:
        """Link type, and whether it is a loopback."""
        request = self._options.interface.encode().ljust(40, b"\0")
        address = fcntl.ioctl(self.socket, SIOCGIFHWADDR, request)
        flags = fcntl.ioctl(self.socket, SIOCGIFFLAGS, request)
        kind = struct.unpack_from("=H", address, 16)[0]
        if kind not in LINK_TYPES:
            raise DependencyUnavailable(
                "this kind of network interface is not supported",
                where=f"{self._where}.interface",
                value=f"{self._options.interface} (ARPHRD {kind})",
                allowed="Ethernet, loopback, tun, IP tunnels, IEEE 802.11 monitors",
                next_step="capture on the Ethernet interface beneath it",
            )
        return LINK_TYPES[kind], bool(struct.unpack_from("=H", flags, 16)[0] & IFF_LOOPBACK)

    def _configure(self, loopback: bool) -> bool:
        """Set options and allocate the ring. Returns whether outgoing packets need no sorting out."""
        options = self._options
        self.socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        frames = options.block_bytes // FRAME_BYTES * options.blocks
        request = struct.pack(
            "=7I", options.block_bytes, options.blocks, FRAME_BYTES, frames, options.block_timeout_ms, 0, 0
        )
        try:
            self.socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        except OSError as error:
            raise DependencyUnavailable(
                f"the kernel does not give a ring of {options.blocks} blocks: {error.strerror}",
                where=f"{self._where}.block_bytes",
                value=options.block_bytes,
                next_step="lower block_bytes or blocks; a power of two is easiest to get",
            ) from error
        if options.snap_bytes is not None:
            self.filter(options.snap_bytes)
        if options.outgoing if options.outgoing is not None else not loopback:
            return True
        try:
            self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        except OSError:  # Linux before 4.20
            return False
        return True

    def _start(self) -> None:
        """From here on packets come in."""
        options = self._options
        try:
            self.socket.bind((options.interface, ETH_P_ALL))
            if options.promiscuous:
                request = struct.pack("=iHH8s", self.index, PACKET_MR_PROMISC, 0, b"")
                self.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        except OSError as error:
            raise DependencyUnavailable(
                f"cannot capture on the interface: {error.strerror}",
                where=f"{self._where}.interface",
                value=options.interface,
                next_step=f"ip link set {options.interface} up"
                if error.errno == errno.ENETDOWN
                else f"see `ip link show {options.interface}`",
            ) from error
        if options.fanout is not None:
            self._join(*options.fanout)

    def _join(self, group: int, mode: str) -> None:
        try:
            self.socket.setsockopt(SOL_PACKET, PACKET_FANOUT, group | FANOUT_MODES[mode] << 16)
        except OSError as error:
            raise DependencyUnavailable(
                f"cannot join the fanout group: {error.strerror}",
                where=f"{self._where}.fanout.group",
                value=group,
                next_step="all members need the same mode and interface; take another number, "
                "and see that the interface is up",
            ) from error

    # -- use ----------------------------------------------------------------------------------
    def filter(self, keep_bytes: int) -> None:
        """Let the kernel keep so many bytes of each packet; 0 takes in no more packets."""
        program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, keep_bytes), 8)  # BPF: return k
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))

    @property
    def is_ready(self) -> bool:
        """Whether the block that is read next has been handed over."""
        return bool(self._block_words()[STATUS_WORD] & STATUS_USER)

    @property
    def is_empty(self) -> bool:
        """Whether the kernel, too, has put nothing into the block that is read next."""
        words = self._block_words()
        return not words[STATUS_WORD] & STATUS_USER and not words[PACKETS_WORD]

    def _block_words(self) -> Words:
        start = int(self.walk["block"][0]) * self._options.block_bytes // 4
        return self.words[start : start + 8]

    def unread_packets(self) -> int:
        """Packets in blocks that were handed over."""
        blocks = self.words.reshape(self._options.blocks, -1)
        ready = (blocks[:, STATUS_WORD] & STATUS_USER) != 0
        packets = blocks[:, PACKETS_WORD][ready].astype(np.int64).sum()
        begun = int(self.walk["packet"][0]) and int(self._block_words()[PACKETS_WORD]) - int(self.walk["left"][0])
        return int(packets) - begun

    def statistics(self) -> RingStatistics:
        """What was lost since the last call."""
        answer = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        _, drops, freezes = struct.unpack("=3I", answer)
        return RingStatistics(drops, freezes)

    def pending_error(self) -> int:
        """The socket's error number, cleared by asking: ENETDOWN when the interface went down."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def has_interface(self) -> bool:
        """Whether the interface that it was opened on is still there."""
        try:
            return self._ask_for_index() == self.index
        except OSError:
            return False

    def close(self) -> None:
        """Give the ring back to the kernel. Safe to call twice."""
        if self.socket.fileno() < 0:
            return
        del self.ring, self.words, self.halves
        self._mapping.close()
        self.socket.close()


def _packet_socket(where: str) -> socket.socket:
    try:
        # Protocol 0 takes nothing in until it is bound, so that no packets of other interfaces get into the ring.
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError as error:
        raise DependencyUnavailable(
            "capturing needs the capability CAP_NET_RAW",
            where=where,
            next_step="run as root, with `setcap cap_net_raw+ep` on the Python binary, or with "
            "AmbientCapabilities=CAP_NET_RAW under systemd",
        ) from error
    except OSError as error:
        raise DependencyUnavailable(
            f"no packet sockets here: {error.strerror}", where=where, next_step="use Linux with CONFIG_PACKET"
        ) from error
    made.setblocking(False)
    return made
