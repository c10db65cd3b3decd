"""Has the cost of something changed? Page's test against slow references, with limits that noise sets.

The sums (Page 1954; two-sided) are of log outcomes against what they used to be, not against a filter that follows
them: what is followed in fifty outcomes would otherwise never be noticed. ``SLACK`` is half of the smallest change
worth an alarm. A limit of ``EVIDENCE * variance / (2 * SLACK)`` lets independent noise ring once in about
``e^EVIDENCE`` outcomes (Siegmund 1985). On a shared host noise is neither independent nor normal, so:

* Scores are cut (Huber 1964), so that no few outliers decide.
* A group (type of content) is compared with what just happened to the others, which the host slows down as well;
  where nearly everything is of one group there is nothing to compare with, and the test of all has to do.
* The variance is the largest of that of single outcomes and of sums of many, which is larger where one slow outcome
  follows another (batch means; Alexopoulos and Seila 1998).
* What rang, and what came and went by itself such as a burst of steal, is remembered for some minutes with its size;
  the next one has to be half as large again.

A change of everything is weighed before a change of one group, and while the one is under judgement the others wait.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import inlined_kernel, kernel

Floats = npt.NDArray[np.float64]

SLACK = 0.2  # half of log 1.5
EVIDENCE = 24.0  # that one group has changed
EVIDENCE_OF_ALL, EVIDENCE_OF_SUMS = 100.0, 16.0  # that everything has, by the variance of one and of sums of many
LEAST_LIMIT = 2.4
CUT, LEAST_CUT = 3.0, 0.6  # in standard deviations; in log units: a limit takes at least six outcomes
KNOWN = 20  # outcomes before a group counts
WARM = 1024  # outcomes before a change of everything may ring: what the host is like is learned first
SHORT_BLOCK, LONG_BLOCK = 128, 1024
REFERENCE_GAIN = 1 / 800
VARIANCE_GAIN = 1 / 256
BLOCK_GAIN = 1 / 16
LEAST_VARIANCE = 1e-4  # in one step, so that it can grow from nothing
HALFWAY = 0.5
GROWTH = 4.0  # of a variance of sums, at most seen in one block
FADING = 1.0 - 1 / 16  # of what just happened to others
ENOUGH_OTHERS = 5.0  # of 16
TURMOIL = 0.35  # of the others' scores: groups wait until it is over, or usual
ABOVE_BURSTS = 1.5
MEMORY = 1.0 - 1 / 300_000
JUDGED_AFTER = 300  # outcomes after an alarm: still there, or a burst
LEVEL_GAIN = 1 / 100
LARGEST = 4.0

(
    UP,
    DOWN,
    REFERENCE,
    SEEN,
    VARIANCE,
    SHORT_SUM,
    SHORT,
    LONG_SUM,
    LONG,
    BURST,
    PEAK,
    SINCE,
    LEVEL,
    RECENT,
    WEIGHT,
    AT,
) = range(16)
COLUMNS = 16
"""Columns of a row of ``Tracking.watch``: both sums, usual level (of a group: beside that of all), outcomes weighed,
variance of one and of sums in short and long blocks with their sums so far, largest burst remembered, largest sum
since both were zero, outcomes since an alarm (0: none is being judged), level since, recent scores with their weight,
and the number of the outcome when these were faded."""

ALARM_ALL, ALARM_GROUP = 1, 2


def new_watch(models: int, groups: int) -> Floats:
    """Rows of ``models`` that have seen nothing, shape ``(models, 1 + groups, COLUMNS)``."""
    rows = np.zeros((models, 1 + groups, COLUMNS))
    rows[:, :, VARIANCE] = 0.1
    return rows


@kernel
def watch_change(rows: Floats, group: int, level: float, expected: float) -> int:
    """Weigh one outcome; returns the alarms.

    Args:
        rows: ``(1 + groups, COLUMNS)``: of all outcomes, and of each group; changed.
        group: -1 for none.
        level: log of the outcome less what its features explain.
        expected: the level that is predicted; the reference of what is new begins there.
    """
    everything = rows[0]
    if everything[AT] == 0.0:
        everything[REFERENCE] = expected
    everything[AT] += 1.0
    if group < 0:
        return _judge(everything, level - everything[REFERENCE], WARM, ALARM_ALL)
    own = rows[1 + group]
    if own[SEEN] == 0.0:
        own[REFERENCE] = expected - everything[REFERENCE]
    distance = level - everything[REFERENCE] - own[REFERENCE]
    score, beside_change = _cut(own, distance), _cut(own, distance - own[LEVEL])
    others, common = _compare(everything, own, beside_change)
    if own[SEEN] < KNOWN:
        own[SEEN] += 1.0
        own[REFERENCE] += (_bounded(distance, LARGEST) - common) / (own[SEEN] + 1.0)
        return 0
    alarms = _judge(everything, beside_change, WARM, ALARM_ALL)
    if alarms or everything[SINCE] > 0.0:
        own[UP] = own[DOWN] = 0.0
    elif others >= ENOUGH_OTHERS and abs(common) < TURMOIL:
        alarms = _judge(own, score - common, KNOWN, ALARM_GROUP)
    return alarms


@inlined_kernel
def _bounded(value: float, most: float) -> float:
    return min(max(value, -most), most)


@inlined_kernel
def _compare(everything: Floats, own: Floats, score: float) -> tuple[float, float]:
    """Weight and mean of what other groups just scored; then adds this score to what just happened."""
    faded = FADING ** (everything[AT] - own[AT])
    own[AT] = everything[AT]
    own[RECENT], own[WEIGHT] = own[RECENT] * faded, own[WEIGHT] * faded
    everything[RECENT], everything[WEIGHT] = everything[RECENT] * FADING, everything[WEIGHT] * FADING
    others = everything[WEIGHT] - own[WEIGHT]
    common = (everything[RECENT] - own[RECENT]) / others if others >= ENOUGH_OTHERS else 0.0
    if own[SEEN] >= KNOWN:
        own[RECENT], own[WEIGHT] = own[RECENT] + score, own[WEIGHT] + 1.0
        everything[RECENT], everything[WEIGHT] = everything[RECENT] + score, everything[WEIGHT] + 1.0
    return others, common


@kernel
def _judge(row: Floats, score: float, warm: float, alarm: int) -> int:
    """Weigh a score; returns the alarm when one begins. What was weighed is followed slowly, or ends a judgement."""
    cut = _cut(row, score)
    rang = _weigh(row, cut, warm, alarm)
    since = row[SINCE]
    if since == 0.0:
        row[REFERENCE] += max(1.0 / (row[SEEN] + 1.0), REFERENCE_GAIN) * cut
    else:
        row[LEVEL] += max(1.0 / since, LEVEL_GAIN) * (_bounded(score, LARGEST) - row[LEVEL])
        if since >= JUDGED_AFTER or max(row[UP], row[DOWN]) == 0.0:
            _conclude(row)
    return alarm if rang else 0


@kernel
def _weigh(row: Floats, cut: float, warm: float, alarm: int) -> bool:
    """One step of both sums of a row; true when an alarm begins."""
    row[SEEN] += 1.0
    row[BURST] *= MEMORY
    limit = limit_of(row, alarm)
    if max(row[UP], row[DOWN]) < HALFWAY * limit:  # else a change would raise the limit that it has to reach
        _learn_variance(row, cut)
    if row[SINCE] == 0.0:
        _learn_sums(row, cut)
    row[UP] = max(row[UP] + cut - SLACK, 0.0)
    row[DOWN] = max(row[DOWN] - cut - SLACK, 0.0)
    highest = max(row[UP], row[DOWN])
    row[PEAK] = max(row[PEAK], highest)
    if row[SINCE] > 0.0:
        row[SINCE] += 1.0
    elif highest > limit and row[SEEN] > warm:
        row[SINCE], row[BURST] = 1.0, max(row[BURST], highest)
        return True
    elif highest == 0.0:
        row[BURST] = max(row[BURST], row[PEAK])
        row[PEAK] = 0.0
    return False


@inlined_kernel
def _cut(row: Floats, score: float) -> float:
    return _bounded(score, max(CUT * math.sqrt(row[VARIANCE]), LEAST_CUT))


@inlined_kernel
def _learn_variance(row: Floats, cut: float) -> None:
    found = min(cut * cut, CUT * CUT * row[VARIANCE] + LEAST_VARIANCE)
    row[VARIANCE] += max(1.0 / (row[SEEN] + 1.0), VARIANCE_GAIN) * (found - row[VARIANCE])


@kernel
def _learn_sums(row: Floats, cut: float) -> None:
    seen = row[SEEN]
    row[SHORT_SUM] += cut
    row[LONG_SUM] += cut
    if seen % SHORT_BLOCK == 0.0:
        row[SHORT] = _blended(row, row[SHORT], row[SHORT_SUM], SHORT_BLOCK)
        row[SHORT_SUM] = 0.0
    if seen % LONG_BLOCK == 0.0:
        row[LONG] = _blended(row, row[LONG], row[LONG_SUM], LONG_BLOCK)
        row[LONG_SUM] = 0.0


@kernel
def _blended(row: Floats, variance: float, total: float, block: float) -> float:
    found = min(total * total / block, GROWTH * max(variance, row[SHORT], row[VARIANCE]))
    blended: float = variance + max(block / (row[SEEN] + block), BLOCK_GAIN) * (found - variance)
    return blended


@kernel
def limit_of(row: Floats, alarm: int) -> float:
    """The sum beyond which a row rings."""
    sums = max(row[SHORT], row[LONG])
    if alarm == ALARM_ALL:
        evidence = max(EVIDENCE_OF_ALL * row[VARIANCE], EVIDENCE_OF_SUMS * sums)
    else:
        evidence = EVIDENCE * max(row[VARIANCE], sums)
    limit: float = max(evidence / (2.0 * SLACK), LEAST_LIMIT, ABOVE_BURSTS * row[BURST])
    return limit


@kernel
def _conclude(row: Floats) -> None:
    """What rang is still there and becomes usual, or it was a burst and is remembered."""
    if max(row[UP], row[DOWN]) > 0.5 * row[PEAK]:
        row[REFERENCE] += row[LEVEL]
    else:
        row[BURST] = max(row[BURST], row[PEAK])
    row[UP] = row[DOWN] = row[PEAK] = row[SINCE] = row[LEVEL] = row[SHORT_SUM] = row[LONG_SUM] = 0.0
