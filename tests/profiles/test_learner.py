"""The learner process, real: counting, dying, ending, keeping its state."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import structlog

from streamspec.core.outcome import DEAD_LETTERED, SHED
from streamspec.core.prediction import PREDICTION
from streamspec.profiles.base_model import COVERAGES, BaseModel, head_names
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.learner import BaseSource, LearnerClient, StatePlace, base_source
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.snapshot import Snapshot
from streamspec.profiles.trees import Forest
from streamspec.testing.outcomes import HEADS, make_outcomes
from tests.profiles.test_online import ProportionalBase

pytestmark = pytest.mark.slow

FAST = LearningConfig(snapshot_interval=0.1, state_interval=0.5, tree_cpu_share=0)
"""Without trees a learner starts in half the time: loading River takes the rest."""


@asynccontextmanager
async def learning(config: LearningConfig = FAST, **options: object) -> AsyncIterator[LearnerClient]:
    client = LearnerClient(HEADS, config, **options)  # type: ignore[arg-type]
    client.start()
    try:
        async with asyncio.timeout(30):
            await client.wait_ready()
            yield client
    finally:
        await client.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 (counters in shared memory wake nobody)
            await asyncio.sleep(0.01)


def test_a_configuration_is_documented_and_bounded() -> None:
    for name, field in LearningConfig.model_fields.items():
        assert field.description, name
    with pytest.raises(ValueError):
        LearningConfig(tree_cpu_share=2.0)


async def test_outcomes_become_snapshots_that_predict_them() -> None:
    seen: list[Snapshot] = []
    config = LearningConfig(snapshot_interval=0.1, tree_cpu_share=0.2)
    async with learning(config, on_snapshot=seen.append) as client:
        rows = make_outcomes(1, 3000)
        client.offer(rows)
        await client.wait_learned()
        assert (client.learned, client.finished, dict(client.skipped)) == (3000, 3000, {})
        await until(lambda: seen and seen[-1].status["learned"] == 3000)
        assert [snapshot.version for snapshot in seen] == list(range(1, len(seen) + 1))
        assert client.snapshot is seen[-1]
        assert client.tree_counts["learned"] > 0
        assert sum(client.tree_counts.values()) == 3 * 3000
        out = np.zeros(3000, dtype=PREDICTION)
        client.snapshot.predict(rows["features"], 0.5, out)
        measured = rows["useful_ns"].sum(1)
        assert np.abs(out["work_ns"] - measured).sum() / measured.sum() < 0.15
        assert os.getpriority(os.PRIO_PROCESS, client.pid or 0) >= 10


async def test_the_base_model_goes_along() -> None:
    base = BaseSource(ProportionalBase(), b"any", "tests.profiles.test_learner:load_base", "base:1")
    async with learning(base=base) as client:
        client.offer(make_outcomes(1, 200))
        await client.wait_learned()
        await until(lambda: client.snapshot.status.get("learned") == 200)
        assert client.snapshot.status["heads"]["useful_time:inspect#1"]["has_base"]


def load_base(content: bytes) -> ProportionalBase:
    assert content == b"any"
    return ProportionalBase()


def stored_model() -> BaseModel:
    """One tree for each head that says 20 us, or a half."""
    names = (*head_names(HEADS), "useful_time:other")
    count = len(names)
    forest = Forest(
        np.zeros((count, 1), dtype=np.uint8),
        np.full((count, 1), np.inf, dtype=np.float32),
        np.zeros((count, 2), dtype=np.float32),
        np.arange(count + 1),
    )
    bias = np.array([np.log(20e3) if "time" in name else np.log(0.5) for name in names])
    return BaseModel(names, forest, bias, np.zeros(count), np.zeros((count, len(COVERAGES))))


async def test_a_stored_base_model_is_the_same_on_both_sides() -> None:
    base = base_source(stored_model(), HEADS)
    assert tuple(base.model.heads) == head_names(HEADS)
    async with learning(base=base) as client:
        rows, first, said = make_outcomes(1, 200), np.zeros(200, dtype=PREDICTION), np.zeros(200, dtype=PREDICTION)
        client.snapshot.predict(rows["features"], 0.5, first)
        np.testing.assert_allclose(first["work_ns"], 40e3, rtol=1e-4)
        client.offer(rows)
        await client.wait_learned()
        await until(lambda: client.snapshot.status.get("learned") == 200)
        client.snapshot.predict(rows["features"], 0.5, said)
        assert np.median(np.abs(np.log(said["work_ns"] / rows["useful_ns"].sum(1)))) < 0.3


async def test_a_drift_is_told_at_once() -> None:
    config = LearningConfig(snapshot_interval=60, tree_cpu_share=0)
    async with learning(config) as client:
        client.offer(make_outcomes(1, 2000))
        await client.wait_learned()
        version = client.snapshot.version
        client.offer(make_outcomes(2, 50, slower=3.0))
        await until(lambda: client.snapshot.version > version)
        assert client.drifts > 0


async def test_each_outcome_is_learned_or_skipped_for_one_reason() -> None:
    async with learning(LearningConfig(backlog=256, tree_cpu_share=0)) as client:
        os.kill(client.pid or 0, signal.SIGTERM)  # as a service manager does to all; the dispatcher ends it
        os.kill(client.pid or 0, signal.SIGSTOP)
        rows = make_outcomes(1, 1000)
        rows["ending"][:10], rows["ending"][10:30], rows["profiled"][30:60] = DEAD_LETTERED, SHED, 0
        rows["useful_ns"][60:64] = 0
        client.offer(rows)
        client.pause()
        client.offer(make_outcomes(2, 5))
        client.resume()
        os.kill(client.pid or 0, signal.SIGCONT)
        await client.wait_learned()
        client.offer(make_outcomes(3, 7))
        await client.wait_learned()
    assert dict(client.skipped) == {
        "failed_segment": 10,
        "shed": 20,
        "not_profiled": 30,
        "learner_behind": 940 - 256,
        "paused": 5,
        "unmeasured": 4,
    }
    assert client.restarts == 0
    assert client.learned == 252 + 7
    assert client.learned + sum(client.skipped.values()) == client.finished == 1012


async def test_a_killed_learner_is_replaced_and_nothing_is_counted_twice() -> None:
    async with learning() as client:
        for round_number in range(2):
            for seed in range(5):
                client.offer(make_outcomes(seed, 200))
            await asyncio.sleep(0)
            os.kill(client.pid or 0, signal.SIGKILL)
            await until(lambda wanted=round_number + 1: client.restarts == wanted)
            version = client.snapshot.version
            client.offer(make_outcomes(round_number, 100))
            await client.wait_ready()
            await client.wait_learned()
        assert client.learned + sum(client.skipped.values()) == client.finished == 2 * 1100
        assert set(client.skipped) <= {"learner_died"}
        assert client.learned >= 2 * 100
        await until(lambda: client.snapshot.version > version)
    assert client.waiting == 0


async def test_a_learner_killed_at_any_moment_leaves_exact_counts() -> None:
    """It is stopped in the middle of its work, so what it had taken is known to nobody but the ring."""
    async with learning() as client:
        client.offer(make_outcomes(1, 8000))
        await until(lambda: client.learned > 0)
        os.kill(client.pid or 0, signal.SIGKILL)
        await until(lambda: client.restarts)
        await client.wait_ready()
        await client.wait_learned()
        assert client.learned + client.skipped.get("learner_died", 0) == 8000
        assert client.skipped.get("learner_died", 0) <= 256


async def test_at_the_end_what_waits_is_learned_and_kept(tmp_path: Path) -> None:
    place = StatePlace(tmp_path / "profiles.db")
    async with learning(LearningConfig(state_interval=3600, tree_cpu_share=0), state=place) as client:
        client.offer(make_outcomes(1, 3000))
    assert client.learned == 3000
    async with learning(state=place) as again:
        await until(lambda: again.snapshot.version)
        assert again.snapshot.status["learned"] == 3000
        again.offer(make_outcomes(2, 100))
        await again.wait_learned()
        await until(lambda: again.snapshot.status["learned"] == 3100)
        assert again.learned == 100
    with ProfileDatabase.open(place.database, read_only=True) as database:
        layer = OnlineLayer(HEADS)
        assert layer.restore(database.online_state("online") or b"") == len(HEADS)
        assert layer.learned == 3100


async def test_after_a_kill_it_goes_on_from_the_stored_state(tmp_path: Path) -> None:
    place = StatePlace(tmp_path / "profiles.db")
    async with learning(state=place) as client:
        client.offer(make_outcomes(1, 500))
        await client.wait_learned()
        await until(lambda: _stored(place.database) == 500)
        os.kill(client.pid or 0, signal.SIGKILL)
        await until(lambda: client.restarts)
        await client.wait_ready()
        await until(lambda: client.snapshot.status["learned"] == 500)


def _stored(path: Path) -> int:
    with ProfileDatabase.open(path, read_only=True) as database:
        content = database.online_state("online")
    if content is None:
        return 0
    layer = OnlineLayer(HEADS)
    layer.restore(content)
    return layer.learned


async def test_a_locked_database_does_not_stop_it(tmp_path: Path) -> None:
    place = StatePlace(tmp_path / "profiles.db")
    ProfileDatabase.open(place.database).close()
    lock = sqlite3.connect(place.database, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with structlog.testing.capture_logs() as logs:
        async with learning(state=place) as client:
            client.offer(make_outcomes(1, 300))
            await client.wait_learned()
            await until(lambda: any("cannot be stored" in line["event"] for line in logs))
            lock.execute("COMMIT")
            lock.close()
            client.offer(make_outcomes(2, 10))
            await until(lambda: any("stored again" in line["event"] for line in logs))
            assert client.learned == 310
    assert sum("cannot be stored" in line["event"] for line in logs) == 1


async def test_a_damaged_database_does_not_stop_it(tmp_path: Path) -> None:
    place = StatePlace(tmp_path / "profiles.db")
    place.database.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    before = place.database.read_bytes()
    with structlog.testing.capture_logs() as logs:
        async with learning(state=place) as client:
            client.offer(make_outcomes(1, 300))
            await client.wait_learned()
    assert client.learned == 300
    assert any("starts anew" in line["event"] for line in logs)
    assert place.database.read_bytes() == before


async def test_a_state_of_another_chain_is_not_used(tmp_path: Path) -> None:
    place = StatePlace(tmp_path / "profiles.db")
    with ProfileDatabase.open(place.database) as database:
        database.store_online_state("online", b"no state at all")
    with structlog.testing.capture_logs() as logs:
        async with learning(state=place) as client:
            assert client.snapshot.status == {} or client.snapshot.status["learned"] == 0
    assert any("starts anew" in line["event"] for line in logs)


async def test_learning_that_is_off_starts_nothing() -> None:
    client = LearnerClient(HEADS, LearningConfig(enabled=False))
    client.start()
    client.offer(make_outcomes(1, 10))
    client.resume()
    assert client.pid is None
    assert dict(client.skipped) == {"paused": 10}
    await client.close()
    client.offer(make_outcomes(1, 1))
    assert client.skipped["stopped"] == 1


async def test_a_learner_that_does_not_end_is_killed() -> None:
    async with learning() as client:
        os.kill(client.pid or 0, signal.SIGSTOP)
        client.offer(make_outcomes(1, 20))
        await client.close(timeout_seconds=0.2)
        assert client.skipped["stopped"] == 20
        assert client.pid is None


_PARENT = """
import asyncio, os, sys
from pathlib import Path
from streamspec.profiles.learner import LearnerClient, StatePlace
from streamspec.testing.outcomes import HEADS, make_outcomes

async def main():
    client = LearnerClient(HEADS, state=StatePlace(Path(sys.argv[1])))
    client.start()
    await client.wait_ready()
    client.offer(make_outcomes(1, 400))
    await client.wait_learned()
    print(client.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_it_ends_when_the_dispatcher_is_killed_and_keeps_what_it_learned(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PARENT, str(tmp_path / "profiles.db")],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(pid)
    assert _stored(tmp_path / "profiles.db") == 400


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
