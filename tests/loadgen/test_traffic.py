"""Kinds differ as real ones do, arrivals have their rates, scenarios are refused with their place."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections import Counter
from pathlib import Path

import dpkt
import numpy as np
import pytest

from loadgen.errors import ScenarioError, UsageError
from loadgen.kinds import KINDS
from loadgen.pool import scenario_pool
from loadgen.scenario import Rate, load_scenario, parse_scenario, scenario_names
from loadgen.schedule import scenario_blocks

SCENARIO = """
name: test
seed: 5
phases:
  - name: one
    seconds: {seconds}
    rate: {{messages_per_second: 2000}}
    arrivals: {arrivals}
    mix: {{dns: 1, syslog: 3}}
    keys: {{count: 8, skew: {skew}}}
pool: {{messages: 64}}
"""


def _entropy(content: bytes) -> float:
    return -sum(n / len(content) * math.log2(n / len(content)) for n in Counter(content).values())


def _sample(kind: str) -> bytes:
    rng = random.Random(3)
    return b"".join(KINDS[kind].generate(rng, 600) for _ in range(40))


def test_kinds_lie_apart_in_entropy_and_compressibility() -> None:
    entropy = {kind: _entropy(_sample(kind)) for kind in KINDS}
    ratio = {kind: len(zlib.compress(_sample(kind))) / len(_sample(kind)) for kind in KINDS}
    for kind in ("tls", "media", "compressed"):
        assert entropy[kind] > 7.0
        assert ratio[kind] > 0.8
    for kind in ("http", "json", "syslog"):
        assert 4.0 < entropy[kind] < 6.2
        assert ratio[kind] < 0.6
    assert entropy["padding"] < 3
    assert ratio["padding"] < 0.05
    assert ratio["sensor"] < ratio["tls"]


def test_what_is_generated_is_what_it_says() -> None:
    rng = random.Random(4)
    for _ in range(20):
        json.loads(KINDS["json"].generate(rng, 400))
        assert dpkt.dns.DNS(KINDS["dns"].generate(rng, 200)).qd
        content = KINDS["tls"].generate(rng, 900)
        while content:
            record = dpkt.ssl.TLSRecord(content)
            assert record.type in (20, 21, 22, 23)
            content = content[5 + record.length :]
        assert KINDS["syslog"].generate(rng, 200).startswith(b"<")
        assert b"HTTP/1.1" in KINDS["http"].generate(rng, 400)


def _messages(text: str) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    scenario = parse_scenario(text, "test")
    pool = scenario_pool(scenario, marker_bytes=0, largest_bytes=1400, lines=False)
    blocks = list(scenario_blocks(scenario, pool, marker_bytes=0))
    memory, offsets, lengths = pool.pool.memory, pool.pool.offsets, pool.pool.lengths
    first = [memory[offsets[m] : offsets[m] + lengths[m]].tobytes() for m in blocks[0].messages[:50]]
    return np.concatenate([b.times_ns for b in blocks]), np.concatenate([b.keys for b in blocks]), first


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "{process: bursts}", "{process: diurnal}"])
def test_arrivals_have_the_mean_rate_and_their_burstiness(arrivals: str) -> None:
    times, _, _ = _messages(SCENARIO.format(seconds=60, arrivals=arrivals, skew=0))
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 60e9
    assert len(times) == pytest.approx(120_000, rel=0.25 if "bursts" in arrivals else 0.03)
    counts = np.bincount((times // 100_000_000).astype(int), minlength=600)
    dispersion = counts.var() / counts.mean()
    if arrivals == "constant":
        assert dispersion < 0.05
    elif arrivals == "poisson":
        assert 0.7 < dispersion < 1.3
    else:
        assert dispersion > 5


def test_skewed_keys_are_used_by_zipfs_law() -> None:
    _, keys, _ = _messages(SCENARIO.format(seconds=20, arrivals="poisson", skew=1))
    counts = np.bincount(keys, minlength=8)
    assert (np.diff(counts) < 0).all()
    assert counts[0] / counts[3] == pytest.approx(4, rel=0.15)


def test_a_seed_decides_everything() -> None:
    text = SCENARIO.format(seconds=2, arrivals="poisson", skew=1)
    one, two, other = _messages(text), _messages(text), _messages(text.replace("seed: 5", "seed: 6"))
    assert (one[0] == two[0]).all()
    assert one[2] == two[2]
    assert one[2] != other[2]


def test_the_scenarios_that_come_along_load_and_can_be_adapted() -> None:
    assert {"mixed", "shift", "burst", "diurnal"} <= set(scenario_names())
    for name in scenario_names():
        scenario = load_scenario(name).adapted(seconds=3, rate=Rate(messages_per_second=10), keys=2, seed=9)
        assert scenario.seconds == pytest.approx(3)
        assert (scenario.key_count, scenario.seed) == (2, 9)
    shift = load_scenario("shift")
    assert len({phase.rate.bytes_per_second for phase in shift.phases}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("syslog: 3", r"test:\d+:\d+: .*no kind 'syslo'"),
        ("seconds: 2", r"test:\d+:\d+"),
        ("skew: 1", r"test:\d+:\d+"),
    ],
)
def test_a_wrong_scenario_says_where(change: str, message: str) -> None:
    wrong = {"syslog: 3": "syslo: 3", "seconds: 2": "seconds: -2", "skew: 1": "slant: 1"}[change]
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(SCENARIO.format(seconds=2, arrivals="poisson", skew=1).replace(change, wrong), "test")


def test_an_unknown_scenario_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mixed"):
        load_scenario(str(tmp_path / "absent.yaml"))
