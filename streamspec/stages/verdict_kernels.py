"""Spans of memory put one behind the other, so that one pass can hash them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import cgutils as _cgutils
from numba.core import types
from numba.extending import intrinsic as _numba_intrinsic

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.stages.patterns import Offsets

_memcpy: Any = _cgutils.raw_memcpy  # numba's own parts carry no annotations


def _intrinsic(build: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = _numba_intrinsic(build)
    return made


@_intrinsic
def _copy(typing_context: Any, out: Any, out_at: Any, memory: Any, at: Any, size: Any) -> Any:
    """``out[out_at:out_at + size] = memory[at:at + size]`` as one memcpy, without any check: three times as fast
    as numba's slices when spans are short."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        target, source = builder.gep(target, [arguments[1]]), builder.gep(source, [arguments[3]])
        _memcpy(builder, target, source, arguments[4], 1)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(out, whole, memory, whole, whole), generate


@lean_kernel
def gather(memory: Bytes, starts: Offsets, ends: Offsets, out: Bytes) -> int:
    """Copy ``memory[starts[i]:ends[i]]`` into ``out``, one behind the other; returns the bytes written. What lies
    outside of ``memory`` or finds no room is left out."""
    position = 0
    for span in range(len(starts)):
        start = min(max(starts[span], 0), len(memory))
        end = min(ends[span], len(memory))
        if end > start and position + end - start <= len(out):
            _copy(out, position, memory, start, end - start)
            position += end - start
    return position
