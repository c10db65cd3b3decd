"""The tests of this folder without a GPU: in numba's simulator, which only a process of its own can switch on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", reason="this is the simulator's process")
def test_everything_marked_gpu_holds_in_the_simulator() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(FOLDER), "-p", "no:cacheprovider"]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(
        command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True, check=False, timeout=380
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 15
    assert "skipped" not in done.stdout
