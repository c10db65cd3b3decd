"""Flow tables of different tools, and the reference that they are compared with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest

from benchmarks.flow_kernels import generated_packets
from benchmarks.proof import flow_tables, job_c
from benchmarks.proof.flow_tables import Table, Tolerance, key_of
from benchmarks.proof.harness import Wrong
from benchmarks.proof.job_d import frame, sent_table
from streamspec.testing.captures import Packet, classic

KEY = key_of(17, ("10.0.0.0", 1024), ("192.168.0.1", 443))


def capture(path: Path, packets: list[bytes]) -> Path:
    path.write_bytes(classic([Packet(number * 1000, content) for number, content in enumerate(packets)]))
    return path


def test_the_reference_counts_packets_bytes_and_frames(tmp_path: Path) -> None:
    table = flow_tables.reference(capture(tmp_path / "c.pcap", [frame(0), frame(1), frame(0) + bytes(4)]))
    assert table[KEY] == [2, 2 * 186, 200 + 204]
    assert len(table) == 2


def test_flows_that_tools_see_differently_are_left_out(tmp_path: Path) -> None:
    fragment = bytearray(frame(1))
    fragment[20] = 0x20  # more fragments
    cut = frame(2)[:100]
    inner = frame(3)
    tunnel = frame(4)[:14] + bytes([0x45, 0]) + (24 + 186).to_bytes(2, "big") + bytes(5) + b"\x2f" + bytes(2)
    tunnel += bytes([1, 1, 1, 1, 2, 2, 2, 2]) + b"\x00\x00\x08\x00" + inner[14:]
    packets = [frame(0), bytes(fragment), frame(1), cut, inner, tunnel, b"short", bytes(60)]
    assert set(flow_tables.reference(capture(tmp_path / "c.pcap", packets))) == {KEY}


def test_a_difference_beyond_the_tolerance_is_wrong_and_shown() -> None:
    wanted: Table = {KEY: [98, 980, 1000], key_of(6, ("a", 1), ("b", 2)): [2, 20, 30]}
    assert flow_tables.compare({**wanted}, wanted, Tolerance())["equal_octets_ratio"] == 1.0
    found: Table = {KEY: [98, 1000, 0]}
    with pytest.raises(Wrong, match=r"in packets 0\.9800, in bytes 0\.0000.*None instead of \[2, 20, 30\]"):
        flow_tables.compare(found, wanted, Tolerance())
    assert flow_tables.compare(found, wanted, Tolerance(0.98, 0.98, frames=True))["equal_octets_ratio"] == 0.98


def test_tables_of_streamspec_and_suricata_add_up_records_of_one_flow(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    record = {
        "type": "flow",
        "sourceIPv4Address": "192.168.0.1",
        "destinationIPv4Address": "10.0.0.0",
        "sourceTransportPort": 443,
        "destinationTransportPort": 1024,
        "protocolIdentifier": 17,
        "packetDeltaCount": 2,
        "octetDeltaCount": 60,
        "reversePacketDeltaCount": 1,
        "reverseOctetDeltaCount": 40,
    }
    ours.write_text(f"{json.dumps(record)}\n" * 2)
    flow = {"pkts_toserver": 2, "pkts_toclient": 1, "bytes_toserver": 88, "bytes_toclient": 54}
    event = {"event_type": "flow", "proto": "UDP", "src_ip": "192.168.0.1", "src_port": 443, "dest_ip": "10.0.0.0"}
    theirs.write_text(f"{json.dumps(event | {'dest_port': 1024, 'flow': flow})}\n" * 2)
    assert flow_tables.from_streamspec(ours)[KEY][:2] == [6, 200]
    assert flow_tables.from_suricata(theirs)[KEY][:2] == [6, 284]


def test_tables_of_tshark_pmacct_and_ndpi(tmp_path: Path) -> None:
    shown = [
        "UDP Conversations",
        "Filter:<No Filter>",
        "192.168.0.1:443   <-> 10.0.0.0:1024    3412 265 kB   3412 248 kB   6824 513 kB   2888.913471222  249.7148",
        "2001:db8::1:443   <-> 2001:0db8::2:53    0 0 bytes   7 248 kB   7 513 kB   2888.913471222  249.7148",
    ]
    table = flow_tables.from_tshark(shown)
    assert table[KEY][0] == 6824
    assert table[key_of(17, ("2001:db8::1", 443), ("2001:db8::2", 53))][0] == 7
    rows = tmp_path / "rows.csv"
    rows.write_text("SRC_IP,DST_IP,SRC_PORT,DST_PORT,PROTOCOL,PACKETS,BYTES\n10.0.0.0,192.168.0.1,1024,443,udp,5,520\n")
    assert flow_tables.from_pmacct(rows) == {KEY: [5, 520, 0]}
    rows.write_text("7,17,1.0,2.0,1.0,192.168.0.1,443,10.0.0.0,1024,0,Unknown,,3,300,9,2,200,9\n")
    assert flow_tables.from_ndpi(rows) == {KEY: [5, 500, 0]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpkt_flows", "scapy_flows"])
def test_the_scripts_of_the_python_peers_agree_with_the_reference(tmp_path: Path, name: str) -> None:
    packets = [packet for _, packet in generated_packets(flows=50, packets=300)]
    path, out = capture(tmp_path / "c.pcap", packets), tmp_path / "out"
    script = Path(job_c.__file__).with_name("job_c_peers") / f"{name}.py"
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(path), str(out)], check=True)
    shares = flow_tables.compare(flow_tables.from_rows(out), flow_tables.reference(path), Tolerance())
    assert shares["reference_flows"] > 10


def test_frames_of_job_d_are_sound_and_their_table_adds_up() -> None:
    packet = dpkt.ethernet.Ethernet(frame(300))
    assert dpkt.in_cksum(bytes(packet.data)[:20]) == 0
    assert (packet.data.data.sport, packet.data.len, len(frame(300))) == (1324, 186, 200)
    table = sent_table(2500)
    assert sum(counts[0] for counts in table.values()) == 2500
    assert table[KEY][0] == 3
