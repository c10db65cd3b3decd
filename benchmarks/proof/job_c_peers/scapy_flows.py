"""A capture to rows of flows by scapy: ``CAPTURE OUT [PACKETS]``."""

import csv
import itertools
import sys

from scapy.config import conf
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.utils import PcapReader

conf.layers.filter([Ether, Dot1Q, Dot1AD, IP, IPv6, TCP, UDP])  # "speed up the parsing", as its documentation advises

flows: dict = {}
with PcapReader(sys.argv[1]) as reader:
    for packet in itertools.islice(reader, int(sys.argv[3]) if len(sys.argv) > 3 else None):
        ip = packet.getlayer(IP) or packet.getlayer(IPv6)
        if ip is None:
            continue
        protocol, octets = (ip.proto, ip.len) if isinstance(ip, IP) else (ip.nh, ip.plen + 40)
        ports = ip.payload
        first, second = (ip.src, getattr(ports, "sport", 0)), (ip.dst, getattr(ports, "dport", 0))
        key = (protocol, first, second) if first <= second else (protocol, second, first)
        entry = flows.setdefault(key, [0, 0])
        entry[0] += 1
        entry[1] += octets

with open(sys.argv[2], "w", newline="") as out:
    write = csv.writer(out).writerow
    for (protocol, first, second), (packets, octets) in flows.items():
        write((protocol, *first, *second, packets, octets))
