"""Compiled half of the ``udp`` source: datagrams of many peers into one open segment each.

``recvmmsg`` leaves a batch of datagrams in a staging area; :func:`gather` puts each into the open
segment of its peer and comes back to Python only when it needs an empty slot. A peer is in the table only
while it has an open segment, so an endless stream of new peers cannot grow it: entries are removed by
shifting back those behind (Knuth, TAOCP 3, 6.4, algorithm R), which leaves no tombstones.

All open segments linger equally long, so the list in order of opening is also the one in order of expiry.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.copying import copy_bytes
from streamspec.core.interfaces import Bytes, Rows, Slots
from streamspec.core.jit import kernel
from streamspec.core.segment import CONTENT_MESSAGES, PACKET, PACKET_TRUNCATED
from streamspec.sources.udp_socket import CONTROL_BYTES, NAME_BYTES

Words = npt.NDArray[np.int64]
Record = Any
"""One row of a structured array inside a kernel: its fields are attributes there."""

NOBODY = -1
"""End of a linked list of records, and an empty place in the table."""

RECORD = np.dtype(
    [
        ("peer0", "<i8"),  # family, port, IPv4 address or IPv6 scope
        ("peer1", "<i8"),  # IPv6 address
        ("peer2", "<i8"),
        ("base", "<i8"),  # byte offset of the slot in the arena
        ("arrival_ns", "<i8"),  # monotonic clock at opening
        ("slot", "<i4"),
        ("length", "<i4"),  # payload bytes so far
        ("packets", "<i4"),  # datagrams so far
        ("home", "<i4"),  # place in the table that its hash asks for
        ("older", "<i4"),  # neighbours in order of opening
        ("newer", "<i4"),  # next free record, when free
    ]
)
"""One open segment: one cache line."""

BOOK = np.dtype(
    [
        # fixed -----------------------------------------------------------------------------------
        ("seed", "<u8"),  # of the hash, so that nobody outside can aim at one chain
        ("segment_bytes", "<i8"),  # payload at which a segment is full
        ("segment_packets", "<i8"),  # packets at which a segment is full
        ("packets_offset", "<i8"),  # of the packet table in a slot
        ("datagram_bytes", "<i8"),  # room for a datagram in the staging area
        ("staging_stride", "<i8"),  # distance between two datagrams there
        # records ---------------------------------------------------------------------------------
        ("open", "<i8"),
        ("oldest", "<i8"),
        ("newest", "<i8"),
        ("free", "<i8"),
        # slots and datagrams of the batch --------------------------------------------------------
        ("spares", "<i8"),  # empty slots left in `spares`
        ("opened", "<i8"),  # rows used in `opened`
        ("closed", "<i8"),  # rows used in `closed`
        # counted, taken over by Python -----------------------------------------------------------
        ("remarks", "<i8"),  # changes of the numbers below
        ("homeless", "<i8"),  # datagrams dropped because no slot was free
        ("truncated", "<i8"),  # datagrams longer than their room
        ("socket_drops", "<i8"),  # SO_RXQ_OVFL of the last datagram, modulo 2**32
    ]
)
"""What the kernels keep between two calls; one row."""

PACKET_WORDS = PACKET.itemsize // 8
CMSG_SOCKET_DROPS = 1 | 40 << 32
"""SOL_SOCKET and SO_RXQ_OVFL as they lie in a control message, read as one word."""
CMSG_TIMESTAMP = 1 | 35 << 32
"""SOL_SOCKET and SCM_TIMESTAMPNS."""
CMSG_HEADER_BYTES = 16


def new_records(count: int, book: Rows) -> Rows:
    """``count`` free records, chained in ``book``."""
    records = np.zeros(count, dtype=RECORD)
    records["newer"] = np.arange(1, count + 1)
    records["newer"][-1] = NOBODY
    book["free"] = 0
    book["oldest"] = book["newest"] = NOBODY
    return records


def new_table(records: int) -> Slots:
    """An empty table that stays at most a quarter full."""
    return np.full(1 << (4 * records - 1).bit_length(), NOBODY, dtype=np.int32)


# -- table of peers ---------------------------------------------------------------------------
@kernel
def home_of(table: Slots, peer: tuple[int, int, int], seed: int) -> int:
    """Where in the table a peer (three ``int64``) belongs. Each round multiplies and folds the high half down."""
    mixed = np.uint64(seed)
    for word in peer:
        mixed = (mixed ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return int(np.int64(mixed & np.uint64(table.shape[0] - 1)))


@kernel
def find(records: Rows, table: Slots, peer: tuple[int, int, int], seed: int) -> int:
    """The record of this peer, or NOBODY."""
    mask = table.shape[0] - 1
    place = home_of(table, peer, seed)
    while table[place] != NOBODY:
        record = records[table[place]]
        if record.peer0 == peer[0] and record.peer1 == peer[1] and record.peer2 == peer[2]:
            return int(table[place])
        place = (place + 1) & mask
    return NOBODY


@kernel
def insert(records: Rows, table: Slots, index: int) -> None:
    """Enter a record at the first empty place from its home on."""
    mask = table.shape[0] - 1
    place = np.int64(records[index].home)
    while table[place] != NOBODY:
        place = (place + 1) & mask
    table[place] = index


@kernel
def remove(records: Rows, table: Slots, index: int) -> None:
    """Take a record out and close the gap, so that every other one is still found."""
    mask = table.shape[0] - 1
    gap = np.int64(records[index].home)
    while table[gap] != index:
        gap = (gap + 1) & mask
    place = gap
    while True:
        place = (place + 1) & mask
        if table[place] == NOBODY:
            break
        # One whose home lies behind the gap, cyclically, is where it belongs.
        home = np.int64(records[table[place]].home)
        if (place - home) & mask >= (place - gap) & mask:
            table[gap] = table[place]
            gap = place
    table[gap] = NOBODY


# -- open segments ----------------------------------------------------------------------------
@kernel
def close(headers: Rows, records: Rows, table: Slots, closed: Slots, book: Rows, index: int) -> None:
    """Finish the segment of a record: complete its header, list its slot in ``closed``, free the record."""
    page = book[0]
    record = records[index]
    headers[record.slot].length = record.length
    headers[record.slot].packets = record.packets
    closed[page.closed] = record.slot
    page.closed += 1
    remove(records, table, index)
    if record.older == NOBODY:
        page.oldest = record.newer
    else:
        records[record.older].newer = record.newer
    if record.newer == NOBODY:
        page.newest = record.older
    else:
        records[record.newer].older = record.older
    record.newer = page.free
    page.free = index
    page.open -= 1


@kernel
def close_until(headers: Rows, records: Rows, table: Slots, closed: Slots, book: Rows, until_ns: int) -> int:
    """Close the segments opened at or before ``until_ns`` (monotonic clock), as far as ``closed`` has room.
    Returns how many it holds then."""
    page = book[0]
    while page.open and page.closed < closed.shape[0] and records[page.oldest].arrival_ns <= until_ns:
        close(headers, records, table, closed, book, page.oldest)
    return int(page.closed)


@kernel
def open_segment(
    headers: Rows, offsets: Words, records: Rows, table: Slots, book: Rows, slot: int, peer: tuple[int, int, int]
) -> int:
    """Enter a record for a peer with an empty slot, last in order; the caller fills the times."""
    page = book[0]
    index = page.free
    record = records[index]
    page.free = record.newer
    record.peer0, record.peer1, record.peer2 = peer
    record.home = home_of(table, peer, page.seed)
    record.base = offsets[slot]
    record.slot = slot
    record.length = 0
    record.packets = 0
    record.older = page.newest
    record.newer = NOBODY
    if page.newest == NOBODY:
        page.oldest = index
    else:
        records[page.newest].newer = index
    page.newest = index
    page.open += 1
    insert(records, table, index)
    headers[slot].content = CONTENT_MESSAGES
    return int(index)


# -- datagrams --------------------------------------------------------------------------------
@kernel
def read_control(controls: Words, i: int, control_bytes: int, book: Rows, wall_ns: int) -> int:
    """Walk the control messages of datagram ``i``: note the socket's drops and return the time of arrival,
    ``wall_ns`` when the kernel gave none. ``controls`` is ``int64 (batch, CONTROL_BYTES / 8)``."""
    word = 0
    timestamp_ns = wall_ns
    while word * 8 + CMSG_HEADER_BYTES <= control_bytes:
        length = controls[i, word]
        if length < CMSG_HEADER_BYTES or length > control_bytes - word * 8:
            break
        kind = controls[i, word + 1]
        if kind == CMSG_TIMESTAMP and length >= CMSG_HEADER_BYTES + 16:
            timestamp_ns = controls[i, word + 2] * 1_000_000_000 + controls[i, word + 3]
        elif kind == CMSG_SOCKET_DROPS and length >= CMSG_HEADER_BYTES + 4:
            drops = controls[i, word + 2] & 0xFFFFFFFF
            if drops != book[0].socket_drops:
                book[0].socket_drops = drops
                book[0].remarks += 1
        word += (length + 7) >> 3
    return int(timestamp_ns)


@kernel
def append(
    memory: Bytes,
    words: Words,
    record: Record,
    packets_offset: int,
    staging: Bytes,
    start: int,
    size: int,
    wire_bytes: int,
    timestamp_ns: int,
) -> None:
    """Copy one datagram behind the others of its segment and add its ``PACKET`` row, as three words."""
    copy_bytes(memory, record.base + record.length, staging, start, size)
    row = ((record.base + packets_offset) >> 3) + record.packets * PACKET_WORDS
    words[row] = timestamp_ns
    words[row + 1] = np.int64(record.length) | np.int64(size) << 32
    words[row + 2] = np.int64(wire_bytes) | np.int64(PACKET_TRUNCATED if wire_bytes > size else 0) << 32
    record.length += size
    record.packets += 1


@kernel
def gather(
    messages: Rows,
    names: Words,
    controls: Words,
    staging: Bytes,
    memory: Bytes,
    words: Words,
    headers: Rows,
    offsets: Words,
    records: Rows,
    table: Slots,
    spares: Slots,
    opened: Slots,
    closed: Slots,
    book: Rows,
    start: int,
    end: int,
    may_drop: bool,
    now_ns: int,
    wall_ns: int,
) -> tuple[int, int, int, int, int]:
    """Put the datagrams ``start`` to ``end`` of a batch into the segments of their peers.

    Args:
        messages: ``MESSAGE`` rows as ``recvmmsg`` filled them; made ready for the next call.
        names: peer addresses, ``int64 (batch, 4)``.
        controls: control messages, ``int64 (batch, CONTROL_BYTES / 8)``.
        staging: the datagrams, ``book.staging_stride`` apart.
        memory, words: the arena as ``uint8`` and as ``int64``.
        headers, offsets: ``HEADER`` rows and byte offset of each slot.
        records, table, book: see :data:`RECORD`, :func:`new_table`, :data:`BOOK`.
        spares: empty slots, of which the last ``book.spares`` are taken from the end.
        opened: out, ``int32 (batch, 2)``: slot and datagram of each segment that was opened.
        closed: out: slots of segments that were finished, at least ``2 * batch`` long.
        may_drop: drop (and count) datagrams that need a slot when there is none.
        now_ns, wall_ns: time of the batch on the monotonic and the wall clock.

    Returns:
        The first datagram not yet handled, which needs a slot (``end`` when all are done), and from the book
        ``opened``, ``closed``, ``spares`` and ``remarks``, which cost Python more to look up than to be told.
    """
    page = book[0]
    for i in range(start, end):
        message = messages[i]
        wire_bytes = int(message.received_bytes)
        size = min(wire_bytes, page.datagram_bytes)
        peer = (names[i, 0] | names[i, 3] << 32, names[i, 1], names[i, 2])
        index = find(records, table, peer, page.seed)
        if index != NOBODY and records[index].length + size > page.segment_bytes:
            close(headers, records, table, closed, book, index)
            index = NOBODY
        if index == NOBODY and page.spares == 0 and not may_drop:
            return i, page.opened, page.closed, page.spares, page.remarks
        timestamp_ns = read_control(controls, i, int(message.control_bytes), book, wall_ns)
        message.name_bytes = NAME_BYTES
        message.control_bytes = CONTROL_BYTES
        if index == NOBODY:
            if page.spares == 0:
                page.homeless += 1
                page.remarks += 1
                continue
            if page.free == NOBODY:
                close(headers, records, table, closed, book, page.oldest)
            page.spares -= 1
            slot = spares[page.spares]
            index = open_segment(headers, offsets, records, table, book, slot, peer)
            records[index].arrival_ns = now_ns
            headers[slot].arrival_ns = now_ns
            headers[slot].timestamp_ns = timestamp_ns
            opened[page.opened, 0] = slot
            opened[page.opened, 1] = i
            page.opened += 1
        if wire_bytes > size:
            page.truncated += 1
            page.remarks += 1
        record = records[index]
        place = i * page.staging_stride
        append(memory, words, record, page.packets_offset, staging, place, size, wire_bytes, timestamp_ns)
        if record.length == page.segment_bytes or record.packets == page.segment_packets:
            close(headers, records, table, closed, book, index)
    return end, page.opened, page.closed, page.spares, page.remarks
