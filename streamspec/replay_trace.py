"""``streamspec replay``: policies compared on a recorded trace, simulated, under the guard that runs in service."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamspec.core.errors import DependencyUnavailable, UsageError
from streamspec.policies.reflex import ReflexPolicy
from streamspec.policies.registry import POLICIES
from streamspec.policies.variants import VariantsPolicy
from streamspec.simulation.loop import Run, simulate, single_lane
from streamspec.simulation.traced import Replayable, replayable
from streamspec.telemetry.trace import read_trace

CHART_POINTS = 300


@dataclass(frozen=True)
class Result:
    """One policy on one trace."""

    policy: str
    run: Run

    def row(self) -> dict[str, Any]:
        """For JSON: units are in the names."""
        run = self.run
        return {
            "policy": self.policy,
            "segments": len(run.latency_seconds),
            "miss_ratio": run.miss_ratio,
            "p50_seconds": _finite(run.quantile(0.50)),
            "p99_seconds": _finite(run.quantile(0.99)),
            "worker_seconds": run.worker_seconds,
            "mean_workers": run.mean_workers,
            "switches": run.switches,
            "bytes_out": run.bytes_out,
            "shed": run.shed,
        }


def replay(trace: Replayable, name: str) -> Result:
    """Run one policy over the trace.

    Raises:
        UsageError: there is no policy of that name.
    """
    if name not in POLICIES:
        raise UsageError("no such policy", where="replay --policy", value=name, allowed=", ".join(sorted(POLICIES)))
    main = POLICIES[name].model_validate({"type": name}).build()
    planned = name == "planner"
    run = simulate(
        trace.workload,
        (main, VariantsPolicy()) if planned else (main,),
        plan=single_lane(trace.workers, batch=16),
        setting=trace.setting,
        traffic=trace.traffic,
        reflexes=() if name == "static" else (ReflexPolicy(),) if planned else (),
    )
    return Result(name, run)


def run_replay(path: Path, policies: Sequence[str], *, as_json: bool, plot: Path | None) -> None:
    """Print misses, latency, worker-seconds and switches of each policy, and draw them with ``plot``."""
    trace = replayable(read_trace(path))
    names = list(dict.fromkeys(policies)) or ["static", "planner"]
    results = [replay(trace, name) for name in names]
    if as_json:
        objective = trace.traffic[0].objective
        document = {
            "trace": str(path),
            "segments": len(trace.workload),
            "seconds": trace.workload.seconds,
            "objective": {"latency_seconds": objective.latency_seconds, "percentile": objective.percentile},
            "notes": list(trace.notes),
            "policies": [result.row() for result in results],
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _print_table(trace, results)
    if plot is not None:
        write_chart(trace, results, plot)


def _print_table(trace: Replayable, results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    objective = trace.traffic[0].objective
    title = (
        f"{len(trace.workload)} segments in {trace.workload.seconds:.1f} s; objective: "
        f"{objective.percentile:g} % within {objective.latency_seconds * 1e3:g} ms (simulated)"
    )
    table = Table(title=title)
    for heading in ("policy", "missed", "p50", "p99", "worker-seconds", "switches", "bytes out"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for result in results:
        row = result.row()
        table.add_row(
            result.policy,
            f"{row['miss_ratio']:.3%}",
            _milliseconds(row["p50_seconds"]),
            _milliseconds(row["p99_seconds"]),
            f"{row['worker_seconds']:.1f}",
            str(row["switches"]),
            f"{row['bytes_out']:.3g}",
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for note in trace.notes:
        console.print(f"note: {note}")


def _milliseconds(seconds: float | None) -> str:
    return "shed" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def write_chart(trace: Replayable, results: Sequence[Result], path: Path) -> None:
    """Load, workers and latency over time as one HTML file that needs no network.

    Raises:
        DependencyUnavailable: plotly is not installed, or the file cannot be written.
    """
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise DependencyUnavailable(
            "charts need the package plotly", where="replay --plot", next_step="pip install plotly"
        ) from error
    titles = ("work that arrives (s per second)", "workers", "p99 of latency (ms)")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, subplot_titles=titles)
    palette = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2")
    seconds, load, place, edges = _over_time(trace)
    figure.add_trace(graph_objects.Scatter(x=seconds, y=load, name="load", line={"color": "#333333"}), row=1, col=1)
    for order, result in enumerate(results):
        line = {"color": palette[order % len(palette)]}
        times = [entry[0] for entry in result.run.history]
        workers = [entry[1] for entry in result.run.history]
        latency = _quantile_by(place, result.run.latency_seconds, len(edges) - 1)
        shown = {"name": result.policy, "legendgroup": result.policy, "line": line}
        figure.add_trace(
            graph_objects.Scatter(x=times, y=workers, line_shape="hv", showlegend=False, **shown), row=2, col=1
        )
        figure.add_trace(graph_objects.Scatter(x=seconds, y=latency, **shown), row=3, col=1)
    limit = trace.traffic[0].objective.latency_seconds * 1e3
    figure.add_hline(y=limit, line_dash="dash", line_color="#333333", row=3, col=1)
    figure.update_yaxes(type="log", row=3, col=1)
    figure.update_xaxes(title_text="seconds", row=3, col=1)
    figure.update_layout(title="policies on the same arrivals (simulated)", template="plotly_white", height=900)
    try:
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise DependencyUnavailable(
            f"cannot write the chart: {error.strerror}", where=str(path), next_step="name a folder that exists"
        ) from error


def _over_time(trace: Replayable) -> tuple[Any, Any, Any, Any]:
    work = trace.workload
    points = max(min(CHART_POINTS, len(work) // 20), 1)
    edges = np.linspace(0.0, max(work.seconds, 1e-9), points + 1)
    place = np.clip(np.searchsorted(edges, work.arrival_ns / 1e9, side="right") - 1, 0, points - 1)
    width = edges[1] - edges[0]
    load = np.bincount(place, work.work_ns[:, work.default_variant] / 1e9, points) / width
    return (edges[:-1] + edges[1:]) / 2, load, place, edges


def _quantile_by(place: Any, latency: Any, points: int) -> list[float | None]:
    order = np.argsort(place, kind="stable")
    parts = np.split(latency[order], np.searchsorted(place[order], np.arange(1, points)))
    values = [float(np.quantile(part, 0.99, method="lower")) if len(part) else np.inf for part in parts]
    return [value * 1e3 if np.isfinite(value) else None for value in values]
