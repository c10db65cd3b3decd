"""The udp sink on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.tally import Tally
from streamspec.sinks.udp import BATCH_DATAGRAMS, UdpSink, UdpSinkConfig
from streamspec.testing.clock import ManualClock
from streamspec.testing.deliveries import ListBatch, ListDelivery, make_delivery

BOTH_LOOPS = True


@contextmanager
def receiver(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        one.bind((host, port))
        one.settimeout(5.0)
        yield one


def received(one: socket.socket, count: int) -> list[bytes]:
    return [one.recv(65536) for _ in range(count)]


@asynccontextmanager
async def reading(one: socket.socket) -> AsyncIterator[list[bytes]]:
    """Reads all the time into the list, so that the receive buffer of this host is always large enough."""
    messages: list[bytes] = []
    one.setblocking(False)

    def read() -> None:
        try:
            while True:
                messages.append(one.recv(65536))
        except BlockingIOError:
            pass

    loop = asyncio.get_running_loop()
    loop.add_reader(one.fileno(), read)
    try:
        yield messages
    finally:
        loop.remove_reader(one.fileno())


async def until_received(messages: list[bytes], count: int) -> list[bytes]:
    async with asyncio.timeout(5.0):
        while len(messages) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return messages


@asynccontextmanager
async def opened(address: tuple[Any, ...], **options: Any) -> AsyncIterator[tuple[UdpSink, Tally]]:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    seams = {key: options.pop(key) for key in ("clock", "sleep") if key in options}
    config = UdpSinkConfig.model_validate({"type": "udp", "address": f"{host}:{address[1]}", **options})
    sink, tally = UdpSink("out", config, **seams), Tally()
    await sink.open(tally)
    try:
        yield sink, tally
    finally:
        await sink.close()
        await sink.close()


def batch(*deliveries: ListDelivery) -> ListBatch:
    return ListBatch(deliveries)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_one_datagram_per_message(host: str) -> None:
    with receiver(host) as one:
        async with opened(one.getsockname(), content="payload") as (sink, tally):
            await sink.write(batch(make_delivery([b"one", b"", b"three"]), make_delivery([b"four"])))
            assert received(one, 4) == [b"one", b"", b"three", b"four"]
        assert tally.counts == {}


async def test_one_datagram_per_record_without_its_newline() -> None:
    with receiver() as one:
        async with opened(one.getsockname()) as (sink, _):
            await sink.write(batch(make_delivery([b"x"], records=[("flow", memoryview(b'{"a":1}\n{"b":2}\n'))])))
            assert received(one, 2) == [b'{"a":1}', b'{"b":2}']


async def test_a_transformed_payload_is_one_datagram() -> None:
    with receiver() as one:
        async with opened(one.getsockname(), content="payload") as (sink, _):
            await sink.write(batch(make_delivery([b"a", b"b"], payload=memoryview(b"squeezed"))))
            assert received(one, 1) == [b"squeezed"]


async def test_many_batches_of_datagrams_keep_their_order() -> None:
    messages = [b"%06d" % i for i in range(BATCH_DATAGRAMS + 50)]
    with receiver() as one:
        async with reading(one) as arrived, opened(one.getsockname(), content="payload") as (sink, tally):
            await sink.write(batch(make_delivery(messages[:70]), make_delivery(messages[70:])))
            assert await until_received(arrived, len(messages)) == messages
        assert tally.counts == {}


async def test_one_too_large_is_counted_and_the_rest_is_sent() -> None:
    with receiver() as one:
        async with opened(one.getsockname(), content="payload", max_datagram_bytes=100) as (sink, tally):
            await sink.write(batch(make_delivery([b"a", b"x" * 101, b"y" * 100]), make_delivery([b"z" * 999])))
            assert received(one, 2) == [b"a", b"y" * 100]
        assert tally.counts == {"datagram_too_large": 2}


async def test_the_largest_datagram_of_all() -> None:
    with receiver() as one:
        async with opened(one.getsockname(), content="payload") as (sink, tally):
            await sink.write(batch(make_delivery([b"m" * 65507, b"n" * 65508])))
            assert received(one, 1) == [b"m" * 65507]
        assert tally.counts == {"datagram_too_large": 1}


async def test_nobody_listening_is_counted_and_not_fatal() -> None:
    with receiver() as one:
        address = one.getsockname()
    async with opened(address, content="payload") as (sink, tally):
        for _ in range(3):
            await sink.write(batch(make_delivery([b"lost"] * 10)))
        assert tally["connection_refused"] > 3
        assert set(tally.counts) == {"connection_refused"}
        with receiver(*address) as one:
            await sink.write(batch(make_delivery([b"heard"] * 10)))
            assert received(one, 10) == [b"heard"] * 10


async def test_a_broken_socket_is_counted_datagram_by_datagram() -> None:
    with receiver() as one:
        async with opened(one.getsockname(), content="payload") as (sink, tally):
            assert sink._socket is not None
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), sink._socket.fileno())
            await sink.write(batch(make_delivery([b"a", b"b"])))
            assert tally.counts == {"send_errors": 6, "datagrams_unsent": 2}


async def test_a_limit_of_rate_is_kept() -> None:
    clock, slept = ManualClock(), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    with receiver() as one:
        options = {"content": "payload", "bytes_per_second": "1 MB/s", "clock": clock, "sleep": sleep}
        async with reading(one) as arrived, opened(one.getsockname(), **options) as (sink, _):
            await sink.write(batch(make_delivery([b"x" * 1000] * 200)))
            await sink.write(batch(make_delivery([b"x" * 1000] * 100)))
            assert len(await until_received(arrived, 300)) == 300
    burst = UdpSinkConfig(type="udp", address="h:1", bytes_per_second=1e6).burst_bytes
    assert sum(slept) == pytest.approx((300_000 - burst) / 1e6)
    assert max(slept) <= 2 * burst / 1e6


@pytest.mark.root
async def test_the_class_of_priority_is_set() -> None:
    with receiver() as one:
        async with opened(one.getsockname(), priority_class="1:10") as (sink, _):
            assert sink._socket is not None
            assert sink._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 0x10010


@pytest.mark.parametrize("address", ["nowhere.invalid:9", "[fe80::1%nonexistent]:9"])
async def test_an_address_that_cannot_be_sent_to(address: str) -> None:
    sink = UdpSinkConfig(type="udp", address=address).build("out")
    with pytest.raises(DependencyUnavailable, match=r"sinks.out.address: cannot send there"):
        await sink.open(Tally())
    await sink.close()


async def test_a_cancelled_write_leaves_nothing_for_the_next() -> None:
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.get_running_loop().create_future()

    with receiver() as one:
        options = {"content": "payload", "bytes_per_second": "1 kB/s", "sleep": sleep}
        async with opened(one.getsockname(), **options) as (sink, _):
            write = asyncio.create_task(sink.write(batch(make_delivery([b"x" * 1000] * 40))))
            await asyncio.wait_for(waiting.wait(), 5.0)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            sink._pacer._bucket = None
            await sink.write(batch(make_delivery([b"next"])))
            while (message := one.recv(65536)) != b"next":
                assert message == b"x" * 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "9000"},
        {"content": "all"},
        {"max_datagram_bytes": 65508},
        {"bytes_per_second": 0},
        {"priority_class": "10"},
        {"priority_class": "1:g"},
        {"priority_class": "12345:1"},
        {"framing": "length"},
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        UdpSinkConfig.model_validate({"type": "udp", "address": "127.0.0.1:9", **fields})
