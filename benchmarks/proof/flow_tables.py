"""Flow tables of different tools in one form, and the reference that they are compared with.

A table maps a bidirectional 5-tuple to its packets and bytes from the IP header on. Compared are plain flows: TCP and
UDP whose packets all lie directly on IP on Ethernet (VLAN tags allowed), whole, not fragments, not tunnels, and neither
cut by the capture nor malformed. About the rest the tools differ by intention: some open tunnels, some put fragments
together, some leave damaged packets out.
"""

from __future__ import annotations

import csv
import ipaddress
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpkt

from benchmarks.proof.harness import Measures, Wrong

EndPoint = tuple[str, int]
Key = tuple[int, EndPoint, EndPoint]
Table = dict[Key, list[int]]
"""Packets, bytes; the reference has those of whole frames behind them."""

TCP, UDP = 6, 17
PROTOCOLS = {"tcp": TCP, "udp": UDP, "6": TCP, "17": UDP}
TUNNEL_PORTS = {2152, 3386, 4789, 4790, 8472, 6081, 6635, 37008, 1701, 3544, 5555}
"""GTP, VXLAN, GENEVE, MPLS, TZSP, L2TP, Teredo: inside is another packet, which some tools report instead."""
ETHERNET_HEADER_BYTES = 14
SEARCHED_BYTES = 160
"""Where the headers inside a tunnel lie."""


@dataclass(frozen=True)
class Tolerance:
    """What a tool may differ in, and why.

    Attributes:
        packets: least share of the packets whose flow has exactly the reference's packets.
        octets: least share of them whose flow has the reference's bytes, too; 0 where the tool gives none.
        frames: the tool's bytes are those of whole frames, with Ethernet's header and padding.
        reason: of shares below one.
    """

    packets: float = 1.0
    octets: float = 1.0
    frames: bool = False
    reason: str = ""


def key_of(protocol: int, first: EndPoint, second: EndPoint) -> Key:
    """The same for both directions."""
    return (protocol, first, second) if first <= second else (protocol, second, first)


def add(table: Table, key: Key, packets: int, octets: int, framed: int = 0) -> None:
    """To what the table has of the flow."""
    entry = table.setdefault(key, [0, 0, 0])
    entry[0] += packets
    entry[1] += octets
    entry[2] += framed


def reference(path: Path) -> Table:
    """The plain flows of a capture, by dpkt."""
    table: Table = {}
    odd: set[Key] = set()
    others: list[bytes] = []
    with path.open("rb") as file:
        for _, packet in dpkt.pcap.UniversalReader(file):
            found = _plain(packet)
            if found is None:
                others.append(packet)
                continue
            key, octets = found
            add(table, key, 1, octets, len(packet))
            if octets < 0:
                odd.add(key)
            if octets < 0 or _tunnelled(key):
                others.append(packet)
    odd |= _inside(others, table)
    return {key: counts for key, counts in table.items() if key not in odd and not _tunnelled(key)}


def _inside(packets: Iterable[bytes], table: Table) -> set[Key]:
    """Flows whose two addresses lie behind one another anywhere near the start of one of the packets."""
    pairs: dict[bytes, list[Key]] = {}
    for key in table:
        first, second = (
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address, _ in key[1:]
        )
        for pair in (first + second, second + first):
            pairs.setdefault(pair, []).append(key)
    found: set[Key] = set()
    for packet in packets:
        for size in (8, 32):
            for at in range(min(len(packet), SEARCHED_BYTES) - size + 1):
                found.update(pairs.get(packet[at : at + size], ()))
    return found


def _tunnelled(key: Key) -> bool:
    return not TUNNEL_PORTS.isdisjoint((key[1][1], key[2][1]))


def _plain(packet: bytes) -> tuple[Key, int] | None:
    """Key and bytes of a packet; bytes are -1 when its flow is not plain, None when it has no 5-tuple at all."""
    try:
        frame = dpkt.ethernet.Ethernet(packet)
        ip = frame.data
        if isinstance(ip, dpkt.ip.IP):
            octets, protocol, family = ip.len, ip.p, socket.AF_INET
            whole = not ip.mf and not ip.offset and ip.len >= ip.hl * 4
        elif isinstance(ip, dpkt.ip6.IP6):
            octets, protocol, family = ip.plen + 40, ip.nxt, socket.AF_INET6
            whole = True
        else:
            return None
        ports = ip.data
        if protocol not in (TCP, UDP) or not isinstance(ports, dpkt.tcp.TCP | dpkt.udp.UDP):
            return None
        ends = (socket.inet_ntop(family, ip.src), ports.sport), (socket.inet_ntop(family, ip.dst), ports.dport)
    except (dpkt.UnpackError, AttributeError, IndexError):
        return None
    whole = whole and octets <= len(packet) - ETHERNET_HEADER_BYTES and _sound(ports, octets, ip)
    return key_of(protocol, *ends), octets if whole else -1


def _sound(ports: Any, octets: int, ip: Any) -> bool:
    header = ip.hl * 4 if isinstance(ip, dpkt.ip.IP) else 40
    if isinstance(ports, dpkt.tcp.TCP):
        return bool(20 <= ports.off * 4 <= octets - header)
    return bool(8 <= ports.ulen <= octets - header)


def compare(found: Table, wanted: Table, tolerance: Tolerance) -> Measures:
    """Shares of the reference's packets that are in flows equal in packets, and in bytes. Raises Wrong below the
    tolerance."""
    total = sum(counts[0] for counts in wanted.values())
    column = 2 if tolerance.frames else 1
    same_packets = same_octets = 0
    different = ""
    for key, counts in wanted.items():
        other = found.get(key)
        if other is not None and other[0] == counts[0]:
            same_packets += counts[0]
            same_octets += counts[0] * (other[1] == counts[column])
        if other is None or other[0] != counts[0]:
            different = different or f", e.g. {key}: {other} instead of {counts}"
    shares = {
        "reference_flows": len(wanted),
        "equal_packets_ratio": same_packets / total,
        "equal_octets_ratio": same_octets / total,
    }
    if shares["equal_packets_ratio"] < tolerance.packets or shares["equal_octets_ratio"] < tolerance.octets:
        raise Wrong(
            f"flows equal in packets {shares['equal_packets_ratio']:.4f}, in bytes {shares['equal_octets_ratio']:.4f} "
            f"of the packets{different}"
        )
    return shares


# -- what each tool writes ----------------------------------------------------------------------
def from_streamspec(path: Path) -> Table:
    """Lines of ``meter``."""
    table: Table = {}
    for line in path.read_bytes().splitlines():
        flow = json.loads(line)
        if flow["protocolIdentifier"] in (TCP, UDP):
            version = "IPv4" if "sourceIPv4Address" in flow else "IPv6"
            first = flow[f"source{version}Address"], flow["sourceTransportPort"]
            second = flow[f"destination{version}Address"], flow["destinationTransportPort"]
            packets = flow["packetDeltaCount"] + flow["reversePacketDeltaCount"]
            octets = flow["octetDeltaCount"] + flow["reverseOctetDeltaCount"]
            add(table, key_of(flow["protocolIdentifier"], first, second), packets, octets)
    return table


def from_rows(path: Path) -> Table:
    """``protocol,address,port,address,port,packets,bytes``, as the Python peers write them."""
    return _from_csv(path, (0, 1, 2, 3, 4), lambda row: (int(row[5]), int(row[6])))


def from_pmacct(path: Path) -> Table:
    """The ``print`` plugin's CSV, without its first line."""
    return _from_csv(path, (4, 0, 2, 1, 3), lambda row: (int(row[5]), int(row[6])))


def from_ndpi(path: Path) -> Table:
    """ndpiReader's CSV; its bytes are those of whole frames."""

    def counts(row: list[str]) -> tuple[int, int]:
        return int(row[12]) + int(row[15]), int(row[13]) + int(row[16])

    return _from_csv(path, (1, 5, 6, 7, 8), counts)


def _from_csv(
    path: Path, columns: tuple[int, int, int, int, int], counts: Callable[[list[str]], tuple[int, int]]
) -> Table:
    table: Table = {}
    protocol, source, source_port, destination, destination_port = columns
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.reader(file):
            if len(row) > max(columns) and row[protocol] in PROTOCOLS:
                first = _address(row[source]), int(row[source_port])
                second = _address(row[destination]), int(row[destination_port])
                add(table, key_of(PROTOCOLS[row[protocol]], first, second), *counts(row))
    return table


def from_suricata(path: Path) -> Table:
    """``flow`` events; bytes are those of whole frames."""
    table: Table = {}
    for line in path.read_bytes().splitlines():
        event: Mapping[str, Any] = json.loads(line)
        if event["event_type"] == "flow" and event["proto"].lower() in PROTOCOLS and "src_port" in event:
            flow = event["flow"]
            packets = flow["pkts_toserver"] + flow["pkts_toclient"]
            octets = flow["bytes_toserver"] + flow["bytes_toclient"]
            first = _address(event["src_ip"]), event["src_port"]
            second = _address(event["dest_ip"]), event["dest_port"]
            add(table, key_of(PROTOCOLS[event["proto"].lower()], first, second), packets, octets)
    return table


def from_tshark_file(path: Path) -> Table:
    """What ``tshark -z conv,tcp -z conv,udp`` printed."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return from_tshark(file)


def from_tshark(lines: Iterable[str]) -> Table:
    """``conv`` tables. Their bytes are rounded to kilobytes and megabytes, so they are not taken."""
    table: Table = {}
    protocol = 0
    for line in lines:
        if line.startswith(("TCP Conv", "UDP Conv")):
            protocol = PROTOCOLS[line[:3].lower()]
            continue
        words = line.split()
        if len(words) > 9 and words[1] == "<->":
            ends = [word.rpartition(":") for word in (words[0], words[2])]
            first, second = ((_address(address), int(port)) for address, _, port in ends)
            add(table, key_of(protocol, first, second), int(words[9]), 0)
    return table


def _address(text: str) -> str:
    if ":" not in text:
        return text
    with suppress(ValueError):  # nDPI shortens some in two places, which is no address
        return str(ipaddress.IPv6Address(text.strip("[]")))
    return text
