"""``memcpy`` inside kernels. Import this, as :mod:`streamspec.core.jit`, only from modules that hold kernels."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _copy_bytes(typing: Any, target: Any, target_start: Any, source: Any, source_start: Any, count: Any) -> Any:
    signature = types.void(target, types.int64, source, types.int64, types.int64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memcpy: Any = cgutils.raw_memcpy
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        out_of = context.make_array(signature.args[2])(context, builder, arguments[2])
        first = builder.gep(into.data, [arguments[1]])
        memcpy(builder, first, builder.gep(out_of.data, [arguments[3]]), arguments[4], 1)
        return context.get_dummy_value()

    return signature, generate


copy_bytes: Any = intrinsic(_copy_bytes)
"""``copy_bytes(target, target_start, source, source_start, count)`` between ``uint8`` arrays that do not
overlap; bounds are the caller's. An assignment of slices copies byte by byte and counts references."""
