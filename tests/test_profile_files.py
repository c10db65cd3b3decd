"""`streamspec profile` on real files."""

from __future__ import annotations

import json
from pathlib import Path

import dpkt
import pytest

from streamspec import cli
from streamspec.core.features import FEATURE_NAMES
from streamspec.profile_files import profile_paths
from streamspec.profiler.profiler import Profiler

pytestmark = pytest.mark.slow


def _capture(path: Path, packets: int = 300) -> None:
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for number in range(packets):
            udp = dpkt.udp.UDP(sport=1, dport=53, data=b"x" * (number % 90))
            udp.ulen = len(udp)
            ip = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=17, data=udp)
            ip.len = len(ip)
            writer.writepkt(bytes(dpkt.ethernet.Ethernet(data=ip)), 1000 + number / 1000)


def test_captures_are_cut_into_packets_and_other_files_into_pieces(tmp_path: Path) -> None:
    _capture(tmp_path / "a.pcap")
    (tmp_path / "b.json").write_text(json.dumps([{"key": i, "value": "text"} for i in range(500)]))
    rows: list[dict] = []
    profile_paths([tmp_path], Profiler(), 8192, rows.append)
    captured = [row for row in rows if row["name"] == "a.pcap"]
    pieces = [row for row in rows if row["name"] == "b.json"]
    assert sum(row["packets"] for row in captured) == 300
    assert [row["segment"] for row in captured] == list(range(len(captured)))
    assert sum(row["length_bytes"] for row in pieces) == (tmp_path / "b.json").stat().st_size
    assert pieces[0]["type"] == "json"
    assert set(FEATURE_NAMES) <= set(rows[0])


def test_the_command_prints_one_object_a_segment_and_draws_charts(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("plotly")
    _capture(tmp_path / "a.pcap", 20)
    chart = tmp_path / "chart.html"
    assert cli.main(["profile", str(tmp_path / "a.pcap"), "--json", "--plot", str(chart)]) == 0
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert rows[0]["packets"] == 20
    assert "plotly" in chart.read_text(encoding="utf-8").lower()
    assert cli.main(["profile", str(tmp_path / "a.pcap")]) == 0
    assert b"features by type" in capfdbinary.readouterr().out


def test_a_missing_file_exits_with_69(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", str(tmp_path / "absent")]) == 69
    assert "does not exist" in capsys.readouterr().err
