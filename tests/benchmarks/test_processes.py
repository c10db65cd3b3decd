"""What a program and its descendants took."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.proof.harness import NotRun
from benchmarks.proof.processes import Tree, run_to_end

CORES = sorted(os.sched_getaffinity(0))[:1]
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True); print('done')"


@pytest.mark.slow
def test_cpu_time_is_that_of_children_too(tmp_path: Path) -> None:
    ran = run_to_end([sys.executable, "-c", CHILD], CORES, tmp_path / "log")
    assert ran.output == "done\n"
    assert 0.3 <= ran.cpu_seconds < 3
    assert ran.wall_seconds >= 0.3
    assert 1 << 20 < ran.peak_memory_bytes < 1 << 30


@pytest.mark.slow
def test_a_failure_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(NotRun, match="exit code 3: no such capture"):
        run_to_end([sys.executable, "-c", "print('no such capture'); raise SystemExit(3)"], CORES, tmp_path / "log")


@pytest.mark.slow
def test_what_does_not_end_is_killed_and_told(tmp_path: Path) -> None:
    with pytest.raises(NotRun, match="did not end"):
        run_to_end(["sleep", "60"], CORES, tmp_path / "log", seconds=0.1)


@pytest.mark.slow
def test_a_running_tree_is_watched_and_ended(tmp_path: Path) -> None:
    with Tree(["cat", "/dev/zero"], CORES, tmp_path / "log", sampling=False) as tree:
        tree.sample()
        assert tree.running
        assert tree.peak_memory_bytes > 0
        assert tree.cpu_seconds() >= 0
        tree.stop()
    assert not tree.running
