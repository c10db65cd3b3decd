"""Devices are variants of a stage; which stage's variants have a price does not depend on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamspec.core.component import StageConfigBase
from streamspec.core.prediction import chain_heads, variant_stage
from streamspec.profiles.head_plan import plan_heads
from streamspec.stages.compress import CompressConfig
from streamspec.stages.decode import DecodeStage
from streamspec.stages.inspect import InspectConfig
from streamspec.testing.stages import run_stage
from tests.stages import flow_reference
from tests.stages.flow_chain import packet_segment

RULES = Path(__file__).parents[2] / "configs" / "rules" / "basic.yaml"
AUTO = InspectConfig(type="inspect", rules=(RULES,), device="auto")
GPU = InspectConfig(type="inspect", rules=(RULES,), device="gpu")
PLAIN = InspectConfig(type="inspect", rules=(RULES,))
LEVELS = CompressConfig(type="compress", levels=(1, 3, 9))


@pytest.mark.parametrize(
    ("chain", "varied"), [([AUTO, LEVELS], 1), ([LEVELS, AUTO], 0), ([PLAIN, AUTO], 1), ([PLAIN], -1)]
)
def test_a_stage_that_changes_the_payload_keeps_the_price(chain: list[StageConfigBase], varied: int) -> None:
    assert variant_stage(chain) == varied
    assert plan_heads(chain_heads(chain)).arrays.varied_stage == varied


def test_the_cost_of_each_device_is_learned_for_itself() -> None:
    heads = [head.cost_key for head in chain_heads([AUTO, LEVELS]) if head.target == "useful_time"]
    assert heads == ["inspect", "inspect:gpu", "compress:zstd:1", "compress:zstd:3", "compress:zstd:9"]
    assert (PLAIN.cost_keys, AUTO.default_variant, GPU.default_variant) == (("inspect",), 0, 1)


@pytest.mark.captures
@pytest.mark.slow
def test_what_decode_calls_payload_lies_within_its_packet(captures: Path) -> None:
    """A device searches packets as they arrived; what is searched of them afterwards must be a part of that."""
    decode, seen = DecodeStage(), 0
    for path in sorted(captures.rglob("*.pcap*")):
        capture = flow_reference.read(path) if path.stat().st_size < 300_000 else None
        if capture is None:
            continue
        segment = packet_segment(capture[1], capture[0])
        run_stage(decode, segment)
        rows = segment.notes["decoded"]
        starts = segment.packets["offset"].astype(np.int64)
        ends = starts + segment.packets["captured_bytes"]
        payload = rows["payload_offset"].astype(np.int64)
        some = rows["payload_bytes"] > 0
        assert (payload >= starts)[some].all(), path.name
        assert (payload + rows["payload_bytes"] <= ends)[some].all(), path.name
        seen += int(some.sum())
    assert seen > 1000
