"""The user's own code as a stage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from streamspec.config import parse_config
from streamspec.core.errors import ConfigError, StageError
from streamspec.stages.map import MapConfig
from streamspec.testing.stages import make_segment, run_stage

CONFIGS = Path(__file__).parents[2] / "configs"


def _stage(function: str, **options):
    return MapConfig(type="map", function=function, **options).build()


def test_the_example_function_hides_secrets() -> None:
    segment = make_segment([b"user=me&password=hunter2&x=1"])
    run_stage(_stage("redact:redact", path=(CONFIGS / "stages",)), segment)
    assert bytes(segment.payload) == b"user=me&password=***&x=1"


def test_the_example_class_emits_records() -> None:
    stage = _stage("count_words:CountWords", path=(CONFIGS / "stages",), options={"minimum": 2})
    context = run_stage(stage, make_segment([b"two words"]))
    assert context.records == [("words", b'{"record": "words", "words": 2}')]
    assert context.tally["words"] == 2
    assert not run_stage(stage, make_segment([b"one"])).records


def test_none_leaves_the_payload_and_another_type_is_an_error() -> None:
    segment = make_segment([b"as it is"])
    before = segment.payload
    run_stage(_stage("tests.stages.test_map:_nothing"), segment)
    assert segment.payload is before
    with pytest.raises(StageError, match="must return bytes"):
        run_stage(_stage("tests.stages.test_map:_number"), segment)


def test_a_function_can_be_called_with_each_message() -> None:
    segment = make_segment([b"one", b"two", b"three"])
    run_stage(_stage("tests.stages.test_map:_only_two", unit="message"), segment)
    assert segment.messages == [b"one", b"TWO", b"three"]
    untouched = make_segment([b"one", b"three"])
    before = untouched.payload
    run_stage(_stage("tests.stages.test_map:_only_two", unit="message"), untouched)
    assert untouched.payload is before


def _only_two(payload: bytes) -> bytes | None:
    return payload.upper() if payload == b"two" else None


def _nothing(payload: bytes) -> None:
    return None


def _number(payload: bytes) -> int:
    return 5


class _NoProcess:
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "there is no module no_such_module"),
        ("tests.stages.no_such:f", "there is no module tests.stages.no_such"),
        ("tests.stages.test_map:_nothin", "near names: _nothing"),
        ("tests.stages.test_map:CONFIGS", "neither a function nor a class"),
        ("tests.stages.test_map:_NoProcess", "has no process"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _stage(function)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"cannot be imported: SyntaxError: .*next: see .*broken.py:1"),
        ("x = 1\nimport no_such_dependency\n", r"No module named 'no_such_dependency'.*next: see .*broken.py:2"),
        ("\n\nraise RuntimeError('not today')\n", r"RuntimeError: not today .*next: see .*broken.py:3"),
    ],
)
def test_a_module_that_cannot_be_imported_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        _stage("broken:f", path=(tmp_path,))


def test_a_module_nearly_named_so_is_offered() -> None:
    with pytest.raises(ConfigError, match=r"no module redacd .*near names: redact"):
        _stage("redacd:redact", path=(CONFIGS / "stages",))


class _Refuses:
    def __init__(self, limit: int) -> None:
        raise ValueError(f"limit {limit} is too small")


def test_a_constructor_that_refuses_is_quoted() -> None:
    with pytest.raises(ConfigError, match=r"cannot be constructed: ValueError: limit 3 is too small"):
        _stage("tests.stages.test_map:_Refuses", options={"limit": 3})


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be constructed"):
        _stage("count_words:CountWords", path=(CONFIGS / "stages",), options={"maximum": 1})


def test_a_name_without_a_colon_is_refused_at_once() -> None:
    with pytest.raises(ValidationError):
        MapConfig(type="map", function="module.function")


def test_the_configuration_folder_is_searched() -> None:
    text = """
sources: {a: {type: udp, bind: "127.0.0.1:1"}}
stages: [{type: map, function: "redact:redact", path: [stages]}]
sinks: {o: {type: "null"}}
"""
    config = parse_config(text, origin="x.yaml", base=CONFIGS)
    stage = config.stages[0]
    assert isinstance(stage, MapConfig)
    assert stage.path == (CONFIGS / "stages", CONFIGS)
    assert MapConfig.model_validate(stage.model_dump(mode="json")).path == stage.path
