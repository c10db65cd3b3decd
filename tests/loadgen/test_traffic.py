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


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_a_rate_in_bytes_is_met_whatever_the_content(arrivals: str) -> None:
    rate = "rate: {bytes_per_second: 1 MB}"
    for mix in ("{padding: 1}", "{dns: 1, http: 4}"):
        text = SCENARIO.format(seconds=20, arrivals=arrivals, skew=0)
        text = text.replace("rate: {messages_per_second: 2000}", rate).replace("{dns: 1, syslog: 3}", mix)
        scenario = parse_scenario(text, "test")
        pool = scenario_pool(scenario, marker_bytes=64, largest_bytes=1400, lines=False)
        blocks = list(scenario_blocks(scenario, pool, marker_bytes=64))
        sizes = np.concatenate([b.pool.lengths[b.messages] + 64 for b in blocks])
        seconds = np.concatenate([b.times_ns for b in blocks]) / 1e9
        assert sizes.sum() == pytest.approx(20e6, rel=0.001 if arrivals == "constant" else 0.03)
        if arrivals == "constant":  # each gap is what the message before takes at that rate
            np.testing.assert_allclose(np.diff(seconds), sizes[:-1] / 1e6, atol=2e-9)


def test_fixed_bursts_are_on_and_off_and_keep_the_mean() -> None:
    arrivals = "{process: bursts, on_seconds: 0.25, off_seconds: 0.75, off_share: 0.1, fixed: true}"
    times, _, _ = _messages(SCENARIO.format(seconds=40, arrivals=arrivals, skew=0))
    on = (times % 1_000_000_000) < 250_000_000
    assert len(times) == pytest.approx(80_000, rel=0.02)
    assert on.sum() / (~on).sum() == pytest.approx(0.25 / (0.75 * 0.1), rel=0.03)


def test_a_day_starts_at_its_trough() -> None:
    times, _, _ = _messages(SCENARIO.format(seconds=40, arrivals="{process: diurnal, amplitude: 0.8}", skew=0))
    counts = np.bincount(times // 1_000_000_000, minlength=40)
    assert counts[:2].mean() == pytest.approx(0.2 * 2000, rel=0.15)
    assert counts[19:21].mean() == pytest.approx(1.8 * 2000, rel=0.05)


def test_messages_of_a_kind_do_not_repeat_until_all_were_sent() -> None:
    scenario = parse_scenario(SCENARIO.format(seconds=5, arrivals="poisson", skew=0), "test")
    pool = scenario_pool(scenario, marker_bytes=0, largest_bytes=1400, lines=False)
    messages = np.concatenate([b.messages for b in scenario_blocks(scenario, pool, marker_bytes=0)])
    syslog = messages[messages >= 64]
    for start in range(0, len(syslog) - 64, 64):
        assert len(set(syslog[start : start + 64].tolist())) == 64


@pytest.mark.slow
def test_lines_have_no_line_ends_inside() -> None:
    scenario = load_scenario("mixed")
    pool = scenario_pool(scenario, marker_bytes=64, largest_bytes=1400, lines=True)
    assert not np.isin(pool.pool.memory, (10, 13)).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"test:1:\d+: not YAML"),
        ("name: a\nname: b\n", r"test:2:1: not YAML: key 'name' appears twice"),
        ("name: a\n", r"test:1:1: Field required"),
        ("- 5\n", r"test:1:1"),
        ("", "test"),
    ],
)
def test_what_is_no_scenario_says_where(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(text, "test")
