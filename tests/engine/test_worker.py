"""One slot through a chain in this process: result, outcome, errors, spill."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from streamspec.core.interfaces import Segment, StageContext
from streamspec.core.segment import DONE, ERROR_KINDS, FAILED, SlotLayout
from streamspec.engine import kernels, worker
from streamspec.engine.arena import Arena
from streamspec.engine.deliveries import DeliveryView, SlotDelivery
from streamspec.engine.worker import SegmentRunner


class _Stage:
    def __init__(self, work) -> None:
        self._work = work

    def process(self, segment: Segment, context: StageContext) -> None:
        self._work(segment, context)


@pytest.fixture
def arena():
    arena = Arena(SlotLayout(256, 4, 64, 128), 3)
    yield arena
    arena.close()


def _run(arena: Arena, *works, payload: bytes = b"hello", variants=()) -> tuple[SlotDelivery, bytes | None]:
    slot = arena.acquire()
    arena.payload(slot)[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
    arena.packets(slot)[0] = (7, 0, len(payload), len(payload), 0)
    row = arena.headers[slot]
    row["length"], row["packets"], row["segment_id"], row["timestamp_ns"] = len(payload), 1, 42, 77
    row["content"], row["link_type"] = 1, 9
    arena.meta(slot)[:5] = np.frombuffer(b"keyMM", dtype=np.uint8)
    row["key_bytes"], row["meta_bytes"] = 3, 2
    row["variant"][: len(variants)] = variants
    runner = SegmentRunner(arena, 5, [(f"stage{i}", _Stage(work)) for i, work in enumerate(works)])
    spill = runner.run(slot)
    view = DeliveryView(arena, ["src"], lambda slot: memoryview(spill) if spill else None)
    return SlotDelivery(view, slot), spill


def _deltas(arena: Arena, delivery: SlotDelivery) -> list[tuple[int, memoryview]]:
    return DeliveryView(arena, ["src"], lambda slot: None).deltas(delivery._slot)


def test_a_stage_sees_the_segment_and_leaves_its_result(arena: Arena) -> None:
    seen = []

    def look(segment, context) -> None:
        seen.append((segment.segment_id, segment.timestamp_ns, segment.content, segment.link_type, segment.key))
        seen.append((bytes(segment.payload), segment.original.tobytes(), int(segment.packets[0]["timestamp_ns"])))
        seen.append(context.variant)
        segment.notes["left"] = "for the next"

    def change(segment, context) -> None:
        assert segment.notes == {"left": "for the next"}
        segment.payload = memoryview(b"HELLO!")
        context.emit("alert", b"{}")
        context.delta(b"delta")

    delivery, _ = _run(arena, look, change, variants=(-1, 2))
    assert seen == [(42, 77, 1, 9, b"key"), (b"hello", b"hello", 7), -1]
    assert bytes(delivery.payload) == b"HELLO!"
    assert bytes(delivery.original) == b"hello"
    assert (delivery.key, delivery.meta, delivery.source) == (b"key", b"MM", "src")
    assert [(n, bytes(b)) for n, b in delivery.records] == [("alert", b"{}\n")]
    assert [(s, bytes(c)) for s, c in _deltas(arena, delivery)] == [(1, b"delta")]
    row = arena.headers[delivery._slot]
    assert row["state"] == DONE
    assert row["worker"] == 5
    assert row["started_ns"] <= row["finished_ns"]
    assert (row["useful_ns"][:2] > 0).all()


def test_an_unchanged_payload_is_not_copied(arena: Arena) -> None:
    delivery, _ = _run(arena, lambda segment, context: None)
    row = arena.headers[delivery._slot]
    assert row["payload_in_output"] == 0
    assert bytes(delivery.payload) == b"hello"


def test_an_empty_result_is_a_result(arena: Arena) -> None:
    delivery, _ = _run(arena, lambda segment, context: setattr(segment, "payload", memoryview(b"")))
    assert bytes(delivery.payload) == b""
    assert delivery.error == ""


def test_an_error_names_stage_and_place_and_drops_half_results(arena: Arena) -> None:
    def fail(segment, context) -> None:
        segment.payload = memoryview(b"half")
        context.emit("alert", b"{}")
        raise KeyError("nothing there")

    delivery, _ = _run(arena, lambda segment, context: None, fail)
    row = arena.headers[delivery._slot]
    assert row["state"] == FAILED
    assert ERROR_KINDS[row["error_kind"]] == "stage_error"
    assert delivery.error.startswith("stage stage1: KeyError: 'nothing there'")
    assert "test_worker.py" in delivery.error
    assert not delivery.records
    assert bytes(delivery.payload) == b"hello"


def test_a_result_without_room_is_handed_back(arena: Arena) -> None:
    delivery, spill = _run(arena, lambda segment, context: setattr(segment, "payload", memoryview(b"x" * 500)))
    assert spill == b"x" * 500
    assert bytes(delivery.payload) == b"x" * 500


def test_a_result_beyond_every_limit_fails(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SPILL_LIMIT_BYTES", 400)
    delivery, spill = _run(arena, lambda segment, context: setattr(segment, "payload", memoryview(b"x" * 500)))
    row = arena.headers[delivery._slot]
    assert spill is None
    assert (row["state"], ERROR_KINDS[row["error_kind"]]) == (FAILED, "output_too_large")
    assert "500 bytes" in delivery.error


def test_counts_are_kept_per_stage(arena: Arena) -> None:
    slot = arena.acquire()
    runner = SegmentRunner(
        arena, 1, [("a", _Stage(lambda s, c: c.count("x"))), ("b", _Stage(lambda s, c: c.count("x", 3)))]
    )
    runner.run(slot)
    runner.run(slot)
    assert runner.context.counts == {"a": {"x": 2}, "b": {"x": 6}}


def test_the_start_of_a_segment_is_never_seen_half_written(arena: Arena) -> None:
    slot = arena.acquire()
    runner = SegmentRunner(arena, 1, [("nothing", _Stage(lambda segment, context: None))])
    arena.headers["holder"][slot] = 1
    arena.headers["started_ns"][slot] = time.monotonic_ns()
    out = np.empty(arena.slots, dtype=np.int32)
    hour_ago_ns = time.monotonic_ns() - 3600 * 10**9
    kernels.overdue(arena.headers, hour_ago_ns, out)
    seen = []

    def watch() -> None:
        while not stop.is_set():
            for _ in range(100):
                seen.append(kernels.overdue(arena.headers, hour_ago_ns, out))  # noqa: PERF401

    stop = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(10_000):
        runner.run(slot)
    stop.set()
    watcher.join()
    assert not any(seen)


def test_results_by_message_reach_sinks_apart_and_together(arena: Arena) -> None:
    def each(segment, context) -> None:
        with pytest.raises(ValueError, match="2 messages for 1 rows"):
            segment.replace_messages([b"a", b"b"])
        segment.replace_messages([b"result"])
        context.emit("alert", b"{}")
        context.delta(b"delta")

    delivery, _ = _run(arena, each)
    assert [bytes(message) for message in delivery.messages] == [b"result"]
    assert bytes(delivery.payload) == b"result"
    assert [(n, bytes(b)) for n, b in delivery.records] == [("alert", b"{}\n")]
    assert [(s, bytes(c)) for s, c in _deltas(arena, delivery)] == [(0, b"delta")]


def test_a_later_stage_that_assigns_a_payload_makes_one_result_again(arena: Arena) -> None:
    def each(segment, context) -> None:
        segment.replace_messages([b"result"])

    def whole(segment, context) -> None:
        segment.payload = memoryview(bytes(segment.payload).upper())

    delivery, _ = _run(arena, each, whole)
    assert not delivery.messages
    assert bytes(delivery.payload) == b"RESULT"


def test_results_by_message_that_do_not_fit_travel_in_a_file(arena: Arena) -> None:
    delivery, spill = _run(arena, lambda segment, context: segment.replace_messages([b"x" * 200]))
    assert spill is not None
    assert [bytes(message) for message in delivery.messages] == [b"x" * 200]
