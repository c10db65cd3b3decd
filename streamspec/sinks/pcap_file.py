"""A capture that is appended to: torn ends mended, rotated by size. All methods block."""

from __future__ import annotations

import errno
import os
import re
import struct
import threading
from pathlib import Path

import numpy as np
import structlog

from streamspec.core.tally import Tally
from streamspec.sinks.pcap_kernels import LARGEST_PACKET_BYTES, RECORD_BYTES, whole_records

_log = structlog.get_logger("streamspec.sinks.pcap")

FILE_HEADER = struct.Struct("<IHHiIII")
NANOSECOND_MAGIC = 0xA1B23C4D
CHUNK_BYTES = 1 << 20
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class NotOurs(Exception):
    """The file is there, and is no capture that this sink can append to."""


def file_header(link_type: int) -> bytes:
    """First bytes of a capture with nanoseconds (draft-ietf-opsawg-pcap)."""
    return FILE_HEADER.pack(NANOSECOND_MAGIC, 2, 4, 0, 0, LARGEST_PACKET_BYTES, link_type)


def link_type_of(path: Path) -> int | None:
    """Link type of a capture that may be appended to; None when there is none yet, or only a torn header.

    Raises:
        NotOurs: something else is there.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(FILE_HEADER.size)
    except FileNotFoundError:
        return None
    whole = file_header(0)
    if not whole[: FILE_HEADER.size - 4].startswith(start[: FILE_HEADER.size - 4]):
        raise NotOurs(str(path))
    return FILE_HEADER.unpack(start)[-1] if len(start) == FILE_HEADER.size else None


class PcapFile:
    """An open capture of one link type.

    Args:
        path: of the present file; rotated ones are called ``path.000001`` and so on.
        link_type: of all its packets.
        max_file_bytes: size at which it is rotated.
        keep_files: files kept, the present one included; None keeps all.
        tally: counts ``rotations`` and ``torn_bytes``.
        sound_bytes: size up to which the file is known to be whole, so that it is not read again.

    Raises:
        NotOurs: something else is there.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        link_type: int,
        max_file_bytes: int,
        keep_files: int | None,
        tally: Tally,
        sound_bytes: int = 0,
    ) -> None:
        self.path = path
        self.size = 0
        self._link_type = link_type
        self._max_file_bytes = max_file_bytes
        self._keep_files = keep_files
        self._tally = tally
        self._unwritten = b""  # of the file header, while the disk is full
        self._descriptor = -1
        self._lock = threading.Lock()  # a write that nobody waits for any more may still be under way at `close`
        if link_type_of(path) not in (None, link_type):
            raise NotOurs(str(path))
        self._open(sound_bytes)

    def append(self, content: memoryview) -> tuple[int, bool]:
        """Write as much as there is room for: bytes written, and whether the disk is full."""
        with self._lock:
            count, full = self._write(memoryview(self._unwritten))
            self._unwritten = self._unwritten[count:]
            return (0, True) if full else self._write(content)

    def _write(self, content: memoryview) -> tuple[int, bool]:
        written = 0
        while written < len(content):
            try:
                count = os.write(self._descriptor, content[written:])
            except OSError as error:
                if error.errno in NO_SPACE:
                    return written, True
                raise
            written += count
            self.size += count
        return written, False

    def end_batch(self, durable: bool) -> None:
        """All records are whole: make them durable if asked to, and rotate when the file is due."""
        with self._lock:
            if durable:
                os.fdatasync(self._descriptor)
            if self.size >= self._max_file_bytes:
                self._tally.add("rotations")
                self._set_aside()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # -- opening ------------------------------------------------------------------------------
    def _open(self, sound_bytes: int = 0) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._mend(sound_bytes)
        except BaseException:
            self._close()
            raise

    def _mend(self, sound_bytes: int) -> None:
        size = os.fstat(self._descriptor).st_size
        self.size = sound_bytes if 0 < sound_bytes == size else self._sound_bytes(size)
        torn = size - self.size
        if torn > LARGEST_PACKET_BYTES + RECORD_BYTES:
            _log.warning("damaged capture set aside", path=str(self.path), sound_bytes=self.size)
            self._set_aside()
            return
        if torn:
            _log.warning("torn end of capture cut off", path=str(self.path), bytes=torn)
            self._tally.add("torn_bytes", torn)
            os.ftruncate(self._descriptor, self.size)
        if not self.size:
            header = file_header(self._link_type)
            written, _ = self._write(memoryview(header))
            self._unwritten = header[written:]

    def _sound_bytes(self, size: int) -> int:
        """Where the last whole record ends."""
        if size < FILE_HEADER.size:
            return 0
        at, buffer = FILE_HEADER.size, np.zeros(CHUNK_BYTES, dtype=np.uint8)
        while at < size:
            available = os.preadv(self._descriptor, [buffer.data], at)
            used = whole_records(buffer, available)
            if not used:
                break
            at += used
        return at

    # -- rotation -----------------------------------------------------------------------------
    def _set_aside(self) -> None:
        """Give the present file the next number, and begin a new one."""
        self._close()
        self.path.rename(self._numbered(max(self._numbers(), default=0) + 1))
        self._open()
        if self._keep_files is not None:
            numbers = sorted(self._numbers())
            for number in numbers[: max(len(numbers) - self._keep_files + 1, 0)]:
                self._numbered(number).unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number:06d}")

    def _numbers(self) -> list[int]:
        pattern = re.compile(rf"{re.escape(self.path.name)}\.(\d{{6,}})")
        return [int(match[1]) for name in os.listdir(self.path.parent) if (match := pattern.fullmatch(name))]
