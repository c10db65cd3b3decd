"""A capture to rows of flows by dpkt: ``CAPTURE OUT [PACKETS]``."""

import csv
import itertools
import socket
import sys

import dpkt

flows: dict = {}
with open(sys.argv[1], "rb") as file:
    for _, packet in itertools.islice(dpkt.pcap.UniversalReader(file), int(sys.argv[3]) if len(sys.argv) > 3 else None):
        try:
            ip = dpkt.ethernet.Ethernet(packet).data
            if isinstance(ip, dpkt.ip.IP):
                protocol, octets = ip.p, ip.len
            elif isinstance(ip, dpkt.ip6.IP6):
                protocol, octets = ip.nxt, ip.plen + 40
            else:
                continue
            ports = ip.data
            first, second = (ip.src, getattr(ports, "sport", 0)), (ip.dst, getattr(ports, "dport", 0))
        except (dpkt.UnpackError, AttributeError, IndexError):
            continue
        key = (protocol, first, second) if first <= second else (protocol, second, first)
        entry = flows.setdefault(key, [0, 0])
        entry[0] += 1
        entry[1] += octets


def text(address):
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


with open(sys.argv[2], "w", newline="") as out:
    write = csv.writer(out).writerow
    for (protocol, first, second), (packets, octets) in flows.items():
        write((protocol, text(first[0]), first[1], text(second[0]), second[1], packets, octets))
