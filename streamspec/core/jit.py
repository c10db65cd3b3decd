"""The one decorator for compiled kernels: numba, without the GIL, cached on disk.

Import this only from modules that hold kernels: numba takes about half a second and 80 MB, which
processes without kernels should not pay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])


def kernel(function: _Function) -> _Function:
    """Compile ``function`` in nopython mode on its first call (or load it from the cache)."""
    jit: Any = numba.njit(cache=True, nogil=True)
    compiled: _Function = jit(function)
    return compiled
