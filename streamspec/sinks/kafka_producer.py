"""One idempotent producer of aiokafka, kept alive: batches out in order, broken producers replaced."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.tally import Tally
from streamspec.links import kafka_clients, kafka_errors
from streamspec.sinks.egress import set_priority
from streamspec.sinks.kafka_records import Outgoing, Partitioner, Record

if TYPE_CHECKING:
    from streamspec.sinks.kafka import KafkaSinkConfig

_log = structlog.get_logger("streamspec.sinks.kafka")

FIRST_DELAY_SECONDS = 0.1
LARGEST_DELAY_SECONDS = 5.0


class Producer:
    """What the sink sends through.

    Args:
        config: of the sink.
        transactional_id: makes it transactional.
    """

    def __init__(self, config: KafkaSinkConfig, tally: Tally, where: str, transactional_id: str | None) -> None:
        self._config = config
        self._tally = tally
        self._where = where
        self._transactional_id = transactional_id
        self._delay = FIRST_DELAY_SECONDS
        self.client: Any = None
        self.partitioner = Partitioner()

    # -- life ---------------------------------------------------------------------------------
    async def start(self) -> None:
        """Reach a broker.

        Raises:
            DependencyUnavailable: none answers, or it refuses us.
        """
        self.client = await kafka_clients.reach(self._make, self._config, self._where)

    def _make(self, options: dict[str, Any]) -> Any:
        from aiokafka import AIOKafkaProducer

        config = self._config
        transaction: dict[str, Any] = {}
        if self._transactional_id is not None:
            transaction["transactional_id"] = self._transactional_id
            transaction["transaction_timeout_ms"] = round(config.transaction_timeout * 1000)
        client = AIOKafkaProducer(
            **options,
            **transaction,
            enable_idempotence=True,
            compression_type=None if config.compression == "none" else config.compression,
            max_batch_size=config.batch_bytes,
            max_request_size=config.max_record_bytes + config.batch_bytes,
            metadata_max_age_ms=30_000,
        )
        # An idempotent batch that expires leaves a gap in its numbers, and every later one is refused
        client._message_accumulator._batch_ttl = float("inf")
        if config.priority_class is not None:
            _tag_connections(client.client, config.priority_class, self._where)
        return client

    async def stop(self, timeout_seconds: float = 5.0) -> None:
        """Let go, without sending what is still queued."""
        client, self.client = self.client, None
        if client is None:
            return
        sender = client._sender
        if sender.sender_task is not None:
            sender.sender_task.cancel()
            await asyncio.wait([sender.sender_task], timeout=timeout_seconds)
        client._message_accumulator.fail_all(ConnectionAbortedError())
        await kafka_clients.stop(client, timeout_seconds)

    async def replace(self, reason: BaseException) -> None:
        """A new one in place of one that cannot go on, however long that takes.

        Raises:
            DependencyUnavailable: the brokers refuse us.
        """
        self._tally.add("new_producers")
        _log.warning("sending failed, trying again", where=self._where, reason=repr(reason))
        await self.stop()
        while self.client is None:
            await self.rest()
            try:
                await self.start()
            except DependencyUnavailable as error:
                if error.__cause__ is not None and kafka_errors.is_hopeless(error.__cause__):
                    raise
                _log.warning("no broker answers, trying again", where=self._where, reason=error.what)

    async def rest(self) -> None:
        """Wait a little longer each time in a row."""
        await asyncio.sleep(self._delay)
        self._delay = min(2 * self._delay, LARGEST_DELAY_SECONDS)

    def succeeded(self) -> None:
        """The row of failures is over."""
        self._delay = FIRST_DELAY_SECONDS

    # -- batches ------------------------------------------------------------------------------
    async def batches(self, records: Iterable[tuple[str, Record]]) -> list[Outgoing]:
        """Records in batches of one partition each; those of a partition in order."""
        open_batches: dict[tuple[str, int], Outgoing] = {}
        made: list[Outgoing] = []
        counts: dict[str, int] = {}
        choose = self.partitioner.choose
        self.partitioner.turn()
        for topic, record in records:
            count = counts.get(topic)
            if count is None:
                count = counts[topic] = len(await self.client.partitions_for(topic))
            place = (topic, choose(record[0], count))
            batch = open_batches.get(place)
            if batch is None or not _append(batch, record):
                batch = open_batches[place] = Outgoing(*place, self.client.create_batch())
                made.append(batch)
                _append(batch, record)
        return made

    def rebuilt(self, batch: Outgoing, parts: int = 1) -> list[Outgoing]:
        """The records of a batch in new builders, cut into so many parts."""
        step = -(-len(batch.records) // parts)
        made = []
        for start in range(0, len(batch.records), step):
            fresh = Outgoing(batch.topic, batch.partition, self.client.create_batch())
            for record in batch.records[start : start + step]:
                if not _append(fresh, record):
                    made.append(fresh)
                    fresh = Outgoing(batch.topic, batch.partition, self.client.create_batch())
                    _append(fresh, record)
            made.append(fresh)
        return made

    async def send(self, batches: list[Outgoing]) -> list[tuple[Outgoing, BaseException | None]]:
        """Send all, those of a partition one after the other; returns what failed and why, and without a reason
        what stood behind it in its partition."""
        failed: list[tuple[Outgoing, BaseException | None]] = []
        broken: set[tuple[str, int]] = set()
        while batches:
            later: list[Outgoing] = []
            sending: list[tuple[Outgoing, Any]] = []
            taken: set[tuple[str, int]] = set()
            for batch in batches:
                place = (batch.topic, batch.partition)
                if place in broken:
                    failed.append((batch, None))
                elif place in taken:
                    later.append(batch)
                else:
                    taken.add(place)
                    sending.append((batch, await self._begin(batch)))
            for batch, future in sending:
                try:
                    await future
                except Exception as error:
                    broken.add((batch.topic, batch.partition))
                    failed.append((batch, error))
            batches = later
        return failed

    async def _begin(self, batch: Outgoing) -> Any:
        batch.builder.close()
        try:
            return await self.client.send_batch(batch.builder, batch.topic, partition=batch.partition)
        except Exception as error:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            return future


def _append(batch: Outgoing, record: Record) -> bool:
    key, value, timestamp_ms, headers = record
    if batch.builder.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:
        return False
    batch.records.append(record)
    return True


def _tag_connections(client: Any, priority_class: str, where: str) -> None:
    """Give each connection of an aiokafka client its class of the traffic control tree."""
    connect = client._get_conn

    async def tagged(*args: Any, **options: Any) -> Any:
        connection = await connect(*args, **options)
        if connection is not None and not getattr(connection, "_streamspec_class", False):
            connection._streamspec_class = True
            descriptor = connection._writer.get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(descriptor)) as own:
                set_priority(own, priority_class, where)
        return connection

    client._get_conn = tagged
