"""The decorator for compiled kernels: numba, without the GIL, cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])
_njit: Any = numba.njit


def kernel(function: _Function) -> _Function:
    """Compile ``function`` in nopython mode on its first call, or load it from the cache."""
    compiled: _Function = _njit(cache=True, nogil=True)(function)
    return compiled
