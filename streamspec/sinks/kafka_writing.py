"""The ``kafka`` sink at work: what a batch of deliveries says, sent until every broker has it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from streamspec.core.clock import SystemClock
from streamspec.core.errors import DependencyUnavailable, SinkError
from streamspec.core.interfaces import DeliveryBatch, Source
from streamspec.core.tally import Tally
from streamspec.links import kafka_errors
from streamspec.sinks.egress import Pacer
from streamspec.sinks.kafka_records import Headers, Outgoing, Record, RecordBuilder, size_of

if TYPE_CHECKING:
    from streamspec.sinks.kafka import KafkaSinkConfig
    from streamspec.sinks.kafka_producer import Producer
    from streamspec.sinks.kafka_transactions import Transactions

_log = structlog.get_logger("streamspec.sinks.kafka")

OVERSIZE_VALUE_BYTES = 64 * 1024
"""How much of a record that is too large goes to ``oversize_topic``."""


class KafkaSink:
    """Implements ``Sink`` and ``TransactionalSink``."""

    def __init__(self, name: str, config: KafkaSinkConfig) -> None:
        self._where = f"sinks.{name}"
        self._config = config
        self.linger_seconds = config.linger
        self._tally = Tally()
        self._producer: Producer | None = None
        self._transactions: Transactions | None = None
        self._source_named: Callable[[str], Source | None] = _nobody
        self._pacer = Pacer(config, SystemClock(), asyncio.sleep)
        self._records = RecordBuilder(config, self._too_large)

    def attach(self, source_named: Callable[[str], Source | None]) -> None:
        """See ``TransactionalSink``."""
        self._source_named = source_named

    # -- life ---------------------------------------------------------------------------------
    async def open(self, tally: Tally) -> None:
        """Reach a broker and find the topic, unless its name depends on the records.

        Raises:
            DependencyUnavailable: no broker, no topic, not allowed, or SO_PRIORITY is not permitted.
            ConfigError: unusable TLS files.
        """
        from streamspec.links.kafka_clients import find_topic
        from streamspec.sinks.kafka_producer import Producer
        from streamspec.sinks.kafka_transactions import Transactions

        config = self._config
        self._tally = tally
        transactional_id = None
        if config.delivery == "exactly_once":
            transactional_id = config.transactional_id or f"streamspec-{uuid.uuid4()}"
        self._producer = Producer(config, tally, self._where, transactional_id)
        await self._producer.start()
        for topic in filter(None, (config.topic, config.oversize_topic)):
            if "{" not in topic:
                await find_topic(self._producer.client.client, topic, config.connect_timeout, f"{self._where}.topic")
        if transactional_id is not None:
            self._transactions = Transactions(self._producer, self._source_named, tally, self._where)

    async def write(self, batch: DeliveryBatch) -> None:
        """Return when all brokers have it, however long that takes.

        Raises:
            SinkError: the brokers refuse it, and will until a person does something.
        """
        try:
            if self._transactions is not None:
                await self._transactions.write(list(batch), self._send_all)
            else:
                await self._send_all(batch)
        except DependencyUnavailable as error:
            raise SinkError(error.what, where=error.where, value=error.value, next_step=error.next_step) from error

    async def close(self) -> None:
        """End what is open and disconnect."""
        if self._transactions is not None:
            await self._transactions.close()
            self._transactions = None
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    # -- sending ------------------------------------------------------------------------------
    async def _send_all(self, deliveries: Any) -> None:
        """Send what the deliveries say. Outside transactions, failures are made good here; inside, they are
        raised, since the whole transaction has to be made again."""
        producer = self._producer
        assert producer is not None, "open first"
        made = await self._made(producer, deliveries)
        if self._config.bytes_per_second is not None:
            for batch in made:
                await self._pacer.pass_on(batch.builder.size())
        failed = await producer.send(made)
        while failed:
            error = next(error for _, error in failed if error is not None)
            if self._transactions is not None:
                raise error
            await self._recover(producer, error)
            again = self._again(producer, failed)
            self._tally.add("resent_batches", len(again))
            failed = await producer.send(again)
        producer.succeeded()

    async def _made(self, producer: Producer, deliveries: Any) -> list[Outgoing]:
        """Batches of what the deliveries say; waits for topics that do not exist yet."""
        from aiokafka import errors

        while True:
            try:
                return await producer.batches(self._records.records(deliveries))
            except errors.UnknownTopicOrPartitionError:
                _log.warning("the topic does not exist, waiting for it", where=self._where)
                await producer.rest()
            except errors.KafkaError as error:
                await self._recover(producer, error)

    async def _recover(self, producer: Producer, error: BaseException) -> None:
        """Raise what is hopeless; else make a new producer: numbers of the old one have gaps."""
        from aiokafka import errors

        if kafka_errors.is_hopeless(error):
            raise kafka_errors.unavailable(error, self._where, self._config.topic)
        if not isinstance(error, errors.KafkaError | OSError | TimeoutError):
            raise error
        await producer.replace(error)

    def _again(self, producer: Producer, failed: list[tuple[Outgoing, BaseException | None]]) -> list[Outgoing]:
        again: list[Outgoing] = []
        for batch, error in failed:
            if not _is_too_large(error):
                again += producer.rebuilt(batch)
            elif len(batch.records) > 1:
                again += producer.rebuilt(batch, parts=2)
            else:
                instead = self._too_large(batch.topic, batch.records[0])
                if instead is not None and instead[0] != batch.topic:
                    again += producer.rebuilt(Outgoing(instead[0], 0, None, [instead[1]]))
        return again

    def _too_large(self, topic: str, record: Record) -> tuple[str, Record] | None:
        """What is sent in place of a record that no broker takes."""
        self._tally.add("too_large_records")
        own_key, own_value, timestamp_ms, _ = record
        oversize = self._config.oversize_topic
        _log.warning("record is too large", where=self._where, topic=topic, bytes=size_of(record), sent_to=oversize)
        if oversize is None:
            return None
        text = f"{len(own_value or b'')} bytes are more than {topic} takes"
        headers: Headers = [("streamspec.error", text.encode()), ("streamspec.topic", topic.encode())]
        key = own_key if own_key is not None and len(own_key) < OVERSIZE_VALUE_BYTES else None
        return oversize, (key, (own_value or b"")[:OVERSIZE_VALUE_BYTES], timestamp_ms, headers)


def _is_too_large(error: BaseException | None) -> bool:
    from aiokafka import errors

    return isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError)


def _nobody(name: str) -> Source | None:
    return None
