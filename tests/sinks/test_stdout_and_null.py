"""Lines on a descriptor, and nowhere."""

from __future__ import annotations

import asyncio
import os

import pytest

from streamspec.core.errors import SinkError
from streamspec.core.tally import Tally
from streamspec.sinks.null import NullSinkConfig
from streamspec.sinks.stdout import StdoutConfig, StdoutSink
from streamspec.testing.deliveries import ListBatch, ListDelivery


def _batch(size: int = 0) -> ListBatch:
    line = b'{"flow":"%s"}\n' % (b"x" * size)
    return ListBatch([ListDelivery(segment_id=0, records=[("flow", memoryview(line))])])


async def test_standard_output_gets_lines_and_a_gone_reader_ends_it() -> None:
    readable, writable = os.pipe()
    sink = StdoutSink("out", StdoutConfig(type="stdout", write="records"), fd=writable)
    tally = Tally()
    await sink.open(tally)
    await sink.write(_batch())
    assert os.read(readable, 100) == b'{"flow":""}\n'
    assert tally.counts == {"bytes": 12}
    os.close(readable)
    with pytest.raises(SinkError, match=r"sinks.out: the reader of standard output is gone; next: keep the reader"):
        await sink.write(_batch())
    os.close(writable)
    await sink.close()


async def test_a_slow_reader_is_waited_for_even_when_the_descriptor_does_not_block() -> None:
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    sink = StdoutSink("out", StdoutConfig(type="stdout"), fd=writable)
    await sink.open(Tally())
    task = asyncio.create_task(sink.write(_batch(1_000_000)))
    got = b""
    while not got.endswith(b"\n"):
        got += await asyncio.to_thread(os.read, readable, 1 << 20)
    await task
    assert len(got) == 1_000_012
    os.close(readable)
    os.close(writable)


async def test_null_counts_and_looks_at_nothing() -> None:
    class Unread(ListBatch):
        def __iter__(self):
            raise AssertionError("a delivery was looked at")

    sink = NullSinkConfig(type="null").build("out")
    tally = Tally()
    await sink.open(tally)
    await sink.write(Unread([ListDelivery(), ListDelivery()]))
    await sink.close()
    assert tally["deliveries"] == 2
