"""Messages are found again by their markers, and a verdict says exactly what happened to them."""

from __future__ import annotations

import base64
import gzip
import json
import random
import tempfile
from itertools import pairwise
from pathlib import Path

import dpkt
import lz4.frame
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import records
from loadgen.audit import Audit, read_audit
from loadgen.errors import UsageError
from loadgen.kernels import pack_records, stamp
from loadgen.marker import MARKER_BYTES, find_markers, open_end, write_marker
from loadgen.pool import make_pool
from loadgen.verify import verify

RUN = 0xABCDEF01
BODIES = st.lists(st.binary(max_size=60), min_size=1, max_size=8)


def _message(key: int, sequence: int, body: bytes, run: int = RUN) -> bytes:
    return write_marker(run, key, sequence, 1_700_000_000_000_000_000 + sequence, body) + body


@given(BODIES)
@settings(deadline=None)
def test_all_messages_of_a_payload_are_found(bodies: list[bytes]) -> None:
    payload = b"".join(_message(3, i, body) for i, body in enumerate(bodies))
    found = list(find_markers(payload))
    assert [(f.key, f.sequence, f.state) for f in found] == [(3, i, "intact") for i in range(len(bodies))]
    assert [payload[f.start + MARKER_BYTES : f.end] for f in found] == bodies


@given(BODIES, st.data())
@settings(deadline=None)
def test_a_changed_byte_is_never_intact(bodies: list[bytes], data: st.DataObject) -> None:
    payload = bytearray(b"".join(_message(0, i, body) for i, body in enumerate(bodies)))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    intact = [f.sequence for f in find_markers(bytes(payload)) if f.state == "intact"]
    assert len(intact) == len(bodies) - 1


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_hold_no_intact_message(payload: bytes) -> None:
    assert not [f for f in find_markers(payload) if f.state == "intact"]
    assert 0 <= open_end(payload) <= len(payload)


@given(BODIES, st.integers(0, 2**40 - 9))  # numbers of ten digits, the last of eight bodies included
@settings(deadline=None, max_examples=50)
def test_the_kernel_writes_the_same_markers(bodies: list[bytes], sequence: int) -> None:
    pool = make_pool(bodies, [0] * len(bodies), ("x",))
    rows = np.arange(len(bodies), dtype=np.int64)
    columns = rows * 7, np.full(len(bodies), 2, dtype=np.int32), rows.astype(np.int32)
    memory = np.zeros(len(bodies) * MARKER_BYTES, dtype=np.uint8)
    sequences = np.array([0, 0, sequence], dtype=np.int64)
    stamp(columns, rows, len(rows), pool.columns, sequences, RUN, 1000, memory, rows * MARKER_BYTES)
    for index, body in enumerate(bodies):
        marker = memory[index * MARKER_BYTES : (index + 1) * MARKER_BYTES].tobytes()
        assert marker == write_marker(RUN, 2, sequence + index, 1000 + index * 7, body)
    assert sequences[2] == sequence + len(bodies)


def _sink(path: Path, messages: list[bytes], encoding: str = "base64") -> Path:
    rng = random.Random(1)
    with path.open("wb") as file:
        while messages:
            count = rng.randint(1, 5)
            payload, messages = b"".join(messages[:count]), messages[count:]
            text = base64.b64encode(payload).decode() if encoding == "base64" else payload.decode()
            line = json.dumps({"record": "segment", "payload_encoding": encoding, "payload": text}).encode() + b"\n"
            file.write(line if path.suffix != ".zst" else zstandard.compress(line))
    return path


def _traffic(keys: int = 3, count: int = 40) -> list[tuple[int, int]]:
    return [(key, sequence) for sequence in range(count) for key in range(keys)]


@pytest.mark.parametrize(("name", "encoding"), [("a.jsonl", "base64"), ("a.jsonl", "text"), ("a.jsonl.zst", "base64")])
def test_everything_there_passes(tmp_path: Path, name: str, encoding: str) -> None:
    messages = [_message(k, s, b"body %d" % s) for k, s in _traffic()]
    verdict = verify(Audit(RUN, [40] * 3, complete=True), [_sink(tmp_path / name, messages, encoding)])
    assert verdict.passes()
    assert (verdict.sent, verdict.found) == (120, 120)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_exactly_the_injected_faults_are_found(data: st.DataObject) -> None:
    traffic = _traffic()
    index = st.integers(0, len(traffic) - 1)
    lost = data.draw(st.sets(index, max_size=5))
    corrupt = data.draw(st.sets(index, max_size=5)) - lost
    twice = data.draw(st.sets(index, max_size=5)) - lost - corrupt
    messages = []
    for i, (key, sequence) in enumerate(traffic):
        message = bytearray(_message(key, sequence, b"the body"))
        if i in corrupt:
            message[-1] ^= 1
        messages += [] if i in lost else [bytes(message)] * (2 if i in twice else 1)
    with tempfile.TemporaryDirectory() as folder:
        verdict = verify(Audit(RUN, [40] * 3, complete=True), [_sink(Path(folder) / "a.jsonl", messages)])
    assert verdict.lost == len(lost) + len(corrupt)
    assert verdict.corrupt == len(corrupt)
    assert verdict.duplicated == len(twice)
    assert verdict.out_of_order == 0
    assert verdict.passes(allow_duplicates=True) == (not lost and not corrupt)
    assert verdict.passes() == (not lost and not corrupt and not twice)


def test_disorder_and_other_runs_are_told_apart(tmp_path: Path) -> None:
    traffic = _traffic(keys=2, count=5)
    messages = [_message(k, s, b"x") for k, s in traffic]
    messages[0], messages[4] = messages[4], messages[0]  # 0:0 <-> 0:2
    messages.append(_message(0, 0, b"x", run=7))
    messages.append(_message(0, 99, b"x"))
    verdict = verify(Audit(RUN, [5, 5], complete=False), [_sink(tmp_path / "a.jsonl", messages)])
    assert (verdict.lost, verdict.duplicated, verdict.other_runs, verdict.beyond_audit) == (0, 0, 1, 1)
    assert verdict.out_of_order == 2
    assert verdict.out_of_order_examples == ["0:1", "0:0"]
    assert "not complete" in verdict.text()


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("neither this nor that")
    with pytest.raises(UsageError, match="x:1: not JSON lines"):
        verify(Audit(RUN, [1]), [tmp_path / "x"])
    with pytest.raises(UsageError, match="cannot read"):
        verify(Audit(RUN, [1]), [tmp_path / "absent"])
    with pytest.raises(UsageError, match="not an audit file"):
        read_audit(tmp_path / "x")
    Audit(RUN, [3, 4], complete=True).write(tmp_path / "audit")
    assert read_audit(tmp_path / "audit").sent == [3, 4]


@given(BODIES, st.lists(st.integers(0, 800), max_size=12))
@settings(deadline=None, max_examples=100)
def test_messages_that_pieces_of_a_stream_cut_are_put_together(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(b"\0\0\0\7" + _message(0, i, body) for i, body in enumerate(bodies))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        with path.open("w") as file:
            for start, end in pairwise(edges):
                for key, piece in (("one", stream[start:end]), ("other", b"@LG1:noise")):
                    line = {"key": key, "payload_encoding": "base64", "payload": base64.b64encode(piece).decode()}
                    file.write(json.dumps(line) + "\n")
        verdict = verify(Audit(RUN, [len(bodies)], complete=True), [path])
    assert verdict.passes(), verdict.text()


def test_a_message_that_the_end_cuts_off_is_lost_and_corrupt(tmp_path: Path) -> None:
    messages = [_message(0, i, b"0123456789") for i in range(3)]
    messages[2] = messages[2][:-3]
    verdict = verify(Audit(RUN, [3], complete=True), [_sink(tmp_path / "a.jsonl", messages)])
    assert (verdict.found, verdict.lost, verdict.corrupt) == (2, 1, 1)
    assert verdict.lost_examples == ["0:2"]


@pytest.mark.parametrize("codec", ["zstd", "lz4", "gzip", "dictionary"])
def test_payloads_that_a_stage_compressed_are_decompressed(tmp_path: Path, codec: str) -> None:
    plain = b"".join(_message(0, i, b"body of a message %d" % i) for i in range(50))
    dictionary = zstandard.ZstdCompressionDict(b"body of a message " * 50)
    with_dictionary = zstandard.ZstdCompressor(dict_data=dictionary)
    compress = {
        "zstd": zstandard.compress,
        "lz4": lz4.frame.compress,
        "gzip": gzip.compress,
        "dictionary": with_dictionary.compress,
    }
    sink = _sink(tmp_path / "a.jsonl", [compress[codec](plain)])
    audit = Audit(RUN, [50], complete=True)
    given_dictionary = dictionary.as_bytes() if codec == "dictionary" else None
    assert verify(audit, [sink], dictionary=given_dictionary).passes()
    if codec == "dictionary":
        without = verify(audit, [sink])
        assert (without.lost, without.unreadable) == (50, 1)
        assert without.lost_examples == ["0:0-49"]


def test_dead_letters_are_no_results_and_not_lost(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for sequence, error in enumerate(["", "stage failed", ""]):
            payload = _message(0, sequence, b"x").decode()
            line = {"payload": payload, "payload_encoding": "text"} | ({"error": error} if error else {})
            file.write(json.dumps(line) + "\n")
        file.write('{"record": "segment", "payl')  # torn by a crash
    verdict = verify(Audit(RUN, [3], complete=True), [tmp_path])
    assert (verdict.found, verdict.lost, verdict.dead_lettered, verdict.torn) == (2, 0, 1, 1)
    assert "dead lettered 1" in verdict.text()
    assert not verdict.passes()
    assert verdict.passes(allow_dead_letters=True)


@pytest.mark.parametrize("link_type", [147, 1])
def test_captures_are_sinks(tmp_path: Path, link_type: int) -> None:
    with (tmp_path / "a.pcap").open("wb") as file:
        writer = dpkt.pcap.Writer(file, linktype=link_type, nano=True)
        for sequence in range(5):
            content = _message(0, sequence, b"in a packet")
            if link_type == 1:
                udp = dpkt.udp.UDP(sport=1, dport=2, data=content, ulen=8 + len(content))
                ip = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=17, data=udp, len=28 + len(content))
                content = bytes(dpkt.ethernet.Ethernet(data=ip))
            writer.writepkt_time(content, 1_700_000_000.25) if sequence else writer.writepkt_time(
                content, 1_700_000_001
            )
    verdict = verify(Audit(RUN, [5], complete=True), [tmp_path / "a.pcap"])
    assert verdict.passes()
    assert verdict.latency_seconds is not None
    assert verdict.latency_seconds["max"] == pytest.approx(1.0, abs=1e-3)


@given(st.lists(st.tuples(st.integers(0, 2**63), st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=6))
@settings(deadline=None, max_examples=50)
def test_records_are_read_back_and_a_torn_end_is_left_out(rows: list[tuple[int, int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        whole = records.MAGIC + b"".join(records.write_record(*row) for row in rows)
        path.write_bytes(whole)
        assert [tuple(record) for record in records.read_records(path)] == rows
        if rows:
            path.write_bytes(whole[:-1])
            assert len(list(records.read_records(path))) == len(rows) - 1


@given(st.lists(st.binary(max_size=30), max_size=6), st.integers(0, 2**62))
@settings(deadline=None, max_examples=30)
def test_the_kernel_packs_the_same_records(datagrams: list[bytes], time_ns: int) -> None:
    memory = np.frombuffer(b"".join(d.ljust(32, b"?") for d in datagrams) or b"?", dtype=np.uint8)
    lengths = np.array([len(d) for d in datagrams], dtype=np.uint32)
    output = np.zeros(6 * (32 + records.HEAD_BYTES), dtype=np.uint8)
    size = pack_records(memory, 32, lengths, len(datagrams), time_ns, output)
    assert output[:size].tobytes() == b"".join(records.write_record(time_ns, 0, d) for d in datagrams)


def test_a_reversed_stream_is_all_out_of_order(tmp_path: Path) -> None:
    messages = [_message(0, i, b"") for i in reversed(range(10_000))]
    verdict = verify(Audit(RUN, [10_000], complete=True), [_sink(tmp_path / "a.jsonl", messages)])
    assert verdict.out_of_order == 9_999
    assert len(verdict.out_of_order_examples) == 10
