"""A device that fails when it is told to; otherwise it is what ``links.cuda`` gives."""

from __future__ import annotations

from typing import Any, Literal

from streamspec.links.cuda import Device, DeviceFault, FaultReason

Step = Literal["launch", "wait"]


class FaultyDevice(Device):
    """A real or simulated device, and the faults of a driver.

    Attributes:
        closed: nothing is held any more.
    """

    def __init__(self, place: str, limit_bytes: int) -> None:
        super().__init__(place, limit_bytes)
        self.closed = False
        self._faults: dict[str, FaultReason] = {}
        self._left = 0

    def fail(self, step: str, reason: FaultReason, *, after: int = 0) -> None:
        """From now on every ``step`` ends so, but for the first ``after``."""
        self._faults[step] = reason
        self._left = after

    def launch(self, kernel: Any, blocks: int, threads: int, stream: Any, *arguments: Any) -> Any:
        """See ``Device``."""
        self._check("launch")
        return super().launch(kernel, blocks, threads, stream, *arguments)

    def wait(self, event: Any) -> None:
        """See ``Device``."""
        self._check("wait")
        super().wait(event)

    def close(self) -> None:
        """See ``Device``."""
        self.closed = True
        super().close()

    def _check(self, step: Step) -> None:
        if step in self._faults:
            self._left -= 1
        if step in self._faults and self._left < 0:
            raise DeviceFault(self._faults[step], f"told to fail at {step}")
