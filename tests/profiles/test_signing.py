"""Keys, signatures, and what a pickle may ask for."""

from __future__ import annotations

import collections
import functools
import operator
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.errors import UsageError
from streamspec.profiles.refusals import ContentRefused, DatabaseUnusable
from streamspec.profiles.signing import KEY_FILE_VARIABLE, KEY_VARIABLE, SigningKey, key_path, load_key
from streamspec.profiles.unpickling import dump_state, load_state

SECRET = b"0123456789abcdef0123456789abcdef"


# -- keys ----------------------------------------------------------------------------------------
def test_a_key_is_made_at_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        key = load_key(tmp_path / "p.db", environment={})
    finally:
        os.umask(old)
    assert key_path(tmp_path / "p.db").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "p.db", environment={}).identity == key.identity
    assert [path.name for path in tmp_path.iterdir()] == ["p.db.key"]


def test_two_databases_have_two_keys(tmp_path: Path) -> None:
    first, second = (load_key(tmp_path / name, environment={}) for name in ("a.db", "b.db"))
    assert first.identity != second.identity


@pytest.mark.slow
def test_processes_that_make_the_key_at_once_agree(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from streamspec.profiles.signing import load_key; sys.stdin.read();"
        "print(load_key(Path(sys.argv[1]), environment={}).identity)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "p.db")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    answers = {process.communicate(timeout=30)[0] for process in processes}
    assert len(answers) == 1
    assert answers != {b""}


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path / "p.db", environment={})
    key_path(tmp_path / "p.db").chmod(0o640)
    with pytest.raises(ContentRefused, match=r"mode 0640.*chmod 600"):
        load_key(tmp_path / "p.db", environment={})


def test_a_short_or_cut_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContentRefused, match="has 5 bytes"):
        SigningKey(b"short")
    load_key(tmp_path / "p.db", environment={})
    key_path(tmp_path / "p.db").write_bytes(b"")
    with pytest.raises(ContentRefused, match="has 0 bytes"):
        load_key(tmp_path / "p.db", environment={})


def test_the_environment_and_a_key_file_come_before_the_file_beside(tmp_path: Path) -> None:
    beside = load_key(tmp_path / "p.db", environment={})
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes(SECRET + b"\n")
    elsewhere.chmod(0o600)
    by_variable = load_key(tmp_path / "p.db", environment={KEY_VARIABLE: SECRET.decode(), KEY_FILE_VARIABLE: "/none"})
    by_file = load_key(tmp_path / "p.db", environment={KEY_FILE_VARIABLE: str(elsewhere)})
    given_file, given_bytes = (load_key(tmp_path / "p.db", given, environment={}) for given in (elsewhere, SECRET))
    assert {by_variable.identity, by_file.identity, given_file.identity, given_bytes.identity} == {
        SigningKey(SECRET).identity
    }
    assert beside.identity != by_file.identity


def test_a_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ContentRefused, match="no key"):
        load_key(tmp_path / "p.db", create=False, environment={})
    with pytest.raises(DatabaseUnusable, match="cannot be written"):
        load_key(tmp_path / "none" / "p.db", environment={})


def test_the_key_is_never_shown() -> None:
    key = SigningKey(SECRET)
    assert SECRET.decode() not in repr(key) + str(key)
    assert SECRET.hex() not in repr(key)


def test_parts_cannot_be_shifted_into_one_another() -> None:
    key = SigningKey(SECRET)
    assert key.check(key.sign(b"ab", b"c"), b"ab", b"c")
    assert not key.check(key.sign(b"ab", b"c"), b"a", b"bc")
    assert not key.check(b"", b"ab", b"c")


# -- what may be unpickled -----------------------------------------------------------------------
def _trained() -> dict[str, Any]:
    from river import drift, forest, linear_model, metrics, optim, preprocessing, stats, tree

    models: dict[str, Any] = {
        "tree": tree.HoeffdingTreeRegressor(splitter=tree.splitter.QOSplitter(), grace_period=50),
        "adaptive": tree.HoeffdingAdaptiveTreeRegressor(seed=1, grace_period=50),
        "linear": preprocessing.StandardScaler() | linear_model.LinearRegression(optimizer=optim.Adam()),
        "bayesian": linear_model.BayesianLinearRegression(),
        "passive": linear_model.PARegressor(),
        "forest": forest.ARFRegressor(n_models=2, seed=1),
    }
    numbers = random.Random(1)
    for _ in range(200):
        x = {"a": numbers.random(), "b": numbers.random() * 10}
        for model in models.values():
            model.learn_one(x, 3 * x["a"] + 4 * (x["b"] > 5))
    watchers: list[Any] = [drift.ADWIN(), drift.PageHinkley(), stats.Quantile(0.9), stats.EWMean(), stats.Var()]
    for watcher in watchers:
        for _ in range(50):
            watcher.update(numbers.random())
    error = metrics.MAE()
    error.update(1.0, 2.0)
    return models | {"watchers": watchers, "error": error, "arrays": {"w": np.arange(3.0), "n": np.float64(2)}}


@pytest.mark.slow
def test_state_of_river_models_comes_back_and_goes_on_learning() -> None:
    state = _trained()
    again = load_state(dump_state(state))
    x = {"a": 0.3, "b": 7.0}
    for name in ("tree", "adaptive", "linear", "bayesian", "passive", "forest"):
        assert again[name].predict_one(x) == state[name].predict_one(x)
        state[name].learn_one(x, 5.0)
        again[name].learn_one(x, 5.0)
        assert again[name].predict_one(x) == state[name].predict_one(x)
    assert again["error"].get() == state["error"].get()
    assert again["watchers"][2].get() == state["watchers"][2].get()
    np.testing.assert_array_equal(again["arrays"]["w"], state["arrays"]["w"])


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _named(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle that looks ``module.name`` up as protocol 4 does and calls it with texts."""
    push = b"".join(b"\x8c" + bytes([len(text)]) + text for text in (module.encode(), name.encode()))
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text for text in arguments)
    return b"\x80\x04" + push + b"\x93(" + texts + b"tR."


TOUCH = "touch {marker}"
ATTACKS: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda shell: pickle.dumps(_Call(os.system, shell)),
    "posix.system": lambda shell: _named("posix", "system", shell.encode()),
    "subprocess.Popen": lambda shell: pickle.dumps(_Call(subprocess.Popen, shell.split())),
    "builtins.eval": lambda shell: pickle.dumps(_Call(eval, f"__import__('os').system({shell!r})")),
    "builtins.exec": lambda shell: pickle.dumps(_Call(exec, f"import os; os.system({shell!r})")),
    "builtins.__import__": lambda shell: _named("builtins", "__import__", b"os"),
    "builtins.open": lambda shell: _named("builtins", "open", shell.split()[1].encode(), b"w"),
    "protocol 0": lambda shell: b"cos\nsystem\n(S'" + shell.encode() + b"'\ntR.",
    "operator.attrgetter": lambda shell: pickle.dumps(_Call(operator.attrgetter, "__class__.__base__")),
    "operator.methodcaller": lambda shell: pickle.dumps(_Call(operator.methodcaller, "system", shell)),
    "functools.partial": lambda shell: pickle.dumps(functools.partial(os.system, shell)),
    "copyreg": lambda shell: b"ccopyreg\n__newobj__\n(csubprocess\nPopen\n(lS'" + shell.encode() + b"'\natR.",
    "numpy with code": lambda shell: _named("numpy.testing._private.utils", "runstring", shell.encode(), b""),
    "numpy load": lambda shell: _named("numpy", "load", shell.encode()),
    "module inside river": lambda shell: _named("river.base.base", "inspect.os.system", shell.encode()),
    "import inside river": lambda shell: _named("river.utils.pretty", "inspect", shell.encode()),
    "river data sets": lambda shell: _named("river.datasets.base", "RemoteDataset"),
    "river cache": lambda shell: _named("river.stream.cache", "Cache", shell.split()[1].encode()),
    "walk out of a class": lambda shell: _named("river.base.base", "Base.__init__.__globals__"),
    "walk out of a list": lambda shell: _named("builtins", "list.__class__.__base__.__subclasses__"),
    "getattr on river": lambda shell: pickle.dumps(_Call(getattr, collections.OrderedDict, "__init__")),
    "a subclass of dict": lambda shell: _named("builtins", "type"),
    "extension": lambda shell: b"\x80\x02\x82\x01.",
    "persistent id": lambda shell: b"\x80\x02Pos\n.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_could_run_code_is_refused(attack: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = ATTACKS[attack](TOUCH.format(marker=marker))
    with pytest.raises(ContentRefused, match=r"could run code|damaged"):
        load_state(content)
    assert not marker.exists()


def test_the_attack_is_real(tmp_path: Path) -> None:
    """Plain ``pickle.loads`` runs it, so that the refusals above mean something."""
    marker = tmp_path / "ran"
    pickle.loads(ATTACKS["os.system"](TOUCH.format(marker=marker)))
    assert marker.exists()


def test_an_attack_hidden_in_real_state_is_refused(tmp_path: Path) -> None:
    state = _trained() | {"last": _Call(os.system, f"touch {tmp_path / 'ran'}")}
    with pytest.raises(ContentRefused):
        load_state(pickle.dumps(state))
    assert not (tmp_path / "ran").exists()


def test_a_method_of_a_river_model_beyond_those_it_keeps_is_refused() -> None:
    from river import stats

    for name in ("__init__", "__reduce__", "_get_params", "update", "__class__"):
        with pytest.raises(ContentRefused, match="could run code"):
            load_state(pickle.dumps(_Call(getattr, stats.Mean(), name)))


def test_the_refusal_names_what_was_asked_for_and_what_to_do() -> None:
    with pytest.raises(ContentRefused) as caught:
        load_state(_named("posix", "system", b"true"), where="profiles.db: online state base")
    told = str(caught.value)
    assert "posix.system" in told
    assert "River" in told
    assert "learned anew" in told
    assert told.startswith("profiles.db: online state base: ")


def test_further_classes_are_allowed_by_name() -> None:
    from fractions import Fraction

    content = dump_state({"share": Fraction(1, 3)})
    with pytest.raises(ContentRefused, match=r"fractions\.Fraction"):
        load_state(content)
    assert load_state(content, also=["fractions.Fraction"]) == {"share": Fraction(1, 3)}


def test_arrays_of_numbers_come_back_alike() -> None:
    ours = [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.zeros((0, 5)),
        np.array(7, dtype=np.int16),
        np.arange(10)[::3],
        np.array([True, False]),
        np.array([1.5, -2], dtype=">f4"),
        np.float64(0.1),
        np.int64(-3),
        np.bool_(True),
    ]
    theirs = load_state(dump_state(ours))
    for mine, other in zip(ours, theirs, strict=True):
        assert (type(other), other.dtype, other.shape) == (type(mine), mine.dtype, mine.shape)
        np.testing.assert_array_equal(other, mine)
    theirs[0][0, 0] = 5.0  # it goes on learning


def test_arrays_of_objects_are_neither_stored_nor_loaded() -> None:
    for array in (np.array([None]), np.zeros(2, dtype=[("a", "O")]), np.array(["text"])):
        with pytest.raises(UsageError, match="cannot be stored"):
            dump_state({"weights": array})
        with pytest.raises(ContentRefused, match="numpy"):
            load_state(pickle.dumps(array))
    own = "streamspec.profiles.unpickling"
    for function, number in (("_array", "O"), ("_scalar", "O"), ("_scalar", "V8"), ("_scalar", "i4,O")):
        with pytest.raises(ContentRefused):
            load_state(_named(own, function, b"12345678", number.encode()))


def test_state_that_cannot_be_pickled_is_told() -> None:
    with pytest.raises(UsageError, match="cannot be stored"):
        dump_state({"function": lambda: None})


@pytest.fixture(scope="module")
def state_bytes() -> bytes:
    from river import stats, tree

    model = tree.HoeffdingTreeRegressor()
    for step in range(30):
        model.learn_one({"a": float(step)}, 2.0 * step)
    return dump_state({"model": model, "mean": stats.Mean(), "weights": np.arange(4.0)})


@pytest.mark.slow
@given(corruption=st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_state_is_refused_or_loads_but_never_does_anything_else(
    corruption: st.DataObject, state_bytes: bytes
) -> None:
    content = bytearray(state_bytes)
    for _ in range(corruption.draw(st.integers(1, 4))):
        content[corruption.draw(st.integers(0, len(content) - 1))] = corruption.draw(st.integers(0, 255))
    cut = corruption.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        try:
            load_state(damaged)
        except ContentRefused:
            pass


@given(content=st.binary(max_size=200))
@settings(deadline=None, max_examples=150)
def test_random_bytes_are_refused_or_are_harmless(content: bytes) -> None:
    try:
        load_state(content)
    except ContentRefused:
        pass
