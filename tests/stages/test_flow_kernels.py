"""The kernels compiled and as plain Python give the same, and neither leaves its bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def probe(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.stages.kernel_probe"],
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:] or f"exit {done.returncode}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_compiled_kernels_equal_plain_python_at_the_edge_of_readable_memory() -> None:
    compiled = probe()
    plain = probe(NUMBA_DISABLE_JIT="1")
    assert compiled["packets"] > 4000
    assert compiled == plain
