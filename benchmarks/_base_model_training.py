"""``make base-model``: train the base model that comes with the package, on generated traffic only.

``python -m benchmarks._base_model_training [--out FILE] [--segments N]``. Contents are those of the traffic generator's
kinds, in segments of 200 bytes to 64 KiB, of one kind or a few, with messages that repeat more or less; as messages,
and inside Ethernet, IPv4, and UDP or TCP for the stages that take packets. As many again are conversations as a capture
has them (``_generated_captures``), as packets and as the messages in them.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._generated_captures import captured_segment, talk
from loadgen.kinds import KINDS
from streamspec.config import ServiceConfig
from streamspec.core.prediction import chain_heads
from streamspec.core.segment import LINK_ETHERNET
from streamspec.profiler.profiler import Content
from streamspec.profiler.report import join_packets
from streamspec.profiles.base_model import PACKAGED, BaseModel
from streamspec.profiles.training import Samples, cross_validate, errors, fit, identity_of, margins_of
from streamspec.telemetry.logging import configure_logging
from streamspec.train_models.measuring import ChainBench

ROOT = Path(__file__).parents[1]
RULES = ROOT / "configs" / "rules" / "basic.yaml"
TARGET = ROOT / "streamspec" / "profiles" / PACKAGED
ZSTD_LEVELS, LZ4_LEVELS = (1, 3, 5, 6, 9, 12), (0, 3, 9)
SMALLEST_BYTES, LARGEST_BYTES = 200, 64 * 1024
LARGEST_MESSAGE, PACKET_BYTES = 8192, 1460


# -- generated segments -----------------------------------------------------------------------
def segment_size(rng: random.Random) -> int:
    """Between the smallest and the largest, the larger the more often."""
    size: float = SMALLEST_BYTES * (LARGEST_BYTES / SMALLEST_BYTES) ** (rng.random() ** 0.6)
    return round(size)


def segment_messages(rng: random.Random) -> list[bytes]:
    """The messages of one segment: a size, a few kinds, and a pool that they are taken from, all by chance."""
    size = segment_size(rng)
    kinds = rng.sample(list(KINDS.values()), 1 if rng.random() < 0.6 else rng.randint(2, 4))
    distinct = rng.choice((1, 4, 16, 64, 1000))
    pool: list[bytes] = []
    messages: list[bytes] = []
    while size > 0:
        if len(pool) < distinct:
            kind = rng.choice(kinds)
            natural = round(rng.lognormvariate(np.log(kind.median_bytes), kind.sigma))
            longest = min(LARGEST_MESSAGE, kind.largest_bytes)
            pool.append(kind.generate(rng, max(min(natural, longest), kind.smallest_bytes)))
            message = pool[-1]
        else:
            message = rng.choice(pool)
        if messages and len(message) > size:
            break
        messages.append(message[:LARGEST_BYTES])
        size -= len(message)
    return messages


def as_message_segment(messages: Sequence[bytes]) -> Content:
    """As the sources udp and tcp fill it."""
    packets = join_packets(messages, 0)
    return Content(packets.payload, packets.packets)


def as_packet_segment(messages: Sequence[bytes], rng: random.Random) -> Content:
    """As captured on Ethernet, with the captures' record headers left out; at most 64 KiB."""
    protocol = rng.choice((6, 17))
    flows = [(rng.randbytes(8), rng.randbytes(4)) for _ in range(rng.choice((1, 2, 8, 32)))]
    packets: list[bytes] = []
    room = LARGEST_BYTES
    for message in messages:
        for first in range(0, len(message), PACKET_BYTES):
            packet = _frame(message[first : first + PACKET_BYTES], protocol, *rng.choice(flows), rng)
            if len(packet) > room:
                return join_packets(packets, LINK_ETHERNET)
            packets.append(packet)
            room -= len(packet)
    return join_packets(packets, LINK_ETHERNET)


def _frame(body: bytes, protocol: int, addresses: bytes, ports: bytes, rng: random.Random) -> bytes:
    if protocol == 17:
        transport = ports + struct.pack(">HH", 8 + len(body), 0)
    else:
        transport = ports + struct.pack(">IIBBHHH", rng.getrandbits(32), rng.getrandbits(32), 0x50, 0x18, 8192, 0, 0)
    length = 20 + len(transport) + len(body)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, length, rng.getrandbits(16), 0x4000, 64, protocol, 0) + addresses
    return b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\0" + ip + transport + body


# -- chains -----------------------------------------------------------------------------------
def chains() -> dict[str, ServiceConfig]:
    """What is measured; every built-in stage, and levels of both codecs."""
    inspect = {"type": "inspect", "rules": [str(RULES)]}
    stages: dict[str, list[dict[str, Any]]] = {
        "messages": [inspect, {"type": "compress", "codec": "zstd", "levels": list(ZSTD_LEVELS)}],
        "messages, lz4": [{"type": "compress", "codec": "lz4", "levels": list(LZ4_LEVELS)}],
        "packets": [
            {"type": "decode"},
            {"type": "meter"},
            inspect,
            {"type": "compress", "codec": "zstd", "levels": list(ZSTD_LEVELS)},
        ],
        "packets, lz4": [{"type": "compress", "codec": "lz4", "levels": list(LZ4_LEVELS)}],
    }
    return {name: ServiceConfig.model_validate(_around(chain)) for name, chain in stages.items()}


def _around(stages: list[dict[str, Any]]) -> dict[str, Any]:
    source = {"type": "udp", "bind": "127.0.0.1:0"}
    engine = {"segment_packets": 8192}
    return {"sources": {"in": source}, "stages": stages, "sinks": {"out": {"type": "null"}}, "engine": engine}


def generate(count: int, seed: int) -> dict[str, list[Content]]:
    """Segments of messages and the same contents in packets; half of them, and two thirds, are of conversations."""
    rng = random.Random(seed)
    drawn = [segment_messages(rng) for _ in range(count // 2)]
    plain = drawn[: len(drawn) * 2 // 3]
    return {
        "messages": [
            *(as_message_segment(messages) for messages in drawn),
            *(as_message_segment(talk(rng, segment_size(rng))) for _ in range(count - len(drawn))),
        ],
        "packets": [
            *(as_packet_segment(messages, rng) for messages in plain),
            *(captured_segment(rng, segment_size(rng)) for _ in range(count - len(plain))),
        ],
    }


def measure_all(segments: int, repetitions: int, seed: int) -> Samples:
    """Every chain over its segments, in one table; a head that a row has not run is NaN."""
    configs = chains()
    names = tuple(
        dict.fromkeys(f"{h.target}:{h.cost_key}" for config in configs.values() for h in chain_heads(config.stages))
    )
    generated = generate(segments, seed)
    features, values, groups = [], [], []
    for chain, config in configs.items():
        contents = generated[chain.split(",")[0]]
        bench = ChainBench(config, repetitions=repetitions)
        try:
            measured = bench.measure(contents)
        finally:
            bench.close()
        wide = np.full((len(contents), len(names)), np.nan)
        wide[:, [names.index(name) for name in bench.names]] = measured.values
        features.append(measured.features)
        values.append(wide)
        groups.append(np.arange(len(contents)) // 8)  # contents do not share more than their kinds
        print(f"{chain}: {len(contents)} segments", file=sys.stderr)
    total = sum(map(len, groups))
    group = np.concatenate(groups).astype(np.int64)
    return Samples(np.concatenate(features), names, np.concatenate(values), group, np.ones(total, dtype=bool))


def train(samples: Samples, seed: int) -> BaseModel:
    """The model, its margins and metrics from cross-validation."""
    guesses = cross_validate(samples, folds=3)
    metrics = {name: errors(samples.values[:, column], guesses[:, column]) for column, name in enumerate(samples.heads)}
    kinds = ", ".join(sorted(KINDS))
    facts = {
        "identity": identity_of(samples, [kinds]),
        "traffic": f"generated: {kinds}",
        "segments": len(samples.features),
        "seed": seed,
    }
    model = fit(samples, margins=margins_of(samples, guesses))
    return replace(model, training_set=facts, metrics={"validation": "3 folds of generated segments", "heads": metrics})


def main() -> int:
    """Measure, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET, help="file to write")
    parser.add_argument("--segments", type=int, default=4000, help="generated segments of each form")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    configure_logging("error")
    samples = measure_all(arguments.segments, arguments.repetitions, arguments.seed)
    model = train(samples, arguments.seed)
    content = model.to_bytes()
    arguments.out.write_bytes(content)
    for name, found in model.metrics["heads"].items():
        print(f"{name:32s} work_error {found['work_error']:.3f}  r2_log {found['r2_log']:.3f}")
    print(f"{arguments.out}: {len(content)} bytes, {len(model.heads)} heads, {len(samples.features)} segments")
    return 0


if __name__ == "__main__":
    sys.exit(main())
