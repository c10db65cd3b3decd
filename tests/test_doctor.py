"""``streamspec doctor``: every ability with effect and command; exit 69 for a required one that is missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from streamspec import doctor
from streamspec.cli import main
from streamspec.doctor import CHECKS, Ability

pytestmark = pytest.mark.slow

KAFKA = """
sources:
  in: {{type: kafka, brokers: "127.0.0.1:{port}", topics: [a], group: g}}
sinks:
  out: {{type: 'null'}}
"""


def _report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict]]:
    code = main(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    return code, {ability["name"]: ability for ability in document["abilities"]}


def test_each_ability_says_what_it_is_good_for_and_how_to_enable_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, abilities = _report(capsys)
    assert code == 0
    assert list(abilities) == list(CHECKS)
    for ability in abilities.values():
        assert ability["effect"]
        assert ability["found"]
        assert "failed" not in ability["found"]
        assert ability["available"] or ability["command"]
    assert abilities["kafka"]["available"] is None
    assert abilities["affinity"]["available"] == (len(os.sched_getaffinity(0)) > 1)


@pytest.mark.root
def test_root_may_do_what_the_kernel_can(capsys: pytest.CaptureFixture[str]) -> None:
    _, abilities = _report(capsys)
    for name in ("nice", "sched_batch", "af_packet", "socket_buffers"):
        assert abilities[name]["available"], name
    rules = subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=True).stdout
    assert "5350:" not in rules  # trying HTB leaves nothing


def test_a_required_ability_that_is_missing_ends_with_69(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing(config: object) -> Ability:
        return Ability("gpu", False, "an effect", "no driver", "install it")

    async def broken(config: object) -> Ability:
        raise OSError("boom")

    monkeypatch.setattr(doctor, "CHECKS", {"gpu": missing, "resctrl": broken, "pressure": doctor.pressure})
    assert main(["doctor"]) == 0
    assert main(["doctor", "--require", "gpu"]) == 69
    told = capsys.readouterr()
    assert "required and not available: gpu" in told.err
    assert "enable: install it" in told.out
    assert "the check failed: OSError: boom" in told.out
    assert main(["doctor", "--require", "pressure"]) in (0, 69)
    assert main(["doctor", "--require", "gpus"]) == 2
    assert "no such ability" in capsys.readouterr().err


def test_brokers_that_do_not_answer_are_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"kafka": doctor.kafka})
    monkeypatch.setattr(doctor, "KAFKA_SECONDS", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        path = tmp_path / "config.yaml"
        path.write_text(KAFKA.format(port=taken.getsockname()[1]))
        code, abilities = _report(capsys, "--config", str(path), "--require", "kafka")
    assert code == 69
    assert "Connect call failed" in abilities["kafka"]["found"]
    assert abilities["kafka"]["command"]


def test_a_wrong_configuration_is_78(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("sources: 5")
    assert main(["doctor", "--config", str(tmp_path / "bad.yaml")]) == 78
