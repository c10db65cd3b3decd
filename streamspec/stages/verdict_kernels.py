"""Spans of memory put one behind the other, so that one pass can hash them."""

from __future__ import annotations

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import kernel
from streamspec.stages.patterns import Offsets


@kernel
def gather(memory: Bytes, starts: Offsets, ends: Offsets, out: Bytes) -> None:
    """Copy ``memory[starts[i]:ends[i]]`` into ``out``, which has room for all."""
    position = 0
    for span in range(len(starts)):
        size = ends[span] - starts[span]
        out[position : position + size] = memory[starts[span] : ends[span]]
        position += size
