"""Processor, memory and network of the host, several times a second: one :class:`HostSample` per call.

Rates and ratios are over the time since the call before. psutil reads the counters; it is pointed at another
root for the time of a call when there is one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamspec.core.clock import SystemClock
from streamspec.core.control import HostState
from streamspec.core.interfaces import Clock
from streamspec.core.topology import Cores
from streamspec.monitors.files import read_number, read_text

PROC, SYS = Path("/proc"), Path("/sys")
FREQUENCIES_PER_SAMPLE = 4
"""Cores whose frequency is read in one sample: some drivers ask the core itself, which takes its time."""
_PRESSURE = re.compile(r"some avg10=([0-9.]+) .* total=(\d+)")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """One interface, per second; drops are what the kernel or the device gave up."""

    received_bytes: float = 0.0
    sent_bytes: float = 0.0
    received_packets: float = 0.0
    sent_packets: float = 0.0
    received_drops: float = 0.0
    sent_drops: float = 0.0
    errors: float = 0.0


@dataclass(frozen=True, slots=True)
class HostSample:
    """What the host did since the sample before; the first one has zeros for everything that is a rate.

    Attributes:
        interval_seconds: that time.
        core_busy: by CPU number, share of time not idle (0 to 1), of the usable ones.
        busy_ratio: their mean.
        own_busy_ratio: share of the usable cores that the given processes took.
        steal_ratio: share that the hypervisor gave to others.
        wait_ratio: share idle while waiting for disks.
        frequency_hertz: by CPU number, of those that tell.
        pressure: by ``cpu``, ``memory``, ``io``: share of time in which something waited for it (PSI); absent
            where the kernel does not count it.
        memory_total_bytes, memory_available_bytes: of the host.
        load: runnable or waiting tasks, mean of a minute.
        network: by interface, without loopback.
        backlog_drops: packets per second that the kernel dropped before any protocol (softnet).
        backlog_squeezed: per second, how often it had to stop before it was through.
    """

    at_ns: int
    interval_seconds: float = 0.0
    core_busy: Mapping[int, float] = field(default_factory=dict)
    busy_ratio: float = 0.0
    own_busy_ratio: float = 0.0
    steal_ratio: float = 0.0
    wait_ratio: float = 0.0
    frequency_hertz: Mapping[int, float] = field(default_factory=dict)
    pressure: Mapping[str, float] = field(default_factory=dict)
    memory_total_bytes: int = 0
    memory_available_bytes: int = 0
    load: float = 0.0
    network: Mapping[str, NetworkUse] = field(default_factory=dict)
    backlog_drops: float = 0.0
    backlog_squeezed: float = 0.0

    @property
    def state(self) -> HostState:
        """As policies see it."""
        available = self.memory_available_bytes / self.memory_total_bytes if self.memory_total_bytes else 1.0
        return HostState(
            cpu_busy_ratio=self.busy_ratio,
            others_busy_ratio=max(0.0, self.busy_ratio - self.own_busy_ratio),
            steal_ratio=self.steal_ratio,
            pressure_ratio=self.pressure.get("cpu", 0.0),
            memory_available_ratio=available,
        )


@dataclass(slots=True)
class _Counters:
    """Totals since boot."""

    at_ns: int
    cores: dict[int, Any]
    own_seconds: dict[int, float]
    pressure_us: dict[str, int]
    network: dict[str, Any]
    softnet: tuple[int, int]


class HostMonitor:
    """Keeps the counters of the call before. For one thread.

    Args:
        proc, sys: roots.
        usable: cores that count; ``None``: those of this process.
        clock: for the time between samples.
    """

    def __init__(
        self,
        *,
        proc: Path = PROC,
        sys: Path = SYS,
        usable: Cores | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._proc, self._sys = proc, sys
        self._usable = frozenset(os.sched_getaffinity(0)) if usable is None else usable
        self._clock = clock or SystemClock()
        self._before: _Counters | None = None
        self._hertz: dict[int, float] = {}
        self._next_core = 0

    def sample(self, own_pids: Iterable[int] = ()) -> HostSample:
        """Read everything: well under a millisecond on a few cores.

        Args:
            own_pids: processes of this service; what others take of the processor is the rest.
        """
        import psutil

        with _rooted(psutil, self._proc):
            now = self._counters(psutil, own_pids)
            memory = psutil.virtual_memory()
        before, self._before = self._before, now
        self._read_frequencies()
        gone = HostSample(
            now.at_ns,
            frequency_hertz=dict(self._hertz),
            memory_total_bytes=int(memory.total),
            memory_available_bytes=int(memory.available),
            load=_load(self._proc),
        )
        return gone if before is None else _with_rates(gone, before, now)

    def _counters(self, psutil: Any, own_pids: Iterable[int]) -> _Counters:
        times = psutil.cpu_times(percpu=True)
        numbers = _core_numbers(self._proc)
        cores = dict(zip(numbers, times, strict=False)) if len(numbers) == len(times) else dict(enumerate(times))
        return _Counters(
            self._clock.monotonic_ns(),
            {number: cores[number] for number in sorted(self._usable & cores.keys())},
            {pid: seconds for pid in own_pids if (seconds := _cpu_seconds(self._proc, pid)) is not None},
            _pressure_us(self._proc),
            {name: use for name, use in psutil.net_io_counters(pernic=True, nowrap=False).items() if name != "lo"},
            _softnet(self._proc),
        )

    def _read_frequencies(self) -> None:
        cores = sorted(self._usable)
        for offset in range(min(FREQUENCIES_PER_SAMPLE, len(cores))):
            number = cores[(self._next_core + offset) % len(cores)]
            folder = self._sys / f"devices/system/cpu/cpu{number}/cpufreq"
            kilohertz = read_number(folder / "scaling_cur_freq")
            if kilohertz:
                self._hertz[number] = kilohertz * 1e3
        self._next_core = (self._next_core + FREQUENCIES_PER_SAMPLE) % max(len(cores), 1)


@contextmanager
def _rooted(psutil: Any, proc: Path) -> Iterator[None]:
    if proc == PROC:
        yield
        return
    before, psutil.PROCFS_PATH = getattr(psutil, "PROCFS_PATH", "/proc"), str(proc)
    try:
        yield
    finally:
        psutil.PROCFS_PATH = before


def _with_rates(base: HostSample, before: _Counters, now: _Counters) -> HostSample:
    seconds = max((now.at_ns - before.at_ns) / 1e9, 1e-9)
    shares = {n: _shares(before.cores[n], t) for n, t in now.cores.items() if n in before.cores}
    busy = {number: share["busy"] for number, share in shares.items()}
    count = max(len(shares), 1)
    own = sum(max(0.0, used - before.own_seconds.get(pid, used)) for pid, used in now.own_seconds.items())
    return HostSample(
        base.at_ns,
        seconds,
        busy,
        sum(busy.values()) / count,
        min(own / (seconds * count), 1.0),
        sum(share["steal"] for share in shares.values()) / count,
        sum(share["wait"] for share in shares.values()) / count,
        base.frequency_hertz,
        {
            kind: min((total - before.pressure_us.get(kind, total)) / 1e6 / seconds, 1.0)
            for kind, total in now.pressure_us.items()
        },
        base.memory_total_bytes,
        base.memory_available_bytes,
        base.load,
        {
            name: _network(before.network[name], use, seconds)
            for name, use in now.network.items()
            if name in before.network
        },
        (now.softnet[0] - before.softnet[0]) / seconds,
        (now.softnet[1] - before.softnet[1]) / seconds,
    )


def _shares(before: Any, after: Any) -> dict[str, float]:
    spent = {name: max(0.0, getattr(after, name) - getattr(before, name, 0.0)) for name in after._fields}
    # The kernel counts the time of guests within user and nice, too.
    total = sum(spent.values()) - spent.get("guest", 0.0) - spent.get("guest_nice", 0.0)
    if total <= 0:
        return {"busy": 0.0, "steal": 0.0, "wait": 0.0}
    idle, wait, steal = spent.get("idle", 0.0), spent.get("iowait", 0.0), spent.get("steal", 0.0)
    return {"busy": max(0.0, total - idle - wait - steal) / total, "steal": steal / total, "wait": wait / total}


def _network(before: Any, after: Any, seconds: float) -> NetworkUse:
    def rate(*names: str) -> float:
        return float(sum(max(0, getattr(after, name) - getattr(before, name)) for name in names)) / seconds

    return NetworkUse(
        rate("bytes_recv"),
        rate("bytes_sent"),
        rate("packets_recv"),
        rate("packets_sent"),
        rate("dropin"),
        rate("dropout"),
        rate("errin", "errout"),
    )


def _core_numbers(proc: Path) -> list[int]:
    """CPU numbers in the order of ``/proc/stat``; those that are offline are missing there."""
    return [int(number) for number in re.findall(r"^cpu(\d+) ", read_text(proc / "stat"), re.MULTILINE)]


def _cpu_seconds(proc: Path, pid: int) -> float | None:
    fields = read_text(proc / str(pid) / "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS if len(fields) > 12 else None


def _pressure_us(proc: Path) -> dict[str, int]:
    found = {}
    for kind in ("cpu", "memory", "io"):
        match = _PRESSURE.search(read_text(proc / "pressure" / kind))
        if match is not None:
            found[kind] = int(match[2])
    return found


def _softnet(proc: Path) -> tuple[int, int]:
    rows = [line.split() for line in read_text(proc / "net/softnet_stat").splitlines()]
    return sum(int(row[1], 16) for row in rows), sum(int(row[2], 16) for row in rows)


def _load(proc: Path) -> float:
    text = read_text(proc / "loadavg").split()
    return float(text[0]) if text else 0.0
