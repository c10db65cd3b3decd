"""Kafka to Kafka: the service against bare aiokafka loops in one process, on a real broker.

``python -m benchmarks.kafka [--json] [--quick] [--only PART]``

A topic is filled first; each contender then reads it from its start and writes to a topic of its own. Rates are
taken between a tenth and nine tenths of the output, so neither start-up nor the end count. CPU time is that of the
contender's own process tree: the broker's and the generator's are not in it (on two cores they still compete).

- ``identity``: no stage; 1 KiB and 16 KiB records with 64 keys; the bare loop is ``getmany`` -> ``send``.
- ``work``: inspect and compress; the bare loop calls the same stages in its one process.
- ``light``: the same at 80 % of the bare loop's rate; p99 of the light records, from production to the broker.
- ``partition``: a stage that sleeps, one partition, 64 keys, four workers: how busy they are, and the order.
- ``memory`` (only when named): the sink's cluster is away for two minutes.
- ``storm`` (only when named): two instances that join and leave every 5 s for two minutes, with the audit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from benchmarks._kafka_work import STAGES, captures
from streamspec.testing.kafka import Kafka, create_topic
from streamspec.testing.kafka_service import Passage

KEYS = 64
PARTITIONS = 4
CORES = len(os.sched_getaffinity(0))
START_SECONDS = 120.0
BROKER_JAVA = ("-Xmx1g", "-Xms256m", "-XX:+UseG1GC")

BARE = """
import asyncio, sys, uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
brokers, topic, out, work = sys.argv[1:5]
if work:
    from benchmarks._kafka_work import Work
    process = Work()
async def main():
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, group_id="bare-" + out, enable_auto_commit=False,
                                auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, max_batch_size=262144,
                                max_request_size=1 << 20)
    await consumer.start()
    await producer.start()
    while True:
        polled = await consumer.getmany(timeout_ms=200, max_records=1024)
        for records in polled.values():
            for r in records:
                value = process(r.value) if work else r.value
                await producer.send(out, value, key=r.key, timestamp_ms=r.timestamp, headers=r.headers)
        if polled:
            await producer.flush()
            await consumer.commit()
uvloop.run(main())
"""

SERVICE = """
sources:
  in: {{type: kafka, brokers: "{brokers}", topics: [{topic}], group: "{out}"{more}}}
stages: {stages}
sinks:
  out: {{type: kafka, brokers: "{brokers}", topic: {out}}}
engine: {{workers: {workers}}}
"""


@dataclass
class Run:
    """What one contender did.

    Attributes:
        cpu_seconds_per_record: of its own process tree.
    """

    name: str
    records_per_second: float
    cpu_seconds_per_record: float
    records: int


class Topics:
    """Makes topics, fills them and watches them grow.

    Args:
        brokers: bootstrap servers.
    """

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers
        self._numbers = iter(range(1000))
        self._watcher = Consumer({"bootstrap.servers": brokers, "group.id": "watcher", "log_level": 0})

    def make(self, partitions: int = PARTITIONS) -> str:
        """A new empty topic."""
        name = f"bench-{os.getpid()}-{next(self._numbers)}"
        asyncio.run(create_topic(self.brokers, name, partitions=partitions))
        return name

    def fill(self, topic: str, values: Iterator[bytes], keys: int = KEYS) -> int:
        """Write the values, their keys in turn; returns how many."""
        settings = {"linger.ms": 20, "batch.size": 1 << 19, "queue.buffering.max.kbytes": 1 << 19, "log_level": 0}
        producer = Producer({"bootstrap.servers": self.brokers, **settings})
        count = 0
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, b"key-%d" % (count % keys))
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
        producer.flush()
        return count

    def size(self, topic: str, partitions: int = PARTITIONS) -> int:
        """Records in a topic; 0 while its leaders are not known everywhere."""
        places = [TopicPartition(topic, number) for number in range(partitions)]
        try:
            marks = [self._watcher.get_watermark_offsets(place, timeout=10) for place in places]
        except KafkaException:
            return 0
        return sum(high - low for low, high in marks)

    def read(self, topic: str, count: int, until: float = math.inf) -> Iterator[tuple[bytes, bytes, int]]:
        """Key, value and timestamp (milliseconds) of records as they appear; at most so many, or until then."""
        settings = {"auto.offset.reset": "earliest", "fetch.wait.max.ms": 5, "log_level": 0}
        reader = Consumer({"bootstrap.servers": self.brokers, "group.id": f"read-{topic}", **settings})
        reader.subscribe([topic])
        try:
            while count and time.time() < until:
                message = reader.poll(0.2)
                if message is not None and message.error() is None:
                    count -= 1
                    yield message.key(), message.value(), message.timestamp()[1]
        finally:
            reader.close()

    def latencies(self, topic: str, out: str, values: Sequence[bytes], rate: float, seconds: float) -> list[float]:
        """From production to reading, of light records, in seconds; sent at a steady rate in an open loop."""
        start = time.time() + 12.0  # the contender starts meanwhile

        def send() -> None:
            producer = Producer({"bootstrap.servers": self.brokers, "linger.ms": 0, "log_level": 0})
            for number in range(int(rate * seconds)):
                due = start + number / rate
                if (left := due - time.time()) > 0:
                    time.sleep(left)
                key = b"heavy" if number % 10 == 0 else b"light-%d" % (number % 10)
                producer.produce(topic, values[number % len(values)], key, timestamp=round(due * 1000))
                producer.poll(0)
            producer.flush()

        sending = threading.Thread(target=send)
        sending.start()
        found = [
            time.time() - produced / 1000
            for key, _, produced in self.read(out, int(rate * seconds), until=start + seconds + 15)
            if key != b"heavy" and produced / 1000 > start + 0.2 * seconds
        ]
        sending.join()
        return found

    def close(self) -> None:
        """Disconnect."""
        self._watcher.close()


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """User and system time of a process and all below it, those that ended included."""
    root = psutil.Process(process.pid)
    times = [root.cpu_times(), *(child.cpu_times() for child in root.children(recursive=True))]
    own = sum(each.user + each.system for each in times)
    return own + times[0].children_user + times[0].children_system


@contextmanager
def running(command: Sequence[str], cwd: str | None = None) -> Iterator[subprocess.Popen[Any]]:
    """A process that is ended behind the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=cwd)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def bare_command(brokers: str, topic: str, out: str, work: str = "") -> list[str]:
    """The bare loop."""
    return [sys.executable, "-W", "ignore", "-c", BARE, brokers, topic, out, work]


def service_command(
    folder: Path, brokers: str, topic: str, out: str, *, stages: str = "[]", workers: int = 1, more: str = ""
) -> list[str]:
    """The service with a configuration file in ``folder``."""
    config = folder / f"{out}.yaml"
    config.write_text(SERVICE.format(brokers=brokers, topic=topic, out=out, stages=stages, workers=workers, more=more))
    return [sys.executable, "-m", "streamspec", "run", str(config)]


def measure(name: str, topics: Topics, command: Sequence[str], out: str, total: int, partitions: int) -> Run:
    """Run a contender until the output holds everything."""
    marks: dict[float, tuple[float, float, int]] = {}
    with running(command) as process:
        deadline = time.monotonic() + START_SECONDS
        while True:
            done = topics.size(out, partitions)
            for share in (0.1, 0.9):
                if done >= share * total and share not in marks:
                    marks[share] = (time.monotonic(), cpu_seconds(process), done)
            if done >= total:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                assert process.stderr is not None
                process.kill()
                raise RuntimeError(f"{name}: {done} of {total}: {process.stderr.read()[-2000:]!r}")
            time.sleep(0.01)
    (t0, c0, n0), (t1, c1, n1) = marks[0.1], marks[0.9]
    return Run(name, (n1 - n0) / (t1 - t0), (c1 - c0) / (n1 - n0), total)


def identity(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Nothing is done to records: what the way through the service costs."""
    rows = []
    for size, count in ((1024, 40_000 if quick else 150_000), (16 * 1024, 6_000 if quick else 24_000)):
        topic = topics.make()
        rng = random.Random(size)
        bodies = [rng.randbytes(size) for _ in range(64)]
        topics.fill(topic, (bodies[i % 64] for i in range(count)))
        names = ("bare", "service", "service, gather_bytes 64 KiB")
        runs = []
        for name in names if quick else (*names, *reversed(names)):
            out = topics.make()
            if name == "bare":
                command = bare_command(topics.brokers, topic, out)
            else:
                more = ", gather_bytes: 64 KiB" if "gather" in name else ""
                command = service_command(folder, topics.brokers, topic, out, more=more)
            runs.append(measure(name, topics, command, out, count, PARTITIONS))
        bare = max(run.records_per_second for run in runs if run.name == "bare")
        rows += [{"bytes": size, **asdict(run), "ratio_to_bare": run.records_per_second / bare} for run in runs]
    return rows


def work(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Inspect and compress pieces of real captures."""
    pieces = captures()
    count = 3000 if quick else 10_000
    topic = topics.make()
    topics.fill(topic, (pieces[i % len(pieces)] for i in range(count)))
    stages = json.dumps(STAGES)
    runs = []
    for name in ("bare", "service") if quick else ("bare", "service", "service", "bare"):
        out = topics.make()
        if name == "bare":
            command = bare_command(topics.brokers, topic, out, "work")
        else:
            command = service_command(folder, topics.brokers, topic, out, stages=stages, workers=CORES)
        runs.append(measure(name, topics, command, out, count, PARTITIONS))
    bare = max((run for run in runs if run.name == "bare"), key=lambda run: run.records_per_second)
    return [
        {
            **asdict(run),
            "ratio_of_rates": run.records_per_second / bare.records_per_second,
            "ratio_of_cpu": run.cpu_seconds_per_record / bare.cpu_seconds_per_record,
        }
        for run in runs
    ]


def light(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Nine light records (1 KiB) for each heavy one (64 KiB) at 80 % of what the bare loop can do."""
    heavy = [b"".join(captures()[i : i + 4]) for i in range(0, 64, 4)]
    values = [heavy[i // 10 % len(heavy)] if i % 10 == 0 else heavy[i % len(heavy)][:1024] for i in range(640)]
    count = 6_000 if quick else 15_000
    topic, out = topics.make(), topics.make()
    topics.fill(topic, (values[i % 640] for i in range(count)), keys=10)
    capacity = measure("bare", topics, bare_command(topics.brokers, topic, out, "work"), out, count, PARTITIONS)
    rate = 0.8 * capacity.records_per_second
    lanes = "lanes: [{name: light, match: {max_bytes: 4 KiB}, workers: 1}, {name: heavy, workers: 1, nice: 10}]\n"
    rows = []
    for name in ("bare", "service"):
        topic, out = topics.make(), topics.make()
        if name == "bare":
            command = bare_command(topics.brokers, topic, out, "work")
        else:
            command = service_command(
                folder,
                topics.brokers,
                topic,
                out,
                stages=json.dumps(STAGES),
                workers=2,
                more=", latency_from: production",
            )
            (folder / f"{out}.yaml").open("a").write(lanes)
        with running(command):
            seconds = 8.0 if quick else 20.0
            latencies = topics.latencies(topic, out, values, rate, seconds)
        shown = {f"p{p}_seconds": float(np.percentile(latencies, p)) for p in (50, 99)}
        rows.append({"name": name, "records_per_second": rate, "light_records": len(latencies), **shown})
    rows[1]["p99_lower_by"] = rows[0]["p99_seconds"] / rows[1]["p99_seconds"]
    return rows


def partition(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """A stage that sleeps 5 ms, four workers, one partition, 64 keys."""
    count, pause = 2000 if quick else 6000, 0.005
    topic, out = topics.make(1), topics.make(1)
    topics.fill(topic, (struct.pack("<II", round(pause * 1e6), i) for i in range(count)))
    stages = '[{type: map, function: "streamspec.testing.workload:Sleep"}]'
    command = service_command(folder, topics.brokers, topic, out, stages=stages, workers=4)
    run = measure("service", topics, command, out, count, 1)
    last: dict[bytes, int] = {}
    disorder = 0
    for key, value, _ in topics.read(out, count):
        number = struct.unpack("<II", value)[1]
        disorder += last.get(key, -1) >= number
        last[key] = number
    busy = run.records_per_second * pause
    return [{**asdict(run), "busy_workers_of_4": busy, "out_of_order": disorder, "keys": len(last)}]


def memory(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """The cluster of the sink is away while the source goes on."""
    away = 20.0 if quick else 120.0
    topic = topics.make()
    topics.fill(topic, (os.urandom(16_384) for _ in range(20_000)))
    other = Kafka.launch(folder / "other", java=BROKER_JAVA)
    try:
        asyncio.run(create_topic(other.address, "away", partitions=PARTITIONS))
        command = service_command(folder, topics.brokers, topic, "away")
        config = folder / "away.yaml"
        sink = config.read_text().replace(f'type: kafka, brokers: "{topics.brokers}", topic: away', "SINK")
        config.write_text(sink.replace("SINK", f'type: kafka, brokers: "{other.address}", topic: away'))
        with running(command) as process:
            time.sleep(8.0)
            before = memory_bytes(process)
            other.nodes[0].kill()
            time.sleep(away)
            after = memory_bytes(process)
    finally:
        other.close()
    return [{"seconds_away": away, "before_mib": before / 2**20, "after_mib": after / 2**20, "arena_mib": 256}]


def memory_bytes(process: subprocess.Popen[Any]) -> int:
    """Proportional set size of a process and all below it."""
    root = psutil.Process(process.pid)
    return sum(int(each.memory_full_info().pss) for each in [root, *root.children(recursive=True)])


def storm(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Two instances that join and leave every 5 s for two minutes, beside one that stays; with an audit."""
    rows = []
    for delivery in ("at_least_once",) if quick else ("at_least_once", "exactly_once"):
        flow = Passage(folder, topics.brokers, topics.make(), topics.make(), delivery=delivery)
        flow.start()
        seconds = 30.0 if quick else 120.0

        def come_and_go(flow: Passage = flow, seconds: float = seconds) -> None:
            end = time.monotonic() + seconds - 10
            while time.monotonic() < end:
                pair = [flow.start(), flow.start()]
                time.sleep(5.0)
                for instance in pair:
                    instance.stop()
                time.sleep(5.0)

        flow.under_load(come_and_go, seconds=seconds, rate=800)
        verdict = flow.verdict()
        flow.instances[0].stop()
        joined = len(flow.instances) - 1
        told = {name: getattr(verdict, name) for name in ("sent", "lost", "duplicated", "out_of_order", "corrupt")}
        rows.append({"delivery": delivery, "seconds": seconds, "joined_and_left": joined, **told})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a quarter of the records, one round")
    parser.add_argument("--only", choices=sorted(PARTS | LONG), help="one part")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Kafka.launch(Path(folder) / "kafka", java=BROKER_JAVA)
        topics = Topics(cluster.address)
        try:
            wanted = [options.only] if options.only else list(PARTS)
            found = {name: (PARTS | LONG)[name](topics, Path(folder), options.quick) for name in wanted}
        finally:
            topics.close()
            cluster.close()
    if options.json:
        print(json.dumps(found))
        return 0
    for name, rows in found.items():
        print(f"-- {name}")
        for row in rows:
            print("  " + ", ".join(f"{key} {_shown(value)}" for key, value in row.items()))
    return 0


def _shown(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


PARTS = {"identity": identity, "work": work, "light": light, "partition": partition}
LONG = {"memory": memory, "storm": storm}
"""Only when they are asked for: they take minutes."""

if __name__ == "__main__":
    sys.exit(main())
