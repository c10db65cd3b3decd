"""Inferred types: every kind of message, votes of several, real captures and files."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.segment import LINK_ETHERNET
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiler.report import join_packets
from streamspec.profiler.types import MOST_MESSAGES
from tests.profiler.conftest import manifest, read_capture
from tests.profiler.samples import MESSAGES, dns_query, ethernet, protobuf, tcp_frame, tls_record, udp4

NOISE = random.Random(11).randbytes(900)


def infer(profiler: Profiler, *contents: Content) -> list[str]:
    codes = profiler.profile_contents(contents)[:, FEATURE_INDEX["type_code"]]
    return [TYPE_NAMES[int(code)] for code in codes]


def test_there_is_an_example_of_every_type() -> None:
    assert set(MESSAGES) == set(TYPE_NAMES)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_each_kind_is_recognised(whole: Profiler, name: str) -> None:
    for message in MESSAGES[name]:
        assert infer(whole, Content(message)) == [name], message[:40]


@pytest.mark.parametrize("name", MESSAGES)
def test_and_within_packets_too(whole: Profiler, name: str) -> None:
    for message in MESSAGES[name]:
        for frame in (tcp_frame(message), ethernet(udp4(message))):
            assert infer(whole, join_packets([frame], LINK_ETHERNET)) == [name], message[:40]


def test_packets_without_content_have_no_vote(whole: Profiler) -> None:
    acknowledgement = tcp_frame(b"")
    stream = [acknowledgement] * 5 + [tcp_frame(b"GET / HTTP/1.1\r\n\r\n")] + [acknowledgement] * 30
    assert infer(whole, join_packets(stream, LINK_ETHERNET)) == ["http"]
    assert infer(whole, join_packets([acknowledgement] * 30, LINK_ETHERNET)) == ["unknown"]


def test_the_first_message_names_what_its_body_cannot_tell(whole: Profiler) -> None:
    body = [tcp_frame(b"HTTP/1.1 200 OK\r\n\r\n")] + [tcp_frame(NOISE)] * 50
    assert infer(whole, join_packets(body, LINK_ETHERNET)) == ["http"]


def test_one_message_among_many_others_does_not_name_the_segment(whole: Profiler) -> None:
    messages = [NOISE] * 20
    messages[20 // MOST_MESSAGES] = dns_query()
    assert infer(whole, join_packets(messages, -1)) == ["unknown"]


def test_the_majority_wins(whole: Profiler) -> None:
    messages = [tls_record()] * 3 + [dns_query()] * 5
    assert infer(whole, join_packets(messages, -1)) == ["dns"]


def test_ports_name_what_is_encrypted_and_nothing_else(whole: Profiler) -> None:
    def one(payload: bytes, *ports: int) -> list[str]:
        return infer(whole, join_packets([tcp_frame(payload, (ports[0], ports[1]))], LINK_ETHERNET))

    assert one(NOISE, 50000, 443) == ["tls"]
    assert one(NOISE, 22, 50000) == ["ssh"]
    assert one(NOISE, 50000, 80) == ["unknown"]
    assert one(b"HTTP/1.1 200 OK\r\n\r\n", 443, 50000) == ["http"]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 13), st.data())
def test_a_table_that_lies_is_harmless(kind: int, data: st.DataObject) -> None:
    profiler = Profiler(sample_bytes=0)
    content = join_packets([tcp_frame(m)[:1400] for m in MESSAGES[TYPE_NAMES[kind]]], LINK_ETHERNET)
    table = content.packets
    assert table is not None
    for column in ("offset", "captured_bytes"):
        table[column] = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(table), max_size=len(table)))
    assert infer(profiler, content)[0] in TYPE_NAMES


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2**63 - 1) | st.binary(max_size=60) | st.floats(), min_size=4, max_size=12))
def test_what_protobuf_encodes_is_protobuf_or_looks_like_something_stricter(fields: list[int | bytes | float]) -> None:
    profiler = Profiler(sample_bytes=0)
    assert infer(profiler, Content(protobuf([3, *fields])))[0] != "unknown" or _is_text(protobuf([3, *fields]))


def _is_text(message: bytes) -> bool:
    return all(byte in b"\t\n\r\v\f" or 0x20 <= byte < 0x7F or 0x80 <= byte <= 0xF4 for byte in message[:64])


def test_random_bytes_are_seldom_taken_for_anything(whole: Profiler) -> None:
    noise = random.Random(13)
    found = Counter(infer(whole, *(Content(noise.randbytes(noise.randrange(20, 1500))) for _ in range(5000))))
    assert found["unknown"] > 4900


# -- real content -----------------------------------------------------------------------------
LABELLED = {
    "DNS": ("dns", 0.95),
    "TLS": ("tls", 0.85),
    "QUIC": ("quic", 0.8),
    "SSH": ("ssh", 0.9),
    "HTTP": ("http", 0.65),
}
"""What the collection says of a capture, what is to be inferred, and for how many at least."""

OTHERS = {
    "MODBUS",
    "S7COMM",
    "DNP3",
    "ENIP",
    "NTP",
    "SNMP",
    "BGP",
    "GRE",
    "ICMP",
    "MQTT",
    "DHCP",
    "SMB",
    "NFS",
    "GTP-U",
}
"""Protocols that have no type of their own."""


def _label(entry: dict[str, str]) -> str:
    """The protocol that makes up most of a capture, or nothing."""
    first = entry["detected_top"].split(";")[0]
    name, _, share = first.rpartition(":")
    return name if name and float(share) >= 0.6 else ""


@pytest.mark.slow
@pytest.mark.captures
def test_real_captures_are_named_as_their_collection_does(captures: Path, sampling: Profiler) -> None:
    named: dict[str, Counter[str]] = {}
    for entry in manifest(captures):
        label = _label(entry)
        if label not in LABELLED and label not in OTHERS:
            continue
        capture = list(itertools.islice(read_capture(captures / entry["file"]), 2000))
        sizes = itertools.accumulate(len(packet) for _, packet in capture)
        packets = [packet for (_, packet), size in zip(capture, sizes, strict=True) if size <= 65536]
        if packets:
            (kind,) = infer(sampling, join_packets(packets, capture[0][0]))
            named.setdefault(label, Counter())[kind] += 1
    for label, (kind, least) in LABELLED.items():
        assert named[label][kind] >= least * named[label].total(), named[label]
    others = sum((named.get(label, Counter()) for label in OTHERS), Counter())
    assert others["unknown"] >= 0.93 * others.total(), others


@pytest.mark.captures
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("simdjson__twitter.json", "json"),
        ("opentelemetry-proto__trace.json", "json"),
        ("snappy__fireworks.jpeg", "image"),
        ("snappy__geo.protodata", "protobuf"),  # behind the header of its container
        ("snappy__alice29.txt", "unknown"),
        ("snappy__html", "unknown"),
    ],
)
def test_real_files_are_recognised_from_their_beginning(captures: Path, whole: Profiler, file: str, kind: str) -> None:
    path = captures.parent / "payloads" / file
    if not path.is_file():
        pytest.skip("no folder of real payloads beside the captures")
    skipped = 14 if kind == "protobuf" else 0
    assert infer(whole, Content(path.read_bytes()[skipped:65536])) == [kind]


@pytest.mark.captures
def test_real_json_is_recognised_wherever_it_is_cut(captures: Path, whole: Profiler) -> None:
    path = captures.parent / "payloads" / "simdjson__twitter.json"
    if not path.is_file():
        pytest.skip("no folder of real payloads beside the captures")
    text = path.read_bytes()
    pieces = [Content(text[at : at + 16384]) for at in range(0, len(text), 16384)]
    assert np.mean([kind == "json" for kind in infer(whole, *pieces)]) >= 0.7
