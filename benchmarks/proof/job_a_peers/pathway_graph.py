"""Pathway: a table of records, a function over it, a table of results; ordered within each of its small batches.

Several processes share rows by the hash of their row, so records of one key overtake each other.
"""

from __future__ import annotations

import os
import sys

import pathway as pw

from benchmarks.proof.job_a_peers import Job, start
from benchmarks.proof.job_a_work import MARK, Work

BACKLOG_RECORDS = 2_000
COMMIT_MILLISECONDS = 100


def graph(job: Job) -> None:
    """Build it and run it."""
    work = Work()
    settings = {"bootstrap.servers": job.brokers, "group.id": job.group, "auto.offset.reset": "earliest"}
    if job.batches:

        @pw.udf(return_type=bytes, max_batch_size=500, deterministic=True)
        def result_of(values: list[bytes]) -> list[bytes]:
            return work.many(values)

    else:

        @pw.udf(return_type=bytes, deterministic=True)
        def result_of(value: bytes) -> bytes:
            return work(value)

    records = pw.io.kafka.read(
        settings,
        topic=job.topic,
        format="raw",
        autogenerate_key=True,
        autocommit_duration_ms=COMMIT_MILLISECONDS,
        max_backlog_size=BACKLOG_RECORDS,
    )
    number = pw.apply_with_type(lambda value: MARK.unpack_from(value)[0], int, pw.this.data)
    results = records.select(key=pw.this.key, number=number, result=result_of(pw.this.data))
    pw.io.kafka.write(
        results,
        {"bootstrap.servers": job.brokers},
        topic_name=job.out,
        format="raw",
        key=results.key,
        value=results.result,
        headers=[results.number],  # what is sorted by has to be written
        sort_by=[results.number],
    )
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


def run(job: Job) -> None:
    """As one process, or through Pathway's own command."""
    if job.processes > 1 and "JOB" not in os.environ:
        os.environ["JOB"] = sys.argv[1]
        command = [sys.executable, "-m", "pathway", "spawn", "-n", str(job.processes), "--first-port"]
        command += [str(job.ports[0]), sys.executable, "-m", f"{__package__}.pathway_graph"]
        os.execv(sys.executable, command)
    graph(job)


if __name__ == "__main__":
    start(run)
