"""Files of lines: mended after any cut, rotated, never half a batch."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.sinks import line_file
from streamspec.sinks.line_file import InUse, LineFile, Rules
from streamspec.testing.clock import ManualClock

PLAIN, ZSTD = Rules(1 << 30), Rules(1 << 30, compressed=True)


def _write(path: Path | str, rules: Rules, *batches: bytes) -> dict[str, int]:
    file = LineFile(str(path), rules)
    for batch in batches:
        assert file.append(batch)
    file.close()
    return file.take_counts()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _content(path: Path, rules: Rules) -> bytes:
    content = path.read_bytes()
    if rules.compressed:
        content = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content), read_across_frames=True).read()
    return content


LINES = st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=8)


@given(LINES, st.integers(0, 400))
@settings(deadline=None, max_examples=60)
@pytest.mark.parametrize("rules", [PLAIN, ZSTD], ids=["plain", "zstd"])
def test_a_file_cut_anywhere_is_mended_and_what_was_torn_is_beside_it(
    rules: Rules, lines: list[bytes], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        _write(path, rules, *[line + b"\n" for line in lines])
        left = path.read_bytes()
        left = left[: max(len(left) - cut, 0)]
        path.write_bytes(left)
        counts = _write(path, rules, b"after\n")
        got = _content(path, rules).split(b"\n")
        assert got.pop() == b""
        assert got.pop() == b"after"
        assert got == lines[: len(got)]
        torn = path.with_name("out.jsonl.torn")
        aside = torn.read_bytes() if torn.exists() else b""
        assert left.endswith(aside)
        assert counts.get("torn_bytes", 0) == len(aside)
        assert len(aside) < 200, "no more than one line or frame"


@pytest.mark.parametrize("rules", [PLAIN, ZSTD], ids=["plain", "zstd"])
def test_a_file_that_is_not_ours_loses_nothing(tmp_path: Path, rules: Rules) -> None:
    path = tmp_path / "notes"
    path.write_bytes(b"x" * 3_000_000)
    _write(path, rules, b"line\n")
    assert _content(path, rules) == b"line\n"
    assert (tmp_path / "notes.torn").read_bytes() == b"x" * 3_000_000


def test_a_batch_is_a_frame_that_says_if_it_is_damaged(tmp_path: Path) -> None:
    _write(tmp_path / "out", ZSTD, b"one\n", b"two\n")
    parameters = zstandard.get_frame_parameters((tmp_path / "out").read_bytes())
    assert parameters.has_checksum
    assert parameters.content_size == 4


@pytest.mark.parametrize("compressed", [False, True])
def test_files_of_a_folder_rotate_by_size_and_old_ones_go(tmp_path: Path, compressed: bool) -> None:
    rules = Rules(500, keep_files=3, compressed=compressed)
    batches = [b"%s\n" % os.urandom(300).hex().encode() for _ in range(8)]
    counts = _write(f"{tmp_path}/out/", rules, *batches)
    suffix = ".jsonl.zst" if compressed else ".jsonl"
    names = _names(tmp_path / "out")
    assert len(names) == 3
    assert all(name.startswith("streamspec-0000") and name.endswith(suffix) for name in names)
    assert counts["rotations"] >= 4
    _write(f"{tmp_path}/out/", rules, batches[0][:100] + b"\n")
    assert (tmp_path / "out" / names[-1]).stat().st_size > 0, "the last file is continued"


def test_a_named_file_keeps_its_name_when_it_rotates(tmp_path: Path) -> None:
    _write(tmp_path / "out.jsonl", Rules(10), *[b"%d%s\n" % (i, b"x" * 20) for i in range(3)])
    assert _names(tmp_path) == ["out.jsonl", "out.jsonl.000001", "out.jsonl.000002", "out.jsonl.000003"]
    assert (tmp_path / "out.jsonl.000002").read_bytes()[:1] == b"1"
    _write(tmp_path / "out.jsonl", Rules(10, keep_files=2), b"x" * 30 + b"\n")
    assert _names(tmp_path) == ["out.jsonl", "out.jsonl.000004"]


def test_files_rotate_by_age_also_when_nothing_comes_but_never_empty(tmp_path: Path) -> None:
    clock = ManualClock()
    file = LineFile(str(tmp_path / "out"), Rules(1 << 30, max_file_age_seconds=60), clock)
    clock.advance(100)
    file.tick()
    assert _names(tmp_path) == ["out"]
    file.append(b"one\n")
    assert _names(tmp_path) == ["out", "out.000001"], "an old file is rotated with its first lines"
    file.append(b"two\n")
    clock.advance(59)
    file.tick()
    assert len(_names(tmp_path)) == 2
    clock.advance(1)
    file.tick()
    assert (tmp_path / "out.000002").read_bytes() == b"two\n"
    file.close()
    file.close()
    file.tick()


def test_a_rotation_that_fails_costs_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LineFile(str(tmp_path / "out"), Rules(10))
    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "open", _refuse(errno.EMFILE))
        file.append(b"first line\n")
    assert _names(tmp_path) == ["out"]
    file.append(b"second\n")
    file.close()
    assert (tmp_path / "out.000001").read_bytes() == b"first line\nsecond\n"
    assert file.take_counts() == {"bytes": 18, "rotation_errors": 1, "rotations": 1}


def _refuse(number: int):
    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return refuse


def _some_then(number: int, bytes_before: int):
    """``os.write`` that takes a few bytes and then fails."""
    write, state = os.write, {"left": bytes_before}

    def partial(fd: int, content: memoryview) -> int:
        if not state["left"]:
            raise OSError(number, os.strerror(number))
        taken = write(fd, content[: state["left"]])
        state["left"] -= taken
        return taken

    return partial


def test_a_batch_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    file = LineFile(str(path), PLAIN)
    file.append(b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "write", _some_then(errno.EIO, 3))
        with pytest.raises(OSError, match="Input/output error"):
            file.append(b"second\n")
    assert path.read_bytes() == b"one\n"
    file.append(b"second\n")
    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "write", _some_then(errno.ENOSPC, 3))
        assert not file.append(b"third\n")
    assert path.read_bytes() == b"one\nsecond\nthi"
    file.close()
    assert path.read_bytes() == b"one\nsecond\n", "the disk stayed full until the end"
    with pytest.raises(OSError, match="closed"):
        file.append(b"late\n")


def test_a_full_disk_is_gone_on_with_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    file = LineFile(str(path), PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "write", _some_then(errno.ENOSPC, 5))
        assert not file.append(b"first\nsecond\n")
        assert not file.resume()
        file.tick()
    assert file.resume()
    file.close()
    assert path.read_bytes() == b"first\nsecond\n"


def test_a_file_emptied_by_others_is_not_filled_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``logrotate`` does with ``copytruncate``."""
    path = tmp_path / "out"
    file = LineFile(str(path), PLAIN)
    file.append(b"one\n")
    os.truncate(path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "write", _some_then(errno.ENOSPC, 2))
        assert not file.append(b"second\n")
    file.close()
    assert path.read_bytes() == b""


def test_two_writers_of_one_file_are_one_too_many(tmp_path: Path) -> None:
    first = LineFile(f"{tmp_path}/", PLAIN)
    with pytest.raises(InUse, match="another sink or process"):
        LineFile(f"{tmp_path}/", PLAIN)
    first.close()
    LineFile(f"{tmp_path}/", PLAIN).close()


def test_batches_and_ticks_are_made_durable_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fdatasync
    monkeypatch.setattr(line_file.os, "fdatasync", lambda fd: (synced.append("file"), sync(fd))[1])
    for rules, after_batch, after_tick in (
        (Rules(1 << 30), 0, 0),
        (Rules(1 << 30, sync_batches=True), 1, 1),
        (Rules(1 << 30, sync_ticks=True), 0, 1),
    ):
        synced.clear()
        file = LineFile(str(tmp_path / "out"), rules)
        file.append(b"x\n")
        assert len(synced) == after_batch
        file.tick()
        file.tick()
        assert len(synced) == after_tick
        file.close()


def test_a_device_is_written_to_and_never_rotated_or_cut() -> None:
    file = LineFile("/dev/null", Rules(4, sync_batches=True, sync_ticks=True, max_file_age_seconds=1e-9))
    assert file.append(b"line\n")
    file.tick()
    file.close()
    assert file.take_counts() == {"bytes": 5}
    file = LineFile("/dev/full", PLAIN)
    assert not file.append(b"line\n")
    file.close()
