"""How good predictions are, by head, by whole chain in each variant, and by type of content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.prediction import Features, Head
from streamspec.profiles.head_plan import Floats
from streamspec.profiles.training import errors

Errors = dict[str, float | None]
_TYPE = FEATURE_INDEX["type_code"]


def head_errors(names: Sequence[str], values: Floats, guesses: Floats) -> dict[str, Errors]:
    """:func:`~streamspec.profiles.training.errors` of each head."""
    return {name: errors(values[:, column], guesses[:, column]) for column, name in enumerate(names)}


def chain_times(heads: Sequence[Head], values: Floats) -> dict[str, Floats]:
    """Useful time of the whole chain, by cost key of the stage with variants (``chain`` when none has).

    Args:
        heads: of the chain.
        values: of each head, measured or predicted, shape ``(n, heads)``.
    """
    times = [(index, head) for index, head in enumerate(heads) if head.target == "useful_time"]
    varied = min((head.stage for _, head in times if head.variant), default=-1)
    rest = sum(
        (values[:, index] for index, head in times if head.is_default and head.stage != varied), np.zeros(len(values))
    )
    if varied < 0:
        return {"chain": rest}
    return {head.cost_key: rest + values[:, index] for index, head in times if head.stage == varied}


def chain_errors(heads: Sequence[Head], values: Floats, guesses: Floats) -> dict[str, Errors]:
    """Errors of the useful time of the whole chain, by variant."""
    guessed = chain_times(heads, guesses)
    return {key: errors(time, guessed[key]) for key, time in chain_times(heads, values).items()}


def by_type(heads: Sequence[Head], features: Features, values: Floats, guesses: Floats) -> dict[str, dict[str, Errors]]:
    """:func:`chain_errors` of the segments of each type that occurs."""
    codes = features[:, _TYPE].astype(np.int64)
    return {
        TYPE_NAMES[code]: chain_errors(heads, values[codes == code], guesses[codes == code])
        for code in np.unique(codes).tolist()
    }


def number(value: float | None) -> str:
    """For a table."""
    return "-" if value is None else f"{value:.3f}"


def error_table(title: str, columns: Sequence[str], rows: dict[str, dict[str, Errors]]) -> Any:
    """A table: a line for each row, and for each column (of ``rows[name]``) both numbers."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column("")
    table.add_column("segments", justify="right")
    for column in columns:
        table.add_column(f"{column}\nwork_error", justify="right")
        table.add_column("\nr2_log", justify="right")
    for name, found in rows.items():
        segments = max((int(e["segments"] or 0) for e in found.values()), default=0)
        cells = [number(found[c][key]) if c in found else "-" for c in columns for key in ("work_error", "r2_log")]
        table.add_row(name, str(segments), *cells)
    return table
