"""Alarms of changed costs: how many without a change, and how soon after one; on an invented shared host.

``python -m benchmarks.drift [--json] [--seeds N]``. One head, six types, a thousand outcomes a second, log noise of 0.3
with 2 % of outliers ten times longer, a host factor that wanders, stalls of 50 ms: see ``streamspec.testing.noise``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamspec.profiles.tracking_kernels import ALARMS
from streamspec.testing.noise import SHARES, Change, Host, alarms_of

TEN_MINUTES = 600_000
HOSTS = {
    "shared host": Host(),
    "waves of 0.3 s": Host(deviation=0.15, lasts=300),
    "waves of 2 s": Host(deviation=0.2, lasts=2000),
    "a stall every 5 s": Host(lasts=20, stall_every=5000),
}
FACTORS = (1.5, 1 / 1.5, 2.0, 3.0)
AT, WITHIN = 100_000, 300


def without_change(seeds: int) -> Iterator[dict[str, Any]]:
    """Alarms in ten minutes in which nothing changes."""
    for name, host in HOSTS.items():
        counts = [int(np.count_nonzero(alarms_of(host, TEN_MINUTES, seed)[0] & ALARMS)) for seed in range(seeds)]
        yield {
            "what": "false alarms in ten minutes",
            "how": name,
            "mean": round(float(np.mean(counts)), 2),
            "most": max(counts),
        }


def after_change(seeds: int) -> Iterator[dict[str, Any]]:
    """Segments of the changed type until the alarm."""
    for name in ("shared host", "waves of 0.3 s"):
        for factor in FACTORS:
            delays = [_delay(HOSTS[name], seed, group, factor) for seed in range(seeds) for group in range(len(SHARES))]
            yield {
                "what": "segments of the type until the alarm",
                "how": f"{name}, {factor:.2f} times the cost",
                "median": float(np.median(delays)),
                "found_within_300": round(float(np.mean(np.array(delays) <= WITHIN)), 3),
            }


def _delay(host: Host, seed: int, group: int, factor: float) -> int:
    count = AT + round((WITHIN + 100) / SHARES[group])
    said, groups = alarms_of(host, count, seed, Change(AT, group, factor))
    rang = np.flatnonzero(said[AT:] & ALARMS)
    return int(np.count_nonzero(groups[AT : AT + rang[0] + 1] == group)) if len(rang) else 1 << 30


def main() -> None:
    """Measure and print, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    for results in (without_change(options.seeds), after_change(options.seeds)):
        for result in results:
            print(json.dumps(result) if options.json else "  ".join(f"{k}={v}" for k, v in result.items()), flush=True)


if __name__ == "__main__":
    main()
