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
from streamspec.stages.decode import DecodeStage
from streamspec.stages.decoded import DECODED
from streamspec.stages.inspect import Inspect, InspectConfig
from streamspec.stages.rules import read_rules
from streamspec.testing.stages import make_segment, run_stage
from tests.stages import flow_reference
from tests.stages.flow_chain import packet_segment

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
    assert alert["timestamp"] == "1970-01-01T00:00:00.000000011Z"
    assert alert["match_end"] == 8
    assert alert["matches"] == 1
    assert (alert["source_address"], alert["destination_address"]) == ("10.0.0.1", "10.0.0.2")
    assert (alert["source_port"], alert["destination_port"], alert["protocol"]) == (1234, 80, 6)
    assert (alert["name"], alert["severity"], alert["key"]) == ("x", "medium", "eth0")
    packets = _stage(tmp_path, [{"id": 7, "name": "x", "pattern": "^evil"}], scope="packet")
    assert len(run_stage(packets, segment).records) == 1


def test_ipv6_and_packets_without_ip(tmp_path: Path) -> None:
    stage = _stage(tmp_path, [{"id": 7, "name": "x", "pattern": "evil"}])
    segment = make_segment([b"evil", b"evil"])
    rows = np.zeros(2, dtype=DECODED)
    rows["payload_offset"], rows["payload_bytes"], rows["ip_version"] = [0, 4], [4, 4], [6, 0]
    rows["source_address"][0, 15] = 1
    segment.notes["decoded"] = rows
    ipv6, other = _alerts(run_stage(stage, segment))
    assert (ipv6["source_address"], ipv6["destination_address"]) == ("::1", "::")
    assert "source_address" not in other


def test_a_payload_that_an_earlier_stage_changed_is_searched_as_it_is_now(tmp_path: Path) -> None:
    rules = [{"id": 7, "name": "x", "pattern": "^plain"}]
    for scope, expected in (("payload", 1), ("segment", 1), ("packet", 0)):
        segment = make_segment([b"cypher", b"cypher"], timestamps_ns=[1, 2], timestamp_ns=3)
        segment.payload = memoryview(b"plain text")
        alerts = _alerts(run_stage(_stage(tmp_path, rules, scope=scope), segment))
        assert len(alerts) == expected
        assert all("packet" not in alert and alert["timestamp"].endswith(".000000003Z") for alert in alerts)


def test_an_empty_payload_is_no_fault(tmp_path: Path) -> None:
    for scope in ("payload", "packet", "segment"):
        stage = _stage(tmp_path, [{"id": 7, "name": "x", "pattern": "x$"}], scope=scope)
        assert not run_stage(stage, make_segment([])).records
        assert not run_stage(stage, make_segment([b"", b""])).records


def test_ids_are_unique_over_all_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in paths:
        path.write_text("- {id: 1, name: a, pattern: x}")
    with pytest.raises(ValidationError, match=r"b.yaml:1: the id is taken .*see .*a.yaml:1"):
        InspectConfig(type="inspect", rules=paths)


@pytest.mark.captures
@pytest.mark.slow
def test_alerts_on_real_captures_are_those_of_each_payload_alone(captures: Path) -> None:
    stage = InspectConfig(type="inspect", rules=(BASIC,), max_alerts_per_segment=10**6).build()
    stage.open()
    decode = DecodeStage()
    seen = 0
    for path in sorted(captures.rglob("*.pcap*")):
        capture = flow_reference.read(path) if path.stat().st_size < 400_000 else None
        if capture is None:
            continue
        link_type, packets = capture
        segment = packet_segment(packets, link_type)
        run_stage(decode, segment)
        together = {(a["packet"], a["rule_id"], a["match_end"]) for a in _alerts(run_stage(stage, segment))}
        rows = segment.notes["decoded"]
        alone = set()
        for index, (start, size) in enumerate(zip(rows["payload_offset"], rows["payload_bytes"], strict=True)):
            one = make_segment([segment.original[start : start + size].tobytes()])
            alone |= {(index, a["rule_id"], a["match_end"]) for a in _alerts(run_stage(stage, one))}
        assert together == alone, path.name
        seen += len(alone)
    assert seen > 50


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
