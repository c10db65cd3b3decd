"""Deliveries cut into pieces and built into frames, against plain Python forms."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.errors import InternalError
from streamspec.core.segment import CONTENT_PACKETS
from streamspec.sinks.egress import Content, Framing
from streamspec.sinks.frame_kernels import count_outside, find_lines, list_datagrams
from streamspec.sinks.frames import FrameBuilder, Pieces, pieces_of
from streamspec.testing.deliveries import ListBatch, ListDelivery, make_delivery


def cut(delivery: ListDelivery, content: Content) -> list[bytes]:
    return [
        pieces.content[start : start + size].tobytes()
        for pieces in pieces_of(delivery, content)
        for start, size in zip(pieces.starts.tolist(), pieces.sizes.tolist(), strict=True)
    ]


def built(
    deliveries: list[ListDelivery], content: Content, framing: Framing, chunk_bytes: int = 1 << 20
) -> list[bytes]:
    return [bytes(c.content) for c in FrameBuilder(content, framing, chunk_bytes).chunks(ListBatch(deliveries))]


def lines(*records: bytes) -> list[tuple[str, memoryview]]:
    return [("flow", memoryview(b"".join(record + b"\n" for record in records)))]


def test_an_unchanged_payload_is_cut_into_its_messages() -> None:
    assert cut(make_delivery([b"one", b"", b"three"]), "payload") == [b"one", b"", b"three"]
    assert cut(make_delivery([b"frame"], content=CONTENT_PACKETS), "payload") == [b"frame"]


def test_a_transformed_payload_is_one_piece() -> None:
    assert cut(make_delivery([b"one", b"two"], payload=memoryview(b"zipped")), "payload") == [b"zipped"]
    assert cut(make_delivery([b"one", b"two"], payload=memoryview(b"eno" + b"owt")), "payload") == [b"enoowt"]


def test_a_payload_made_by_message_is_cut_into_the_results() -> None:
    results = [memoryview(b"1"), memoryview(b""), memoryview(b"three")]
    delivery = make_delivery([b"a", b"b", b"c"], payload=memoryview(b"1three"))
    delivery.messages = results
    assert cut(delivery, "payload") == [b"1", b"", b"three"]


def test_a_payload_without_packets_is_one_piece_and_none_is_nothing() -> None:
    opaque = memoryview(b"opaque")
    assert cut(ListDelivery(payload=opaque, original=opaque), "payload") == [b"opaque"]
    assert cut(ListDelivery(records=lines(b"{}")), "payload") == []


def test_records_are_cut_into_lines() -> None:
    delivery = make_delivery([b"payload"], records=lines(b'{"a":1}', b'{"b":2}') + lines(b'{"c":3}'))
    assert cut(delivery, "records") == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
    assert cut(make_delivery([b"payload"]), "records") == []


def test_a_table_beyond_its_payload_is_our_own_bug() -> None:
    delivery = make_delivery([b"one", b"two"])
    delivery.packets["captured_bytes"][1] = 4
    with pytest.raises(InternalError, match="beyond its payload"):
        cut(delivery, "payload")


@pytest.mark.parametrize(
    ("content", "framing", "stream"),
    [
        ("payload", "length", b"\0\0\0\1a\0\0\0\2bc"),
        ("payload", "newline", b"a\nbc\n"),
        ("payload", "raw", b"abc"),
        ("records", "length", b"\0\0\0\2{}\0\0\0\2[]"),
        ("records", "newline", b"{}\n[]\n"),
        ("records", "raw", b"{}\n[]\n"),
    ],
)
def test_framings(content: Content, framing: Framing, stream: bytes) -> None:
    assert built([make_delivery([b"a", b"bc"], records=lines(b"{}", b"[]"))], content, framing) == [stream]


def test_chunks_end_between_deliveries_and_count_them() -> None:
    batch = [make_delivery([b"x" * 40]), make_delivery([]), make_delivery([b"y" * 40]), make_delivery([b"z"])]
    chunks = list(FrameBuilder("payload", "newline", 60).chunks(ListBatch(batch)))
    assert [(len(chunk.content), chunk.segments) for chunk in chunks] == [(82, 2), (2, 1)]
    assert built([make_delivery([])], "payload", "newline") == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=8), max_size=8), st.integers(1, 900))
def test_length_frames_can_be_read_back(batch: list[list[bytes]], chunk_bytes: int) -> None:
    stream = b"".join(built([make_delivery(m) for m in batch], "payload", "length", chunk_bytes))
    assert stream == b"".join(struct.pack(">I", len(m)) + m for messages in batch for m in messages)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.binary(max_size=20), st.just(b"\n"))).map(b"".join), st.integers(0, 10))
def test_lines_are_found_as_by_split(text: bytes, room: int) -> None:
    expected = text.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    starts, sizes = np.zeros((2, room), dtype=np.uint32)
    content = np.frombuffer(text, dtype=np.uint8) if text else np.zeros(0, dtype=np.uint8)
    assert find_lines(content, starts, sizes) == len(expected)
    pairs = list(zip(starts.tolist(), sizes.tolist(), strict=True))[: len(expected)]
    assert [text[start : start + size] for start, size in pairs] == expected[:room]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 9), st.integers(0, 60), st.integers(1, 200))
def test_datagrams_are_listed_as_room_allows(sizes: list[int], capacity: int, largest: int, most: int) -> None:
    table: Any = np.array(sizes, dtype=np.uint32)
    starts: Any = np.cumsum(table, dtype=np.uint32) - table
    vectors, counts = np.zeros((capacity, 2), dtype=np.uint64), np.zeros(3, dtype=np.int64)
    listed: list[int] = []
    first = 0
    while True:
        following = list_datagrams(1000, starts, table, first, largest, most, vectors, counts)
        assert counts[0] <= capacity
        assert counts[1] == vectors[: counts[0], 1].sum() < most + largest + 1
        listed += [int(address) - 1000 for address in vectors[: counts[0], 0]]
        assert following == len(sizes) or counts[0] > 0
        first = following
        if following == len(sizes):
            break
        counts[:2] = 0
    assert listed == [int(starts[i]) for i in range(len(sizes)) if sizes[i] <= largest]
    assert counts[2] == sum(size > largest for size in sizes)


def test_pieces_outside_are_counted_without_overflow() -> None:
    edge = np.array([0xFFFFFFFF, 3], dtype=np.uint32)
    assert count_outside(edge, np.array([1, 1], dtype=np.uint32), 4) == 1
    assert Pieces(np.zeros(1, dtype=np.uint8), edge, edge).address > 0
