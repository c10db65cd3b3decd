"""Checks between sections, made on the plain tree so that they are reported beside all other faults.

They tolerate anything: what is of the wrong type is somebody else's problem to report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from streamspec.config.problems import Path
from streamspec.core.units import parse_bytes_per_second
from streamspec.stages.registry import StageConfig

Finding = tuple[Path, str, list[str]]
"""Path, what is wrong, and the words that would have been right (for a suggestion)."""


def cross_findings(tree: Any) -> Iterator[Finding]:
    """What is wrong between sections of a configuration.

    Args:
        tree: the plain tree of a file, or ``ServiceConfig.model_dump()``.
    """
    if not isinstance(tree, dict):
        return
    lanes = [lane if isinstance(lane, dict) else {} for lane in _list(tree.get("lanes"))]
    sources = tree.get("sources")
    yield from _lane_names(lanes)
    yield from _lane_sources(lanes, list(sources) if isinstance(sources, dict) else [])
    yield from _lane_coverage(lanes)
    yield from _lane_workers(lanes, tree.get("engine"))
    yield from _lane_egress(lanes, tree.get("control"))
    yield from _exactly_once(tree.get("sinks"))
    yield from _stage_order([stage if isinstance(stage, dict) else {} for stage in _list(tree.get("stages"))])


def _exactly_once(sinks: Any) -> Iterator[Finding]:
    """Offsets are committed with the results of one sink; another one would lose what it did not have yet."""
    if not isinstance(sinks, dict) or len(sinks) < 2:
        return
    for name, sink in sinks.items():
        if isinstance(sink, dict) and sink.get("delivery") == "exactly_once":
            yield ("sinks", name, "delivery"), "exactly_once wants to be the only sink beside a dead_letter", []


def _stage_order(stages: list[dict[str, Any]]) -> Iterator[Finding]:
    models = get_args(get_args(StageConfig)[0])
    needs = {get_args(model.model_fields["type"].annotation)[0]: model.needs_before for model in models}
    seen: set[str] = set()
    for index, stage in enumerate(stages):
        kind = stage.get("type")
        if not isinstance(kind, str):
            continue
        for needed in needs.get(kind, ()):
            if needed not in seen:
                yield ("stages", index), f"the stage {kind!r} needs a stage {needed!r} before it", []
        seen.add(kind)


def _lane_names(lanes: list[dict[str, Any]]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, lane in enumerate(lanes):
        name = lane.get("name")
        if isinstance(name, str) and seen.setdefault(name, index) != index:
            yield ("lanes", index, "name"), f"lane {name!r} exists already (lanes.{seen[name]})", []


def _lane_sources(lanes: list[dict[str, Any]], sources: list[str]) -> Iterator[Finding]:
    for index, lane in enumerate(lanes):
        for position, source in enumerate(_list(_match(lane).get("sources"))):
            if isinstance(source, str) and source not in sources:
                yield ("lanes", index, "match", "sources", position), f"there is no source {source!r}", sources


def _lane_coverage(lanes: list[dict[str, Any]]) -> Iterator[Finding]:
    takes_all = [_takes_everything(lane) for lane in lanes]
    if lanes and not takes_all[-1]:
        what = "the last lane must take everything, or some segments have no lane; add one without `match`"
        yield ("lanes", len(lanes) - 1, "match"), what, []
    for index, everything in enumerate(takes_all[:-1]):
        if everything:
            what = "this lane takes everything and the lanes after it get nothing; give it a `match` or move it last"
            yield ("lanes", index), what, []


def _lane_workers(lanes: list[dict[str, Any]], engine: Any) -> Iterator[Finding]:
    ceiling = engine.get("workers") if isinstance(engine, dict) else None
    asked = [lane.get("workers", 1) for lane in lanes]
    if lanes and isinstance(ceiling, int) and all(isinstance(count, int) for count in asked) and sum(asked) > ceiling:
        yield ("engine", "workers"), f"the lanes ask for {sum(asked)} workers together and there are {ceiling}", []


def _lane_egress(lanes: list[dict[str, Any]], control: Any) -> Iterator[Finding]:
    """What lanes are sure of fits the link that is shared out."""
    rates = {index: _rate(lane.get("bytes_per_second")) for index, lane in enumerate(lanes)}
    asked = {index: rate for index, rate in rates.items() if rate}
    egress = control.get("egress") if isinstance(control, dict) else None
    if asked and not egress:
        what = "a lane's share of the way out needs the link: set control.egress with interface and bytes_per_second"
        yield ("lanes", next(iter(asked)), "bytes_per_second"), what, []
    link = _rate(egress.get("bytes_per_second")) if isinstance(egress, dict) else 0.0
    if link and sum(asked.values()) > link:
        what = f"the lanes are promised {sum(asked.values()):g} bytes/s together and the link carries {link:g}"
        yield ("control", "egress", "bytes_per_second"), what, []


def _rate(value: Any) -> float:
    try:
        return 0.0 if value is None else parse_bytes_per_second(value)
    except ValueError:
        return 0.0


def _takes_everything(lane: dict[str, Any]) -> bool:
    return all(value in (None, [], ()) for value in _match(lane).values())


def _match(lane: dict[str, Any]) -> dict[str, Any]:
    match = lane.get("match")
    return match if isinstance(match, dict) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
