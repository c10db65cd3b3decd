"""JSON telemetry: one object per message, the same names again and again with changing numbers."""

from __future__ import annotations

import json
from random import Random

from loadgen.kinds.kind import Kind
from loadgen.kinds.words import WORDS, hexadecimal, text

_UNITS = {"temperature": "C", "pressure": "kPa", "voltage": "V", "current": "A", "humidity": "%", "flow": "l/min"}
_SHORTEST = b'{"v":""}'


def generate(rng: Random, size: int) -> bytes:
    """One JSON object; a last field of text fills it up to ``size``."""
    report = {
        "device": f"dev-{rng.randrange(5000):05d}",
        "timestamp": f"2024-05-{rng.randrange(1, 29):02d}T{rng.randrange(24):02d}:{rng.randrange(60):02d}:"
        f"{rng.randrange(60):02d}.{rng.randrange(1000):03d}Z",
        "sequence": rng.randrange(10**6),
        "site": rng.choice(WORDS[40:70]),
        "trace": hexadecimal(rng, 16),
        "ok": rng.random() < 0.97,
        "readings": [],
    }
    head = json.dumps(report, separators=(",", ":"))[:-2]
    parts: list[str] = []
    have = len(head) + len('],"note":""}')
    while have < size:
        part = _reading(rng)
        if have + len(part) + 1 > size:
            break
        parts.append(part)
        have += len(part) + (1 if len(parts) > 1 else 0)
    whole = f'{head}{",".join(parts)}],"note":"'
    if len(whole) + 2 > size:
        whole = '{"v":"'
    return (whole + text(rng, size - len(whole) - 2) + '"}').encode()


def _reading(rng: Random) -> str:
    name = rng.choice(tuple(_UNITS))
    quality = rng.choices(("good", "uncertain", "bad"), (95, 4, 1))[0]
    return (
        f'{{"name":"{name}","value":{rng.gauss(50, 12):.3f},"unit":"{_UNITS[name]}",'
        f'"quality":"{quality}","min":{rng.uniform(0, 20):.2f},"max":{rng.uniform(80, 99):.2f}}}'
    )


KIND = Kind("json", generate, len(_SHORTEST), 420, 0.6, "JSON telemetry of devices")
