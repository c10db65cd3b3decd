"""Bare clients that tests write and read with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streamspec.core.interfaces import Intake
from streamspec.sources.kafka import KafkaConfig
from streamspec.sources.kafka_reading import KafkaSource
from streamspec.testing.intake import RecordingIntake


async def produce(address: str, topic: str, records: Sequence[dict[str, Any]], **options: Any) -> None:
    """Send and wait; a record is what ``send`` takes beside the topic."""
    producer = AIOKafkaProducer(bootstrap_servers=address, acks="all", **options)
    await producer.start()
    try:
        await asyncio.gather(*[await producer.send(topic, **record) for record in records])
    finally:
        await producer.stop()


async def consume(address: str, topic: str, count: int, *, timeout_seconds: float = 20.0, **options: Any) -> list[Any]:
    """The first ``count`` records of a topic, from its start."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest", **options)
    await consumer.start()
    found: list[Any] = []
    try:
        async with asyncio.timeout(timeout_seconds):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
    finally:
        await consumer.stop()
    return found


@asynccontextmanager
async def reading(
    address: str, intake: RecordingIntake | Intake | None = None, **fields: Any
) -> AsyncIterator[tuple[KafkaSource, RecordingIntake]]:
    """A source on a recording intake, opened and running."""
    settings = {"type": "kafka", "brokers": address, "group": "test", "fetch_wait": 0.02, "commit_interval": 0.05}
    source = KafkaConfig.model_validate(settings | fields).build("in")
    own = intake if isinstance(intake, RecordingIntake) else RecordingIntake(slots=256)
    try:
        await source.open(own)
        running = asyncio.create_task(source.run())
        try:
            yield source, own
        finally:
            await source.stop()
            await running
    finally:
        await source.close()
        own.close()
