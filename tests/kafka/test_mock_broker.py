"""Source and sink on the mock broker inside the confluent-kafka wheel, where no real one can run.

It speaks the protocol and keeps a few megabytes per partition, and has no admin calls: a topic exists once it is
asked for. What only a real broker shows (restarts, transactions of a group, security) is not repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from streamspec.testing.deliveries import ListBatch, make_delivery
from tests.kafka.clients import reading
from tests.kafka.test_sink import writing

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="no confluent-kafka, so no mock broker")


@pytest.fixture
def mock() -> Iterator[str]:
    """Bootstrap servers of a mock cluster; it lives as long as the client that carries it."""
    carrier = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = carrier.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    carrier.purge()


async def test_records_pass_and_finished_ones_are_not_read_again(mock: str) -> None:
    async with writing(mock, "through-mock") as (sink, _):
        await sink.write(ListBatch([make_delivery([b"%d" % i], key=b"%d" % (i % 3)) for i in range(30)]))
    fields = {"topics": ["through-mock"], "group": "mock-group", "isolation": "read_uncommitted"}
    async with reading(mock, **fields) as (source, intake):
        found = await intake.wait_for(30, 20.0)
        assert sorted(int(c.payload) for c in found) == list(range(30))
        source.acknowledge(np.array([c.header["token"] for c in found], dtype=np.uint64))
    async with writing(mock, "through-mock") as (sink, _):
        await sink.write(ListBatch([make_delivery([b"last"], key=b"1")]))
    async with reading(mock, **fields) as (source, intake):
        (last,) = await intake.wait_for(1, 20.0)
        assert last.payload == b"last"
        source.acknowledge(np.array([last.header["token"]], dtype=np.uint64))
