"""Records of job A: packets of real captures, and real documents in packets, of 200 B to 64 KiB; most are light.

Where there are no captures (``STREAMSPEC_CAPTURES``), content comes from the load generator.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.proof.job_a_work import MARK, Work

SHARED = Path(__file__).parents[3] / "shared"
LARGEST_BYTES = 65_536 - MARK.size
SMALLEST_BYTES = 200
HEAVY_BYTES = 16_384
"""Records from this size on are heavy."""
HEAVY_SHARE = 0.1
BODIES = 600
LIGHT_KEYS, HEAVY_KEYS = 48, 8
PARTITIONS = 4
_SEGMENT_BYTES = 1400


@dataclass(frozen=True)
class Body:
    """What a record says behind its mark."""

    content: bytes
    key: bytes
    partition: int

    @property
    def heavy(self) -> bool:
        return len(self.content) >= HEAVY_BYTES


@dataclass
class Traffic:
    """A pool of bodies from which records are made; the same seed makes the same ones.

    Attributes:
        source: where the content is from, for the report.
    """

    seed: int
    source: str = ""
    bodies: list[Body] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        packets = _packets()
        self.source = "captures" if packets else "loadgen"
        streams = packets + _documents()
        for index in range(BODIES):
            heavy = index < BODIES * HEAVY_SHARE
            size = rng.randint(HEAVY_BYTES + 2000, LARGEST_BYTES) if heavy else _light_size(rng)
            number = rng.randrange(HEAVY_KEYS if heavy else LIGHT_KEYS)
            key = b"%s-%d" % (b"heavy" if heavy else b"light", number)
            self.bodies.append(Body(_cut(rng, streams, size), key, number % PARTITIONS))
        rng.shuffle(self.bodies)

    @cached_property
    def expected(self) -> list[bytes]:
        """What the bare function makes of each body, without the mark."""
        work = Work()
        return [work(MARK.pack(0, 0) + body.content)[MARK.size :] for body in self.bodies]

    @cached_property
    def heaviest(self) -> list[int]:
        """Indices of the heavy bodies."""
        return [index for index, body in enumerate(self.bodies) if body.heavy]

    def body_of(self, number: int) -> int:
        """Index of the body that record ``number`` has."""
        return (number * 2_654_435_761 + self.seed) % 2**32 % len(self.bodies)

    def bytes_of(self, count: int) -> int:
        """Bytes of the first ``count`` records."""
        return sum(MARK.size + len(self.bodies[self.body_of(number)].content) for number in range(count))


def _light_size(rng: random.Random) -> int:
    return min(int(SMALLEST_BYTES * 2 ** (rng.random() * 4.6)), 4800)


def _cut(rng: random.Random, streams: list[list[bytes]], size: int) -> bytes:
    """Consecutive packets of one stream, each behind its length, as many as fit in ``size``; the first in any case
    the smallest that is found there."""
    made: list[bytes] = []
    filled = 0
    while not made or size - filled > 600:
        stream = rng.choice(streams)
        for packet in _from(stream, rng.randrange(len(stream))):
            if len(packet) > 4 * SMALLEST_BYTES and not made and size < len(packet):
                continue
            if filled + len(packet) + 4 > size:
                break
            made.append(struct.pack(">I", len(packet)) + packet)
            filled += len(packet) + 4
    content = b"".join(made)
    if len(content) < SMALLEST_BYTES - MARK.size:
        pad = bytes(SMALLEST_BYTES - MARK.size - len(content))
        content += struct.pack(">I", len(pad)) + pad
    return content


def _from(stream: list[bytes], first: int) -> Iterator[bytes]:
    yield from stream[first:]
    yield from stream[:first]


def _folder() -> Path:
    return Path(os.environ.get("STREAMSPEC_CAPTURES", SHARED / "pcaps"))


def _packets() -> list[list[bytes]]:
    """Packets of the Ethernet captures in the classic format, by capture."""
    found = []
    for path in sorted(_folder().glob("*.pcap")) if _folder().is_dir() else []:
        content = path.read_bytes()[: 4 << 20]
        if content[:4] not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") or content[20:22] != b"\x01\x00":
            continue
        packets, at = [], 24
        while at + 16 <= len(content):
            size = struct.unpack_from("<I", content, at + 8)[0]
            if 14 <= size <= 9000 and at + 16 + size <= len(content):
                packets.append(content[at + 16 : at + 16 + size])
            at += 16 + size
        if len(packets) >= 20:
            found.append(packets)
    return found


def _documents() -> list[list[bytes]]:
    """Real documents (or generated traffic) as segments of TCP."""
    folder = _folder().parent / "payloads"
    contents = [path.read_bytes() for path in sorted(folder.glob("*__*"))] if folder.is_dir() else []
    if not contents:
        from loadgen.pool import scenario_pool
        from loadgen.scenario import load_scenario

        pool = scenario_pool(load_scenario("mixed"), marker_bytes=0, largest_bytes=1 << 20, lines=False).pool
        memory = pool.memory.tobytes()
        contents = [memory[at : at + 100_000] for at in range(0, min(len(memory), 8 << 20), 100_000)]
    return [
        [_tcp(content[at : at + _SEGMENT_BYTES], at) for at in range(0, len(content), _SEGMENT_BYTES)]
        for content in contents
    ]


def _tcp(payload: bytes, sequence: int) -> bytes:
    ethernet = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0"
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 0, 0x4000, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    tcp = struct.pack(">HHIIBBHHH", 40_000, 80, sequence, 0, 0x50, 0x18, 65_535, 0, 0)
    return ethernet + ip + tcp + payload
