"""Kernels of job B: what stamps messages, and the work function of the service."""

from __future__ import annotations

from typing import Any

from streamspec.core.jit import kernel

SPACE, QUOTE, BACKSLASH, GREATER = 32, 34, 92, 62
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
def parse_lines(memory: Any, packets: Any, names: Any, ends: Any, out: Any, stops: Any) -> int:
    """RFC 5424 messages to JSON lines without a newline; ``stops[i]`` is where the i-th ends. Returns those written.

    ``names`` is ``{"pri":"`` and so on behind one another, the i-th ends at ``ends[i]``. Messages without the seven
    words, or with a character that JSON escapes, or without room are left out.
    """
    used = written = 0
    starts = stops[-(FIELDS + 1) :].copy()
    for row in range(len(packets)):
        first = packets[row]["offset"]
        last = first + packets[row]["captured_bytes"]
        close = first + 1
        while close < last and memory[close] != GREATER:
            close += 1
        found, at = 0, close + 1
        starts[0] = at
        while at < last and found < FIELDS:
            if memory[at] == SPACE:
                found += 1
                starts[found] = at + 1
            at += 1
        if found < FIELDS or used + (last - first) + len(names) > len(out):
            continue
        begin, sound = used, True
        for field in range(6):
            low = 0 if field == 0 else ends[field - 1]
            for index in range(low, ends[field]):
                out[used] = names[index]
                used += 1
            if field == 0:
                start, end = first + 1, close
            elif field < 4:  # host, application, process
                start, end = starts[field + 1], starts[field + 2] - 1
            elif field == 4:
                start, end = starts[FIELDS], last
            else:
                break
            for index in range(start, end):
                character = memory[index]
                if character < SPACE or character in (QUOTE, BACKSLASH):
                    sound = False
                out[used] = character
                used += 1
        if not sound:
            used = begin
            continue
        stops[written] = used
        written += 1
    return written
