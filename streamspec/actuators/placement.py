"""Which cores each lane gets, from the topology: pure, decided anew from scratch, the same for the same input.

Urgent lanes choose first. A lane gets whole physical cores, in one cache domain where it fits, the fastest
first. Once there are more workers than physical cores, the SMT siblings are used, and then lanes share: their
nice levels decide, and pinning would only keep work from idle cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamspec.core.topology import Cores, Topology


@dataclass(frozen=True, slots=True)
class LaneDemand:
    """What a lane needs.

    Attributes:
        name: of the lane.
        workers: processes (times the threads of its stages).
        urgency: smaller chooses first.
    """

    name: str
    workers: int
    urgency: int = 0


def place(
    topology: Topology, demands: Sequence[LaneDemand], *, reserved: Cores = frozenset(), use_isolated: bool = False
) -> dict[str, Cores]:
    """Cores by lane.

    Args:
        topology: of this host.
        demands: lanes with at least one worker each.
        reserved: cores that no lane may have (the dispatcher's, the user's); ignored if nothing is left.
        use_isolated: also give out cores that the user isolated. Without any other core they are used anyway.
    """
    free = _free_cores(topology, reserved, use_isolated)
    whole = [group & free for group in topology.physical if group & free]
    if sum(demand.workers for demand in demands) > len(free):
        return {demand.name: free for demand in demands}
    threads = sum(demand.workers for demand in demands) > len(whole)
    units = [frozenset({number}) for group in whole for number in sorted(group)] if threads else whole
    placed: dict[str, Cores] = {}
    for demand in sorted(demands, key=lambda demand: demand.urgency):
        taken = _choose(topology, units, demand.workers)
        units = [unit for unit in units if unit not in taken]
        placed[demand.name] = frozenset().union(*taken)
    return placed


def spread(cores: Cores, workers: int, topology: Topology) -> list[Cores]:
    """One set per worker: a physical core each while there are enough, else all of them for everyone."""
    whole = [group & cores for group in topology.physical if group & cores]
    if workers > len(whole):
        return [cores] * workers
    order = sorted(whole, key=lambda group: (-topology.core(min(group)).capacity, min(group)))
    return order[:workers]


def _free_cores(topology: Topology, reserved: Cores, use_isolated: bool) -> Cores:
    isolated = frozenset(core.number for core in topology.cores if core.isolated)
    allowed = topology.usable - (frozenset() if use_isolated else isolated)
    return (allowed - reserved) or allowed or topology.usable


def _choose(topology: Topology, units: list[Cores], count: int) -> list[Cores]:
    """``count`` units, from the cache domain that they fill best; from several where none is large enough."""

    def speed(unit: Cores) -> float:
        return topology.core(min(unit)).capacity

    domains = [[unit for unit in units if unit <= domain] for domain in topology.caches]
    fitting = [domain for domain in domains if len(domain) >= count]
    if fitting:
        # The fastest cores count most, then the domain that leaves the least room behind.
        def rank(domain: list[Cores]) -> tuple[float, int, int]:
            best = sorted((speed(unit) for unit in domain), reverse=True)[:count]
            return (-sum(best), len(domain), min(map(min, domain)))

        pool = min(fitting, key=rank)
    else:
        pool = [unit for domain in sorted(domains, key=len, reverse=True) for unit in domain]
    order = sorted(range(len(pool)), key=lambda i: (-speed(pool[i]), i))
    return [pool[i] for i in order[:count]]
