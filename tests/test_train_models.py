"""`streamspec train` and `streamspec evaluate` on real files, through the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamspec import cli
from streamspec.config import ServiceConfig
from streamspec.core.features import FEATURE_INDEX
from streamspec.core.prediction import chain_heads
from streamspec.profiler.profiler import Content
from streamspec.profiles.base_model import BasePredictor, load
from streamspec.profiles.database import ProfileDatabase
from streamspec.testing.captures import Packet, classic
from streamspec.train_models.collecting import collect
from streamspec.train_models.measuring import ChainBench, outcomes_of
from streamspec.train_models.segments import find_files

pytestmark = pytest.mark.slow

CHAIN = """\
sources: {in: {type: udp, bind: "127.0.0.1:0"}}
stages:
  - {type: compress, codec: zstd, levels: [1, 9]}
sinks: {out: {type: "null"}}
engine: {segment_bytes: 8 KiB, max_packet_bytes: 8 KiB}
"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    return path


def write_captures(folder: Path, count: int, seed: int) -> Path:
    """Captures whose packets are words, noise or zeros."""
    noise = random.Random(seed)
    folder.mkdir()
    for number in range(count):
        words = [noise.randbytes(noise.randint(3, 9)).hex().encode() for _ in range(40)]
        bodies = (
            lambda words=words: b" ".join(noise.choices(words, k=60)),
            lambda: noise.randbytes(700),
            lambda: bytes(700) + noise.randbytes(30),
        )
        packets = [Packet(1000 + i, bytes(14) + bodies[number % 3]()) for i in range(noise.randint(20, 80))]
        (folder / f"{number:02d}.pcap").write_bytes(classic(packets))
    return folder


def service(text: str = CHAIN) -> ServiceConfig:
    import yaml

    return ServiceConfig.model_validate(yaml.safe_load(text))


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capfd.readouterr()
    assert cli.main(arguments) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_train_stores_a_model_that_evaluate_judges_on_other_captures(
    tmp_path: Path, chain: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    seen, unseen = write_captures(tmp_path / "seen", 12, 1), write_captures(tmp_path / "unseen", 6, 2)
    (payloads := tmp_path / "payloads").mkdir()
    (payloads / "text.json").write_text(json.dumps([{"key": i} for i in range(900)]))
    database = tmp_path / "profiles.db"
    common = ["--database", str(database), "--config", str(chain), "--json", "--repetitions", "2"]
    trained = run(["train", str(seen), "--payloads", str(payloads), "--folds", "2", *common], capfd)
    heads = {f"{t}:compress:zstd:{level}" for t in ("useful_time", "output_ratio") for level in (1, 9)}
    assert set(trained["heads"]) == heads
    assert set(trained["chains"]) == {"compress:zstd:1", "compress:zstd:9"}
    for found in (*trained["heads"].values(), *trained["chains"].values()):
        assert set(found) == {"size", "size_and_count", "content"}
        assert all({"work_error", "r2_log"} <= set(of) for of in found.values())
    assert trained["training_set"]["files"] == 13
    ratio = trained["heads"]["output_ratio:compress:zstd:1"]
    assert ratio["content"]["work_error"] < ratio["size"]["work_error"]

    with ProfileDatabase.open(database, read_only=True) as store:
        champion = store.champion("base")
    assert champion is not None
    assert champion.version == trained["model"]["version"]
    assert champion.training_set["identity"] == trained["training_set"]["identity"]
    assert set(load(champion.content).heads) == heads == set(champion.heads)

    judged = run(["evaluate", str(unseen), str(seen), *common], capfd)
    assert judged["files"] == 6
    assert len(judged["left_out"]) == 12
    assert set(judged["chains"]["compress:zstd:9"]) == {"size", "base", "base_and_online"}
    assert judged["blind_heads"] == []
    assert all("compress:zstd:1" in chains for chains in judged["types"].values())
    ratio = judged["heads"]["output_ratio:compress:zstd:9"]
    assert ratio["base"]["work_error"] < ratio["size"]["work_error"]


def test_evaluating_what_was_trained_on_or_no_model_is_refused(
    tmp_path: Path, chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_captures(tmp_path / "captures", 1, 3)
    database = tmp_path / "profiles.db"
    ProfileDatabase.open(database).close()
    assert cli.main(["evaluate", str(folder), "--database", str(database), "--config", str(chain)]) == 2
    assert "streamspec train" in capsys.readouterr().err
    assert cli.main(["train", str(tmp_path / "absent"), "--database", str(database)]) == 69


def test_every_variant_is_measured_by_the_code_of_the_worker() -> None:
    bench = ChainBench(service(), repetitions=2)
    try:
        turned: list[int] = []
        measured = bench.measure([Content(bytes(8192)), Content(random.Random(1).randbytes(8192))], turned.append)
        assert sum(turned) == 2 * bench.turns == 2 * 2 * 2
    finally:
        bench.close()
    values = dict(zip(bench.names, measured.values.T, strict=True))
    assert (values["useful_time:compress:zstd:1"] > 0).all()
    assert values["output_ratio:compress:zstd:9"][0] < 0.02
    assert values["output_ratio:compress:zstd:9"][1] > 0.99
    assert measured.features[:, FEATURE_INDEX["length_bytes"]].tolist() == [8192, 8192]


def test_a_stage_that_fails_leaves_no_measurement() -> None:
    crash = 'map, function: "streamspec.testing.workload:Crash"'
    bench = ChainBench(service(CHAIN.replace("compress, codec: zstd, levels: [1, 9]", crash)), repetitions=1)
    try:
        measured = bench.measure([Content(b"FAIL" * 20), Content(b"fine" * 20)])
    finally:
        bench.close()
    assert np.isnan(measured.values[0]).all()
    assert (measured.values[1] > 0).all()


def test_outcomes_say_what_a_service_would_have_recorded() -> None:
    config = service()
    bench = ChainBench(config, repetitions=1)
    try:
        measured = bench.measure([Content(b"abcd" * 1000)] * 4)
    finally:
        bench.close()
    rows = outcomes_of(chain_heads(config.stages), measured, [0, 1, 0, 1])
    assert rows["variant"][:, 0].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(rows["useful_ns"][1::2, 0], measured.values[1::2, 1].astype(np.int64))
    assert rows["length"].tolist() == [4000] * 4
    assert (rows["payload_bytes_out"] > 0).all()


def test_files_that_occur_twice_are_taken_once_and_what_is_no_capture_is_left_out(tmp_path: Path) -> None:
    folder = write_captures(tmp_path / "captures", 2, 4)
    (folder / "again.pcap").write_bytes((folder / "00.pcap").read_bytes())
    (folder / "MANIFEST.csv").write_text("file,packets\n00.pcap,20\n")
    files = find_files([folder], None)
    assert len(files) == 3
    collected = collect(files, service(), repetitions=1)
    assert {file.path.suffix for file in collected.used} == {".pcap"}
    assert collected.samples.counts.any()


@pytest.mark.captures
def test_the_packaged_model_beats_nothing_known_on_real_captures(captures: Path) -> None:
    from streamspec.profiles.base_model import packaged
    from streamspec.profiles.training import errors
    from streamspec.train_models.judging import chain_times

    content = packaged()
    if content is None:
        pytest.skip("this tree has no packaged base model (make base-model)")
    config = service(CHAIN.replace("8 KiB", "64 KiB"))
    some = sorted(captures.glob("*.pcap"))[::12]
    collected = collect(find_files(some, None), config, repetitions=2, cuts=(1,))
    heads = chain_heads(config.stages)
    samples = collected.samples
    found = {}
    for name, model in (("packaged", load(content)), ("blind", None)):
        guessed = np.exp(BasePredictor(model, heads).predict_log(samples.features))
        times = chain_times(heads, samples.values)["compress:zstd:9"]
        found[name] = errors(times, chain_times(heads, guessed)["compress:zstd:9"])["work_error"]
    assert found["packaged"] < found["blind"]
