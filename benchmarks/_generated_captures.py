"""Generated segments of captured packets: conversations of hosts that are made up, with headers as stacks write them.

Captures of real networks are mostly small packets: most of their bytes are headers that hardly differ from the last
ones of the same flow (addresses, ports, counters), and bodies of control protocols that hardly differ either. That is
what compression spends its time on, so contents alone would not do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from loadgen.kinds import KINDS
from loadgen.kinds.words import WORDS
from streamspec.core.segment import LINK_ETHERNET
from streamspec.profiler.profiler import Content
from streamspec.profiler.report import join_packets

Body = Callable[[Random], bytes]


# -- what applications say --------------------------------------------------------------------
def of_kind(rng: Random) -> Body:
    """Messages of one of the generator's kinds."""
    kind = rng.choice(list(KINDS.values()))
    pool: list[bytes] = []
    distinct = rng.choice((1, 4, 16, 1000))

    def body(rng: Random) -> bytes:
        if len(pool) >= distinct:
            return rng.choice(pool)
        natural = round(kind.median_bytes * 2.718 ** rng.gauss(0, kind.sigma))
        pool.append(kind.generate(rng, max(min(natural, 8192, kind.largest_bytes), kind.smallest_bytes)))
        return pool[-1]

    return body


def polling(rng: Random) -> Body:
    """A binary control protocol: a few layouts, in which counters count and readings wander."""
    layouts = [bytearray(_layout(rng)) for _ in range(rng.choice((1, 2, 4, 12)))]
    fields = [[(rng.randrange(len(one)), rng.choice("ccwwr")) for _ in range(rng.randint(1, 8))] for one in layouts]
    turn = [0]

    def body(rng: Random) -> bytes:
        which = turn[0] % len(layouts)
        turn[0] += 1
        layout = layouts[which]
        for place, what in fields[which]:
            if what == "c":
                struct.pack_into(">H", layout, min(place, len(layout) - 2), turn[0] & 0xFFFF)
            elif what == "w":
                layout[place] = (layout[place] + rng.choice((-1, 0, 0, 1))) & 0xFF
            else:
                layout[place] = rng.getrandbits(8)
        return bytes(layout)

    return body


def _layout(rng: Random) -> bytes:
    size = round(8 * 2.718 ** abs(rng.gauss(1, 1.1)))
    size = min(max(size, 4), 1400)
    few = rng.randbytes(rng.choice((2, 8, 40)))
    return bytes(0 if rng.random() < 0.5 else rng.choice(few) for _ in range(size))


def encrypted(rng: Random) -> Body:
    """Records of random bytes behind a short header with a counter: TLS, VPN, media."""
    header, largest, count = rng.randbytes(rng.choice((3, 5, 12, 16))), rng.choice((64, 300, 1400)), [0]

    def body(rng: Random) -> bytes:
        count[0] += 1
        size = largest if rng.random() < 0.5 else rng.randint(16, largest)
        return header + struct.pack(">I", count[0]) + rng.randbytes(size)

    return body


def commands(rng: Random) -> Body:
    """Lines of a text protocol such as FTP, SMTP or SIP, some with headers or paths."""
    verbs = rng.sample(WORDS, min(6, len(WORDS)))
    longest = rng.choice((3, 8, 40))

    def body(rng: Random) -> bytes:
        if rng.random() < 0.5:
            line = f"{rng.randrange(100, 600)} {' '.join(rng.choices(WORDS, k=rng.randint(1, longest)))}\r\n"
        else:
            line = f"{rng.choice(verbs).upper()} {'/'.join(rng.choices(WORDS, k=rng.randint(0, 4)))}\r\n"
        return line.encode()

    return body


def files(rng: Random) -> Body:
    """Pieces of files with more or less in them: what came before again, of any length and distance, and new bytes of
    a skewed alphabet, as in tables, programs and raw images."""
    alphabet = rng.randbytes(rng.choice((4, 16, 64, 256)))
    weights = list(accumulate((place + 1) ** -rng.choice((0.0, 0.7, 1.5)) for place in range(len(alphabet))))
    copied, longest, furthest = rng.uniform(0.0, 0.9), rng.choice((6, 16, 80)), rng.choice((256, 4096, 65536))
    literals, piece = rng.choice((2, 6, 24)), rng.choice((1440, 8192, 16384))
    past = bytearray(rng.choices(alphabet, cum_weights=weights, k=64))

    def body(rng: Random) -> bytes:
        first = len(past)
        while len(past) < first + piece:
            if rng.random() < copied:
                start = max(len(past) - 1 - int(furthest ** rng.random()), 0)
                past.extend(past[start : start + rng.randint(3, longest)])
            else:
                past.extend(rng.choices(alphabet, cum_weights=weights, k=rng.randint(1, literals)))
        return bytes(past[first : first + piece])

    return body


def nothing(rng: Random) -> Body:
    """Bare acknowledgements and the like."""
    return lambda rng: b""


APPLICATIONS: tuple[tuple[Callable[[Random], Body], float], ...] = (
    (of_kind, 0.25),
    (polling, 0.31),
    (encrypted, 0.14),
    (commands, 0.12),
    (files, 0.12),
    (nothing, 0.06),
)


# -- how stacks send it -----------------------------------------------------------------------
@dataclass
class Flow:
    """Both directions of a conversation."""

    body: Body
    ethernet: tuple[bytes, bytes]
    addresses: tuple[bytes, bytes]
    ports: tuple[int, int]
    tcp: bool
    version_6: bool
    vlan: bytes
    timestamps: bool
    answers: float
    identification: int
    sequence: list[int] = field(default_factory=list)
    clock: int = 0
    packet_bytes: int = 1440

    def packets(self, rng: Random) -> Iterator[bytes]:
        """What the next message puts on the wire, acknowledgement included."""
        side = 1 if rng.random() < self.answers else 0
        body = self.body(rng)
        for first in range(0, max(len(body), 1), self.packet_bytes):
            yield self._packet(side, body[first : first + self.packet_bytes], rng)
        if self.tcp and rng.random() < 0.4:
            yield self._packet(1 - side, b"", rng)

    def _packet(self, side: int, body: bytes, rng: Random) -> bytes:
        transport = (self._tcp(side, body, rng) if self.tcp else self._udp(side, body, rng)) + body
        self.identification = (self.identification + 1) & 0xFFFF
        source, target = self.addresses[side], self.addresses[1 - side]
        protocol = 6 if self.tcp else 17
        if self.version_6:
            ip = struct.pack(">IHBB", 0x60000000, len(transport), protocol, 64) + source + target
        else:
            ip = struct.pack(
                ">BBHHHBBH",
                0x45,
                0,
                20 + len(transport),
                self.identification,
                0x4000,
                64 if side else 128,
                protocol,
                rng.getrandbits(16),
            )
            ip += source + target
        link = (
            self.ethernet[1 - side] + self.ethernet[side] + self.vlan + (b"\x86\xdd" if self.version_6 else b"\x08\0")
        )
        frame = link + ip + transport
        return frame if len(frame) >= 60 else frame.ljust(60, b"\0")

    def _udp(self, side: int, body: bytes, rng: Random) -> bytes:
        return struct.pack(">HHHH", self.ports[side], self.ports[1 - side], 8 + len(body), rng.getrandbits(16))

    def _tcp(self, side: int, body: bytes, rng: Random) -> bytes:
        sequence, acknowledged = self.sequence[side], self.sequence[1 - side]
        self.sequence[side] = (sequence + len(body)) & 0xFFFFFFFF
        self.clock = (self.clock + rng.randrange(40)) & 0xFFFFFFFF
        options = (
            struct.pack(">HBBII", 0x0101, 8, 10, self.clock, self.clock - 7 & 0xFFFFFFFF) if self.timestamps else b""
        )
        return (
            struct.pack(
                ">HHIIBBHHH",
                self.ports[side],
                self.ports[1 - side],
                sequence,
                acknowledged,
                (5 + len(options) // 4) << 4,
                0x18 if body else 0x10,
                rng.choice((8192, 8191, 8190)),
                rng.getrandbits(16),
                0,
            )
            + options
        )


def new_flow(rng: Random, body: Body, network: bytes, hardware: bytes) -> Flow:
    """A conversation of two hosts of one network."""
    version_6 = rng.random() < 0.12
    size = 16 if version_6 else 4
    prefix = (network * 4)[: size - 2]
    ends = (prefix + rng.randbytes(2), prefix + rng.randbytes(2) if rng.random() < 0.6 else rng.randbytes(size))
    return Flow(
        body,
        (hardware + rng.randbytes(3), hardware + rng.randbytes(3)),
        ends,
        (rng.choice((53, 80, 102, 443, 502, 2404, 5683, 20000)), rng.randrange(32768, 65536)),
        rng.random() < 0.65,
        version_6,
        b"\x81\0\0" + rng.randbytes(1) if rng.random() < 0.1 else b"",
        rng.random() < 0.4,
        rng.choice((0.0, 0.3, 0.5)),
        rng.getrandbits(16),
        [rng.getrandbits(32), rng.getrandbits(32)],
        rng.getrandbits(31),
        rng.choice((1440, 1440, 1440, 9000, 16000)),  # the last two as network cards hand over joined segments
    )


def captured_segment(rng: Random, size: int) -> Content:
    """About ``size`` bytes of captured frames: a few flows of one or a few applications, in turns."""
    applications, weights = zip(*APPLICATIONS, strict=True)
    count = rng.choice((1, 1, 2, 4, 16))
    bodies = [one(rng) for one in rng.choices(applications, weights, k=rng.choice((1, 1, 2, 3)))]
    network, hardware = rng.randbytes(4), rng.randbytes(3)
    flows = [new_flow(rng, rng.choice(bodies), network, hardware) for _ in range(count)]
    new_ones = rng.choice((0.0, 0.0, 0.05, 0.3, 0.9))
    packets: list[bytes] = []
    while size > 0:
        if rng.random() < new_ones:
            flows[rng.randrange(len(flows))] = new_flow(rng, rng.choice(bodies), network, hardware)
        for packet in rng.choice(flows).packets(rng):
            if packets and len(packet) > size:
                return join_packets(packets, LINK_ETHERNET)
            packets.append(packet)
            size -= len(packet)
    return join_packets(packets, LINK_ETHERNET)


def talk(rng: Random, size: int) -> list[bytes]:
    """About ``size`` bytes of what applications say, without headers."""
    applications, weights = zip(*APPLICATIONS[:-1], strict=True)
    bodies = [one(rng) for one in rng.choices(applications, weights, k=rng.choice((1, 1, 2, 3)))]
    messages: list[bytes] = []
    while size > 0:
        message = rng.choice(bodies)(rng)
        if messages and len(message) > size:
            break
        messages.append(message)
        size -= len(message)
    return messages
