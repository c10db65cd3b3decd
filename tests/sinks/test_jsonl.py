"""JSON lines in files: what is written, rotation, and what a crash leaves."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.errors import DependencyUnavailable, SinkError
from streamspec.core.tally import Tally
from streamspec.sinks import jsonl
from streamspec.sinks.jsonl import JsonlConfig, JsonlSink, LineFile
from streamspec.sinks.lines import timestamp_text
from streamspec.sinks.null import NullSinkConfig
from streamspec.sinks.stdout import StdoutConfig, StdoutSink
from streamspec.testing.deliveries import ListBatch, ListDelivery, make_delivery


def _config(path: Path, **options) -> JsonlConfig:
    text = f"{path}/" if path.suffix == "" else str(path)
    return JsonlConfig(type="jsonl", path=text, **options)


async def _write(config: JsonlConfig, *batches: list[ListDelivery]) -> Tally:
    tally = Tally()
    sink = JsonlSink("out", config)
    await sink.open(tally)
    for batch in batches:
        await sink.write(ListBatch(batch))
    await sink.close()
    return tally


def _segments(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _flow(number: int) -> tuple[str, memoryview]:
    return "flow", memoryview(b'{"flow":%d}\n' % number)


async def test_records_are_written_as_they_are_and_segments_with_their_facts(tmp_path: Path) -> None:
    delivery = make_delivery(
        [b"one", b"two"], source="src", key=b"10.0.0.1:53", segment_id=7, timestamp_ns=1_600_000_000_000_000_001
    )
    delivery.records = [_flow(1), ("alert", memoryview(b'{"alert":1}\n'))]
    await _write(_config(tmp_path / "out.jsonl", payload="text"), [delivery])
    flow, alert, segment = _segments(tmp_path / "out.jsonl")
    assert (flow, alert) == ({"flow": 1}, {"alert": 1})
    assert segment == {
        "record": "segment",
        "segment_id": 7,
        "source": "src",
        "key": "10.0.0.1:53",
        "timestamp": "2020-09-13T12:26:40.000000001Z",
        "packets": 2,
        "length": 6,
        "bytes_out": 6,
        "payload_encoding": "text",
        "payload": "onetwo",
    }


async def test_what_is_written_can_be_chosen(tmp_path: Path) -> None:
    delivery = make_delivery([b"\xff\x00"])
    delivery.records = [_flow(1), ("alert", memoryview(b'{"alert":1}\n'))]
    path = tmp_path / "a.jsonl"
    await _write(_config(path, write="records", types=("alert",)), [delivery])
    assert _segments(path) == [{"alert": 1}]
    path = tmp_path / "b.jsonl"
    await _write(_config(path, write="segments", payload="base64"), [delivery])
    (line,) = _segments(path)
    assert base64.b64decode(line["payload"]) == b"\xff\x00"


async def test_a_dead_letter_carries_its_error_and_the_payload_as_it_arrived(tmp_path: Path) -> None:
    letter = ListDelivery(error="stage x: it failed", original=memoryview(b"arrived"), payload=memoryview(b"half"))
    path = tmp_path / "dead.jsonl"
    await _write(_config(path, write="records", payload="text"), [letter])
    (line,) = _segments(path)
    assert (line["error"], line["payload"]) == ("stage x: it failed", "arrived")


async def test_records_of_a_reducer_make_no_segment_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    await _write(_config(path), [ListDelivery(segment_id=0, records=[_flow(9)])])
    assert _segments(path) == [{"flow": 9}]


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_files_rotate_by_size_and_old_ones_go(tmp_path: Path, compression: str) -> None:
    config = _config(tmp_path / "out", max_file_bytes=1024, keep_files=3, write="records", compression=compression)
    noise = random.Random(1)
    batches = [
        [ListDelivery(segment_id=0, records=[("x", memoryview(b'"%s"\n' % noise.randbytes(600).hex().encode()))])]
        for _ in range(8)
    ]
    tally = await _write(config, *batches)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(names) == 3
    assert all(name.startswith("streamspec-00000") for name in names)
    assert tally["rotations"] >= 4
    await _write(config, batches[0])
    assert (tmp_path / "out" / names[-1]).stat().st_size > 0, "the last file is continued"


async def test_a_named_file_keeps_its_name_when_it_rotates(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    await _write(_config(path, max_file_bytes=1024, write="records"), *[[_big(i)] for i in range(3)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.jsonl",
        "out.jsonl.000001",
        "out.jsonl.000002",
        "out.jsonl.000003",
    ]


def _big(number: int) -> ListDelivery:
    return ListDelivery(segment_id=0, records=[("x", memoryview(b'"%s"\n' % (b"%d" % number * 1200)))])


@given(
    st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=8), st.integers(0, 400)
)
@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_file_cut_anywhere_is_mended_to_whole_lines(compression: str, lines: list[bytes], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        config = _config(path, compression=compression)
        file = LineFile(config, Tally())
        for line in lines:
            file.append(memoryview(file.encode(line + b"\n")))
        file.close()
        content = path.read_bytes()
        path.write_bytes(content[: max(len(content) - cut, 0)])
        tally = Tally()
        file = LineFile(config, tally)
        file.append(memoryview(file.encode(b"after\n")))
        file.close()
        written = path.read_bytes()
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(written), read_across_frames=True)
            written = reader.read()
        got = written.split(b"\n")
        assert got.pop() == b""
        assert got.pop() == b"after"
        assert got == lines[: len(got)]
        assert not cut or len(content) - cut < 0 or tally["torn_bytes"] < 100 + cut


_CHILD = """
import asyncio, sys
from streamspec.core.tally import Tally
from streamspec.sinks.jsonl import JsonlConfig, JsonlSink
from streamspec.testing.deliveries import ListBatch, ListDelivery
async def main():
    sink = JsonlSink("out", JsonlConfig(type="jsonl", path=sys.argv[1], write="records"))
    await sink.open(Tally())
    number = 0
    while True:
        line = b'{"number":%d,"filler":"%s"}\\n' % (number, b"x" * (number % 5000))
        await sink.write(ListBatch([ListDelivery(segment_id=0, records=[("x", memoryview(line))])]))
        number += 1
        if number == 20:
            print("running", flush=True)
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_process_killed_while_writing_leaves_whole_lines_after_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with path.open("ab") as file:
            file.write(b'{"torn":')
        before = path.stat().st_size
        tally = await _write(_config(path), [])
        assert tally["torn_bytes"] >= 8
        assert path.stat().st_size < before
        assert all("number" in line for line in _segments(path))


async def test_a_full_disk_is_waited_for_and_nothing_is_lost_or_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "FULL_FIRST_SECONDS", 0.0)
    write, calls = os.write, []

    def full_at_times(fd: int, content: memoryview) -> int:
        calls.append(len(content))
        if len(calls) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, content[:7])

    sink = JsonlSink("out", _config(tmp_path / "out.jsonl"))
    tally = Tally()
    await sink.open(tally)
    monkeypatch.setattr(jsonl.os, "write", full_at_times)
    await sink.write(ListBatch([ListDelivery(segment_id=0, records=[_flow(1), _flow(2)])]))
    monkeypatch.undo()
    await sink.close()
    assert _segments(tmp_path / "out.jsonl") == [{"flow": 1}, {"flow": 2}]
    assert tally["disk_full_waits"] == 2


async def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DependencyUnavailable, match=r"sinks.out.path: cannot be written"):
        await _write(JsonlConfig(type="jsonl", path=str(tmp_path / "file" / "out.jsonl")), [])


async def test_standard_output_gets_the_same_lines_and_a_gone_reader_ends_it() -> None:
    readable, writable = os.pipe()
    sink = StdoutSink("out", StdoutConfig(type="stdout", write="records"), fd=writable)
    await sink.open(Tally())
    await sink.write(ListBatch([ListDelivery(segment_id=0, records=[_flow(3)])]))
    assert os.read(readable, 100) == b'{"flow":3}\n'
    os.close(readable)
    with pytest.raises(SinkError, match="reader of standard output is gone"):
        await sink.write(ListBatch([ListDelivery(segment_id=0, records=[_flow(4)])]))
    os.close(writable)
    await sink.close()


async def test_null_counts() -> None:
    sink = NullSinkConfig(type="null").build("out")
    tally = Tally()
    await sink.open(tally)
    await sink.write(ListBatch([ListDelivery(), ListDelivery()]))
    await sink.close()
    assert tally["deliveries"] == 2


def test_times_beyond_the_calendar_are_given_in_seconds() -> None:
    assert timestamp_text(0) == "1970-01-01T00:00:00.000000000Z"
    assert timestamp_text(-1) == "1969-12-31T23:59:59.999999999Z"
    assert timestamp_text(2**63 - 1).startswith("2262-04-11T")
    assert timestamp_text(10**30) == f"{10**21}.000000000"
