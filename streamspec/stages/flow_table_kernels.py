"""The reducer's kernels of ``meter``: a flow table in flat arrays.

Rows of flows stay where they are; an open-addressing index (linear probing, ``hash << 32 | row + 1``, 0 is
empty) leads to them, and two doubly linked lists keep them in order of their last packet: flows that are
alive, and flows that have ended and wait for stragglers. Whatever is due stands at the head of a list, so
expiry never looks at a row that stays, and the longest idle flow is known at any time.

The index hashes keys with a secret, because whoever chooses addresses and ports could otherwise send all
flows into one chain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Rows
from streamspec.core.jit import inlined_kernel, lean_kernel
from streamspec.stages.flow_rows import (
    ACTIVE_TIMEOUT,
    END_OF_FLOW,
    FORCED_END,
    IDLE_TIMEOUT,
    LACK_OF_RESOURCES,
    NEVER_FIRST,
    NEVER_LAST,
    TCP_FIN,
    TCP_RST,
)
from streamspec.stages.link_kernels import int64

Links = npt.NDArray[np.uint32]
Index = npt.NDArray[np.uint64]
State = npt.NDArray[np.int64]

# Columns of the state, one ``int64`` each
NOW_NS, BEHIND, LIVE, FREE, UNUSED, CLOSED, IDLE_NS, ACTIVE_NS, LINGER_NS, SEED = range(10)
"""Stream time; merges in a row that lay far behind it; flows in the table; freed rows on the stack; rows
never used yet; rows written to ``closed``; the three timeouts; secret of the hash."""
STATE_COLUMNS = 10

BEFORE, AFTER = 0, 1
ALIVE_LIST, ENDED_LIST = 0, 1
"""List heads: the rows of ``links`` after those of the flows."""

BEHIND_LIMIT = 256
"""So many merges in a row far behind the stream time mean that the time itself was wrong, such as one
packet from the far future, or a capture that is older than the one before it."""

_MIX = np.uint64(0x9E3779B97F4A7C15)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_EMPTY = np.uint64(0)


@lean_kernel
def merge(deltas: Rows, flows: Rows, links: Links, free: Links, index: Index, state: State, closed: Rows) -> int:
    """Add deltas to the table, advance stream time, and close what is due.

    Args:
        deltas: ``DELTA`` rows; the deltas of a flow in order of time.
        flows: ``FLOW`` rows, the table.
        links: ``uint32``, shape ``(len(flows) + 2, 2)``: neighbours in the lists.
        free: stack of freed rows, ``uint32``, ``links``-typed, shape ``(len(flows), 1)``.
        index: ``uint64``, a power of two of at least twice the flows it will hold.
        state: see the columns above.
        closed: ``FLOW`` rows to append to, from ``state[CLOSED]`` on; room for ``2 * len(deltas)``.

    Returns:
        Rows now in ``closed``. When that is all of them, call :func:`expire` with a fresh array.
    """
    latest_ns = NEVER_LAST
    for i in range(len(deltas)):
        delta = deltas[i]
        latest_ns = max(latest_ns, int64(delta["last_ns"][0]), int64(delta["last_ns"][1]))
    began_ns = int64(state[NOW_NS])
    if len(deltas):
        _advance(flows, links, state, latest_ns)
    for i in range(len(deltas)):
        delta = deltas[i]
        hashed = _hash(delta, np.uint64(state[SEED]))
        position, row = _find(index, flows, delta, hashed)
        if row < 0:
            if state[LIVE] == len(flows):
                _evict(flows, links, free, index, state, closed)
                position, row = _find(index, flows, delta, hashed)
            row = _create(flows, links, free, state, delta)
            index[position] = (hashed << _32) | np.uint64(row + 1)
        elif _precedes(flows[row], delta, state):
            _close_in_place(flows, links, state, closed, row, delta)
        _add(flows[row], delta)
        last_ns = max(int64(delta["last_ns"][0]), int64(delta["last_ns"][1]))
        _touch(flows, links, row, max(min(began_ns, int64(state[NOW_NS])), last_ns))
    return expire(flows, links, free, index, state, closed)


@lean_kernel
def expire(flows: Rows, links: Links, free: Links, index: Index, state: State, closed: Rows) -> int:
    """Close idle and ended flows as long as ``closed`` has room; returns the rows in it."""
    for which in range(2):
        head = len(flows) + which
        timeout_ns = state[LINGER_NS] if which == ENDED_LIST else state[IDLE_NS]
        reason = END_OF_FLOW if which == ENDED_LIST else IDLE_TIMEOUT
        while state[CLOSED] < len(closed):
            row = int64(links[head, AFTER])
            if row == head or state[NOW_NS] - flows[row]["touched_ns"] <= timeout_ns:
                break
            _remove(flows, links, free, index, state, closed, row, reason)
    return int64(state[CLOSED])


@lean_kernel
def close_all(flows: Rows, links: Links, free: Links, index: Index, state: State, closed: Rows) -> int:
    """Close everything as long as ``closed`` has room; returns the rows in it."""
    for which in range(2):
        head = len(flows) + which
        reason = END_OF_FLOW if which == ENDED_LIST else FORCED_END
        while state[CLOSED] < len(closed):
            row = int64(links[head, AFTER])
            if row == head:
                break
            _remove(flows, links, free, index, state, closed, row, reason)
    return int64(state[CLOSED])


@lean_kernel
def reindex(old: Index, new: Index) -> None:
    """Move all entries of an index into a larger, empty one."""
    mask = len(new) - 1
    for i in range(len(old)):
        entry = old[i]
        if entry != _EMPTY:
            position = int64(entry >> _32) & mask
            while new[position] != _EMPTY:
                position = (position + 1) & mask
            new[position] = entry


# -- time --------------------------------------------------------------------------------------
@lean_kernel
def _advance(flows: Rows, links: Links, state: State, latest_ns: int) -> None:
    """Stream time is the latest time seen; it goes back only when everything has lain far behind it."""
    if latest_ns >= state[NOW_NS]:
        state[NOW_NS] = latest_ns
        state[BEHIND] = 0
        return
    if state[NOW_NS] - latest_ns <= state[ACTIVE_NS]:
        state[BEHIND] = 0
        return
    state[BEHIND] += 1
    if state[BEHIND] < BEHIND_LIMIT:
        return
    state[BEHIND] = 0
    state[NOW_NS] = latest_ns
    for which in range(2):
        head = len(flows) + which
        row = int64(links[head, AFTER])
        while row != head:
            flows[row]["touched_ns"] = min(int64(flows[row]["touched_ns"]), latest_ns)
            row = int64(links[row, AFTER])


@inlined_kernel
def _precedes(flow: Any, delta: Any, state: State) -> int:
    """Why the flow's record must be closed before the delta is added: a flowEndReason, or 0.

    A record never covers more than the active timeout, since no delta does. Times that differ by more
    than the idle timeout in either direction are two flows: that a clock went back by as much is no
    reason to add up what lies so far apart.
    """
    if flow["ended"] and delta["opening"]:
        return END_OF_FLOW
    first_ns = min(int64(flow["first_ns"][0]), int64(flow["first_ns"][1]))
    last_ns = max(int64(flow["last_ns"][0]), int64(flow["last_ns"][1]))
    delta_first_ns = min(int64(delta["first_ns"][0]), int64(delta["first_ns"][1]))
    delta_last_ns = max(int64(delta["last_ns"][0]), int64(delta["last_ns"][1]))
    if delta_first_ns - last_ns > state[IDLE_NS] or first_ns - delta_last_ns > state[IDLE_NS]:
        return END_OF_FLOW if flow["ended"] else IDLE_TIMEOUT
    if max(last_ns, delta_last_ns) - min(first_ns, delta_first_ns) > state[ACTIVE_NS]:
        return ACTIVE_TIMEOUT
    return 0


# -- rows --------------------------------------------------------------------------------------
@lean_kernel
def _create(flows: Rows, links: Links, free: Links, state: State, delta: Any) -> int:
    """A row for a new flow, at the end of the list of the living."""
    if state[FREE]:
        state[FREE] -= 1
        row = int64(free[state[FREE], 0])
    else:
        row = int64(state[UNUSED])
        state[UNUSED] += 1
    state[LIVE] += 1
    flow = flows[row]
    flow["a_head"] = delta["a_head"]
    flow["a_tail"] = delta["a_tail"]
    flow["b_head"] = delta["b_head"]
    flow["b_tail"] = delta["b_tail"]
    flow["transport"] = delta["transport"]
    flow["continued"] = 0
    _reset(flow)
    _append(links, row, len(flows) + ALIVE_LIST)
    return row


@inlined_kernel
def _reset(flow: Any) -> None:
    flow["ended"] = 0
    flow["icmp_type_code"] = 0
    flow["vlan"] = 0
    for side in range(2):
        flow["octets"][side] = 0
        flow["packets"][side] = 0
        flow["tcp_flags"][side] = 0
        flow["first_ns"][side] = NEVER_FIRST
        flow["last_ns"][side] = NEVER_LAST


@inlined_kernel
def _add(flow: Any, delta: Any) -> None:
    """Sum, minimum, maximum and union commute, so that the order in which workers finish does not matter;
    the initiator is who sent the earliest packet (of equal times, the one merged first)."""
    first_ns = min(int64(flow["first_ns"][0]), int64(flow["first_ns"][1]))
    delta_first_ns = min(int64(delta["first_ns"][0]), int64(delta["first_ns"][1]))
    if delta_first_ns < first_ns:
        if not flow["continued"]:
            flow["initiator"] = delta["initiator"]
        flow["icmp_type_code"] = delta["icmp_type_code"]
        flow["vlan"] = delta["vlan"]
    for side in range(2):
        flow["octets"][side] += delta["octets"][side]
        flow["packets"][side] += np.uint64(delta["packets"][side])
        flow["tcp_flags"][side] |= delta["tcp_flags"][side]
        flow["first_ns"][side] = min(int64(flow["first_ns"][side]), int64(delta["first_ns"][side]))
        flow["last_ns"][side] = max(int64(flow["last_ns"][side]), int64(delta["last_ns"][side]))


@inlined_kernel
def _touch(flows: Rows, links: Links, row: int, touched_ns: int) -> None:
    """To the end of the list of the living, or of the ended once either side reset or both finished.

    The time is that of the flow's last packet, but no earlier than stream time before this merge: packets
    that come late, or of a clock that is behind, keep their flow alive all the same. So lists are in order of
    time but for the flows of one merge; a flow may be closed late by what one segment spans.
    """
    flow = flows[row]
    flow["touched_ns"] = touched_ns
    flags = flow["tcp_flags"]
    if (flags[0] | flags[1]) & TCP_RST or flags[0] & flags[1] & TCP_FIN:
        flow["ended"] = 1
    head = len(flows) + (ENDED_LIST if flow["ended"] else ALIVE_LIST)
    if int64(links[row, AFTER]) != head:
        _unlink(links, row)
        _append(links, row, head)


@lean_kernel
def _close_in_place(flows: Rows, links: Links, state: State, closed: Rows, row: int, delta: Any) -> None:
    """Write the record and begin the next one of the same key."""
    flow = flows[row]
    reason = _precedes(flow, delta, state)
    _write_closed(closed, state, flow, reason)
    flow["continued"] = reason == ACTIVE_TIMEOUT
    _reset(flow)


@inlined_kernel
def _write_closed(closed: Rows, state: State, flow: Any, reason: int) -> None:
    at = state[CLOSED]
    closed[at] = flow
    closed[at]["reason"] = reason
    state[CLOSED] = at + 1


@lean_kernel
def _evict(flows: Rows, links: Links, free: Links, index: Index, state: State, closed: Rows) -> None:
    """Make room: an ended flow if there is one, else the longest idle."""
    row = int64(links[len(flows) + ENDED_LIST, AFTER])
    reason = END_OF_FLOW
    if row >= len(flows):
        row = int64(links[len(flows) + ALIVE_LIST, AFTER])
        reason = LACK_OF_RESOURCES
    _remove(flows, links, free, index, state, closed, row, reason)


@lean_kernel
def _remove(
    flows: Rows, links: Links, free: Links, index: Index, state: State, closed: Rows, row: int, reason: int
) -> None:
    flow = flows[row]
    _write_closed(closed, state, flow, reason)
    _unindex(index, row, _hash(flow, np.uint64(state[SEED])))
    _unlink(links, row)
    free[state[FREE], 0] = row
    state[FREE] += 1
    state[LIVE] -= 1


# -- lists -------------------------------------------------------------------------------------
@inlined_kernel
def _append(links: Links, row: int, head: int) -> None:
    last = int64(links[head, BEFORE])
    links[last, AFTER] = row
    links[row, BEFORE] = last
    links[row, AFTER] = head
    links[head, BEFORE] = row


@inlined_kernel
def _unlink(links: Links, row: int) -> None:
    before = int64(links[row, BEFORE])
    after = int64(links[row, AFTER])
    links[before, AFTER] = after
    links[after, BEFORE] = before


# -- index -------------------------------------------------------------------------------------
@inlined_kernel
def _hash(keyed: Any, seed: np.uint64) -> np.uint64:
    """32 bits (in 64) of the key columns of a ``DELTA`` or ``FLOW``."""
    mixed = (seed ^ keyed["a_tail"]) * _MIX
    mixed = ((mixed ^ (mixed >> _32)) ^ keyed["b_tail"]) * _MIX
    mixed = ((mixed ^ (mixed >> _32)) ^ keyed["transport"]) * _MIX
    if keyed["ip_version"] == 6:
        mixed = ((mixed ^ (mixed >> _32)) ^ keyed["a_head"]) * _MIX
        mixed = ((mixed ^ (mixed >> _32)) ^ keyed["b_head"]) * _MIX
    return np.uint64(mixed >> _32)


@inlined_kernel
def _find(index: Index, flows: Rows, delta: Any, hashed: np.uint64) -> tuple[int, int]:
    """``(position in the index, row)``; row -1 and the position of an empty entry when it is new."""
    mask = len(index) - 1
    position = int64(hashed) & mask
    while True:
        entry = index[position]
        if entry == _EMPTY:
            return position, -1
        if entry >> _32 == hashed:
            row = int64(entry & _LOW) - 1
            flow = flows[row]
            differs = (
                (flow["a_tail"] ^ delta["a_tail"])
                | (flow["b_tail"] ^ delta["b_tail"])
                | (flow["transport"] ^ delta["transport"])
                | (flow["a_head"] ^ delta["a_head"])
                | (flow["b_head"] ^ delta["b_head"])
            )
            if differs == 0:
                return position, row
        position = (position + 1) & mask


@lean_kernel
def _unindex(index: Index, row: int, hashed: np.uint64) -> None:
    """Empty an entry and close the gap: each entry behind it moves up unless that is before its home."""
    mask = len(index) - 1
    hole = int64(hashed) & mask
    while int64(index[hole] & _LOW) != row + 1:
        hole = (hole + 1) & mask
    position = hole
    while True:
        position = (position + 1) & mask
        entry = index[position]
        if entry == _EMPTY:
            break
        home = int64(entry >> _32) & mask
        if (position - home) & mask >= (position - hole) & mask:
            index[hole] = entry
            hole = position
    index[hole] = _EMPTY
