"""What ``decode`` knows about a packet: one cache line per packet, and why a packet was not understood.

Stages after ``decode`` find these rows in ``segment.notes["decoded"]``, in the order of
``segment.packets``. They are valid during the call only: the array is used again for the next segment.
"""

from __future__ import annotations

import numpy as np

NOTE = "decoded"
"""Key of the rows in ``segment.notes``."""

DECODED = np.dtype(
    {
        "names": [
            "source_address",  # 16 bytes in network order; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2)
            "destination_address",
            "flow_hash",  # of the 5-tuple, equal for both directions; 0 when not IP
            "payload_offset",  # of the transport payload, from the start of ``segment.original``
            "payload_bytes",  # of it present in the capture
            "ip_bytes",  # total length of the IP packet, headers included
            "l3_offset",  # of the IP header described, from the start of the packet
            "source_port",  # 0 where the protocol has none, and in fragments but the first
            "destination_port",
            "vlan",  # outermost VLAN identifier, 0 for none
            "tcp_flags",  # twelve bits as in the header (RFC 7125), 0 when not TCP
            "status",  # see STATUS_NAMES
            "ip_version",  # 4 or 6; 0: no IP header was found, all fields above are 0
            "protocol",  # IANA protocol number; for IPv6 of the header after the extensions
            "ttl",  # time to live or hop limit
            "fragment",  # FRAGMENT_*
            "tunnel_depth",  # tunnels opened to reach the IP header described
            # The same memory by other names, for kernels:
            "source_head",  # first eight bytes of the address
            "source_tail",  # last eight bytes
            "destination_head",
            "destination_tail",
            "icmp_type_code",  # in place of ``tcp_flags`` for ICMP and ICMPv6: type * 256 + code
        ],
        "formats": [
            *[("u1", (16,))] * 2,
            *["<u4"] * 4,
            *["<u2"] * 5,
            *["u1"] * 6,
            *["<u8"] * 4,
            "<u2",
        ],
        "offsets": [0, 16, 32, 36, 40, 44, 48, 50, 52, 54, 56, 58, 59, 60, 61, 62, 63, 0, 8, 16, 24, 56],
        "itemsize": 64,
    }
)
"""One row per packet of a segment, 64 bytes."""

FRAGMENT_MORE = 1
"""More fragments follow."""
FRAGMENT_LATER = 2
"""Not the first fragment: holds no transport header."""
FRAGMENT_FORBIDDEN = 4
"""IPv4 "do not fragment"."""

OK = 0
NOT_IP = 1
UNKNOWN_LINK_TYPE = 2
TRUNCATED_LINK_HEADER = 3
LINK_HEADERS_TOO_DEEP = 4
TRUNCATED_IPV4_HEADER = 5
MALFORMED_IPV4_HEADER = 6
TRUNCATED_IPV6_HEADER = 7
MALFORMED_IPV6_HEADER = 8
TRUNCATED_IPV6_EXTENSION = 9
IPV6_EXTENSIONS_TOO_DEEP = 10
TRUNCATED_TCP = 11
MALFORMED_TCP_HEADER = 12
TRUNCATED_UDP = 13
MALFORMED_UDP_HEADER = 14
TRUNCATED_SCTP = 15
TRUNCATED_ICMP = 16
MALFORMED_TUNNEL = 17
TUNNELS_TOO_DEEP = 18

STATUS_NAMES = (
    "ok",
    "not_ip",  # ARP, LLDP, ...: a whole packet of another protocol
    "unknown_link_type",
    "truncated_link_header",
    "link_headers_too_deep",  # more VLAN tags or MPLS labels than are followed
    "truncated_ipv4_header",
    "malformed_ipv4_header",  # wrong version, header or total length too small
    "truncated_ipv6_header",
    "malformed_ipv6_header",
    "truncated_ipv6_extension",
    "ipv6_extensions_too_deep",
    "truncated_tcp",
    "malformed_tcp_header",
    "truncated_udp",
    "malformed_udp_header",
    "truncated_sctp",
    "truncated_icmp",
    "malformed_tunnel",  # what is inside is not what the outer header says; the row describes the outer packet
    "tunnels_too_deep",  # the row describes the innermost packet that was reached
)
"""By ``status``; the reasons under which packets that are not ``ok`` are counted. Whatever the status,
a row with ``ip_version`` 4 or 6 has a sound IP header and belongs to a flow."""
