"""One sink in a copy per traffic class, so that results of one class that wait for their share of the way out hold
back none of another.

A traffic class is matched by what all segments of a key have in common, so the order of each key is kept: all of
it passes one copy. Lanes within a class (by predicted cost) share its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamspec.core.errors import StreamspecError
from streamspec.core.interfaces import ShapedSink, Sink, Slots
from streamspec.core.pacer import Pace
from streamspec.engine.deliveries import DeliveryView, RecordDelivery
from streamspec.engine.delivery import SinkRunner


class TrafficSinkRunner(SinkRunner):
    """Stands where a ``SinkRunner`` stands. Records of reducers pass the first copy.

    Args:
        name: key under ``sinks``; all copies count into one tally.
        sinks: the copies, by index of the traffic class, at least one.
        view, written, failed: see ``SinkRunner``.
        traffic_of_lanes: index of the traffic class by index of the lane, as it is now.
    """

    def __init__(
        self,
        name: str,
        sinks: Sequence[Sink],
        view: DeliveryView,
        written: Callable[[Slots], None],
        failed: Callable[[StreamspecError], None],
        traffic_of_lanes: Callable[[], Sequence[int]],
    ) -> None:
        super().__init__(name, sinks[0], view, written, failed)
        self._others = [SinkRunner(name, sink, view, written, failed) for sink in sinks[1:]]
        for other in self._others:
            other.tally = self.tally
        self._sinks = list(sinks)
        self._traffic_of_lanes = traffic_of_lanes

    async def open(self) -> None:
        """Open all copies; none stays open when one cannot be opened."""
        await super().open()
        opened: list[SinkRunner] = []
        try:
            for other in self._others:
                opened.append(other)
                await other.open()
        except BaseException:
            for other in opened:
                await other.close()
            await super().close()
            raise

    def put(self, item: Slots | RecordDelivery) -> None:
        """Append to the copy of each segment's class."""
        if isinstance(item, RecordDelivery) or not self._others:
            super().put(item)
            return
        classes = np.asarray(self._traffic_of_lanes(), dtype=np.int64)
        traffic = np.minimum(classes[self._view.arena.headers["lane"][item]], len(self._others))
        for index in np.unique(traffic).tolist():
            part: Slots = item[traffic == index]
            if index == 0:
                super().put(part)
            else:
                self._others[index - 1].put(part)

    @property
    def copies(self) -> int:
        """Number of traffic classes that have a copy of their own."""
        return len(self._sinks)

    def shape(self, traffic: int, priority_class: str | None = None, pace: Pace | None = None) -> bool:
        """Class and pace of one copy from now on; False when the sink has no such thing. See ``ShapedSink``."""
        sink = self._sinks[traffic]
        if not isinstance(sink, ShapedSink):
            return False
        sink.shape(priority_class, pace=pace)
        return True

    def exchange(self, *sinks: Sink) -> None:
        """Use other copies in place of those that could not be opened."""
        super().exchange(sinks[0])
        for other, sink in zip(self._others, sinks[1:], strict=True):
            other.exchange(sink)
        self._sinks = list(sinks)

    async def idle(self) -> None:
        """Return when all copies have written what they were given."""
        await super().idle()
        for other in self._others:
            await other.idle()

    async def close(self) -> None:
        """Close all copies."""
        await super().close()
        for other in self._others:
            await other.close()
