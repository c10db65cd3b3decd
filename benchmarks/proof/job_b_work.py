"""Stage of job B for the service's ``map``: syslog messages to JSON lines, as all contenders write them."""

from __future__ import annotations

import numpy as np

from benchmarks.proof.job_b_kernels import parse_lines
from streamspec.core.interfaces import Segment, StageContext

PARTS = (b'{"pri":"', b'","host":"', b'","app":"', b'","pid":"', b'","msg":"', b'"}')


class ParseSyslog:
    """Emits a record ``log`` for each message, all of a segment at once."""

    def __init__(self) -> None:
        self._names = np.frombuffer(b"".join(PARTS), dtype=np.uint8)
        self._ends = np.cumsum([len(part) for part in PARTS])
        self._out = np.zeros(1 << 20, dtype=np.uint8)
        self._stops = np.zeros(1 << 15, dtype=np.int64)

    def process(self, segment: Segment, context: StageContext) -> None:
        packets = segment.packets
        if len(packets) > len(self._stops):
            self._stops = np.zeros(2 * len(packets), dtype=np.int64)
        needed = len(segment.original) + len(packets) * (len(self._names) + 1)
        if needed > len(self._out):
            self._out = np.zeros(2 * needed, dtype=np.uint8)
        count = parse_lines(segment.original, packets, self._names, self._ends, self._out, self._stops)
        if count:
            context.emit("log", self._out[: self._stops[count - 1]].tobytes())
        if count < len(packets):
            context.count("not_rfc5424", len(packets) - count)
        segment.payload = memoryview(b"")
