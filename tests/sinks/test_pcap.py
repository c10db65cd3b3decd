"""The pcap sink: captures that dpkt and our own source read, torn ends, rotation, full disks."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dpkt
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamspec.core.errors import DependencyUnavailable, SinkError
from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS
from streamspec.core.tally import Tally
from streamspec.sinks import pcap
from streamspec.sinks.pcap import PcapSink, PcapSinkConfig
from streamspec.sinks.pcap_file import file_header
from streamspec.sinks.registry import SinkConfig
from streamspec.testing.deliveries import ListBatch, ListDelivery, make_delivery

BILLION = 1_000_000_000


def ethernet(packets: list[bytes], first_ns: int = 0, link_type: int = 1, **fields: Any) -> ListDelivery:
    """A segment of link-layer packets, a nanosecond apart."""
    delivery = make_delivery(packets, content=CONTENT_PACKETS, link_type=link_type, **fields)
    delivery.packets["timestamp_ns"] = first_ns + np.arange(len(packets))
    return delivery


async def write(path: Path, *batches: list[ListDelivery], **fields: Any) -> Tally:
    """Open, write, close; what was counted."""
    tally = Tally()
    sink = PcapSinkConfig(type="pcap", path=str(path), **fields).build("out")
    await sink.open(tally)
    try:
        for batch in batches:
            await sink.write(ListBatch(batch))
    finally:
        await sink.close()
        await sink.close()
    return tally


def packets_of(path: Path, link_type: int = 1) -> list[bytes]:
    """What dpkt reads."""
    with path.open("rb") as file:
        reader = dpkt.pcap.Reader(file)
        assert reader.datalink() == link_type
        return [packet for _, packet in reader]


# -- what is written --------------------------------------------------------------------------
def test_the_union_of_sinks_knows_it() -> None:
    config = TypeAdapter(SinkConfig).validate_python({"type": "pcap", "path": "a.pcap", "max_file_bytes": "1 MiB"})
    assert isinstance(config, PcapSinkConfig)
    assert config.max_file_bytes == 1 << 20


@pytest.mark.parametrize("fields", [{"path": ""}, {"path": "folder/"}, {"max_file_bytes": 10}, {"keep_files": 0}])
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PcapSinkConfig(type="pcap", **{"path": "a", **fields})


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.lists(st.binary(max_size=100), min_size=1, max_size=8), max_size=4), max_size=4))
def test_packets_are_read_back_as_they_were(tmp_path: Path, given: list[list[list[bytes]]]) -> None:
    path = tmp_path / "out.pcap"
    path.unlink(missing_ok=True)
    time_ns = 1_700_000_000_123_456_789
    tally = asyncio.run(write(path, *[[ethernet(packets, time_ns) for packets in batch] for batch in given]))
    expected = [p for batch in given for packets in batch for p in packets]
    assert tally["packets"] == len(expected)
    if expected:
        assert packets_of(path) == expected
        assert tally["bytes"] == path.stat().st_size - 24
    else:
        assert not path.exists()


async def test_times_and_lengths_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    times = [0, 1, 999_999_999, BILLION, 1_700_000_000_123_456_789, (2**32 - 1) * BILLION, 2**62, -5]
    delivery = ethernet([b"x" * (i + 1) for i in range(len(times))])
    delivery.packets["timestamp_ns"] = times
    delivery.packets["wire_bytes"] += 10
    await write(path, [delivery])
    raw = np.frombuffer(path.read_bytes()[24:], dtype=np.uint8)
    at = 0
    for i, time_ns in enumerate(times):
        seconds, rest, captured, wire = raw[at : at + 16].view("<u4").tolist()
        time_ns = max(time_ns, 0)
        assert (seconds, rest) == (min(time_ns // BILLION, 2**32 - 1), time_ns % BILLION)
        assert (captured, wire) == (i + 1, i + 11)
        at += 16 + captured
    assert at == len(raw)


async def test_packets_lie_anywhere_in_the_payload(tmp_path: Path) -> None:
    delivery = ethernet([b"one", b"two"])
    delivery.original = memoryview(b"..two....one..")
    delivery.packets["offset"] = [9, 2]
    await write(tmp_path / "out.pcap", [delivery])
    assert packets_of(tmp_path / "out.pcap") == [b"one", b"two"]


async def test_a_table_that_points_outside_reads_nothing_else(tmp_path: Path) -> None:
    delivery = ethernet([b"one", b"two", b"three"])
    delivery.packets["offset"] = [0, 9, 2**32 - 1]
    delivery.packets["captured_bytes"] = [3, 100, 2**32 - 1]
    await write(tmp_path / "out.pcap", [delivery])
    assert packets_of(tmp_path / "out.pcap") == [b"one", b"ee", b""]


async def test_messages_are_written_as_user_packets(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    opaque = ListDelivery(original=memoryview(b"whole"), content=CONTENT_MESSAGES, timestamp_ns=3 * BILLION)
    tally = await write(path, [make_delivery([b"one", b"two"]), opaque])
    assert packets_of(path, 147) == [b"one", b"two", b"whole"]
    assert tally["packets"] == 3


async def test_records_of_reducers_and_empty_batches_leave_no_trace(tmp_path: Path) -> None:
    records = ListDelivery(segment_id=0, records=[("flow", memoryview(b"{}\n"))])
    assert (await write(tmp_path / "out.pcap", [], [records])).counts == {}
    assert list(tmp_path.iterdir()) == []


async def test_what_is_longer_than_readers_take_is_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    tally = await write(path, [ethernet([b"a" * (256 * 1024), b"b" * (256 * 1024 + 1), b"c"])])
    assert [len(p) for p in packets_of(path)] == [256 * 1024, 256 * 1024, 1]
    assert tally["cut_packets"] == 1


async def test_each_link_type_has_its_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.pcap"
    batch = [ethernet([b"e1"]), ethernet([b"r1"], link_type=101), ethernet([b"e2"]), make_delivery([b"m1"])]
    await write(path, batch)
    # The file says whose it is, whatever comes first next time.
    await write(path, [ethernet([b"r2"], link_type=101)], [ethernet([b"e3"])])
    assert packets_of(path) == [b"e1", b"e2", b"e3"]
    assert packets_of(path.with_name("out.link101.pcap"), 101) == [b"r1", b"r2"]
    assert packets_of(path.with_name("out.link147.pcap"), 147) == [b"m1"]


async def test_thousands_of_link_types_do_not_take_all_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    sink = PcapSinkConfig(type="pcap", path=str(path)).build("out")
    await sink.open(Tally())
    for turn in range(2):
        await sink.write(ListBatch([ethernet([bytes([turn])], link_type=i) for i in range(40)]))
        assert len(os.listdir("/proc/self/fd")) < 60
    await sink.close()
    assert packets_of(path, 0) == [b"\0", b"\1"]
    assert all(packets_of(tmp_path / f"out.link{i}.pcap", i) == [b"\0", b"\1"] for i in range(1, 40))


# -- what is there already --------------------------------------------------------------------
async def test_a_capture_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    await write(path, [ethernet([b"one"])])
    await write(path, [ethernet([b"two"])])
    assert packets_of(path) == [b"one", b"two"]


async def test_a_torn_end_is_cut_off_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    await write(path, [ethernet([b"one", b"four", b"seven"])])
    whole = path.read_bytes()
    ends = [24, 24 + 19, 24 + 19 + 20, len(whole)]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        tally = await write(path, [ethernet([b"new"])])
        sound = max((i for i, end in enumerate(ends) if end <= size), default=0)
        assert packets_of(path) == [*[b"one", b"four", b"seven"][:sound], b"new"]
        assert tally["torn_bytes"] == size - max((end for end in ends if end <= size), default=0)


async def test_torn_captures_longer_than_a_chunk_are_mended(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    packets = [random.Random(i).randbytes(100_000) for i in range(30)]
    await write(path, [ethernet(packets)])
    os.truncate(path, path.stat().st_size - 1)
    await write(path, [ethernet([b"new"])])
    assert packets_of(path) == [*packets[:-1], b"new"]


async def test_a_damaged_capture_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    await write(path, [ethernet([bytes(200_000)] * 5)])
    content = bytearray(path.read_bytes())
    content[24 + 8 : 24 + 12] = b"\xff" * 4
    path.write_bytes(content)
    await write(path, [ethernet([b"new"])])
    assert packets_of(path) == [b"new"]
    assert (tmp_path / "out.pcap.000001").read_bytes() == content


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"\xd4\xc3\xb2\xa1" + bytes(20), bytes(100)])
async def test_what_is_not_our_capture_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.pcap"
    path.write_bytes(content)
    with pytest.raises(DependencyUnavailable, match="not a capture of this sink"):
        await write(path)
    assert path.read_bytes() == content


async def test_what_is_not_our_capture_beside_it_is_left_alone(tmp_path: Path) -> None:
    for content in (b"#!/bin/sh\n", file_header(5)):
        (tmp_path / "out.link101.pcap").write_bytes(content)
        with pytest.raises(SinkError, match="not a capture of this sink"):
            await write(tmp_path / "out.pcap", [ethernet([b"a"]), ethernet([b"b"], link_type=101)])
        assert (tmp_path / "out.link101.pcap").read_bytes() == content


@pytest.mark.parametrize("name", ["file/out.pcap", "folder"])
async def test_what_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DependencyUnavailable) as caught:
        await write(tmp_path / name)
    assert caught.value.where == "sinks.out.path"


@pytest.mark.slow
def test_a_killed_process_leaves_a_capture_that_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom tests.sinks.test_pcap import *\n"
        "async def main():\n"
        f"    sink = PcapSinkConfig(type='pcap', path={str(path)!r}).build('out')\n"
        "    await sink.open(Tally())\n"
        "    for i in range(10**9):\n"
        "        await sink.write(ListBatch([ethernet([i.to_bytes(8, 'big') + bytes(50_000)] * 4)]))\n"
        "        print(i, flush=True)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(20)][-1]
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    os.truncate(path, path.stat().st_size)
    asyncio.run(write(path, [ethernet([b"new"])]))
    packets = packets_of(path)
    assert packets[-1] == b"new"
    numbers = [int.from_bytes(p[:8], "big") for p in packets[:-1]]
    assert numbers[: 4 * (acknowledged + 1)] == [i for i in range(acknowledged + 1) for _ in range(4)]


# -- rotation ---------------------------------------------------------------------------------
async def test_files_are_rotated_by_size(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    batches = [[ethernet([bytes([i]) * 500])] for i in range(10)]
    tally = await write(path, *batches, max_file_bytes=1024)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["out.pcap", *(f"out.pcap.{i:06d}" for i in range(1, 6))]
    assert [packets_of(tmp_path / n)[0][0] for n in names[1:]] == [0, 2, 4, 6, 8]
    assert packets_of(path) == []
    assert tally["rotations"] == 5


async def test_old_files_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    (tmp_path / "out.pcap.note").write_bytes(b"kept")
    batches = [[ethernet([bytes([i]) * 2000])] for i in range(10)]
    await write(path, *batches, max_file_bytes=1024, keep_files=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.pcap",
        "out.pcap.000009",
        "out.pcap.000010",
        "out.pcap.note",
    ]


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    for _ in range(3):
        await write(path, [ethernet([bytes(2000)])], max_file_bytes=1024)
    assert sorted(p.name for p in tmp_path.iterdir())[1:] == ["out.pcap.000001", "out.pcap.000002", "out.pcap.000003"]


# -- disks ------------------------------------------------------------------------------------
async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap, "FULL_FIRST_SECONDS", 0.001)
    path, limit = tmp_path / "out.pcap", 10
    real = os.write

    def short(descriptor: int, content: memoryview) -> int:
        nonlocal limit
        if os.readlink(f"/proc/self/fd/{descriptor}") != str(path):
            return real(descriptor, content)
        if limit == 0:
            limit = 7
            raise OSError(28, "No space left on device")
        count = real(descriptor, content[:limit])
        limit -= count
        return count

    monkeypatch.setattr(os, "write", short)
    tally = await write(path, [ethernet([b"one", b"two"])], [ethernet([b"three"])])
    assert packets_of(path) == [b"one", b"two", b"three"]
    assert tally["disk_full_waits"] > 3


async def test_a_file_that_may_not_grow_is_said(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignore = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(SinkError, match="File too large"):
            await write(tmp_path / "out.pcap", [ethernet([bytes(5000)])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignore)


async def test_fsync_makes_each_batch_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    await write(tmp_path / "a.pcap", [ethernet([b"one"])], [ethernet([b"two"])], fsync="batch")
    assert len(calls) == 2


async def test_cancelling_a_write_leaves_no_descriptor(tmp_path: Path) -> None:
    sink = PcapSink("out", PcapSinkConfig(type="pcap", path=str(tmp_path / "out.pcap")))
    await sink.open(Tally())
    writing = asyncio.ensure_future(sink.write(ListBatch([ethernet([bytes(100_000)] * 200)])))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await sink.close()
