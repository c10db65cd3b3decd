"""Records into segments, without a broker: order per key, what has no room yet, gathering."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.links import kafka_meta
from streamspec.sources.kafka_intake import MessageIntake, Partition, Units
from streamspec.sources.kafka_offsets import PartitionOffsets
from streamspec.testing.clock import ManualClock
from streamspec.testing.intake import RecordingIntake


def record(offset: int, key: bytes | None, value: bytes | None, headers: Any = ()) -> Any:
    """What aiokafka gives."""
    return SimpleNamespace(offset=offset, key=key, value=value, timestamp=1000 + offset, headers=headers)


def opened(slots: int, gather_bytes: int, **options: Any) -> tuple[RecordingIntake, MessageIntake, Partition]:
    """An intake that keeps slots until they are freed."""
    intake = RecordingIntake(slots=slots, hold=True)
    own = MessageIntake(intake, Units(), gather_bytes=gather_bytes, from_production=options.get("production", False))
    return intake, own, Partition("topic", 2, PartitionOffsets(10))


RECORDS = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", None]), st.binary(max_size=30), st.booleans()), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=80)
@given(drawn=RECORDS, slots=st.integers(2, 12), gather_bytes=st.sampled_from([0, 40, 10_000]))
def test_every_record_is_taken_once_and_in_order_per_key_however_few_slots_there_are(
    drawn: list[tuple[bytes | None, bytes, bool]], slots: int, gather_bytes: int
) -> None:
    records = [record(10 + i, k, v, (("h", b"x"),) if h else ()) for i, (k, v, h) in enumerate(drawn)]
    intake, own, partition = opened(slots, gather_bytes)
    try:
        left = records
        while left:
            left = left[own.take(partition, left) :]
            intake.free_held()
        expected = {k: [v for key, v, _ in drawn if key == k] for k in (b"a", b"b", None)}
        found: dict[bytes | None, list[bytes]] = {b"a": [], b"b": [], None: []}
        for segment in intake.committed:
            origin = kafka_meta.unpack(segment.meta)
            assert origin is not None
            assert segment.key == (segment.key if origin.has_key else b"topic:2")
            assert origin.lone == (len(segment.packets) == 1)
            found[segment.key if origin.has_key else None] += segment.messages()
            assert len(segment.payload) <= max(gather_bytes, 30)
        assert found == expected
        assert partition.offsets.next_offset == 10 + len(records)
        assert partition.unfinished == len(intake.committed)
    finally:
        intake.close()


def test_headers_end_a_gathered_segment_and_are_kept() -> None:
    intake, own, partition = opened(8, 1000)
    own.take(partition, [record(10, b"k", b"1"), record(11, b"k", b"2", (("h", b"v"),)), record(12, b"k", b"3")])
    assert [s.payload for s in intake.committed] == [b"1", b"2", b"3"]
    assert kafka_meta.unpack(intake.committed[1].meta).headers == [("h", b"v")]  # type: ignore[union-attr]
    intake.close()


def test_latency_may_count_from_production() -> None:
    intake, own, partition = opened(8, 0, production=True)
    clock = intake.clock
    assert isinstance(clock, ManualClock)
    clock.advance(0.5)
    own.take(partition, [record(10, b"k", b"1")])
    header = intake.committed[0].header
    assert header["timestamp_ns"] == 1010 * 10**6
    assert clock.monotonic_ns() - header["arrival_ns"] == clock.time_ns() - 1010 * 10**6 == 490 * 10**6
    intake.close()


@pytest.mark.parametrize("finished", [set(), {11}, {10, 11, 12}])
def test_what_an_earlier_owner_finished_is_passed_over(finished: set[int]) -> None:
    earlier = PartitionOffsets(10)
    earlier.take_all([10, 11, 12])
    _, own, _ = opened(8, 0)
    committed = earlier.commit_with(finished)[0]
    runs = [1, 1] if finished == {11} else []
    partition = Partition("topic", 2, PartitionOffsets(committed, runs))
    records = [record(o, b"k", b"%d" % o) for o in (10, 11, 12) if o >= committed]
    assert not records or own.take(partition, records) == len(records)
    offsets = sorted(o for unit in own._units.under_way.values() for o in unit.offsets)
    assert offsets == [o for o in (10, 11, 12) if o not in finished]
    own._intake.close()  # type: ignore[attr-defined]
    assert np.all(np.array(offsets, dtype=np.int64) >= committed)
