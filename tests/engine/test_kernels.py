"""The compiled bookkeeping equals a plain model of it."""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.resources import Allocation
from streamspec.core.segment import DONE, FAILED, HEADER, QUEUED
from streamspec.engine import kernels
from streamspec.engine.accounts import RECENT_OUTCOMES, Accounts, bucket_edge_ns, percentile_ns
from streamspec.engine.lane import Lane
from streamspec.engine.order import OrderLines

SLOTS = 24


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 30)), max_size=SLOTS), st.randoms())
@settings(deadline=None, max_examples=150)
def test_what_finishes_in_any_order_is_released_in_order_of_its_key(commits, rng) -> None:
    headers = np.zeros(SLOTS, dtype=HEADER)
    order = OrderLines(headers, ordered=True)
    accounts = np.zeros(kernels.ACCOUNTS, dtype=np.int64)
    slots = rng.sample(range(SLOTS), len(commits))
    for slot, (key, _) in zip(slots, commits, strict=True):
        headers["key_hash"][slot] = key << 40 | key
        order.commit(np.array([slot], dtype=np.int32), 0, 1, 0, accounts)
    expected = defaultdict(list)
    for slot, (key, _) in zip(slots, commits, strict=True):
        expected[key].append(slot)
    released = []
    shed = []
    for slot in rng.sample(slots, len(slots)):
        if rng.random() < 0.2:
            shed.append(slot)
            released += order.remove(slot).tolist()
            continue
        headers["state"][slot] = DONE
        released += order.complete(np.array([slot], dtype=np.int32), 0)[0].tolist()
    assert sorted(released + shed) == sorted(slots)
    for key, in_order in expected.items():
        mine = [s for s in released if headers["key_hash"][s] == key << 40 | key]
        assert mine == [s for s in in_order if s not in shed]


@given(st.lists(st.one_of(st.integers(1, 5), st.just("pop"), st.just("front"), st.just("shed")), max_size=60))
@settings(deadline=None, max_examples=150)
def test_a_lane_queue_is_a_deque(operations) -> None:
    headers = np.zeros(SLOTS, dtype=HEADER)
    lane = Lane("a", 0, Allocation(), urgency=0, headers=headers)
    model: deque[int] = deque()
    free = list(range(SLOTS))
    headers["source"][::2] = 1
    may_shed = np.array([0, 1], dtype=np.uint8)
    for operation in operations:
        if isinstance(operation, int):
            taken, free = free[:operation], free[operation:]
            lane.push(np.array(taken, dtype=np.int32))
            model.extend(taken)
        elif operation == "pop":
            got = lane.pop(3, 7, 99).tolist()
            assert got == [model.popleft() for _ in range(min(3, len(model)))]
            free += got
            assert (headers["holder"][got] == 7).all()
            assert (headers["started_ns"][got] == 99).all()
        elif operation == "front":
            taken, free = free[:2], free[2:]
            lane.push_front(np.array(taken, dtype=np.int32))
            model.extendleft(reversed(taken))
        else:
            slot = lane.shed_oldest(may_shed)
            expected = next((s for s in model if s % 2 == 0), -1)
            assert slot == expected
            if slot >= 0:
                model.remove(slot)
                free.append(slot)
        assert len(lane) == len(model)
    assert lane.pop_everything().tolist() == list(model)


@given(st.integers(0, 1 << 62))
@settings(deadline=None)
def test_a_value_lies_in_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    bucket = kernels.bucket_of(value)
    low, high = bucket_edge_ns(bucket), bucket_edge_ns(bucket + 1)
    assert low <= value < high
    assert high - low <= max(1, low / 16)


def test_percentiles_of_a_known_histogram() -> None:
    histogram = np.zeros(kernels.HISTOGRAM_BUCKETS, dtype=np.int64)
    for value in range(1, 101):
        histogram[kernels.bucket_of(value * 1_000_000)] += 1
    assert 50e6 <= percentile_ns(histogram, 50) <= 54e6
    assert 99e6 <= percentile_ns(histogram, 99) <= 106e6
    assert np.isnan(percentile_ns(np.zeros_like(histogram), 50))


def test_only_stage_errors_are_tried_again() -> None:
    headers = np.zeros(4, dtype=HEADER)
    order = OrderLines(headers, ordered=False)
    headers["state"] = FAILED
    headers["error_kind"] = [1, 2, 3, 4]
    ready, again = order.complete(np.arange(4, dtype=np.int32), 1)
    assert again.tolist() == [0]
    assert ready.tolist() == [1, 2, 3]
    assert headers["state"][0] == QUEUED
    headers["state"][0] = FAILED
    ready, again = order.complete(np.array([0], dtype=np.int32), 1)
    assert (ready.tolist(), again.tolist()) == ([0], [])


def test_an_outcome_states_what_the_segment_cost() -> None:
    headers = np.zeros(2, dtype=HEADER)
    headers[0]["segment_id"] = 5
    headers["state"][0] = DONE
    headers["arrival_ns"][0], headers["started_ns"][0], headers["finished_ns"][0] = 100, 350, 900
    headers["length"][0], headers["payload_bytes"][0], headers["records_bytes"][0] = 64, 40, 7
    headers["worker"][0] = 3
    headers["useful_ns"][0, :2] = (11, 22)
    headers["state"][1] = FAILED
    headers["error_kind"][1] = 1
    accounts = Accounts(["one"])
    accounts.allocations[0] = (2, 5, 16)
    seen = []
    accounts.listeners.append(lambda rows: seen.append(rows.copy()))
    accounts.finish(headers, np.array([0, 1], dtype=np.int32), 1000)
    good, bad = seen[0]
    assert (good["segment_id"], good["wait_ns"], good["service_ns"], good["latency_ns"]) == (5, 250, 550, 900)
    assert good["useful_ns"][:3].tolist() == [11, 22, 0]
    assert (good["bytes_out"], good["worker"], good["workers"], good["nice"], good["batch"]) == (47, 3, 2, 5, 16)
    assert (good["ending"], bad["ending"], bad["error_kind"]) == (0, 1, 1)
    assert (accounts.delivered_segments, accounts.dead_lettered_segments) == (1, 1)
    assert accounts.recent_outcomes()["segment_id"].tolist() == [5, 0]


def test_overdue_finds_only_what_runs_too_long() -> None:
    headers = np.zeros(4, dtype=HEADER)
    headers["state"] = [4, 4, 3, 4]
    headers["holder"] = [1, 1, 1, 0]
    headers["started_ns"] = [10, 99, 10, 10]
    out = np.empty(4, dtype=np.int32)
    assert kernels.overdue(headers, 50, out) == 1
    assert out[0] == 0


def test_held_slots_come_in_order_of_segment() -> None:
    headers = np.zeros(5, dtype=HEADER)
    headers["holder"] = [2, 1, 2, 2, 0]
    headers["segment_id"] = [9, 1, 4, 6, 2]
    out = np.empty(5, dtype=np.int32)
    assert kernels.held_by(headers, 2, out) == 3
    assert out[:3].tolist() == [2, 3, 0]


def test_the_last_outcomes_are_kept_in_order() -> None:
    headers = np.zeros(100, dtype=HEADER)
    headers["state"] = DONE
    accounts = Accounts(["one"])
    for start in range(0, 2 * RECENT_OUTCOMES + 300, 100):
        headers["segment_id"] = np.arange(start, start + 100)
        accounts.finish(headers, np.arange(100, dtype=np.int32), 1)
    kept = accounts.recent_outcomes()["segment_id"]
    assert len(kept) == RECENT_OUTCOMES
    assert kept[-1] == accounts.delivered_segments - 1
    assert (np.diff(kept) == 1).all()
