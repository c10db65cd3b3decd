"""A compacted topic as a small table: read to its end, followed, written by key."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import structlog

from streamspec.core.errors import DependencyUnavailable
from streamspec.links import kafka_errors
from streamspec.links.kafka_access import KafkaAccess
from streamspec.links.kafka_clients import find_topic, missing_topic, reach, stop

_log = structlog.get_logger("streamspec.links.kafka")

LARGEST_BYTES = 8 << 20
SEND_SECONDS = 15.0
MOST_COPIES = 3
SETTINGS = {
    "cleanup.policy": "compact,delete",
    "retention.ms": str(30 * 86_400_000),  # what instances that are gone for good said
    "segment.ms": str(600_000),  # only closed segments are compacted; without these a reader would read a week
    "segment.bytes": str(32 << 20),
    "min.cleanable.dirty.ratio": "0.1",
}
"""Of a topic that is made here."""


class TableReader:
    """Reads all records of a topic from its start, without a group.

    Args:
        access: how to reach the brokers.
        topic: made when it does not exist.
        where: for errors, e.g. ``profiles.share``.
    """

    def __init__(self, access: KafkaAccess, topic: str, where: str) -> None:
        self._access = access
        self._topic = topic
        self._where = where
        self._consumer: Any = None
        self._ends: dict[Any, int] = {}

    async def open(self) -> None:
        """Begin at the start. Raises DependencyUnavailable when that cannot be had now; one attempt."""
        from aiokafka import AIOKafkaConsumer, TopicPartition, errors

        def make(options: dict[str, Any]) -> Any:
            return AIOKafkaConsumer(
                **options,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                max_partition_fetch_bytes=LARGEST_BYTES,
            )

        consumer = await reach(make, self._access, self._where, once=True)
        try:
            await self._ensure_topic()
            found = await find_topic(consumer._client, self._topic, 5.0, f"{self._where}.topic")
            partitions = [TopicPartition(self._topic, number) for number in sorted(found)]
            consumer.assign(partitions)
            self._ends = await consumer.end_offsets(partitions)
        except (errors.KafkaError, OSError, TimeoutError) as error:
            await stop(consumer)
            raise kafka_errors.unavailable(error, f"{self._where}.topic", self._topic) from error
        except BaseException:
            await stop(consumer)
            raise
        self._consumer = consumer

    async def _ensure_topic(self) -> None:
        """Make the topic unless it exists; asked for before anything else, lest a broker make it uncompacted."""
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        admin = AIOKafkaAdminClient(**self._access.client_options(self._where))
        try:
            await admin.start()
            if self._topic in await admin.list_topics():
                return
            brokers = len((await admin.describe_cluster())["brokers"])
            wanted = NewTopic(self._topic, 1, max(min(brokers, MOST_COPIES), 1), topic_configs=SETTINGS)
            code = (await admin.create_topics([wanted])).topic_errors[0][1]
        finally:
            with contextlib.suppress(Exception):
                await admin.close()
        self._judge(code)

    def _judge(self, code: int) -> None:
        from aiokafka import errors

        kind = errors.for_code(code)
        if kind is errors.NoError:
            _log.info("topic made", topic=self._topic, where=self._where)
        elif kind is not errors.TopicAlreadyExistsError:
            raise DependencyUnavailable(
                f"the topic does not exist and cannot be made ({kind.__name__})",
                where=f"{self._where}.topic",
                value=self._topic,
                next_step="kafka-topics.sh --create --config cleanup.policy=compact --topic " + self._topic,
            ) from missing_topic(self._topic, self._where)

    async def read(self, timeout_seconds: float) -> Sequence[tuple[bytes, bytes | None]]:
        """What came next, keys and values; a value of None: the key was deleted. Nothing after the timeout."""
        taken = await self._consumer.getmany(timeout_ms=round(timeout_seconds * 1000))
        return [(record.key or b"", record.value) for records in taken.values() for record in records]

    async def at_end(self) -> bool:
        """Everything that was there at :meth:`open` was read."""
        for partition, end in self._ends.items():
            if end > 0 and await self._consumer.position(partition) < end:
                return False
        return True

    async def close(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await stop(consumer)


class TableWriter:
    """Writes records of a topic; connected when it is first needed.

    Args:
        access, topic, where: as in :class:`TableReader`.
    """

    def __init__(self, access: KafkaAccess, topic: str, where: str) -> None:
        self._access = access
        self._topic = topic
        self._where = where
        self._producer: Any = None

    async def write(self, key: bytes, value: bytes) -> None:
        """Write one record; returns when the broker has it. Raises DependencyUnavailable; one attempt."""
        from aiokafka import AIOKafkaProducer, errors

        def make(options: dict[str, Any]) -> Any:
            return AIOKafkaProducer(**options, acks="all", max_request_size=LARGEST_BYTES, compression_type="gzip")

        if self._producer is None:
            self._producer = await reach(make, self._access, self._where, once=True)
        started = time.monotonic()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._producer.send_and_wait(self._topic, value=value, key=key)
        except (errors.KafkaError, OSError, TimeoutError) as error:
            await self.close()
            reason = error if str(error) else TimeoutError(f"no answer for {time.monotonic() - started:.0f} s")
            raise kafka_errors.unavailable(reason, f"{self._where}.topic", self._topic) from error
        except asyncio.CancelledError:
            await self.close(0.5)
            raise

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Disconnect."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await stop(producer, timeout_seconds)
