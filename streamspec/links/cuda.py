"""How a GPU is reached: one device of one process, its memory bounded by a grant, its errors as few words.

Kernels are written for ``numba.cuda`` rather than CuPy: the same Python runs in numba's simulator, so that tests
hold without a GPU, numba is here already for the kernels of the CPU, and no kernel is text in another language. The
extra ``gpu`` installs ``numba-cuda``, NVIDIA's package of that target: it takes the place of ``numba.cuda`` at import
and brings the compiler (NVVM) as wheels, where numba's own target needs an installed CUDA toolkit and is no longer
developed. Only what both have is used here.

Segments travel without a copy by the host: the arena is registered with the driver (``cuMemHostRegister``, mapped),
and kernels read it over the bus. Launches go to several streams, so that one launch reads while another computes.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Bytes
from streamspec.core.units import format_bytes

FaultReason = Literal["out_of_memory", "device_lost", "timed_out", "unavailable"]

ANSWER_SECONDS = 5.0
"""A launch that takes longer is given up, and the device with it: it hangs, or somebody debugs on it."""
POLL_SECONDS = 20e-6
_place = ""  # that the driver of this process was started for
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


def fault_reason(name: str) -> FaultReason:
    """The reason of that name. Raises ValueError."""
    found: dict[str, FaultReason] = {reason: reason for reason in get_args(FaultReason)}
    if name not in found:
        raise ValueError(f"no such fault: {name}")
    return found[name]


class DeviceFault(Exception):
    """The device did not do what was asked.

    Attributes:
        reason: ``out_of_memory`` may pass; after the others the device is of no more use to this process: an Xid, an
            uncorrectable ECC error or an illegal access poisons the whole context.
    """

    def __init__(self, reason: FaultReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: FaultReason = reason

    @property
    def lasting(self) -> bool:
        """Whether trying again in this process is of no use."""
        return self.reason != "out_of_memory"


@dataclass(frozen=True, slots=True)
class SharedArray:
    """Memory that both sides see: ``host`` as numpy knows it, ``device`` to be passed to kernels."""

    host: npt.NDArray[Any]
    device: Any


class Device:
    """One device in this process. Not for several threads.

    Args:
        place: as the ledger names it: the index of a GPU as NVML counts, or the UUID of a MIG instance.
        limit_bytes: device memory that may be held at once; the grant.

    Raises:
        DeviceFault: there is none, or the driver refuses.
    """

    def __init__(self, place: str, limit_bytes: int) -> None:
        self.place = place
        self.limit_bytes = limit_bytes
        self._held: dict[str, tuple[int, Any]] = {}
        self._mapped = ExitStack()
        self._cuda: Any = self._call(importlib.import_module, "numba.cuda")
        config: Any = importlib.import_module("numba.core.config")
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small batch is no mistake
        self.simulated = bool(config.ENABLE_CUDASIM)
        if not self.simulated:
            with _selected(place):
                self._call(self._cuda.current_context)

    # -- memory ---------------------------------------------------------------------------------
    @property
    def held_bytes(self) -> int:
        """Device memory that is held now."""
        return sum(size for size, _ in self._held.values())

    def upload(self, name: str, content: npt.NDArray[Any]) -> Any:
        """Copy an array into device memory, in place of what ``name`` held before.

        Raises:
            DeviceFault: ``out_of_memory``, when it is beyond the grant or the device has no more.
        """
        self.free(name)
        left = self.limit_bytes - self.held_bytes
        if content.nbytes > left:
            raise DeviceFault(
                "out_of_memory", f"{name} takes {format_bytes(content.nbytes)}, {format_bytes(left)} of the grant left"
            )
        array = self._call(self._cuda.to_device, content)
        self._held[name] = (content.nbytes, array)
        return array

    def free(self, *names: str) -> None:
        """Give device memory back to the driver at once; without names, all of it."""
        for name in names or tuple(self._held):
            self._held.pop(name, None)
        if not self.simulated:  # numba frees later, a few at a time; NVML would show memory that nobody uses
            self._call(self._cuda.current_context().memory_manager.deallocations.clear)

    def share(self, shape: int | tuple[int, ...], kind: npt.DTypeLike) -> SharedArray:
        """Zeros in pinned host memory that kernels reach over the bus; no device memory."""
        if self.simulated:
            host: npt.NDArray[Any] = np.zeros(shape, dtype=kind)
            return SharedArray(host, _simulated(host))
        array = self._call(self._cuda.mapped_array, shape, np.dtype(kind))
        array[...] = 0
        return SharedArray(np.asarray(array), array)

    def register(self, memory: Bytes) -> Any:
        """Pin memory that is there already, until :meth:`close`.

        Returns:
            What kernels take for it, as ``uint32`` words, lowest byte first: a warp that reads words asks the bus for
            128 bytes at a time.
        """
        if len(memory) % 4:
            raise ValueError("memory for a device is a whole number of words")
        words = memory.view("<u4")
        if self.simulated:
            return _simulated(words)
        return self._call(self._mapped.enter_context, self._cuda.mapped(words))

    # -- work -----------------------------------------------------------------------------------
    def stream(self) -> Any:
        """A queue of work beside the others."""
        return self._call(self._cuda.stream)

    def launch(self, kernel: Any, blocks: int, threads: int, stream: Any, *arguments: Any) -> Any:
        """Start a kernel; returns what :meth:`wait` takes."""
        self._call(kernel[blocks, threads, stream], *arguments)
        event = self._cuda.event(timing=False) if not self.simulated else None
        if event is not None:
            self._call(event.record, stream)
        return event

    def wait(self, event: Any) -> None:
        """Return when the launch is done, without keeping the core busy meanwhile.

        Raises:
            DeviceFault: it failed, or does not end.
        """
        if event is None:
            return
        until = time.monotonic() + ANSWER_SECONDS
        while not self._call(event.query):
            if time.monotonic() > until:
                raise DeviceFault("timed_out", f"no answer within {ANSWER_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Let go of everything; never raises, since the device may be gone."""
        for step in (self.free, self._mapped.close):
            try:
                step()
            except Exception:  # a lost device refuses whatever is asked, with errors of many kinds
                self._held.clear()

    def _call(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except DeviceFault:
            raise
        except Exception as error:
            raise _fault(error) from error


def open_device(place: str, limit_bytes: int) -> Device:
    """The device at ``place``; tests put another one here."""
    return Device(place, limit_bytes)


def _simulated(array: npt.NDArray[Any]) -> Any:
    """As an array of the simulated device, on the same memory; plain arrays would be copied there and back."""
    return importlib.import_module("numba.cuda.simulator.cudadrv.devicearray").FakeCUDAArray(array)


@contextmanager
def _selected(place: str) -> Iterator[None]:
    """Let this process see that device alone: the driver reads the environment when it starts, and processes started
    later shall not. A choice made outside stands."""
    global _place
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and place not in _places(chosen):
        raise DeviceFault("unavailable", f"CUDA_VISIBLE_DEVICES={chosen} leaves no device {place}")
    if _place not in ("", place):
        raise DeviceFault("unavailable", f"this process has device {_place} already")
    before = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
    os.environ["CUDA_VISIBLE_DEVICES"] = place
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts
    try:
        yield
        _place = place
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _places(chosen: str) -> Sequence[str]:
    return [part.strip() for part in chosen.split(",")]


def _fault(error: Exception) -> DeviceFault:
    """By the driver's number; what numba raises before it has a driver says that there is none."""
    code = getattr(error, "code", None)
    if code is not None:
        return DeviceFault("out_of_memory" if int(code) == _OUT_OF_MEMORY else "device_lost", str(error))
    if isinstance(error, MemoryError):
        return DeviceFault("out_of_memory", str(error))
    return DeviceFault("unavailable", f"{type(error).__name__}: {error}")
