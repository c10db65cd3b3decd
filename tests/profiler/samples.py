"""Messages of every type and packets around them, made here."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import struct

import lz4.frame
import zstandard

from streamspec.core.segment import LINK_ETHERNET


def dns_query(name: str = "www.example.org", kind: int = 1) -> bytes:
    """A query as RFC 1035 has it."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def dns_answer() -> bytes:
    """A response with one address."""
    query = bytearray(dns_query())
    query[2:8] = struct.pack(">HHH", 0x8180, 1, 1)
    return bytes(query) + b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 300, 4) + bytes([192, 0, 2, 1])


def tls_record(size: int = 300, kind: int = 23) -> bytes:
    """An encrypted record."""
    return bytes([kind, 3, 3]) + struct.pack(">H", size) + random.Random(1).randbytes(size)


def quic_initial(version: int = 1) -> bytes:
    """A long header and what follows it."""
    noise = random.Random(2)
    header = bytes([0xC3]) + struct.pack(">I", version) + bytes([8]) + noise.randbytes(8) + bytes([0])
    return header + noise.randbytes(1180)


def varint(value: int) -> bytes:
    """Base-128, as protobuf has it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def protobuf(fields: list[int | bytes | float]) -> bytes:
    """A message with fields 1, 2, 3 and so on."""
    out = bytearray()
    for number, value in enumerate(fields, 1):
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return bytes(out)


_TEXT = b"the quick brown fox jumps over the lazy dog; " * 40
_CSV = b"time,host,value,unit\n" + b"".join(b"%d,host-%d,%d,ms\n" % (1700000000 + i, i % 7, i * i) for i in range(40))
_JSON = json.dumps([{"id": i, "name": f"sensor {i}", "value": i / 7, "ok": i % 3 == 0} for i in range(30)]).encode()

MESSAGES: dict[str, list[bytes]] = {
    "tls": [
        tls_record(),
        tls_record(size=512, kind=22),
        b"\x17\xfe\xfd" + bytes(8) + b"\x00\x40" + random.Random(3).randbytes(64),
    ],
    "quic": [quic_initial(), quic_initial(0x6B3343CF), quic_initial(0xFF00001D)],
    "ssh": [b"SSH-2.0-OpenSSH_9.6\r\n"],
    "dns": [dns_query(), dns_answer(), struct.pack(">H", len(dns_query())) + dns_query(), dns_query("_x._tcp.local")],
    "http": [
        b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"POST /api HTTP/1.1\r\nHost: example.org\r\n\r\n{}",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\r\n",
    ],
    "json": [
        _JSON,
        _JSON[200:1200],
        b'{"a":1}',
        b"[1, 2.5, -3e4]",
        b' \n{ "nested": {"x": []}}',
        b"[]",
        b"{}",
        b"[-1]",
    ],
    "csv": [
        _CSV,
        _CSV[30:],
        b"a;b;c\n1;2;3\n4;5;6",
        b"1\t2\n3\t4\n5\t6\n7\t8\n",
        (b"x" * 50 + b",") * 3 + b"\n1,2,3,4\n",
    ],
    "syslog": [
        b"<34>1 2003-10-11T22:14:15.003Z host su - ID47 - 'su root' failed",
        b"<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
        b"41 <34>1 2003-10-11T22:14:15.003Z host su - - hi",
        b"Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick",
    ],
    "protobuf": [protobuf([150, b"testing", 3.5, 1 << 40, b"\x00\x01\x02"]), protobuf([7, b"\xff" * 40])],
    "compressed": [
        gzip.compress(_TEXT),
        zstandard.ZstdCompressor().compress(_TEXT),
        lz4.frame.compress(_TEXT),
        lzma.compress(_TEXT),
        bz2.compress(_TEXT),
    ],
    "image": [
        b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(40),
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"GIF89a\x10\x00\x10\x00",
        b"RIFF\x24\x00\x00\x00WEBPVP8 ",
    ],
    "executable": [
        b"\x7fELF\x02\x01\x01" + bytes(57),
        b"MZ\x90\x00" + bytes(56) + struct.pack("<I", 128) + bytes(64) + b"PE\0\0",
        b"#!/bin/sh\necho\n",
    ],
    "padding": [bytes(64), b"\xff" * 500, b"X" * 16],
    "unknown": [
        random.Random(4).randbytes(400),
        b"plain words, and nothing else",
        b"x",
        b"[INFO] started at 10:00",
        b"[2024-01-01 10:00] up",
        b"<999>not a priority",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"MZ",
        bytes(15),
        _TEXT,
    ],
}
"""Messages by the type that is to be inferred."""


def udp4(payload: bytes, ports: tuple[int, int] = (40000, 9000)) -> bytes:
    """An IPv4 packet with UDP."""
    udp = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
    return ipv4(udp, 17)


def ipv4(payload: bytes, protocol: int, *, options: bytes = b"", fragment: int = 0) -> bytes:
    """An IPv4 packet."""
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 1, fragment, 64, protocol, 0)
    return head + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + options + payload


def tcp(payload: bytes, ports: tuple[int, int] = (40000, 9000), options: bytes = b"") -> bytes:
    """A TCP segment."""
    offset = (20 + len(options)) // 4
    return struct.pack(">HHIIBBHHH", *ports, 1, 1, offset << 4, 0x18, 1000, 0, 0) + options + payload


def ipv6(payload: bytes, following: int) -> bytes:
    """An IPv6 packet."""
    return struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + payload


def ethernet(payload: bytes, kind: int = 0x0800, tags: bytes = b"") -> bytes:
    """An Ethernet frame, filled up to 60 bytes as the link would."""
    return (b"\2" * 6 + b"\4" * 6 + tags + struct.pack(">H", kind) + payload).ljust(60, b"\0")


def tcp_frame(payload: bytes, ports: tuple[int, int] = (40000, 9000)) -> bytes:
    """Ethernet, IPv4, TCP."""
    return ethernet(ipv4(tcp(payload, ports), 6))


FRAME_LINK = LINK_ETHERNET
