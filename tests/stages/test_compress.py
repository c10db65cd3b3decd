"""Frames that independent decoders read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.stages.compress import CompressConfig
from streamspec.testing.stages import make_segment, run_stage

DECODERS = {"zstd": lambda frame: zstandard.ZstdDecompressor().decompress(frame), "lz4": lz4.frame.decompress}


def _stage(**options):
    stage = CompressConfig(type="compress", **options).build()
    stage.open()
    return stage


STAGES = {(codec, level): _stage(codec=codec, level=level) for codec in DECODERS for level in (1, 9)}


@pytest.mark.parametrize("key", STAGES)
@given(payload=st.binary(max_size=3000))
@settings(deadline=None, max_examples=50)
def test_what_was_compressed_comes_back(key: tuple[str, int], payload: bytes) -> None:
    segment = make_segment([payload])
    run_stage(STAGES[key], segment)
    assert DECODERS[key[0]](bytes(segment.payload)) == payload


def test_variants_choose_the_level_and_the_first_is_the_default() -> None:
    text = b"".join(b"reading %d of sensor %d\n" % (i * i * 7919 % 100_003, i * 31 % 97) for i in range(2000))
    stage = _stage(codec="zstd", levels=(1, 19))
    sizes = {}
    for variant in (-1, 0, 1, 7):
        segment = make_segment([text])
        context = run_stage(stage, segment, variant=variant)
        sizes[variant] = len(segment.payload)
        assert context.tally["bytes_in"] == len(text)
        assert context.tally["bytes_out"] == len(segment.payload)
    assert sizes[-1] == sizes[0] == sizes[7] > sizes[1]
    segment = make_segment([text])
    run_stage(_stage(codec="zstd", levels=(1, 19), level=19), segment)
    assert len(segment.payload) == sizes[1], "level says which of the levels is the default"


def test_small_and_incompressible_payloads_are_counted() -> None:
    stage = _stage(min_bytes=10)
    small = make_segment([b"small"])
    assert run_stage(stage, small).tally.counts == {"too_small": 1}
    assert bytes(small.payload) == b"small"
    assert run_stage(stage, make_segment([bytes(range(256))])).tally["incompressible"] == 1


def test_a_dictionary_is_used_and_needed(tmp_path: Path) -> None:
    samples = [b"sensor=%d value=%d unit=celsius state=ok\n" % (i, i * 7 % 50) for i in range(2000)]
    trained = zstandard.train_dictionary(2000, samples)
    path = tmp_path / "dictionary"
    path.write_bytes(trained.as_bytes())
    with_it, without = make_segment([samples[5]]), make_segment([samples[5]])
    run_stage(_stage(dictionary=path), with_it)
    run_stage(_stage(), without)
    assert len(with_it.payload) < len(without.payload)
    decoder = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(path.read_bytes()))
    assert decoder.decompress(bytes(with_it.payload)) == samples[5]
    with pytest.raises(DependencyUnavailable, match="cannot be read"):
        _stage(dictionary=tmp_path / "absent")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ConfigError, match="not a zstd dictionary"):
        _stage(dictionary=path)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no zstd command")
def test_the_zstd_command_reads_our_frames() -> None:
    segment = make_segment([b"hello " * 100])
    run_stage(_stage(), segment)
    result = subprocess.run(["zstd", "-d", "-c"], input=bytes(segment.payload), capture_output=True, check=True)
    assert result.stdout == b"hello " * 100


@pytest.mark.skipif(shutil.which("lz4") is None, reason="no lz4 command")
def test_the_lz4_command_reads_our_frames() -> None:
    segment = make_segment([b"hello " * 100])
    run_stage(_stage(codec="lz4"), segment)
    result = subprocess.run(["lz4", "-d", "-c"], input=bytes(segment.payload), capture_output=True, check=True)
    assert result.stdout == b"hello " * 100


def test_frames_state_the_size_of_their_content() -> None:
    for codec in DECODERS:
        segment = make_segment([b"hello " * 100])
        run_stage(_stage(codec=codec), segment)
        frame = bytes(segment.payload)
        if codec == "zstd":
            assert zstandard.get_frame_parameters(frame).content_size == 600
        else:
            assert lz4.frame.get_frame_info(frame)["content_size"] == 600


@pytest.mark.parametrize("codec", DECODERS)
def test_what_an_earlier_stage_left_is_compressed_whatever_its_type(codec: str) -> None:
    for changed in (b"changed", bytearray(b"changed"), memoryview(b"changed"), b""):
        segment = make_segment([b"original"])
        segment.payload = changed
        run_stage(_stage(codec=codec), segment)
        assert DECODERS[codec](bytes(segment.payload)) == bytes(changed)


@pytest.mark.parametrize(
    "options",
    [
        {"level": 99},
        {"codec": "lz4", "levels": [1, 50]},
        {"level": 1, "levels": [2, 3]},
        {"codec": "lz4", "dictionary": "x"},
        {"codec": "gzip"},
    ],
)
def test_what_does_not_exist_is_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        CompressConfig(type="compress", **options)


def test_each_message_of_a_segment_can_be_a_frame_of_its_own() -> None:
    messages = [b"one " * 50, b"tiny", b"", b"three " * 50]
    segment = make_segment(messages)
    context = run_stage(_stage(unit="message", min_bytes=10), segment)
    assert zstandard.decompress(segment.messages[0]) == messages[0]
    assert segment.messages[1:3] == [b"tiny", b""]
    assert zstandard.decompress(segment.messages[3]) == messages[3]
    assert bytes(segment.payload) == b"".join(segment.messages)
    assert context.tally["too_small"] == 2


def test_what_no_longer_lies_in_messages_is_one_frame() -> None:
    segment = make_segment([b"one", b"two"])
    segment.payload = memoryview(b"eno" + b"owt")
    run_stage(_stage(unit="message"), segment)
    assert not segment.messages
    assert zstandard.decompress(bytes(segment.payload)) == b"enoowt"
