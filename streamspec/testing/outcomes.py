"""Outcomes of an invented chain ``inspect, compress`` whose costs follow a rule, for tests of learning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.interfaces import Rows
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import Head

INSPECT, COMPRESS_9, COMPRESS_1, RATIO_9, RATIO_1 = range(5)
HEADS = (
    Head("useful_time", 0, 0, "inspect"),
    Head("useful_time", 1, 0, "compress:zstd:9"),
    Head("useful_time", 1, 1, "compress:zstd:1", False),
    Head("output_ratio", 1, 0, "compress:zstd:9"),
    Head("output_ratio", 1, 1, "compress:zstd:1", False),
)
"""Heads of the chain; ``INSPECT`` and so on are their places."""

NOISE = 0.1
"""Standard deviation of the log of a measured time."""
MICROSECONDS_PER_KIB = (2.0, 20.0, 5.0)
"""Of inspect, and of compress at either level."""


def make_outcomes(seed: int, count: int, *, slower: float = 1.0, step: bool = False) -> Rows:
    """Delivered, profiled ``OUTCOME`` rows.

    Args:
        seed: the same seed gives the same rows.
        count: rows.
        slower: every time is so many times longer.
        step: compressing takes three times longer where more than half of the bytes are zero, which no linear model
            of the log can say.
    """
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, dtype=OUTCOME)
    features = rows["features"]
    length = np.exp(rng.normal(9.0, 1.2, count)).clip(60, 65536).astype(np.uint32)
    entropy = rng.uniform(2.0, 8.0, count)
    columns: dict[str, npt.NDArray[np.float64]] = {
        "length_bytes": length.astype(np.float64),
        "packets": np.maximum(length // 700, 1).astype(np.float64),
        "entropy_bits": entropy,
        "lz_ratio": entropy / 8,
        "zero_share": rng.uniform(0, 1, count),
        "type_code": rng.integers(0, len(TYPE_NAMES), count).astype(np.float64),
    }
    for name, values in columns.items():
        features[:, FEATURE_INDEX[name]] = values
    work_us = np.array(MICROSECONDS_PER_KIB) * (length / 1024)[:, None] * np.exp(rng.normal(0, NOISE, (count, 3)))
    work_us[:, 1:] *= np.exp(-(entropy - 5) / 3)[:, None]
    if step:
        work_us[:, 1:] *= np.where(features[:, FEATURE_INDEX["zero_share"]] > 0.5, 3.0, 1.0)[:, None]
    rows["useful_ns"][:, :2] = work_us[:, :2] * 1000 * slower
    rows["variant"] = -1
    rows["length"], rows["packets"], rows["profiled"] = length, columns["packets"], 1
    rows["payload_bytes_out"] = np.maximum(length * entropy / 8, 1)
    rows["segment_id"] = np.arange(1, count + 1)
    rows["workers"], rows["batch"] = 2, 16
    rows["host_load"] = rng.uniform(0, 1, count)
    rows["wait_ns"] = rng.exponential(1e6, count)
    rows["service_ns"] = work_us[:, :2].sum(1) * 1100 * slower
    rows["latency_ns"] = (rows["wait_ns"] + rows["service_ns"]) * np.exp(rng.normal(0, 0.1, count))
    return rows
