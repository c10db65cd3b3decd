"""Threads of a process: on Linux, affinity and nice belong to each thread, and new ones inherit them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from streamspec.actuators.leftovers import PROC


def threads_of(pid: int, proc: Path = PROC) -> list[int]:
    """Thread ids; empty when the process is gone."""
    try:
        return [int(name) for name in os.listdir(proc / str(pid) / "task")]
    except OSError:
        return []


def for_each_thread(pid: int, act: Callable[[int], object]) -> None:
    """``act(tid)`` for all threads, those that start meanwhile included.

    Raises:
        ProcessLookupError: the process is gone.
        OSError: what ``act`` raised, except for threads that have just ended.
    """
    done: set[int] = set()
    for _ in range(4):
        new = set(threads_of(pid)) - done
        if not new:
            break
        for tid in sorted(new):
            try:
                act(tid)
            except ProcessLookupError:
                continue
            finally:
                done.add(tid)
    if not threads_of(pid):
        raise ProcessLookupError(pid)
