"""``streamspec demo``: the whole service on generated traffic on this machine, for anyone, at once.

The service runs in this process as ``streamspec run`` runs it, and tunes itself; the traffic generator runs beside
it and sends by UDP or TCP over loopback. Then the same load is run once more with control ``off`` (one shared queue,
fixed settings), and both are set side by side. Results go to a temporary folder that is removed at the end.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamspec.core.errors import EXIT_INTERNAL, ConfigError

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig
    from streamspec.demo.display import Display
    from streamspec.demo.one_run import Result

EMBEDDED = Path(__file__).with_name("demo.yaml")


def run_demo(
    seconds: float,
    as_json: bool,
    config_path: Path | None,
    overrides: tuple[str, ...],
    compare: bool | None = None,
) -> int:
    """Run the demo and tell what became of the traffic.

    Args:
        seconds: how long traffic is generated, in each run.
        as_json: print the summary as one JSON object on standard output and nothing else there.
        config_path: a configuration with a ``udp`` or ``tcp`` source, instead of the embedded one.
        overrides: as ``--set``.
        compare: run the same load again with control ``off``; unset: with the embedded configuration only, because
            the sinks of another one would get everything twice.

    Returns:
        The exit code: 0 only when no segment was lost.
    """
    display = _display(as_json)
    try:
        runs = _runs(seconds, config_path, overrides, compare, display)
    finally:
        display.close()
    summary = _summary(runs)
    if as_json:
        print(json.dumps(summary, indent=2 if sys.stdout.isatty() else None), flush=True)
    else:
        from streamspec.demo.telling import tell

        tell(summary)
    lost = any(run.summary["segments_lost"] for run in runs)
    return next((run.code for run in runs if run.code), EXIT_INTERNAL if lost else 0)


def _runs(
    seconds: float, config_path: Path | None, overrides: tuple[str, ...], compare: bool | None, display: Display
) -> list[Result]:
    """The controlled run and, where there is something to compare, the one with control ``off``."""
    display.begin("streamspec demo")
    # Only now, when something is to be seen: these imports take a second.
    import uvloop

    from streamspec.config import load_config
    from streamspec.demo.one_run import OneRun
    from streamspec.telemetry.logging import configure_logging, tell_held_back

    with tempfile.TemporaryDirectory(prefix="streamspec-demo-") as folder:

        def run(name: str, *last: str) -> tuple[ServiceConfig, Result]:
            own = () if config_path else (f"sinks.out.path={folder}/{name}/",)
            config = load_config(config_path or EMBEDDED, (*own, *overrides, *last))
            config = _watchable(config)
            source = target_source(config)
            configure_logging(config.logging.level, config.logging.format)
            result = uvloop.run(OneRun(config, source, seconds, display).run())
            tell_held_back()
            return config, result

        config, first = run("controlled")
        wanted = config_path is None if compare is None else compare
        if not wanted or config.control_mode != "auto" or first.interrupted or first.code:
            return [first]
        display.begin("streamspec demo, once more without control")
        return [first, run("off", "control.mode=off")[1]]


def _watchable(config: ServiceConfig) -> ServiceConfig:
    """With a dashboard, at a free port where none is configured."""
    from streamspec.admin.config import AdminConfig

    return config if config.admin else config.model_copy(update={"admin": AdminConfig(bind="127.0.0.1:0")})


def _summary(runs: list[Result]) -> dict[str, Any]:
    """The summary of the first run; with the other one and both side by side where there are two."""
    from streamspec.demo.measured import compared, costs_of, halves

    rows = [run.measured.kept for run in runs]
    costs = [costs_of(part, runs[0].predictor) for part in rows]
    boundary = float(_median(costs[0]))
    summaries = [
        run.summary | {"halves": halves(part, cost, boundary)}
        for run, part, cost in zip(runs, rows, costs, strict=True)
    ]
    if len(summaries) < 2 or runs[1].interrupted:
        return summaries[0]
    return summaries[0] | {"off": summaries[1], "comparison": compared(*summaries)}


def _median(costs: Any) -> float:
    import numpy as np

    return float(np.median(costs)) if len(costs) else 0.0


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
    from streamspec.demo.display import LineDisplay, LiveDisplay, NoDisplay

    if as_json:
        return NoDisplay()
    return LiveDisplay() if sys.stderr.isatty() else LineDisplay()
