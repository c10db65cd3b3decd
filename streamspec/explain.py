"""``streamspec explain``: what the controller did and why, read from the database or from a running service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamspec.assembly.ledger import DECISION, VERDICT
from streamspec.core.errors import DependencyUnavailable
from streamspec.running_service import RunningService

View = dict[str, Any]


def stored_decisions(database: Path, last: int) -> list[View]:
    """The last decisions of a ledger, oldest first, each with the verdict that came later.

    Raises:
        DatabaseUnusable: it cannot be read.
    """
    from streamspec.profiles.database import ProfileDatabase

    with ProfileDatabase.open(database, read_only=True) as opened:
        rows = opened.decisions(4 * last)
    verdicts = {row["number"]: row for row in rows if row["kind"] == VERDICT}
    views = [row["view"] for row in rows if row["kind"] == DECISION][-last:]
    # Numbers begin anew with each start, so a verdict belongs to the latest decision of its number.
    seen: set[int] = set()
    for view in reversed(views):
        verdict = verdicts.get(view["number"])
        if verdict is not None and view["number"] not in seen and view["steps"]:
            view |= {"outcome": verdict["verdict"], "measured": verdict["measured"], "why": verdict["why"]}
        seen.add(view["number"])
    return views


def running_decisions(url: str, last: int, token: str | None) -> list[View]:
    """The last decisions of a running service, oldest first.

    Raises:
        DependencyUnavailable: it does not answer, or not to us.
    """
    try:
        newest_first: list[View] = RunningService(url, token, where="explain").get(f"decisions?limit={last}")
    except DependencyUnavailable as error:
        raise DependencyUnavailable(
            f"the service does not answer: {error.what}", where="explain", value=url, next_step=error.next_step
        ) from error
    return newest_first[::-1]


def explain_decisions(
    *, database: Path | None, url: str | None, token: str | None, last: int, as_json: bool, full: bool
) -> Sequence[str]:
    """Lines to print: JSON objects, or sentences."""
    views = running_decisions(url, last, token) if url else stored_decisions(database or Path("profiles.db"), last)
    if as_json:
        return [json.dumps(view) for view in views]
    if not views:
        return ["no decisions"]
    return [line for view in views for line in _told(view, full=full)]


def _told(view: View, *, full: bool) -> list[str]:
    moment = datetime.fromtimestamp(view["time_seconds"], tz=UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    lines = [f"{moment}Z  #{view['number']} {view['outcome']}: {view['sentence']}"]
    if full:
        titles = ("seen", "forecast", "expected", "measured")
        lines += [f"    {title}: {_numbers(view[title])}" for title in titles if view.get(title)]
    elif view.get("expected") and view.get("measured"):
        lines.append(f"    expected {_numbers(view['expected'])}; measured {_numbers(view['measured'])}")
    if view.get("why"):
        lines.append(f"    {view['outcome']}: {view['why']}")
    return lines


def _numbers(values: Mapping[str, Any]) -> str:
    known = {name: value for name, value in values.items() if value is not None}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in known.items())
