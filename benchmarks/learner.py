"""Learning while running: how fast, how soon after a change, and what the dispatcher notices of it.

``python -m benchmarks.learner [--json] [--rounds N]``. Outcomes are of real segments: the folder of real captures
(``STREAMSPEC_CAPTURES``), cut into segments of up to 64 and 8 KiB, through ``inspect`` and ``compress`` at level 9,
the least useful time of four runs. The base model is boosted trees (scikit-learn) of one half of the files; what is
said about accuracy is of the other half, each segment predicted before it is learned. Without captures or
scikit-learn invented outcomes are used, and there is no base model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.interfaces import Rows, Stage
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import PREDICTION, Features, Head
from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS, PACKET, SlotLayout
from streamspec.engine.arena import Arena
from streamspec.profile_files import ProfilingIntake
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.head_plan import BasePredictor, Floats
from streamspec.profiles.learner import LearnerClient
from streamspec.profiles.online import OnlineLayer
from streamspec.sources.pcap import PcapConfig
from streamspec.stages.chain import build_chain
from streamspec.testing.outcomes import make_outcomes
from streamspec.testing.stages import RecordingContext, StageSegment

ROOT = Path(__file__).parents[1]
CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", ROOT.parent / "shared" / "pcaps"))
HEADS = (
    Head("useful_time", 0, 0, "inspect"),
    Head("useful_time", 1, 0, "compress:zstd:9"),
    Head("output_ratio", 1, 0, "compress:zstd:9"),
)
STAGES: list[dict[str, Any]] = [
    {"type": "inspect", "rules": [str(ROOT / "configs" / "rules" / "basic.yaml")], "scope": "packet"},
    {"type": "compress", "codec": "zstd", "level": 9},
]
REPEATS = 4
SEGMENTS_PER_FILE = 60
BATCH = 16
OFFERED = 256
SETTLED, AFTER = 2000, 300
NO_TREES = LearningConfig(tree_cpu_share=0.0)
OBJECTIVE_NS = 50e6


# -- outcomes ---------------------------------------------------------------------------------
@dataclass
class Measured:
    """Outcomes, and the file that each comes from."""

    rows: Rows
    file: npt.NDArray[np.int64]


def contents(path: Path, segment_bytes: int) -> list[Content]:
    """The segments of a capture; none when it cannot be read."""
    found: list[Content] = []
    arena = Arena(SlotLayout(1 << 18, 1 << 14, 1024, 64), 4)
    intake = ProfilingIntake(arena, found.append)
    source = PcapConfig(type="pcap", path=path, segment_bytes=segment_bytes).build("benchmark")

    async def read() -> None:
        await source.open(intake)
        await source.run()

    try:
        asyncio.run(read())
    finally:
        del intake.memory, intake.headers
        arena.close()
    return found[:SEGMENTS_PER_FILE]


def run_chain(stages: Sequence[tuple[str, Stage]], content: Content) -> tuple[list[int], int]:
    """Least useful time of each stage in nanoseconds, and the bytes that came out."""
    raw = np.frombuffer(bytes(content.payload), dtype=np.uint8)
    table = content.packets if content.packets is not None else np.zeros(0, dtype=PACKET)
    kind = CONTENT_PACKETS if content.link_type >= 0 else CONTENT_MESSAGES
    least = [1 << 62] * len(stages)
    for _ in range(REPEATS):
        segment = StageSegment(raw, table, raw.data, content=kind, link_type=max(content.link_type, 0))
        context = RecordingContext()
        before = time.thread_time_ns()
        for index, (_, stage) in enumerate(stages):
            stage.process(segment, context)
            after = time.thread_time_ns()
            least[index], before = min(least[index], after - before), after
    return least, len(segment.payload)


def measure_captures() -> Measured:
    """Outcomes of all captures."""
    stages, profiler = build_chain(STAGES), Profiler()
    for _, stage in stages:
        stage.open()  # type: ignore[attr-defined]
    features, useful, sizes, files = [], [], [], []
    for number, path in enumerate(sorted(CAPTURES.glob("*.pcap*"))):
        for segment_bytes in (65536, 8192):
            if some := contents(path, segment_bytes):
                features.append(profiler.profile_contents(some))
                measured = [run_chain(stages, content) for content in some]
                useful += [least for least, _ in measured]
                sizes += [out for _, out in measured]
                files += [number] * len(some)
    return Measured(outcomes(np.concatenate(features), np.array(useful), np.array(sizes)), np.array(files))


def outcomes(features: Features, useful_ns: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Rows:
    """Rows as the engine would hand them on, with invented waiting."""
    rng = np.random.default_rng(1)
    rows = np.zeros(len(features), dtype=OUTCOME)
    rows["features"], rows["useful_ns"][:, :2], rows["payload_bytes_out"] = features, useful_ns, sizes
    rows["length"] = features[:, FEATURE_INDEX["length_bytes"]]
    rows["variant"], rows["profiled"], rows["workers"], rows["batch"] = -1, 1, 2, 16
    rows["host_load"] = rng.uniform(0, 1, len(rows))
    rows["wait_ns"] = rng.exponential(2e5, len(rows))
    rows["latency_ns"] = rows["wait_ns"] + useful_ns.sum(1) * 1.1 + 50_000
    return rows


class TreesOfScikitLearn:
    """Implements ``BasePredictor``."""

    heads = tuple(f"{head.target}:{head.cost_key}" for head in HEADS)

    def __init__(self, rows: Rows) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor  # type: ignore[import-untyped]

        ratio = np.maximum(rows["payload_bytes_out"], 1) / np.maximum(rows["length"], 1)
        targets = [*np.log(np.maximum(rows["useful_ns"][:, :2], 1)).T, np.log(ratio)]
        self._models = [
            HistGradientBoostingRegressor(max_iter=200, learning_rate=0.08).fit(rows["features"], y) for y in targets
        ]

    def predict_log(self, features: Features) -> Floats:
        """See ``BasePredictor``."""
        return np.stack([model.predict(features) for model in self._models], axis=1)


class Remembered:
    """A base model whose predictions of known segments were made beforehand: scikit-learn takes milliseconds."""

    def __init__(self, model: BasePredictor, rows: Rows) -> None:
        self.heads = model.heads
        said = model.predict_log(rows["features"])
        self._known = {row.tobytes(): logs for row, logs in zip(rows["features"], said, strict=True)}

    def predict_log(self, features: Features) -> Floats:
        """See ``BasePredictor``."""
        return np.stack([self._known[row.tobytes()] for row in features])


# -- speed ------------------------------------------------------------------------------------
def learning_speed(rows: Rows, base: BasePredictor | None, rounds: int) -> Iterator[dict[str, Any]]:
    """Outcomes per second of CPU time, without trees: as the learner does it, one by one, and by River's own linear
    models for the same heads."""
    many = np.concatenate([rows] * (20_000 // len(rows) + 1))[:20_000]
    for name, batch, used in (("batches of 256", 256, base), ("no base", 256, None), ("one by one", 1, None)):
        some = many if batch > 1 else many[:4000]
        best = 0.0
        for _ in range(rounds):
            layer = OnlineLayer(HEADS, used, NO_TREES, objective_ns=OBJECTIVE_NS)
            layer.learn(some[:256])
            began = time.thread_time_ns()
            for first in range(0, len(some), batch):
                layer.learn(some[first : first + batch])
            best = max(best, len(some) / (time.thread_time_ns() - began) * 1e9)
        yield {"what": "learning", "how": name, "outcomes_per_second": round(best)}
    yield {"what": "learning", "how": "River LinearRegression", "outcomes_per_second": round(river_speed(many[:4000]))}


def river_speed(rows: Rows) -> float:
    """Outcomes a second by ``learn_one`` and ``predict_one`` of River's linear regression: four heads, nine inputs."""
    from river import linear_model

    layer = OnlineLayer(HEADS, config=NO_TREES)
    layer.learn(rows[:256])
    models = [linear_model.LinearRegression() for _ in range(4)]
    inputs = np.random.default_rng(1).normal(0, 1, (len(rows), 9)).tolist()
    targets = np.log(np.maximum(rows["useful_ns"][:, 0], 1)).tolist()
    began = time.thread_time_ns()
    for row, y in zip(inputs, targets, strict=True):
        x = dict(enumerate(row))
        for model in models:
            model.predict_one(x)  # type: ignore[no-untyped-call]
            model.learn_one(x, y)
    return len(rows) / (time.thread_time_ns() - began) * 1e9


def prediction_speed(rows: Rows, rounds: int) -> Iterator[dict[str, Any]]:
    """Time per segment of batches of 64, without a base model: the share of the online layer."""
    layer = OnlineLayer(HEADS, config=LearningConfig(tree_cpu_share=1.0), objective_ns=OBJECTIVE_NS)
    for first in range(0, min(len(rows), 2048), 256):
        layer.learn(rows[first : first + 256])
    snapshot = layer.snapshot(1)
    some, out = np.ascontiguousarray(rows["features"][:64]), np.zeros(64, dtype=PREDICTION)
    best = 1e18
    for _ in range(rounds * 20):
        began = time.thread_time_ns()
        for _ in range(50):
            snapshot.predict(some, 0.5, out)
        best = min(best, (time.thread_time_ns() - began) / 50 / 64)
    yield {"what": "prediction", "how": "64 segments, online layer alone", "us_per_segment": round(best / 1e3, 3)}
    content = snapshot.to_bytes()
    yield {"what": "snapshot", "how": "as bytes", "bytes": len(content)}


# -- accuracy ---------------------------------------------------------------------------------
def work_error(predicted: Floats, rows: Rows) -> float:
    """Sum of absolute error over sum of work."""
    measured = rows["useful_ns"].sum(1)
    return float(np.abs(predicted - measured).sum() / measured.sum())


def progressive(layer: OnlineLayer, rows: Rows) -> Rows:
    """What was predicted of each segment just before its batch was learned."""
    said = np.zeros(len(rows), dtype=PREDICTION)
    for first in range(0, len(rows), BATCH):
        some = rows[first : first + BATCH]
        layer.snapshot(first).predict(some["features"], 0.5, said[first : first + BATCH])
        layer.learn(some)
    return said


def stream(rows: Rows, count: int, seed: int) -> Rows:
    """``count`` outcomes in random order, again and again if need be."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(count // len(rows) + 1)])
    chosen: Rows = rows[order[:count]]
    return chosen


def changes(rows: Rows, base: BasePredictor, seeds: int) -> Iterator[dict[str, Any]]:
    """Error before a change, right after it, and after 300 segments."""
    types = np.bincount(rows["features"][:, FEATURE_INDEX["type_code"]].astype(int), minlength=len(TYPE_NAMES))
    common = [int(code) for code in np.argsort(types)[::-1][:3]]
    for name, kind in (
        ("machine twice as slow", -1),
        *((f"compress twice as dear: {TYPE_NAMES[c]}", c) for c in common),
    ):
        errors = np.array([change(rows, base, kind, seed) for seed in range(seeds)])
        earlier, first, later, _ = errors.mean(axis=0)
        yield {
            "what": "change",
            "how": name,
            "error_before": round(earlier, 3),
            "error_first_100": round(first, 3),
            "error_after_300": round(later, 3),
            "ratio": round(float(np.mean(errors[:, 2] / errors[:, 3])), 2),
        }


def change(rows: Rows, base: BasePredictor, kind: int, seed: int) -> tuple[float, float, float, float]:
    """Errors before, in the first 100, after 300; and what the last would have been without the change."""
    count = SETTLED + AFTER + 1500
    plain = stream(rows, count, seed)
    changed = plain.copy()
    late = np.arange(count) >= SETTLED
    if kind < 0:
        changed["useful_ns"][late] *= 2
    else:
        of_type = plain["features"][:, FEATURE_INDEX["type_code"]].astype(int) == kind
        changed["useful_ns"][late & of_type, 1] *= 2
    said = progressive(OnlineLayer(HEADS, base, NO_TREES), changed)["work_ns"].astype(np.float64)
    same = progressive(OnlineLayer(HEADS, base, NO_TREES), plain)["work_ns"].astype(np.float64)
    before, first, later = slice(SETTLED - 1500, SETTLED), slice(SETTLED, SETTLED + 100), slice(SETTLED + AFTER, count)
    return (
        work_error(said[before], changed[before]),
        work_error(said[first], changed[first]),
        work_error(said[later], changed[later]),
        work_error(same[later], plain[later]),
    )


def accuracy(rows: Rows, base: BasePredictor | None) -> Iterator[dict[str, Any]]:
    """Base alone, base and online, online alone, and size alone learned online in the same way."""
    count = 6000
    some = stream(rows, count, 1)
    late = slice(2000, count)
    by_size = some.copy()
    keep = np.zeros(some["features"].shape[1], dtype=bool)
    keep[FEATURE_INDEX["length_bytes"]] = True
    by_size["features"][:, ~keep] = 0
    trees = LearningConfig(tree_cpu_share=1.0)
    results = {
        "size alone, online": progressive(OnlineLayer(HEADS, None, trees), by_size),
        "online alone": progressive(OnlineLayer(HEADS, None, NO_TREES), some),
        "online alone, trees": progressive(OnlineLayer(HEADS, None, trees), some),
    }
    if base is not None:
        results["base and online"] = progressive(OnlineLayer(HEADS, base, trees), some)
        alone = np.exp(base.predict_log(some["features"]))[:, :2].sum(1)
        yield {"what": "accuracy", "how": "base alone", "work_error": round(work_error(alone[late], some[late]), 3)}
    for name, said in results.items():
        covered = float((some["useful_ns"].sum(1)[late] <= said["upper_ns"][late]).mean())
        error = work_error(said["work_ns"][late].astype(np.float64), some[late])
        yield {"what": "accuracy", "how": name, "work_error": round(error, 3), "covered": round(covered, 3)}


# -- the process ------------------------------------------------------------------------------
async def lags_ms(client: LearnerClient | None, rows: Rows, seconds: float) -> tuple[list[float], float]:
    """How late a timer of 1 ms is while 256 outcomes are offered at each, in milliseconds; and outcomes learned per
    second meanwhile. Without a client they are copied, but nobody learns them."""
    found, until, place = [], time.monotonic() + seconds, 0
    learned = client.learned if client else 0
    began = time.monotonic()
    while time.monotonic() < until:
        due = time.monotonic() + 1e-3
        await asyncio.sleep(1e-3)
        found.append((time.monotonic() - due) * 1e3)
        place = (place + OFFERED) % (len(rows) - OFFERED)
        some = rows[place : place + OFFERED]
        if client is None:
            some.copy()
        else:
            client.offer(some)
    return found, (client.learned - learned if client else 0) / (time.monotonic() - began)


async def loop_lag(rows: Rows, rounds: int) -> dict[str, Any]:
    """p99 of the loop's lag without a learner and with one that can never catch up, taking turns."""
    busy = LearnerClient(HEADS, LearningConfig(), objective_ns=OBJECTIVE_NS)
    busy.start()
    await busy.wait_ready()
    without, saturated, speed = [], [], []
    for _ in range(rounds):
        await busy.wait_learned()
        without.append(float(np.percentile((await lags_ms(None, rows, 2.0))[0], 99)))
        busy.offer(np.concatenate([rows] * (10_000 // len(rows) + 1)))
        late, per_second = await lags_ms(busy, rows, 2.0)
        saturated.append(float(np.percentile(late, 99)))
        speed.append(per_second)
    await busy.close(30)
    return {
        "what": "loop lag p99",
        "how": "256 outcomes offered each millisecond",
        "without_ms": round(statistics.median(without), 3),
        "saturated_ms": round(statistics.median(saturated), 3),
        "ratio": round(statistics.median(saturated) / statistics.median(without), 2),
        "learned_per_second": round(statistics.median(speed)),
        "skipped_behind": busy.skipped.get("learner_behind", 0),
    }


def main() -> None:
    """Measure and print, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows, base = material()

    def results() -> Iterator[dict[str, Any]]:
        yield from learning_speed(rows, base, options.rounds)
        yield from prediction_speed(rows, options.rounds)
        yield from accuracy(rows, base)
        if base is not None:
            yield from changes(rows, base, options.rounds)
        yield uvloop.run(loop_lag(rows, options.rounds))

    for result in results():
        print(json.dumps(result) if options.json else "  ".join(f"{k}={v}" for k, v in result.items()), flush=True)


def material() -> tuple[Rows, BasePredictor | None]:
    """Outcomes to learn from, and a base model that has not seen them."""
    if not CAPTURES.is_dir():
        return make_outcomes(1, 4000), None
    measured = measure_captures()
    files = np.unique(measured.file)
    np.random.default_rng(0).shuffle(files)
    half = np.isin(measured.file, files[: len(files) // 2])
    rows = measured.rows[~half]
    try:
        return rows, Remembered(TreesOfScikitLearn(measured.rows[half]), rows)
    except ImportError:
        return rows, None


if __name__ == "__main__":
    main()
