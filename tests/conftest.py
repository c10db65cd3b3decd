"""What every test shares: leak checks, the folder of real captures, honest skips."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

if TYPE_CHECKING:
    from tests.services import Receiver

CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[2] / "shared" / "pcaps"))


@pytest.fixture
def captures() -> Path:
    """The folder of real captures; the test is skipped where there is none."""
    if not CAPTURES.is_dir():
        pytest.skip("no folder of real captures (set STREAMSPEC_CAPTURES)")
    return CAPTURES


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A UDP socket that collects what a sink sends."""
    from tests.services import Receiver

    receiver = Receiver()
    yield receiver
    receiver.socket.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Markers that need a privilege skip with their reason."""
    if os.geteuid() == 0:
        return
    for item in items:
        for marker in ("root", "namespace"):
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: not running as root"))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Modules that say ``BOTH_LOOPS = True`` run each asynchronous test on asyncio and on uvloop."""
    if not getattr(getattr(item, "module", None), "BOTH_LOOPS", False):
        return {"asyncio": asyncio.new_event_loop}
    uvloop.new_event_loop().close()  # its first loop opens what stays open for the whole process
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _open_descriptors() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue
    return found


def _children() -> set[int]:
    """Process ids of children and their children; those that are waited for already are zombies and do not count."""
    found, to_do = set(), [os.getpid()]
    while to_do:
        pid = to_do.pop()
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                to_do += (children := [int(child) for child in task.read_text().split()])
                found.update(children)
    return {pid for pid in found if _state(pid) not in ("Z", "X")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@dataclass
class _Held:
    """What this process holds now."""

    threads: set[threading.Thread]
    children: set[int]
    descriptors: set[tuple[str, str]]

    @classmethod
    def now(cls) -> _Held:
        threads = {thread for thread in threading.enumerate() if not thread.daemon}
        watched = ("socket:", "/memfd:", "pipe:", "/dev/shm")
        return cls(threads, _children(), {d for d in _open_descriptors() if d[1].startswith(watched)})

    def beyond(self, before: _Held) -> dict[str, set[object]]:
        """What was not there before, by kind."""
        left = {name: getattr(self, name) - getattr(before, name) for name in ("threads", "children", "descriptors")}
        return {name: found for name, found in left.items() if found}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """After a test there are no new threads, processes or descriptors."""
    before = _Held.now()
    yield
    if _Held.now().beyond(before):
        gc.collect()  # a cycle may hold a socket; a whole collection takes a tenth of a second, so only then
        left = _Held.now().beyond(before)
        assert not left, f"left behind: {left}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """The last lines say what was not exercised on this machine, and why."""
    yield
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not exercised here: {count} test{'s'[: count > 1]}: {reason}")
