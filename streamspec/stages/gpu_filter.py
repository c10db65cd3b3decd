"""Searches the packets of many segments on a device for what rules may match, in a few launches side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamspec.core.interfaces import Bytes, Counts, SegmentBatch, SlotMemory
from streamspec.links.cuda import Device, SharedArray
from streamspec.stages import automaton_kernels as kernels
from streamspec.stages.automaton import FACTOR_BYTES, Automaton
from streamspec.stages.span_kernels import cut

LAUNCH_PIECES = 16_384
"""Of one launch, about 4 MB of full packets: large enough to keep a device busy, small enough that the first segments
are processed while later ones are searched."""
MOST_LAUNCHES = 32
STREAMS = 4


class _Launch:
    """What one launch reads and writes, in memory that both sides see."""

    def __init__(self, device: Device, pieces: int) -> None:
        self.starts: SharedArray = device.share(pieces, np.int64)
        self.lengths: SharedArray = device.share(pieces, np.int32)
        self.spans: SharedArray = device.share(pieces, np.int32)
        self.found: SharedArray = device.share(pieces, np.uint8)
        self.event: Any = None
        self.done = True


@dataclass(frozen=True, slots=True)
class _Ticket:
    launch: _Launch
    first_span: int
    spans: int


class GpuFilter:
    """One automaton on one device, for segments in one memory.

    Args:
        device: where; closed by :meth:`close`.
        automaton: what is looked for.
        slots_in: where segments lie; registered with the driver.
        whole: a segment is one span; otherwise each of its packets is.

    Raises:
        DeviceFault: also from every method that reaches the device.
    """

    def __init__(self, device: Device, automaton: Automaton, slots_in: SlotMemory, *, whole: bool) -> None:
        self.device = device
        self._memory: Bytes = slots_in.memory
        self._whole = whole
        self._final = automaton.final
        layout = slots_in.layout
        self._pieces = max(LAUNCH_PIECES, layout.packet_capacity + layout.payload_bytes // kernels.PIECE_BYTES + 2)
        self._classes = device.upload("classes", automaton.classes)
        self._table = device.upload("table", automaton.table)
        self._view = device.register(self._memory)
        self._streams = [device.stream() for _ in range(STREAMS)]
        self._launches: list[_Launch] = []
        self._tickets: dict[int, _Ticket] = {}
        nothing = self._launch(0)
        self._start(nothing, 0, 1, 1)  # one piece of no bytes: compiles, not in front of the first segment
        self._wait(nothing)

    def submit(self, batch: SegmentBatch, chosen: Counts) -> None:
        """Begin to search the segments at these places of the batch. What was submitted before is forgotten."""
        self.finish()
        places, ids = batch.places[:, chosen], batch.segment_ids[chosen].tolist()
        first_spans = np.zeros(len(ids), dtype=np.int64)
        segment = number = 0
        while segment < len(ids) and number < MOST_LAUNCHES:
            launch = self._launch(number)
            until, pieces, spans = cut(
                self._memory, places, segment, self._whole, kernels.PIECE_BYTES, FACTOR_BYTES - 1,
                launch.starts.host, launch.lengths.host, launch.spans.host, first_spans,
            )  # fmt: skip
            if until == segment or pieces < 0:  # packets that lie on each other: the CPU's
                segment += 1
                continue
            self._start(launch, number, pieces, spans)
            ends = [*first_spans[segment + 1 : until].tolist(), spans]
            for name, low, high in zip(ids[segment:until], first_spans[segment:until].tolist(), ends, strict=True):
                self._tickets[name] = _Ticket(launch, low, high - low)
            segment, number = until, number + 1

    def suspects(self, segment_id: int) -> Counts | None:
        """Spans of a segment in which a rule may match, once they are known; None when it was not submitted."""
        ticket = self._tickets.pop(segment_id, None)
        if ticket is None:
            return None
        self._wait(ticket.launch)
        found = ticket.launch.found.host[ticket.first_span : ticket.first_span + ticket.spans]
        suspects: Counts = np.flatnonzero(found)
        return suspects

    def submitted(self, segment_id: int) -> bool:
        """Whether :meth:`suspects` will say something of it."""
        return segment_id in self._tickets

    def finish(self) -> None:
        """Wait for all launches, so that their memory may be used again."""
        self._tickets.clear()
        for launch in self._launches:
            self._wait(launch)

    def close(self) -> None:
        """Give everything back. Never raises."""
        self._tickets.clear()
        self._launches.clear()
        del self._view, self._classes, self._table
        self.device.close()

    def _launch(self, number: int) -> _Launch:
        if number == len(self._launches):
            self._launches.append(_Launch(self.device, self._pieces))
        return self._launches[number]

    def _start(self, launch: _Launch, number: int, pieces: int, spans: int) -> None:
        launch.found.host[:spans] = 0
        if not pieces:
            return
        threads = min(kernels.THREADS, pieces)
        launch.done = False
        launch.event = self.device.launch(
            kernels.scan, -(-pieces // threads), threads, self._streams[number % STREAMS],
            self._view, launch.starts.device, launch.lengths.device, launch.spans.device, pieces,
            self._classes, self._table, self._final, launch.found.device,
        )  # fmt: skip

    def _wait(self, launch: _Launch) -> None:
        if not launch.done:
            self.device.wait(launch.event)
            launch.done = True
