"""Sizes of caches inside stages (the verdict cache of ``inspect``), through the grants of their workers.

The cache's own signal is its hit rate: a size is kept while that pays and rolled back otherwise, which is for
the controller to decide. What a worker has confirmed is what :meth:`Cache.read_back` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamspec.core.actuation import Applied, Readiness

StageOfLane = tuple[str, str]
"""``(lane, stage)``."""
Resize = Callable[[str, str, int], Mapping[int, str]]
Sizes = Callable[[str, str], Mapping[int, float]]


class Cache:
    """Implements ``Actuator`` by lane and stage; a setting is bytes per worker.

    Args:
        resize: ``(lane, stage, bytes)``: tell every worker of the lane; why not, by worker.
        sizes: ``(lane, stage)``: what its workers hold by their own word, in bytes by worker.
    """

    name = "cache"

    def __init__(self, resize: Resize, sizes: Sizes) -> None:
        self._resize = resize
        self._sizes = sizes
        self._before: dict[StageOfLane, int] = {}

    async def probe(self) -> Readiness:
        """See ``Actuator``: nothing of the host is needed."""
        return Readiness(self.name, True, "grants of the workers")

    async def apply(self, desired: Mapping[StageOfLane, int]) -> Applied[StageOfLane, int]:
        """See ``Actuator``. Workers act before their next batch, so ``observed`` may still be the size before."""
        refused = {}
        for place, size in desired.items():
            sizes = self._sizes(*place)
            if not sizes:
                refused[place] = "no worker of this lane has such a cache"
                continue
            self._before.setdefault(place, int(max(sizes.values())))
            why = self._resize(*place, size)
            if why:
                refused[place] = f"{len(why)} of {len(sizes)} workers: {next(iter(why.values()))}"
        return Applied(await self.read_back(), refused)

    async def read_back(self) -> Mapping[StageOfLane, int]:
        """See ``Actuator``: the smallest of its workers'."""
        found = {place: self._sizes(*place) for place in self._before}
        return {place: int(min(sizes.values())) for place, sizes in found.items() if sizes}

    async def restore(self) -> None:
        """See ``Actuator``: back to the configured size; the caches end with their workers."""
        before, self._before = self._before, {}
        for place, size in before.items():
            self._resize(*place, size)
