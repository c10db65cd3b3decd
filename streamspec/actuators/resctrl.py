"""Ways of the last-level cache per lane, by resctrl (Intel RDT, AMD QoS), where the host has it mounted.

One control group ``streamspec-PID-START-LANE`` per lane. Ways of two lanes do not overlap: that is the point.
The default group keeps all ways, so that nothing else on the host is confined.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamspec.actuators.control_files import GROUP_PREFIX, ControlFiles, KernelFiles
from streamspec.actuators.leftovers import PROC, Owner
from streamspec.actuators.threads import threads_of
from streamspec.core.actuation import Applied, Readiness

ROOT = Path("/sys/fs/resctrl")
NEXT_STEP = "mount -t resctrl resctrl /sys/fs/resctrl (processor with cache allocation, kernel with X86_CPU_RESCTRL)"


@dataclass(frozen=True, slots=True)
class CacheWays:
    """What a lane has.

    Attributes:
        pids: its workers.
        ways: number of ways in each last-level cache.
    """

    pids: frozenset[int]
    ways: int


@dataclass(frozen=True, slots=True)
class _Limits:
    ways: int
    least: int
    groups: int
    domains: tuple[str, ...]


class Resctrl:
    """Implements ``Actuator`` by lane; each :meth:`apply` names every lane that shall have ways of its own."""

    name = "resctrl"

    def __init__(self, root: Path = ROOT, *, files: ControlFiles | None = None, proc: Path = PROC) -> None:
        self._files: ControlFiles = KernelFiles(root) if files is None else files
        self._root, self._proc = root, proc
        self._prefix = f"{GROUP_PREFIX}{Owner.of(os.getpid(), proc)}-"
        self._limits: _Limits | None = None
        self._lanes: set[str] = set()

    async def probe(self) -> Readiness:
        """See ``Actuator``."""
        try:
            self._limits = self._read_limits()
        except (OSError, ValueError, IndexError):
            return Readiness(self.name, False, "", f"no cache allocation at {self._root}", NEXT_STEP)
        if not self._files.writable("."):
            return Readiness(self.name, False, "", f"{self._root} may not be written", "run as root")
        self._remove_leftovers()
        limits = self._limits
        return Readiness(self.name, True, f"{limits.ways} ways, {limits.groups} groups")

    @property
    def ways(self) -> int:
        """Ways that can be given out; 0 before a :meth:`probe` that found it active."""
        return 0 if self._limits is None else self._limits.ways

    async def apply(self, desired: Mapping[str, CacheWays]) -> Applied[str, CacheWays]:
        """See ``Actuator``. Lanes get ways from the top of the mask downwards, in the order given."""
        limits, refused = self._limits, {}
        assert limits is not None, "probe first"
        for lane in self._lanes - set(desired):
            self._remove(self._prefix + lane)
            self._lanes.discard(lane)
        top = limits.ways
        for lane, setting in desired.items():
            ways = max(setting.ways, limits.least)
            if ways > top:
                refused[lane] = f"{ways} ways asked for, {top} of {limits.ways} left"
                continue
            try:
                self._set(lane, setting.pids, ((1 << ways) - 1) << (top - ways), limits)
                top -= ways
            except OSError as error:
                refused[lane] = f"not accepted: {os.strerror(error.errno or 0)}"
        return Applied(await self.read_back(), refused)

    async def read_back(self) -> Mapping[str, CacheWays]:
        """See ``Actuator``."""
        found = {}
        for lane in sorted(self._lanes):
            try:
                mask = self._mask(self._files.read(f"{self._prefix}{lane}/schemata"))
                tasks = set(map(int, self._files.read(f"{self._prefix}{lane}/tasks").split()))
            except (OSError, ValueError):
                continue
            found[lane] = CacheWays(frozenset(tasks), mask.bit_count())
        return found

    async def restore(self) -> None:
        """See ``Actuator``: processes of a removed group fall back to the default one."""
        for lane in list(self._lanes):
            self._remove(self._prefix + lane)
        self._lanes = set()

    def _read_limits(self) -> _Limits:
        files = self._files
        mask = int(files.read("info/L3/cbm_mask"), 16)
        least, groups = int(files.read("info/L3/min_cbm_bits")), int(files.read("info/L3/num_closids"))
        line = next(text for text in files.read("schemata").splitlines() if text.strip().startswith("L3:"))
        domains = tuple(re.findall(r"(\d+)=", line))
        if not mask or not domains:
            raise ValueError("no ways")
        return _Limits(mask.bit_count(), least, groups, domains)

    def _set(self, lane: str, pids: frozenset[int], mask: int, limits: _Limits) -> None:
        group = self._prefix + lane
        if lane not in self._lanes:
            self._files.make(group)
            self._lanes.add(lane)
        self._files.write(f"{group}/schemata", "L3:" + ";".join(f"{d}={mask:x}" for d in limits.domains) + "\n")
        for pid in sorted(pids):
            for tid in threads_of(pid, self._proc):
                try:
                    self._files.write(f"{group}/tasks", str(tid))
                except ProcessLookupError:
                    continue

    @staticmethod
    def _mask(schemata: str) -> int:
        match = re.search(r"L3:\s*\d+=([0-9a-fA-F]+)", schemata)
        if match is None:
            raise ValueError(schemata)
        return int(match[1], 16)

    def _remove(self, group: str) -> None:
        try:
            self._files.remove(group)
        except OSError:
            pass

    def _remove_leftovers(self) -> None:
        for name in self._files.folders("."):
            match = re.fullmatch(rf"{GROUP_PREFIX}(\d+-\d+)-.*", name)
            owner = Owner.parse(match[1]) if match else None
            if owner is not None and not owner.lives(self._proc):
                self._remove(name)
