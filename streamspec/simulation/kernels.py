"""The event loop of the simulated plant, compiled: arrivals, preemptive workers on shared cores, order, sink.

Time is a float in nanoseconds. Workers share the cores as a fluid: the busy ones together run at the measured
speed-up of their number, shared out by the kernel's nice weights, at most one core each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamspec.core.jit import kernel

# ruff: noqa: C901  (an event loop has a branch per event; calls of kernels with so many arrays cost more than it)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.uint8]

MAX_LANES = 16
MAX_WORKERS = 64
BUFFER = 512
"""Segments one worker may hold: two messages of 256."""

# -- entries of `clock` -----------------------------------------------------------------------
NOW, SINK_BUSY_UNTIL = range(2)
# -- entries of `marks` -----------------------------------------------------------------------
ADMITTED, FINISHED, USED_SLOTS, SHED, SINK_HEAD, SINK_COUNT, LANES, WORKERS, UNFINISHED = range(9)
# -- states of a segment ----------------------------------------------------------------------
AHEAD, WAITING, HELD, DONE, RELEASED, OVER, DROPPED = range(7)
# -- rows of `lane_ints` and `worker_ints`, columns by lane and worker ------------------------
HEAD, COUNT, BATCH, TRAFFIC, URGENCY = range(5)
W_LANE, W_SEGMENT, W_HEAD, W_COUNT = range(4)
# -- rows of `worker_floats`; USEFUL is the share of its present time that counts as work -----
REMAINING, USEFUL, RATE, WEIGHT = range(4)
# -- rows of `setting` ------------------------------------------------------------------------
CAN_WAIT, ORDERED, SLOTS, INTAKE_SLOTS, MESSAGE_NS, SEGMENT_NS, SINK_NS_PER_BYTE = range(7)


@kernel
def route(segment: int, traffic: int, work: float, lane_ints: Ints, cuts: Floats, lanes: int) -> int:
    """The first lane of the traffic class that takes the predicted work; the class's last lane otherwise."""
    last = 0
    for lane in range(lanes):
        if lane_ints[TRAFFIC, lane] == traffic:
            last = lane
            if work <= cuts[lane]:
                return lane
    return last


@kernel
def choose_variant(segment: int, price: float, default: int, length: float, predicted: Floats, ratios: Floats) -> int:
    """Smallest ``work + bytes out * price`` (nanoseconds, and nanoseconds per byte); the default below zero."""
    if price < 0.0 or predicted.shape[1] == 1:
        return default
    best, cost = default, np.inf
    for variant in range(predicted.shape[1]):
        here = predicted[segment, variant] + ratios[segment, variant] * length * price
        if here < cost:
            best, cost = variant, here
    return best


@kernel
def share_cores(worker_ints: Ints, worker_floats: Floats, workers: int, speed_up: Floats) -> int:
    """Set the rate of each busy worker; returns how many are busy."""
    busy = 0
    for worker in range(workers):
        worker_floats[RATE, worker] = 0.0
        busy += worker_ints[W_SEGMENT, worker] >= 0
    left = speed_up[min(busy, len(speed_up) - 1)]
    open_workers = busy
    while open_workers > 0 and left > 1e-12:
        weights = 0.0
        for worker in range(workers):
            if worker_ints[W_SEGMENT, worker] >= 0 and worker_floats[RATE, worker] < 1.0:
                weights += worker_floats[WEIGHT, worker]
        if weights <= 0.0:
            break
        capped = False
        for worker in range(workers):
            if worker_ints[W_SEGMENT, worker] >= 0 and worker_floats[RATE, worker] < 1.0:
                share = left * worker_floats[WEIGHT, worker] / weights
                if share >= 1.0:
                    worker_floats[RATE, worker] = 1.0
                    capped = True
        if capped:
            left = speed_up[min(busy, len(speed_up) - 1)]
            open_workers = 0
            for worker in range(workers):
                if worker_ints[W_SEGMENT, worker] >= 0:
                    if worker_floats[RATE, worker] >= 1.0:
                        left -= 1.0
                    else:
                        open_workers += 1
            continue
        for worker in range(workers):
            if worker_ints[W_SEGMENT, worker] >= 0 and worker_floats[RATE, worker] < 1.0:
                worker_floats[RATE, worker] = left * worker_floats[WEIGHT, worker] / weights
        break
    return busy


@kernel
def _push(rings: Ids, lane_ints: Ints, lane: int, segment: int) -> None:
    capacity = rings.shape[1]
    rings[lane, (lane_ints[HEAD, lane] + lane_ints[COUNT, lane]) % capacity] = segment
    lane_ints[COUNT, lane] += 1


@kernel
def _pop(rings: Ids, lane_ints: Ints, lane: int) -> int:
    segment = rings[lane, lane_ints[HEAD, lane]]
    lane_ints[HEAD, lane] = (lane_ints[HEAD, lane] + 1) % rings.shape[1]
    lane_ints[COUNT, lane] -= 1
    return int(segment)


@kernel
def pump(
    lane: int, rings: Ids, lane_ints: Ints, worker_ints: Ints, worker_floats: Floats, buffers: Ids, state: Flags,
    work: Floats, variant: Ids, setting: Floats, workers: int,
) -> None:  # fmt: skip
    """Hand what waits in a lane to its workers, as the dispatcher does: the least loaded first, in messages of
    at most a batch and a fair share, until each holds more than a batch."""
    batch = lane_ints[BATCH, lane]
    own = 0
    for worker in range(workers):
        own += worker_ints[W_LANE, worker] == lane
    while own > 0 and lane_ints[COUNT, lane] > 0:
        chosen, least = -1, 1 << 30
        for worker in range(workers):
            if worker_ints[W_LANE, worker] == lane:
                held = worker_ints[W_COUNT, worker] + (worker_ints[W_SEGMENT, worker] >= 0)
                if held < least:
                    chosen, least = worker, held
        if least > batch or least > 255:
            return
        count = min(batch, -(-lane_ints[COUNT, lane] // own), 256)
        for place in range(count):
            segment = _pop(rings, lane_ints, lane)
            state[segment] = HELD
            tail = (worker_ints[W_HEAD, chosen] + worker_ints[W_COUNT, chosen]) % BUFFER
            buffers[chosen, tail] = segment if place else -segment - 1
            worker_ints[W_COUNT, chosen] += 1
        if worker_ints[W_SEGMENT, chosen] < 0:
            take_next(chosen, worker_ints, worker_floats, buffers, work, variant, setting)


@kernel
def take_next(
    worker: int, worker_ints: Ints, worker_floats: Floats, buffers: Ids, work: Floats, variant: Ids, setting: Floats
) -> None:
    """Begin the next segment that the worker holds; a negative entry is the first of a message."""
    entry = buffers[worker, worker_ints[W_HEAD, worker]]
    worker_ints[W_HEAD, worker] = (worker_ints[W_HEAD, worker] + 1) % BUFFER
    worker_ints[W_COUNT, worker] -= 1
    segment = entry if entry >= 0 else -entry - 1
    overhead = setting[SEGMENT_NS] + (setting[MESSAGE_NS] if entry < 0 else 0.0)
    worker_ints[W_SEGMENT, worker] = segment
    worker_floats[REMAINING, worker] = work[segment, variant[segment]] + overhead
    worker_floats[USEFUL, worker] = work[segment, variant[segment]] / max(worker_floats[REMAINING, worker], 1.0)


@kernel
def _over(segment: int, now: float, finished_ns: Floats, state: Flags, log: Ids, marks: Ints, ending: int) -> None:
    state[segment] = ending
    finished_ns[segment] = now
    log[marks[FINISHED]] = segment
    marks[FINISHED] += 1
    marks[USED_SLOTS] -= 1


@kernel
def _release(
    segment: int, clock: Floats, marks: Ints, state: Flags, released_ns: Floats, following: Ids, finished_ns: Floats,
    log: Ids, sink_ring: Ids, bytes_out: Floats, setting: Floats, drop: bool,
) -> None:  # fmt: skip
    """A segment's turn in its order line has come: it goes to the sink, and so do done ones behind it."""
    now = clock[NOW]
    first = True
    while segment >= 0:
        released_ns[segment] = now
        if first and drop:
            marks[SHED] += 1
            _over(segment, now, finished_ns, state, log, marks, DROPPED)
        elif setting[SINK_NS_PER_BYTE] <= 0.0:
            _over(segment, now, finished_ns, state, log, marks, OVER)
        else:
            state[segment] = RELEASED
            if marks[SINK_COUNT] == 0:
                clock[SINK_BUSY_UNTIL] = now + bytes_out[segment] * setting[SINK_NS_PER_BYTE]
            sink_ring[(marks[SINK_HEAD] + marks[SINK_COUNT]) % len(sink_ring)] = segment
            marks[SINK_COUNT] += 1
        first = False
        segment = following[segment]
        while segment >= 0 and state[segment] == DROPPED:
            segment = following[segment]
        if segment >= 0 and state[segment] != DONE:
            return


@kernel
def _may_release(segment: int, before: Ids, state: Flags, setting: Floats) -> bool:
    if setting[ORDERED] == 0.0:
        return True
    previous = before[segment]
    while previous >= 0 and state[previous] == DROPPED:
        previous = before[previous]
    return bool(previous < 0 or state[previous] >= RELEASED)


@kernel
def advance(
    until: float, price: float, default: int, clock: Floats, marks: Ints, setting: Floats, speed_up: Floats,
    arrival: Floats, length: Floats, traffic: Ids, work: Floats, ratio: Floats, predicted: Floats,
    predicted_ratio: Floats, before: Ids, following: Ids, state: Flags, lane_of: Ids, variant: Ids,
    bytes_out: Floats, admitted_ns: Floats, done_ns: Floats, released_ns: Floats,
    finished_ns: Floats, log: Ids, rings: Ids, sink_ring: Ids, lane_ints: Ints, cuts: Floats, worker_ints: Ints,
    worker_floats: Floats, buffers: Ids, by_busy: Floats, lane_useful: Floats, lane_busy: Floats,
) -> None:  # fmt: skip
    """Run the plant until the time ``until``."""
    total = len(arrival)
    while True:
        lanes, workers = marks[LANES], marks[WORKERS]
        busy = share_cores(worker_ints, worker_floats, workers, speed_up)
        moment, event, who = until, 0, -1
        for worker in range(workers):
            if worker_ints[W_SEGMENT, worker] >= 0 and worker_floats[RATE, worker] > 0.0:
                end = clock[NOW] + worker_floats[REMAINING, worker] / worker_floats[RATE, worker]
                if end < moment:
                    moment, event, who = end, 1, worker
        if marks[SINK_COUNT] > 0 and clock[SINK_BUSY_UNTIL] < moment:
            moment, event = clock[SINK_BUSY_UNTIL], 2
        coming = marks[ADMITTED]
        if coming < total:
            open_slots = setting[INTAKE_SLOTS] if setting[CAN_WAIT] > 0 else setting[SLOTS]
            if marks[USED_SLOTS] < open_slots or setting[CAN_WAIT] == 0.0:
                when = max(arrival[coming], clock[NOW])
                if when < moment:
                    moment, event = when, 3
        passed = max(moment - clock[NOW], 0.0)
        waiting = 0
        for lane in range(lanes):
            waiting += lane_ints[COUNT, lane]
        place = min(busy, by_busy.shape[1] - 1)
        by_busy[0, place] += passed
        for worker in range(workers):
            rate = worker_floats[RATE, worker]
            if worker_ints[W_SEGMENT, worker] >= 0:
                worker_floats[REMAINING, worker] -= rate * passed
                useful = rate * passed * worker_floats[USEFUL, worker]
                by_busy[1, place] += useful
                lane_useful[max(worker_ints[W_LANE, worker], 0)] += useful
                lane_busy[max(worker_ints[W_LANE, worker], 0)] += passed
        clock[NOW] = moment
        if event == 0:
            return
        if event == 1:
            segment = worker_ints[W_SEGMENT, who]
            worker_ints[W_SEGMENT, who] = -1
            state[segment] = DONE
            done_ns[segment] = moment
            if _may_release(segment, before, state, setting):
                _release(segment, clock, marks, state, released_ns, following, finished_ns, log, sink_ring,
                         bytes_out, setting, False)  # fmt: skip
            if worker_ints[W_COUNT, who] > 0:
                take_next(who, worker_ints, worker_floats, buffers, work, variant, setting)
            lane = worker_ints[W_LANE, who]
            if lane >= 0:
                pump(lane, rings, lane_ints, worker_ints, worker_floats, buffers, state, work, variant, setting,
                     workers)  # fmt: skip
        elif event == 2:
            segment = sink_ring[marks[SINK_HEAD]]
            marks[SINK_HEAD] = (marks[SINK_HEAD] + 1) % len(sink_ring)
            marks[SINK_COUNT] -= 1
            _over(segment, moment, finished_ns, state, log, marks, OVER)
            if marks[SINK_COUNT] > 0:
                following_one = sink_ring[marks[SINK_HEAD]]
                clock[SINK_BUSY_UNTIL] = moment + bytes_out[following_one] * setting[SINK_NS_PER_BYTE]
        else:
            marks[ADMITTED] += 1
            chosen = choose_variant(coming, price, default, length[coming], predicted, predicted_ratio)
            variant[coming] = chosen
            bytes_out[coming] = ratio[coming, chosen] * length[coming]
            admitted_ns[coming] = moment
            lane = route(coming, traffic[coming], predicted[coming, chosen], lane_ints, cuts, lanes)
            lane_of[coming] = lane
            marks[USED_SLOTS] += 1
            state[coming] = WAITING
            if marks[USED_SLOTS] > setting[SLOTS]:
                worst = -1
                for candidate in range(lanes):
                    if lane_ints[COUNT, candidate] > 0 and (
                        worst < 0 or lane_ints[URGENCY, candidate] > lane_ints[URGENCY, worst]
                    ):
                        worst = candidate
                victim = _pop(rings, lane_ints, worst) if worst >= 0 else coming
                if _may_release(victim, before, state, setting):
                    _release(victim, clock, marks, state, released_ns, following, finished_ns, log, sink_ring,
                             bytes_out, setting, True)  # fmt: skip
                else:
                    marks[SHED] += 1
                    _over(victim, moment, finished_ns, state, log, marks, DROPPED)
                if victim == coming:
                    continue
            _push(rings, lane_ints, lane, coming)
            pump(lane, rings, lane_ints, worker_ints, worker_floats, buffers, state, work, variant, setting, workers)
