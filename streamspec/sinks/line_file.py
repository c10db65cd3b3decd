"""Files of lines: appended to a batch at a time, mended after a crash, rotated. All methods block."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Clock
from streamspec.core.tally import Tally

_log = structlog.get_logger("streamspec.sinks.jsonl")

CHUNK_BYTES = 1 << 20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


class InUse(OSError):
    """Another sink or process appends to the file."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a file ends and what is kept.

    Attributes:
        max_file_bytes: size at which a file is rotated.
        max_file_age_seconds: age at which it is, counted from its opening; None: never.
        keep_files: files kept, the present one included; None: all.
        sync_batches: make each batch durable before it counts as written.
        sync_ticks: make what was written durable at each :meth:`LineFile.tick`.
        compressed: batches are zstd frames.
    """

    max_file_bytes: int
    max_file_age_seconds: float | None = None
    keep_files: int | None = None
    sync_batches: bool = False
    sync_ticks: bool = False
    compressed: bool = False


class LineFile:
    """The files of one sink; any thread may call, one call is served at a time.

    Args:
        path: a file, or a folder when it ends in ``/`` or exists as one.
        rules: see there.
        clock: for the age of files.

    Attributes:
        path: of the present file.

    Raises:
        InUse: another sink or process has it.
        OSError: it cannot be written.
    """

    def __init__(self, path: str, rules: Rules, clock: Clock | None = None) -> None:
        self._rules = rules
        self._clock = clock or SystemClock()
        self._suffix = ".jsonl.zst" if rules.compressed else ".jsonl"
        self._encode = _compressor() if rules.compressed else _as_is
        self._lock = threading.Lock()  # a write that nobody waits for any more may be under way at `close`
        self._counts_lock = threading.Lock()  # held for moments only: the event loop takes it too
        self._counted = Tally()
        self._rest = memoryview(b"")  # of the batch being written
        self._dirty = False
        self._fd = -1
        self._regular = True
        self._written = 0  # bytes of that batch which are in the file
        named = Path(path)
        self._folder = named if path.endswith("/") or named.is_dir() else None
        (self._folder or named.parent).mkdir(parents=True, exist_ok=True)
        self.path = named if self._folder is None else self._numbered(max(self._numbers(), default=1))
        self._use(self._opened(self.path))

    # -- batches ------------------------------------------------------------------------------
    def append(self, lines: bytes | memoryview) -> bool:
        """Write a batch of whole lines, which stay as they are until it is written. False when the disk is full: go
        on with :meth:`resume`. After any other error nothing of the batch is left in the file."""
        with self._lock:
            self._undo()
            self._rest = memoryview(self._encode(lines))
            return self._write()

    def resume(self) -> bool:
        """Go on with a batch for which the disk had no room; as :meth:`append`."""
        with self._lock:
            return self._write()

    def tick(self) -> None:
        """What is due by time alone: make durable what was written, rotate by age."""
        with self._lock:
            if self._fd < 0 or self._rest:
                return
            if self._dirty and self._regular and self._rules.sync_ticks:
                os.fdatasync(self._fd)
                self._dirty = False
            self._rotate_when_due()

    def close(self) -> None:
        """Take back a batch that is not whole, and close. Safe to call twice."""
        with self._lock:
            if self._fd >= 0:
                self._undo()
                os.close(self._fd)
                self._fd = -1

    def take_counts(self) -> dict[str, int]:
        """What was counted since the last call. Never waits for a disk."""
        with self._counts_lock:
            counted, self._counted = self._counted, Tally()
        return counted.counts

    def _count(self, reason: str, count: int = 1) -> None:
        with self._counts_lock:
            self._counted.add(reason, count)

    def _write(self) -> bool:
        if self._fd < 0:
            raise OSError(errno.EBADF, "the file is closed")
        try:
            while self._rest:
                written = os.write(self._fd, self._rest)
                self._rest = self._rest[written:]
                self._written += written
            if self._rules.sync_batches and self._regular:
                os.fdatasync(self._fd)
        except OSError as error:
            if error.errno in _NO_SPACE:
                return False
            self._undo()
            raise
        self._count("bytes", self._written)
        self._written = 0
        self._dirty = True
        self._rotate_when_due()
        return True

    def _undo(self) -> None:
        """Cut off a batch that did not become whole; its segments are not acknowledged."""
        if self._written and self._regular:
            os.ftruncate(self._fd, max(self._size() - self._written, 0))
        self._written = 0
        self._rest = memoryview(b"")

    def _size(self) -> int:
        return os.fstat(self._fd).st_size if self._regular else 0

    # -- opening ------------------------------------------------------------------------------
    def _opened(self, path: Path) -> int:
        """A descriptor of the file, locked, its end mended."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                _lock(fd, path)
                self._mend(fd, path)
                if self._rules.sync_batches:
                    _sync_folder(path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)  # a device or pipe is neither mended nor rotated
        self._opened_ns = self._clock.monotonic_ns()

    def _mend(self, fd: int, path: Path) -> None:
        """Move what follows the last whole line or frame to a file of its own: it may be somebody's."""
        size = os.fstat(fd).st_size
        whole = _whole_frames(fd, size) if self._rules.compressed else _whole_lines(fd, size)
        if whole == size:
            return
        aside = path.with_name(f"{path.name}.torn")
        _log.warning("torn end of file moved aside", path=str(path), to=str(aside), bytes=size - whole)
        with aside.open("ab") as torn:
            for at in range(whole, size, CHUNK_BYTES):
                torn.write(os.pread(fd, min(CHUNK_BYTES, size - at), at))
        os.ftruncate(fd, whole)
        self._count("torn_bytes", size - whole)

    # -- rotation -----------------------------------------------------------------------------
    def _rotate_when_due(self) -> None:
        rules = self._rules
        size = self._size()
        if not size:
            return
        age_seconds = (self._clock.monotonic_ns() - self._opened_ns) / 1e9
        aged = rules.max_file_age_seconds is not None and age_seconds >= rules.max_file_age_seconds
        if not aged and size < rules.max_file_bytes:
            return
        try:
            self._rotate()
        except OSError as error:  # lines go on into the present file; the next batch tries again
            _log.error("file cannot be rotated", path=str(self.path), reason=error.strerror)
            self._count("rotation_errors")

    def _rotate(self) -> None:
        following = self._numbered(max(self._numbers(), default=0) + 1)
        if self._folder is None:
            self.path.rename(following)
            try:
                fd = self._opened(self.path)
            except OSError:
                following.rename(self.path)
                raise
        else:
            fd = self._opened(following)
            self.path = following
        os.close(self._fd)
        self._use(fd)
        self._count("rotations")
        self._prune()

    def _prune(self) -> None:
        if self._rules.keep_files is None:
            return
        keep = self._rules.keep_files - (1 if self._folder is None else 0)
        numbers = sorted(self._numbers())
        for number in numbers[: max(len(numbers) - keep, 0)]:
            self._numbered(number).unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        if self._folder is not None:
            return self._folder / f"streamspec-{number:06d}{self._suffix}"
        return self.path.with_name(f"{self.path.name}.{number:06d}")

    def _numbers(self) -> list[int]:
        if self._folder is not None:
            folder, pattern = self._folder, rf"streamspec-(\d{{6,}}){re.escape(self._suffix)}"
        else:
            folder, pattern = self.path.parent, rf"{re.escape(self.path.name)}\.(\d{{6,}})"
        return [int(match[1]) for name in os.listdir(folder) if (match := re.fullmatch(pattern, name))]


def _as_is(lines: bytes | memoryview) -> bytes | memoryview:
    return lines


def _compressor() -> Callable[[bytes | memoryview], bytes | memoryview]:
    import zstandard

    compress: Callable[[bytes | memoryview], bytes] = zstandard.ZstdCompressor(level=3, write_checksum=True).compress
    return compress


def _lock(fd: int, path: Path) -> None:
    """Two writers would take each other's unfinished lines for torn ones. The kernel lets go with the descriptor."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(errno.EBUSY, "another sink or process writes to it", str(path)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # some file systems have none
            raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _whole_lines(fd: int, size: int) -> int:
    """Bytes up to and with the last newline."""
    end = size
    while end > 0:
        start = max(end - CHUNK_BYTES, 0)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _whole_frames(fd: int, size: int) -> int:
    """Bytes up to the end of the last complete zstd frame."""
    from streamspec.sinks.zstd_frames import whole_frames

    if not size:
        return 0
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as content:
        return whole_frames(content)
