"""Inspect equals a scan of each packet on its own."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import hyperscan
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamspec.core.errors import ConfigError
from streamspec.stages import inspect as module
from streamspec.stages.decoded import DECODED
from streamspec.stages.inspect import Inspect, InspectConfig
from streamspec.stages.rules import Rule, read_rules
from streamspec.testing.stages import make_segment, run_stage

BASIC = Path(__file__).parents[2] / "configs" / "rules" / "basic.yaml"


def _stage(folder: Path, rules: list[dict], **options) -> Inspect:
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    stage = InspectConfig(type="inspect", rules=(path,), **options).build()
    stage.open()
    return stage


def _alerts(context) -> list[dict]:
    assert all(name == "alert" for name, _ in context.records)
    return [json.loads(line) for _, line in context.records]


RULES = [
    {"id": 1, "name": "letters", "pattern": "ab+c"},
    {"id": 2, "name": "start", "pattern": "^ab", "severity": 4},
    {"id": 3, "name": "end", "pattern": "bc$", "severity": "low"},
    {"id": 4, "name": "long", "pattern": "a.*c", "flags": ["dotall", "singlematch"]},
    {"id": 5, "name": "word", "pattern": r"\bca\b", "flags": ["caseless"]},
    {"id": 6, "name": "class", "pattern": r"[^a]\$c"},
]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Inspect:
    return _stage(tmp_path_factory.mktemp("rules"), RULES)


def _reference(messages: list[bytes]) -> set[tuple[int, int]]:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    flags = {4: hyperscan.HS_FLAG_DOTALL, 5: hyperscan.HS_FLAG_CASELESS}
    database.compile(
        expressions=[r["pattern"].encode() for r in RULES],
        ids=[r["id"] for r in RULES],
        elements=len(RULES),
        flags=[flags.get(r["id"], 0) for r in RULES],
    )
    found: set[tuple[int, int]] = set()
    for index, message in enumerate(messages):
        database.scan(message, match_event_handler=lambda rule, *_, index=index: found.add((index, rule)) and None)
    return found


MESSAGES = st.lists(st.text("abcA $\n", max_size=12).map(str.encode), min_size=1, max_size=12)


@given(MESSAGES)
@settings(deadline=None, max_examples=200)
def test_alerts_are_those_of_each_message_alone(stage: Inspect, messages: list[bytes]) -> None:
    alerts = _alerts(run_stage(stage, make_segment(messages)))
    assert {(a["packet"], a["rule_id"]) for a in alerts} == _reference(messages)
    assert len({(a["packet"], a["rule_id"]) for a in alerts}) == len(alerts)


@given(MESSAGES)
@settings(deadline=None, max_examples=50)
def test_too_many_matches_for_the_sweep_change_nothing(stage: Inspect, messages: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_PREFILTER_MATCHES", 2)
        alerts = _alerts(run_stage(stage, make_segment(messages)))
    assert {(a["packet"], a["rule_id"]) for a in alerts} == _reference(messages)


def test_a_match_across_two_packets_is_none(tmp_path: Path) -> None:
    stage = _stage(tmp_path, [{"id": 7, "name": "split", "pattern": "secret"}])
    assert not run_stage(stage, make_segment([b"sec", b"ret"])).records
    whole = _stage(tmp_path, [{"id": 7, "name": "split", "pattern": "secret"}], scope="segment")
    assert len(run_stage(whole, make_segment([b"sec", b"ret"])).records) == 1


def test_decoded_packets_are_searched_in_their_payload_and_alerts_name_the_flow(tmp_path: Path) -> None:
    stage = _stage(tmp_path, [{"id": 7, "name": "x", "pattern": "evil"}])
    segment = make_segment([b"evilHEADbad evil", b"HEADok"], timestamps_ns=[11, 22], key=b"eth0")
    decoded = np.zeros(2, dtype=DECODED)
    decoded["payload_offset"], decoded["payload_bytes"] = [8, 20], [8, 2]
    decoded["ip_version"], decoded["protocol"] = 4, 6
    decoded["source_address"][0] = [0] * 10 + [255, 255, 10, 0, 0, 1]
    decoded["destination_address"][0] = [0] * 10 + [255, 255, 10, 0, 0, 2]
    decoded["source_port"], decoded["destination_port"] = 1234, 80
    segment.notes["decoded"] = decoded
    (alert,) = _alerts(run_stage(stage, segment))
    assert alert["packet"] == 0
    assert alert["timestamp_ns"] == 11
    assert alert["match_end"] == 8
    assert alert["matches"] == 1
    assert (alert["source_address"], alert["destination_address"]) == ("10.0.0.1", "10.0.0.2")
    assert (alert["source_port"], alert["destination_port"], alert["protocol"]) == (1234, 80, 6)
    assert (alert["name"], alert["severity"], alert["key"]) == ("x", "medium", "eth0")
    packets = _stage(tmp_path, [{"id": 7, "name": "x", "pattern": "^evil"}], scope="packet")
    assert len(run_stage(packets, segment).records) == 1


def test_alerts_of_one_segment_are_bounded_and_the_rest_counted(tmp_path: Path) -> None:
    stage = _stage(tmp_path, [{"id": 1, "name": "x", "pattern": "x"}], max_alerts_per_segment=3)
    context = run_stage(stage, make_segment([b"x"] * 10))
    assert len(context.records) == 3
    assert context.tally.counts == {"alerts": 3, "alerts_suppressed": 7}


def test_the_shipped_rules_compile_and_find_what_they_are_for() -> None:
    stage = InspectConfig(type="inspect", rules=(BASIC,)).build()
    stage.open()
    found = {
        a["rule_id"]
        for a in _alerts(
            run_stage(
                stage,
                make_segment(
                    [
                        b"GET /?id=1+UNION+ALL+SELECT+1 HTTP/1.1\r\nUser-Agent: sqlmap/1.0\r\n",
                        b"GET /../../../../etc/passwd HTTP/1.1",
                        b"() { :;}; echo",
                        b"${jndi:ldap://x/a}",
                        b"-----BEGIN RSA PRIVATE KEY-----",
                        b"USER anonymous\r\n",
                        b"nothing to see here, move along: or 11 = eleven",
                    ]
                ),
            )
        )
    }
    assert found == {1001, 1003, 1004, 1005, 1006, 1008, 1012, 1016}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: 1, name: a, pattern: x}\n- {id: 1, name: b, pattern: y}", r"rules.yaml:2: the id is taken"),
        ("- {id: 1, name: a}", r"rules.yaml:1: pattern is missing"),
        ("- {id: -1, name: a, pattern: x}", r"rules.yaml:1: id is not a number"),
        ("- {id: 1, pattern: x}", r"rules.yaml:1: name is missing"),
        ("- {id: 1, name: a, pattern: x, flags: [wrong]}", r"unknown flag .*allowed: caseless"),
        ("- {id: 1, name: a, pattern: x, severity: 9}", r"unknown severity"),
        ("- {id: 1, name: a, pattern: x, colour: red}", r"unknown key \(got 'colour'\)"),
        ("a: 1", r"a rules file is a list"),
        ("- [1", r"rules.yaml:1: not YAML|rules.yaml:2: not YAML"),
        ("- 5", r"a rule is a mapping"),
    ],
)
def test_a_wrong_rules_file_says_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_rules(path)
    with pytest.raises(ValidationError, match=message):
        InspectConfig(type="inspect", rules=(path,))


def test_a_pattern_that_cannot_be_compiled_says_where(tmp_path: Path) -> None:
    rules = [{"id": 1, "name": "fine", "pattern": "x"}, {"id": 2, "name": "bad", "pattern": "a(b"}]
    with pytest.raises(ConfigError, match=r"rules.yaml:\d+: the pattern of rule 2 cannot be compiled"):
        _stage(tmp_path, rules)


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=100)
def test_random_text_is_rules_or_a_config_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rules.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            read_rules(path)
        except ConfigError:
            pass


@pytest.mark.parametrize(
    ("pattern", "bound"),
    [
        ("a^b", True),
        (r"a\$b", False),
        ("[^a]b", False),
        (r"\bword", True),
        (r"a\\b", False),
        ("(?:x)y", False),
        ("(?i)x", False),
        ("(?m)x", True),
        ("x$", True),
        (r"[\]$]x", False),
        (r"x\z", True),
    ],
)
def test_which_patterns_look_beyond_their_match(pattern: str, bound: bool) -> None:
    assert Rule(1, "n", pattern, (), "low", "p").bound_to_packet is bound
