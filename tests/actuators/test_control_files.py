"""Groups of cgroup v2 and resctrl on file systems that behave as the kernel's; the real cgroup v2 where it is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from streamspec.actuators.cgroup import Cgroup, CgroupPlace, LaneGroup, format_list, parse_list
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.resctrl import CacheWays, Resctrl


@dataclass
class KernelLike:
    """Implements ``ControlFiles`` in memory, with the rules of cgroup v2 that matter here: a group with children
    that have controllers holds no process (except the root), a group with processes cannot be removed."""

    files: dict[str, str] = field(default_factory=dict)
    groups: dict[str, set[int]] = field(default_factory=dict)
    read_only: bool = False

    @staticmethod
    def _name(path: str) -> str:
        return "" if path in (".", "") else path.removeprefix("./")

    def read(self, path: str) -> str:
        path = self._name(path)
        folder, _, name = path.rpartition("/")
        if name in ("cgroup.procs", "tasks"):
            return "\n".join(map(str, sorted(self.groups[folder])))
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self.files[path]

    def write(self, path: str, text: str) -> None:
        path = self._name(path)
        folder, _, name = path.rpartition("/")
        if self.read_only:
            raise PermissionError(errno.EACCES, "read only", path)
        if name in ("cgroup.procs", "tasks"):
            if folder and self.files.get(f"{folder}/cgroup.subtree_control"):
                raise OSError(errno.EBUSY, "has controllers below", path)
            for members in self.groups.values():
                members.discard(int(text))
            self.groups[folder].add(int(text))
        elif name == "cgroup.subtree_control":
            self._control(folder, path, text)
        else:
            self.read(path)
            self.files[path] = text.strip("\n")

    def _control(self, folder: str, path: str, text: str) -> None:
        have = set(self.files[path].split())
        for change in text.split():
            if change[0] == "+" and folder and self.groups[folder]:
                raise OSError(errno.EBUSY, "has processes", path)
            if change[0] == "-":
                children = [g for g in self.groups if g.startswith(f"{folder}/" if folder else "") and g != folder]
                if any(change[1:] in self.files.get(f"{g}/cgroup.subtree_control", "") for g in children):
                    raise OSError(errno.EBUSY, "is in use below", path)
            (have.add if change[0] == "+" else have.discard)(change[1:])
        self.files[path] = " ".join(sorted(have))

    def make(self, path: str) -> None:
        path = self._name(path)
        if path in self.groups:
            raise FileExistsError(errno.EEXIST, "exists", path)
        self.groups[path] = set()
        self.files |= {
            f"{path}/cgroup.subtree_control": "",
            f"{path}/cgroup.controllers": "cpu cpuset",
            f"{path}/cgroup.type": "domain",
            f"{path}/cpu.weight": "100",
            f"{path}/cpuset.cpus": "",
            f"{path}/schemata": "L3:0=ff;1=ff",
        }

    def remove(self, path: str) -> None:
        path = self._name(path)
        if self.groups[path]:
            raise OSError(errno.EBUSY, "has processes", path)
        if any(group.startswith(f"{path}/") for group in self.groups):
            raise OSError(errno.EBUSY, "has children", path)
        del self.groups[path]
        self.files = {name: text for name, text in self.files.items() if not name.startswith(f"{path}/")}

    def folders(self, path: str) -> list[str]:
        path = self._name(path)
        start = f"{path}/" if path else ""
        below = (group[len(start) :] for group in self.groups if group.startswith(start) and group != path)
        return sorted({name for name in below if name and "/" not in name})

    def writable(self, path: str) -> bool:
        return not self.read_only


PLACE = CgroupPlace(Path("/nowhere"), "user.slice/own")


def _cgroupfs(own: set[int]) -> KernelLike:
    made = KernelLike()
    made.groups[""] = {1}
    made.files["cgroup.subtree_control"] = "cpu cpuset"
    for path in ("user.slice", "user.slice/own"):
        made.make(path)
    made.groups["user.slice/own"] = own
    return made


async def test_lanes_get_groups_with_weight_and_cores_and_everything_is_put_back(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as worker:
        files = _cgroupfs({os.getpid(), worker.pid})
        actuator = Cgroup(PLACE, files=files, leftovers=Leftovers(tmp_path))
        ready = await actuator.probe()
        assert (ready.active, ready.way) == (True, "cgroup v2 below /user.slice/own")
        wanted = LaneGroup(frozenset({worker.pid}), 300, frozenset({0, 1}))
        applied = await actuator.apply({"light": wanted})
        assert applied.observed == {"light": wanted}
        assert not applied.refused
        assert os.getpid() not in files.groups["user.slice/own"]
        changed = LaneGroup(frozenset({worker.pid}), 50)
        assert (await actuator.apply({"light": changed})).observed == {"light": changed}
        await actuator.restore()
        assert files.groups == {"": {1}, "user.slice": set(), "user.slice/own": {os.getpid(), worker.pid}}
        assert files.files["user.slice/own/cgroup.subtree_control"] == ""
        assert list(tmp_path.iterdir()) == []


async def test_groups_of_a_killed_process_are_removed_with_the_controllers_it_had_enabled(tmp_path: Path) -> None:
    files = _cgroupfs({os.getpid()})
    home = "user.slice/own/streamspec-4194303-77"
    files.groups["user.slice/own"] = set()
    files.files["user.slice/own/cgroup.subtree_control"] = "cpu cpuset"
    for path in (home, f"{home}/rest", f"{home}/lane-a"):
        files.make(path)
    files.files[f"{home}/cgroup.subtree_control"] = "cpu cpuset"
    files.groups[f"{home}/lane-a"] = {12345}  # a worker's child that outlived it
    (tmp_path / "4194303-77.json").write_text('{"cgroup": {"group": "user.slice/own", "enabled": ["cpuset", "cpu"]}}')
    assert (await Cgroup(PLACE, files=files, leftovers=Leftovers(tmp_path)).probe()).reason == (
        "other processes are in the same group (pid 12345), so that it cannot be divided"
    )
    assert set(files.groups) == {"", "user.slice", "user.slice/own"}
    assert files.files["user.slice/own/cgroup.subtree_control"] == ""
    assert list(tmp_path.iterdir()) == []


async def test_why_a_group_cannot_be_divided_is_said() -> None:
    crowded = _cgroupfs({os.getpid(), 1})
    assert "pid 1" in (await Cgroup(PLACE, files=crowded).probe()).reason
    foreign = _cgroupfs({os.getpid()})
    foreign.read_only = True
    assert "not delegated" in (await Cgroup(PLACE, files=foreign).probe()).reason
    bare = _cgroupfs({os.getpid()})
    bare.files["user.slice/own/cgroup.controllers"] = "memory"
    ready = await Cgroup(PLACE, files=bare).probe()
    assert "the controllers cpu, cpuset are not available" in ready.reason
    assert "Delegate=yes" in ready.next_step


async def test_the_cgroup_of_this_host_is_probed_and_left_as_it_is(tmp_path: Path) -> None:
    actuator = Cgroup(leftovers=Leftovers(tmp_path))
    ready = await actuator.probe()
    assert ready.active != bool(ready.reason)
    await actuator.restore()


@pytest.mark.root
async def test_a_real_group_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    place = CgroupPlace.find()
    if place is None or not os.access(place.root / place.own, os.W_OK):
        pytest.skip("no cgroup v2 that may be written")
    home = place.root / place.own / "streamspec-4194303-1"
    (home / "lane-a").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, text=True) as straggler:
        (home / "lane-a" / "cgroup.procs").write_text(str(straggler.pid))
        await Cgroup(leftovers=Leftovers(tmp_path)).probe()
        assert not home.exists()
        assert Path(f"/proc/{straggler.pid}/cgroup").read_text().rstrip().endswith(f"0::/{place.own}")
        straggler.communicate("\n")


def test_lists_of_cores() -> None:
    assert parse_list("0-2,8\n") == {0, 1, 2, 8}
    assert parse_list("") == frozenset()
    assert parse_list(format_list(frozenset({3, 1}))) == {1, 3}
    assert format_list(frozenset()) == "\n"


def _resctrlfs() -> KernelLike:
    made = KernelLike()
    made.groups[""] = set()
    made.files = {
        "info/L3/cbm_mask": "fff",
        "info/L3/min_cbm_bits": "2",
        "info/L3/num_closids": "4",
        "schemata": "    L3:0=fff;1=fff\n    MB:0=100;1=100",
    }
    return made


async def test_lanes_get_cache_ways_of_their_own(tmp_path: Path) -> None:
    files = _resctrlfs()
    files.make("streamspec-4194303-9-old")
    actuator = Resctrl(files=files)
    assert (await actuator.probe()).way == "12 ways, 4 groups"
    assert files.folders(".") == []  # that of the dead one is gone
    own = frozenset({os.getpid()})
    applied = await actuator.apply(
        {"light": CacheWays(own, 8), "heavy": CacheWays(frozenset(), 1), "more": CacheWays(own, 9)}
    )
    assert applied.observed["light"].ways == 8
    assert own <= applied.observed["light"].pids
    assert applied.observed["heavy"].ways == 2  # the least this cache divides into
    assert applied.refused == {"more": "9 ways asked for, 2 of 12 left"}
    schemata = sorted(text for name, text in files.files.items() if name.endswith("/schemata"))
    assert schemata == ["L3:0=c;1=c", "L3:0=ff0;1=ff0"]
    files.groups = {name: set() for name in files.groups}  # the kernel moves them out when a group is removed
    await actuator.restore()
    assert files.folders(".") == []


async def test_a_host_without_resctrl_says_how_to_get_it(tmp_path: Path) -> None:
    ready = await Resctrl(tmp_path / "none").probe()
    assert not ready.active
    assert ready.next_step.startswith("mount -t resctrl")
