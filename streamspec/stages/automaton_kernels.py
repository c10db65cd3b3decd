"""The automaton over many pieces of packets in one launch, straight from the memory that holds them.

Imported only where there is a device (or numba's simulator of one).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.links.cuda_kernels import cuda, device_function, device_kernel

PIECE_BYTES = 256
"""Bytes of a span that one thread searches, beside the overlap."""
STRIDE = 276
"""Of pieces in shared memory: 256 bytes and an overlap of 15 fit, and 69 words apart threads meet no common bank."""
THREADS = 128
"""Of a block; with these pieces it takes 35 KB of shared memory, so that six or more blocks fit on a processor: while
some wait for the bus, others search."""
_WARP = 32
_SHARED_BYTES = THREADS * STRIDE  # the compiler takes a name here, and no product


@device_function
def _load(words: Any, start: Any, length: Any, lane: Any, lanes: Any, pieces: Any, place: Any) -> None:
    """Copy bytes to ``pieces[place]`` and on, with whole words of the memory."""
    first = start >> 2
    for word in range(first + lane, (start + length + 3) >> 2, lanes):
        value = words[word]
        at = (word << 2) - start
        for byte in range(4):
            if 0 <= at + byte < length:
                pieces[place + at + byte] = (value >> (8 * byte)) & 255


def _scan(
    words: Any, starts: Any, lengths: Any, spans: Any, count: Any, classes: Any, table: Any, final: Any, found: Any
) -> None:
    """Set ``found[spans[i]]`` for each piece, ``lengths[i]`` bytes from byte ``starts[i]``, that the automaton accepts.

    A warp reads each of its threads' pieces in turn, neighbouring threads neighbouring words; then each thread
    searches its own. ``words``: the memory as ``uint32``; ``count``: of the pieces.
    """
    pieces = cuda.shared.array(_SHARED_BYTES, np.uint8)
    kinds = cuda.shared.array(256, np.uint8)
    thread = cuda.threadIdx.x
    first = cuda.blockIdx.x * cuda.blockDim.x
    for value in range(thread, 256, cuda.blockDim.x):
        kinds[value] = classes[value]
    lane = thread % _WARP
    warp_first = thread - lane
    lanes = min(_WARP, cuda.blockDim.x - warp_first)
    for other in range(lanes):
        piece = first + warp_first + other
        if piece < count:
            _load(words, starts[piece], lengths[piece], lane, lanes, pieces, (warp_first + other) * STRIDE)
    cuda.syncthreads()
    piece = first + thread
    if piece < count:
        state = 0
        place = thread * STRIDE
        for at in range(place, place + lengths[piece]):
            state = table[state, kinds[pieces[at]]]
        if state == final:
            found[spans[piece]] = 1


scan: Any = device_kernel(_scan)
"""Launch with ``THREADS`` threads or fewer and one thread for each piece."""
