"""Programs run to their end or watched while they run, with the CPU time and memory of their whole tree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM, Signals
from types import TracebackType
from typing import IO, Any

import psutil

from benchmarks.proof.harness import NotRun

NICENESS = -15
"""Of receivers whose losses are counted, and of what sends to them: nearer to a host that does nothing else."""
SAMPLE_SECONDS = 0.1
"""Between two looks at the memory of a tree."""


@dataclass(frozen=True)
class Ran:
    """What one run of a program took.

    Attributes:
        cpu_seconds: user and system time of it and all its descendants that were waited for.
        peak_memory_bytes: largest sum of the proportional set sizes of its tree, so that shared memory counts once;
            0 when it ended before the first sample.
    """

    returncode: int
    output: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


class Tree:
    """A started program and its descendants. Ends them at the end of the ``with`` block.

    Args:
        command: what to start.
        cores: where it may run.
        log: where its standard output and error go.
        sampling: look at its memory all the time; otherwise only in :meth:`sample`.
        favoured: before all else on the host, where permitted.
    """

    def __init__(
        self,
        command: Sequence[str],
        cores: Sequence[int],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        sampling: bool = True,
        favoured: bool = False,
    ) -> None:
        self._log = log
        self._file: IO[bytes] = log.open("wb")
        nice = ["nice", "-n", str(NICENESS)] if favoured and not os.geteuid() else []
        pinned = [*nice, "taskset", "-c", ",".join(map(str, cores)), *command]
        surroundings = {**os.environ, **(environment or {})}
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            pinned, stdin=subprocess.DEVNULL, stdout=self._file, stderr=subprocess.STDOUT, env=surroundings, cwd=folder
        )
        self.pid = self._process.pid
        self._ended = threading.Event()
        self._peak_bytes = 0
        self._sampling = sampling
        self._sampler = threading.Thread(target=self._sample, name="memory of a tree", daemon=True)

    def __enter__(self) -> Tree:
        if self._sampling:
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.poll() is None

    @property
    def peak_memory_bytes(self) -> int:
        """Up to now."""
        return self._peak_bytes

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[psutil.Process]:
        """The program and its descendants that live."""
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """User and system time of all that live, and of their children that were waited for."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def signal(self, number: Signals) -> None:
        """To the program itself."""
        if self.running:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> Ran:
        """Until it ends by itself; killed after ``seconds``. Raises NotRun then."""
        killer = threading.Timer(seconds, self._process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(self.pid, 0)
        finally:
            wall = time.monotonic() - self.started
            late = not killer.is_alive()
            killer.cancel()
            self._end_sampling()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if late:
            raise NotRun(f"did not end within {seconds:.0f} s")
        return Ran(self._process.returncode, self.output, wall, usage.ru_utime + usage.ru_stime, self._peak_bytes)

    def stop(self, number: Signals = SIGTERM, seconds: float = 15.0) -> int:
        """Signal it, kill what is left after ``seconds``; its exit code."""
        left = self.processes()
        self.signal(number)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_sampling()
        for process in left[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return self._process.returncode

    def _end_sampling(self) -> None:
        self._ended.set()
        if self._sampler.is_alive():
            self._sampler.join()
        self._file.close()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()

    def sample(self) -> None:
        """Look at its memory."""
        self._peak_bytes = max(self._peak_bytes, sum(_set_size_bytes(one.pid) for one in self.processes()))


def _set_size_bytes(pid: int) -> int:
    """Proportional set size."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def run_to_end(command: Sequence[str], cores: Sequence[int], log: Path, *, seconds: float = 180.0, **more: Any) -> Ran:
    """Run a program to its end. Raises NotRun with its last words when it fails or takes too long."""
    with Tree(command, cores, log, **more) as tree:
        ran = tree.wait(seconds)
    if ran.returncode:
        last = [line for line in ran.output.splitlines() if line.strip()][-1:] or ["no output"]
        raise NotRun(f"exit code {ran.returncode}: {last[0]}")
    return ran
