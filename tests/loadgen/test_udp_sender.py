"""Datagrams at the system call: what arrives, and what a closed port means."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.batch import Grouping, Marking
from loadgen.clock import SystemClock
from loadgen.errors import Unreachable, UsageError
from loadgen.load import run_load
from loadgen.marker import MARKER_BYTES, find_markers
from loadgen.meter import Meter
from loadgen.pool import make_pool
from loadgen.scenario import Rate
from loadgen.schedule import Block
from loadgen.target import parse_target
from loadgen.udp import RefusalWatch, UdpSender

SECOND = 1_000_000_000


@pytest.fixture
def port() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        yield receiver


def _block(keys: list[int], bodies: list[bytes]) -> Block:
    pool = make_pool(bodies, [0] * len(bodies), ("x",))
    messages = np.arange(len(keys), dtype=np.int32) % len(bodies)
    return Block(np.arange(len(keys), dtype=np.int64), np.array(keys, dtype=np.int32), messages, pool, "phase")


@pytest.mark.parametrize("marked", [False, True])
def test_each_key_has_its_port_and_its_order(port: socket.socket, marked: bool) -> None:
    bodies = [b"%03d" % n * (n + 1) for n in range(50)]
    keys = [(n * 7) % 3 for n in range(50)]
    marking = Marking(5, np.zeros(3, dtype=np.int64)) if marked else None
    meter = Meter()
    target = parse_target(f"udp://127.0.0.1:{port.getsockname()[1]}")
    sender = UdpSender(target, 3, meter, SystemClock(), marking=marking)
    sender.begin(0, 1_000)
    assert sender.take(_block(keys, bodies), 0, 50) == 50
    by_peer: dict[int, list[bytes]] = {}
    for _ in range(50):
        content, (_, peer) = port.recvfrom(65536)
        by_peer.setdefault(peer, []).append(content)
    sender.close()
    assert sender.sent.tolist() == [keys.count(key) for key in range(3)]
    assert meter.messages == 50
    assert meter.bytes == sum(map(len, bodies)) + 50 * MARKER_BYTES * marked
    arrived = sorted(by_peer.values(), key=lambda messages: messages[0][-3:])
    expected = [[body for body, k in zip(bodies, keys, strict=True) if k == key] for key in (0, 1, 2)]
    if marked:
        for messages in arrived:
            found = [next(find_markers(message)) for message in messages]
            assert {f.state for f in found} == {"intact"}
            assert [f.sequence for f in found] == list(range(len(found)))
            assert len({f.key for f in found}) == 1
        arrived = [[message[MARKER_BYTES:] for message in messages] for messages in arrived]
    assert sorted(arrived) == sorted(expected)


@given(st.lists(st.integers(0, 6), max_size=40), st.data())
@settings(deadline=None, max_examples=60)
def test_grouping_by_key_is_a_stable_sort(keys: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(keys)))
    last = data.draw(st.integers(first, len(keys)))
    grouping = Grouping(7, 40)
    groups = grouping.group(_block(keys, [b"x"]), first, last)
    order = grouping.order.tolist()
    assert [order[a:b] for _, a, b in groups] == [
        rows for key in range(7) if (rows := [row for row in range(first, last) if keys[row] == key])
    ]
    assert [key for key, _, _ in groups] == sorted(set(keys[first:last]))


@pytest.mark.parametrize(
    ("refusals", "now", "steady", "lately"),
    [
        ([], 0, False, False),
        ([0.0], 0.5, False, True),
        ([0.0], 5.0, False, False),
        ([0.0, 1.0, 2.0, 2.9], 3.0, False, True),
        ([0.0, 1.0, 2.0, 3.0], 3.0, True, True),
        ([0.0, 1.0, 3.5, 4.5], 5.0, False, True),  # it was open in between
        ([0.0, 1.9, 3.8], 9.0, True, False),
    ],
)
def test_only_steady_refusals_mean_that_nobody_listens(
    refusals: list[float], now: float, steady: bool, lately: bool
) -> None:
    watch = RefusalWatch()
    for seconds in refusals:
        watch.note(100 * SECOND + round(seconds * SECOND))
    assert watch.steady() == steady
    assert watch.lately(100 * SECOND + round(now * SECOND)) == lately


@pytest.mark.slow
def test_a_port_that_is_closed_at_the_end_is_told(port: socket.socket) -> None:
    to = f"udp://127.0.0.1:{port.getsockname()[1]}"
    port.close()
    report = run_load("mixed", to, seconds=0.3, rate=Rate(messages_per_second=1000), keys=2)
    assert report.refused_sends > 0
    assert "nobody listens" in report.error


def test_a_message_that_fits_no_datagram_is_a_usage_error(port: socket.socket) -> None:
    target = parse_target(f"udp://127.0.0.1:{port.getsockname()[1]}")
    sender = UdpSender(target, 1, Meter(), SystemClock())
    sender.begin(0, 0)
    with pytest.raises(UsageError, match="too long for a datagram"):
        sender.take(_block([0], [bytes(65_508)]), 0, 1)
    sender.close()


def test_a_network_that_is_not_there_is_unreachable() -> None:
    target = parse_target("udp://no-such-host.invalid:9")
    with pytest.raises(Unreachable, match="cannot resolve"):
        UdpSender(target, 1, Meter(), SystemClock())
