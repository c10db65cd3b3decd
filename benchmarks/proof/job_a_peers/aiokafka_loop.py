"""A bare loop with aiokafka on uvloop: idempotent producer, offsets committed behind a flush each second."""

from __future__ import annotations

import time

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener

from benchmarks.proof.job_a_peers import Job, start
from benchmarks.proof.job_a_work import Work

COMMIT_SECONDS = 1.0
BATCH_RECORDS = 500


async def loop(job: Job) -> None:
    """Until we are ended."""
    work = Work()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=job.brokers,
        group_id=job.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=job.brokers, enable_idempotence=True, max_batch_size=262_144, max_request_size=1 << 20
    )
    await producer.start()
    await consumer.start()

    class Listener(ConsumerRebalanceListener):
        async def on_partitions_revoked(self, revoked: object) -> None:
            if consumer.assignment():
                await producer.flush()
                await consumer.commit()

        async def on_partitions_assigned(self, assigned: object) -> None:
            pass

    consumer.subscribe([job.topic], listener=Listener())
    committed = time.monotonic()
    while True:
        polled = await consumer.getmany(timeout_ms=100, max_records=BATCH_RECORDS)
        for records in polled.values():
            results = work.many([record.value for record in records]) if job.batches else None
            for index, record in enumerate(records):
                result = results[index] if results is not None else work(record.value)
                await producer.send(job.out, result, key=record.key, timestamp_ms=record.timestamp)
        if polled and time.monotonic() - committed > COMMIT_SECONDS:
            await producer.flush()
            await consumer.commit()
            committed = time.monotonic()


def run(job: Job) -> None:
    """Until we are ended."""
    uvloop.run(loop(job))


if __name__ == "__main__":
    start(run)
