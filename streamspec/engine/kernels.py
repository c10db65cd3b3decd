"""Compiled bookkeeping over header rows, a batch of slots at a time.

All functions take ``headers`` (``HEADER`` rows, shape ``(slots,)``) and ``int32`` slot numbers. They run
in the dispatcher only; the worker's columns are read after its completion message has arrived, which
orders the memory accesses.
"""

from __future__ import annotations

import numpy as np

from streamspec.core.interfaces import Bytes, Counts, Rows, Slots
from streamspec.core.jit import kernel
from streamspec.core.outcome import DEAD_LETTERED, DELIVERED
from streamspec.core.outcome import SHED as ENDING_SHED
from streamspec.core.segment import DONE, ERROR_KINDS, FAILED, MAX_STAGES, OPEN, QUEUED, RUNNING, SENT, SHED

STAGE_ERROR = ERROR_KINDS.index("stage_error")
NOBODY = -1
"""End of a linked list of slots."""

# Columns of the accounts vector, int64.
(
    RECEIVED_SEGMENTS,
    RECEIVED_BYTES,
    RECEIVED_PACKETS,
    DELIVERED_SEGMENTS,
    DELIVERED_BYTES,
    DEAD_SEGMENTS,
    SHED_SEGMENTS,
    RETRIES,
    ACCOUNTS,
) = range(9)

HISTOGRAM_SUB_BITS = 4
HISTOGRAM_BUCKETS = 64 << HISTOGRAM_SUB_BITS
"""Logarithmic buckets: 16 in each power of two of nanoseconds, so a percentile is within 6 %."""


@kernel
def bucket_of(value: int) -> int:
    """Histogram bucket of a non-negative number of nanoseconds."""
    if value < (1 << HISTOGRAM_SUB_BITS):
        return max(value, 0)
    bits = 0
    rest = value
    while rest >= (2 << HISTOGRAM_SUB_BITS):
        rest >>= 1
        bits += 1
    return ((bits + 1) << HISTOGRAM_SUB_BITS) + rest - (1 << HISTOGRAM_SUB_BITS)


# -- order lines ------------------------------------------------------------------------------
@kernel
def commit(
    headers: Rows,
    slots: Slots,
    source: int,
    first_id: int,
    now_ns: int,
    ordered: bool,
    lines: Slots,
    links: Slots,
    accounts: Counts,
) -> None:
    """Number the segments, stamp them, and append each to the order line of its key.

    ``lines`` is ``int32 (n, 2)``: first and last slot of each line, n a power of two; ``links`` is
    ``int32 (slots, 2)``: previous and next in line.
    """
    mask = np.uint64(lines.shape[0] - 1)
    accounts[RECEIVED_SEGMENTS] += slots.shape[0]
    for i in range(slots.shape[0]):
        slot = slots[i]
        row = headers[slot]
        row.segment_id = first_id + i
        row.source = source
        row.queued_ns = now_ns
        row.state = QUEUED
        accounts[RECEIVED_BYTES] += row.length
        accounts[RECEIVED_PACKETS] += row.packets
        links[slot, 0] = NOBODY
        links[slot, 1] = NOBODY
        if ordered:
            line = np.int64(row.key_hash & mask)
            last = lines[line, 1]
            if last == NOBODY:
                lines[line, 0] = slot
            else:
                links[last, 1] = slot
                links[slot, 0] = last
            lines[line, 1] = slot


@kernel
def unlink(headers: Rows, slot: int, lines: Slots, links: Slots) -> int:
    """Take one slot out of its order line; returns the slot that is first in line afterwards."""
    line = np.int64(headers[slot].key_hash & np.uint64(lines.shape[0] - 1))
    before, after = links[slot, 0], links[slot, 1]
    if before == NOBODY:
        lines[line, 0] = after
    else:
        links[before, 1] = after
    if after == NOBODY:
        lines[line, 1] = before
    else:
        links[after, 0] = before
    return int(lines[line, 0])


@kernel
def release_line(headers: Rows, first: int, lines: Slots, links: Slots, out: Slots, count: int) -> int:
    """Move finished slots from the head of ``first``'s line to ``out[count:]``; returns the new count."""
    slot = first
    line = np.int64(headers[first].key_hash & np.uint64(lines.shape[0] - 1))
    while slot != NOBODY:
        row = headers[slot]
        if row.holder != 0 or (row.state != DONE and row.state != FAILED):
            break
        out[count] = slot
        count += 1
        slot = links[slot, 1]
    lines[line, 0] = slot
    if slot == NOBODY:
        lines[line, 1] = NOBODY
    else:
        links[slot, 0] = NOBODY
    return count


@kernel
def complete(
    headers: Rows, slots: Slots, retries: int, ordered: bool, lines: Slots, links: Slots, ready: Slots, again: Slots
) -> tuple[int, int]:
    """Take in slots whose worker reported DONE or FAILED.

    Fills ``ready`` with slots that may be delivered now, in order, and ``again`` with those to try once
    more; returns both counts. ``ready`` must have room for every slot of the arena.
    """
    ready_count = 0
    again_count = 0
    for i in range(slots.shape[0]):
        slot = slots[i]
        row = headers[slot]
        row.holder = 0
        if row.state == FAILED and row.error_kind == STAGE_ERROR and row.attempts < retries:
            row.attempts += 1
            row.state = QUEUED
            again[again_count] = slot
            again_count += 1
            continue
        if not ordered:
            ready[ready_count] = slot
            ready_count += 1
            continue
        line = np.int64(row.key_hash & np.uint64(lines.shape[0] - 1))
        if lines[line, 0] == slot:
            ready_count = release_line(headers, slot, lines, links, ready, ready_count)
    return ready_count, again_count


@kernel
def prepare(headers: Rows, slots: Slots) -> None:
    """Empty the dispatcher's columns of freshly acquired slots and open them."""
    for i in range(slots.shape[0]):
        row = headers[slots[i]]
        row.state = OPEN
        row.token = 0
        row.key_hash = 0
        row.timestamp_ns = 0
        row.length = 0
        row.packets = 0
        row.content = 0
        row.link_type = 0
        row.key_bytes = 0
        row.meta_bytes = 0
        row.attempts = 0
        row.deaths = 0
        row.spilled = 0
        row.error_kind = 0
        row.pending = 0
        row.holder = 0
        row.error_bytes = 0
        row.delta_bytes = 0
        row.records_bytes = 0
        for stage in range(MAX_STAGES):
            row.variant[stage] = -1


# -- lane queues ------------------------------------------------------------------------------
@kernel
def push(ring: Slots, marks: Counts, headers: Rows, slots: Slots, lane: int) -> None:
    """Append those slots whose column ``lane`` is ``lane``. ``marks`` is ``int64 (2,)``: head, count;
    the ring's length is a power of two not below the number of slots, so it cannot overflow."""
    mask = ring.shape[0] - 1
    for i in range(slots.shape[0]):
        slot = slots[i]
        if headers[slot].lane == lane:
            ring[(marks[0] + marks[1]) & mask] = slot
            marks[1] += 1


@kernel
def push_front(ring: Slots, marks: Counts, headers: Rows, slots: Slots, lane: int) -> None:
    """As :func:`push`, but before all others, keeping their order; for what is tried again."""
    mask = ring.shape[0] - 1
    for i in range(slots.shape[0] - 1, -1, -1):
        slot = slots[i]
        if headers[slot].lane == lane:
            marks[0] = (marks[0] - 1) & mask
            ring[marks[0]] = slot
            marks[1] += 1


@kernel
def pop(ring: Slots, marks: Counts, headers: Rows, limit: int, worker: int, now_ns: int, out: Slots) -> int:
    """Take up to ``limit`` slots from the front for ``worker`` and mark them SENT; returns how many."""
    mask = ring.shape[0] - 1
    count = min(limit, int(marks[1]))
    for i in range(count):
        slot = ring[(marks[0] + i) & mask]
        row = headers[slot]
        row.state = SENT
        row.holder = worker
        row.sent_ns = now_ns
        row.started_ns = now_ns  # never stale when the worker's RUNNING is seen before its own time
        out[i] = slot
    marks[0] = (marks[0] + count) & mask
    marks[1] -= count
    return count


@kernel
def shed_oldest(ring: Slots, marks: Counts, headers: Rows, may_shed: Bytes) -> int:
    """Remove the oldest queued slot whose source may be shed (``may_shed[source]``); NOBODY if none."""
    mask = ring.shape[0] - 1
    for i in range(marks[1]):
        slot = ring[(marks[0] + i) & mask]
        if may_shed[headers[slot].source]:
            for j in range(i, 0, -1):
                ring[(marks[0] + j) & mask] = ring[(marks[0] + j - 1) & mask]
            marks[0] = (marks[0] + 1) & mask
            marks[1] -= 1
            headers[slot].state = SHED
            return int(slot)
    return NOBODY


# -- routing ----------------------------------------------------------------------------------
LANE_RULE = np.dtype(
    [
        ("lane", "<i4"),
        ("content", "<i4"),  # -1 = both
        ("min_bytes", "<i8"),
        ("max_bytes", "<i8"),
        ("max_work_ns", "<f8"),  # predicted, inclusive
        ("any_source", "u1"),
        ("any_type", "u1"),
        ("has_keys", "u1"),  # decided in Python: the rule's column of ``key_matches`` counts
        ("reserved", "u1", (5,)),
    ],
    align=True,
)


@kernel
def route(
    headers: Rows,
    slots: Slots,
    rules: Rows,
    sources: Bytes,
    types: Bytes,
    key_matches: Bytes,
    looks: Rows,
) -> None:
    """Write the column ``lane`` by the first rule that fits. ``sources`` is ``uint8 (rules, sources)``, ``types``
    ``uint8 (rules, types)``, ``key_matches`` ``uint8 (rules, slots given)``, each 1 where the rule accepts;
    ``looks`` by slot."""
    for i in range(slots.shape[0]):
        row = headers[slots[i]]
        for r in range(rules.shape[0]):
            rule = rules[r]
            if rule.content >= 0 and rule.content != row.content:
                continue
            if row.length < rule.min_bytes or row.length > rule.max_bytes:
                continue
            if looks[slots[i]].expected_ns > rule.max_work_ns:
                continue
            if not rule.any_source and not sources[r, row.source]:
                continue
            if not rule.any_type and not types[r, looks[slots[i]].type_code]:
                continue
            if rule.has_keys and not key_matches[r, i]:
                continue
            row.lane = rule.lane
            break


# -- workers ----------------------------------------------------------------------------------
@kernel
def held_by(headers: Rows, worker: int, out: Slots) -> int:
    """Slots that ``worker`` holds, in order of segment; returns how many."""
    count = 0
    for slot in range(headers.shape[0]):
        if headers[slot].holder == worker:
            out[count] = slot
            count += 1
    for i in range(1, count):
        slot = out[i]
        j = i - 1
        while j >= 0 and headers[out[j]].segment_id > headers[slot].segment_id:
            out[j + 1] = out[j]
            j -= 1
        out[j + 1] = slot
    return count


@kernel
def overdue(headers: Rows, started_before_ns: int, out: Slots) -> int:
    """Slots that a worker has been running since before that time; returns how many."""
    count = 0
    for slot in range(headers.shape[0]):
        row = headers[slot]
        if row.holder != 0 and row.state == RUNNING and row.started_ns < started_before_ns:
            out[count] = slot
            count += 1
    return count


# -- endings ----------------------------------------------------------------------------------
@kernel
def part(headers: Rows, slots: Slots, sinks: int, now_ns: int, good: Slots, failed: Slots) -> tuple[int, int, int]:
    """Part deliverable slots into results and failures, and note when they were released and how many sinks each
    waits for. Returns both counts and the number of results that carry deltas."""
    good_count = 0
    failed_count = 0
    deltas = 0
    for i in range(slots.shape[0]):
        row = headers[slots[i]]
        row.released_ns = now_ns
        if row.state == FAILED:
            row.pending = 1
            failed[failed_count] = slots[i]
            failed_count += 1
        else:
            row.pending = sinks
            good[good_count] = slots[i]
            good_count += 1
            if row.delta_bytes > 0:
                deltas += 1
    return good_count, failed_count, deltas


@kernel
def sink_backlog(headers: Rows, now_ns: int) -> tuple[int, int]:
    """Finished segments that sinks have not taken, and for how many nanoseconds the first of them has waited."""
    count = 0
    oldest_ns = now_ns
    for slot in range(headers.shape[0]):
        row = headers[slot]
        if row.pending > 0 and row.holder == 0 and (row.state == DONE or row.state == FAILED):
            count += 1
            oldest_ns = min(oldest_ns, row.released_ns)
    return count, now_ns - oldest_ns


@kernel
def drop_pending(headers: Rows, slots: Slots, out: Slots) -> int:
    """One sink has these; fills ``out`` with those that no sink waits for any more."""
    count = 0
    for i in range(slots.shape[0]):
        row = headers[slots[i]]
        row.pending -= 1
        if row.pending == 0:
            out[count] = slots[i]
            count += 1
    return count


@kernel
def finish(
    headers: Rows,
    slots: Slots,
    now_ns: int,
    allocations: Counts,
    outcomes: Rows,
    histograms: Counts,
    accounts: Counts,
) -> None:
    """Write one outcome per slot and add it to the accounts and to its lane's latency histograms.

    ``allocations`` is ``int64 (lanes, 3)``: workers, nice, batch; ``histograms`` ``int64 (lanes, 2, buckets)``:
    latency, wait; ``accounts`` ``int64 (ACCOUNTS,)``; ``outcomes`` at least as many rows as slots.
    """
    for i in range(slots.shape[0]):
        row = headers[slots[i]]
        out = outcomes[i]
        out.segment_id = row.segment_id
        out.key_hash = row.key_hash
        out.source = row.source
        out.lane = row.lane
        out.attempts = row.attempts
        out.error_kind = row.error_kind
        out.workers = allocations[row.lane, 0]
        out.nice = allocations[row.lane, 1]
        out.batch = allocations[row.lane, 2]
        out.packets = row.packets
        out.length = row.length
        out.arrival_ns = row.arrival_ns
        out.latency_ns = now_ns - row.arrival_ns
        out.worker = 0
        out.bytes_out = 0
        out.payload_bytes_out = 0
        out.wait_ns = 0
        out.service_ns = 0
        out.order_ns = 0
        out.sink_ns = 0
        for stage in range(MAX_STAGES):
            out.variant[stage] = row.variant[stage]
        if row.state == SHED:
            out.ending = ENDING_SHED
            accounts[SHED_SEGMENTS] += 1
            for stage in range(MAX_STAGES):
                out.useful_ns[stage] = 0
            continue
        out.worker = row.worker
        out.wait_ns = row.started_ns - row.arrival_ns
        out.service_ns = row.finished_ns - row.started_ns
        out.order_ns = max(row.released_ns - row.finished_ns, 0)
        out.sink_ns = now_ns - row.released_ns
        for stage in range(MAX_STAGES):
            out.useful_ns[stage] = row.useful_ns[stage]
        if row.state == FAILED:
            out.ending = DEAD_LETTERED
            accounts[DEAD_SEGMENTS] += 1
            continue
        out.ending = DELIVERED
        out.bytes_out = row.payload_bytes + row.records_bytes
        out.payload_bytes_out = row.payload_bytes
        accounts[DELIVERED_SEGMENTS] += 1
        accounts[DELIVERED_BYTES] += row.payload_bytes + row.records_bytes
        histograms[row.lane, 0, bucket_of(out.latency_ns)] += 1
        histograms[row.lane, 1, bucket_of(max(out.wait_ns, 0))] += 1


@kernel
def keep_recent(ring: Rows, written: int, rows: Rows) -> None:
    """Copy ``rows`` into a ring into which ``written`` rows have gone before."""
    for i in range(rows.shape[0]):
        ring[(written + i) % ring.shape[0]] = rows[i]
