"""The topology of this host, from sysfs: NUMA nodes, shared caches, SMT siblings, big and little cores, isolated
cores, and the cores that this process may use."""

from __future__ import annotations

import os
import re
from pathlib import Path

from streamspec.core.topology import Core, Cores, Topology
from streamspec.core.units import parse_bytes
from streamspec.monitors.files import read_cores, read_number, read_text

SYS = Path("/sys")
_CPU = "devices/system/cpu"


def read_topology(sys: Path = SYS, usable: Cores | None = None) -> Topology:
    """What sysfs says; a file that is missing has its neutral value (one node, no siblings, equal cores).

    Args:
        sys: root of sysfs.
        usable: cores that may be used; ``None``: those of this process. The kernel has taken the cpuset of its
            cgroup out of it already.
    """
    usable = frozenset(os.sched_getaffinity(0)) if usable is None else usable
    online = read_cores(sys / _CPU / "online") or usable
    isolated = read_cores(sys / _CPU / "isolated")
    nodes = _nodes(sys)
    capacities = _capacities(sys, online)
    cores = []
    for number in sorted(online):
        folder = sys / _CPU / f"cpu{number}"
        siblings = read_cores(folder / "topology/core_cpus_list") or read_cores(
            folder / "topology/thread_siblings_list"
        )
        cache, cache_bytes = _last_cache(folder)
        cores.append(
            Core(
                number,
                node=nodes.get(number, 0),
                package=max(int(read_number(folder / "topology/physical_package_id") or 0), 0),
                siblings=(siblings & online) | {number},
                cache=(cache or _package_of(sys, folder, online)) & online | {number},
                cache_bytes=cache_bytes,
                capacity=capacities[number],
                isolated=number in isolated,
            )
        )
    return Topology(tuple(cores), usable & online or online)


def _nodes(sys: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    folder = sys / "devices/system/node"
    for path in folder.glob("node*") if folder.is_dir() else ():
        if (match := re.fullmatch(r"node(\d+)", path.name)) is not None:
            found |= dict.fromkeys(read_cores(path / "cpulist"), int(match[1]))
    return found


def _last_cache(folder: Path) -> tuple[Cores, int]:
    """The cores that share the outermost cache with data in it, and its size."""
    best, level = None, 0
    for path in sorted(folder.glob("cache/index*")):
        depth = int(read_number(path / "level") or 0)
        if depth > level and read_text(path / "type").strip() != "Instruction":
            best, level = path, depth
    if best is None:
        return frozenset(), 0
    text = read_text(best / "size").strip()
    try:
        size = parse_bytes(text.replace("K", " KiB").replace("M", " MiB")) if text else 0
    except ValueError:
        size = 0
    return read_cores(best / "shared_cpu_list"), size


def _package_of(sys: Path, folder: Path, online: Cores) -> Cores:
    """Without cache files (many virtual machines): the package."""
    return read_cores(folder / "topology/package_cpus_list") or online


def _capacities(sys: Path, online: Cores) -> dict[int, float]:
    """Relative speeds: ``cpu_capacity`` (Arm), else the highest frequency (hybrid x86)."""
    found = {}
    for number in online:
        folder = sys / _CPU / f"cpu{number}"
        found[number] = read_number(folder / "cpu_capacity") or read_number(folder / "cpufreq/cpuinfo_max_freq") or 0.0
    fastest = max(found.values(), default=0.0)
    return {number: value / fastest if fastest and value else 1.0 for number, value in found.items()}
