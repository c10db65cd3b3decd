"""Placement on made-up machines."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.actuators.placement import LaneDemand, place, spread
from streamspec.core.topology import Core, Topology


def _machine(
    physical: int, *, threads: int = 1, per_cache: int = 0, little: int = 0, isolated: frozenset[int] = frozenset()
) -> Topology:
    """Core ``i``'s second thread is ``i + physical``, as Linux numbers them; the last ``little`` cores are slow."""
    per_cache = per_cache or physical
    cores = []
    for thread in range(threads):
        for core in range(physical):
            first = core // per_cache * per_cache
            members = range(first, min(first + per_cache, physical))
            cache = frozenset(m + t * physical for m in members for t in range(threads))
            cores.append(
                Core(
                    core + thread * physical,
                    node=core // per_cache,
                    siblings=frozenset(core + t * physical for t in range(threads)),
                    cache=cache,
                    capacity=0.5 if core >= physical - little else 1.0,
                    isolated=core in isolated,
                )
            )
    return Topology(tuple(cores), frozenset(core.number for core in cores))


def test_lanes_get_whole_cores_of_one_cache_each() -> None:
    machine = _machine(8, threads=2, per_cache=4)
    placed = place(machine, [LaneDemand("heavy", 4, urgency=1), LaneDemand("light", 2, urgency=0)])
    assert placed["light"] == {0, 1, 8, 9}
    assert placed["heavy"] == {4, 5, 6, 7, 12, 13, 14, 15}


def test_urgent_lanes_get_the_big_cores() -> None:
    machine = _machine(6, little=4)
    placed = place(machine, [LaneDemand("bulk", 3, urgency=5), LaneDemand("light", 2)])
    assert placed["light"] == {0, 1}
    assert placed["bulk"] == {2, 3, 4}


def test_siblings_are_used_once_cores_run_out_and_then_lanes_share() -> None:
    machine = _machine(2, threads=2)
    assert place(machine, [LaneDemand("a", 2), LaneDemand("b", 1)]) == {"a": {0, 2}, "b": {1}}
    everything = frozenset(range(4))
    assert place(machine, [LaneDemand("a", 3), LaneDemand("b", 2)]) == {"a": everything, "b": everything}


def test_reserved_and_isolated_cores_are_left_alone() -> None:
    machine = _machine(6, isolated=frozenset({4, 5}))
    placed = place(machine, [LaneDemand("a", 2), LaneDemand("b", 1)], reserved=frozenset({0}))
    assert placed["a"] | placed["b"] == {1, 2, 3}
    assert place(machine, [LaneDemand("a", 6)], use_isolated=True)["a"] == frozenset(range(6))


def test_workers_are_spread_over_physical_cores() -> None:
    machine = _machine(2, threads=2)
    assert spread(frozenset(range(4)), 2, machine) == [{0, 2}, {1, 3}]
    assert spread(frozenset(range(4)), 3, machine) == [frozenset(range(4))] * 3


@given(
    st.integers(1, 12),
    st.integers(1, 2),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=6),
)
@settings(deadline=None, max_examples=150)
def test_each_lane_gets_enough_usable_cores_and_none_twice_unless_all_share(
    physical: int, threads: int, per_cache: int, lanes: list[tuple[int, int]]
) -> None:
    machine = _machine(physical, threads=threads, per_cache=per_cache)
    demands = [LaneDemand(f"l{i}", workers, urgency) for i, (workers, urgency) in enumerate(lanes)]
    placed = place(machine, demands)
    assert set(placed) == {demand.name for demand in demands}
    assert all(cores and cores <= machine.usable for cores in placed.values())
    if sum(demand.workers for demand in demands) > len(machine.usable):
        assert set(placed.values()) == {machine.usable}
    else:
        assert all(len(placed[demand.name]) >= demand.workers for demand in demands)
        assert sum(len(cores) for cores in placed.values()) == len(frozenset().union(*placed.values()))
