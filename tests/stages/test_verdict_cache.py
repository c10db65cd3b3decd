"""The verdict cache: the same results with and without, within its bytes, and asleep when it does not pay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.stages.decode import DecodeStage
from streamspec.stages.inspect import Inspect, InspectConfig
from streamspec.stages.verdict_cache import ASLEEP, ENTRY_BYTES, MATCH_BYTES, WINDOW, VerdictCache
from streamspec.stages.verdict_kernels import gather
from streamspec.testing.stages import make_segment, run_stage
from tests.stages import flow_reference
from tests.stages.flow_chain import packet_segment

RULES = [
    {"id": 1, "name": "letters", "pattern": "ab+c"},
    {"id": 2, "name": "start", "pattern": "^ab"},
    {"id": 3, "name": "end", "pattern": "c$"},
]


def _stage(folder: Path, cache_bytes: int) -> Inspect:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(RULES))
    stage = InspectConfig(type="inspect", rules=(path,), cache_bytes=cache_bytes).build()
    stage.open()
    if cache_bytes:
        stage.on_resources(Grant(1, stage.resources))
    return stage


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspect, Inspect]:
    folder = tmp_path_factory.mktemp("rules")
    return _stage(folder, 1 << 20), _stage(folder, 0)


MESSAGES = st.lists(st.sampled_from([b"abc", b"ab", b"c", b"", b"abbbc", b"xx", b"abcab"]), max_size=5)


@given(st.lists(MESSAGES, min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_records_are_the_same_with_and_without(stages: tuple[Inspect, Inspect], segments: list[list[bytes]]) -> None:
    cached, plain = stages
    for messages in segments + segments:  # cut points of packets matter, not only the bytes in a row
        assert run_stage(cached, make_segment(messages)).records == run_stage(plain, make_segment(messages)).records


def test_repeated_content_is_found_again_in_other_packets_and_counted(tmp_path: Path) -> None:
    stage = _stage(tmp_path, 1 << 20)
    first = run_stage(stage, make_segment([b"xabcx", b"y"], key=b"one"))
    again = run_stage(stage, make_segment([b"xabcx", b"y"], timestamps_ns=[5, 6], key=b"two"))
    assert first.tally.counts == {"alerts": 1, "cache_misses": 1}
    assert again.tally.counts == {"alerts": 1, "cache_hits": 1}
    alert = json.loads(again.records[0][1])
    assert (alert["key"], alert["timestamp"]) == ("two", "1970-01-01T00:00:00.000000005Z")
    other = run_stage(stage, make_segment([b"xabc", b"xy"]))
    assert other.tally.counts["cache_misses"] == 1


@pytest.mark.captures
@pytest.mark.slow
def test_alerts_of_real_captures_are_the_same_with_and_without(captures: Path, tmp_path: Path) -> None:
    cached, plain = _stage(tmp_path, 1 << 20), _stage(tmp_path, 0)
    decode, segments = DecodeStage(), []
    for path in sorted(captures.rglob("*.pcap*")):
        capture = flow_reference.read(path) if path.stat().st_size < 200_000 else None
        if capture is not None:
            link_type, packets = capture
            segment = packet_segment(packets, link_type)
            run_stage(decode, segment)
            segment.notes["decoded"] = segment.notes["decoded"].copy()  # decode reuses its rows
            segments.append(segment)
    for segment in segments * 2:
        assert run_stage(cached, segment).records == run_stage(plain, segment).records
    assert cached._cache.hits >= len(segments) - 5


def test_without_a_grant_it_is_off_and_a_changed_grant_changes_its_size(tmp_path: Path) -> None:
    stage = _stage(tmp_path, 0)
    assert run_stage(stage, make_segment([b"abc"])).tally.counts == {"alerts": 3}
    grant = Grant(1, ResourceRequest(cache_bytes=10 * ENTRY_BYTES))
    stage.on_resources(grant)
    for number in range(20):
        run_stage(stage, make_segment([b"%d" % number]))
    assert len(stage._cache) == 10
    grant.amounts = ResourceRequest(cache_bytes=3 * ENTRY_BYTES)
    stage.on_resources(grant)
    assert len(stage._cache) == 3
    assert run_stage(stage, make_segment([b"19"])).tally.counts == {"cache_hits": 1}
    stage.on_resources(Refusal("none left"))
    assert run_stage(stage, make_segment([b"19"])).tally.counts == {}


class _Costs:
    """A clock that the cost of keys and searches moves."""

    def __init__(self, key_ns: int, search_ns: int) -> None:
        self.now_ns, self._key_ns, self._search_ns = 0, key_ns, search_ns
        self.searches = 0

    def __call__(self) -> int:
        self.now_ns += self._key_ns
        return self.now_ns

    def search(self, memory, starts, ends) -> list:
        self.searches += 1
        self.now_ns += self._search_ns
        return [(0, 1, 2, 3)] if memory[0] == 0 else []


def _feed(cache: VerdictCache, costs: _Costs, contents: list[int]) -> None:
    at = np.zeros(1, dtype=np.int64)
    for content in contents:
        memory = np.array([content % 256, content // 256], dtype=np.uint8)
        assert cache.verdict(memory, at, at + 2, costs.search) == ([(0, 1, 2, 3)] if content % 256 == 0 else [])


def test_it_sleeps_when_hits_do_not_pay_for_keys_and_tries_again_later() -> None:
    costs = _Costs(key_ns=1000, search_ns=50_000)
    cache = VerdictCache(1 << 20, clock_ns=costs)
    _feed(cache, costs, list(range(WINDOW)))
    assert cache.asleep_segments == ASLEEP
    _feed(cache, costs, [7] * ASLEEP)
    assert cache.asleep_segments == 0
    assert cache.hits == 0
    _feed(cache, costs, list(range(30_000, 30_000 + WINDOW)))
    assert cache.asleep_segments == 2 * ASLEEP


def test_it_stays_awake_while_it_pays() -> None:
    costs = _Costs(key_ns=1000, search_ns=50_000)
    cache = VerdictCache(1 << 20, clock_ns=costs)
    _feed(cache, costs, [number % 100 for number in range(10 * WINDOW)])
    assert cache.hits > 9 * WINDOW
    assert costs.searches == 100
    cheap = _Costs(key_ns=1000, search_ns=100)
    cache = VerdictCache(1 << 20, clock_ns=cheap)
    _feed(cache, cheap, [number % 300 if number % 2 else 10_000 + number for number in range(2 * WINDOW)])
    assert cache.asleep_segments  # half of them hit, and the search is cheaper than the key


@given(st.lists(st.integers(0, 3000), max_size=300), st.integers(0, 20_000))
@settings(deadline=None, max_examples=50)
def test_it_never_holds_more_than_its_limit(contents: list[int], limit: int) -> None:
    costs = _Costs(1, 100)
    cache = VerdictCache(limit, clock_ns=costs)
    _feed(cache, costs, contents)
    assert cache.used_bytes <= limit
    assert cache.used_bytes == sum(ENTRY_BYTES + MATCH_BYTES * len(found) for found in cache._entries.values())


@given(st.lists(st.tuples(st.integers(-3, 70), st.integers(-3, 70)), max_size=8), st.integers(0, 200))
@settings(deadline=None, max_examples=100)
def test_the_kernel_copies_spans_and_never_leaves_its_arrays(spans: list[tuple[int, int]], room: int) -> None:
    memory = np.arange(64, dtype=np.uint8)
    guarded = np.full(room + 16, 255, dtype=np.uint8)
    starts, ends = (np.array([span[i] for span in spans], dtype=np.int64) for i in (0, 1))
    written = gather(memory, starts, ends, guarded[8 : 8 + room])
    expected = b""
    for start, end in spans:
        part = memory[max(start, 0) : max(end, 0)].tobytes()
        if len(expected) + len(part) <= room:
            expected += part
    assert guarded[8 : 8 + written].tobytes() == expected
    assert (guarded[:8] == 255).all()
    assert (guarded[8 + room :] == 255).all()
