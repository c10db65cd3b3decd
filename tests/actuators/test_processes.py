"""Cores and priority of real processes: every thread, read back, put back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streamspec.actuators.affinity import Affinity
from streamspec.actuators.leftovers import Leftovers, Owner
from streamspec.actuators.priority import Priority, Urgency
from streamspec.actuators.threads import threads_of

SLEEPER = """
import sys, threading
for _ in range(2):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def pid() -> Iterator[int]:
    """A process with three threads."""
    command = [sys.executable, "-S", "-c", SLEEPER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert len(threads_of(process.pid)) == 3
        yield process.pid


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: affinity has nothing to choose")
async def test_cores_of_all_threads_are_set_and_put_back(pid: int) -> None:
    actuator = Affinity()
    assert (await actuator.probe()).active
    before = os.sched_getaffinity(pid)
    one = frozenset({min(before)})
    applied = await actuator.apply({pid: one})
    assert applied.observed == {pid: one}
    assert all(os.sched_getaffinity(tid) == one for tid in threads_of(pid))
    assert await actuator.read_back() == {pid: one}
    await actuator.apply({pid: frozenset()})
    assert os.sched_getaffinity(pid) == before
    await actuator.apply({pid: one})
    await actuator.restore()
    assert all(os.sched_getaffinity(tid) == before for tid in threads_of(pid))


async def test_cores_that_may_not_be_used_and_processes_that_ended_are_refused(pid: int) -> None:
    actuator = Affinity()
    applied = await actuator.apply({pid: frozenset({4095}), 2**22 - 1: frozenset()})
    assert "cores [4095] may not be used here" in applied.refused[pid]
    assert applied.refused[2**22 - 1] == "the process has ended"
    assert applied.observed == {pid: frozenset(os.sched_getaffinity(0))}


@pytest.mark.root
async def test_nice_and_batch_of_all_threads_are_set_and_put_back(pid: int) -> None:
    actuator = Priority()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    ready = await actuator.probe()
    assert ready.way == "nice -20 to 19, SCHED_BATCH"
    assert os.getpriority(os.PRIO_PROCESS, 0) == own  # the trial left nothing
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    applied = await actuator.apply({pid: Urgency(15, batch=True)})
    assert applied.observed == {pid: Urgency(15, batch=True)}
    assert all(os.getpriority(os.PRIO_PROCESS, tid) == 15 for tid in threads_of(pid))
    assert (await actuator.apply({pid: Urgency(-5)})).observed == {pid: Urgency(-5)}
    await actuator.restore()
    assert os.getpriority(os.PRIO_PROCESS, pid) == own


UNPRIVILEGED = """
import asyncio, os, resource, subprocess
from streamspec.actuators.priority import Priority, Urgency
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
os.setuid(65534)
async def main():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        actuator = Priority()
        print(await actuator.probe())
        print((await actuator.apply({child.pid: Urgency(7)})).observed[child.pid].nice)
        applied = await actuator.apply({child.pid: Urgency(0)})
        print(applied.observed[child.pid].nice, applied.refused[child.pid])
        print(actuator.can_become(child.pid, 3), actuator.can_become(child.pid, 9))
asyncio.run(main())
"""


@pytest.mark.root
@pytest.mark.slow
def test_without_the_capability_workers_become_nicer_and_keep_that_level() -> None:
    command = [sys.executable, "-c", UNPRIVILEGED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ready, nicer, refused, possible = done.stdout.splitlines()
    assert "workers can become nicer and not come back; to enable: give the process CAP_SYS_NICE" in ready
    assert nicer == "7"
    assert refused == "7 nice 0 needs CAP_SYS_NICE; it stays at 7"
    assert possible == "False True"


def test_notes_of_dead_processes_are_told_from_those_of_living_ones(tmp_path, pid: int) -> None:
    notes = Leftovers(tmp_path)
    living = Owner.of(pid)
    assert living is not None
    (tmp_path / f"{living}.json").write_text('{"bandwidth": {"interface": "a"}}')
    (tmp_path / f"{pid}-{living.start_ticks - 1}.json").write_text('{"bandwidth": {"interface": "b"}, "cgroup": 1}')
    (tmp_path / "4194303-5.json").write_text("torn {")
    (tmp_path / "unrelated.txt").write_text("x")
    ((dead, content),) = notes.of_the_dead("bandwidth")
    assert content == {"interface": "b"}
    notes.settled(dead, "bandwidth")
    assert notes.of_the_dead("bandwidth") == []
    assert notes.of_the_dead("cgroup") == [(dead, 1)]
    notes.settled(dead, "cgroup")
    assert not (tmp_path / f"{dead}.json").exists()
    notes.note("cgroup", {"x": 1})
    assert (tmp_path / f"{notes.own}.json").stat().st_size
    notes.note("cgroup", None)
    assert not (tmp_path / f"{notes.own}.json").exists()


async def test_notes_that_cannot_be_written_are_no_obstacle(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    notes = Leftovers(tmp_path / "file" / "below")
    notes.note("cgroup", {"x": 1})
    assert notes.of_the_dead("cgroup") == []
