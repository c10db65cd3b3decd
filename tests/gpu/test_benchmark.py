"""The benchmark runs everywhere, and says what it could not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_without_a_gpu_it_measures_the_cpu_and_says_so() -> None:
    from numba import cuda

    if cuda.is_available():
        pytest.skip("there is a GPU: run it by hand")
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=160)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["what"] for row in rows] == ["features", "inspect", "grant taken back", "automatic choice"]
    assert {row["gpu"] for row in rows} == {"not exercised: no NVIDIA GPU"}
    assert rows[0]["cpu_gigabytes_per_second"] > 0
