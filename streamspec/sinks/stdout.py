"""Sink ``stdout``: JSON lines on standard output, for pipes and for looking."""

from __future__ import annotations

import asyncio
import os
import select
from typing import Literal

from pydantic import Field

from streamspec.core.errors import SinkError
from streamspec.core.interfaces import DeliveryBatch
from streamspec.core.tally import Tally
from streamspec.sinks.lines import LinesConfig, render


class StdoutConfig(LinesConfig):
    """JSON lines on standard output."""

    type: Literal["stdout"] = Field(description="JSON lines on standard output.")

    def build(self, name: str) -> StdoutSink:
        """The sink."""
        return StdoutSink(name, self)


class StdoutSink:
    """Implements ``Sink``.

    Args:
        name: its key under ``sinks``.
        config: what is written.
        fd: where to; standard output by default.
    """

    def __init__(self, name: str, config: StdoutConfig, fd: int = 1) -> None:
        self._name = name
        self._config = config
        self._fd = fd

    async def open(self, tally: Tally) -> None:
        """Nothing to open."""
        self._tally = tally

    async def write(self, batch: DeliveryBatch) -> None:
        """Write all lines; a slow reader is waited for. Raises SinkError when the reader is gone."""
        lines = await render(batch, self._config)
        if lines:
            await asyncio.to_thread(self._write, lines)
            self._tally.add("bytes", len(lines))

    def _write(self, lines: bytes | memoryview) -> None:
        content = memoryview(lines)
        try:
            while content:
                try:
                    content = content[os.write(self._fd, content) :]
                except BlockingIOError:  # whoever shares this descriptor made it non-blocking
                    select.select((), (self._fd,), ())
        except OSError as error:
            raise SinkError(
                "the reader of standard output is gone"
                if isinstance(error, BrokenPipeError)
                else f"standard output cannot be written: {error.strerror}",
                where=f"sinks.{self._name}",
                next_step="keep the reader running, or write to a file with type: jsonl",
            ) from error

    async def close(self) -> None:
        """Nothing to close."""
