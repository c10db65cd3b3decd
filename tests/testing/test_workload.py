"""The stages that misbehave, alone and in a whole service with files as sinks."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest

from streamspec.app import Service
from streamspec.config import ServiceConfig
from streamspec.core.interfaces import Stage
from streamspec.stages.map import MapConfig
from streamspec.testing.stages import make_segment, run_stage
from streamspec.testing.waiting import until


def _stage(name: str, **options: object) -> Stage:
    return MapConfig(type="map", function=f"streamspec.testing.workload:{name}", options=options).build()


def test_spin_burns_what_the_payload_says_and_sleep_burns_nothing() -> None:
    order = (3000).to_bytes(4, "little")
    before = time.thread_time_ns()
    run_stage(_stage("Spin"), make_segment([order]))
    spun = time.thread_time_ns()
    assert spun - before >= 3_000_000
    started = time.monotonic_ns()
    run_stage(_stage("Sleep"), make_segment([order]))
    assert time.monotonic_ns() - started >= 3_000_000
    assert time.thread_time_ns() - spun < 3_000_000


def test_identity_and_other_payloads_pass() -> None:
    for name in ("Identity", "Crash"):
        segment = make_segment([b"good"])
        run_stage(_stage(name), segment)
        assert bytes(segment.payload) == b"good"
    with pytest.raises(ValueError, match="the payload says so"):
        run_stage(_stage("Crash"), make_segment([b"FAIL"]))


def test_fail_times_counts_over_all_instances(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match=f"attempt {attempt} of 2"):
            run_stage(_stage("FailTimes", folder=str(tmp_path), times=2), make_segment([b"x"]))
    context = run_stage(_stage("FailTimes", folder=str(tmp_path), times=2), make_segment([b"x"]))
    assert context.tally["attempts_needed"] == 3
    with pytest.raises(RuntimeError):
        run_stage(_stage("FailTimes", folder=str(tmp_path), times=2), make_segment([b"another"]))


@pytest.mark.slow
async def test_a_service_survives_them_and_files_hold_results_and_dead_letters(tmp_path: Path) -> None:
    """Each order comes from a peer of its own, so it is a segment of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "attempts").mkdir()
    lines = {"type": "jsonl", "write": "segments", "payload": "text"}
    config = ServiceConfig.model_validate(
        {
            "sources": {"packets": {"type": "udp", "bind": f"127.0.0.1:{port}", "linger": "1 ms"}},
            "stages": [
                {"type": "map", "function": "streamspec.testing.workload:Crash"},
                {
                    "type": "map",
                    "function": "streamspec.testing.workload:FailTimes",
                    "options": {"folder": str(tmp_path / "attempts")},
                },
                {"type": "compress", "codec": "lz4", "min_bytes": 1000},
            ],
            "sinks": {"out": {**lines, "path": str(tmp_path / "out.jsonl")}},
            "dead_letter": {**lines, "path": str(tmp_path / "dead.jsonl")},
            "engine": {"workers": 2, "arena_bytes": "8 MiB", "retries": 1, "time_limit": "0.5 s"},
        }
    )
    orders = [b"good", b"SEGV", b"KILL", b"FAIL", b"HANG", b"fine"]
    service = Service(config)
    task = asyncio.create_task(service.run())
    try:
        await until(lambda: task.done() or any(source.task for source in service.sources.values()))
        for order in orders:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.sendto(order, ("127.0.0.1", port))
        await until(lambda: len(_lines(tmp_path / "out.jsonl")) + len(_lines(tmp_path / "dead.jsonl")) == 6)
    finally:
        service.stop()
        await asyncio.gather(task, return_exceptions=True)
    assert sorted(line["payload"] for line in _lines(tmp_path / "out.jsonl")) == ["fine", "good"]
    letters = {line["payload"]: line["error"] for line in _lines(tmp_path / "dead.jsonl")}
    assert letters.keys() == {"SEGV", "KILL", "FAIL", "HANG"}
    assert "the payload says so" in letters["FAIL"]
    assert service.summary()["segments_lost"] == 0


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
