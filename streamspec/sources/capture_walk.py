"""One capture file on its way into segments: window by window, whatever its format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamspec.core.interfaces import Bytes, Intake, Rows
from streamspec.core.segment import HEADER, PACKET
from streamspec.sources.capture_file import CaptureFile
from streamspec.sources.pcap_formats import (
    FILE_HEADER_BYTES,
    MICROSECONDS,
    CaptureFormat,
    ClassicFormat,
)
from streamspec.sources.pcap_kernels import ENDED, KINDS, SEARCHING, fill_header, put_key
from streamspec.sources.pcapng import BlockFormat

SMALLEST_WINDOW_BYTES = 4096


def load_kernels() -> None:
    """Compile the kernels, or load them from the cache, so that the first segment does not wait for it."""
    content, rows, headers = np.zeros(64, dtype=np.uint8), np.zeros(1, dtype=PACKET), np.zeros(1, dtype=HEADER)
    for format in (ClassicFormat(MICROSECONDS, False, 0, False), BlockFormat(False)):
        format.index(content, 0, True, rows)
    fill_header(headers, 0, rows, 1, 0, 0)
    put_key(headers, 0, np.uint64(0), np.frombuffer(b"", dtype=np.uint8), content, 0)


class CaptureWalk:
    """Where the source is in one file. Make it with :meth:`begin`.

    Attributes:
        ended: there are no further windows.
        packets: handed out so far.
    """

    def __init__(
        self, intake: Intake, file: CaptureFile, format: CaptureFormat, segment_bytes: int, key: bytes
    ) -> None:
        self.intake = intake
        self.ended = False
        self.packets = 0
        self._file = file
        self._format = format
        self._segment_bytes = min(segment_bytes, intake.layout.payload_bytes)
        self._key = np.frombuffer(key[: intake.layout.meta_bytes], dtype=np.uint8)
        self._key_hash: np.uint64 | None = None
        self._position = format.first_position
        self._window_bytes = self._segment_bytes
        self._link_type = 0

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

    def fill(self, slot: int, rows: Rows, count: int, arrival_ns: int) -> bool:
        """Complete the slot with ``count`` packets of the last window in ``rows``, to be committed; without packets
        it is given back, and the result is False."""
        intake = self.intake
        if not count:
            intake.release(slot)
            return False
        fill_header(intake.headers, slot, rows, count, arrival_ns, self._link_type)
        if self._key_hash is None:
            intake.set_key(slot, self._key.tobytes())
            self._key_hash = intake.headers["key_hash"][slot]
        else:
            at = intake.offset(slot) + intake.layout.meta_offset
            put_key(intake.headers, slot, self._key_hash, self._key, intake.memory, at)
        self.packets += count
        return True

    def faults(self) -> dict[str, int]:
        """What was wrong with the file so far, by kind."""
        return {kind: count for kind, count in zip(KINDS, self._format.counts.tolist(), strict=True) if count}
