"""What every test shares: leak checks, the folder of real captures, honest skips."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import uvloop

CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[2] / "shared" / "pcaps"))


@pytest.fixture
def captures() -> Path:
    """The folder of real captures; the test is skipped where there is none."""
    if not CAPTURES.is_dir():
        pytest.skip("no folder of real captures (set STREAMSPEC_CAPTURES)")
    return CAPTURES


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
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """After a test there are no new threads, processes or descriptors."""
    threads = set(threading.enumerate())
    descriptors = _open_descriptors()
    children = _children()
    yield
    gc.collect()
    left_threads = {t for t in threading.enumerate() if t not in threads and not t.daemon}
    left_children = _children() - children
    left_descriptors = {
        d for d in _open_descriptors() - descriptors if d[1].startswith(("socket:", "/memfd:", "pipe:", "/dev/shm"))
    }
    assert not left_threads, f"threads left: {left_threads}"
    assert not left_children, f"processes left: {left_children}"
    assert not left_descriptors, f"descriptors left: {left_descriptors}"


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
