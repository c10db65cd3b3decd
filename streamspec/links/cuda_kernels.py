"""numba's CUDA target with types that mypy takes. Imported only by modules that hold kernels for a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import cuda as _cuda

Function = TypeVar("Function", bound=Callable[..., object])

cuda: Any = _cuda
"""In modules with kernels; its names are those of the device, which numba's types do not have."""


def device_function(function: Function) -> Function:
    """A part of kernels."""
    compiled: Function = cuda.jit(device=True)(function)
    return compiled


def device_kernel(function: Callable[..., None]) -> Any:
    """What is launched: ``Device.launch``. Compiled once per kind of device, then loaded from the cache."""
    return cuda.jit(cache=True)(function)
