"""Messages of job B, and how what was written is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.proof.harness import Wrong
from benchmarks.proof.job_b import BODY, HEAD, LINE, MESSAGE_BYTES, Lines
from benchmarks.proof.job_b_kernels import stamp
from benchmarks.proof.job_b_work import ParseSyslog
from streamspec.core.segment import PACKET
from streamspec.testing.stages import RecordingContext, StageSegment


def line(number: int) -> bytes:
    return LINE.replace(b"seq=0000000000", b"seq=%010d" % number)


def parsed(messages: list[bytes]) -> tuple[list[bytes], int]:
    payload = b"".join(messages)
    packets = np.zeros(len(messages), dtype=PACKET)
    packets["captured_bytes"] = [len(message) for message in messages]
    packets["offset"] = np.cumsum(packets["captured_bytes"]) - packets["captured_bytes"]
    context = RecordingContext()
    original = np.frombuffer(payload, dtype=np.uint8)
    ParseSyslog().process(StageSegment(original, packets, memoryview(payload)), context)
    return [line for _, lines in context.records for line in lines.split(b"\n")], context.tally["not_rfc5424"]


def test_the_stage_writes_the_lines_that_are_expected() -> None:
    rows = np.tile(np.frombuffer(HEAD + BODY, dtype=np.uint8), (3, 1))
    stamp(rows, (HEAD + BODY).index(b"0000000000 "), 9_999_999_998)
    messages = [row.tobytes() for row in rows]
    assert len(messages[0]) == MESSAGE_BYTES
    lines, left_out = parsed([messages[0], b"<13>1 - too short", b'<1>1 t h a p m - "quoted"', messages[1]])
    assert [one + b"\n" for one in lines] == [line(9_999_999_998), line(9_999_999_999)]
    assert left_out == 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=80), max_size=8))
def test_the_stage_survives_anything(messages: list[bytes]) -> None:
    lines, left_out = parsed([HEAD + BODY, *messages, HEAD + BODY])
    assert lines[0] + b"\n" == lines[-1] + b"\n" == LINE
    assert len(lines) + left_out == len(messages) + 2


def test_lines_are_taken_once_and_give_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "out"
    lines = Lines(path)
    assert lines.written() == 0
    path.write_bytes(line(5) + line(7) + line(6)[:50])
    assert lines.take().tolist() == [5, 7]
    path.write_bytes(line(5) + line(7) + line(6))
    assert lines.written() == 1
    assert lines.take().tolist() == [6]


def test_a_line_that_is_not_what_it_must_be_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(line(1) + line(2).replace(b"sensor-1", b"sensor-2"))
    with pytest.raises(Wrong, match="sensor-2"):
        Lines(tmp_path / "out").take()
