"""Weight and cpuset of lanes by cgroup v2, where the service's own group is delegated to it.

Below the group that the service runs in, one group ``streamspec-PID-START`` is made: ``rest`` for the service's
own processes (the kernel wants no process in a group that has children with controllers), and one group per
lane. After a ``kill -9`` the next start finds groups whose owner is dead, and removes them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamspec.actuators.control_files import GROUP_PREFIX, ControlFiles, KernelFiles, move_all
from streamspec.actuators.leftovers import PROC, Leftovers, Owner
from streamspec.core.actuation import Applied, Readiness

NEXT_STEP = (
    "run it as a systemd service with Delegate=yes (systemd-run --user -p Delegate=yes ...), or in a container "
    "with a cgroup namespace that may be written"
)
CONTROLLERS = ("cpu", "cpuset")


@dataclass(frozen=True, slots=True)
class LaneGroup:
    """What a lane's group has.

    Attributes:
        pids: its workers.
        weight: ``cpu.weight``, 1 to 10000; 100 is what everyone has.
        cores: ``cpuset.cpus``; empty means all.
    """

    pids: frozenset[int]
    weight: int = 100
    cores: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class CgroupPlace:
    """Where cgroup v2 is mounted and which group this process is in."""

    root: Path
    own: str

    @classmethod
    def find(cls, proc: Path = PROC) -> CgroupPlace | None:
        """From ``mountinfo`` and ``cgroup`` of this process; ``None`` without cgroup v2."""
        try:
            mounts = (proc / "self/mountinfo").read_text(encoding="utf-8").splitlines()
            lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        fields = next((f for f in map(str.split, mounts) if f[f.index("-") + 1] == "cgroup2"), None)
        own = next((line[3:] for line in lines if line.startswith("0::")), None)
        if fields is None or own is None:
            return None
        # A bind mount shows a part of the hierarchy: paths are then relative to its root.
        below = own.removeprefix(fields[3]) if fields[3] != "/" else own
        return cls(Path(fields[4]), below.strip("/"))


class Cgroup:
    """Implements ``Actuator`` by lane.

    Args:
        place: see :meth:`CgroupPlace.find`.
        files: instead of the mounted ones.
        leftovers: where enabled controllers are written down.
        proc: where processes are looked up.
    """

    name = "cgroup"

    def __init__(
        self,
        place: CgroupPlace | None = None,
        *,
        files: ControlFiles | None = None,
        leftovers: Leftovers | None = None,
        proc: Path = PROC,
    ) -> None:
        self._notes = leftovers
        self._place = place if place is not None else CgroupPlace.find(proc)
        self._files: ControlFiles | None = files
        if files is None and self._place is not None:
            self._files = KernelFiles(self._place.root)
        self._proc = proc
        self._base = self._place.own if self._place is not None else ""
        owner = Owner.of(os.getpid(), proc)
        self._home = self._path(f"{GROUP_PREFIX}{owner}")
        self._lanes: dict[str, LaneGroup] = {}
        self._made = False
        self._enabled: list[str] = []

    # -- Actuator -------------------------------------------------------------------------------
    async def probe(self) -> Readiness:
        """See ``Actuator``."""
        files = self._files
        if files is None:
            return Readiness(self.name, False, "", "no cgroup v2 is mounted", NEXT_STEP)
        try:
            self._remove_leftovers(files)
            reason = self._obstacle(files)
        except OSError as error:
            reason = f"{error.filename or self._base}: {error.strerror}"
        if reason:
            return Readiness(self.name, False, "", reason, NEXT_STEP)
        return Readiness(self.name, True, f"cgroup v2 below /{self._base}")

    async def apply(self, desired: Mapping[str, LaneGroup]) -> Applied[str, LaneGroup]:
        """See ``Actuator``. Raises nothing; a lane that cannot be set keeps what it had."""
        assert self._files is not None, "probe first"
        refused = {}
        for lane, group in desired.items():
            try:
                self._set(self._files, lane, group)
            except OSError as error:
                refused[lane] = f"{lane}: {os.strerror(error.errno) if error.errno else error}"
        return Applied(await self.read_back(), refused)

    async def read_back(self) -> Mapping[str, LaneGroup]:
        """See ``Actuator``."""
        files, found = self._files, {}
        for lane in self._lanes:
            path = self._lane_path(lane)
            try:
                assert files is not None
                pids = frozenset(map(int, files.read(f"{path}/cgroup.procs").split()))
                cores = parse_list(files.read(f"{path}/cpuset.cpus"))
                found[lane] = LaneGroup(pids, int(files.read(f"{path}/cpu.weight")), cores)
            except OSError:
                continue
        return found

    async def restore(self) -> None:
        """See ``Actuator``."""
        if self._made and self._files is not None:
            self._made = False
            self._remove_home(self._files, self._home, self._enabled)
            self._note(None)
            self._enabled = []
        self._lanes = {}

    # -- parts ----------------------------------------------------------------------------------
    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if self._base else name

    def _lane_path(self, lane: str) -> str:
        return f"{self._home}/lane-{lane}"

    def _obstacle(self, files: ControlFiles) -> str:
        present = set(files.read(self._path("cgroup.controllers")).split())
        if missing := [name for name in CONTROLLERS if name not in present]:
            return f"the controllers {', '.join(missing)} are not available in /{self._base} (cgroup v1 has them?)"
        for name in ("cgroup.procs", "cgroup.subtree_control", ""):
            if not files.writable(self._path(name).rstrip("/") or "."):
                return f"/{self._path(name)} may not be written: the group is not delegated to this user"
        others = set(map(int, files.read(self._path("cgroup.procs")).split())) - self._own_processes()
        if others and not self._is_root(files):
            return f"other processes are in the same group (pid {min(others)}), so that it cannot be divided"
        return ""

    def _is_root(self, files: ControlFiles) -> bool:
        """The root of the hierarchy (not of a namespace) may have both processes and children with controllers."""
        try:
            files.read(self._path("cgroup.type"))
        except OSError:
            return True
        return False

    def _own_processes(self) -> set[int]:
        """This process and all that it started."""
        found, to_do = set(), [os.getpid()]
        while to_do:
            pid = to_do.pop()
            found.add(pid)
            for task in (self._proc / str(pid) / "task").glob("*/children"):
                try:
                    to_do += map(int, task.read_text().split())
                except OSError:
                    continue
        return found

    def _set(self, files: ControlFiles, lane: str, group: LaneGroup) -> None:
        if not self._made:
            self._make_home(files)
        path = self._lane_path(lane)
        if lane not in self._lanes:
            files.make(path)
        self._lanes[lane] = group
        files.write(f"{path}/cpu.weight", str(group.weight))
        files.write(f"{path}/cpuset.cpus", format_list(group.cores))
        for pid in sorted(group.pids):
            try:
                files.write(f"{path}/cgroup.procs", str(pid))
            except ProcessLookupError:
                continue

    def _make_home(self, files: ControlFiles) -> None:
        files.make(self._home)
        files.make(f"{self._home}/rest")
        self._made = True
        for pid in sorted(self._own_processes()):
            try:
                files.write(f"{self._home}/rest/cgroup.procs", str(pid))
            except ProcessLookupError:
                continue
        on = set(files.read(self._path("cgroup.subtree_control")).split())
        self._enabled = [name for name in CONTROLLERS if name not in on]
        self._note(self._enabled or None)
        for controller in self._enabled:
            files.write(self._path("cgroup.subtree_control"), f"+{controller}")
        files.write(f"{self._home}/cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))

    def _note(self, enabled: list[str] | None) -> None:
        if self._notes is not None:
            self._notes.note(self.name, enabled and {"group": self._base, "enabled": enabled})

    def _disable(self, files: ControlFiles, controllers: list[str]) -> None:
        for controller in controllers:
            try:
                files.write(self._path("cgroup.subtree_control"), f"-{controller}")
            except OSError:
                continue

    def _remove_home(self, files: ControlFiles, home: str, enabled: list[str]) -> None:
        """The inner group's controllers go first, then ours of the group above: it takes no process while it has
        children with controllers. Then everyone goes back there, and the groups go, the innermost first."""
        try:
            files.write(f"{home}/cgroup.subtree_control", " ".join(f"-{name}" for name in CONTROLLERS))
        except OSError:
            pass  # never enabled
        self._disable(files, enabled)
        for folder in files.folders(home):
            move_all(files, f"{home}/{folder}", self._base or ".")
            files.remove(f"{home}/{folder}")
        files.remove(home)

    def _remove_leftovers(self, files: ControlFiles) -> None:
        notes = {} if self._notes is None else dict(self._notes.of_the_dead(self.name))
        for name in files.folders(self._base or "."):
            owner = Owner.parse(name.removeprefix(GROUP_PREFIX)) if name.startswith(GROUP_PREFIX) else None
            if owner is None or owner.lives(self._proc):
                continue
            try:
                self._remove_home(files, self._path(name), notes.get(owner, {}).get("enabled", []))
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                continue
            if self._notes is not None:
                self._notes.settled(owner, self.name)


def parse_list(text: str) -> frozenset[int]:
    """``"0-2,8"`` -> {0, 1, 2, 8}, as the kernel writes sets of CPUs.

    Raises:
        ValueError: something else.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def format_list(numbers: frozenset[int]) -> str:
    """{0, 1, 8} -> ``"0,1,8"``; empty: a newline, which the kernel takes for "all"."""
    return ",".join(map(str, sorted(numbers))) or "\n"
