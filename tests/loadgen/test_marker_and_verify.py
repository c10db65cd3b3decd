"""Messages are found again by their markers, and a verdict says exactly what happened to them."""

from __future__ import annotations

import base64
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.audit import Audit, read_audit
from loadgen.errors import UsageError
from loadgen.kernels import stamp
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


@given(BODIES, st.integers(0, 2**40 - 1))
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
