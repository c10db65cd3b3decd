"""The one decorator for compiled kernels: numba, without the GIL, cached on disk.

Import this only from modules that hold kernels: numba takes about half a second and 80 MB, which
processes without kernels should not pay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])
_njit: Any = numba.njit  # its stubs know neither every option nor the signature it keeps


def kernel(function: _Function) -> _Function:
    """Compile ``function`` in nopython mode on its first call (or load it from the cache)."""
    compiled: _Function = _njit(cache=True, nogil=True)(function)
    return compiled


def lean_kernel(function: _Function) -> _Function:
    """As :func:`kernel`, for code that runs per packet and makes no arrays.

    Every part is inlined into what calls it, and there is no reference counting. Otherwise numba counts
    an array up and down, atomically, for each call that takes it: over a header parser of small functions
    that was 80 ns per packet, against 15 ns for all the rest. Code that creates an array does not compile.
    """
    compiled: _Function = _njit(cache=True, nogil=True, forceinline=True, _nrt=False)(function)
    return compiled
