"""Kernels of job B: what stamps messages, and the work function of the service."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.core.jit import kernel

SPACE, QUOTE, BACKSLASH, GREATER, NEWLINE = 32, 34, 92, 62, 10
FIELDS = 7
"""Words of RFC 5424 before the message: version, time, host, application, process, message kind, structured content."""


@kernel
def stamp(messages: Any, at: int, number: int) -> None:
    """Write ``number`` as ten digits at column ``at`` of each row, one more for each."""
    for row in range(len(messages)):
        rest = number + row
        for column in range(at + 9, at - 1, -1):
            messages[row, column] = 48 + rest % 10
            rest //= 10


@kernel
def find_words(memory: Any, first: int, last: int, starts: Any) -> bool:
    """Fill ``starts``: behind the priority, and behind each of the seven words. False when there are fewer."""
    at = first + 1
    while at < last and memory[at] != GREATER:
        at += 1
    starts[0] = at + 1
    found = 0
    while at < last and found < FIELDS:
        if memory[at] == SPACE:
            found += 1
            starts[found] = at + 1
        at += 1
    return found == FIELDS


@kernel
def put_value(memory: Any, start: int, end: int, out: Any, used: int) -> int:
    """Copy a value; returns where it ends, -1 when JSON escapes one of its characters."""
    for index in range(start, end):
        character = memory[index]
        if character < SPACE or character in (QUOTE, BACKSLASH):
            return -1
        out[used] = character
        used += 1
    return used


@kernel
def put_line(memory: Any, first: int, last: int, starts: Any, names: Any, ends: Any, out: Any, used: int) -> int:
    """One line; returns where it ends, -1 when JSON escapes one of its characters."""
    low = 0
    for field in range(len(ends)):
        for index in range(low, ends[field]):
            out[used] = names[index]
            used += 1
        low = ends[field]
        if field == 0:  # priority
            used = put_value(memory, first + 1, starts[0] - 1, out, used)
        elif field < 4:  # host, application, process
            used = put_value(memory, starts[field + 1], starts[field + 2] - 1, out, used)
        elif field == 4:  # message
            used = put_value(memory, starts[FIELDS], last, out, used)
        if used < 0:
            return -1
    return used


@kernel
def parse_lines(memory: Any, packets: Any, names: Any, ends: Any, out: Any, stops: Any) -> int:
    """RFC 5424 messages to JSON lines, a newline between two; ``stops[i]`` is where the i-th ends. Returns those
    written.

    ``names`` is ``{"pri":"`` and so on behind one another, the i-th ends at ``ends[i]``. Messages without the seven
    words, or with a character that JSON escapes, or without room are left out.
    """
    used = written = 0
    starts = np.zeros(FIELDS + 1, dtype=np.int64)
    for row in range(len(packets)):
        first = int(packets[row]["offset"])
        last = first + int(packets[row]["captured_bytes"])
        if used + (last - first) + len(names) + 1 > len(out) or not find_words(memory, first, last, starts):
            continue
        begin = used
        if written:
            out[used] = NEWLINE
            begin += 1
        end = put_line(memory, first, last, starts, names, ends, out, begin)
        if end >= 0:
            used = stops[written] = end
            written += 1
    return written
