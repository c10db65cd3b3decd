"""GPUs of the host: use, memory by process, temperature, power, clocks; MIG instances as devices of their own."""

from __future__ import annotations

from typing import Any

from streamspec.telemetry.nvml import DeviceUse, Nvml, NvmlMissing


class GpuMonitor:
    """Opens NVML when it is first asked; without a GPU there is nothing, and :attr:`reason` says why.

    Args:
        library: instead of ``pynvml``.
    """

    def __init__(self, library: Any | None = None) -> None:
        self._library = library
        self._nvml: Nvml | None = None
        self.reason = ""

    def sample(self) -> tuple[DeviceUse, ...]:
        """One entry per device that answers. A call takes a driver a millisecond or more: use a thread."""
        if self._nvml is None and not self.reason:
            try:
                self._nvml = Nvml(self._library)
            except NvmlMissing as error:
                self.reason = str(error)
        if self._nvml is None:
            return ()
        found = (self._nvml.use(place) for place in self._nvml.places)
        return tuple(use for use in found if use is not None)

    def close(self) -> None:
        """End the session."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            nvml.close()
