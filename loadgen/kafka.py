"""Sender to a Kafka topic, and reader of one, with librdkafka (the package ``confluent-kafka``).

Its own thread batches and sends; a message counts as sent when the brokers have acknowledged it. The producer is
idempotent and never gives a message up while the run lasts, so what is acknowledged has no gaps per key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from loadgen import kernels
from loadgen.batch import Grouping, Marking, marker_bytes
from loadgen.clock import Clock
from loadgen.driver import BATCH_MESSAGES
from loadgen.errors import Unreachable, UsageError
from loadgen.meter import Meter
from loadgen.schedule import Block
from loadgen.target import Target

CONNECT_SECONDS = 10.0
READ_MESSAGES, READ_SECONDS = 1000, 0.1
"""What a read waits for, whichever comes first."""
QUEUE_MESSAGES = 50_000
"""Not yet acknowledged; then nothing more is taken until some are."""
_ERROR_HEADER = "streamspec.error"


class TopicRecord(NamedTuple):
    """One record of a topic: where it lies, its value, and why it is a dead letter (empty: it is none)."""

    stream: bytes
    value: bytes
    error: str


def _client() -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise UsageError("kafka:// needs the package confluent-kafka: pip install confluent-kafka") from None
    return confluent_kafka


def _settings(target: Target) -> dict[str, Any]:
    return {"bootstrap.servers": f"{target.host}:{target.port}", "log_level": 0, "error_cb": _ignore}


def _ignore(error: object) -> None:
    """What matters comes back from the calls; the rest repeats itself."""


class KafkaSender:
    """Implements ``Sender``. Keys of records are ``key-<number>``.

    Attributes:
        sent: int64 per key, messages that the brokers acknowledged.
    """

    def __init__(
        self, target: Target, keys: int, meter: Meter, clock: Clock, *, marking: Marking | None = None
    ) -> None:
        self._target = target
        self._meter = meter
        self._clock = clock
        self._marking = marking
        self._start_ns = 0
        self._failure = ""
        self.sent = np.zeros(keys, dtype=np.int64)
        self._keys = [b"key-%d" % key for key in range(keys)]
        self._acknowledged = [partial(self._note, key) for key in range(keys)]
        self._grouping = Grouping(keys, BATCH_MESSAGES)
        settings: dict[str, Any] = {
            "enable.idempotence": True,
            "message.timeout.ms": 0,
            "linger.ms": 5,
            "batch.size": 1 << 19,
        }
        settings |= {"queue.buffering.max.messages": 2 * QUEUE_MESSAGES, "queue.buffering.max.kbytes": 1 << 20}
        settings |= {"message.max.bytes": 1 << 24, "compression.type": target.compression}
        self._producer = _client().Producer(_settings(target) | settings)
        _find(self._producer, target)

    def _note(self, key: int, error: Any, message: object) -> None:
        if error is None:
            self.sent[key] += 1
        else:
            self._failure = str(error)

    @property
    def waiting(self) -> bool:
        """See ``Sender``."""
        return len(self._producer) > 0

    def begin(self, start_ns: int, epoch_ns: int) -> None:
        """See ``Sender``."""
        self._start_ns = start_ns
        if self._marking is not None:
            self._marking.epoch_ns = epoch_ns

    def take(self, block: Block, first: int, last: int) -> int:
        """See ``Sender``."""
        last = min(last, first + BATCH_MESSAGES, first + QUEUE_MESSAGES - len(self._producer))
        if last <= first:
            self._meter.blocked += 1
            return 0
        self._check()
        for key, start, end in self._grouping.group(block, first, last):
            rows = self._grouping.order[start:end]
            memory, ends = self._frame(block, rows)
            begin = 0
            for stop in ends.tolist():
                self._producer.produce(
                    self._target.topic, memory[begin:stop], self._keys[key], on_delivery=self._acknowledged[key]
                )
                begin = stop
            now_ns = self._clock.monotonic_ns() - self._start_ns
            self._meter.note_sent(block.times_ns, self._grouping.order, start, end, now_ns, begin)
        self._producer.poll(0)
        return last - first

    def _frame(self, block: Block, rows: Any) -> tuple[bytes, Any]:
        """The messages one behind the other, and where each ends."""
        count, pool, marker = len(rows), block.pool, marker_bytes(self._marking)
        ends, positions = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        total = kernels.lay_out(block.messages, rows, count, pool.lengths, 0, marker, 0, ends)
        memory = np.empty(total, dtype=np.uint8)
        kernels.frame(block.messages, rows, count, pool.columns, pool.memory, ends, 0, marker, 0, memory, positions)
        if self._marking is not None:
            self._marking.stamp(block, rows, memory, positions)
        return memory.tobytes(), ends

    def _check(self) -> None:
        if self._failure:
            raise Unreachable(f"{self._target}: {self._failure}")

    def warm(self, block: Block) -> None:
        """See ``Sender``."""
        self._grouping.group(block, 0, 0)
        self._frame(block, np.empty(0, dtype=np.int64))
        self._meter.note_sent(block.times_ns, self._grouping.order, 0, 0, 0, 0)

    def flush(self) -> None:
        """See ``Sender``."""
        self._producer.poll(0)

    def wait(self, seconds: float) -> None:
        """See ``Sender``."""
        self._producer.poll(seconds)

    def finish(self, seconds: float) -> None:
        """Wait for the last acknowledgements; raises Unreachable when some do not come."""
        left = self._producer.flush(seconds)
        self._check()
        if left:
            raise Unreachable(f"{self._target}: {left} messages were not acknowledged within {seconds:g} s")

    def close(self) -> None:
        """Forget what is not acknowledged."""
        self._producer.purge()
        self._producer.poll(0)


def read_topic(target: Target) -> Iterator[TopicRecord]:
    """All records of a topic up to its present end, without those of open and aborted transactions.

    Raises:
        Unreachable: no broker, no topic.
    """
    client = _client()
    settings: dict[str, Any] = {"group.id": "loadgen-verify", "enable.partition.eof": True, "enable.auto.commit": False}
    settings |= {"isolation.level": target.isolation, "auto.offset.reset": "earliest"}
    consumer = client.Consumer(_settings(target) | settings)
    try:
        left = set(_find(consumer, target))
        consumer.assign([client.TopicPartition(target.topic, number, client.OFFSET_BEGINNING) for number in left])
        last_seconds = time.monotonic()
        while left:
            messages = consumer.consume(READ_MESSAGES, READ_SECONDS)
            if messages:
                last_seconds = time.monotonic()
            elif time.monotonic() - last_seconds > CONNECT_SECONDS:
                raise Unreachable(f"{target}: nothing read for {CONNECT_SECONDS:g} s")
            for message in messages:
                error = message.error()
                if error is None:
                    headers = dict(message.headers() or ())
                    reason = (headers.get(_ERROR_HEADER) or b"").decode(errors="replace")
                    yield TopicRecord(b"%d" % message.partition(), message.value() or b"", reason)
                elif error.code() == client.KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                elif error.fatal():
                    raise Unreachable(f"{target}: {error}")
    finally:
        consumer.close()


def _find(handle: Any, target: Target) -> list[int]:
    """The partitions of the topic."""
    client = _client()
    try:
        told = handle.list_topics(target.topic, timeout=CONNECT_SECONDS).topics[target.topic]
    except client.KafkaException as error:
        raise Unreachable(f"{target}: cannot connect: {error.args[0].str()}") from None
    if told.error is not None or not told.partitions:
        raise Unreachable(f"{target}: {told.error.str() if told.error else 'the topic has no partitions'}")
    return list(told.partitions)
