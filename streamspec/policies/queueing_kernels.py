"""What share of segments misses an objective: lanes as M/G/n queues with preemptive priority, and their search.

Wait of a lane with n workers: P(wait) by Sakasegawa's power of the utilisation, then an exponential tail with the
Pollaczek-Khinchine mean, inflated for uneven arrivals (Kingman, Allen-Cunneen). More urgent lanes take their work
out of the shared cores first. The bins hold arrivals by predicted cost; cuts are numbers of bins.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import kernel

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FULL = 0.97
"""Utilisation from which on a lane counts as unstable."""

# -- columns of what `search` finds -----------------------------------------------------------
FOUND_LANES, FOUND_CUT, FOUND_WORKERS, FOUND_TOTAL = 0, 1, 3, 6
FOUND_WIDTH = 7


@kernel
def lane_misses(
    rate: Floats, cost: Floats, square: Floats, low: int, high: int, workers: int, speed: float, limit: float,
    dispersion: float,
) -> tuple[float, float]:  # fmt: skip
    """Segments per second of bins ``low`` to below ``high`` that miss, and the utilisation of the lane.

    Args:
        rate: segments per second by bin.
        cost: mean work by bin, seconds; ``square``: mean of its square.
        workers: of the lane; ``speed``: useful seconds per second of each.
        limit: seconds that a segment may take from arrival on.
        dispersion: variance of the arrivals by that of a Poisson stream (1).

    What takes longer than ``limit`` alone on the machine is nobody's fault and counts for no allocation.
    """
    number, work, squares = 0.0, 0.0, 0.0
    for index in range(low, high):
        number += rate[index]
        work += rate[index] * cost[index]
        squares += rate[index] * square[index]
    if work <= 0.0:
        return 0.0, 0.0
    if workers <= 0 or speed <= 1e-9:
        return number, np.inf
    used = work / (workers * speed)
    if used >= FULL:
        return number * min(used / FULL, 2.0), used
    spread = max(squares * number / (work * work) - 1.0, 0.0)
    uneven = (dispersion + spread) / (1.0 + spread)
    mean_wait = squares / (2.0 * work) / speed * uneven / (workers * (1.0 - used))
    waits = used ** (math.sqrt(2.0 * (workers + 1.0)) - 1.0)
    missed = 0.0
    own_speed = 1.0 - (1.0 - min(speed, 1.0)) * used
    for index in range(low, high):
        if rate[index] > 0.0:
            left = limit - cost[index] / own_speed
            if left > 0.0:
                missed += rate[index] * waits * math.exp(-left / mean_wait)
            elif cost[index] < limit:
                missed += rate[index]
    return missed, used


@kernel
def speed_at(curve: Floats, workers: int) -> float:
    """Useful seconds per second of ``workers`` busy ones; flat beyond the curve."""
    return float(curve[min(max(workers, 0), len(curve) - 1)])


@kernel
def misses(
    rate: Floats, cost: Floats, square: Floats, cuts: Ints, workers: Ints, lanes: int, curve: Floats, cores: int,
    limit: float, dispersion: float, prior_workers: int, prior_work: float,
) -> tuple[float, float]:  # fmt: skip
    """Segments per second that miss in all lanes, and the highest utilisation of a lane.

    Args:
        cuts: lane i has the bins from ``cuts[i - 1]`` (0 for the first) to below ``cuts[i]``.
        workers: by lane, the most urgent first.
        curve: useful seconds per second by number of busy workers.
        prior_workers, prior_work: of lanes more urgent than these (other traffic classes).
    """
    total = prior_workers
    for lane in range(lanes):
        total += workers[lane]
    together = speed_at(curve, total)
    missed, fullest, taken, ahead, low = 0.0, 0.0, prior_work, prior_workers, 0
    for lane in range(lanes):
        ahead += workers[lane]
        if total <= cores:
            speed = together / max(total, 1)
        else:
            available = max(min(speed_at(curve, ahead), together) - taken, 0.0)
            speed = min(available / max(workers[lane], 1), together / cores)
        lane_missed, used = lane_misses(rate, cost, square, low, cuts[lane], workers[lane], speed, limit, dispersion)
        missed += lane_missed
        fullest = max(fullest, used)
        for index in range(low, cuts[lane]):
            taken += rate[index] * cost[index]
        low = cuts[lane]
    return missed, fullest


@kernel
def _better(missed: float, total: int, lanes: int, full: float, best: Floats, allowed: float) -> bool:
    """Cheapest that is within what is allowed; nothing is: fewest misses. Fewer lanes break a tie."""
    fits = missed <= allowed and full < FULL
    best_fits = best[0] <= allowed and best[3] < FULL
    if fits != best_fits:
        return fits
    alike = fits or abs(missed - best[0]) <= 0.02 * best[0]
    if alike and total != best[1]:
        return bool(total < best[1])
    return bool(missed < best[0] * (0.8 if lanes > best[2] else 1.0))


@kernel
def _consider(
    rate: Floats, cost: Floats, square: Floats, cuts: Ints, workers: Ints, lanes: int, curve: Floats, cores: int,
    limit: float, dispersion: float, prior_workers: int, prior_work: float, allowed: float, best: Floats, found: Ints,
) -> None:  # fmt: skip
    missed, full = misses(rate, cost, square, cuts, workers, lanes, curve, cores, limit, dispersion, prior_workers,
                          prior_work)  # fmt: skip
    total = 0
    for lane in range(lanes):
        total += workers[lane]
    if _better(missed, total, lanes, full, best, allowed):
        best[0], best[1], best[2], best[3] = missed, total, lanes, full
        found[FOUND_LANES], found[FOUND_TOTAL] = lanes, total
        for lane in range(lanes):
            found[FOUND_WORKERS + lane] = workers[lane]
            if lane < lanes - 1:
                found[FOUND_CUT + lane] = cuts[lane]


@kernel
def least_workers(rate: Floats, cost: Floats, low: int, high: int, ceiling: int) -> int:
    """Fewest workers that carry the work of these bins, at least one."""
    work = 0.0
    for index in range(low, high):
        work += rate[index] * cost[index]
    return min(max(math.ceil(work / FULL), 1), ceiling)


@kernel
def _search_two(
    rate: Floats, cost: Floats, square: Floats, curve: Floats, cores: int, limit: float, dispersion: float,
    allowed: float, ceiling: int, most: int, first: int, last: int, prior_workers: int, prior_work: float,
    best: Floats, found: Ints,
) -> None:  # fmt: skip
    """Consider two lanes, with every cut."""
    bins = len(rate)
    cuts, workers = np.full(3, bins, dtype=np.int64), np.zeros(3, dtype=np.int64)
    reach = 6 if ceiling > 8 else ceiling
    for cut in range(first + 1, last):
        cuts[0] = cut
        head, tail = least_workers(rate, cost, 0, cut, ceiling), least_workers(rate, cost, cut, bins, ceiling)
        if head + tail > most:  # not all can be carried: then the light ones at least
            head, tail = min(head, most - 1), 1
        for one in range(head, min(head + reach, most) + 1):
            for two in range(tail, min(tail + reach, most - one) + 1):
                workers[0], workers[1] = one, two
                _consider(rate, cost, square, cuts, workers, 2, curve, cores, limit, dispersion, prior_workers,
                          prior_work, allowed, best, found)  # fmt: skip


@kernel
def _search_three(
    rate: Floats, cost: Floats, square: Floats, curve: Floats, cores: int, limit: float, dispersion: float,
    allowed: float, ceiling: int, most: int, first: int, last: int, prior_workers: int, prior_work: float,
    best: Floats, found: Ints,
) -> None:  # fmt: skip
    """Consider three lanes, with every second cut."""
    bins = len(rate)
    cuts, workers = np.full(3, bins, dtype=np.int64), np.zeros(3, dtype=np.int64)
    reach = min(ceiling, 3)
    for cut in range(first + 1, last, 2):
        for upper in range(cut + 2, last, 2):
            cuts[0], cuts[1] = cut, upper
            head = least_workers(rate, cost, 0, cut, ceiling)
            middle = least_workers(rate, cost, cut, upper, ceiling)
            tail = least_workers(rate, cost, upper, bins, ceiling)
            if head + middle + tail > most:
                head, middle, tail = min(head, most - 2), 1, 1
            for one in range(head, min(head + reach, most) + 1):
                for two in range(middle, min(middle + reach, most - one) + 1):
                    for three in range(tail, min(tail + reach, most - one - two) + 1):
                        workers[0], workers[1], workers[2] = one, two, three
                        _consider(rate, cost, square, cuts, workers, 3, curve, cores, limit, dispersion,
                                  prior_workers, prior_work, allowed, best, found)  # fmt: skip


@kernel
def search(
    rate: Floats, cost: Floats, square: Floats, curve: Floats, cores: int, limit: float, dispersion: float,
    allowed: float, ceiling: int, spread: int, max_lanes: int, prior_workers: int, prior_work: float, found: Ints,
) -> tuple[float, float]:  # fmt: skip
    """The cheapest lanes, cuts and workers whose misses stay within ``allowed`` per second.

    Args:
        ceiling: most workers of one lane; ``spread``: as many more may stand in further lanes (preempted workers
            take no core from urgent ones).
        max_lanes: 1 to 3.
        found: ``FOUND_*`` columns, written.

    Returns:
        Expected misses per second and the utilisation of the fullest lane.
    """
    bins = len(rate)
    cuts, workers = np.full(3, bins, dtype=np.int64), np.zeros(3, dtype=np.int64)
    best = np.array([np.inf, np.inf, np.inf, np.inf])
    first, last = bins, 0
    for index in range(bins):
        if rate[index] > 0.0:
            first, last = min(first, index), index + 1
    for one in range(1, ceiling + 1):
        workers[0] = one
        _consider(rate, cost, square, cuts, workers, 1, curve, cores, limit, dispersion, prior_workers, prior_work,
                  allowed, best, found)  # fmt: skip
    most = ceiling + spread
    if max_lanes >= 2 and most >= 2:
        _search_two(rate, cost, square, curve, cores, limit, dispersion, allowed, ceiling, most, first, last,
                    prior_workers, prior_work, best, found)  # fmt: skip
    if max_lanes >= 3 and most >= 3:
        _search_three(rate, cost, square, curve, cores, limit, dispersion, allowed, ceiling, most, first, last,
                      prior_workers, prior_work, best, found)  # fmt: skip
    return best[0], best[3]


@kernel
def growth_room(
    rate: Floats, cost: Floats, square: Floats, cuts: Ints, workers: Ints, lanes: int, curve: Floats, cores: int,
    limit: float, dispersion: float, allowed_ratio: float,
) -> float:  # fmt: skip
    """Largest factor on the cost of every segment (up to 64) at which misses stay within ``allowed_ratio``."""
    total = 0.0
    for index in range(len(rate)):
        total += rate[index]
    low, high = 1.0 / 64.0, 64.0
    for _ in range(14):
        middle = math.sqrt(low * high)
        hopeless = 0.0  # what grows past the limit is missed, other than what was past it before
        for index in range(len(rate)):
            if cost[index] < limit <= cost[index] * middle:
                hopeless += rate[index]
        missed, full = misses(rate, cost * middle, square * middle * middle, cuts, workers, lanes, curve, cores,
                              limit, dispersion, 0, 0.0)  # fmt: skip
        if missed + hopeless <= allowed_ratio * total and full < FULL:
            low = middle
        else:
            high = middle
    return low
