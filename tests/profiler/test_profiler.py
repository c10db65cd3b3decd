"""The profiler on a real arena, and its configuration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError

from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX, MAX_PATTERN_GROUPS, TYPE_CODES
from streamspec.core.interfaces import Slots
from streamspec.core.outcome import OUTCOME
from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS, LINK_ETHERNET
from streamspec.profiler.config import ProfilerConfig
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiler.report import join_packets
from streamspec.testing.intake import RecordingIntake
from tests.profiler.samples import MESSAGES, tcp_frame, tls_record

TYPE = FEATURE_INDEX["type_code"]


@pytest.fixture
def intake() -> Iterator[RecordingIntake]:
    made = RecordingIntake(slots=16, hold=True)
    yield made
    made.close()


def fill(intake: RecordingIntake, content: Content, source: int = 0) -> int:
    """Write a segment as a source would; returns its slot."""
    slot = intake.acquire()
    intake.payload(slot)[: len(content.payload)] = np.frombuffer(content.payload, dtype=np.uint8)
    assert content.packets is not None
    intake.packets(slot)[: len(content.packets)] = content.packets
    header = intake.headers[slot : slot + 1]
    header["length"], header["packets"], header["source"] = len(content.payload), len(content.packets), source
    header["content"] = CONTENT_MESSAGES if content.link_type < 0 else CONTENT_PACKETS
    header["link_type"] = max(content.link_type, 0)
    return slot


def some_contents() -> list[Content]:
    noise = random.Random(1)
    return [
        join_packets([tcp_frame(message) for message in MESSAGES["http"]], LINK_ETHERNET),
        join_packets(MESSAGES["dns"], -1),
        join_packets([noise.randbytes(1400) for _ in range(40)], -1),
        join_packets([tcp_frame(tls_record(1200), (443, 50000)) for _ in range(30)], LINK_ETHERNET),
        join_packets([b""], -1),
    ]


def profile(profiler: Profiler, intake: RecordingIntake, slots: list[int]) -> np.ndarray:
    out = np.full((len(slots), FEATURE_COUNT), np.nan, dtype=np.float32)
    profiler.profile(intake, intake.headers, np.array(slots, dtype=np.int32), out)
    return out


def test_slots_of_an_arena_have_the_features_of_their_content(intake: RecordingIntake, sampling: Profiler) -> None:
    contents = some_contents()
    slots = [fill(intake, content) for content in contents]
    got = profile(sampling, intake, slots)
    assert np.array_equal(got, sampling.profile_contents(contents))
    assert got[:4, TYPE].tolist() == [TYPE_CODES[name] for name in ("http", "dns", "unknown", "tls")]


def test_slots_may_come_in_any_order_and_none_is_fine(intake: RecordingIntake, sampling: Profiler) -> None:
    slots = [fill(intake, content) for content in some_contents()]
    forward, backward = profile(sampling, intake, slots), profile(sampling, intake, slots[::-1])
    assert np.array_equal(forward, backward[::-1])
    assert profile(sampling, intake, []).shape == (0, FEATURE_COUNT)


def test_features_go_straight_into_a_column_of_outcomes(intake: RecordingIntake, sampling: Profiler) -> None:
    slots = [fill(intake, content) for content in some_contents()]
    outcomes = np.zeros(len(slots), dtype=OUTCOME)
    sampling.profile(intake, intake.headers, np.array(slots, dtype=np.int32), outcomes["features"])
    assert np.array_equal(outcomes["features"], profile(sampling, intake, slots))


def test_the_type_that_a_source_declares_is_taken(intake: RecordingIntake) -> None:
    profiler = ProfilerConfig().build({1: "csv"})
    dns = some_contents()[1]
    slots = [fill(intake, dns, source) for source in (0, 1, 2)]
    assert profile(profiler, intake, slots)[:, TYPE].tolist() == [TYPE_CODES[name] for name in ("dns", "csv", "dns")]


def test_a_batch_larger_than_any_before(sampling: Profiler) -> None:
    contents = [Content(bytes([index % 256]) * 100) for index in range(700)]
    got = sampling.profile_contents(contents)
    assert got[:, FEATURE_INDEX["minimum"]].tolist() == [index % 256 for index in range(700)]


@pytest.mark.slow
def test_threads_do_not_disturb_each_other() -> None:
    profiler = ProfilerConfig(patterns={"words": ("GET", "the")}).build()
    noise = random.Random(2)
    batches = [[Content(noise.randbytes(noise.randrange(9000)) + b"the") for _ in range(20)] for _ in range(8)]
    expected = [profiler.profile_contents(batch) for batch in batches]

    def work(index: int) -> bool:
        same = True
        for _ in range(20):
            same &= np.array_equal(profiler.profile_contents(batches[index]), expected[index])
            profiler.count_patterns_in(batches[index])
        return same

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_patterns_are_counted_where_the_segment_lies(intake: RecordingIntake) -> None:
    profiler = ProfilerConfig(patterns={"verbs": ("GET", "POST"), "status": (r"HTTP/1\.1 2..",)}).build()
    slots: Slots = np.array([fill(intake, content) for content in some_contents()], dtype=np.int32)
    out = np.full((len(slots), MAX_PATTERN_GROUPS), np.nan, dtype=np.float32)
    profiler.count_patterns(intake, intake.headers, slots, out)
    assert profiler.pattern_names == ("verbs", "status")
    assert out[0, :2].tolist() == [2, 1]
    assert not out[1:].any()
    assert not out[:, 2:].any()


def test_without_patterns_their_counts_are_zero(intake: RecordingIntake, sampling: Profiler) -> None:
    slots: Slots = np.array([fill(intake, some_contents()[0])], dtype=np.int32)
    out = np.full((1, MAX_PATTERN_GROUPS), np.nan, dtype=np.float32)
    sampling.count_patterns(intake, intake.headers, slots, out)
    assert not out.any()
    assert sampling.pattern_names == ()


@pytest.mark.parametrize("value", ["4 KiB", 0, 1024])
def test_a_sample_is_a_size(value: object) -> None:
    assert ProfilerConfig.model_validate({"sample_bytes": value}).sample_bytes in (0, 1024, 4096)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_bytes": 100},
        {"sample_bytes": "much"},
        {"samples": 1},
        {"patterns": {"Not a name": ["x"]}},
        {"patterns": {"empty": []}},
        {"patterns": {f"group_{index}": ["x"] for index in range(17)}},
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ProfilerConfig.model_validate(wrong)
