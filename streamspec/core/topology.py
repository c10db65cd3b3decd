"""The processor as control sees it: which cores share what."""

from __future__ import annotations

from dataclasses import dataclass, field

Cores = frozenset[int]


@dataclass(frozen=True, slots=True)
class Core:
    """One CPU number.

    Attributes:
        number: as ``sched_setaffinity`` takes it.
        node: NUMA node.
        package: socket.
        siblings: CPU numbers of the same physical core (SMT), itself included.
        cache: CPU numbers that share its last-level cache, itself included.
        cache_bytes: size of that cache; 0 when it is not known.
        capacity: speed relative to the fastest core, above 0 to 1 (little cores have less).
        isolated: kept free of other work by the user (``isolcpus``).
    """

    number: int
    node: int = 0
    package: int = 0
    siblings: Cores = field(default_factory=frozenset)
    cache: Cores = field(default_factory=frozenset)
    cache_bytes: int = 0
    capacity: float = 1.0
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """All cores that are online, and those among them that this process may use."""

    cores: tuple[Core, ...]
    usable: Cores

    def core(self, number: int) -> Core:
        """The core with this number. Raises KeyError when there is none."""
        for core in self.cores:
            if core.number == number:
                return core
        raise KeyError(number)

    @property
    def physical(self) -> tuple[Cores, ...]:
        """Usable CPU numbers by physical core, in ascending order."""
        groups = {core.siblings & self.usable for core in self.cores if core.number in self.usable}
        return tuple(sorted(groups, key=min))

    @property
    def caches(self) -> tuple[Cores, ...]:
        """Usable CPU numbers by shared last-level cache, in ascending order."""
        groups = {core.cache & self.usable for core in self.cores if core.number in self.usable}
        return tuple(sorted(groups, key=min))

    @property
    def nodes(self) -> dict[int, Cores]:
        """Usable CPU numbers by NUMA node."""
        found: dict[int, set[int]] = {}
        for core in self.cores:
            if core.number in self.usable:
                found.setdefault(core.node, set()).add(core.number)
        return {node: frozenset(numbers) for node, numbers in sorted(found.items())}
