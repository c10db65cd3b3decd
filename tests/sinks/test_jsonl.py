"""The sink on real files: processes that are killed, disks that are full, what a configuration may say."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from streamspec.config import parse_config
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.tally import Tally
from streamspec.sinks import jsonl
from streamspec.sinks.jsonl import JsonlConfig, JsonlSink
from streamspec.testing.clock import ManualClock
from streamspec.testing.deliveries import ListBatch, ListDelivery
from streamspec.testing.virtual_time import run_in_virtual_time
from streamspec.testing.waiting import until


def _config(path: Path | str, **options) -> JsonlConfig:
    return JsonlConfig(type="jsonl", path=str(path), write="records", **options)


def _batch(*lines: bytes) -> ListBatch:
    return ListBatch([ListDelivery(segment_id=0, records=[("x", memoryview(line + b"\n"))]) for line in lines])


async def _write(config: JsonlConfig, *batches: ListBatch) -> Tally:
    tally = Tally()
    sink = JsonlSink("out", config)
    await sink.open(tally)
    for batch in batches:
        await sink.write(batch)
    await sink.close()
    return tally


async def test_batches_are_appended_over_restarts(tmp_path: Path) -> None:
    config = _config(f"{tmp_path}/new/folder/")
    tally = await _write(config, _batch(b"1", b"2"), _batch(), _batch(b"3"))
    assert tally.counts == {"bytes": 6}
    await _write(config, _batch(b"4"))
    assert (tmp_path / "new" / "folder" / "streamspec-000001.jsonl").read_bytes() == b"1\n2\n3\n4\n"


async def test_rotation_compression_and_mending_are_counted(tmp_path: Path) -> None:
    config = _config(tmp_path / "out", max_file_bytes="1 KiB", keep_files=2, compression="zstd")
    noise = [b'"%s"' % os.urandom(2000).hex().encode() for _ in range(3)]
    tally = await _write(config, *map(_batch, noise))
    assert tally["rotations"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.000003"]
    (tmp_path / "out").write_bytes(b"torn")
    assert (await _write(config))["torn_bytes"] == 4


# -- crashes ----------------------------------------------------------------------------------
_CHILD = """
import asyncio, os, sys
from streamspec.core.tally import Tally
from streamspec.sinks.jsonl import JsonlConfig, JsonlSink
from streamspec.testing.deliveries import ListBatch, ListDelivery
path, compression, first, filler = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
async def main():
    sink = JsonlSink("out", JsonlConfig(type="jsonl", path=path, write="records", compression=compression))
    await sink.open(Tally())
    number = first
    while True:
        lines = b"".join(
            b'{"number":%d,"filler":"%s"}\\n' % (n, os.urandom(filler // 2).hex().encode())
            for n in range(number, number + 50)
        )
        await sink.write(ListBatch([ListDelivery(segment_id=0, records=[("x", memoryview(lines))])]))
        number += 50
        os.write(1, b"%d\\n" % number)
asyncio.run(main())
"""


def _numbers(path: Path, compression: str) -> list[int]:
    content = path.read_bytes()
    if compression == "zstd":
        content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content), read_across_frames=True).read()
    assert not content or content.endswith(b"\n")
    return [json.loads(line)["number"] for line in content.splitlines()]


def _killed_at(path: Path, compression: str, first: int, grown_bytes: int, filler: int) -> int:
    """Run a writer, kill it when the file has grown so much; gives the first number it did not acknowledge."""
    arguments = [sys.executable, "-c", _CHILD, str(path), compression, str(first), str(filler)]
    before = path.stat().st_size if path.exists() else 0
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        said = b""
        while not path.exists() or path.stat().st_size < before + grown_bytes:
            said += child.stdout.read() or b""
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        said += child.stdout.read() or b""
    acknowledged = said.splitlines()
    return int(acknowledged[-1]) if acknowledged else first


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_writer_killed_at_any_moment_leaves_every_acknowledged_line_and_none_torn(
    tmp_path: Path, compression: str
) -> None:
    path = tmp_path / "out"
    moments = random.Random(7)
    expected = 0
    for filler in (100, 60_000, 60_000):  # short writes, and some of megabytes
        acknowledged = _killed_at(path, compression, expected, moments.randrange(1, 80 * filler), filler)
        await _write(_config(path, compression=compression))
        numbers = _numbers(path, compression)
        assert numbers == list(range(len(numbers))), "no line is missing, torn or twice"
        assert len(numbers) >= acknowledged
        expected = len(numbers)


@pytest.mark.slow
async def test_a_torn_line_is_mended_after_a_real_kill(tmp_path: Path) -> None:
    """The kernel finishes most writes before a kill counts, so here the end is cut as a power cut would."""
    path = tmp_path / "out"
    _killed_at(path, "none", 0, 1, 1000)
    os.truncate(path, path.stat().st_size - 3)
    tally = await _write(_config(path), _batch(b'{"number":-1}'))
    numbers = _numbers(path, "none")
    assert numbers == [*range(len(numbers) - 1), -1]
    assert tally["torn_bytes"] > 1000
    assert (tmp_path / "out.torn").stat().st_size == tally["torn_bytes"]


# -- full disks -------------------------------------------------------------------------------
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f"cannot mount a file system: {result.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
async def test_a_full_disk_is_waited_for_and_nothing_is_lost_or_repeated(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "FULL_FIRST_SECONDS", 0.001)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    tally = Tally()
    sink = JsonlSink("out", _config(small_disk / "out"))
    await sink.open(tally)
    lines = [b'{"number":%d,"filler":"%s"}' % (n, b"x" * 1000) for n in range(150)]
    task = asyncio.create_task(sink.write(_batch(*lines)))
    await until(lambda: tally["disk_full_waits"] >= 3)
    assert not task.done()
    ballast.unlink()
    await task
    await sink.close()
    assert (small_disk / "out").read_bytes() == b"".join(line + b"\n" for line in lines)
    assert tally["bytes"] == (small_disk / "out").stat().st_size


@pytest.mark.root
async def test_a_disk_that_stays_full_until_the_stop_keeps_whole_batches_only(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "FULL_FIRST_SECONDS", 0.001)
    tally = Tally()
    sink = JsonlSink("out", _config(small_disk / "out"))
    await sink.open(tally)
    await sink.write(_batch(b"first"))
    task = asyncio.create_task(sink.write(_batch(*[b"x" * 1000] * 400)))
    await until(lambda: tally["disk_full_waits"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await sink.close()
    assert (small_disk / "out").read_bytes() == b"first\n"


# -- time -------------------------------------------------------------------------------------
class _Watched(Tally):
    """Says when a reason was counted so often. The only timers in virtual time are then the sink's."""

    def __init__(self, reason: str, times: int) -> None:
        super().__init__()
        self._reason, self._times = reason, times
        self.reached = asyncio.Event()

    def add(self, reason: str, count: int = 1) -> None:
        super().add(reason, count)
        if self[self._reason] >= self._times:
            self.reached.set()


def test_files_are_rotated_and_made_durable_by_time_without_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", lambda _fd: synced.append(clock.now_ns))

    async def main() -> Tally:
        tally = _Watched("rotations", 1)
        sink = JsonlSink("out", _config(tmp_path / "out", fsync="5 s", max_file_age="1 h"), clock)
        await sink.open(tally)
        await sink.write(_batch(b"line"))
        await tally.reached.wait()
        await sink.close()
        return tally

    started_ns = clock.now_ns
    tally = run_in_virtual_time(main(), clock)
    assert tally.counts == {"bytes": 5, "rotations": 1}
    assert [round((at - started_ns) / 1e9) for at in synced] == [5]
    assert (tmp_path / "out.000001").read_bytes() == b"line\n"
    assert 3600 <= (clock.now_ns - started_ns) / 1e9 < 3606


def test_a_disk_that_cannot_keep_is_counted_and_the_service_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", refuse)

    async def main() -> Tally:
        tally = _Watched("sync_errors", 2)
        sink = JsonlSink("out", _config(tmp_path / "out", fsync=1), None)
        await sink.open(tally)
        await sink.write(_batch(b"line"))
        await tally.reached.wait()
        await sink.close()
        return tally

    run_in_virtual_time(main(), ManualClock())
    assert (tmp_path / "out").read_bytes() == b"line\n"


# -- what cannot be ---------------------------------------------------------------------------
async def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "out.jsonl", "/proc/no/such/folder/"):
        with pytest.raises(DependencyUnavailable, match=r"sinks.out.path: cannot be written: .*; next: name a file"):
            await _write(_config(path))


async def test_two_sinks_on_one_file_are_one_clear_error(tmp_path: Path) -> None:
    sink = JsonlSink("first", _config(tmp_path / "out"))
    await sink.open(Tally())
    with pytest.raises(DependencyUnavailable, match="another sink or process writes to it"):
        await _write(_config(tmp_path / "out"))
    await sink.close()
    await _write(_config(tmp_path / "out"))


async def test_closing_twice_or_after_a_failed_open_is_harmless(tmp_path: Path) -> None:
    sink = JsonlSink("out", _config(tmp_path / "out", fsync="1 s"))
    await sink.close()
    await sink.open(Tally())
    await sink.close()
    await sink.close()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("fsync: sometimes", "fsync"),
        ("fsync: 0", "fsync"),
        ("max_file_bytes: 10", "max_file_bytes"),
        ("keep_files: 0", "keep_files"),
        ("compression: gzip", "compression"),
        ("payload: hex", "payload"),
    ],
)
def test_options_that_cannot_be_are_refused_with_their_place(option: str, message: str) -> None:
    text = f"""
sources: {{a: {{type: udp, bind: "127.0.0.1:1"}}}}
sinks:
  o:
    type: jsonl
    path: x
    {option}
"""
    with pytest.raises(ConfigError, match=rf"x.yaml:7:.*{message}"):
        parse_config(text, origin="x.yaml")


def test_fsync_takes_a_word_or_a_duration() -> None:
    assert _config("x", fsync="never").tick_seconds is None
    assert _config("x", fsync="batch").rules.sync_batches
    config = _config("x", fsync="2 s", max_file_age="10 s")
    assert config.rules.sync_ticks
    assert config.tick_seconds == 1
