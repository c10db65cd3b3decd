"""``streamspec demo``: the whole service on generated traffic on this machine, for anyone, at once.

The service runs in this process as ``streamspec run`` runs it; the traffic generator runs beside it and
sends by UDP or TCP over loopback. Results go to a temporary folder that is removed at the end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from streamspec.app import Service
from streamspec.config import ServiceConfig, load_config
from streamspec.core.address import join_address
from streamspec.core.errors import EXIT_INTERNAL, ConfigError
from streamspec.demo.display import Display, LineDisplay, LiveDisplay, NoDisplay, Rates
from streamspec.demo.generator import Generator
from streamspec.summary import tell_summary
from streamspec.telemetry.logging import configure_logging, tell_held_back

EMBEDDED = Path(__file__).with_name("demo.yaml")
TICK_SECONDS = 0.25
SETTLE_SECONDS = 0.5
"""Nothing new for so long after the generator has ended: all that it sent is in."""
SETTLE_LIMIT_SECONDS = 10.0


def run_demo(seconds: float, as_json: bool, config_path: Path | None, overrides: tuple[str, ...]) -> int:
    """Run the demo and tell what became of the traffic.

    Args:
        seconds: how long traffic is generated.
        as_json: print the summary as one JSON object on standard output and nothing else there.
        config_path: a configuration with a ``udp`` or ``tcp`` source, instead of the embedded one.
        overrides: as ``--set``.

    Returns:
        The exit code: 0 only when no segment was lost.
    """
    with tempfile.TemporaryDirectory(prefix="streamspec-demo-") as folder:
        own = () if config_path else (f"sinks.out.path={folder}/",)
        config = load_config(config_path or EMBEDDED, (*own, *overrides))
        source = target_source(config)
        configure_logging(config.logging.level, config.logging.format)
        code, summary = uvloop.run(_Demo(config, source, seconds, _display(as_json)).run())
        tell_held_back()
    if as_json:
        print(json.dumps(summary, indent=2 if sys.stdout.isatty() else None), flush=True)
    else:
        tell_summary(summary, table=True)
    return code or (EXIT_INTERNAL if summary["segments_lost"] else 0)


def target_source(config: ServiceConfig) -> str:
    """Name of the first source that the generator can send to.

    Raises:
        ConfigError: there is none.
    """
    for name, source in config.sources.items():
        kind, framing = getattr(source, "type", ""), getattr(source, "framing", "length")
        if kind == "udp" or (kind == "tcp" and framing in ("length", "newline") and not getattr(source, "tls", None)):
            return name
    raise ConfigError(
        "the demo needs a source that it can send to",
        where="sources",
        allowed="udp, or tcp with framing length or newline and without tls",
        next_step="add one, or use `streamspec run`",
    )


def _display(as_json: bool) -> Display:
    if as_json:
        return NoDisplay()
    return LiveDisplay() if sys.stderr.isatty() else LineDisplay()


class _Demo:
    """One run, inside the event loop."""

    def __init__(self, config: ServiceConfig, source: str, seconds: float, display: Display) -> None:
        self._config = config
        self._source = source
        self._seconds = seconds
        self._display = display
        self._rates = Rates()
        self._generator: Generator | None = None
        self._interrupted: signal.Signals | None = None

    async def run(self) -> tuple[int, dict[str, Any]]:
        """The exit code and the service's summary with the generator's report."""
        service = Service(self._config)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, service, number)
        serving = asyncio.ensure_future(service.run())
        report: Mapping[str, Any] = {}
        try:
            if await self._until_reading(service, serving):
                self._generator = Generator(self._target(service), self._seconds)
                report = await self._send(service, serving, self._generator)
        finally:
            self._display.close()
            if not serving.done():
                service.stop()
            await asyncio.wait({serving})
        code = 128 + self._interrupted if self._interrupted else serving.result()
        return code, service.summary() | {"generator": dict(report)}

    def _interrupt(self, service: Service, number: signal.Signals) -> None:
        """The first time the generator stops, and with it everything else in order; then the service at once."""
        if self._generator is None or self._interrupted:
            service.stop(number)
        else:
            self._generator.stop()
        self._interrupted = number

    async def _until_reading(self, service: Service, serving: asyncio.Future[int]) -> bool:
        """True once all sources read; False when the service ended before."""
        while not serving.done():
            sources = service.sources
            if len(sources) == len(self._config.sources) and all(source.task for source in sources.values()):
                return True
            await asyncio.wait({serving}, timeout=0.02)
        return False

    async def _send(self, service: Service, serving: asyncio.Future[int], generator: Generator) -> Mapping[str, Any]:
        sending = asyncio.ensure_future(generator.run())
        both: set[asyncio.Future[Any]] = {sending, serving}
        while not sending.done():
            await asyncio.wait(both, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                generator.stop()
                await asyncio.wait({sending})
            else:
                self._display.show(self._rates.sample(service.summary(), generator.progress))
        await self._until_settled(service, serving)
        return sending.result()

    async def _until_settled(self, service: Service, serving: asyncio.Future[int]) -> None:
        """Wait for what is still in the kernel's buffer or in an open segment."""
        seen, quiet_seconds, waited_seconds = -1, 0.0, 0.0
        while not serving.done() and quiet_seconds < SETTLE_SECONDS and waited_seconds < SETTLE_LIMIT_SECONDS:
            received = service.summary()["packets_received"]
            quiet_seconds = quiet_seconds + 0.1 if received == seen else 0.0
            seen = received
            waited_seconds += 0.1
            await asyncio.wait({serving}, timeout=0.1)

    def _target(self, service: Service) -> str:
        config: Any = self._config.sources[self._source]
        source: Any = service.sources[self._source].source
        address = join_address(*source.address[:2]).replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
        framing = f"?framing={config.framing}" if config.type == "tcp" else ""
        return f"{config.type}://{address}{framing}"
