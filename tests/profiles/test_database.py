"""The database as the service relies on it: what is stored comes back, whatever happens to the file."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from streamspec.core.errors import InternalError, UsageError
from streamspec.core.features import FEATURE_SCHEMA_VERSION
from streamspec.profiles.connection import Connection
from streamspec.profiles.database import KEPT_STATES, ProfileDatabase
from streamspec.profiles.refusals import (
    ContentRefused,
    DatabaseDamaged,
    DatabaseForeign,
    DatabaseLocked,
    DatabaseUnusable,
)
from streamspec.profiles.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION
from streamspec.profiles.set_aside import open_or_set_aside

HEADS = ("useful_time:inspect", "output_ratio:compress:zstd:9")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def database(path: Path) -> Iterator[ProfileDatabase]:
    with ProfileDatabase.open(path) as opened:
        yield opened


def store(database: ProfileDatabase, content: bytes = b"trees", name: str = "base", **fields: Any) -> int:
    usual: dict[str, Any] = {"kind": "trees", "heads": HEADS, "training_set": {"files": 3}, "metrics": {"e": 0.1}}
    return database.store_model(name, content, **(usual | fields))


def tamper(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute(statement, values)


def roles(database: ProfileDatabase, name: str = "base") -> list[str]:
    return [record.role for record in database.models(name)]


# -- models --------------------------------------------------------------------------------------
def test_a_model_comes_back_with_all_that_was_said_of_it(database: ProfileDatabase) -> None:
    first = store(database)
    second = store(database, b"more", role="champion", parent=first, metrics={"work_error": np.float64(0.15)})
    stored = database.champion("base")
    assert stored is not None
    assert (stored.version, stored.content, stored.parent, stored.kind) == (second, b"more", first, "trees")
    assert (stored.heads, stored.training_set, stored.metrics) == (HEADS, {"files": 3}, {"work_error": 0.15})
    assert (stored.feature_schema, stored.content_bytes, stored.origin) == (FEATURE_SCHEMA_VERSION, 4, None)
    assert stored.created_ns > 0
    assert database.model("base") == stored


def test_versions_count_up_for_each_name(database: ProfileDatabase) -> None:
    assert [store(database), store(database), store(database, name="other"), store(database)] == [1, 2, 1, 3]


def test_one_version_is_champion_and_one_challenger(database: ProfileDatabase) -> None:
    for role in ("champion", "challenger", "archived", "champion", "challenger"):
        store(database, role=role)
    assert roles(database) == ["archived", "archived", "archived", "champion", "challenger"]
    database.promote("base", 5)
    assert roles(database) == ["archived", "archived", "archived", "archived", "champion"]
    database.promote("base", 1)
    database.promote("base", 1)
    assert roles(database) == ["champion", "archived", "archived", "archived", "archived"]
    assert database.challenger("base") is None


def test_nothing_stored_is_none_and_not_an_error(database: ProfileDatabase) -> None:
    assert (database.champion("base"), database.challenger("base"), database.model("base", 1)) == (None, None, None)
    assert (database.models(), database.online_state("base"), database.speedup("lane")) == ([], None, None)
    assert (database.decisions(), database.online_states()) == ([], [])


def test_what_cannot_be_stored_is_refused_and_nothing_of_it_stays(database: ProfileDatabase) -> None:
    store(database, role="champion")
    for fields in ({"parent": 7}, {"role": "king"}, {"metrics": {"x": object()}}, {"name": "../etc"}):
        with pytest.raises(UsageError):
            store(database, **fields)
    with pytest.raises(UsageError, match=r"base 9.*allowed: 1"):
        database.promote("base", 9)
    assert roles(database) == ["champion"]


def test_all_of_it_is_there_after_closing(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        store(database, role="champion")
        database.store_online_state("online", b"state", metrics={"seen": 5})
        database.store_decisions([{"time_ns": 5, "kind": "plan", "lane": "bulk"}])
        database.store_speedup("bulk", {1: 1.0, 2: 1.9})
    with ProfileDatabase.open(path, read_only=True) as database:
        assert database.champion("base") is not None
        assert database.online_state("online") == b"state"
        assert [(state.name, state.metrics, state.content_bytes) for state in database.online_states()] == [
            ("online", {"seen": 5}, 5)
        ]
        assert database.decisions() == [{"time_ns": 5, "kind": "plan", "lane": "bulk"}]
        assert database.speedup("bulk") == {1: 1.0, 2: 1.9}


# -- online state, decisions, curves -------------------------------------------------------------
def test_the_newest_state_comes_back_and_few_are_kept(database: ProfileDatabase, path: Path) -> None:
    for number in range(KEPT_STATES + 3):
        database.store_online_state("online", b"%d" % number)
    database.store_online_state("other", b"x")
    assert database.online_state("online") == b"%d" % (KEPT_STATES + 2)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM online_states WHERE name = 'online'").fetchone()[0] == KEPT_STATES


def test_an_older_state_stands_in_for_a_damaged_one(database: ProfileDatabase, path: Path) -> None:
    database.store_online_state("online", b"older")
    database.store_online_state("online", b"newer")
    tamper(path, "UPDATE online_states SET content = ? WHERE id = 2", b"newex")
    with capture_logs() as logs:
        assert database.online_state("online") == b"older"
    assert "older" in logs[0]["event"]
    tamper(path, "UPDATE online_states SET signature = zeroblob(32)")
    with capture_logs(), pytest.raises(ContentRefused):
        database.online_state("online")


def test_endless_storing_does_not_grow_the_file(database: ProfileDatabase, path: Path) -> None:
    content = random.Random(1).randbytes(300_000)
    sizes = []
    for _ in range(2):
        for _ in range(25):
            database.store_online_state("online", content)
        sizes.append(sum(path.with_name(path.name + suffix).stat().st_size for suffix in ("", "-wal")))
    assert sizes[1] <= sizes[0] < 25 * len(content)


def test_decisions_are_bounded_and_the_last_ones_come_oldest_first(path: Path) -> None:
    with ProfileDatabase.open(path, kept_decisions=50) as database:
        for start in range(0, 200, 20):
            database.store_decisions(
                {"time_ns": number, "kind": "plan" if number % 2 else "undo"} for number in range(start, start + 20)
            )
        assert [row["time_ns"] for row in database.decisions(last=3)] == [197, 198, 199]
        assert len(database.decisions(last=1000)) == 50
        assert [row["time_ns"] for row in database.decisions(last=2, kind="undo")] == [196, 198]
        assert [row["time_ns"] for row in database.decisions(since_ns=198)] == [198, 199]


def test_a_decision_without_time_or_kind_is_refused_with_all_its_batch(database: ProfileDatabase) -> None:
    with pytest.raises(UsageError, match="kind"):
        database.store_decisions([{"time_ns": 1, "kind": "plan"}, {"time_ns": 2}])
    assert database.decisions() == []


def test_a_newer_curve_replaces_the_older(database: ProfileDatabase) -> None:
    database.store_speedup("bulk", {1: 1.0, 2: 1.5})
    database.store_speedup("bulk", {1: 1.0, 2: 1.8, 4: 2.5})
    assert database.speedup("bulk") == {1: 1.0, 2: 1.8, 4: 2.5}


# -- authenticity --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE model_contents SET content = X'6576696c'",
        "UPDATE model_contents SET content = substr(content, 1, 3)",
        "DELETE FROM model_contents",
        "UPDATE models SET signature = zeroblob(32)",
        "UPDATE models SET signature = X''",
        "UPDATE models SET manifest = CAST(replace(CAST(manifest AS TEXT), 'trees', 'river') AS BLOB)",
        "UPDATE models SET manifest = X'00ff'",
        "UPDATE models SET version = 2",
        "UPDATE models SET name = 'other'",
        "UPDATE models SET key = '0000'",
    ],
)
def test_a_model_that_was_changed_is_refused(change: str, database: ProfileDatabase, path: Path) -> None:
    store(database, role="champion")
    tamper(path, change)
    if "SET version" in change or "SET name" in change:
        tamper(path, change.replace("models", "model_contents"))
    if "SET key" in change:
        assert database.champion("base") is not None  # it only says which key to look for
        return
    name = "other" if "other" in change else "base"
    with pytest.raises(ContentRefused):
        database.champion(name)
    with pytest.raises(ContentRefused):
        database.promote(name, 2 if "version" in change else 1)


def test_the_content_of_one_model_does_not_pass_for_another(database: ProfileDatabase, path: Path) -> None:
    store(database, b"one", role="champion")
    store(database, b"two", name="other")
    tamper(path, "UPDATE model_contents SET content = (SELECT content FROM model_contents WHERE name = 'other')")
    with pytest.raises(ContentRefused, match="changed or cut"):
        database.champion("base")


def test_another_key_is_told_as_such(path: Path) -> None:
    with ProfileDatabase.open(path, key=b"a" * 32) as database:
        store(database, role="champion")
        database.store_online_state("online", b"state")
    with ProfileDatabase.open(path, key=b"b" * 32) as database, capture_logs():
        for read in (lambda: database.champion("base"), lambda: database.online_state("online")):
            with pytest.raises(ContentRefused, match=r"signed with another key.*put the key file back"):
                read()
        assert store(database, role="champion") == 2  # it goes on under the new key
        assert database.champion("base") is not None


def test_a_lost_key_is_not_made_anew_by_reading(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        store(database, role="champion")
    path.with_name("profiles.db.key").unlink()
    with ProfileDatabase.open(path) as database, pytest.raises(ContentRefused, match="no key"):
        database.champion("base")
    assert not path.with_name("profiles.db.key").exists()


@given(position=st.integers(0), value=st.integers(0, 255))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_a_changed_byte_of_the_file_never_yields_another_model(position: int, value: int, tmp_path: Path) -> None:
    pristine, path = tmp_path / "pristine.db", tmp_path / "one.db"
    content = bytes(range(256)) * 40
    if not pristine.exists():
        with ProfileDatabase.open(pristine, key=b"k" * 32) as database:
            store(database, content, role="champion")
    file = bytearray(pristine.read_bytes())
    file[position % len(file)] = value
    path.write_bytes(file)
    try:
        with ProfileDatabase.open(path, key=b"k" * 32) as database:
            stored = database.champion("base")
            assert stored is None or stored.content == content
            database.models()
    except DatabaseUnusable:
        pass
    finally:
        for left in tmp_path.glob("one.db*"):
            left.unlink()


# -- the schema ----------------------------------------------------------------------------------
def test_a_newer_schema_is_refused_and_left_as_it_was(path: Path) -> None:
    ProfileDatabase.open(path).close()
    tamper(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(DatabaseForeign, match=r"newer streamspec.*not touched.*update streamspec"):
        ProfileDatabase.open(path)
    with capture_logs() as logs:
        assert open_or_set_aside(path)[0] is None
    assert "newer" in logs[0]["reason"]
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["profiles.db"]


def test_a_database_of_another_program_is_refused_and_left_as_it_was(path: Path) -> None:
    tamper(path, "CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(DatabaseForeign, match="another program"):
        ProfileDatabase.open(path)
    assert open_or_set_aside(path)[0] is None
    assert path.read_bytes() == before


def test_an_older_schema_is_brought_up_to_date_with_what_it_holds(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        store(database, role="champion")
    later = (*MIGRATIONS, ("ALTER TABLE speedups ADD COLUMN note TEXT", "CREATE TABLE more (a INTEGER)"))
    with pytest.raises(DatabaseUnusable, match="opened for reading only"):
        Connection(path, read_only=True, migrations=later)
    Connection(path, migrations=later).close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION + 1
        assert raw.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        assert raw.execute("SELECT name, version FROM models").fetchall() == [("base", 1)]
        assert raw.execute("SELECT note FROM speedups").fetchall() == []


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    ProfileDatabase.open(path).close()
    broken = (*MIGRATIONS, ("CREATE TABLE more (a INTEGER)", "CREATE TABLE more (a INTEGER)"))
    with pytest.raises(DatabaseUnusable):
        Connection(path, migrations=broken)
    with ProfileDatabase.open(path) as database:
        assert store(database) == 1


# -- damage --------------------------------------------------------------------------------------
DAMAGE = {
    "random bytes": lambda whole: random.Random(1).randbytes(len(whole)),
    "a few random bytes": lambda whole: b"\x00\xffgarbage",
    "text": lambda whole: b"sources: {packets: {type: udp}}\n" * 20,
    "zeros": lambda whole: bytes(len(whole)),
    "cut in half": lambda whole: whole[: len(whole) // 2],
    "cut within the header": lambda whole: whole[:50],
    "pages of noise": lambda whole: whole[:4096] + random.Random(2).randbytes(len(whole) - 4096),
    "noise behind the header": lambda whole: whole[:100] + random.Random(3).randbytes(len(whole) - 100),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_database_is_set_aside_and_a_new_one_is_begun(damage: str, path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        store(database, b"x" * 30_000, role="champion")
    broken = DAMAGE[damage](path.read_bytes())
    path.write_bytes(broken)
    path.with_name("profiles.db-wal").write_bytes(b"left over")
    with capture_logs() as logs:
        opened, reason = open_or_set_aside(path)
    assert opened is not None
    with opened:
        assert opened.models() == []
        assert store(opened, role="champion") == 1
    (aside,) = path.parent.glob("profiles.db.damaged-*Z")
    assert aside.read_bytes() == broken
    assert [entry["aside"] for entry in logs] == [str(aside)]
    assert reason is not None
    assert str(aside) in reason
    with ProfileDatabase.open(path) as again:
        assert again.champion("base") is not None


def test_what_was_set_aside_is_never_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped:
        def monotonic_ns(self) -> int:
            return 0

        def time_ns(self) -> int:
            return 1_700_000_000_000_000_000

    for content in (b"first", b"second", b"third"):
        path.write_bytes(content * 100)
        opened, _ = open_or_set_aside(path, clock=Stopped())
        assert opened is not None
        opened.close()
    kept = sorted(file for file in path.parent.glob("*.damaged-*") if not file.name.endswith(("-wal", "-shm")))
    assert [file.name for file in kept] == [f"profiles.db.damaged-20231114T221320.000000Z{n}" for n in ("", ".1", ".2")]
    assert [file.read_bytes()[:5] for file in kept] == [b"first", b"secon", b"third"]


def test_a_file_that_was_named_by_mistake_is_left_alone(tmp_path: Path) -> None:
    capture = tmp_path / "today.pcap"
    capture.write_bytes(b"\xd4\xc3\xb2\xa1" * 100)
    with capture_logs() as logs:
        assert open_or_set_aside(capture)[0] is None
    assert "not a database" in logs[0]["reason"]
    assert [file.name for file in tmp_path.iterdir()] == ["today.pcap"]
    assert capture.read_bytes() == b"\xd4\xc3\xb2\xa1" * 100


def test_a_file_that_was_exchanged_while_open_is_followed(path: Path, tmp_path: Path) -> None:
    with ProfileDatabase.open(path) as database, ProfileDatabase.open(path, read_only=True) as reader:
        store(database)
        path.rename(tmp_path / "away.db")
        with pytest.raises(DatabaseUnusable, match="no such database"):
            reader.models()
        database.store_online_state("online", b"state")
        assert reader.online_state("online") == b"state"
        assert database.models() == []
    with ProfileDatabase.open(path) as database:
        assert database.online_state("online") == b"state"


def test_a_closed_database_says_so(path: Path) -> None:
    database = ProfileDatabase.open(path)
    database.close()
    database.close()
    with pytest.raises(DatabaseUnusable, match="closed"):
        database.models()


def test_a_missing_table_is_damage(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        tamper(path, "DROP TABLE decisions")
        with pytest.raises(DatabaseDamaged, match="decisions"):
            database.decisions()
        assert store(database) == 1


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()
    with ProfileDatabase.open(path) as database:
        assert store(database) == 1


def test_damage_that_comes_while_open_is_told_and_the_rest_goes_on(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        for _ in range(20):
            store(database, os.urandom(20_000), role="champion")
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
        with pytest.raises(DatabaseDamaged):
            database.check()
        with pytest.raises(DatabaseUnusable):
            [database.model("base", version) for version in range(1, 21)]


# -- what the host does --------------------------------------------------------------------------
@contextmanager
def held(path: Path, how: str) -> Iterator[None]:
    """Another process holds the database; ``how`` is a statement."""
    script = (
        "import sqlite3, sys; raw = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "[raw.execute(statement) for statement in sys.argv[2].split(';')]; print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def test_a_writer_elsewhere_does_not_keep_the_service_from_reading(path: Path) -> None:
    with ProfileDatabase.open(path, busy_seconds=0.02) as database:
        store(database, role="champion")
        with held(path, "BEGIN IMMEDIATE"):
            assert database.champion("base") is not None
            with pytest.raises(DatabaseLocked, match=r"0\.02 s.*wait, or end the process"):
                store(database)
            opened, reason = open_or_set_aside(path, busy_seconds=0.02)
            assert (opened is not None, reason) == (True, None)
            assert opened is not None
            opened.close()
        assert store(database) == 2


def test_a_locked_database_is_left_alone_and_the_service_told(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        store(database)
    before = path.read_bytes()
    with held(path, "PRAGMA locking_mode = EXCLUSIVE;BEGIN EXCLUSIVE"):
        with pytest.raises(DatabaseLocked):
            ProfileDatabase.open(path, busy_seconds=0.02)
        with capture_logs() as logs:
            opened, reason = open_or_set_aside(path, busy_seconds=0.02)
        assert opened is None
        assert reason is not None
        assert "another process holds it" in reason
        assert [entry["event"] for entry in logs] == ["profile database not used; costs are predicted from size alone"]
        assert path.read_bytes() == before
    assert not list(path.parent.glob("*damaged*"))


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    for bad in (tmp_path / "none" / "p.db", tmp_path):
        with pytest.raises(DatabaseUnusable):
            ProfileDatabase.open(bad)
        opened, reason = open_or_set_aside(bad)
        assert opened is None
        assert reason
    for options in ({"read_only": True}, {"create": False}):
        with pytest.raises(DatabaseUnusable, match="no such database"):
            ProfileDatabase.open(tmp_path / "p.db", **options)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.root
def test_a_folder_that_cannot_be_written_still_gives_models(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSPEC_PROFILES_KEY", "k" * 32)
    with ProfileDatabase.open(path) as database:
        store(database, role="champion")
    for folder in (path.parent, *path.parent.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    with as_nobody():
        with pytest.raises(DatabaseUnusable, match="cannot be written"):
            ProfileDatabase.open(path)
        assert open_or_set_aside(path)[0] is None
        with ProfileDatabase.open(path, read_only=True) as database:
            assert database.champion("base") is not None
            with pytest.raises(DatabaseUnusable, match="reading only"):
                store(database)
        path_of_damaged = path.with_name("x.db")
        assert open_or_set_aside(path_of_damaged)[0] is None
    path_of_damaged.write_bytes(b"damaged " * 100)
    with as_nobody():
        opened, reason = open_or_set_aside(path_of_damaged)
    assert opened is None
    assert reason
    assert path_of_damaged.read_bytes() == b"damaged " * 100


def test_a_full_disk_is_told_and_what_was_stored_stays(path: Path) -> None:
    with ProfileDatabase.open(path) as database:
        store(database, b"small", role="champion")
        with database._connection.reading() as raw:  # the same result code as from a full file system
            pages = raw.execute("PRAGMA page_count").fetchone()[0]
            raw.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(DatabaseUnusable, match="disk is full"):
            store(database, os.urandom(100_000), role="champion")
        with pytest.raises(DatabaseUnusable, match="disk is full"):
            database.store_online_state("online", os.urandom(100_000))
        stored = database.champion("base")
        assert stored is not None
        assert (stored.version, stored.content) == (1, b"small")


@pytest.mark.root
@pytest.mark.slow
def test_a_really_full_file_system_never_damages_the_database(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys
from pathlib import Path
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.refusals import DatabaseUnusable
from streamspec.profiles.set_aside import open_or_set_aside
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=True)
stored = 0
with ProfileDatabase.open(folder / "p.db") as database:
    try:
        while True:
            database.store_model("base", os.urandom(30_000), kind="trees", heads=[], training_set={}, metrics={})
            stored += 1
    except DatabaseUnusable as error:
        print(error)
    assert len(database.models()) == stored > 2, stored
with ProfileDatabase.open(folder / "p.db") as database:
    database.check()
    assert len(database.models()) == stored
    assert all(database.model("base", version) for version in range(1, stored + 1))
(folder / "rest").write_bytes(b"x" * (os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize))
opened, reason = open_or_set_aside(folder / "new.db")
assert opened is None and reason, reason
"""
    command = ["unshare", "--mount", sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    if "unshare" in ended.stderr or "CalledProcessError" in ended.stderr:
        pytest.skip("no mount namespace here")
    assert ended.returncode == 0, ended.stderr
    assert "disk is full" in ended.stdout


# -- threads and processes -----------------------------------------------------------------------
def test_threads_share_one_object(database: ProfileDatabase) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(10):
                store(database, name=f"m{number % 2}", role="champion")
                database.champion("m0")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [len(database.models(name)) for name in ("m0", "m1")] == [20, 20]


def test_it_does_not_survive_a_fork(database: ProfileDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(InternalError, match="fork"):
        database.models()


WRITER = """
import os, sys
from pathlib import Path
from streamspec.profiles.database import ProfileDatabase
name, count = sys.argv[2], int(sys.argv[3])
with ProfileDatabase.open(Path(sys.argv[1]), busy_seconds=20) as database:
    print("open", flush=True)
    sys.stdin.readline()
    for number in range(count):
        content = name.encode() + os.urandom(5_000)
        database.store_model(name, content, kind="trees", heads=[], training_set={}, metrics={}, role="champion")
        database.store_model("shared", content, kind="trees", heads=[], training_set={}, metrics={}, role="challenger")
        database.store_online_state("online", content * 40)
        database.store_decisions([{"time_ns": number, "kind": name}])
        print(number, flush=True)
"""


@contextmanager
def writing(path: Path, *names: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that all have it open and then write as fast as they can."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        yield writers
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=30)


@pytest.mark.slow
def test_two_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    with writing(path, "a", "b", count=40) as writers, ProfileDatabase.open(path, busy_seconds=20) as reader:
        while any(writer.poll() is None for writer in writers):  # a third one reads meanwhile
            records = reader.models("shared")
            assert [record.version for record in records] == list(range(1, len(records) + 1))
            assert reader.online_state("online") or len(records) < 3
        for writer in writers:
            _, errors = writer.communicate(timeout=30)
            assert (writer.returncode, errors) == (0, "")
        assert [len(reader.models(name)) for name in ("a", "b", "shared")] == [40, 40, 80]
        assert [record.role for record in reader.models("shared")].count("challenger") == 1
        assert len(reader.decisions(last=1000)) == 80
        reader.check()
        assert all(reader.model("shared", version) for version in range(1, 81))


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 7, 20])
def test_a_process_killed_in_the_middle_of_a_write_costs_at_most_that_write(path: Path, lines: int) -> None:
    with writing(path, "a", count=1_000_000) as (writer,):
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        done = len(told + writer.stdout.read().splitlines())
    opened, reason = open_or_set_aside(path)
    assert reason is None
    assert opened is not None
    with opened:
        stored = len(opened.models("a"))
        assert done <= stored <= done + 1
        assert all(opened.model("a", version) for version in range(1, stored + 1))
        champion = opened.champion("a")
        assert champion is not None
        assert champion.version == stored
        assert opened.online_state("online") is not None
        assert store(opened, name="a") == stored + 1


@pytest.mark.slow
def test_two_services_that_find_it_damaged_set_one_file_aside(path: Path) -> None:
    path.write_bytes(b"damaged " * 1000)
    script = (
        "import sys; from pathlib import Path; from streamspec.profiles.set_aside import open_or_set_aside;"
        "sys.stdin.readline(); opened, _ = open_or_set_aside(Path(sys.argv[1]), busy_seconds=20);"
        "opened.store_online_state('online', sys.argv[2].encode()); opened.close()"
    )
    command = [sys.executable, "-c", script, str(path)]
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    services = [subprocess.Popen([*command, name], text=True, **options) for name in "abc"]
    for service in services:
        assert service.stdin is not None
        service.stdin.write("go\n")
        service.stdin.flush()
    for service in services:
        output, _ = service.communicate(timeout=30)
        assert service.returncode == 0, output
    asides = [file for file in path.parent.glob("*.damaged-*") if not file.name.endswith(("-wal", "-shm"))]
    assert [file.read_bytes()[:8] for file in asides] == [b"damaged "]
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM online_states").fetchone()[0] == 3
