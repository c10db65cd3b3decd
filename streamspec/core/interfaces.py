"""All contracts in one place. Each has one to three methods; optional abilities are protocols of their own.

Who implements what: a *source* fills slots through an :class:`Intake`; a *stage* works on a
:class:`Segment` inside a worker process; a *sink* takes :class:`Delivery` batches; a *reducer* merges in
the dispatcher what stages emitted as deltas; a *policy* turns an observation into proposals and reads no
clock; an *actuator* changes the host and can put it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from streamspec.core.pacer import Pace
from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.core.segment import SlotLayout
from streamspec.core.tally import Tally

Bytes = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]


class Clock(Protocol):
    """Time as the engine sees it, passed in so that tests own it."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never run backwards."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""


# -- sources ----------------------------------------------------------------------------------
class Intake(Protocol):
    """What the engine gives a source: empty slots, and a place to hand in full ones.

    A source acquires a slot, writes payload, packet table, key and the dispatcher's header columns
    ``length, packets, timestamp_ns, arrival_ns, content, link_type, key_hash, token``, and commits it.
    ``source``, ``segment_id``, ``lane`` and ``queued_ns`` are the engine's.
    """

    layout: SlotLayout
    memory: Bytes
    """The whole mapping as ``uint8``; for kernels, with :meth:`offset`."""
    headers: Rows
    """One ``HEADER`` row per slot."""
    clock: Clock
    tally: Tally
    """For what this source could not take: ``socket_drops``, ``kernel_drops``, ``malformed_*``, ..."""

    def acquire(self) -> int:
        """An empty slot with a zeroed header in state OPEN, or -1 when there is none now (backpressure)."""

    def acquire_many(self, count: int) -> Slots:
        """Up to ``count`` slots as :meth:`acquire` gives them; fewer, or none, under backpressure."""

    def acquire_by_shedding(self) -> int:
        """As :meth:`acquire`, but for sources that cannot wait: when nothing is free, the oldest
        waiting segment of the least urgent lane, from a source that cannot wait either, is shed
        (counted). -1 when nothing may be shed."""

    def offset(self, slot: int) -> int:
        """Byte offset of the slot in :attr:`memory`; its regions follow :attr:`layout`."""

    def payload(self, slot: int) -> Bytes:
        """Writable view of the payload region, ``layout.payload_bytes`` long."""

    def packets(self, slot: int) -> Rows:
        """Writable view of the packet table, ``layout.packet_capacity`` rows of ``PACKET``."""

    def set_key(self, slot: int, key: bytes, meta: bytes = b"") -> None:
        """Store the stream key (and the source's metadata) and set ``key_hash``."""

    def commit(self, slots: Sequence[int] | Slots) -> None:
        """Hand over finished segments, in order of arrival. Never blocks."""

    def reject(self, slot: int, error: str) -> None:
        """Hand over a segment that no stage shall see, in place of :meth:`commit`: it goes to the dead letter
        in its turn, with ``error`` as the reason (counted as ``unreadable``)."""

    def release(self, slot: int) -> None:
        """Give back a slot that was acquired and not committed."""

    async def wait_for_room(self) -> None:
        """Return when :meth:`acquire` is worth trying again."""


class Source(Protocol):
    """Where segments come from. ``can_wait`` says whether reading may stop under backpressure."""

    can_wait: bool

    async def open(self, intake: Intake) -> None:
        """Bind, connect or open; raise DependencyUnavailable when that cannot be done."""

    async def run(self) -> None:
        """Read until the end of the data or until :meth:`stop`; hand in what is open, then return."""

    async def stop(self) -> None:
        """Take nothing new in; :meth:`run` returns soon. Safe to call twice."""


@runtime_checkable
class AcknowledgedSource(Protocol):
    """A source that wants to know when segments are finished (delivered, dead-lettered or shed)."""

    def acknowledge(self, tokens: npt.NDArray[np.uint64]) -> None:
        """These segments are finished; each token is passed once."""


@runtime_checkable
class ClosableSource(Protocol):
    """A source that holds something (a socket, a mapping) until its segments are finished."""

    async def close(self) -> None:
        """Let go of everything. Called once, after the last acknowledgement."""


@dataclass(frozen=True)
class OffsetCommit:
    """What a transaction commits for one consumer group: who it is, and offsets with their metadata.

    Attributes:
        group, generation, member, instance: as the group's coordinator knows the member.
        offsets: by topic and partition.
    """

    group: str
    generation: int
    member: str
    instance: str | None
    offsets: Mapping[tuple[str, int], tuple[int, str]]


@runtime_checkable
class TransactionalSource(Protocol):
    """A source whose progress can be committed by a sink, in one transaction with the results."""

    commit_lock: AbstractAsyncContextManager[None]
    """Held by whoever commits, from :meth:`commit_for` on until it is done."""

    def owned(self, token: int) -> bool:
        """Whether the segment is still ours: results of one that is not are dropped, its new owner makes them."""

    def commit_for(self, tokens: Sequence[int]) -> OffsetCommit | None:
        """What to commit if these segments were finished too; None when there is nothing to commit."""

    def committed(self, tokens: Sequence[int]) -> None:
        """What :meth:`commit_for` gave for them is committed; said before the lock is given back."""


@runtime_checkable
class TransactionalSink(Protocol):
    """A sink that may commit the progress of sources inside its own transactions."""

    def attach(self, source_named: Callable[[str], Source | None]) -> None:
        """Called once before ``open``: how to find the source that a delivery names."""


# -- stages -----------------------------------------------------------------------------------
class Segment(Protocol):
    """One segment as a stage sees it. Views are valid only during the call."""

    segment_id: int
    timestamp_ns: int
    content: int
    link_type: int
    key: bytes
    payload: memoryview
    """The present payload. A stage that transforms it assigns any bytes-like object here."""
    original: Bytes
    """The payload as it arrived; offsets in :attr:`packets` refer to it."""
    packets: Rows
    """``PACKET`` rows; empty when the segment is a single opaque payload."""
    notes: dict[str, Any]
    """What one stage leaves for the next in the same chain (``decode`` leaves ``"decoded"``)."""

    def replace_messages(self, messages: Sequence[bytes | memoryview]) -> None:
        """Exchange the payload for these, one per row of :attr:`packets`. Sinks that write messages then write each on
        its own, as long as no later stage assigns another payload; to all others the payload is one behind the other.
        Raises ValueError when they are not as many as rows."""


class StageContext(Protocol):
    """What the engine gives a stage."""

    variant: int
    """Variant chosen for this segment, -1 for the stage's default."""

    def emit(self, record_type: str, line: bytes) -> None:
        """Add one record (one JSON object, no newline) to the segment's results, or several with a newline between."""

    def delta(self, content: bytes | memoryview) -> None:
        """Pass ``content`` (bytes, or a view of them that stays as it is until the segment is done) to this stage's
        reducer in the dispatcher, exactly once and in key order."""

    def count(self, reason: str, count: int = 1) -> None:
        """Count events, e.g. ``malformed_ipv4_header``."""

    def request(
        self,
        *,
        threads: int = 0,
        cache: int | str = 0,
        gpu_memory: int | str = 0,
        bandwidth: float | str = 0,
        on_change: Callable[[Grant], None] | None = None,
    ) -> Grant | Refusal:
        """Ask for more while running: all of it or nothing, in well under a millisecond.

        ``on_change`` is called between two batches when the service changes the grant; what was taken back
        counts as used until it returns. A grant ends with :meth:`Grant.release` or with the worker::

            class Embed:
                def __init__(self) -> None:
                    self._grant: Grant | Refusal | None = None

                def process(self, segment: Segment, context: StageContext) -> None:
                    if self._grant is None:
                        self._grant = context.request(gpu_memory="2 GiB", on_change=self._fit)
                        if not self._grant:
                            context.count("without_gpu")  # and self._grant.reason says why
                    ...

                def _fit(self, grant: Grant) -> None:
                    self._pool.set_limit(grant.amounts.gpu_memory_bytes)

        Raises:
            ValueError: an amount that cannot be read or is negative.
        """


class Stage(Protocol):
    """A step of the chain, run in a worker process. One instance per worker, never called concurrently."""

    def process(self, segment: Segment, context: StageContext) -> None:
        """Work on one segment. Raising sends it to a retry, then to the dead letter."""


@runtime_checkable
class OpenableStage(Protocol):
    """A stage that prepares itself in the worker (compiles rules, loads kernels) before the first segment."""

    def open(self) -> None:
        """Raise DependencyUnavailable or ConfigError when it cannot work."""


@runtime_checkable
class ResourcefulStage(Protocol):
    """A stage that states what it wants before the first segment, and is told what it has::

        class Inspect:
            resources = ResourceRequest.of(cache="4 MiB")

            def on_resources(self, grant: Grant | Refusal) -> None:
                self._cache.resize(grant.amounts.cache_bytes if grant else 0)

    It knows no lane, core or device number: wherever its worker is placed, the same code runs.
    """

    resources: ResourceRequest
    """What it wants; read once, after ``open``."""

    def on_resources(self, grant: Grant | Refusal) -> None:
        """Called before the first segment, and with the same grant whenever it has changed."""


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """Segments that a worker was given at once, before the first of them is processed.

    Attributes:
        segment_ids: ``uint64 (n,)``.
        places: ``int64 (4, n)``: start and length of each payload as it arrived, start and rows of its packet table;
            places are bytes from the start of the memory that :meth:`BatchedStage.attach` was given.
        variants: ``int16 (n,)``: the variant that was chosen for each, -1 for the default.
    """

    segment_ids: npt.NDArray[np.uint64]
    places: Counts
    variants: npt.NDArray[np.int16]


AskGrant = Callable[[ResourceRequest, Callable[[Grant], None]], Grant | Refusal]
"""Asks the service for a grant; the second argument is told of its changes."""


@runtime_checkable
class BatchedStage(Protocol):
    """A stage that can begin work on many segments at once, on a device. It still answers each in ``process``.

    A stage that ran another variant than it was given says so: it assigns ``context.variant``.
    """

    batched: bool
    """Whether it wants batches at all; read once, after ``open``."""

    def attach(self, slots_in: SlotMemory, ask: AskGrant) -> None:
        """Called once before the first segment: the memory that all segments lie in."""

    def begin(self, batch: SegmentBatch) -> None:
        """Start what can be started; ``process`` is called for each of these afterwards, in order. Must not raise for
        what only this stage can know of: ``process`` does the work itself then."""


class Reducer(Protocol):
    """The dispatcher-side half of a stage that keeps state over all workers (the flow table)."""

    def merge(self, content: memoryview) -> None:
        """Take in one delta."""

    def collect(self, *, final: bool) -> list[tuple[str, bytes | memoryview, int]]:
        """Records that became due since the last call: ``(record_type, newline-ended lines, count)``; the lines
        are not written to any more. ``final``: the stream has ended, give everything."""


# -- sinks ------------------------------------------------------------------------------------
class Delivery(Protocol):
    """The results of one finished segment, or records of a reducer (``segment_id`` 0, no payload)."""

    @property
    def segment_id(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def key(self) -> bytes: ...
    @property
    def meta(self) -> bytes: ...
    @property
    def timestamp_ns(self) -> int: ...
    @property
    def arrival_ns(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def content(self) -> int: ...
    @property
    def link_type(self) -> int: ...
    @property
    def error(self) -> str:
        """Why it is dead-lettered; empty for results."""

    @property
    def payload(self) -> memoryview:
        """The result payload."""

    @property
    def messages(self) -> Sequence[memoryview]:
        """The result payload by row of :attr:`packets`, where a stage made it so (``Segment.replace_messages``); else
        nothing."""

    @property
    def original(self) -> memoryview:
        """The payload as it arrived."""

    @property
    def packets(self) -> Rows:
        """Packet table of the original payload."""

    @property
    def records(self) -> Sequence[tuple[str, memoryview]]:
        """``(record_type, newline-ended JSON lines)``."""


class DeliveryBatch(Protocol):
    """Finished segments in delivery order. Views are valid until ``write`` returns."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Delivery]: ...


class Sink(Protocol):
    """Where results go. When ``write`` returns, the segments are acknowledged to their source."""

    async def open(self, tally: Tally) -> None:
        """Open or connect; raise DependencyUnavailable when that cannot be done at all."""

    async def write(self, batch: DeliveryBatch) -> None:
        """Take the batch for good. May wait as long as it needs to (that is backpressure); called
        by one task at a time. Raise SinkError only when waiting cannot help."""

    async def close(self) -> None:
        """Flush and let go. Safe after a failed ``open``."""


@runtime_checkable
class LingeringSink(Protocol):
    """A sink for which a few large writes cost much less than many small ones.

    Attributes:
        linger_seconds: how long a write may wait for more segments.
    """

    linger_seconds: float


@runtime_checkable
class ShapedSink(Protocol):
    """A sink over a network whose share of the way out can change while it runs."""

    def shape(
        self, priority_class: str | None = None, bytes_per_second: float | None = None, pace: Pace | None = None
    ) -> None:
        """Class of traffic control (``5350:10``) and limit from now on; ``None``: what the configuration says.
        ``pace``: a limit shared with other sinks, to be kept beside the own one.
        Raises DependencyUnavailable when the process may not set SO_PRIORITY; then nothing has changed."""


# -- learning ---------------------------------------------------------------------------------
class SlotMemory(Protocol):
    """Where the payloads of slots lie: an arena, or an intake."""

    memory: Bytes
    layout: SlotLayout

    def offset(self, slot: int) -> int:
        """Byte offset of the slot in :attr:`memory`."""


class SegmentProfiler(Protocol):
    """Looks into segments where they lie."""

    def profile(self, slots_in: SlotMemory, headers: Rows, slots: Slots, out: npt.NDArray[np.float32]) -> None:
        """Fill ``out``, shape ``(len(slots), FEATURE_COUNT)``, with the features of these slots."""


# -- control ----------------------------------------------------------------------------------
class Router(Protocol):
    """Says which lane each committed segment goes to."""

    def route(self, headers: Rows, slots: Slots) -> None:
        """Write the column ``lane`` (and ``variant``) of the given rows. Pure apart from that."""
