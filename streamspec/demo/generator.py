"""The traffic generator as a process of its own, so that it shares no loop and no interpreter with the service."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamspec.core.errors import DependencyUnavailable

SCENARIO = Path(__file__).with_name("scenario.yaml")
STOP_SECONDS = 10.0


class Generator:
    """``python -m loadgen send`` to one target.

    Args:
        target: ``udp://host:port`` or ``tcp://host:port?framing=...``.
        seconds: how long it sends.
    """

    def __init__(self, target: str, seconds: float) -> None:
        self._arguments = ["send", str(SCENARIO), "--to", target, "--seconds", f"{seconds:g}", "--json", "--progress"]
        self._process: asyncio.subprocess.Process | None = None
        self._told = ""
        self.progress: dict[str, Any] = {}
        """The latest counts that it told."""

    async def run(self) -> dict[str, Any]:
        """Send until the end or :meth:`stop`; gives its report.

        Raises:
            DependencyUnavailable: it could not send; says why in its words.
        """
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "loadgen",
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # an interrupt from the terminal reaches it through us, in order
        )
        report: dict[str, Any] = {}
        try:
            report, _ = await asyncio.gather(self._report(), self._follow())
            code = await self._process.wait()
        finally:
            await self._end()
        if code:
            raise DependencyUnavailable(
                f"the traffic generator ended with {code}: {self._told or 'no message'}", where="demo"
            )
        return report

    def stop(self) -> None:
        """Ask it to end early; :meth:`run` then returns its report."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)

    async def _report(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        text = await self._process.stdout.read()
        with suppress(ValueError):
            report = json.loads(text)
            if isinstance(report, dict):
                return report
        return {}

    async def _follow(self) -> None:
        """Progress comes as JSON lines on its standard error; of anything else the last line is kept."""
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                progress = json.loads(line)
            except ValueError:
                progress = None
            if isinstance(progress, dict):
                self.progress = progress
            else:
                self._told = line.decode(errors="replace").strip() or self._told

    async def _end(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
