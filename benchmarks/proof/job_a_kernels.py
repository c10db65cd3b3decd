"""The kernels of job A's work function."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.core.jit import kernel


@kernel
def index_frames(memory: Any, start: int, end: int, row: int, rows: Any) -> int:
    """Fill ``PACKET`` rows from ``row`` on with the packets of ``memory[start:end]``, each behind its length (4 bytes,
    big-endian); returns the row behind the last."""
    while start + 4 <= end and row < len(rows):
        size: Any = (
            np.int64(memory[start]) << 24
            | np.int64(memory[start + 1]) << 16
            | np.int64(memory[start + 2]) << 8
            | np.int64(memory[start + 3])
        )
        start = start + 4
        if start + size > end:
            break
        rows[row]["offset"] = start
        rows[row]["captured_bytes"] = size
        rows[row]["wire_bytes"] = size
        row += 1
        start += size
    return row


@kernel
def count_decoded(decoded: Any, first: int, end: int) -> tuple[int, int, int]:
    """TCP packets, UDP packets and bytes of IP packets in these rows."""
    tcp = udp = 0
    ip_bytes: Any = 0
    for index in range(first, end):
        protocol = decoded[index]["protocol"]
        tcp += protocol == 6
        udp += protocol == 17
        ip_bytes += np.int64(decoded[index]["ip_bytes"])
    return tcp, udp, ip_bytes
