"""Each kind is what it says at every size, and the same for the same seed."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import zlib
from collections import Counter

import dpkt
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.kinds import KINDS
from loadgen.kinds.sensor import _ROW

SEEDS = st.integers(0, 2**32)
RFC5424 = re.compile(r"<(\d{1,3})>1 (\S+) (\S+) (\S+) (\S+) (\S+) (-|\[.+?\]) ?.*")
RFC3164 = re.compile(r"<(\d{1,3})>(May [ \d]\d \d\d:\d\d:\d\d )?.*")


@pytest.mark.parametrize("name", KINDS)
@given(seed=SEEDS, extra=st.integers(0, 3000))
@settings(deadline=None, max_examples=30)
def test_a_message_has_exactly_its_size_and_a_seed_repeats_it(name: str, seed: int, extra: int) -> None:
    kind = KINDS[name]
    size = kind.smallest_bytes + extra
    message = kind.generate(random.Random(seed), size)
    assert len(message) == size
    assert kind.generate(random.Random(seed), size) == message


def _made(name: str, size: int, count: int = 40) -> list[bytes]:
    rng = random.Random(11)
    return [KINDS[name].generate(rng, size) for _ in range(count)]


def _entropy(content: bytes) -> float:
    return -sum(n / len(content) * math.log2(n / len(content)) for n in Counter(content).values())


@pytest.mark.parametrize(
    ("name", "entropy", "ratio"),
    [
        ("http", (4.6, 5.6), (0.2, 0.45)),
        ("json", (4.3, 5.3), (0.1, 0.3)),
        ("tls", (7.6, 8.0), (0.9, 1.01)),
        ("dns", (1.0, 5.5), (0.05, 0.5)),
        ("sensor", (6.0, 7.4), (0.5, 0.8)),
        ("media", (7.9, 8.0), (0.9, 1.01)),
        ("syslog", (4.6, 5.6), (0.2, 0.5)),
        ("padding", (0.0, 3.2), (0.0, 0.02)),
        ("compressed", (7.9, 8.0), (0.98, 1.01)),
    ],
)
def test_entropy_and_compressibility_lie_in_the_ranges_of_real_traffic(
    name: str, entropy: tuple[float, float], ratio: tuple[float, float]
) -> None:
    content = b"".join(_made(name, 800))
    assert entropy[0] <= _entropy(content) <= entropy[1]
    assert ratio[0] <= len(zlib.compress(content)) / len(content) <= ratio[1]


@given(seed=SEEDS, size=st.integers(64, 4000))
@settings(deadline=None, max_examples=60)
def test_dns_is_valid_wire_format(seed: int, size: int) -> None:
    content = KINDS["dns"].generate(random.Random(seed), size)
    message = dpkt.dns.DNS(content)
    assert len(message.qd) == 1
    assert len(message.ar) == 1
    assert message.ar[0].type == 41
    assert message.ns == []
    assert all(answer.name == message.qd[0].name for answer in message.an)
    # the option fills the rest, so that the parts account for every byte
    assert len(message.ar[0].rdata) == 4 + int.from_bytes(message.ar[0].rdata[2:4], "big")


@given(seed=SEEDS, size=st.integers(8, 3000))
@settings(deadline=None, max_examples=60)
def test_json_is_an_object(seed: int, size: int) -> None:
    assert isinstance(json.loads(KINDS["json"].generate(random.Random(seed), size)), dict)


@given(seed=SEEDS, size=st.integers(27, 5000))
@settings(deadline=None, max_examples=60)
def test_http_is_a_whole_request_or_response(seed: int, size: int) -> None:
    content = KINDS["http"].generate(random.Random(seed), size)
    if content.startswith(b"HTTP/"):
        response = dpkt.http.Response(content)
        assert int(response.headers["content-length"]) == len(response.body)
        assert response.body.startswith(b"<!DOCTYPE html>")
    else:
        assert "host" in dpkt.http.Request(content).headers


@given(seed=SEEDS, size=st.integers(6, 40_000))
@settings(deadline=None, max_examples=60)
def test_tls_is_whole_records_and_hellos_parse(seed: int, size: int) -> None:
    content = KINDS["tls"].generate(random.Random(seed), size)
    first = dpkt.ssl.TLSRecord(content)
    if first.type == 22:
        hello = dpkt.ssl.TLSHandshake(first.data)
        names = dict(hello.data.extensions)
        assert b"example" in names[0] or b"test" in names[0]
        assert sum(len(value) + 4 for value in names.values()) > 0
    while content:
        length = int.from_bytes(content[3:5], "big")
        assert content[0] in (20, 22, 23)
        assert 1 <= length <= 16384 + 256
        assert len(content) >= 5 + length
        content = content[5 + length :]


@given(seed=SEEDS, size=st.integers(64, 4000))
@settings(deadline=None, max_examples=40)
def test_compressed_files_unpack_to_text(seed: int, size: int) -> None:
    content = KINDS["compressed"].generate(random.Random(seed), size)
    if content.startswith(b"\x1f\x8b"):
        plain = gzip.decompress(content)
    else:
        plain = b""
        rest = content
        while rest:
            part = zstandard.ZstdDecompressor().decompressobj()
            plain += part.decompress(rest)
            rest = part.unused_data
    plain.decode("ascii")
    assert len(plain) > 0.5 * size or size < 100


@given(seed=SEEDS, size=st.integers(14, 6000))
@settings(deadline=None, max_examples=60)
def test_media_is_an_rtp_packet_or_a_jpeg_file(seed: int, size: int) -> None:
    content = KINDS["media"].generate(random.Random(seed), size)
    if content.startswith(b"\xff\xd8"):
        assert content.endswith(b"\xff\xd9")
        scan = content[content.index(b"\xff\xda") + 2 : -2]
        assert not re.search(rb"\xff[^\x00]", scan)
        assert not scan.endswith(b"\xff")
    else:
        packet = dpkt.rtp.RTP(content)
        assert (packet.version, packet.pt) == (2, 96)


@given(seed=SEEDS, size=st.integers(16, 1200))
@settings(deadline=None, max_examples=60)
def test_syslog_is_one_line_of_either_rfc(seed: int, size: int) -> None:
    line = KINDS["syslog"].generate(random.Random(seed), size).decode("ascii")
    assert "\n" not in line
    found = RFC5424.fullmatch(line) or RFC3164.fullmatch(line)
    assert found is not None
    assert int(found[1]) < 192


def test_sensor_records_are_periodic_numbers() -> None:
    for content in _made("sensor", 16 + 24 * 40):
        rows = np.frombuffer(content[16:], dtype=_ROW)
        assert (np.diff(rows["milliseconds"].astype(np.int64)) == 10).all()
        assert ((rows["temperature"] > 10) & (rows["temperature"] < 45)).all()
        raw = np.frombuffer(content[16:], dtype=np.uint8).astype(float)
        shares = [float((raw[period:] == raw[:-period]).mean()) for period in range(1, 40)]
        assert int(np.argmax(shares)) + 1 == 24
