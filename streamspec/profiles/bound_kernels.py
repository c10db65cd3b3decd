"""The upper bound of predictions: a quantile of what they were wrong by, by type of content.

Log errors are counted in bins, recent ones more. The bound is the quantile of split conformal prediction over these
counts, ``(n + 1) / n`` times the level (Vovk et al. 2005); a type's own counts are joined by a few of all types, which
weigh less the more it has seen. Errors of a stream are not exchangeable, so the level itself is moved until the share
that stays below is the wanted one (adaptive conformal inference, Gibbs and Candes 2021).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import inlined_kernel, kernel

Floats = npt.NDArray[np.float64]

QUANTILE, SHIFT, SEEN = range(3)
"""Columns of bounds: the quantile of the log error, what is added to the level (of the first row), and how many
outcomes it is of; the rest are counts by bin."""
_COUNTS = 3
_LOWEST, _FINE, _TURN, _COARSE = -0.5, 0.025, 1.0, 0.25
_FINE_BINS, _COARSE_BINS = 60, 12
BINS = 1 + _FINE_BINS + _COARSE_BINS
COLUMNS = _COUNTS + BINS

DECAY, DECAY_IN_DOUBT = 0.998, 0.95
LENT = 30.0  # outcomes of all types that a type's own are joined by
FEW = 5.0  # outcomes below which what is believed at first holds
SHIFT_GAIN, LARGEST_SHIFT = 0.005, 0.1
OWN_BOUND = 20  # outcomes of a type before it has a bound of its own


def new_bounds(rows: int, quantile: float) -> Floats:
    """Bounds that have seen nothing, shape ``(rows, COLUMNS)``; ``quantile`` is what is believed at first."""
    bounds = np.zeros((rows, COLUMNS))
    bounds[:, QUANTILE] = quantile
    return bounds


@inlined_kernel
def bound_row(bounds: Floats, group: int) -> int:
    """The row that holds for a group."""
    return 1 + group if bounds[1 + group, SEEN] >= OWN_BOUND else 0


@kernel
def move_bounds(bounds: Floats, group: int, error: float, coverage: float, widened: float, in_doubt: bool) -> None:
    """Learn one error.

    Args:
        bounds: changed.
        group: -1 for none.
        error: log of what was measured over what was predicted.
        coverage: share of outcomes that should stay below.
        widened: what is added to the quantile just now.
        in_doubt: a change was noticed: forget sooner.
    """
    used = bounds[bound_row(bounds, group) if group >= 0 else 0, QUANTILE]
    below = 1.0 if error <= max(used + widened, 0.0) else 0.0
    shift = bounds[0, SHIFT] + SHIFT_GAIN * (coverage - below)
    bounds[0, SHIFT] = min(max(shift, -LARGEST_SHIFT), LARGEST_SHIFT)
    level = min(max(coverage + bounds[0, SHIFT], 0.5), 0.9995)
    decay = DECAY_IN_DOUBT if in_doubt else DECAY
    _count(bounds[0], error, decay)
    _place(bounds, 0, level)
    if group >= 0:
        _count(bounds[1 + group], error, decay)
        _place(bounds, 1 + group, level)


@inlined_kernel
def _count(row: Floats, error: float, decay: float) -> None:
    for index in range(_COUNTS, COLUMNS):
        row[index] *= decay
    row[_COUNTS + _bin_of(error)] += 1.0
    row[SEEN] += 1.0


@inlined_kernel
def _bin_of(error: float) -> int:
    if error < _LOWEST:
        return 0
    if error < _TURN:
        return min(1 + int((error - _LOWEST) / _FINE), _FINE_BINS)
    return 1 + _FINE_BINS + min(int((error - _TURN) / _COARSE), _COARSE_BINS - 1)


@inlined_kernel
def _edge(index: int) -> float:
    """Lower edge of a bin; the first has none and is taken as narrow."""
    if index <= 1:
        return _LOWEST
    if index <= _FINE_BINS:
        return _LOWEST + _FINE * (index - 1)
    return _TURN + _COARSE * (index - 1 - _FINE_BINS)


@kernel
def _place(bounds: Floats, row: int, level: float) -> None:
    """Set the quantile of a row to that of its counts."""
    total = own = 0.0
    for index in range(_COUNTS, COLUMNS):
        total += bounds[0, index]
        own += bounds[row, index]
    lent = min(LENT / total, 1.0) if row and total > 0.0 else 0.0
    count = own + lent * total
    if count < FEW:
        return
    wanted = min(level * (count + 1.0) / count, 1.0) * count
    reached = 0.0
    for index in range(BINS):
        here = bounds[row, _COUNTS + index] + lent * bounds[0, _COUNTS + index]
        if here > 0.0 and reached + here >= wanted - 1e-9:
            inside = (wanted - reached) / here
            bounds[row, QUANTILE] = _edge(index) + inside * (_edge(index + 1) - _edge(index))
            return
        reached += here
