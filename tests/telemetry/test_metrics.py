"""What a scraper reads, by a parser of its format."""

from __future__ import annotations

import platform
import re
import time
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from streamspec.telemetry.exposition import Exposition
from streamspec.telemetry.metrics import METRICS, metrics_page
from streamspec.testing.status import ManualReader, decision

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def scrape(reader: ManualReader) -> dict[tuple[str, ...], float]:
    """Value by name and sorted labels."""
    text = (await Exposition(reader).render()).decode()
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_values_are_those_of_the_state() -> None:
    got = await scrape(ManualReader())
    assert got["streamspec_received_segments_total",] == 10_000
    assert got["streamspec_shed_segments_total", "reason=arena_full"] == 50
    assert got["streamspec_dropped_packets_total", "by=socket", "source=packets"] == 7
    assert got["streamspec_errors_total", "kind=stage_error", "stage=inspect"] == 8
    assert got["streamspec_errors_total", "kind=worker_died", "stage="] == 2
    assert got["streamspec_lane_setting", "amount=desired", "knob=workers", "lane=lane1"] == 2
    assert got["streamspec_lane_setting", "amount=observed", "knob=workers", "lane=lane1"] == 1
    assert ("streamspec_lane_setting", "amount=observed", "knob=batch", "lane=lane1") not in got
    assert got["streamspec_kafka_lag_records", "partition=t:0", "source=topic"] == 12
    assert got["streamspec_refusals_total", "guard=cooldown"] == 2
    assert got["streamspec_learner_outcomes_total", "fate=skipped_budget"] == 3
    assert got["streamspec_component_healthy", "component=source packets"] == 0.5
    assert got["streamspec_build_information", "python=" + platform.python_version(), "version=0"] == 1


async def test_histograms_are_cumulative_and_end_with_their_count() -> None:
    got = await scrape(ManualReader())
    name = "streamspec_latency_seconds"
    buckets = [(float(key[2][3:]), value) for key, value in got.items() if key[:2] == (f"{name}_bucket", "lane=lane0")]
    assert buckets == sorted(buckets)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1] == (float("inf"), 240)
    assert got[f"{name}_count", "lane=lane0"] == 240
    assert got[f"{name}_sum", "lane=lane0"] == 12.5


async def test_a_service_without_learner_has_no_series_of_it() -> None:
    reader = ManualReader()
    reader.present = replace(reader.present, learning=None)
    names = {key[0] for key in await scrape(reader)}
    assert not names & {"streamspec_learner_outcomes_total", "streamspec_model_version"}
    assert "streamspec_process_resident_memory_bytes" in names


async def test_labels_that_need_escapes_come_back_as_they_were() -> None:
    reader = ManualReader()
    reader.present = replace(reader.present, shed={'odd "reason"\\\n': 3})
    assert (await scrape(reader))["streamspec_shed_segments_total", 'reason=odd "reason"\\\n'] == 3


async def test_a_scrape_of_eight_lanes_takes_less_than_20_ms() -> None:
    exposition, spent = Exposition(ManualReader(8)), []
    for _ in range(5):
        before = time.thread_time()
        await exposition.render()
        spent.append(time.thread_time() - before)
    assert min(spent) < 0.02


def test_each_name_occurs_once_in_base_units() -> None:
    names = [metric.full_name for metric in METRICS]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"streamspec_[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|kib|mb|percent)(_|$)", name)


async def test_every_metric_has_a_value_in_a_busy_service() -> None:
    reader = ManualReader()
    reader.decisions.add(decision(1))
    families = {key[0] for key in await scrape(reader)}
    for metric in METRICS:
        suffix = "_bucket" if metric.kind == "histogram" else ""
        assert metric.full_name + suffix in families, metric.name


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == metrics_page(), "run python -m streamspec.telemetry.metrics > docs/metrics.md"
