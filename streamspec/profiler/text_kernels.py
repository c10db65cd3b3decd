"""Runs of base64-like and alphanumeric characters, and whether bytes are well-formed UTF-8: 64 bytes at a time.

A class of characters is a mask of 64 bits (see :mod:`streamspec.profiler.vector`); runs are found by shifting it
against itself. What crosses from one chunk into the next is kept in a small vector of state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler.sampling_kernels import BLOCK_BYTES
from streamspec.profiler.vector import (
    ALL,
    CHUNK,
    NONE,
    Mask,
    copy_padded,
    count_ones,
    equal_mask,
    leading_zeros,
    range_mask,
    trailing_zeros,
)

State = npt.NDArray[np.int64]

ALPHANUMERIC_MINIMUM = 8
BASE64_MINIMUM = 16
"""Shorter runs are words; they count for nothing."""

(
    ALPHANUMERIC_LONGEST,
    ALPHANUMERIC_TOTAL,
    _ALPHANUMERIC_CARRY,  # bytes of the run that reaches the end of what was read
    _ALPHANUMERIC_SKIPPED,  # and how many of those were not read
    BASE64_LONGEST,
    BASE64_TOTAL,
    _BASE64_CARRY,
    _BASE64_SKIPPED,
    UTF8_ERRORS,
    STATE,
) = range(10)
"""Columns of the state; ``STATE`` is its length."""

_U1, _U2, _U4, _U8 = np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(8)
_U61, _U62, _U63 = np.uint64(61), np.uint64(62), np.uint64(63)


@lean_kernel
def take_runs(
    mask: Mask, minimum: int, carry: int, skipped: int, longest: int, total: int
) -> tuple[int, int, int, int]:
    """Go through one chunk of a class; returns the new ``carry, skipped, longest, total``.

    ``minimum`` is 8 or 16. A run counts when it ends; the one that reaches the end of the chunk is carried.
    """
    if mask == ALL:
        return carry + CHUNK, skipped, longest, total
    head = trailing_zeros(~mask)
    run = carry + head
    if run - skipped >= minimum:
        longest = max(longest, run)
        total += run - skipped
    last = leading_zeros(~mask)
    body = mask >> np.uint64(head) << np.uint64(head)
    if last:
        body &= ALL >> np.uint64(last)
    starts = body & body >> _U1
    starts &= starts >> _U2
    starts &= starts >> _U4
    if minimum > 8:
        starts &= starts >> _U8
    while starts != NONE:
        first = trailing_zeros(starts)
        run = trailing_zeros(~(body >> np.uint64(first)))
        longest = max(longest, run)
        total += run
        starts &= ALL << np.uint64(first + run)
    return last, 0, longest, total


@lean_kernel
def well_formed(
    memory: Bytes, at: int, present: Mask, expected: Mask, second: Mask, start: bool
) -> tuple[int, Mask, Mask]:
    """Errors of one chunk of UTF-8, and what its last characters ask of the next chunk.

    ``expected``: bits where the chunk before asks for continuation bytes; ``second``: bits 0 to 3, the last byte
    was E0, ED, F0, F4, after which the second byte's range is narrower (RFC 3629, section 4).
    """
    follow = range_mask(memory, at, np.uint8(0x80), np.uint8(0xBF)) & present
    lead2 = range_mask(memory, at, np.uint8(0xC2), np.uint8(0xDF)) & present
    lead3 = range_mask(memory, at, np.uint8(0xE0), np.uint8(0xEF)) & present
    lead4 = range_mask(memory, at, np.uint8(0xF0), np.uint8(0xF4)) & present
    leads = lead2 | lead3 | lead4
    high = range_mask(memory, at, np.uint8(0x80), np.uint8(0xFF)) & present
    due = expected | leads << _U1 | (lead3 | lead4) << _U2 | lead4 << np.uint64(3)
    errors = ((due ^ follow) & present) | (high & ~follow & ~leads)
    if start:  # a stretch may begin within a character: up to three bytes of it
        inside = trailing_zeros(~follow)
        if inside <= 3:
            errors &= ALL << np.uint64(inside)
    e0 = equal_mask(memory, at, np.uint8(0xE0)) & present
    ed = equal_mask(memory, at, np.uint8(0xED)) & present
    f0 = equal_mask(memory, at, np.uint8(0xF0)) & present
    f4 = equal_mask(memory, at, np.uint8(0xF4)) & present
    if (e0 | ed | f0 | f4 | second) != NONE:
        below_90 = range_mask(memory, at, np.uint8(0x80), np.uint8(0x8F)) & present
        below_a0 = range_mask(memory, at, np.uint8(0x80), np.uint8(0x9F)) & present
        errors |= (e0 << _U1 | (second & _U1)) & below_a0
        errors |= (ed << _U1 | (second >> _U1 & _U1)) & follow & ~below_a0
        errors |= (f0 << _U1 | (second >> _U2 & _U1)) & below_90
        errors |= (f4 << _U1 | (second >> np.uint64(3) & _U1)) & follow & ~below_90
    expected = leads >> _U63 | (lead3 | lead4) >> _U62 | lead4 >> _U61
    second = e0 >> _U63 | ed >> _U63 << _U1 | f0 >> _U63 << _U2 | f4 >> _U63 << np.uint64(3)
    return count_ones(errors), expected, second


@lean_kernel
def read_stretch(memory: Bytes, start: int, end: int, skipped_before: int, tail: Bytes, state: State) -> None:
    """Add the bytes ``start`` to ``end`` (a multiple of 64, unless they are the segment's last) to the state.

    ``skipped_before``: bytes between the end of the stretch before and ``start`` that were not read. A run that
    fills the stretch before and goes on in this one is taken to fill what lies between.
    ``tail``: scratch of 64 bytes for the last chunk, so that nothing behind the segment is read.
    """
    if skipped_before:
        bridge(memory, start, skipped_before, state)
    carry_a, skipped_a = state[_ALPHANUMERIC_CARRY], state[_ALPHANUMERIC_SKIPPED]
    longest_a, total_a = state[ALPHANUMERIC_LONGEST], state[ALPHANUMERIC_TOTAL]
    carry_b, skipped_b = state[_BASE64_CARRY], state[_BASE64_SKIPPED]
    longest_b, total_b = state[BASE64_LONGEST], state[BASE64_TOTAL]
    expected, second, errors = NONE, NONE, 0
    whole = start + (end - start) // CHUNK * CHUNK
    at = start
    while at < whole:
        alphanumeric, base64, high = _classes(memory, at)
        carry_a, skipped_a, longest_a, total_a = take_runs(
            alphanumeric, ALPHANUMERIC_MINIMUM, carry_a, skipped_a, longest_a, total_a
        )
        carry_b, skipped_b, longest_b, total_b = take_runs(
            base64, BASE64_MINIMUM, carry_b, skipped_b, longest_b, total_b
        )
        if (high | expected) != NONE:
            found, expected, second = well_formed(memory, at, ALL, expected, second, at == start)
            errors += found
        at += CHUNK
    state[_ALPHANUMERIC_CARRY], state[_ALPHANUMERIC_SKIPPED] = carry_a, skipped_a
    state[ALPHANUMERIC_LONGEST], state[ALPHANUMERIC_TOTAL] = longest_a, total_a
    state[_BASE64_CARRY], state[_BASE64_SKIPPED] = carry_b, skipped_b
    state[BASE64_LONGEST], state[BASE64_TOTAL] = longest_b, total_b
    state[UTF8_ERRORS] += errors
    if at < end:
        _read_tail(memory, at, end, at == start, expected, second, tail, state)


@lean_kernel
def _classes(memory: Bytes, at: int) -> tuple[Mask, Mask, Mask]:
    """Masks of one chunk: alphanumeric, base64 and base64url (RFC 4648), not ASCII."""
    digits = range_mask(memory, at, np.uint8(0x30), np.uint8(0x39))
    letters = range_mask(memory, at, np.uint8(0x41), np.uint8(0x5A)) | range_mask(
        memory, at, np.uint8(0x61), np.uint8(0x7A)
    )
    alphanumeric = digits | letters
    others = equal_mask(memory, at, np.uint8(0x2B)) | equal_mask(memory, at, np.uint8(0x2F))
    others |= equal_mask(memory, at, np.uint8(0x2D)) | equal_mask(memory, at, np.uint8(0x5F))
    others |= equal_mask(memory, at, np.uint8(0x3D))
    return alphanumeric, alphanumeric | others, range_mask(memory, at, np.uint8(0x80), np.uint8(0xFF))


@lean_kernel
def _read_tail(
    memory: Bytes, at: int, end: int, start: bool, expected: Mask, second: Mask, tail: Bytes, state: State
) -> None:
    """The last, incomplete chunk: copied, so that every load stays within the segment."""
    size = end - at
    copy_padded(memory, at, size, tail, CHUNK)
    alphanumeric, base64, high = _classes(tail, 0)
    (
        state[_ALPHANUMERIC_CARRY],
        state[_ALPHANUMERIC_SKIPPED],
        state[ALPHANUMERIC_LONGEST],
        state[ALPHANUMERIC_TOTAL],
    ) = take_runs(
        alphanumeric,
        ALPHANUMERIC_MINIMUM,
        state[_ALPHANUMERIC_CARRY],
        state[_ALPHANUMERIC_SKIPPED],
        state[ALPHANUMERIC_LONGEST],
        state[ALPHANUMERIC_TOTAL],
    )
    state[_BASE64_CARRY], state[_BASE64_SKIPPED], state[BASE64_LONGEST], state[BASE64_TOTAL] = take_runs(
        base64,
        BASE64_MINIMUM,
        state[_BASE64_CARRY],
        state[_BASE64_SKIPPED],
        state[BASE64_LONGEST],
        state[BASE64_TOTAL],
    )
    if (high | expected) != NONE:
        present = ALL >> np.uint64(CHUNK - size)
        state[UTF8_ERRORS] += well_formed(tail, 0, present, expected, second, start)[0]


@lean_kernel
def _close(minimum: int, carry: int, state: State) -> None:
    """End the carried run; ``carry`` is its column, the others lie around it."""
    run, read = state[carry], state[carry] - state[carry + 1]
    if read >= minimum:
        state[carry - 2] = max(state[carry - 2], run)
        state[carry - 1] += read
    state[carry] = 0
    state[carry + 1] = 0


@lean_kernel
def finish_runs(state: State) -> None:
    """Count the runs that reach the end of the segment."""
    _close(ALPHANUMERIC_MINIMUM, _ALPHANUMERIC_CARRY, state)
    _close(BASE64_MINIMUM, _BASE64_CARRY, state)


@lean_kernel
def bridge(memory: Bytes, start: int, skipped: int, state: State) -> None:
    """Carry runs over ``skipped`` unread bytes, or end them; the next stretch begins at ``start``."""
    value = memory[start]
    alphanumeric = (0x30 <= value <= 0x39) or (0x41 <= value <= 0x5A) or (0x61 <= value <= 0x7A)
    base64 = alphanumeric or value in (0x2B, 0x2F, 0x2D, 0x5F, 0x3D)
    for goes_on, minimum, carry in (
        (alphanumeric, ALPHANUMERIC_MINIMUM, _ALPHANUMERIC_CARRY),
        (base64, BASE64_MINIMUM, _BASE64_CARRY),
    ):
        if goes_on and state[carry] - state[carry + 1] >= BLOCK_BYTES:
            state[carry] += skipped
            state[carry + 1] += skipped
        else:
            _close(minimum, carry, state)
