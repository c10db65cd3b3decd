"""One capture file on its way into segments: window by window, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamspec.core.interfaces import Bytes, Intake, Rows, Slots
from streamspec.core.segment import HEADER, PACKET
from streamspec.sources.capture_file import CaptureFile, PlainFile
from streamspec.sources.pcap_formats import (
    FILE_HEADER_BYTES,
    MICROSECONDS,
    CaptureFormat,
    ClassicFormat,
)
from streamspec.sources.pcap_kernels import CLASSIC, ENDED, KINDS, ON_TRACK, SEARCHING, fill_header, put_key
from streamspec.sources.pcap_reading import AVAILABLE, READING, new_reading, read_windows
from streamspec.sources.pcapng import BlockFormat

SMALLEST_WINDOW_BYTES = 4096


def load_kernels() -> None:
    """Compile the kernels, or load them from the cache, so that the first segment does not wait for it."""
    content, rows, headers = np.zeros(64, dtype=np.uint8), np.zeros(1, dtype=PACKET), np.zeros(1, dtype=HEADER)
    for format in (ClassicFormat(MICROSECONDS, False, 0, False), BlockFormat(False)):
        format.index(content, 0, True, rows)
    fill_header(headers, 0, rows, 1, 0, 0)
    key = np.frombuffer(b"", dtype=np.uint8)
    put_key(headers, 0, np.uint64(0), key, content, 0)
    if AVAILABLE:
        nothing = np.zeros(0, dtype=np.int32)
        read_windows(np.zeros(1, dtype=READING), np.zeros(1, dtype=CLASSIC), nothing, key, content, headers)


class CaptureWalk:
    """Where the source is in one file. Make it with :meth:`begin`.

    Attributes:
        ended: there are no further windows.
        packets: handed out so far.
        filled: slots that the last :meth:`fill_windows` completed.
    """

    def __init__(
        self, intake: Intake, file: CaptureFile, format: CaptureFormat, segment_bytes: int, key: bytes
    ) -> None:
        self.intake = intake
        self.ended = False
        self.packets = 0
        self.filled = 0
        self._file = file
        self._format = format
        self._segment_bytes = min(segment_bytes, intake.layout.payload_bytes)
        self._key = np.frombuffer(key[: intake.layout.meta_bytes], dtype=np.uint8)
        self._key_hash: np.uint64 | None = None
        self._position = format.first_position
        self._window_bytes = self._segment_bytes
        self._link_type = 0
        self._reading: Rows | None = None

    @classmethod
    async def begin(
        cls, intake: Intake, file: CaptureFile, path: Path, segment_bytes: int, search: bool
    ) -> CaptureWalk | None:
        """Look at the start of the file; None when it is of no known format.

        Args:
            path: of the file; its name becomes the stream key.
            segment_bytes: bytes of the file in one segment.
            search: go on behind damage.
        """
        start = np.zeros(FILE_HEADER_BYTES, dtype=np.uint8)
        available, _ = await file.read(0, start)
        if available < FILE_HEADER_BYTES:
            return None
        head = start.tobytes()
        format: CaptureFormat | None = BlockFormat.recognise(head, search) or ClassicFormat.recognise(head, search)
        if format is None:
            return None
        return cls(intake, file, format, segment_bytes, path.name.encode(errors="surrogateescape"))

    async def fill_windows(self, slots: Slots, arrival_ns: int) -> None:
        """Fill the first of these open slots with the next windows: :attr:`filled`, to be committed even when this
        raises. Fewer than there are only at the end of the file."""
        self.filled = 0
        intake = self.intake
        while self.filled < len(slots) and not self.ended:
            self.filled += self._read_many(slots[self.filled :], arrival_ns)
            if self.filled == len(slots) or self.ended:
                break
            slot = int(slots[self.filled])
            rows = intake.packets(slot)
            found = await self.next_window(intake.payload(slot), rows)
            if found:
                self.fill(slot, rows, found, arrival_ns)
                self.filled += 1

    def _read_many(self, slots: Slots, arrival_ns: int) -> int:
        """What can be read and indexed at once; 0 when there is no such thing, or a doubt about what comes next."""
        file, format = self._file, self._format
        if not AVAILABLE or not isinstance(file, PlainFile) or not isinstance(format, ClassicFormat):
            return 0
        if format.track != ON_TRACK or self._key_hash is None:
            return 0  # the first window of a file finds out the key's hash
        if self._reading is None:
            self._reading = new_reading(self.intake)
            self._reading["descriptor"], self._reading["file_bytes"] = file.descriptor, file.size_bytes
            self._reading["segment_bytes"], self._reading["smallest_bytes"] = self._segment_bytes, SMALLEST_WINDOW_BYTES
            self._reading["link_type"], self._reading["key_hash"] = format.link_type, self._key_hash
        plan = self._reading[0]
        plan["position"], plan["window_bytes"], plan["arrival_ns"] = self._position, self._window_bytes, arrival_ns
        intake = self.intake
        count = read_windows(self._reading, format.state, slots, self._key, intake.memory, intake.headers)
        self._position, self._window_bytes = int(plan["position"]), int(plan["window_bytes"])
        self.packets += int(plan["packets"])
        self.ended = self._position >= file.size_bytes
        return count

    async def next_window(self, buffer: Bytes, rows: Rows) -> int:
        """Read the next window to the start of ``buffer`` (as large as a payload region) and index it into
        ``rows``. Returns the packets in it; 0 at the end of the file, or after damage."""
        size = len(buffer) if self._format.track == SEARCHING else min(self._window_bytes, len(buffer))
        while True:
            available, final = await self._file.read(self._position, buffer[:size])
            count, used, self._link_type = self._format.index(buffer, available, final, rows)
            if used or final or size == len(buffer):
                break
            size = len(buffer)  # not even one record fits
        self._position += used
        self.ended = not used or (final and used >= available) or self._format.track == ENDED
        # Where the rows or a change of link type end a segment early, the rest of the window was read in vain.
        self._window_bytes = min(self._segment_bytes, max(2 * min(used, available), SMALLEST_WINDOW_BYTES))
        return count

    def fill(self, slot: int, rows: Rows, count: int, arrival_ns: int) -> None:
        """Complete the slot with ``count`` packets (at least one) of the last window in ``rows``, to be committed."""
        intake = self.intake
        fill_header(intake.headers, slot, rows, count, arrival_ns, self._link_type)
        if self._key_hash is None:
            intake.set_key(slot, self._key.tobytes())
            self._key_hash = intake.headers["key_hash"][slot]
        else:
            at = intake.offset(slot) + intake.layout.meta_offset
            put_key(intake.headers, slot, self._key_hash, self._key, intake.memory, at)
        self.packets += count

    def faults(self) -> dict[str, int]:
        """What was wrong with the file so far, by kind."""
        return {kind: count for kind, count in zip(KINDS, self._format.counts.tolist(), strict=True) if count}
