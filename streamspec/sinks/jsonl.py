"""Sink ``jsonl``: JSON lines in files, with rotation and optional zstd.

A batch is appended by one write in a thread. After a crash a torn last line (or a torn zstd frame) is moved to a
file ``.torn`` at the next start, so that every line in a file is whole; the segments it belonged to were not
acknowledged. A full disk is waited for. Counted: ``bytes``, ``rotations``, ``rotation_errors``, ``torn_bytes``,
``disk_full_waits``, ``sync_errors``.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import structlog
from pydantic import Field

from streamspec.core.clock import SystemClock
from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Clock, DeliveryBatch
from streamspec.core.tally import Tally
from streamspec.core.units import Bytes, Seconds
from streamspec.sinks.line_file import LineFile, Rules
from streamspec.sinks.lines import LinesConfig, render

_log = structlog.get_logger("streamspec.sinks.jsonl")

FULL_FIRST_SECONDS, FULL_LARGEST_SECONDS = 0.1, 5.0
"""First and largest pause before a full disk is tried again."""


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
        default=None,
        gt=0,
        description="Age at which a file is rotated, in seconds from its opening; unset: by size alone.",
    )
    keep_files: int | None = Field(
        default=None, ge=1, description="Files kept, the present one included; unset: all. Older ones are deleted."
    )
    compression: Literal["none", "zstd"] = Field(
        default="none",
        description="`zstd`: each batch is a frame of its own, so that a cut file is readable up to the cut.",
    )
    fsync: Literal["never", "batch"] | Annotated[Seconds, Field(gt=0)] = Field(
        default="never",
        description="When the disk is told to keep what was written. `never`: the kernel decides, and a power cut may "
        "cost half a minute; a duration such as `5 s`: it may cost that much; `batch`: nothing, because a segment is "
        "acknowledged only then, which is slow.",
    )

    @property
    def rules(self) -> Rules:
        """What the files go by."""
        return Rules(
            max_file_bytes=self.max_file_bytes,
            max_file_age_seconds=self.max_file_age,
            keep_files=self.keep_files,
            sync_batches=self.fsync == "batch",
            sync_ticks=isinstance(self.fsync, float),
            compressed=self.compression == "zstd",
        )

    @property
    def tick_seconds(self) -> float | None:
        """How often the files are looked at without a batch; None: never."""
        sync = self.fsync if isinstance(self.fsync, float) else None
        age = self.max_file_age / 10 if self.max_file_age is not None else None
        return min((seconds for seconds in (sync, age) if seconds is not None), default=None)

    def build(self, name: str) -> JsonlSink:
        """The sink, not yet opened."""
        return JsonlSink(name, self)


class JsonlSink:
    """Implements ``Sink``.

    Args:
        name: its key under ``sinks``.
        config: what is written, and where.
        clock: for the age of files.
    """

    def __init__(self, name: str, config: JsonlConfig, clock: Clock | None = None) -> None:
        self._name = name
        self._config = config
        self._clock = clock or SystemClock()
        self._file: LineFile | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def open(self, tally: Tally) -> None:
        """Open the present file and mend its end. Raises DependencyUnavailable when that cannot be done."""
        self._tally = tally
        config = self._config
        try:
            self._file = await asyncio.to_thread(LineFile, config.path, config.rules, self._clock)
        except OSError as error:
            raise DependencyUnavailable(
                f"cannot be written: {error.strerror}",
                where=f"sinks.{self._name}.path",
                value=config.path,
                next_step="name a file or folder that this user may write to and no one else writes to",
            ) from error
        self._tally.merge(self._file.take_counts())
        if config.tick_seconds is not None:
            self._ticking = asyncio.create_task(self._tick(self._file, config.tick_seconds))

    async def write(self, batch: DeliveryBatch) -> None:
        """Append the lines of the batch; waits for a full disk."""
        lines = await render(batch, self._config)
        if not lines:
            return
        file = self._file
        assert file is not None
        if not await asyncio.to_thread(file.append, lines):
            await self._wait_for_room(file)
        self._tally.merge(file.take_counts())

    async def _wait_for_room(self, file: LineFile) -> None:
        _log.error("disk full, waiting", sink=self._name, path=str(file.path))
        delay_seconds = FULL_FIRST_SECONDS
        whole = False
        while not whole:
            self._tally.add("disk_full_waits")
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, FULL_LARGEST_SECONDS)
            whole = await asyncio.to_thread(file.resume)
        _log.info("disk has room again", sink=self._name, path=str(file.path))

    async def _tick(self, file: LineFile, interval_seconds: float) -> None:
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await asyncio.to_thread(file.tick)
            except OSError as error:
                self._tally.add("sync_errors")
                _log.error("cannot be made durable", sink=self._name, path=str(file.path), reason=error.strerror)
            self._tally.merge(file.take_counts())

    async def close(self) -> None:
        """Close the file. A batch that is not whole is taken back."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
            self._ticking = None
        if self._file is not None:
            await asyncio.to_thread(self._file.close)
            self._tally.merge(self._file.take_counts())
            self._file = None
