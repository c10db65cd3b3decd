"""The pcap source: which files it reads, how often, at what speed, and how it waits."""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamspec.core.errors import DependencyUnavailable, InternalError
from streamspec.core.interfaces import ClosableSource
from streamspec.core.segment import PACKET, SlotLayout
from streamspec.sources.capture_file import CompressedFile, GzipPieces, PlainFile, open_capture
from streamspec.sources.pcap import PcapConfig
from streamspec.sources.pcap_kernels import schedule
from streamspec.sources.registry import SourceConfig
from streamspec.testing import captures as written
from streamspec.testing.captures import NANOSECONDS, Packet
from streamspec.testing.clock import ManualClock
from streamspec.testing.intake import RecordingIntake
from streamspec.testing.virtual_time import run_in_virtual_time
from streamspec.testing.waiting import until
from tests.sources.reading import LAYOUT, Read, read, read_now

SECOND = 1_000_000_000
SMALL = SlotLayout(payload_bytes=4096, packet_capacity=64, meta_bytes=256, output_bytes=64)


def capture(count: int, size: int = 100, first: int = 0) -> bytes:
    """A capture of numbered packets, a millisecond apart."""
    return written.classic(
        [Packet((first + i) * 1_000_000, (first + i).to_bytes(4, "big") + bytes(size - 4)) for i in range(count)]
    )


def numbers(result: Read) -> list[int]:
    """Numbers of the packets that were read."""
    return [int.from_bytes(content[:4], "big") for content in result.contents]


@pytest.fixture
def thousand(tmp_path: Path) -> Path:
    """A capture of a thousand packets of 100 bytes."""
    path = tmp_path / "thousand.pcap"
    path.write_bytes(capture(1000))
    return path


# -- configuration ----------------------------------------------------------------------------
def test_the_union_of_sources_knows_it(tmp_path: Path) -> None:
    config = TypeAdapter(SourceConfig).validate_python(
        {"type": "pcap", "path": ["a.pcap", "b.pcap"]}, context={"base": tmp_path}
    )
    assert isinstance(config, PcapConfig)
    assert config.path == (tmp_path / "a.pcap", tmp_path / "b.pcap")
    source = config.build("capture")
    assert source.can_wait
    assert not isinstance(source, ClosableSource)


@pytest.mark.parametrize(
    "fields", [{"speed": "fast"}, {"speed_factor": 0}, {"repeat": -1}, {"segment_bytes": "1 KiB"}, {"max_gap": -1}]
)
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PcapConfig(type="pcap", path="x.pcap", **fields)


# -- files ------------------------------------------------------------------------------------
def test_a_pattern_is_read_in_order_of_names(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        (tmp_path / f"{number}.pcap").write_bytes(capture(10, first=number * 10))
    (tmp_path / "folder.pcap").mkdir()
    result = read(tmp_path / "*.pcap")
    assert numbers(result) == list(range(10, 40))
    assert [s.key for s in result.segments] == [b"1.pcap", b"2.pcap", b"3.pcap"]


def test_a_list_is_read_in_its_order(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"{number}.pcap").write_bytes(capture(10, first=number * 10))
    result = read([tmp_path / "3.pcap", tmp_path / "[12].pcap"])
    assert numbers(result) == [*range(30, 40), *range(10, 30)]


def test_a_name_with_magic_characters_is_a_name_when_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "a[1].pcap"
    path.write_bytes(capture(3))
    assert numbers(read(path)) == [0, 1, 2]


def test_a_long_name_is_cut_to_the_room_for_keys(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".pcap")
    path.write_bytes(capture(1))
    layout = SlotLayout(payload_bytes=4096, packet_capacity=8, meta_bytes=64, output_bytes=64)
    assert read(path, layout=layout).segments[0].key == b"x" * 64


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.pcap", "does not exist"), ("-", "does not exist"), ("no*.pcap", "no file fits"), ("", "is not a file")],
)
def test_what_cannot_be_opened_is_said_at_once(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(DependencyUnavailable, match=words) as caught:
        read(tmp_path / name)
    assert caught.value.where == "sources.capture.path"
    assert caught.value.next_step


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DependencyUnavailable, match="is not a file"):
        read(tmp_path / "pipe")


def test_a_damaged_file_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / "1.pcap").write_bytes(b"this is not a capture at all")
    (tmp_path / "2.pcap").write_bytes(capture(5))
    result = read(tmp_path / "*.pcap")
    assert numbers(result) == [0, 1, 2, 3, 4]
    assert result.counts == {"malformed_file": 1}


async def test_a_file_that_went_away_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1.pcap").write_bytes(capture(5))
    (tmp_path / "2.pcap").write_bytes(capture(5, first=5))
    intake = RecordingIntake(layout=LAYOUT)
    source = PcapConfig(type="pcap", path=tmp_path / "*.pcap").build("capture")
    await source.open(intake)
    (tmp_path / "1.pcap").unlink()
    await source.run()
    assert numbers(Read(intake.committed, {})) == [5, 6, 7, 8, 9]
    assert intake.tally.counts == {"unreadable_file": 1}
    intake.close()


def test_repeat_reads_everything_again(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.pcap").write_bytes(capture(2, first=number * 10))
    assert numbers(read(tmp_path / "*.pcap", repeat=3)) == [10, 11, 20, 21] * 3


def test_repeating_nothing_for_ever_ends(tmp_path: Path) -> None:
    (tmp_path / "empty.pcap").write_bytes(capture(0))
    assert read(tmp_path / "empty.pcap", repeat=0).segments == []


async def test_repeating_for_ever_ends_when_stopped(thousand: Path) -> None:
    intake = RecordingIntake(layout=LAYOUT)
    source = PcapConfig(type="pcap", path=thousand, repeat=0).build("capture")
    await source.open(intake)
    running = asyncio.ensure_future(source.run())
    await intake.wait_for(10)
    await source.stop()
    await source.stop()
    await asyncio.wait_for(running, 5)
    assert intake.arena.free_slots == 64
    intake.close()


async def test_running_before_opening_is_our_mistake() -> None:
    with pytest.raises(InternalError):
        await PcapConfig(type="pcap", path="x").build("capture").run()


# -- segments ---------------------------------------------------------------------------------
def test_segments_keep_to_their_size(thousand: Path) -> None:
    result = read(thousand, segment_bytes=10_000)
    assert numbers(result) == list(range(1000))
    assert all(s.header["length"] <= 10_000 for s in result.segments)
    assert len(result.segments) == 12  # of 116 bytes each, 86 fit


def test_a_packet_larger_than_segments_but_not_than_slots_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(written.classic([Packet(0, b"a"), Packet(0, b"b" * 50_000), Packet(0, b"c")]))
    result = read(tmp_path / "a", segment_bytes=4096)
    assert list(map(len, result.contents)) == [1, 50_000, 1]
    assert result.counts == {}


def test_a_segment_has_no_more_packets_than_its_table(thousand: Path) -> None:
    layout = SlotLayout(payload_bytes=65536, packet_capacity=7, meta_bytes=256, output_bytes=64)
    result = read(thousand, layout=layout)
    assert numbers(result) == list(range(1000))
    assert {len(s.packets) for s in result.segments[:-1]} == {7}


async def test_it_waits_for_room(thousand: Path) -> None:
    intake = RecordingIntake(layout=SMALL, slots=3, hold=True)
    source = PcapConfig(type="pcap", path=thousand).build("capture")
    await source.open(intake)
    running = asyncio.ensure_future(source.run())
    while not running.done():
        await until(lambda: running.done() or not intake.arena.free_slots)
        intake.free_held()
    assert numbers(Read(intake.committed, {})) == list(range(1000))
    assert intake.shed_segments == 0
    intake.close()


@pytest.mark.parametrize("fields", [{}, {"speed": "recorded", "linger": 0, "speed_factor": 1e6}])
async def test_it_stops_while_it_waits_for_room(thousand: Path, fields: dict[str, Any]) -> None:
    intake = RecordingIntake(layout=SMALL, slots=3, hold=True)
    source = PcapConfig(type="pcap", path=thousand, **fields).build("capture")
    await source.open(intake)
    running = asyncio.ensure_future(source.run())
    clock: Any = intake.clock
    await until(lambda: clock.advance(0.001) or not intake.arena.free_slots)
    await source.stop()
    await asyncio.wait_for(running, 5)
    intake.free_held()
    assert intake.arena.free_slots == 3
    intake.close()


@pytest.mark.slow
async def test_cancelling_gives_the_open_slot_back(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(capture(100_000), 1))
    intake = RecordingIntake(layout=LAYOUT, slots=4)
    source = PcapConfig(type="pcap", path=tmp_path / "a.gz").build("capture")
    await source.open(intake)
    running = asyncio.ensure_future(source.run())
    await intake.wait_for(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert intake.arena.free_slots == 4
    intake.close()


async def test_others_get_their_turn_meanwhile(thousand: Path) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    result = await read_now(thousand, layout=SMALL)
    task.cancel()
    assert turns >= len(result.segments) // 4 > 5


@pytest.fixture(scope="module")
def used_uvloop() -> None:
    """libuv makes a pipe for signals with its first loop and keeps it for good."""
    uvloop.new_event_loop().close()


@pytest.mark.usefixtures("used_uvloop")
def test_it_runs_on_uvloop_too(thousand: Path) -> None:
    async def main() -> Read:
        return await read_now(thousand)

    assert numbers(uvloop.run(main())) == list(range(1000))


@pytest.mark.slow
# -- compression ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        lambda content: gzip.compress(content[:5000]) + gzip.compress(content[5000:]) + bytes(1000),
        lambda content: gzip.compress(b"") + gzip.compress(content),
        zstandard.compress,
        lambda content: zstandard.compress(content[:5000]) + zstandard.compress(content[5000:]),
    ],
    ids=["gzip", "members", "empty member", "zstd", "frames"],
)
@pytest.mark.parametrize("size", [100, 60_000])
def test_compressed_captures_are_read(tmp_path: Path, pack: Any, size: int) -> None:
    (tmp_path / "a").write_bytes(pack(capture(50, size)))
    result = read(tmp_path / "a")
    assert numbers(result) == list(range(50))
    assert result.counts == {}


def test_a_compressed_pcapng_capture_is_read(tmp_path: Path) -> None:
    content = written.section() + written.interface()
    content += b"".join(written.enhanced("<", 0, i, i.to_bytes(4, "big"), 4) for i in range(5000))
    (tmp_path / "a.pcapng.gz").write_bytes(gzip.compress(content))
    assert numbers(read(tmp_path / "a.pcapng.gz")) == list(range(5000))


@pytest.mark.parametrize("left", [0.02, 0.5, 0.999])
def test_what_is_there_of_a_cut_gzip_file_is_read(tmp_path: Path, left: float) -> None:
    content = written.classic([Packet(0, os.urandom(100)) for _ in range(1000)])
    packed = gzip.compress(content)
    packed = packed[: int(len(packed) * left)]
    (tmp_path / "a").write_bytes(packed)
    result = read(tmp_path / "a")
    whole = zlib.decompressobj(wbits=31).decompress(packed)
    (tmp_path / "b").write_bytes(whole)
    assert result.contents == read(tmp_path / "b").contents != []
    assert result.counts["malformed_compression"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_damage_inside_compression_keeps_what_came_before(tmp_path: Path, pack: Any) -> None:
    packets = [Packet(0, os.urandom(50).hex().encode()) for _ in range(10_000)]
    packed = bytearray(pack(written.classic(packets)))
    middle = len(packed) // 2
    packed[middle : middle + 100] = b"\xff" * 100
    (tmp_path / "a").write_bytes(packed)
    result = read(tmp_path / "a")
    assert result.contents[:3000] == [p.content for p in packets[:3000]]
    assert result.counts or pack is zstandard.compress  # which checks its content only where asked to


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300), st.binary(max_size=50), st.integers(0, 400))
def test_random_gzip_bytes_stop_nothing(content: bytes, junk: bytes, cut: int) -> None:
    packed = gzip.compress(content)[:cut] + junk

    class File:
        def __init__(self) -> None:
            self.left = packed

        def read(self, size: int) -> bytes:
            piece, self.left = self.left[: min(size, 7)], self.left[min(size, 7) :]
            return piece

        def close(self) -> None:
            pass

    file = CompressedFile(GzipPieces(File()))  # type: ignore[arg-type]
    target = np.zeros(1000, dtype=np.uint8)
    count, final = asyncio.run(file.read(0, target))
    assert final
    if cut >= len(gzip.compress(content)):
        assert target[: min(count, len(content))].tobytes() == content


async def test_reading_can_go_back_to_where_the_last_read_began(tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    for name, kind in (("plain", PlainFile), ("packed", CompressedFile)):
        file = open_capture(tmp_path / name)
        assert isinstance(file, kind)
        target = np.zeros(300_000, dtype=np.uint8)
        for position in (0, 0, 10, 250_000, 250_000, 900_000, 999_999, 1_000_000, 2_000_000):
            count, final = await file.read(position, target)
            assert target[:count].tobytes() == content[position : position + 300_000]
            assert final == (position + 300_000 >= len(content))
        file.close()


async def test_a_file_that_shrinks_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(100_000))
    file = open_capture(path)
    os.truncate(path, 5000)
    count, final = await file.read(0, np.zeros(50_000, dtype=np.uint8))
    assert (count, final) == (5000, True)
    file.close()


# -- recorded speed ---------------------------------------------------------------------------
def replay(tmp_path: Path, times_ns: list[int], **fields: Any) -> list[tuple[int, int]]:
    """``(number, arrival)`` of each packet's segment, in nanoseconds after the start, in virtual time."""
    path = tmp_path / "a.pcap"
    contents = [Packet(t, i.to_bytes(4, "big")) for i, t in enumerate(times_ns)]
    path.write_bytes(written.classic(contents, magic=NANOSECONDS))
    clock = ManualClock()
    start_ns = clock.now_ns

    async def main() -> list[tuple[int, int]]:
        intake = RecordingIntake(layout=SMALL, clock=clock)
        source = PcapConfig(type="pcap", path=path, speed="recorded", **fields).build("capture")
        await source.open(intake)
        linger_ns = round(fields.get("linger", 0.001) * 1e9)
        commit = intake.commit

        def checked_commit(slots: Any) -> None:
            late_ns = clock.now_ns - int(intake.headers["arrival_ns"][slots[0]])
            assert linger_ns <= late_ns <= linger_ns + 2_000
            commit(slots)

        intake.commit = checked_commit  # type: ignore[method-assign]
        await source.run()
        seen = [
            (int.from_bytes(content, "big"), int(segment.header["arrival_ns"]) - start_ns)
            for segment in intake.committed
            for content in segment.messages()
        ]
        intake.close()
        return seen

    return run_in_virtual_time(main(), clock)


def test_packets_leave_with_their_recorded_gaps(tmp_path: Path) -> None:
    times = [5 * SECOND, 5 * SECOND + 250_000_000, 5 * SECOND + 900_000_000]
    assert replay(tmp_path, times) == [(0, 0), (1, 250_000_000), (2, 900_000_000)]


def test_the_speed_factor_divides_the_gaps(tmp_path: Path) -> None:
    assert replay(tmp_path, [0, SECOND], speed_factor=10, max_gap=5) == [(0, 0), (1, SECOND // 10)]
    assert replay(tmp_path, [0, SECOND], speed_factor=0.5, max_gap=5) == [(0, 0), (1, 2 * SECOND)]


def test_long_gaps_are_cut_and_time_that_runs_backwards_counts_as_none(tmp_path: Path) -> None:
    times = [100 * SECOND, 500 * SECOND, 400 * SECOND, 401 * SECOND, 100_000 * SECOND]
    got = replay(tmp_path, times, max_gap=2)
    assert got == [(0, 0), (1, 2 * SECOND), (2, 2 * SECOND), (3, 3 * SECOND), (4, 5 * SECOND)]


def test_packets_within_linger_share_a_segment(tmp_path: Path) -> None:
    times = [0, 9_000_000, 10_000_000, 10_000_001, 15_000_000, 20_000_001, 20_000_002]
    got = replay(tmp_path, times, linger=0.01)
    assert got == [(0, 0), (1, 0), (2, 0), (3, 10_000_001), (4, 10_000_001), (5, 10_000_001), (6, 20_000_002)]


def test_repeating_goes_on_without_a_gap(tmp_path: Path) -> None:
    got = replay(tmp_path, [10 * SECOND, 10 * SECOND + 500_000_000], repeat=2)
    assert got == [(0, 0), (1, 500_000_000), (0, 500_000_000), (1, SECOND)]


def test_more_packets_than_a_slot_holds_keep_their_times(tmp_path: Path) -> None:
    times = [i * 10_000_000 for i in range(500)]
    assert replay(tmp_path, times, linger=0) == [(i, t) for i, t in enumerate(times)]


def test_late_packets_leave_together_and_count_from_when_they_were_due(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(written.classic([Packet(i * SECOND, bytes([i])) for i in range(10)]))

    class Late(ManualClock):
        """The service was held up for five seconds after the first packet."""

        calls = 0

        def monotonic_ns(self) -> int:
            self.calls += 1
            return self.now_ns + (5 * SECOND if self.calls > 2 else 0)

    clock = Late()

    async def main() -> list[tuple[int, int]]:
        intake = RecordingIntake(layout=SMALL, clock=clock)
        source = PcapConfig(type="pcap", path=path, speed="recorded", linger=0).build("capture")
        await source.open(intake)
        await source.run()
        got = [(len(s.packets), int(s.header["arrival_ns"]) - SECOND) for s in intake.committed]
        intake.close()
        return got

    assert run_in_virtual_time(main(), clock)[:2] == [(6, 0), (1, 6 * SECOND)]


async def test_it_stops_in_a_long_gap(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(written.classic([Packet(0, b"a"), Packet(1000 * SECOND, b"b")]))
    intake = RecordingIntake(layout=SMALL)
    source = PcapConfig(type="pcap", path=path, speed="recorded", max_gap="1 h", linger=0).build("capture")
    await source.open(intake)
    running = asyncio.ensure_future(source.run())
    await intake.wait_for(1)
    await source.stop()
    await asyncio.wait_for(running, 5)
    assert [s.messages() for s in intake.committed] == [[b"a"]]
    intake.close()


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10_000), min_size=1, max_size=50),
    st.integers(0, 86_400 * SECOND),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**40),
)
def test_the_schedule_equals_its_plain_form(times: list[int], max_gap: int, last: int, elapsed: int) -> None:
    rows = np.zeros(len(times), dtype=PACKET)
    rows["timestamp_ns"] = times
    due = np.zeros(len(times), dtype=np.int64)
    schedule(rows, len(times), last, elapsed, max_gap, due)
    expected = []
    for time in times:
        elapsed += min(max(time - last, 0), max_gap)
        last = time
        expected.append(elapsed)
    assert due.tolist() == expected
