"""The cache policy on caches of a known working set and a virtual clock: what it does to their sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from streamspec.core.control import CacheState, LanePlan, LaneState, Observation, Plan, Proposal
from streamspec.core.resources import Allocation
from streamspec.engine.cycle import Cycle
from streamspec.engine.guard import Guard
from streamspec.engine.guard_config import GuardConfig
from streamspec.policies.cache import CachePolicy, CachePolicyConfig

KIB, MIB = 1 << 10, 1 << 20
LEAST = 256 * KIB


@dataclass
class World:
    """A cache with uniformly drawn content: the hit rate is the share of the working set that has room."""

    working_set_bytes: float
    repeated: float = 0.9
    """Share of the lookups that are of the working set at all."""
    lookups_per_second: float = 1000.0
    pool_bytes: int = 1 << 40
    configured_bytes: int = 8 * MIB
    granted_bytes: int = 8 * MIB
    since_change_seconds: float = 1e9

    def give(self, decided: int) -> None:
        """What effects do of a plan."""
        wanted = min(decided or self.configured_bytes, self.pool_bytes)
        if wanted != self.granted_bytes:
            self.granted_bytes, self.since_change_seconds = wanted, 0.0

    def state(self, dt: float) -> CacheState:
        self.since_change_seconds += dt
        room = min(self.granted_bytes / max(self.working_set_bytes, 1.0), 1.0)
        filled = min(self.since_change_seconds / 3.0, 1.0)
        hits = self.repeated * room * (filled if room == 1.0 else max(filled, 0.5))
        rate = self.lookups_per_second
        full = self.granted_bytes < self.working_set_bytes
        return CacheState("all", self.granted_bytes, 0, rate * hits, rate * (1 - hits), rate * 0.1 if full else 0.0)


class Loop:
    """The policy, the guard and a world, four decisions per second."""

    def __init__(self, world: World, **config: float) -> None:
        self.world = world
        plan = Plan((LanePlan("all", Allocation(workers=2)),))
        self.cycle = Cycle("auto", (CachePolicy(CachePolicyConfig(**config)),), Guard(GuardConfig(), plan), plan)
        self.now = 0.0
        self.steps: list[Proposal] = []

    def run(self, seconds: float, *, finished: float = 1000.0, missed: float = 0.0) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            lane = LaneState("all", finished_per_second=finished, miss_ratio=missed)
            seen = Observation(self.now, since_start_seconds=self.now, lanes=(lane,), caches=(self.world.state(0.25),))
            decision = self.cycle.decide(seen)
            self.steps += decision.done
            self.world.give(self.cycle.plan.lanes[0].allocation.cache_bytes)

    @property
    def reasons(self) -> list[str]:
        return [step.reason for step in self.steps]


def test_a_cache_that_is_too_small_grows_until_more_does_not_pay() -> None:
    loop = Loop(World(working_set_bytes=50 * MIB))
    loop.run(300)
    assert 50 * MIB <= loop.world.granted_bytes <= 100 * MIB
    assert loop.reasons[:3] == ["entries_are_forgotten"] * 3
    assert len(loop.steps) < 12  # a try down now and then, further and further apart


def test_growth_that_does_not_pay_is_rolled_back_and_tried_ever_more_seldom() -> None:
    loop = Loop(World(working_set_bytes=4000 * MIB))  # four times the memory brings less than a hundredth
    loop.run(600)
    assert loop.world.granted_bytes == 8 * MIB
    ups = [step for step in loop.steps if step.direction == "up"]
    assert 2 <= len(ups) <= 6
    assert loop.reasons.count("hit_rate_did_not_rise") >= len(ups) - 1


def test_memory_that_is_not_needed_is_given_back_and_what_is_needed_is_not() -> None:
    loop = Loop(World(working_set_bytes=3 * MIB))
    loop.run(300)
    assert 3 * MIB <= loop.world.granted_bytes <= 8 * MIB
    assert loop.reasons[:2] == ["nothing_is_forgotten", "nothing_is_forgotten"]
    assert "hit_rate_fell" in loop.reasons


def test_a_cache_that_switched_itself_off_shrinks_to_the_least() -> None:
    loop = Loop(World(working_set_bytes=1e12, lookups_per_second=0.0))
    loop.run(300)
    assert loop.world.granted_bytes == LEAST
    assert set(loop.reasons) == {"nobody_looks_into_it"}


def test_a_shift_to_more_repeated_content_is_followed() -> None:
    loop = Loop(World(working_set_bytes=LEAST / 2))
    loop.run(300)
    small = loop.world.granted_bytes
    assert small <= 1 * MIB
    loop.world.working_set_bytes = 16 * MIB
    loop.run(400)
    assert loop.world.granted_bytes >= 16 * MIB


@pytest.mark.parametrize("lookups", [0.0, 5.0])
def test_nothing_is_learned_while_little_or_nothing_arrives(lookups: float) -> None:
    loop = Loop(World(working_set_bytes=1e12, lookups_per_second=lookups))
    loop.run(120, finished=lookups)
    assert loop.steps == []


def test_what_the_pool_does_not_have_does_not_stay_in_the_plan() -> None:
    loop = Loop(World(working_set_bytes=500 * MIB, pool_bytes=8 * MIB))
    loop.run(40)
    assert loop.world.granted_bytes == 8 * MIB
    assert loop.reasons[:2] == ["entries_are_forgotten", "not_granted"]
    assert loop.cycle.plan.lanes[0].allocation.cache_bytes == 8 * MIB


def test_latency_says_nothing_about_a_cache() -> None:
    calm, missing = (Loop(World(working_set_bytes=50 * MIB)) for _ in range(2))
    calm.run(120)
    missing.run(120, missed=0.5)
    assert [step.after for step in calm.steps[:3]] == [step.after for step in missing.steps[:3]]


def test_without_caches_or_switched_off_nothing_is_proposed() -> None:
    plan = Plan((LanePlan("all"),))
    for policy, caches in (
        (CachePolicy(), ()),
        (CachePolicy(CachePolicyConfig(enabled=False)), (CacheState("all", 1),)),
    ):
        for now in (1.0, 100.0, 200.0):
            assert not policy.decide(Observation(now, caches=caches), plan).proposals


def test_a_lane_that_is_gone_is_forgotten() -> None:
    policy, plan = CachePolicy(), Plan((LanePlan("all"),))
    state = CacheState("all", MIB, 0, 900.0, 100.0, 10.0)
    seen = Observation(1.0, lanes=(LaneState("all", finished_per_second=1000.0),), caches=(state,))
    for now in range(1, 40):
        advice = policy.decide(replace(seen, now_seconds=float(now)), plan)
    assert advice.proposals
    assert not policy.decide(replace(seen, now_seconds=41.0), Plan((LanePlan("light"),))).proposals
