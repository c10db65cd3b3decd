"""On every real capture that dpkt reads, packets and IP bytes per 5-tuple equal a count made with dpkt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages import flow_reference
from tests.stages.flow_chain import Chain, one_way

SEGMENT_PACKETS = 300


@pytest.mark.captures
@pytest.mark.slow
@pytest.mark.parametrize("tunnels", ["inner", "outer"])
def test_flows_of_captures_equal_those_of_dpkt(captures: Path, tunnels: str) -> None:
    compared = packets_compared = 0
    wrong = []
    for path in sorted(captures.rglob("*.pcap*")):
        capture = flow_reference.read(path)
        if capture is None:
            continue
        link_type, packets = capture
        chain = Chain(tunnels=tunnels)
        for start in range(0, len(packets), SEGMENT_PACKETS):
            chain.feed(packets[start : start + SEGMENT_PACKETS], link_type)
        ours = one_way(chain.records())
        theirs = flow_reference.count(link_type, packets, inner=tunnels == "inner")
        compared += 1
        packets_compared += sum(count for count, _ in theirs.values())
        if ours != theirs:
            wrong.append((path.name, sorted(ours.items() - theirs.items()), sorted(theirs.items() - ours.items())))
    assert not wrong, wrong[:5]
    assert compared > 500
    assert packets_compared > 100_000
