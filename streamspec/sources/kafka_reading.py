"""The ``kafka`` source at work: polls, hands in, pauses and resumes, commits."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import structlog

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Intake, OffsetCommit
from streamspec.links import kafka_errors
from streamspec.sources.kafka_intake import MessageIntake, Partition, Units

if TYPE_CHECKING:
    from streamspec.sources.kafka import KafkaConfig
    from streamspec.sources.kafka_group import Group

_log = structlog.get_logger("streamspec.sources.kafka")

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 1.0
"""How long there may be no room until all partitions are paused, which keeps us in the group."""
RETRY_SECONDS = 0.5
CLOSE_SECONDS = 5.0
CORRUPT_SECONDS = 0.02
CORRUPT_WITHIN = 1024
"""How far from where it failed a batch with a wrong checksum is searched for."""
CORRUPT_TRIES = 3
"""How often a batch with a wrong checksum is fetched before its record is passed over."""


class KafkaSource:
    """Implements ``Source``, ``AcknowledgedSource``, ``ClosableSource`` and ``TransactionalSource``.

    Attributes:
        ended: set when :meth:`run` ends, whatever the reason.
    """

    can_wait = True

    def __init__(self, name: str, config: KafkaConfig) -> None:
        self._where = f"sources.{name}"
        self._config = config
        self._units = Units()
        self._stopping = asyncio.Event()
        self.ended = asyncio.Event()
        self._backlog: deque[tuple[Partition, Sequence[Any]]] = deque()
        self._paused: set[Any] = set()
        self._corrupt: dict[Any, tuple[int, int, int]] = {}  # offset, tries, read one by one up to
        self._consumer: Any = None
        self._group: Group | None = None
        self._intake: Intake | None = None
        self._records: MessageIntake | None = None
        self._committing: asyncio.Task[None] | None = None
        self.commit_lock: Any = contextlib.nullcontext()

    # -- life ---------------------------------------------------------------------------------
    async def open(self, intake: Intake) -> None:
        """Reach a broker and find the topics; the group is joined by :meth:`run`.

        Raises:
            DependencyUnavailable: no broker, no topic, not allowed.
            ConfigError: unusable TLS files.
        """
        from streamspec.links.kafka_clients import reach
        from streamspec.sources.kafka_group import Group

        self._intake = intake
        self._consumer = await reach(self._new_consumer, self._config, self._where)
        self._group = Group(self._config, self._consumer, self._units, intake.tally, self._where)
        self.commit_lock = self._group.commit_lock
        await self._find_topics()
        self._records = self._new_intake(intake)

    def _new_consumer(self, options: dict[str, Any]) -> Any:
        from aiokafka import AIOKafkaConsumer
        from aiokafka.coordinator.assignors.range import RangePartitionAssignor
        from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
        from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

        config = self._config
        # aiokafka's sticky assignor keeps its memory on the class: each consumer needs a class of its own
        sticky = type("Sticky", (StickyPartitionAssignor,), {"member_assignment": None, "generation": -1})
        assignors = {"sticky": sticky, "range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor}
        milliseconds = round(config.session_timeout * 1000)
        return AIOKafkaConsumer(
            **options,
            group_id=config.group,
            group_instance_id=config.instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=config.isolation,
            fetch_max_wait_ms=round(config.fetch_wait * 1000),
            max_partition_fetch_bytes=config.fetch_bytes,
            session_timeout_ms=milliseconds,
            heartbeat_interval_ms=max(milliseconds // 10, 100),
            rebalance_timeout_ms=max(milliseconds, round(config.drain_timeout * 1000) + 10_000),
            partition_assignment_strategy=(assignors[config.assignment],),
            metadata_max_age_ms=30_000,
        )

    def _new_intake(self, intake: Intake) -> MessageIntake:
        from streamspec.sources.kafka import LINK_TYPES

        config = self._config
        from_production = config.latency_from == "production"
        if config.content == "payload":
            return MessageIntake(intake, self._units, gather_bytes=config.gather_bytes, from_production=from_production)
        from streamspec.sources.kafka_packets import PacketIntake

        return PacketIntake(
            intake,
            self._units,
            framing=config.framing,
            link_type=LINK_TYPES[config.link_type],
            from_production=from_production,
        )

    async def _find_topics(self) -> None:
        from streamspec.links.kafka_clients import find_topic

        for topic in self._config.topics:
            await find_topic(self._consumer._client, topic, self._config.connect_timeout, f"{self._where}.topics")

    async def run(self) -> None:
        """Read until :meth:`stop`.

        Raises:
            DependencyUnavailable: the brokers refuse what this source needs.
        """
        assert self._group is not None, "open first"
        topics = {"topics": list(self._config.topics)} if self._config.topics else {"pattern": self._config.pattern}
        self._consumer.subscribe(**topics, listener=_listener(self._group))
        stop = asyncio.create_task(self._stopping.wait())
        work = [asyncio.create_task(part) for part in (self._read(), self._commit_now_and_then())]
        try:
            done, _ = await asyncio.wait([stop, *work], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (stop, work[0]):
                task.cancel()
            await asyncio.gather(stop, work[0], return_exceptions=True)
            self._committing = work[1]
            self.ended.set()
            self._backlog.clear()

    async def stop(self) -> None:
        """Take nothing new in; what is under way is still committed, until :meth:`close`."""
        self._stopping.set()

    async def close(self) -> None:
        """Commit the rest and leave the group."""
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.gather(self._committing, return_exceptions=True)
        if self._consumer is None:
            return
        with contextlib.suppress(TimeoutError, Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._group is not None:
                    self._group.release()
                    await self._group.commit()
        with contextlib.suppress(TimeoutError, Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._consumer.stop()
        self._consumer = None

    # -- reading ------------------------------------------------------------------------------
    async def _read(self) -> None:
        assert self._group is not None
        while True:
            if self._group.error is not None:
                raise self._translated(self._group.error)
            try:
                await self._turn()
            except Exception as error:
                await self._weigh(error)

    async def _turn(self) -> None:
        """One poll, or another go at what had no room."""
        group, consumer = self._group, self._consumer
        assert group is not None
        if self._backlog:
            await self._hand_in()
            return
        self._bound_spans()
        polled = await consumer.getmany(
            timeout_ms=round(POLL_SECONDS * 1000), max_records=1 if self._corrupt else self._config.poll_records
        )
        for tp, records in polled.items():
            partition = group.partitions.get(tp)
            if partition is None or not records:
                continue
            if records[0].offset < partition.offsets.next_offset:
                partition = self._begin_anew(tp, partition, records[0].offset)
            self._backlog.append((partition, records))
            if tp in self._corrupt and records[0].offset >= self._corrupt[tp][2]:
                del self._corrupt[tp]  # sound again
        if self._backlog:
            await self._hand_in()

    async def _hand_in(self) -> None:
        """As much of the backlog as there is room for; then wait for room."""
        assert self._records is not None
        assert self._intake is not None
        while self._backlog:
            partition, records = self._backlog.popleft()
            if partition.lost:
                continue
            taken = self._records.take(partition, records)
            if taken < len(records):
                self._backlog.appendleft((partition, records[taken:]))
                await self._wait_for_room()
                return
        await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        """Return when there is room. Meanwhile polls keep us in the group, with all partitions paused."""
        assert self._intake is not None
        room = asyncio.ensure_future(self._intake.wait_for_room())
        try:
            done, _ = await asyncio.wait({room}, timeout=PATIENCE_SECONDS)
            if done:
                return
            self._intake.tally.add("backpressure_pauses")
            while not done:
                self._pause(self._consumer.assignment())
                await self._consumer.getmany(timeout_ms=0)
                done, _ = await asyncio.wait({room}, timeout=PATIENCE_SECONDS)
        finally:
            room.cancel()
            await asyncio.gather(room, return_exceptions=True)
            self._resume(self._paused)

    def _bound_spans(self) -> None:
        """Pause partitions whose first unfinished record lies too far back, or whose commits would not fit; resume
        those that caught up."""
        assert self._group is not None
        limit = self._config.max_span
        for tp, partition in self._group.partitions.items():
            span, crowded = partition.offsets.span, partition.offsets.crowded
            if (span >= limit or crowded) and tp not in self._paused:
                self._pause([tp])
                assert self._intake is not None
                self._intake.tally.add("span_pauses")
            elif tp in self._paused and span <= limit // 2 and not crowded:
                self._resume([tp])

    def _pause(self, partitions: Any) -> None:
        fresh = [tp for tp in partitions if tp not in self._paused and tp in self._consumer.assignment()]
        self._consumer.pause(*fresh)
        self._paused.update(fresh)

    def _resume(self, partitions: Any) -> None:
        known = list(partitions)
        self._consumer.resume(*[tp for tp in known if tp in self._consumer.assignment()])
        self._paused.difference_update(known)

    def _begin_anew(self, tp: Any, old: Partition, offset: int) -> Partition:
        """The log begins anew below what was read: the topic was made again."""
        from streamspec.sources.kafka_offsets import PartitionOffsets

        assert self._group is not None
        old.lost = True
        partition = Partition(old.topic, old.number, PartitionOffsets(offset))
        self._group.partitions[tp] = partition
        _log.warning("the log begins anew, reading it from its start", where=self._where, partition=str(tp))
        return partition

    # -- faults -------------------------------------------------------------------------------
    async def _weigh(self, error: Exception) -> None:
        """Go on where that can help, else raise what ends the service."""
        from aiokafka import errors

        if isinstance(error, DependencyUnavailable):
            raise error
        delay = RETRY_SECONDS
        if isinstance(error, errors.CorruptRecordException):
            delay = CORRUPT_SECONDS
            self._pass_over_corrupt(str(error))
        elif not isinstance(error, errors.KafkaError) or kafka_errors.is_hopeless(error):
            raise self._translated(error)
        _log.warning("reading failed, trying again", where=self._where, reason=repr(error))
        await asyncio.sleep(delay)

    def _pass_over_corrupt(self, text: str) -> None:
        """A batch has a wrong checksum. aiokafka then throws away the sound records before it too, so everything is
        read one by one until the error comes at the batch itself; after some tries that is passed over, record by
        record, since only the next sound batch tells where it ends. The partition is named in the text only."""
        assert self._group is not None
        assert self._intake is not None
        for tp, partition in self._group.partitions.items():
            if str(tp) not in text:
                continue
            position = partition.offsets.next_offset
            before, tries, until = self._corrupt.get(tp, (position, -1, position + CORRUPT_WITHIN))
            tries = tries + 1 if before == position else 0
            if tries >= CORRUPT_TRIES:
                self._intake.tally.add("corrupt_records")
                position, tries = position + 1, CORRUPT_TRIES - 1  # what follows may be of the same batch
                partition.offsets.pass_over(position)
                until = position
            self._corrupt[tp] = (position, tries, until)
            self._consumer.seek(tp, position)

    def _translated(self, error: Exception) -> Exception:
        from aiokafka import errors

        if isinstance(error, errors.KafkaError):
            return kafka_errors.unavailable(error, self._where, self._config.group)
        return error

    # -- committing ---------------------------------------------------------------------------
    async def _commit_now_and_then(self) -> None:
        assert self._group is not None
        while True:
            await asyncio.sleep(self._config.commit_interval)
            await self._group.commit()

    def acknowledge(self, tokens: npt.NDArray[np.uint64]) -> None:
        """See ``AcknowledgedSource``."""
        if self._group is not None:
            self._group.finish(tokens.tolist())

    def owned(self, token: int) -> bool:
        """See ``TransactionalSource``."""
        unit = self._units.under_way.get(token)
        return unit is not None and not unit.partition.lost

    def commit_for(self, tokens: Sequence[int]) -> OffsetCommit | None:
        """See ``TransactionalSource``."""
        return None if self._group is None else self._group.commit_for(tokens)

    def committed(self, tokens: Sequence[int]) -> None:
        """See ``TransactionalSource``."""
        if self._group is not None:
            self._group.committed(tokens)

    # -- reading out --------------------------------------------------------------------------
    def status(self) -> dict[str, Any]:
        """Numbers for metrics, by partition ``topic:number``: ``lag_records`` (behind the end of the log),
        ``span_records`` (read, from the first unfinished one on), ``finished_beyond_records``,
        ``under_way_segments``, ``oldest_age_seconds`` (of the oldest segment under way, since it was produced)
        and ``paused``."""
        if self._group is None or self._consumer is None or self._intake is None:
            return {"partitions": {}}
        now_ns, oldest = self._intake.clock.time_ns(), self._units.oldest_ns()
        return {
            "partitions": {
                f"{tp.topic}:{tp.partition}": self._numbers(tp, partition, now_ns - oldest.get(id(partition), now_ns))
                for tp, partition in self._group.partitions.items()
            }
        }

    def _numbers(self, tp: Any, partition: Partition, oldest_age_ns: int) -> dict[str, Any]:
        offsets = partition.offsets
        known = tp in self._consumer.assignment()
        end = self._consumer.highwater(tp) if known else None
        return {
            "lag_records": max((end or 0) - offsets.next_offset, 0),
            "span_records": offsets.span,
            "finished_beyond_records": offsets.finished_beyond,
            "under_way_segments": partition.unfinished,
            "oldest_age_seconds": max(oldest_age_ns, 0) / 1e9,
            "paused": tp in self._paused,
        }


def _listener(group: Group) -> Any:
    """The group as aiokafka wants it: an instance of its abstract class."""
    from aiokafka.abc import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        on_partitions_revoked = staticmethod(group.on_partitions_revoked)
        on_partitions_assigned = staticmethod(group.on_partitions_assigned)

    return Listener()
