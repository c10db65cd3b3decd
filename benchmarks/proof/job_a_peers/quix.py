"""Quix Streams: ``apply`` and ``to_topic``; it has no idiom for batches."""

from __future__ import annotations

from quixstreams import Application

from benchmarks.proof.job_a_peers import Job, start
from benchmarks.proof.job_a_work import Work


def run(job: Job) -> None:
    """Until we are ended."""
    work = Work()
    application = Application(
        broker_address=job.brokers,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel="WARNING",
    )
    kinds = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    source = application.topic(job.topic, **kinds)
    sink = application.topic(job.out, key_serializer="bytes", value_serializer="bytes")
    application.dataframe(source).apply(work).to_topic(sink)
    application.run()


if __name__ == "__main__":
    start(run)
