"""Where the application's bytes begin in a captured packet: just enough of the headers to guess their type.

Ethernet with VLAN tags, Linux cooked, BSD loopback and raw IP; IPv4, IPv6 with extension headers; TCP and UDP.
Everything else, and everything that does not fit into the captured bytes, is taken as it is. Nothing here reads
outside of the packet, whatever its length fields say.
"""

from __future__ import annotations

from streamspec.core.features import TYPE_CODES
from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.core.segment import (
    LINK_ETHERNET,
    LINK_IPV4,
    LINK_IPV6,
    LINK_LINUX_SLL,
    LINK_LINUX_SLL2,
    LINK_LOOP,
    LINK_NULL,
    LINK_RAW_IP,
)
from streamspec.profiler.vector import to_int

NO_HINT = 0
"""The type that ports suggest: none. Only encrypted protocols are guessed by port, since what they carry cannot
speak for itself; everything else is known by its content."""

TLS, SSH, QUIC = TYPE_CODES["tls"], TYPE_CODES["ssh"], TYPE_CODES["quic"]

_MOST_TAGS = 4
_MOST_EXTENSIONS = 6
_TCP, _UDP = 6, 17


@lean_kernel
def read_u16(memory: Bytes, at: int) -> int:
    """Two bytes in network order."""
    value: int = to_int(memory[at]) << 8 | to_int(memory[at + 1])
    return value


@lean_kernel
def read_u32(memory: Bytes, at: int) -> int:
    """Four bytes in network order."""
    return read_u16(memory, at) << 16 | read_u16(memory, at + 2)


@lean_kernel
def network_start(memory: Bytes, at: int, end: int, link_type: int) -> int:
    """Where the IP header begins, or -1 when the link layer carries none or is unknown or cut off."""
    if link_type == LINK_ETHERNET:
        kind = at + 12
        for _ in range(_MOST_TAGS):
            if kind + 2 > end or read_u16(memory, kind) not in (0x8100, 0x88A8, 0x9100):
                break
            kind += 4
        if kind + 2 <= end and read_u16(memory, kind) in (0x0800, 0x86DD):
            return kind + 2
        return -1
    if link_type == LINK_LINUX_SLL:
        return at + 16
    if link_type == LINK_LINUX_SLL2:
        return at + 20
    if link_type in (LINK_NULL, LINK_LOOP):
        return at + 4
    if link_type in (LINK_RAW_IP, LINK_IPV4, LINK_IPV6):
        return at
    return -1


@lean_kernel
def _transport_v4(memory: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """``(transport protocol, its start, end of the packet)``; protocol -1 when there is none to be read."""
    header = to_int(memory[at] & 15) * 4
    total = read_u16(memory, at + 2)
    if header < 20 or at + header > end or read_u16(memory, at + 6) & 0x1FFF:
        return -1, at, end
    if header <= total < end - at:  # what follows is padding of the link
        end = at + total
    return to_int(memory[at + 9]), at + header, end


@lean_kernel
def _transport_v6(memory: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """As :func:`_transport_v4`."""
    size = read_u16(memory, at + 4)
    if 0 < size < end - at - 40:
        end = at + 40 + size
    protocol = to_int(memory[at + 6])
    at += 40
    for _ in range(_MOST_EXTENSIONS):
        if protocol not in (0, 43, 44, 60) or at + 8 > end:
            break
        if protocol == 44 and read_u16(memory, at + 2) & 0xFFF8:
            return -1, at, end
        length = 8 if protocol == 44 else 8 + to_int(memory[at + 1]) * 8
        protocol = to_int(memory[at])
        at += length
    return protocol, at, end


@lean_kernel
def locate(memory: Bytes, at: int, end: int, link_type: int) -> tuple[int, int, int]:
    """``(start, end, hint)`` of what the packet in bytes ``at`` to ``end`` carries.

    Without IP, TCP or UDP that is the whole packet. An empty result (``start == end``) means that the packet
    carries nothing, as an acknowledgement of TCP.
    """
    ip = network_start(memory, at, end, link_type)
    if ip < 0 or ip + 20 > end:
        return at, end, NO_HINT
    version = memory[ip] >> 4
    if version == 4:
        protocol, start, stop = _transport_v4(memory, ip, end)
    elif version == 6 and ip + 40 <= end:
        protocol, start, stop = _transport_v6(memory, ip, end)
    else:
        return at, end, NO_HINT
    if protocol == _UDP and start + 8 <= stop:
        return start + 8, stop, _udp_hint(read_u16(memory, start), read_u16(memory, start + 2))
    if protocol == _TCP and start + 20 <= stop:
        hint = _tcp_hint(read_u16(memory, start), read_u16(memory, start + 2))
        return min(start + max(to_int(memory[start + 12]) >> 4, 5) * 4, stop), stop, hint
    return min(start, stop), stop, NO_HINT


@lean_kernel
def _tcp_hint(source: int, destination: int) -> int:
    for port in (source, destination):
        if port in (443, 8443, 853, 993, 995, 465, 636, 989, 990, 5061):
            return TLS
        if port == 22:
            return SSH
    return NO_HINT


@lean_kernel
def _udp_hint(source: int, destination: int) -> int:
    return QUIC if source == 443 or destination == 443 else NO_HINT
