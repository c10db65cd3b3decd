"""Policy ``cache``: sizes of caches by their own signal, the hit rate, tried out and rolled back where it does not pay.

A cache that forgets entries for want of room is made larger, and stays so if its hit rate rises by enough; one that
forgets nothing, or that nobody looks into, is made smaller, and stays so if its hit rate holds. A step that did not pay
is taken back, and the next try in that direction waits twice as long. (Justin, DAIS'25, scales the memory of stream
operators so: keep or roll back.) Latency says nothing about a cache here, and nothing is tried while nothing arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import Field

from streamspec.core.control import Advice, CacheState, Effect, Observation, Plan, Proposal
from streamspec.core.units import Bytes, Seconds
from streamspec.policies.base import PolicyConfigBase

Way = Literal["up", "down"]

GRANTED_RATIO = 0.1
"""A cache within this share of what was decided has it."""
PATIENCE_PERIODS = 6.0
"""Periods after which a step that the guard or the pool did not grant is given up."""
LONGEST_WAIT_PERIODS = 64.0
WARM_UP_RATIO = 0.5
"""Share of a period after a step that is not counted: a larger cache fills first."""
SURE_ERRORS = 2.0
"""Standard errors that a rise of the hit rate must exceed."""


class CachePolicyConfig(PolicyConfigBase):
    """How boldly sizes of caches are tried."""

    enabled: bool = Field(default=True, description="Find the sizes of caches while the service runs.")
    period: Seconds = Field(
        default=10.0,
        gt=0,
        le=86_400,
        description="Seconds that a hit rate is taken over, before and after a step (up to 86400); half of it passes "
        "first. Longer tells smaller differences and takes longer.",
    )
    lookups: int = Field(
        default=2000, ge=1, description="Lookups that a hit rate is taken over at the least (1 and more)."
    )
    gain: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="Rise of the hit rate for which a larger cache is worth its memory (0 to 1).",
    )
    loss: float = Field(
        default=0.01, ge=0, le=1, description="Fall of the hit rate that half the memory may cost (0 to 1)."
    )
    least: Bytes = Field(
        default=256 << 10, ge=1, description="Size below which the caches of a lane are not shrunk (1 B and more)."
    )

    def build(self) -> CachePolicy:
        """The policy."""
        return CachePolicy(self)


@dataclass
class _Sums:
    """What was seen since some moment."""

    seconds: float = 0.0
    hits: float = 0.0
    misses: float = 0.0
    evictions: float = 0.0
    finished: float = 0.0

    def add(self, cache: CacheState, finished_per_second: float, seconds: float) -> None:
        """One more decision's worth."""
        self.seconds += seconds
        self.hits += cache.hits_per_second * seconds
        self.misses += cache.misses_per_second * seconds
        self.evictions += cache.evictions_per_second * seconds
        self.finished += finished_per_second * seconds

    @property
    def lookups(self) -> float:
        """Hits and misses."""
        return self.hits + self.misses

    @property
    def hit_ratio(self) -> float:
        """Of the lookups."""
        return self.hits / self.lookups if self.lookups > 0 else 0.0

    @property
    def error(self) -> float:
        """Standard error of the hit rate."""
        return math.sqrt(self.hit_ratio * (1.0 - self.hit_ratio) / self.lookups) if self.lookups > 0 else 0.0


@dataclass(frozen=True)
class _Step:
    """A size that is asked for, or being tried."""

    way: Way
    before: int
    after: int
    reason: str
    detail: str
    planned: int
    """What the plan said when it was asked for."""
    seen: _Sums
    """Before the step."""
    back: bool = False
    """It takes back what did not pay."""


@dataclass
class _Cache:
    """What is remembered of the caches of one lane."""

    sums: _Sums = field(default_factory=_Sums)
    asked: _Step | None = None
    asked_seconds: float = 0.0
    granted: bool = False
    trial: _Step | None = None
    warm: bool = False
    wait_periods: dict[Way, float] = field(default_factory=lambda: {"up": 1.0, "down": 1.0})
    not_before_seconds: dict[Way, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})


class CachePolicy:
    """Implements ``Policy``. At most one proposal per lane with caches."""

    name = "cache"

    def __init__(self, config: CachePolicyConfig | None = None) -> None:
        self._config = config or CachePolicyConfig()
        self._caches: dict[str, _Cache] = {}
        self._last_seconds: float | None = None

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """Proposals of ``cache_bytes``, which are those of the lane's workers together."""
        passed = 0.0 if self._last_seconds is None else max(observation.now_seconds - self._last_seconds, 0.0)
        self._last_seconds = observation.now_seconds
        if not self._config.enabled:
            return Advice(self.name)
        finished = {lane.name: lane.finished_per_second for lane in observation.lanes}
        present = {cache.name: cache for cache in observation.caches if plan.lane(cache.name) is not None}
        self._caches = {name: self._caches.get(name, _Cache()) for name in present}
        proposals = []
        for name, cache in present.items():
            known = self._caches[name]
            known.sums.add(cache, finished.get(name, 0.0), passed)
            planned = plan.lane(name)
            decided = planned.allocation.cache_bytes if planned is not None else 0
            step = self._step(known, cache, decided, observation.now_seconds)
            if step is not None:
                proposals.append(self._proposal(name, decided, step))
        return Advice(self.name, tuple(proposals))

    def _step(self, known: _Cache, cache: CacheState, decided: int, now: float) -> _Step | None:
        """What to ask for at this decision."""
        if known.asked is not None:
            return self._asked(known, known.asked, cache, decided, now)
        if known.trial is not None:
            back = self._judge(known, known.trial, decided, now)
        else:
            back = self._next(known, cache, decided, now)
        if back is not None:
            self._ask(known, back, now)
        return back

    def _asked(self, known: _Cache, step: _Step, cache: CacheState, decided: int, now: float) -> _Step | None:
        """The step again until it is granted; then its effect is measured from the moment that workers have it."""
        waited = now - known.asked_seconds
        if decided == step.after:
            if abs(cache.granted_bytes - step.after) <= GRANTED_RATIO * step.after:
                known.asked, known.trial = None, None if step.back else step
                known.sums, known.warm = _Sums(), False
                return None
            if not known.granted:
                known.granted, known.asked_seconds = True, now
                return None
            return self._taken_back(known, step, now) if waited > self._config.period and not step.back else None
        if step.back and decided != step.planned:  # the guard takes back a part at a time
            self._ask(known, replace(step, planned=decided), now)
            return known.asked
        if decided == step.planned and waited < PATIENCE_PERIODS * self._config.period:
            return step
        known.asked, known.sums = None, _Sums()  # the guard granted another size, or none
        self._wait(known, step.way, now)
        return None

    def _taken_back(self, known: _Cache, step: _Step, now: float) -> _Step:
        """What was decided and cannot be had is not left in the plan."""
        self._wait(known, step.way, now)
        way: Way = "down" if step.way == "up" else "up"
        detail = "workers do not get it"
        back = _Step(way, step.after, step.before, "not_granted", detail, step.after, step.seen, back=True)
        self._ask(known, back, now)
        return back

    def _ask(self, known: _Cache, step: _Step, now: float) -> None:
        known.asked, known.asked_seconds, known.granted = step, now, False

    def _judge(self, known: _Cache, trial: _Step, decided: int, now: float) -> _Step | None:
        """Keep the trial, or the step back."""
        sums, config = known.sums, self._config
        if decided != trial.after:  # somebody else has changed it
            known.trial, known.sums = None, _Sums()
            self._wait(known, trial.way, now)
            return None
        if not known.warm:
            if sums.seconds >= WARM_UP_RATIO * config.period:
                known.sums, known.warm = _Sums(), True
            return None
        if sums.seconds < config.period or (sums.lookups < config.lookups and not self._asleep(sums)):
            return None
        known.trial, known.sums = None, _Sums()
        change = sums.hit_ratio - trial.seen.hit_ratio
        pays = change >= max(config.gain, SURE_ERRORS * math.hypot(sums.error, trial.seen.error))
        if pays if trial.way == "up" else (change >= -config.loss or not sums.lookups):
            known.wait_periods[trial.way] = 1.0
            return None
        self._wait(known, trial.way, now)
        detail = f"hit rate {trial.seen.hit_ratio:.1%} before, {sums.hit_ratio:.1%} with it"
        way: Way = "down" if trial.way == "up" else "up"
        reason = "hit_rate_did_not_rise" if trial.way == "up" else "hit_rate_fell"
        return _Step(way, trial.after, trial.before, reason, detail, decided, sums, back=True)

    def _next(self, known: _Cache, cache: CacheState, decided: int, now: float) -> _Step | None:
        """Another size to try, when enough was seen of the present one."""
        sums, config, size = known.sums, self._config, cache.granted_bytes
        asleep = self._asleep(sums)
        if size <= 0 or sums.seconds < config.period or (sums.lookups < config.lookups and not asleep):
            return None
        known.sums = _Sums()
        if sums.evictions > 0 and not asleep:
            if now < known.not_before_seconds["up"]:
                return None
            detail = f"hit rate {sums.hit_ratio:.1%}, {sums.evictions / sums.seconds:.0f} entries forgotten per second"
            # From far below the working set, twice as much brings little: after a try in vain a larger one.
            larger = size * (2 if known.wait_periods["up"] <= 1.0 else 4)
            return _Step("up", size, larger, "entries_are_forgotten", detail, decided, sums)
        smaller = max(size // 2, config.least)
        if smaller >= size or now < known.not_before_seconds["down"]:
            return None
        reason, detail = "nothing_is_forgotten", f"hit rate {sums.hit_ratio:.1%}, with room left"
        if asleep:
            reason, detail = "nobody_looks_into_it", "no lookups while segments finish"
        return _Step("down", size, smaller, reason, detail, decided, sums)

    def _asleep(self, sums: _Sums) -> bool:
        """Segments finish and nobody looks into the cache: it has switched itself off."""
        return sums.lookups == 0 and sums.finished >= self._config.lookups

    def _wait(self, known: _Cache, way: Way, now: float) -> None:
        """Try that direction later, each time later than before."""
        known.wait_periods[way] = min(known.wait_periods[way] * 2.0, LONGEST_WAIT_PERIODS)
        known.not_before_seconds[way] = now + known.wait_periods[way] * self._config.period

    def _proposal(self, lane: str, decided: int, step: _Step) -> Proposal:
        return Proposal(
            knob="cache_bytes",
            lane=lane,
            before=decided,
            after=step.after,
            direction=step.way,
            reason=step.reason,
            detail=step.detail,
            expected=Effect(hit_ratio=step.seen.hit_ratio),
            basis="measured",
            policy=self.name,
        )
