"""Bytes of a capture file by position, plain or decompressed, read without holding up the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np

from streamspec.core.interfaces import Bytes

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

PIECE_BYTES = 256 * 1024
"""Bytes read from a compressed file, and decompressed, at a time."""
GZIP_STEP_BYTES = 4096
"""Compressed bytes handed to zlib at a time: as much is lost where the file turns out to be damaged."""
ZSTD_WINDOW_BYTES = 128 * 1024 * 1024
"""Largest window that a zstd file may ask for: its memory is ours."""


_Result = TypeVar("_Result")


class CaptureFile(Protocol):
    """Reads a file from front to back; going back is possible only to where the last read began."""

    faults: int
    """Places where the compression was broken or cut off; what came before is delivered."""

    async def read(self, position: int, target: Bytes) -> tuple[int, bool]:
        """Fill ``target`` with what lies at ``position``. Returns the number of bytes, less than
        ``len(target)`` only at the end of the data, and whether the data ends with them.

        Raises:
            OSError: the file cannot be read.
        """

    def close(self) -> None:
        """Let go of the file."""


def open_capture(path: Path) -> CaptureFile:
    """Open a file and look whether it is compressed.

    Raises:
        OSError: it is not there or may not be read.
    """
    file = open(path, "rb", buffering=PIECE_BYTES)  # noqa: SIM115 - CaptureFile.close closes it
    try:
        magic = os.pread(file.fileno(), 4, 0)
        if magic.startswith(GZIP_MAGIC):
            return CompressedFile(GzipPieces(file))
        if magic == ZSTD_MAGIC:
            return CompressedFile(ZstdPieces(file))
        return PlainFile(file)
    except BaseException:
        file.close()
        raise


async def _in_thread(work: Callable[[int, Bytes], _Result], position: int, target: Bytes) -> _Result:
    """Run ``work`` in a thread; when cancelled, still wait for it, since it writes into ``target``."""
    task = asyncio.ensure_future(asyncio.to_thread(work, position, target))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


class PlainFile:
    """A file read straight into its place by ``preadv``.

    That is as fast as copying out of a mapping, and a file that is cut while it is read ends early instead
    of raising SIGBUS. What is not in the page cache is read by a thread.

    Attributes:
        descriptor: of the open file.
        size_bytes: of the file when it was opened; what is appended later is not read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.faults = 0
        self._file = file
        self.descriptor = file.fileno()
        self.size_bytes = os.fstat(self.descriptor).st_size
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    async def read(self, position: int, target: Bytes) -> tuple[int, bool]:
        wanted = max(0, min(len(target), self.size_bytes - position))
        count = self._read_cached(position, target[:wanted])
        if count < wanted:
            count += await _in_thread(self._read_all, position + count, target[count:wanted])
        return count, count < wanted or position + count >= self.size_bytes

    def _read_cached(self, position: int, target: Bytes) -> int:
        if not len(target):
            return 0
        try:
            return os.preadv(self.descriptor, [target.data], position, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            return 0  # a file system that cannot tell; the thread reads

    def _read_all(self, position: int, target: Bytes) -> int:
        count = 0
        while count < len(target):
            got = os.preadv(self.descriptor, [target[count:].data], position + count)
            if not got:
                break
            count += got
        return count

    def close(self) -> None:
        self._file.close()


class Pieces(Protocol):
    """A decompressor that gives its output in pieces."""

    def next_piece(self, most_bytes: int) -> bytes:
        """The next bytes, empty at the end.

        Raises:
            DamagedCompression: what follows cannot be decompressed.
        """

    def close(self) -> None:
        """Close the file beneath."""


class DamagedCompression(Exception):
    """The compressed data is broken or ends early."""


class CompressedFile:
    """Keeps decompressed bytes from where the last read began, so that a record cut by the end of a window
    can be read again. All its work is done by a thread."""

    def __init__(self, pieces: Pieces) -> None:
        self.faults = 0
        self._pieces = pieces
        self._kept = bytearray()
        self._kept_from = 0
        self._ended = False

    async def read(self, position: int, target: Bytes) -> tuple[int, bool]:
        return await _in_thread(self._read, position, target)

    def _read(self, position: int, target: Bytes) -> tuple[int, bool]:
        self._forget(position)
        while not self._ended and self._kept_from + len(self._kept) <= position + len(target):
            self._decompress(PIECE_BYTES)
            self._forget(position)
        count = min(len(self._kept), len(target))
        if count:
            target[:count] = np.frombuffer(self._kept, dtype=np.uint8, count=count)
        return count, self._ended and count == len(self._kept)

    def _forget(self, position: int) -> None:
        done = min(max(position - self._kept_from, 0), len(self._kept))
        del self._kept[:done]
        self._kept_from += done

    def _decompress(self, most_bytes: int) -> None:
        try:
            piece = self._pieces.next_piece(most_bytes)
        except DamagedCompression:
            self.faults += 1
            piece = b""
        self._ended = not piece
        self._kept += piece

    def close(self) -> None:
        self._pieces.close()


class GzipPieces:
    """Members of a gzip file (RFC 1952), one behind the other; zeros behind the last are padding."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate: Any = None
        self._input = b""
        self._cut = False

    def next_piece(self, most_bytes: int) -> bytes:
        while not self._cut:
            self._input = self._input or self._file.read(GZIP_STEP_BYTES)
            if self._inflate is None:
                # Zeros are what tapes and block devices leave behind the last member.
                self._input = self._input.lstrip(b"\0") or self._file.read(GZIP_STEP_BYTES).lstrip(b"\0")
                if not self._input:
                    return b""
                self._inflate = zlib.decompressobj(wbits=31)
            piece = self._inflated(most_bytes)
            if piece:
                return piece
        raise DamagedCompression("the file ends inside a gzip member")

    def _inflated(self, most_bytes: int) -> bytes:
        if not self._input:
            self._cut = True
            rest: bytes = self._inflate.flush()
            return rest
        try:
            piece: bytes = self._inflate.decompress(self._input, most_bytes)
        except zlib.error as error:
            raise DamagedCompression(str(error)) from error
        if self._inflate.eof:
            self._input, self._inflate = self._inflate.unused_data, None
        else:
            self._input = self._inflate.unconsumed_tail
        return piece

    def close(self) -> None:
        self._file.close()


class ZstdPieces:
    """Frames of a zstd file (RFC 8878), one behind the other."""

    def __init__(self, file: BinaryIO) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._file = file
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        self._reader = decompressor.stream_reader(file, read_size=PIECE_BYTES, read_across_frames=True)

    def next_piece(self, most_bytes: int) -> bytes:
        try:
            return self._reader.read(most_bytes)
        except self._error as error:
            raise DamagedCompression(str(error)) from error

    def close(self) -> None:
        self._file.close()
