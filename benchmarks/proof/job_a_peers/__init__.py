"""The peers of job A, one file each: ``python -m benchmarks.proof.job_a_peers.NAME JOB``, with :class:`Job` as JSON.

All read the whole topic, call :mod:`benchmarks.proof.job_a_work` and write to another topic, until SIGTERM. They run
in their own environment and import nothing of the service itself beside what the work function needs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """What one process of a peer does.

    Attributes:
        batches: whether records are worked on in batches, where the peer has an idiom for that.
        index: of this process among ``processes``.
        ports: free ones, as many as processes.
    """

    brokers: str
    topic: str
    out: str
    batches: bool = False
    index: int = 0
    processes: int = 1
    ports: tuple[int, ...] = ()

    @classmethod
    def given(cls) -> Job:
        """From the command line, or from ``JOB`` where a peer's own command starts us."""
        return cls(**json.loads(os.environ.get("JOB") or sys.argv[1]))

    @property
    def group(self) -> str:
        """Consumer group."""
        return f"group-{self.out}"


def start(function: Callable[[Job], None]) -> None:
    """Run a peer."""
    function(Job.given())
