"""Finished offsets and their metadata: nothing unfinished is ever skipped."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.sources import kafka_metadata
from streamspec.sources.kafka_offsets import PartitionOffsets

MANY = settings(deadline=None, max_examples=150)
RUNS = st.lists(st.integers(0, 1 << 30), max_size=60).map(lambda runs: runs[: len(runs) // 2 * 2])


@MANY
@given(offset=st.integers(0, 1 << 62), runs=RUNS)
def test_what_is_encoded_comes_back(offset: int, runs: list[int]) -> None:
    text = kafka_metadata.encode(offset, runs)
    assert kafka_metadata.decode(offset, text) == runs


@MANY
@given(offset=st.integers(0, 1 << 62), other=st.integers(0, 1 << 62), runs=RUNS.filter(bool))
def test_metadata_of_another_offset_is_refused(offset: int, other: int, runs: list[int]) -> None:
    if other != offset:
        assert kafka_metadata.decode(other, kafka_metadata.encode(offset, runs)) is None


@MANY
@given(
    text=st.one_of(
        st.text(max_size=200), st.binary(max_size=200).map(lambda b: "streamspec1:" + base64.b64encode(b).decode())
    )
)
def test_what_is_not_ours_is_refused_and_no_metadata_means_none_finished(text: str) -> None:
    assert kafka_metadata.decode(5, text) == ([] if not text else None)


@MANY
@given(runs=RUNS.filter(bool), position=st.integers(0, 10_000), change=st.integers(1, 127))
def test_a_damaged_character_is_noticed(runs: list[int], position: int, change: int) -> None:
    text = kafka_metadata.encode(9, runs)
    at = position % len(text)
    damaged = text[:at] + chr(ord(text[at]) ^ change) + text[at + 1 :]
    assert kafka_metadata.decode(9, damaged) is None


def test_it_stays_below_the_brokers_limit_and_leaves_out_only_the_end() -> None:
    runs = [1, 1] * 20_000
    text = kafka_metadata.encode(0, runs)
    assert len(text.encode()) <= kafka_metadata.LARGEST_METADATA_BYTES
    kept = kafka_metadata.decode(0, text)
    assert kept == runs[: len(kept)]
    assert len(kept) > 3000


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[int], set[int]]:
    """A first offset, the offsets of a log with gaps, and those that get finished."""
    first = draw(st.integers(0, 1 << 40))
    offsets = sorted(draw(st.sets(st.integers(first, first + 300), min_size=1, max_size=200)))
    return first, offsets, draw(st.sets(st.sampled_from(offsets)))


@MANY
@given(history=histories(), polls=st.integers(1, 50), order=st.randoms(use_true_random=False))
def test_a_restart_reads_again_exactly_what_was_not_finished(
    history: tuple[int, list[int], set[int]], polls: int, order: object
) -> None:
    first, offsets, finished = history
    before = PartitionOffsets(first)
    for start in range(0, len(offsets), polls):
        before.take_all(offsets[start : start + polls])
    shuffled = sorted(finished)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    half = len(shuffled) // 2
    before.finish(shuffled[:half])
    committed, text = before.commit_with(shuffled[half:])
    before.finish(shuffled[half:])
    assert before.commit() == (committed, text)

    unfinished = [o for o in offsets if o not in finished]
    assert committed == (unfinished[0] if unfinished else offsets[-1] + 1) == before.committable
    assert before.span == offsets[-1] + 1 - committed
    runs = kafka_metadata.decode(committed, text)
    after = PartitionOffsets(committed, runs)
    again = [o for o in offsets if o >= committed and not after.is_finished(o)]
    assert again == unfinished


@MANY
@given(history=histories())
def test_skipping_while_restoring_reaches_the_end(history: tuple[int, list[int], set[int]]) -> None:
    first, offsets, finished = history
    before = PartitionOffsets(first)
    before.take_all(offsets)
    before.finish(finished)
    committed, text = before.commit()
    after = PartitionOffsets(committed, kafka_metadata.decode(committed, text) or ())
    for offset in [o for o in offsets if o >= committed]:
        if not after.is_finished(offset):
            after.take_all([offset])
            after.finish([offset])
        after.pass_over(offset + 1)
    assert after.committable == offsets[-1] + 1
    assert after.commit() == (offsets[-1] + 1, "")


def test_memory_does_not_grow_with_the_log() -> None:
    offsets = PartitionOffsets(0)
    for start in range(0, 1_000_000, 1000):
        offsets.take_all(range(start, start + 1000))
        offsets.finish(range(start, start + 1000))
    assert len(offsets._done) < 200_000
    assert offsets.commit() == (1_000_000, "")


def test_a_hostile_length_reserves_no_memory() -> None:
    offsets = PartitionOffsets(0, [1 << 39, 1])
    assert not offsets.restoring
    with pytest.raises(IndexError):
        offsets.finish([5])


def test_offsets_are_crowded_long_before_a_commit_cannot_hold_them() -> None:
    offsets = PartitionOffsets(0)
    offsets.take_all(range(4000))
    offsets.finish(range(1, 4000))
    assert not offsets.crowded  # one gap
    other = PartitionOffsets(0)
    other.take_all(range(4000))
    other.finish(range(1, 1400, 2))
    assert other.crowded
    low, metadata = other.commit()
    assert sum(kafka_metadata.decode(low, metadata)[1::2]) == 700  # type: ignore[index]
    other.finish(range(0, 1400, 2))
    assert not other.crowded
