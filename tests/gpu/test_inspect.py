"""``inspect`` on a device finds what it finds on the CPU, in the same order, whatever becomes of the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.links import cuda
from streamspec.stages.inspect import Inspect, InspectConfig
from streamspec.testing.cuda import FaultyDevice
from streamspec.testing.stages import RecordingContext
from tests.gpu.arenas import batch_of, filled

pytestmark = pytest.mark.gpu

BASIC = Path(__file__).parents[2] / "configs" / "rules" / "basic.yaml"
RULES: list[dict[str, Any]] = [
    {"id": 1, "name": "letters", "pattern": "ab+c"},
    {"id": 2, "name": "start", "pattern": "^abc"},
    {"id": 3, "name": "end", "pattern": "bc\\w$"},
    {"id": 4, "name": "long", "pattern": "aa.*cc", "flags": ["dotall", "singlematch"]},
    {"id": 5, "name": "word", "pattern": r"\bca\b", "flags": ["caseless"]},
    {"id": 6, "name": "weak", "pattern": "c.b"},
    {"id": 7, "name": "either", "pattern": "(abca|cbac|bb?aa)c?"},
    {"id": 8, "name": "anchored", "pattern": r"\A[ab]{3,5}\z"},
    {"id": 9, "name": "letters of Unicode", "pattern": "caba", "flags": ["utf8"]},
]


class Asking:
    """Stands for the service: grants what is asked, or refuses."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal
        self.grant: Grant | None = None
        self.given_back = 0

    def __call__(self, request: ResourceRequest, on_change: Callable[[Grant], None]) -> Grant | Refusal:
        if self.refusal:
            return Refusal(self.refusal)
        self.grant = Grant(1, request, "0", on_change, give_back=self._give_back)
        return self.grant

    def change(self, amount: int, reason: str = "test") -> None:
        assert self.grant is not None
        assert self.grant.on_change is not None
        self.grant.amounts, self.grant.reason = ResourceRequest(gpu_memory_bytes=amount), reason
        self.grant.on_change(self.grant)

    def _give_back(self, grant: Grant) -> None:
        self.given_back += 1


def _stage(folder: Path, rules: list[dict[str, Any]], **options: Any) -> Inspect:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    stage = InspectConfig(type="inspect", rules=(path,), cache_bytes=0, **options).build()
    stage.open()
    return stage


def _run(stage: Inspect, segments: Sequence[Sequence[bytes]], asking: Asking | None = None) -> RecordingContext:
    """All segments as one batch."""
    arena, filled_segments = filled(segments)
    context = RecordingContext()
    if stage.batched:
        if asking is not None:
            stage.attach(arena, asking)
        stage.begin(batch_of(arena, filled_segments))
    for segment in filled_segments:
        stage.process(segment, context)
    return context


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspect, Inspect]:
    folder = tmp_path_factory.mktemp("rules")
    return _stage(folder, RULES), _stage(folder, RULES, device="gpu")


PACKET = st.text("abcA $\n", max_size=40).map(str.encode)
SEGMENTS = st.lists(st.lists(PACKET, max_size=4), min_size=1, max_size=4)


@given(SEGMENTS)
@settings(deadline=None, max_examples=60)
def test_alerts_are_those_of_the_cpu_in_the_same_order(
    pair: tuple[Inspect, Inspect], segments: list[list[bytes]]
) -> None:
    cpu, gpu = pair
    expected, found = _run(cpu, segments), _run(gpu, segments, Asking())
    assert found.records == expected.records
    assert found.tally.counts.get("on_gpu", 0) == sum(any(map(len, packets)) for packets in segments)


@pytest.mark.parametrize("scope", ["payload", "packet", "segment"])
def test_matches_across_pieces_and_in_every_scope(tmp_path: Path, scope: str) -> None:
    rules = [{"id": 1, "name": "x", "pattern": "needle[0-9]+"}, {"id": 2, "name": "y", "pattern": "hay.{0,3}stack"}]
    at = [0, 249, 250, 255, 256, 505, 700]
    packets = [b"." * place + b"needle42" + b"-" * (900 - place) for place in at]
    segments = [[packet[:900]] for packet in packets] + [[b"x" * 800, b"hay", b"stack"], [b""], [b"haystack"] * 3]
    expected = _run(_stage(tmp_path, rules, scope=scope), segments)
    found = _run(_stage(tmp_path, rules, scope=scope, device="gpu"), segments, Asking())
    assert found.records == expected.records
    assert len(found.records) >= len(at)


def test_the_shipped_rules(tmp_path: Path) -> None:
    lines = [
        b"GET /?id=1+UNION+ALL+SELECT+1 HTTP/1.1\r\nUser-Agent: sqlmap/1.0\r\n",
        b"GET /../../../../etc/passwd HTTP/1.1",
        b"x' or 1 = 1 --",
        b"() { :;}; echo",
        b"${jndi:ldap://x/a} PWD=secret",
        b"-----BEGIN RSA PRIVATE KEY-----",
        b"USER anonymous\r\n",
        b"nothing to see here, move along: or 11 = eleven",
    ]
    segments = [[line * 3, bytes(300) + line] for line in lines]
    stages = [InspectConfig(type="inspect", rules=(BASIC,), device=device).build() for device in ("cpu", "gpu")]
    for stage in stages:
        stage.open()
    expected, found = (_run(stage, segments, Asking()) for stage in stages)
    assert found.records == expected.records
    assert found.tally.counts["on_gpu"] == len(segments)


def test_a_payload_that_another_stage_changed_is_the_cpus(tmp_path: Path) -> None:
    stage = _stage(tmp_path, RULES, device="gpu")
    arena, (segment,) = filled([[b"nothing"]])
    stage.attach(arena, Asking())
    stage.begin(batch_of(arena, [segment]))
    segment.payload = memoryview(b"abbbc")
    context = RecordingContext()
    stage.process(segment, context)
    assert len(context.records) == 1
    assert context.variant == 0


# -- faults -----------------------------------------------------------------------------------
SOME = [[b"abbc xx", b"aa--cc"], [b"c b"], [b"abca"], [b"bbaac" * 60]]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FaultyDevice]]:
    """Devices that were opened, newest last; each fails as it is told."""
    opened: list[FaultyDevice] = []

    def open_device(place: str, limit_bytes: int) -> FaultyDevice:
        opened.append(FaultyDevice(place, limit_bytes))
        return opened[-1]

    monkeypatch.setattr(cuda, "open_device", open_device)
    yield opened
    assert all(device.held_bytes == 0 or not device.closed for device in opened)


@pytest.mark.parametrize("at", ["launch", "wait"])
@pytest.mark.parametrize("reason", ["out_of_memory", "device_lost", "timed_out"])
def test_a_fault_sends_segments_to_the_cpu_and_is_counted(
    tmp_path: Path, faulty: list[FaultyDevice], at: str, reason: cuda.FaultReason
) -> None:
    expected = _run(_stage(tmp_path, RULES), SOME)
    stage, asking = _stage(tmp_path, RULES, device="gpu"), Asking()
    arena, segments = filled(SOME)
    stage.attach(arena, asking)
    faulty[0].fail(at, reason)
    stage.begin(batch_of(arena, segments))
    context = RecordingContext()
    for segment in segments:
        stage.process(segment, context)
    assert context.records == expected.records
    assert context.tally.counts[f"gpu_{reason}"] == len(SOME)
    assert "on_gpu" not in context.tally.counts
    assert faulty[0].closed
    assert faulty[0].held_bytes == 0
    assert asking.given_back == (reason != "out_of_memory")


def test_after_no_memory_it_tries_again_and_goes_on(tmp_path: Path, faulty: list[FaultyDevice]) -> None:
    stage, asking = _stage(tmp_path, RULES, device="gpu"), Asking()
    arena, segments = filled(SOME)
    stage.attach(arena, asking)
    faulty[0].fail("launch", "out_of_memory")
    on_gpu = []
    for _ in range(70):
        stage.begin(batch_of(arena, segments))
        context = RecordingContext()
        for segment in segments:
            stage.process(segment, context)
        on_gpu.append(context.tally.counts.get("on_gpu", 0))
    assert on_gpu[:64] == [0] * 64
    assert on_gpu[64:] == [len(SOME)] * 6
    assert len(faulty) == 2


def test_a_grant_that_shrinks_frees_the_memory_at_once_and_one_that_grows_brings_it_back(
    tmp_path: Path, faulty: list[FaultyDevice]
) -> None:
    expected = _run(_stage(tmp_path, RULES), SOME)
    stage, asking = _stage(tmp_path, RULES, device="gpu"), Asking()
    arena, segments = filled(SOME)
    stage.attach(arena, asking)
    counts = []
    for amount in (1 << 20, 100, 64 << 20):
        asking.change(amount)
        held = [device.held_bytes for device in faulty if not device.closed]
        assert sum(held) <= amount
        stage.begin(batch_of(arena, segments))
        context = RecordingContext()
        for segment in segments:
            stage.process(segment, context)
        assert context.records == expected.records
        counts.append((context.tally.counts.get("on_gpu", 0), context.tally.counts.get("gpu_granted_too_little", 0)))
    assert counts == [(4, 0), (0, 4), (4, 0)]


def test_a_refusal_and_a_device_that_cannot_be_opened_leave_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _run(_stage(tmp_path, RULES), SOME)
    refused = _run(_stage(tmp_path, RULES, device="gpu"), SOME, Asking("there is no GPU here"))
    assert refused.records == expected.records
    assert refused.tally.counts["gpu_refused"] == len(SOME)

    def open_device(place: str, limit_bytes: int) -> cuda.Device:
        raise cuda.DeviceFault("unavailable", "no driver")

    monkeypatch.setattr(cuda, "open_device", open_device)
    asking = Asking()
    found = _run(_stage(tmp_path, RULES, device="gpu"), SOME, asking)
    assert found.records == expected.records
    assert found.tally.counts["gpu_unavailable"] == len(SOME)
    assert asking.given_back == 1


def test_auto_learns_from_both_devices(tmp_path: Path) -> None:
    stage, asking = _stage(tmp_path, RULES, device="auto"), Asking()
    arena, segments = filled(SOME)
    stage.attach(arena, asking)
    variants = []
    for _ in range(12):
        stage.begin(batch_of(arena, segments))
        context = RecordingContext()
        for segment in segments:
            stage.process(segment, context)
        variants.append(context.variant)
    assert variants[:6].count(0) == variants[:6].count(1) == 3
    assert variants[6:] == [0] * 6, "the simulator is thousands of times slower"


def test_the_arena_is_seen_and_not_copied() -> None:
    device = cuda.open_device("0", 1 << 20)
    memory = np.zeros(64, dtype=np.uint8)
    view = device.register(memory)
    memory[3] = 7
    assert int(np.asarray(view.copy_to_host())[0]) == 7 << 24
    device.close()
