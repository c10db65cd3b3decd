"""Topology of machines that the tests make up, as files of sysfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamspec.actuators.placement import LaneDemand, place
from streamspec.monitors.topology import read_topology


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def _core(sys: Path, number: int, *, siblings: str, cache: str, package: int = 0, **files: str) -> None:
    folder = sys / f"devices/system/cpu/cpu{number}"
    _write(folder / "topology/core_cpus_list", siblings)
    _write(folder / "topology/physical_package_id", str(package))
    for index, (level, kind, shared) in enumerate(
        [(1, "Data", siblings), (1, "Instruction", siblings), (2, "Unified", siblings), (3, "Unified", cache)]
    ):
        _write(folder / f"cache/index{index}/level", str(level))
        _write(folder / f"cache/index{index}/type", kind)
        _write(folder / f"cache/index{index}/shared_cpu_list", shared)
        _write(folder / f"cache/index{index}/size", {1: "48K", 2: "2048K", 3: "32M"}[level])
    for name, text in files.items():
        _write(folder / name.replace("__", "/"), text)


def _two_sockets(sys: Path) -> None:
    """Two sockets of four cores with two threads each: 0-3,8-11 and 4-7,12-15; 15 offline, 3 and 11 isolated."""
    _write(sys / "devices/system/cpu/online", "0-14")
    _write(sys / "devices/system/cpu/isolated", "3,11")
    for node, cores in enumerate(("0-3,8-11", "4-7,12-15")):
        _write(sys / f"devices/system/node/node{node}/cpulist", cores)
        for number in range(4 * node, 4 * node + 4):
            for thread in (number, number + 8):
                _core(sys, thread, siblings=f"{number},{number + 8}", cache=cores, package=node)
    _write(sys / "devices/system/node/possible", "0-1")


def test_sockets_threads_caches_and_isolated_cores(tmp_path: Path) -> None:
    _two_sockets(tmp_path)
    topology = read_topology(tmp_path, frozenset(range(16)))
    assert topology.usable == frozenset(range(15))
    assert topology.nodes == {0: {0, 1, 2, 3, 8, 9, 10, 11}, 1: {4, 5, 6, 7, 12, 13, 14}}
    assert topology.caches == ({0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14})
    assert topology.physical[0] == {0, 8}
    assert topology.physical[7] == {7}  # its second thread is offline
    assert [core.number for core in topology.cores if core.isolated] == [3, 11]
    assert (topology.core(5).package, topology.core(5).cache_bytes) == (1, 32 << 20)
    placed = place(topology, [LaneDemand("light", 2), LaneDemand("heavy", 3, 1)])
    assert placed["light"] < topology.nodes[0] - {3, 11}
    assert placed["heavy"] < topology.nodes[1]


def test_a_cpuset_narrows_what_may_be_used_and_what_shares_a_cache(tmp_path: Path) -> None:
    _two_sockets(tmp_path)
    topology = read_topology(tmp_path, frozenset({1, 9, 6}))
    assert topology.physical == ({1, 9}, {6})
    assert topology.caches == ({1, 9}, {6})
    assert len(topology.cores) == 15


@pytest.mark.parametrize("file", ["cpu_capacity", "cpufreq__cpuinfo_max_freq"])
def test_big_and_little_cores(tmp_path: Path, file: str) -> None:
    _write(tmp_path / "devices/system/cpu/online", "0-3")
    for number, capacity in enumerate(("512", "512", "1024", "1024")):
        _core(tmp_path, number, siblings=str(number), cache="0-3", **{file: capacity})
    topology = read_topology(tmp_path, frozenset(range(4)))
    assert [core.capacity for core in topology.cores] == [0.5, 0.5, 1.0, 1.0]
    assert place(topology, [LaneDemand("bulk", 2, 9), LaneDemand("light", 2)])["light"] == {2, 3}


def test_a_machine_that_tells_nothing_has_equal_cores_in_one_node(tmp_path: Path) -> None:
    topology = read_topology(tmp_path / "empty", frozenset({0, 1}))
    assert topology.usable == {0, 1}
    assert topology.nodes == {0: {0, 1}}
    assert topology.caches == ({0, 1},)
    assert topology.physical == ({0}, {1})


def test_this_machine() -> None:
    topology = read_topology()
    assert topology.usable == os.sched_getaffinity(0)
    assert frozenset().union(*topology.physical) == topology.usable
    assert all(0 < core.capacity <= 1 for core in topology.cores)
