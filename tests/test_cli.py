"""The command line as its users meet it: in processes of its own, by exit code and output."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamspec import cli
from streamspec.core.errors import DependencyUnavailable, InternalError

pytestmark = pytest.mark.timeout(180)
"""Whole services are started here, and where no kernel is in the cache yet they compile them first."""

HEAVY = {"numba", "river", "hyperscan", "aiokafka", "scipy", "pandas", "zstandard", "lz4", "aiohttp"}
NULL = "sources: {packets: {type: udp, bind: '127.0.0.1:0'}}\nsinks: {out: {type: null}}\nengine: {workers: 1}\n"


def streamspec(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamspec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=170, **options)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(NULL)
    return path


# -- quick commands, in this process -------------------------------------------------------------
def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("streamspec 0.")


def test_version_for_machines_names_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--json"]) == 0
    assert {"numpy", "numba"} <= set(json.loads(capsys.readouterr().out)["libraries"])


def test_a_valid_configuration_is_told_in_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(config)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("valid; sources: packets (udp); stages: none; sinks: out (null); lanes: default (1 worker)")


def test_validate_for_machines_gives_the_whole_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "--json", str(config), "--set", "engine.retries=7"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"]
    assert answer["configuration"]["engine"]["retries"] == 7


def test_a_bad_configuration_exits_with_78_and_a_line_per_fault(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(NULL + "engin: {}\nobjective: {percentile: 1}\n")
    assert cli.main(["validate", str(config)]) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].startswith(f"{config}:4:1: engin: unknown key; did you mean 'engine'?")
    assert len(captured.err.splitlines()) == 2


def test_faults_for_machines_have_line_and_column(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(NULL + "engin: {}\n")
    assert cli.main(["validate", "--json", str(config)]) == 78
    answer = json.loads(capsys.readouterr().out)
    assert not answer["valid"]
    fault = answer["problems"][0]
    assert (fault["line"], fault["column"], fault["path"], fault["suggestion"]) == (4, 1, "engin", "engine")


def test_run_and_demo_refuse_the_same_file_the_same_way(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("sources: {}\n")
    for command in (["run", str(config)], ["demo", "--config", str(config)]):
        assert cli.main(command) == 78
        assert "sinks: is missing" in capsys.readouterr().err


def test_the_schema_accepts_what_the_loader_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"sources", "sinks"} == set(schema["required"])
    assert set(schema["properties"]) >= {"objective", "sources", "stages", "sinks", "engine", "lanes", "logging"}
    for name, model in schema["$defs"].items():
        for key, field in model.get("properties", {}).items():
            assert "description" in field, f"{name}.{key} is not described"


@pytest.mark.parametrize("arguments", ["", "run", "rnu", "run --st", "demo --seconds x", "version x"])
def test_wrong_usage_exits_with_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert "Usage: streamspec" in captured.err + captured.out


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (DependencyUnavailable("the port is taken", where="a", next_step="choose another"), 69, "a: the port is taken"),
        (InternalError("lost count"), 70, "lost count"),
        (RuntimeError("odd\nthing"), 70, "internal error: RuntimeError: odd thing; next: `streamspec --debug"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(
    raised: BaseException,
    code: int,
    told: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "_load", fail)
    assert cli.main(["validate", str(config)]) == code
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error


def test_debug_shows_the_traceback(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_load", lambda *_: 1 / 0)
    assert cli.main(["--debug", "validate", str(config)]) == 70
    assert "Traceback" in capsys.readouterr().err


# -- processes ------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["version"], ["schema"], ["validate", "CONFIG"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str], config: Path) -> None:
    config.write_text(
        "sources: {a: {type: udp, bind: '127.0.0.1:0'}, b: {type: tcp, bind: '127.0.0.1:0', framing: newline},"
        " c: {type: pcap, path: x}}\n"
        "stages: [{type: decode}, {type: meter}, {type: compress}, {type: map, function: 'a:b'}]\n"
        "sinks: {out: {type: jsonl, path: out/}, none: {type: null}}\n"
    )
    code = (
        "import sys; from streamspec.cli import main; code = main(sys.argv[1:]); "
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    given = [str(config) if argument == "CONFIG" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, check=False, timeout=170
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]"), done.stderr


@pytest.mark.slow
def test_the_installed_command_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("streamspec")
    installed = subprocess.run([str(script), "version"], capture_output=True, text=True, check=False, timeout=170)
    assert installed.stdout == streamspec("version").stdout != ""


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_crash(config: Path) -> None:
    command = f"{sys.executable} -m streamspec schema | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=170)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_taken_port_exits_with_69_and_one_line(config: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = streamspec("run", str(config), "--set", f"sources.packets.bind=127.0.0.1:{port}")
    assert done.returncode == 69
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1
    assert "next:" in told[0]
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_summary_is_told(number: signal.Signals, config: Path) -> None:
    command = [sys.executable, "-m", "streamspec", "run", str(config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if json.loads(line)["event"] == "started":
                break
        process.send_signal(number)
        summary = json.loads(process.stdout.read())
        process.stderr.read()
    assert process.returncode == 0
    assert summary["segments_lost"] == 0


@pytest.mark.slow
def test_the_environment_fills_the_configuration(config: Path) -> None:
    config.write_text(NULL.replace("workers: 1", 'workers: "${WORKERS:?how many}"'))
    assert "how many" in streamspec("validate", str(config)).stderr
    assert streamspec("validate", str(config), env=os.environ | {"WORKERS": "3"}).returncode == 0
