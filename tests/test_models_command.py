"""``streamspec models`` as its users meet it: by output, files and exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamspec import cli
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.refusals import ContentRefused

HERE, ELSEWHERE = b"h" * 32, b"e" * 32

Run = Callable[..., str]


def arrays(**named: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **named)
    return file.getvalue()


TREES = arrays(thresholds=np.arange(8, dtype=np.float32))


def store(path: Path, key: bytes = HERE, content: bytes = TREES, **fields: Any) -> int:
    usual: dict[str, Any] = {
        "kind": "trees",
        "heads": ["useful_time:inspect"],
        "training_set": {"files": ["a.pcap", "b.pcap"]},
        "metrics": {"work_error": 0.1234567, "r2_log": 0.95},
    }
    with ProfileDatabase.open(path, key=key) as database:
        return database.store_model("base", content, **(usual | fields))


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMSPEC_PROFILES_KEY", HERE.decode())
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "profiles.db"
    store(path)
    store(path, role="champion", parent=1)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object, code: int = 0) -> str:
        assert cli.main(["models", *map(str, arguments)]) == code
        told = capsys.readouterr()
        return told.err if code else told.out

    return run


# -- looking -------------------------------------------------------------------------------------
def test_list_shows_each_version_with_role_and_metrics(database: Path, run: Run) -> None:
    text = run("list")
    rows = [line for line in text.splitlines() if "base" in line]
    assert [("champion" in row, "work_error=0.1235" in row, "version 1" in row) for row in rows] == [
        (False, True, False),
        (True, True, True),
    ]


def test_list_for_machines_is_whole(database: Path, run: Run) -> None:
    with ProfileDatabase.open(database) as opened:
        opened.store_online_state("online", b"state", metrics={"seen": 3})
    answer = json.loads(run("list", "--json"))
    assert [(model["version"], model["role"], model["parent"]) for model in answer["models"]] == [
        (1, "challenger", None),
        (2, "champion", 1),
    ]
    assert answer["models"][0]["metrics"] == {"work_error": 0.1234567, "r2_log": 0.95}
    assert answer["models"][0]["training_set"] == {"files": ["a.pcap", "b.pcap"]}
    assert [(state["name"], state["metrics"]) for state in answer["online_states"]] == [("online", {"seen": 3})]


def test_show_takes_the_champion_unless_a_version_is_named(database: Path, run: Run) -> None:
    assert json.loads(run("show", "base", "--json"))["version"] == 2
    assert json.loads(run("show", "base", "--version", 1, "--json"))["version"] == 1
    text = run("show", "base")
    for line in ("metrics.work_error", "a.pcap, b.pcap", "useful_time:inspect", "authentic"):
        assert line in text


def test_show_says_when_content_is_not_authentic(database: Path, run: Run) -> None:
    with closing(connect(database)) as raw:
        raw.execute("UPDATE model_contents SET content = X'00' WHERE version = 2")
        raw.commit()
    answer = json.loads(run("show", "base", "--json"))
    assert answer["authentic"] is False
    assert "changed or cut" in answer["refused"]
    assert json.loads(run("show", "base", "--version", 1, "--json"))["authentic"] is True


def test_looking_changes_nothing_and_creates_nothing(database: Path, run: Run, tmp_path: Path) -> None:
    before = database.read_bytes()
    run("list")
    run("show", "base")
    assert database.read_bytes() == before
    assert "no such database" in run("list", "--database", tmp_path / "none.db", code=69)
    assert "no such database" in run("promote", "base", 1, "--database", tmp_path / "none.db", code=69)
    assert not (tmp_path / "none.db").exists()


def test_what_does_not_exist_is_told_with_what_does(database: Path, run: Run) -> None:
    assert "allowed: base" in run("show", "other", code=2)
    assert "allowed: 1, 2" in run("show", "base", "--version", 9, code=2)
    assert "allowed: 1, 2" in run("promote", "base", 9, code=2)
    assert "champion, challenger, archived" in run("import", "x", "--role", "king", code=2)


def test_a_damaged_database_is_told_and_left_as_it_is(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "profiles.db"
    path.write_bytes(b"no database " * 100)
    for command in (("list",), ("show", "base"), ("promote", "base", 1), ("import", path)):
        assert run(*command, "--database", path, code=69).count("\n") == 1
    assert path.read_bytes() == b"no database " * 100


# -- changing ------------------------------------------------------------------------------------
def test_promote_says_what_it_follows_and_can_be_taken_back(database: Path, run: Run) -> None:
    assert run("promote", "base", 1) == "base: version 1 is champion; it was version 2\n"
    assert json.loads(run("promote", "base", 2, "--json")) == {"name": "base", "champion": 2, "before": 1}
    assert json.loads(run("show", "base", "--json"))["version"] == 2


@pytest.mark.slow
def test_a_service_reads_what_the_command_promotes(database: Path) -> None:
    """Two processes on one file: the command's change is what the other sees next."""
    with ProfileDatabase.open(database, key=HERE) as service:
        command = [sys.executable, "-m", "streamspec", "models", "promote", "base", "1"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        champion = service.champion("base")
        assert champion is not None
        assert champion.version == 1


# -- carrying ------------------------------------------------------------------------------------
def test_a_model_carried_to_another_database_with_the_same_key(database: Path, run: Run, tmp_path: Path) -> None:
    assert "base version 2" in run("export", "base", "m.model")
    assert "the file exists" in run("export", "base", "m.model", code=2)
    run("export", "base", "m.model", "--overwrite", "--version", 2)
    other = tmp_path / "other.db"
    assert "base version 1, archived" in run("import", "m.model", "--database", other)
    run("import", "m.model", "--database", other, "--name", "copy", "--role", "champion")
    with ProfileDatabase.open(database) as first, ProfileDatabase.open(other) as second:
        original, carried = first.model("base", 2), second.champion("copy")
    assert original is not None
    assert carried is not None
    for field in ("content", "kind", "heads", "training_set", "metrics", "feature_schema"):
        assert getattr(carried, field) == getattr(original, field)
    assert carried.origin is not None
    assert (carried.origin["name"], carried.origin["version"], carried.parent) == ("base", 2, None)
    assert sorted(path.name for path in tmp_path.iterdir() if "model" in path.name) == ["m.model"]


def exported(tmp_path: Path, key: bytes = ELSEWHERE, **fields: Any) -> Path:
    path = tmp_path / f"foreign{len(list(tmp_path.iterdir()))}.db"
    store(path, key, **fields)
    with ProfileDatabase.open(path, key=key) as database:
        database.export("base", 1, file := path.with_suffix(".model"))
    return file


def test_a_model_of_another_key_needs_trust(database: Path, run: Run, tmp_path: Path) -> None:
    file = exported(tmp_path)
    told = run("import", file, code=69)
    assert "signed with another key" in told
    assert "add --trust" in told
    assert "base version 3" in run("import", file, "--trust")
    with ProfileDatabase.open(database) as opened:
        stored = opened.model("base", 3)
    assert stored is not None
    assert stored.content == TREES  # and signed with the key here from now on


def test_pickled_content_of_another_key_is_never_taken(database: Path, run: Run, tmp_path: Path) -> None:
    for kind in ("river", "anything"):
        file = exported(tmp_path, kind=kind, content=b"cos\nsystem\n(S'true'\ntR.")
        for options in ((), ("--trust",)):
            assert "can run code" in run("import", file, *options, code=69)
    run("import", exported(tmp_path, HERE, kind="river", content=b"state"))  # of this key it is


def test_trust_does_not_cover_objects_within_arrays(database: Path, run: Run, tmp_path: Path) -> None:
    hidden = arrays(thresholds=np.array([{"a": 1}], dtype=object))
    for content in (hidden, b"cos\nsystem\n(S'true'\ntR.", TREES[:-30], b""):
        assert "no archive of plain arrays" in run("import", exported(tmp_path, content=content), "--trust", code=69)


def test_an_export_that_was_changed_is_refused_even_with_trust(database: Path, run: Run, tmp_path: Path) -> None:
    run("export", "base", "m.model")
    whole = Path("m.model").read_bytes()
    seal = whole.splitlines()[1].split()[1]
    for changed in (
        whole.replace(b"0.95", b"0.99"),
        whole.replace(b'"trees"', b'"river"'),
        whole[:-1],
        whole + b"x",
        whole.replace(seal, b"0" * 64),
        whole.replace(seal, b"zz"),
        whole[:40],
        b"",
        b"streamspec-model 2\n" + whole,
    ):
        Path("changed.model").write_bytes(changed)
        for options in ((), ("--trust",)):
            assert run("import", "changed.model", *options, code=69).startswith("changed.model: ")
    assert len(json.loads(run("list", "--json"))["models"]) == 2


@given(position=st.integers(0), value=st.integers(0, 255), cut=st.booleans())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_no_damage_to_an_export_yields_another_content(position: int, value: int, cut: bool, tmp_path: Path) -> None:
    pristine = next(iter(tmp_path.glob("*.model")), None) or exported(tmp_path)
    whole = bytearray(pristine.read_bytes())
    position %= len(whole)
    if cut:
        del whole[position:]
    else:
        whole[position] = value
    (changed := tmp_path / "changed").write_bytes(whole)
    with ProfileDatabase.open(tmp_path / "target.db", key=HERE) as database:
        try:
            name, version = database.import_(changed, trust=True)
        except ContentRefused:
            return
        stored = database.model(name, version)
        assert stored is not None
        assert stored.content == TREES


def test_export_and_import_that_cannot_reach_their_file_say_so(database: Path, run: Run, tmp_path: Path) -> None:
    assert "cannot be written" in run("export", "base", tmp_path / "none" / "m.model", code=69)
    assert "cannot be read" in run("import", tmp_path / "none.model", code=69)
    assert "cannot be read" in run("import", tmp_path, code=69)
