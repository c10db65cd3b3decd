"""An event loop whose time is a manual clock: where it would wait for a timer, the clock jumps there."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from streamspec.testing.clock import ManualClock

_Result = TypeVar("_Result")


class _JumpingSelector(selectors.BaseSelector):
    """Looks at descriptors without waiting; when none is ready, the time until the next timer has passed."""

    def __init__(self, clock: ManualClock) -> None:
        self._real = selectors.DefaultSelector()
        self._clock = clock

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return self._real.select()  # only another thread or process can go on
        ready = self._real.select(0)
        if not ready and timeout > 0:
            self._clock.now_ns += max(1, round(timeout * 1e9))
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, clock: ManualClock) -> None:
        self._virtual_clock = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._virtual_clock.now_ns / 1e9


def run_in_virtual_time(main: Coroutine[Any, Any, _Result], clock: ManualClock) -> _Result:
    """``asyncio.run`` without real waiting; ``clock`` says afterwards how much time went by."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock)) as runner:
        return runner.run(main)
