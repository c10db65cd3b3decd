"""The loader: what it accepts, and that each fault is told once, with its place and its remedy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamspec.config import (
    ConfigurationRefused,
    EngineConfig,
    LaneConfig,
    LaneMatch,
    ServiceConfig,
    load_config,
    parse_config,
)
from streamspec.config.checks import cross_findings
from streamspec.config.overrides import apply_overrides
from streamspec.config.places import plain_scalar, read_tree
from streamspec.core.errors import EXIT_CONFIG, ConfigError

MINIMAL = """\
sources:
  packets: {type: udp, bind: 127.0.0.1:9000}
sinks:
  out: {type: null}
"""


def parse(text: str, *overrides: str, **environment: str) -> ServiceConfig:
    return parse_config(text, origin="c.yaml", overrides=overrides, environment=environment)


def faults(text: str, *overrides: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationRefused) as refused:
        parse(text, *overrides, **environment)
    assert refused.value.exit_code == EXIT_CONFIG
    lines = str(refused.value).splitlines()
    assert len(lines) == len(refused.value.problems)
    return lines


# -- what is accepted ---------------------------------------------------------------------------
def test_a_minimal_file_has_every_default() -> None:
    config = parse(MINIMAL)
    assert config.engine == EngineConfig()
    assert config.objective.latency == 0.05
    assert config.stages == ()
    assert [lane.name for lane in config.effective_lanes] == ["default"]
    assert config.fleet_workers == config.engine.workers


def test_quantities_are_written_with_units() -> None:
    config = parse(MINIMAL + "engine: {segment_bytes: 16 KiB, time_limit: 2 min}\nobjective: {latency: 20 ms}\n")
    assert (config.engine.segment_bytes, config.engine.time_limit) == (16384, 120.0)
    assert config.objective.latency == 0.02


def test_the_layout_follows_the_sizes() -> None:
    layout = EngineConfig(segment_bytes=1024, max_packet_bytes=4096, segment_packets=8).layout
    assert (layout.payload_bytes, layout.packet_capacity) == (4096, 8)
    assert layout.output_bytes == 4096 + 65536


def test_lanes_ask_for_their_own_workers() -> None:
    lanes = "lanes: [{name: small, match: {max_bytes: 1 KiB}, workers: 3}, {name: rest, workers: 2}]\n"
    assert parse(MINIMAL + lanes).fleet_workers == 5
    assert parse(MINIMAL + lanes + "engine: {workers: 7, spare: 1}\n").fleet_workers == 8


def test_an_alias_repeats_a_value() -> None:
    config = parse(
        "sources: {a: {type: udp, bind: &b '127.0.0.1:1'}, c: {type: udp, bind: *b}}\nsinks: {o: {type: null}}"
    )
    assert config.sources["a"] == config.sources["c"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-0x1F", "-0x1F"), ("0x1F", 31), ("0o17", 15), ("017", 17), ("1.5e3", 1500.0), (".inf", math.inf),
        ("true", True), ("False", False), ("no", "no"), ("on", "on"), ("12:30", "12:30"), ("1_000", "1_000"),
        ("", None), ("~", None), ("null", None), ("2024-01-01", "2024-01-01"), ("127.0.0.1:80", "127.0.0.1:80"),
    ],
)  # fmt: skip
def test_plain_scalars_follow_the_core_schema(text: str, value: object) -> None:
    result = plain_scalar(text)
    assert result == value
    assert type(result) is type(value)


# -- what is refused ----------------------------------------------------------------------------
def test_every_fault_is_told_in_the_order_of_the_file() -> None:
    lines = faults(
        "objective: {percentile: 100}\n"
        "sources:\n"
        "  packets: {type: upd, bind: 127.0.0.1:9000}\n"
        "engine:\n"
        "  worker: 3\n"
        "  order: keys\n"
        "  arena_bytes: 3 Gib\n"
        "  retries: 1\n"
        "  retries: 2\n"
    )
    assert [line.split(" ")[0] for line in lines] == [
        "c.yaml:1:1:",
        "c.yaml:1:25:",
        "c.yaml:3:19:",
        "c.yaml:5:3:",
        "c.yaml:6:10:",
        "c.yaml:7:16:",
        "c.yaml:9:3:",
    ]
    assert "sinks: is missing" in lines[0]
    assert "objective.percentile: must be less than 100 (got '100')" in lines[1]
    assert "sources.packets.type: unknown value (got 'upd'); did you mean 'udp'?; allowed:" in lines[2]
    assert "engine.worker: unknown key; did you mean 'workers'?; allowed: workers, spare" in lines[3]
    assert "engine.order: unknown value (got 'keys'); did you mean 'key'?; allowed: key, none" in lines[4]
    assert "engine.arena_bytes: not a size" in lines[5]
    assert "key 'retries' is written twice; first in line 8" in lines[6]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "sources: is missing"),
        ("- 1\n", "c.yaml:1:1: a configuration is a mapping of sections"),
        ("text", "c.yaml:1:1: a configuration is a mapping of sections"),
        ("a: [1\n", "c.yaml:2:1: not YAML:"),
        ("a: 1\n---\nb: 1\n", "c.yaml:2:1: not YAML:"),
        ("a: \x07\n", "c.yaml:1:1: not YAML:"),
        pytest.param("[" * 5000, "c.yaml: nested too deeply", marks=pytest.mark.slow),
        ("sources: !!python/object:os.system {}\n", "c.yaml:1:10: sources: tag 'tag:yaml.org,2002:python/object:os"),
        ("1: 2\n", "c.yaml:1:1: keys are text; quote what looks like something else"),
        ("? [a]\n: 2\n", "c.yaml:1:3: keys are text"),
        ("sources: &a [*a]\n", "c.yaml:1:10: sources.0: an alias that contains itself"),
        ("sources: {}\n", "sources: dictionary should have at least 1 item"),
        ("sources: {a b: {type: udp, bind: 'x:1'}}\n", "c.yaml:1:11: sources.a b:"),
        ("sources: {a: {}}\n", "c.yaml:1:11: sources.a.type: is missing; allowed:"),
        ("sources: {a: {type: [1]}}\n", "sources.a.type: "),
        ("engine: 3\n", "c.yaml:1:9: engine: "),
        ("engine: {workers: .nan}\n", "engine.workers: must be a finite number"),
        ("engine: {arena_bytes: .inf}\n", "a size must be finite"),
        ("engine: {arena_bytes: 1 MiB, segment_bytes: 1 MiB}\n", "arena_bytes holds fewer than four segments"),
        ('engine: {order: "\\ud800"}\n', "a half of a surrogate pair is not text"),
        ("engine: {workers: " + "9" * 5000 + "}\n", "c.yaml:1:19: engine.workers: Exceeds the limit"),
        ("<<: {a: 1}\n", "<<: unknown key"),
    ],
)  # fmt: skip
def test_a_fault_is_told(text: str, fault: str) -> None:
    assert any(fault in line for line in faults(text)), faults(text)


@pytest.mark.slow
def test_billions_of_aliases_are_refused() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert any("more than 100000 values" in line for line in faults(text))


@pytest.mark.parametrize(
    ("lanes", "fault"),
    [
        ("[{name: a}, {name: a}]", "lanes.1.name: lane 'a' exists already (lanes.0)"),
        ("[{name: a, match: {sources: [packet]}}, {name: b}]", "there is no source 'packet'; did you mean 'packets'?"),
        ("[{name: a, match: {min_bytes: 3}}]", "the last lane must take everything"),
        ("[{name: a, match: {min_bytes: 3, max_bytes: 2}}, {name: b}]", "min_bytes exceeds max_bytes"),
        ("[{name: a}, {name: b}]", "lanes.0: this lane takes everything"),
        ("[{name: a, cores: [4096]}]", "cores [4096] are not usable here"),
        ("[{name: a, nice: 20}]", "lanes.0.nice: must be less than or equal to 19"),
        ("[{name: a, workers: 3}]\nengine: {workers: 2}", "engine.workers: the lanes ask for 3 workers together"),
        ("[{name: a, bytes_per_second: 1 MB/s}]", "lanes.0.bytes_per_second: a lane's share of the way out needs"),
        (
            "[{name: a, bytes_per_second: 2 MB/s}]\ncontrol: {egress: {interface: lo, bytes_per_second: 8 Mbit/s}}",
            "control.egress.bytes_per_second: the lanes are promised 2e+06 bytes/s together and the link carries 1e+06",
        ),
    ],
)  # fmt: skip
def test_lanes_are_checked_against_each_other(lanes: str, fault: str) -> None:
    assert any(fault in line for line in faults(f"{MINIMAL}lanes: {lanes}\n"))


def test_models_built_in_code_are_checked_as_well() -> None:
    plain = parse(MINIMAL).model_dump(exclude_unset=True) | {"lanes": [{"name": "a", "match": {"min_bytes": 1}}]}
    with pytest.raises(ValueError, match="the last lane must take everything"):
        ServiceConfig.model_validate(plain)


# -- environment --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "environment", "value"),
    [
        ("${N}", {"N": "3"}, 3),
        ("'${N}'", {"N": "3"}, "3"),
        ("a${N}b", {"N": "3"}, "a3b"),
        ("${N:-7}", {}, 7),
        ("${N:-7}", {"N": ""}, 7),
        ("${N:-}", {}, None),
        ("${N}", {"N": ""}, None),
        ("${N:?why}", {"N": "true"}, True),
        ("$${N}", {"N": "3"}, "${N}"),
        ("$N", {"N": "3"}, "$N"),
        ("${N}", {"N": "{a: 1}"}, "{a: 1}"),
        ("${N}", {"N": "x\nsinks: {}"}, "x\nsinks: {}"),
        ("${N}", {"N": "${M}", "M": "deep"}, "${M}"),
    ],
)
def test_variables_fill_scalars_and_nothing_else(written: str, environment: dict[str, str], value: object) -> None:
    tree = read_tree(f"key: {written}\n", "c.yaml", environment)
    assert (tree.root, tree.problems) == ({"key": value}, [])


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("${N}", "c.yaml:5:20: engine.workers: environment variable N: it has no value"),
        ("${N:?how many}", "c.yaml:5:20: engine.workers: environment variable N: how many"),
        ("${N+}", "c.yaml:5:20: engine.workers: write ${NAME}, ${NAME:-default} or ${NAME:?message}"),
    ],
)
def test_a_variable_without_a_value_is_told(written: str, fault: str) -> None:
    (line,) = faults(f'{MINIMAL}engine: {{workers:  "{written}"}}\n')
    assert line.startswith(fault)


def test_unquoted_variables_in_braces_get_a_hint() -> None:
    (line,) = faults(MINIMAL + "engine: {workers: ${N}}\n")
    assert line.endswith("quote ${...} inside { } and [ ]")


def test_a_substituted_value_is_not_shown() -> None:
    (line,) = faults(MINIMAL + "logging:\n  level: ${SECRET}\n", SECRET="hunter2")
    assert "hunter2" not in line
    assert "${SECRET}" in line


# -- overrides ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("engine.retries=5", lambda c: c.engine.retries == 5),
        ("engine.segment_bytes=8 KiB", lambda c: c.engine.segment_bytes == 8192),
        ("sources.packets.bind=127.0.0.1:7", lambda c: "7" in str(c.sources["packets"])),
        ('lanes=[{name: "a", workers: 2}]', lambda c: c.lanes[0].workers == 2),
        ("logging.level='debug'", lambda c: c.logging.level == "debug"),
    ],
)
def test_an_override_replaces_one_value(override: str, read: Any) -> None:
    assert read(parse(MINIMAL, override))


def test_overrides_reach_into_lists_and_the_last_one_wins() -> None:
    lanes = MINIMAL + "lanes: [{name: a, match: {max_bytes: 9}}, {name: b}]\n"
    config = parse(lanes, "lanes.0.match.max_bytes=5", "lanes.1.batch=3", "lanes.1.batch=4")
    assert (config.lanes[0].match.max_bytes, config.lanes[1].batch) == (5, 4)


def test_an_override_opens_an_empty_section() -> None:
    assert parse(MINIMAL + "engine:\n", "engine.retries=1").engine.retries == 1


def test_an_override_stands_in_for_a_variable_without_a_value() -> None:
    text = MINIMAL + "engine:\n  retries: ${RETRIES:?set it}\n"
    assert parse(text, "engine.retries=4").engine.retries == 4


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("engine.retries", "--set engine.retries: an override is written path.to.key=value"),
        ("engine..x=1", "--set engine..x=1: an override is written path.to.key=value"),
        ("engine.retrys=1", "--set engine.retrys=1: engine.retrys: unknown key; did you mean 'retries'?"),
        ("engine.retries=x", "--set engine.retries=x: engine.retries: must be a valid integer"),
        ("lanes.7.name=x", "--set lanes.7.name=x: lanes is a list and has no entry '7'; allowed: 0 to 0"),
        ("lanes.x.name=x", "--set lanes.x.name=x: lanes is a list and has no entry 'x'"),
        ("engine.retries.x=1", "--set engine.retries.x=1: engine.retries is a single value and has no entry 'x'"),
        ("engine.retries=[1", "--set engine.retries=[1: not YAML"),
    ],
)
def test_a_bad_override_is_told(override: str, fault: str) -> None:
    lines = faults(MINIMAL + "engine: {retries: 3}\nlanes: [{name: a}]\n", override)
    assert any(line.startswith(fault) for line in lines), lines


# -- files --------------------------------------------------------------------------------------
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * 5_000_000)
    for name, fault in (
        ("missing.yaml", ": cannot be read: No such file or directory"),
        ("", ": cannot be read: Is a directory"),
        ("binary.yaml", ":2:1: not UTF-8 text"),
        ("large.yaml", ": larger than 4194304 bytes"),
    ):
        with pytest.raises(ConfigurationRefused, match=fault):
            load_config(tmp_path / name)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_config(path).sources


# -- anything -----------------------------------------------------------------------------------
_WORDS = (
    "sources sinks stages engine lanes match type udp tcp jsonl decode bind rules path workers name 1 -1 1e999 .inf ~ "
    "true ${HOME} ${X:-1} ${ *a &a !t ' \" | > ? - { } [ ] , :"
)
_words = st.sampled_from([*_WORDS.split(" "), '"\\ud800"', '"\\0"', "64 KiB", "- ", ": ", "\n", "  "])


def loads_or_is_refused(text: str, *overrides: str) -> None:
    try:
        parse(text, *overrides, X="1")
    except ConfigError as error:
        str(error).encode()


@pytest.mark.slow
@given(st.lists(_words | st.text(max_size=4), max_size=30).map("".join))
@settings(deadline=None, max_examples=150)
@example('"\\U00110000"')
@example("%YAML " + "1" * 5000 + ".1\n---\na")
@example("!<%ff> a")
def test_random_text_is_refused_and_nothing_else(text: str) -> None:
    loads_or_is_refused(text)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | _words
_trees = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words | st.text(max_size=5), inner, max_size=5),
    max_leaves=15,
)


def _component(*types: str, fields: str) -> st.SearchStrategy[dict[str, Any]]:
    required = {"type": st.sampled_from(types) | _scalars}
    return st.fixed_dictionaries(required, optional=dict.fromkeys(fields.split(" "), _trees))


_sections = st.fixed_dictionaries(
    {},
    optional={
        "sources": st.dictionaries(
            st.just("a"), _component("udp", "tcp", "pcap", "af_packet", fields="bind path linger tls framing interface")
        ),
        "sinks": st.dictionaries(
            st.just("a"), _component("jsonl", "tcp", "udp", "null", "pcap", fields="path connect rotate_bytes")
        ),
        "stages": st.lists(
            _component("decode", "inspect", "compress", "map", "meter", fields="rules level function codec levels"),
            max_size=3,
        ),
        "engine": _trees | st.dictionaries(st.sampled_from(list(EngineConfig.model_fields)), _scalars),
        "lanes": _trees | st.lists(st.dictionaries(st.sampled_from(list(LaneConfig.model_fields)), _trees), max_size=3),
        "dead_letter": _trees,
        "logging": _trees,
    },
)


@pytest.mark.slow
@given(_trees | _sections, st.lists(st.tuples(_words | st.text(max_size=8), _words).map("=".join), max_size=2))
@settings(deadline=None, max_examples=150)
def test_random_trees_are_refused_and_nothing_else(tree: Any, overrides: list[str]) -> None:
    loads_or_is_refused(json.dumps(tree), *overrides)


_any = st.none() | st.integers() | st.text(max_size=3)
_keys = st.sampled_from(["lanes", "match", "sources", "name", "engine", "workers"])


@given(st.recursive(_any, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner), max_leaves=12))
@settings(deadline=None, max_examples=100)
def test_cross_checks_take_any_tree(tree: Any) -> None:
    list(cross_findings(tree))


def test_a_lane_match_without_conditions_takes_everything() -> None:
    assert LaneMatch().everything
    assert not LaneMatch(content="packets").everything


def test_an_override_fills_an_empty_file() -> None:
    tree = read_tree("", "c.yaml", {})
    apply_overrides(tree, ["a.b=1"])
    assert tree.root == {"a": {"b": 1}}


def test_the_sink_called_null_needs_no_quotes() -> None:
    assert read_tree("type: null\nx: null\n", "c.yaml", {}).root == {"type": "null", "x": None}
    assert parse(MINIMAL.replace("null", "udp"), "sinks.out.type=null").sinks["out"] == parse(MINIMAL).sinks["out"]


def test_a_stage_that_needs_another_before_it_says_so() -> None:
    text = "sources: {a: {type: pcap, path: x.pcap}}\nstages: [{type: meter}]\nsinks: {o: {type: 'null'}}\n"
    with pytest.raises(ConfigurationRefused, match=r"x.yaml:2:\d+: stages.0: .*needs a stage 'decode' before it"):
        parse_config(text, origin="x.yaml")
    assert parse_config(text.replace("[{", "[{type: decode}, {"), origin="x.yaml").stages


def test_exactly_once_wants_to_be_the_only_sink() -> None:
    text = """
sources: {in: {type: kafka, brokers: "a:1", topics: t, group: g}}
sinks:
  out: {type: kafka, brokers: "a:1", topic: o, delivery: exactly_once}
  copy: {type: "null"}
dead_letter: {type: kafka, brokers: "a:1", topic: d}
"""
    with pytest.raises(ConfigurationRefused, match="exactly_once wants to be the only sink"):
        parse_config(text, origin="config.yaml")
    parse_config(text.replace('  copy: {type: "null"}\n', ""), origin="config.yaml")
