"""The one decorator for compiled kernels: numba, without the GIL, cached on disk.

Import this only from modules that hold kernels: numba takes about half a second and 80 MB, which
processes without kernels should not pay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])
_NJIT: Any = numba.njit  # its annotations lack the options used below
_njit: Any = numba.njit  # its stubs know neither every option nor the signature it keeps


def kernel(function: _Function) -> _Function:
    """Compile ``function`` in nopython mode on its first call (or load it from the cache)."""
    compiled: _Function = _njit(cache=True, nogil=True)(function)
    return compiled


def lean_kernel(function: _Function) -> _Function:
    """As :func:`kernel`, without reference counting, for code that makes no arrays.

    Otherwise numba counts an array up and down, atomically, for each call that takes it. Code that creates
    an array does not compile.
    """
    jit: Any = _NJIT(cache=True, nogil=True, _nrt=False)
    compiled: _Function = jit(function)
    return compiled


def inlined_kernel(function: _Function) -> _Function:
    """As :func:`lean_kernel`, and inlined wherever it is called: for the small parts of what runs per packet.

    A header parser made of such parts takes 15 ns per packet here, 30 ns without inlining, and 120 ns when
    its arrays are counted. It costs time to compile, so it is not for code that runs seldom.
    """
    jit: Any = _NJIT(cache=True, nogil=True, forceinline=True, _nrt=False)
    compiled: _Function = jit(function)
    return compiled
