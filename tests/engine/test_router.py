"""Routing: the first lane whose conditions all hold."""

from __future__ import annotations

import numpy as np

from streamspec.core.segment import HEADER
from streamspec.engine.foresight_kernels import LOOK
from streamspec.engine.router import LaneRule, RuleRouter


def _route(rules: list[LaneRule], work_ns: list[float] | None = None, **columns: list[int]) -> list[int]:
    count = len(next(iter(columns.values())))
    headers = np.zeros(count, dtype=HEADER)
    for name, values in columns.items():
        if name != "type_code":
            headers[name] = values
    keys = [b"web:%d" % i if i % 2 else b"db:%d" % i for i in range(count)]
    looks = np.zeros(count, dtype=LOOK)
    looks["type_code"] = columns.pop("type_code", 0)
    looks["expected_ns"] = work_ns or [0.0] * count
    RuleRouter(rules, keys.__getitem__, looks).route(headers, np.arange(count, dtype=np.int32))
    return [int(lane) for lane in headers["lane"]]


def test_sizes_are_inclusive_and_the_first_match_wins() -> None:
    rules = [LaneRule(0, min_bytes=10, max_bytes=20), LaneRule(1, max_bytes=100), LaneRule(2)]
    assert _route(rules, length=[9, 10, 20, 21, 100, 101]) == [1, 0, 0, 1, 1, 2]


def test_sources_and_content() -> None:
    rules = [LaneRule(0, sources=frozenset({2, 5})), LaneRule(1, content=1), LaneRule(2)]
    assert _route(rules, source=[0, 2, 5, 1], content=[0, 1, 0, 1]) == [2, 0, 0, 1]


def test_key_prefixes() -> None:
    rules = [LaneRule(0, keys=(b"web:", b"mail:")), LaneRule(1)]
    assert _route(rules, length=[1, 1, 1, 1]) == [1, 0, 1, 0]


def test_one_lane_takes_everything() -> None:
    assert _route([LaneRule(0)], length=[1, 2], lane=[3, 4]) == [0, 0]


def test_predicted_cost_is_one_of_the_conditions() -> None:
    rules = [LaneRule(0, sources=frozenset({1})), LaneRule(1, max_work_ns=1e6), LaneRule(2)]
    assert _route(rules, [5e6, 1e6, 1e6 + 1, 0.0], source=[1, 0, 0, 0]) == [0, 1, 2, 1]


def test_what_a_segment_holds_is_one_of_the_conditions() -> None:
    rules = [LaneRule(0, types=frozenset({6, 7})), LaneRule(1)]
    assert _route(rules, type_code=[6, 1, 7, 0]) == [0, 1, 0, 1]


def test_the_cut_moves_while_the_stream_runs() -> None:
    headers, slots = np.zeros(1, dtype=HEADER), np.zeros(1, dtype=np.int32)
    looks = np.zeros(1, dtype=LOOK)
    looks["expected_ns"] = 2e6
    router = RuleRouter([LaneRule(0, max_work_ns=1e6), LaneRule(1)], lambda slot: b"", looks)
    router.route(headers, slots)
    assert headers["lane"][0] == 1
    router.cut(0, 3e6)
    router.route(headers, slots)
    assert headers["lane"][0] == 0
