"""What a source does when its consumer group changes, and how it commits.

aiokafka rebalances eagerly: all partitions are revoked, then some are assigned. Before they are given up,
segments under way are finished (up to ``drain_timeout``) and committed. A partition that comes back in the very
next generation cannot have had another owner between; it goes on where it was, unfinished segments included.
From one that does not come back, late completions change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from streamspec.core.interfaces import OffsetCommit
from streamspec.core.tally import Tally
from streamspec.sources import kafka_metadata
from streamspec.sources.kafka_intake import Partition, Units
from streamspec.sources.kafka_offsets import PartitionOffsets

if TYPE_CHECKING:
    from streamspec.sources.kafka import KafkaConfig

_log = structlog.get_logger("streamspec.sources.kafka")

COMMIT_TIMEOUT_SECONDS = 10.0


class Group:
    """The partitions of this member. Implements aiokafka's ``ConsumerRebalanceListener``.

    Args:
        config: of the source.
        consumer: aiokafka's, not subscribed yet.
        units: segments under way.

    Attributes:
        partitions: what is ours now.
        commit_lock: held while something is committed.
        error: what broke inside a callback; whoever reads raises it.
    """

    def __init__(self, config: KafkaConfig, consumer: Any, units: Units, tally: Tally, where: str) -> None:
        self._config = config
        self._consumer = consumer
        self._units = units
        self._tally = tally
        self._where = where
        self.partitions: dict[Any, Partition] = {}
        self.commit_lock = asyncio.Lock()
        self.error: Exception | None = None
        self._between = False
        self._kept: dict[Any, Partition] = {}
        self._kept_generation = -1
        self._generation, self._member = -1, ""
        self._finished = asyncio.Event()

    # -- callbacks of aiokafka ----------------------------------------------------------------
    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Finish and commit; aiokafka joins the group again when this returns."""
        try:
            here = self._consumer._coordinator.generation == self._generation
            if self.partitions:
                self._tally.add("rebalances")
            if self.partitions and here:  # who was put out of the group cannot commit any more
                await self.drain(self._config.drain_timeout)
                await self.commit()
            self._kept, self.partitions = self.partitions, {}
            self._kept_generation = self._consumer._coordinator.generation
            for partition in self._kept.values():
                partition.lost = True
            await self.commit_lock.acquire()  # no transaction decides what is ours until that is known
            self._between = True
        except Exception as error:
            self.error = error

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Begin where each partition was left."""
        try:
            generation = self._consumer._coordinator.generation
            stays = self._kept_generation > 0 and generation == self._kept_generation + 1
            kept = {tp: self._kept[tp] for tp in assigned if stays and tp in self._kept}
            self._kept = {}
            fresh = await self._begin([tp for tp in assigned if tp not in kept])
            for tp, partition in kept.items():
                partition.lost = False
                self._consumer.seek(tp, partition.offsets.next_offset)
            self.partitions = kept | fresh
            self._generation, self._member = generation, self._consumer._coordinator.member_id
            _log.info(
                "partitions assigned",
                where=self._where,
                generation=generation,
                partitions=sorted(f"{tp.topic}:{tp.partition}" for tp in assigned),
                kept=len(kept),
                always=True,
            )
        except Exception as error:
            self.error = error
        finally:
            self.release()

    def release(self) -> None:
        """End the time between two generations, in which nothing is committed."""
        if self._between:
            self._between = False
            self.commit_lock.release()

    async def _begin(self, fresh: Sequence[Any]) -> dict[Any, Partition]:
        from streamspec.links.kafka_requests import stable_offsets

        if not fresh:
            return {}
        committed = await stable_offsets(self._consumer._coordinator, fresh)
        first = await self._consumer.beginning_offsets(fresh)
        starts = await self._starts([tp for tp in fresh if tp not in committed], first)
        begun = {}
        for tp in fresh:
            offset, metadata = committed.get(tp) or (starts[tp], "")
            runs = kafka_metadata.decode(offset, metadata)
            if runs is None:
                self._tally.add("undecodable_metadata")
                _log.warning("commit metadata cannot be read, replaying", where=self._where, partition=str(tp))
            if offset < first[tp]:
                self._tally.add("expired_records", first[tp] - offset)
                _log.warning("records were deleted unread", where=self._where, partition=str(tp), offset=offset)
                offset, runs = first[tp], []
            begun[tp] = Partition(tp.topic, tp.partition, PartitionOffsets(offset, runs or ()))
            self._consumer.seek(tp, offset)
        return begun

    async def _starts(self, fresh: Sequence[Any], first: dict[Any, int]) -> dict[Any, int]:
        """Where partitions without a committed offset begin."""
        from streamspec.sources.kafka import start_milliseconds

        start = self._config.start
        if start == "earliest" or not fresh:
            return first
        end: dict[Any, int] = await self._consumer.end_offsets(fresh)
        if start == "latest":
            return end
        at = start_milliseconds(start)
        found = await self._consumer.offsets_for_times(dict.fromkeys(fresh, at))
        return {tp: found[tp].offset if found.get(tp) is not None else end[tp] for tp in fresh}

    # -- finishing ----------------------------------------------------------------------------
    def finish(self, tokens: Iterable[int]) -> None:
        """These segments are finished."""
        finished: dict[int, tuple[Partition, list[int]]] = {}
        for token in tokens:
            partition, offsets, _ = self._units.end(token)
            entry = finished.get(id(partition))
            if entry is None:
                entry = finished[id(partition)] = (partition, [])
            entry[1].extend(offsets)
        for partition, offsets in finished.values():
            if not offsets:
                continue  # committed with a transaction
            partition.offsets.finish(offsets)
            partition.dirty = True
            if partition.lost and partition not in self._kept.values():
                self._tally.add("late_completions", len(offsets))
        self._finished.set()

    async def drain(self, timeout_seconds: float) -> None:
        """Return when nothing is under way, or the time is over."""
        give_up = asyncio.get_running_loop().time() + timeout_seconds
        while any(partition.unfinished for partition in self.partitions.values()):
            self._finished.clear()
            try:
                async with asyncio.timeout_at(give_up):
                    await self._finished.wait()
            except TimeoutError:
                left = sum(partition.unfinished for partition in self.partitions.values())
                _log.warning("partitions given up before everything was finished", where=self._where, segments=left)
                return

    # -- committing ---------------------------------------------------------------------------
    async def commit(self) -> None:
        """Commit what is finished and in no commit yet. What fails is tried again the next time."""
        from aiokafka import errors
        from aiokafka.structs import OffsetAndMetadata

        async with self.commit_lock:
            dirty = {tp: partition for tp, partition in self.partitions.items() if partition.dirty}
            if not dirty:
                return
            offsets = {tp: OffsetAndMetadata(*partition.offsets.commit()) for tp, partition in dirty.items()}
            for partition in dirty.values():
                partition.dirty = False
            try:
                async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
                    await self._consumer.commit(offsets)
                self._tally.add("commits")
            except (errors.KafkaError, TimeoutError) as error:
                self._tally.add("commit_failures")
                for partition in dirty.values():
                    partition.dirty = True
                _log.warning("commit failed", where=self._where, reason=repr(error))

    def committed(self, tokens: Sequence[int]) -> None:
        """See ``TransactionalSource``: from here on our own commits must not fall back behind it."""
        for token in tokens:
            unit = self._units.under_way.get(token)
            if unit is not None:
                unit.partition.offsets.finish(unit.offsets)
                self._units.under_way[token] = unit._replace(offsets=())

    def commit_for(self, tokens: Sequence[int]) -> OffsetCommit | None:
        """See ``TransactionalSource``; the lock is held by the caller."""
        finished: dict[int, tuple[Partition, list[int]]] = {}
        for token in tokens:
            unit = self._units.under_way.get(token)
            if unit is not None and not unit.partition.lost:
                finished.setdefault(id(unit.partition), (unit.partition, []))[1].extend(unit.offsets)
        if not finished:
            return None
        # Of the assignment, not of now: who was put out of the group has none, and the broker would check nothing
        return OffsetCommit(
            self._config.group,
            self._generation,
            self._member,
            self._config.instance,
            {(p.topic, p.number): p.offsets.commit_with(offsets) for p, offsets in finished.values()},
        )
