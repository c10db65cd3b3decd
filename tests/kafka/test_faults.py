"""What is wrong is said in one line, with the exit code that fits."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.tally import Tally
from streamspec.sinks.kafka import KafkaSinkConfig
from streamspec.testing import kafka
from streamspec.testing.captures import Packet, classic
from streamspec.testing.intake import RecordingIntake
from tests.kafka.clients import consume, produce, reading
from tests.kafka.conftest import MakeTopic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def run(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """The service with this configuration."""
    config = folder / "config.yaml"
    config.write_text(text)
    command = [sys.executable, "-m", "streamspec", "run", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)


@pytest.mark.parametrize("end", ["source", "sink"])
def test_a_broker_that_is_not_there(tmp_path: Path, end: str) -> None:
    (port,) = kafka.free_ports(1)
    kafka_end = f'type: kafka, brokers: "127.0.0.1:{port}", connect_timeout: 1 s'
    source = f"{{{kafka_end}, topics: [t], group: g}}" if end == "source" else "{type: udp, bind: 127.0.0.1:0}"
    sink = "{type: 'null'}" if end == "source" else f"{{{kafka_end}, topic: t}}"
    done = run(tmp_path, f"sources: {{in: {source}}}\nsinks: {{out: {sink}}}\nengine: {{workers: 1}}\n")
    assert done.returncode == 69, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "no broker answers" in last
    assert f"127.0.0.1:{port}" in last
    assert "Traceback" not in done.stderr


async def test_a_topic_that_nobody_made(address: str) -> None:
    with pytest.raises(DependencyUnavailable, match="the topic does not exist"):
        async with reading(address, topics=["nobody-made-it"], group="g", connect_timeout=1):
            pass
    settings = {"type": "kafka", "brokers": address, "topic": "nobody-made-it", "connect_timeout": 1}
    sink = KafkaSinkConfig.model_validate(settings).build("out")
    with pytest.raises(DependencyUnavailable, match="the topic does not exist"):
        await sink.open(Tally())
    await sink.close()


async def test_a_record_larger_than_a_slot_and_headers_that_do_not_fit_are_rejected(
    address: str, topic: MakeTopic
) -> None:
    name = await topic()
    records = [
        {"key": b"k", "value": b"fits"},
        {"key": b"k", "value": os.urandom(70_000)},
        {"key": b"k", "value": b"loaded", "headers": [("h", b"x" * 2000)]},
        {"key": b"k", "value": b"fits too"},
    ]
    await produce(address, name, records)
    async with reading(address, topics=[name], group=name) as (source, intake):
        found = await intake.wait_for(2, 15.0)
        assert [c.payload for c in found] == [b"fits", b"fits too"]
        (large, why_large), (loaded, why_loaded) = intake.rejected
        assert "70000 bytes, more than engine.max_packet_bytes" in why_large
        assert "more than engine.meta_bytes" in why_loaded
        assert (len(large.payload), loaded.payload) == (intake.layout.payload_bytes, b"loaded")
        tokens = [c.header["token"] for c in (*found, large, loaded)]
        source.acknowledge(np.array(tokens, dtype=np.uint64))
        assert source.status()["partitions"][f"{name}:0"]["span_records"] == 0


async def test_packets_of_every_framing_are_found_and_damage_is_rejected(address: str, topic: MakeTopic) -> None:
    packets = [os.urandom(60 + i) for i in range(20)]
    lengths = b"".join(struct.pack(">I", len(p)) + p for p in packets)
    capture = classic([Packet(10**18 + i * 10**6, packet) for i, packet in enumerate(packets)])
    for framing, good, bad in (
        ("single", packets[0], None),
        ("length", lengths, lengths[:-1]),
        ("capture", capture, b"no capture at all, but long enough to be one"),
    ):
        name = await topic()
        await produce(address, name, [{"value": v} for v in (good, bad, good) if v is not None])
        async with reading(address, topics=[name], group=name, content="packets", framing=framing) as (_, intake):
            found = await intake.wait_for(2 if bad else 1, 15.0)
        assert found[0].messages() == (packets[:1] if framing == "single" else packets)
        assert found[0].header["link_type"] == 1
        assert len(intake.rejected) == (bad is not None)


async def test_backpressure_pauses_reading_and_keeps_the_place_in_the_group(address: str, topic: MakeTopic) -> None:
    name = await topic(partitions=2)
    await produce(address, name, [{"key": b"%d" % i, "value": b"%d" % i} for i in range(100)])
    intake = RecordingIntake(slots=10, hold=True)
    async with reading(address, intake, topics=[name], group=name) as (source, _):
        await intake.wait_for(10, 15.0)
        await wait_until(lambda: intake.tally["backpressure_pauses"] == 1)
        status = source.status()["partitions"].values()
        assert all(numbers["paused"] for numbers in status)
        assert sum(numbers["under_way_segments"] for numbers in status) == 10
        while len(intake.committed) < 100:
            have = len(intake.committed)
            intake.free_held()
            await intake.wait_for(min(have + 1, 100), 15.0)
    assert sorted(int(c.payload) for c in intake.committed) == list(range(100))


async def test_a_span_is_bounded_and_the_partition_goes_on_when_it_catches_up(address: str, topic: MakeTopic) -> None:
    name = await topic()
    await produce(address, name, [{"value": b"%d" % i} for i in range(300)])
    fields = {"topics": [name], "group": name, "max_span": 100, "poll_records": 50}
    async with reading(address, **fields) as (source, intake):
        await wait_until(lambda: intake.tally["span_pauses"])
        first = intake.committed[:]
        assert 100 <= len(first) <= 200
        done = 0
        while done < 300:
            await intake.wait_for(done + 1, 15.0)
            fresh = intake.committed[done:]
            source.acknowledge(np.array([c.header["token"] for c in fresh], dtype=np.uint64))
            done += len(fresh)


async def test_a_batch_that_rotted_on_disk_is_passed_over(broker: kafka.Kafka, topic: MakeTopic) -> None:
    name = await topic(address=broker.address)
    for batch in (b"first", b"rotten", b"last"):
        await produce(broker.address, name, [{"value": batch + b"%d" % i} for i in range(5)])
    log = broker.nodes[0].folder / "storage" / f"{name}-0" / f"{0:020d}.log"
    content = bytearray(log.read_bytes())
    content[content.index(b"rotten2") + 1] ^= 1
    log.write_bytes(content)
    async with reading(broker.address, topics=[name], group=name) as (source, intake):
        found = await intake.wait_for(10, 20.0)
        assert [bytes(c.payload[:-1]) for c in found] == [b"first"] * 5 + [b"last"] * 5
        assert intake.tally["corrupt_records"] == 5
        source.acknowledge(np.array([c.header["token"] for c in found], dtype=np.uint64))
        assert source.status()["partitions"][f"{name}:0"]["span_records"] == 0


async def test_reading_starts_where_it_is_told(address: str, topic: MakeTopic) -> None:
    name = await topic()
    first_ms = 1_700_000_000_000
    await produce(address, name, [{"value": b"%d" % i, "timestamp_ms": first_ms + 1000 * i} for i in range(10)])
    async with reading(address, topics=[name], group=f"{name}-a", start="2023-11-14T22:13:25+00:00") as (_, intake):
        assert [int(c.payload) for c in await intake.wait_for(5, 15.0)] == [5, 6, 7, 8, 9]
    async with reading(address, pattern=f"{name[:-1]}.", group=f"{name}-b", start="latest") as (source, intake):
        await wait_until(lambda: source.status()["partitions"])
        await produce(address, name, [{"value": b"new"}])
        assert (await intake.wait_for(1, 15.0))[0].payload == b"new"


async def wait_until(condition: object) -> None:
    """As ``until``, for conditions that take seconds."""
    from streamspec.testing.waiting import until

    await until(condition, 20.0)  # type: ignore[arg-type]


def test_an_unreadable_record_ends_in_the_dead_letter_topic(tmp_path: Path, address: str, topic: MakeTopic) -> None:
    import asyncio

    async def prepare() -> tuple[str, str]:
        name, dead = await topic(), await topic()
        await produce(address, name, [{"key": b"k", "value": b"junk", "headers": [("h", b"v")]}])
        return name, dead

    name, dead = asyncio.run(prepare())
    config = tmp_path / "config.yaml"
    config.write_text(
        f'sources: {{in: {{type: kafka, brokers: "{address}", topics: [{name}], group: {name}, content: packets, '
        f"framing: capture}}}}\nsinks: {{out: {{type: 'null'}}}}\n"
        f'dead_letter: {{type: kafka, brokers: "{address}", topic: {dead}}}\nengine: {{workers: 1}}\n'
    )
    command = [sys.executable, "-m", "streamspec", "run", str(config), "--json"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        (letter,) = asyncio.run(consume(address, dead, 1, timeout_seconds=40.0))
    finally:
        service.terminate()
        out, errors = service.communicate(timeout=30)
    headers = dict(letter.headers)
    assert (letter.key, letter.value, headers["h"]) == (b"k", b"junk", b"v")
    assert headers["streamspec.error"] == b"the value is not a capture file"
    assert headers["streamspec.topic"] == name.encode()
    assert service.returncode == 0, errors
    assert json.loads(out)["segments_dead_lettered"] == 1
