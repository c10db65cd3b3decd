"""Sink ``jsonl``: JSON lines in files, with rotation and optional zstd.

A batch is appended by one write in a thread. After a crash a torn last line (or a torn zstd frame) is cut
off at the next start, so that every line in a file is whole; the segments it belonged to were not
acknowledged. A full disk is waited for. Counted: ``bytes``, ``rotations``, ``torn_bytes``, ``disk_full_waits``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import Field

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import DeliveryBatch
from streamspec.core.tally import Tally
from streamspec.core.units import Bytes, Seconds
from streamspec.sinks.lines import LinesConfig, render

_log = structlog.get_logger("streamspec.sinks.jsonl")

FULL_FIRST_SECONDS, FULL_LARGEST_SECONDS = 0.1, 5.0
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_CHUNK_BYTES = 1 << 20


class JsonlConfig(LinesConfig):
    """JSON lines in files."""

    type: Literal["jsonl"] = Field(description="JSON lines in files.")
    path: str = Field(
        min_length=1,
        description="A file, or a folder (an existing one, or a name that ends in `/`) for "
        "`streamspec-000001.jsonl` and so on; relative to the working folder.",
    )
    max_file_bytes: Bytes = Field(
        default=1 << 30, ge=1 << 10, description="Size at which a file is rotated, in bytes (1 KiB and up)."
    )
    max_file_age: Seconds | None = Field(
        default=None, gt=0, description="Age at which a file is rotated, in seconds; unset: by size alone."
    )
    keep_files: int | None = Field(
        default=None, ge=1, description="Files kept, the present one included; unset: all. Older ones are deleted."
    )
    compression: Literal["none", "zstd"] = Field(
        default="none",
        description="`zstd`: each batch is a frame of its own, so that a cut file is readable up to the cut.",
    )
    fsync: Literal["never", "batch"] = Field(
        default="never",
        description="`batch`: a segment is acknowledged only when the disk has it; survives a power cut and is slow.",
    )

    def build(self, name: str) -> JsonlSink:
        """The sink, not yet opened."""
        return JsonlSink(name, self)


class JsonlSink:
    """Implements ``Sink``."""

    def __init__(self, name: str, config: JsonlConfig) -> None:
        self._name = name
        self._config = config
        self._file: LineFile | None = None

    async def open(self, tally: Tally) -> None:
        """Open the present file and mend its end. Raises DependencyUnavailable when that cannot be done."""
        self._tally = tally
        try:
            self._file = await asyncio.to_thread(LineFile, self._config, tally)
        except OSError as error:
            raise DependencyUnavailable(
                f"cannot be written: {error.strerror}",
                where=f"sinks.{self._name}.path",
                value=self._config.path,
                next_step="name a folder that this user may write to",
            ) from error

    async def write(self, batch: DeliveryBatch) -> None:
        """Append the lines of the batch; waits for a full disk."""
        lines = render(batch, self._config)
        if not lines:
            return
        assert self._file is not None
        content = memoryview(self._file.encode(lines))
        delay_seconds = FULL_FIRST_SECONDS
        while content:
            written = await asyncio.to_thread(self._file.append, content)
            content = content[written:]
            if content:
                self._tally.add("disk_full_waits")
                _log.error("disk full, waiting", sink=self._name, path=str(self._file.path))
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(2 * delay_seconds, FULL_LARGEST_SECONDS)

    async def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            await asyncio.to_thread(self._file.close)
            self._file = None


class LineFile:
    """The files of one sink; all methods block."""

    def __init__(self, config: JsonlConfig, tally: Tally) -> None:
        self._config = config
        self._tally = tally
        self._suffix = ".jsonl.zst" if config.compression == "zstd" else ".jsonl"
        self._compressor: Any = None
        if config.compression == "zstd":
            import zstandard

            self._compressor = zstandard.ZstdCompressor(level=3)
        path = Path(config.path)
        self._folder = path if config.path.endswith("/") or path.is_dir() else None
        (self._folder or path.parent).mkdir(parents=True, exist_ok=True)
        self.path = path if self._folder is None else self._numbered(max(self._numbers(), default=1))
        self._open()

    def encode(self, lines: bytes) -> bytes:
        """What goes into the file for these lines."""
        return lines if self._compressor is None else self._compressor.compress(lines)

    def append(self, content: memoryview) -> int:
        """Write the rest of a batch, or as much of it as the disk has room for; gives the bytes written."""
        written = 0
        while written < len(content):
            try:
                written += os.write(self._fd, content[written:])
            except OSError as error:
                if error.errno not in _NO_SPACE:
                    raise
                self._size += written
                return written
        self._size += written
        self._end_batch()
        return written

    def _end_batch(self) -> None:
        """Make a batch durable if asked to, and rotate when the file is due."""
        if self._config.fsync == "batch":
            os.fdatasync(self._fd)
        age_seconds = time.monotonic() - self._opened
        if self._size >= self._config.max_file_bytes or (
            self._config.max_file_age is not None and age_seconds >= self._config.max_file_age
        ):
            self._rotate()

    def close(self) -> None:
        """Close the present file."""
        os.close(self._fd)
        self._tally.add("bytes", self._size - self._size_at_open)

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._fd).st_size
        whole = _whole_frames(self.path) if self._compressor is not None else _whole_lines(self._fd, size)
        if whole < size:
            _log.warning("torn end of file cut off", path=str(self.path), bytes=size - whole)
            self._tally.add("torn_bytes", size - whole)
            os.ftruncate(self._fd, whole)
        self._size = self._size_at_open = whole
        self._opened = time.monotonic()

    def _rotate(self) -> None:
        self.close()
        self._tally.add("rotations")
        following = max(self._numbers(), default=0) + 1
        if self._folder is None:
            self.path.rename(self._numbered(following))
        else:
            self.path = self._numbered(following)
        self._open()
        self._prune()

    def _prune(self) -> None:
        if self._config.keep_files is None:
            return
        keep = self._config.keep_files - (1 if self._folder is None else 0)
        numbers = sorted(self._numbers())
        for number in numbers[: max(len(numbers) - keep, 0)]:
            self._numbered(number).unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        if self._folder is not None:
            return self._folder / f"streamspec-{number:06d}{self._suffix}"
        return self.path.with_name(f"{self.path.name}.{number:06d}")

    def _numbers(self) -> list[int]:
        if self._folder is not None:
            folder, pattern = self._folder, re.compile(rf"streamspec-(\d+){re.escape(self._suffix)}")
        else:
            folder, pattern = self.path.parent, re.compile(rf"{re.escape(self.path.name)}\.(\d+)")
        return [int(match[1]) for name in os.listdir(folder) if (match := pattern.fullmatch(name))]


def _whole_lines(fd: int, size: int) -> int:
    """Bytes up to and with the last newline."""
    end = size
    while end > 0:
        start = max(end - _CHUNK_BYTES, 0)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _whole_frames(path: Path) -> int:
    """Bytes up to the end of the last complete zstd frame."""
    import zstandard

    whole = position = 0
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    with path.open("rb") as file:
        pending = b""
        while pending or (pending := file.read(_CHUNK_BYTES)):
            try:
                decompressor.decompress(pending)
            except zstandard.ZstdError:
                return whole
            position += len(pending)
            pending = b""
            if decompressor.eof:
                pending = decompressor.unused_data
                position -= len(pending)
                whole = position
                decompressor = zstandard.ZstdDecompressor().decompressobj()
    return whole
