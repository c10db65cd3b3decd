"""The compose demo: what can be checked of its files anywhere, and the proof on a real engine when asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadgen.scenario import load_scenario
from streamspec.config import load_config
from streamspec.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "streamspec.json").read_text())
KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
TOKEN = "a-token-for-this-test"
KEYS_OF_V1 = {
    "build", "cap_add", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image",
    "init", "ports", "read_only", "restart", "security_opt", "stop_grace_period", "stop_signal", "tmpfs", "ulimits",
    "volumes",
}  # fmt: skip
"""Of a service, in the schema of Compose 1.29 without a version."""


def test_it_keeps_to_what_both_composes_take() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "volumes"}
    assert set().union(*SERVICES.values()) <= KEYS_OF_V1
    conditions = {
        needed["condition"]
        for service in SERVICES.values()
        if isinstance(service.get("depends_on"), dict)
        for needed in service["depends_on"].values()
    }
    assert conditions <= {"service_healthy", "service_started", "service_completed_successfully"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_named_with_a_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert re.search(r"\d+\.\d+", tag)


def test_the_base_image_is_named_with_a_version() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = [line.split() for line in lines if line.startswith("FROM ")]
    assert {stage[1] for stage in stages} - {stage[3] for stage in stages if len(stage) > 3} == {"${PYTHON_IMAGE}"}
    assert any(re.fullmatch(r"ARG PYTHON_IMAGE=python:3\.1\d\.\d+-slim-\w+", line) for line in lines)


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_no_rights_that_they_do_not_use(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert set(service.get("cap_add", [])) <= {"NET_ADMIN", "NET_RAW", "SYS_NICE"}
    assert service["security_opt"] == ([] if "cap_add" in service else ["no-new-privileges:true"])
    assert service.get("read_only") is True or service["image"].startswith("apache/kafka:")
    assert not service.get("privileged")


def test_ports_are_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_mounted_file_exists() -> None:
    mounts = [mount.split(":")[:2] for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [source for source, _ in mounts if source.startswith(".")]
    assert len(files) >= 5
    assert all((ROOT / source).exists() for source in files)
    assert {source for source, _ in mounts if not source.startswith(".")} == set(COMPOSE["volumes"])


def test_every_file_that_the_image_is_built_from_reaches_the_builder() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [
        file
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for file in line.split()[1:-1]
    ]  # fmt: skip
    assert set(copied) == set(sent)
    assert all((ROOT / file).exists() for file in copied)


def test_the_service_finds_its_configuration_and_its_brokers() -> None:
    service = SERVICES["streamspec"]
    folder, place = service["volumes"][0].split(":")[:2]
    file = Path(service["command"][1]).relative_to(place)
    environment = {**service["environment"], "STREAMSPEC_TOKEN": TOKEN}
    config = load_config(ROOT / folder / file, environment=environment)
    assert config.control_mode == "auto"
    assert config.admin is not None
    assert config.admin.bind == "0.0.0.0:9470"
    assert float(service["stop_grace_period"].removesuffix("s")) > config.engine.drain_timeout
    topics = SERVICES["topics"]["command"]
    assert topics[0] == service["environment"]["KAFKA"]
    for topic in ("packets", "results", "dead-letters"):
        assert topic in topics
        assert topic in config.model_dump_json()


def test_an_open_port_needs_the_token() -> None:
    from streamspec.config import ConfigurationRefused

    with pytest.raises(ConfigurationRefused, match="set `token`"):
        load_config(ROOT / "configs" / "compose.yaml", environment={"ADMIN": "0.0.0.0:9470"})


def test_the_kind_of_traffic_shifts_twice_within_a_minute() -> None:
    scenario = load_scenario(str(ROOT / "deploy" / "scenario.yaml"))
    assert sum(phase.seconds for phase in scenario.phases[:3]) <= 60
    kinds = [frozenset(phase.mix) for phase in scenario.phases[:3]]
    assert not kinds[0] & kinds[2]
    assert len(set(kinds)) == 3
    assert scenario.seconds >= 600


def test_prometheus_scrapes_the_service_with_the_token() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "streamspec"]
    assert job["static_configs"] == [{"targets": ["streamspec:9470"]}]
    assert job["authorization"]["credentials_file"] in SERVICES["prometheus"]["command"][0]


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    known = {metric.full_name: metric for metric in METRICS}
    for expr in queries():
        names = set(re.findall(r"streamspec_\w+", expr))
        metrics = [known.get(name) or known[name.removesuffix("_bucket")] for name in names]
        labels = {label for metric in metrics for label in metric.labels} | {"le"}
        grouped = re.findall(r"by \(([^)]*)\)", expr) + re.findall(r"(\w+)!?=~?\"", expr)
        assert {label.strip() for group in grouped for label in group.split(",")} <= labels, expr


def test_the_dashboard_uses_the_provisioned_source_of_figures() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards" / "streamspec.yaml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) >= 15


# -- Kubernetes ------------------------------------------------------------------------------------
def kind(name: str) -> dict[str, Any]:
    (found,) = [document for document in KUBERNETES if document["kind"] == name]
    return found


def test_kubernetes_gives_the_service_a_configuration_that_it_takes(tmp_path: Path) -> None:
    for name, text in kind("ConfigMap")["data"].items():
        (tmp_path / name).write_text(text)
    pod = kind("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {variable["name"]: variable.get("value", "4") for variable in container["env"]}
    config = load_config(tmp_path / "streamspec.yaml", environment=given | {"STREAMSPEC_TOKEN": TOKEN})
    assert config.engine.workers == 4
    assert pod["terminationGracePeriodSeconds"] > config.engine.drain_timeout
    places = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(Path(container["args"][1]).parent), str(config.profiles.database.parent)} <= places  # type: ignore[union-attr]


def test_kubernetes_runs_it_without_rights_within_limits_and_watched() -> None:
    pod = kind("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(container["resources"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}


def test_kubernetes_takes_the_token_from_a_secret_and_scales_by_the_group() -> None:
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    (token,) = [variable for variable in container["env"] if variable["name"] == "STREAMSPEC_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "streamspec", "key": "token"}
    assert not any(document["kind"] == "Secret" for document in KUBERNETES)
    assert kind("Deployment")["spec"]["replicas"] > 1
    labels = kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert kind("Service")["spec"]["selector"] == labels == kind("Deployment")["spec"]["selector"]["matchLabels"]


# -- with Compose, with an engine ------------------------------------------------------------------
def composes() -> list[list[str]]:
    found = []
    for command in (["docker-compose"], ["docker", "compose"], os.environ.get("COMPOSE", "").split()):
        if command and shutil.which(command[0]):
            told = subprocess.run([*command, "version"], capture_output=True, check=False, timeout=20)
            found += [command] if told.returncode == 0 else []
    return found


@pytest.mark.compose
@pytest.mark.slow
def test_compose_itself_takes_the_file() -> None:
    if not (commands := composes()):
        pytest.skip("compose: no docker-compose here")
    for command in commands:
        done = subprocess.run([*command, "config"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=40)
        assert done.returncode == 0, done.stderr
        assert set(yaml.safe_load(done.stdout)["services"]) == set(SERVICES)


@pytest.mark.compose
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    os.environ.get("STREAMSPEC_TEST_COMPOSE") != "1",
    reason="compose: builds images and starts a Docker engine; set STREAMSPEC_TEST_COMPOSE=1, or `make compose-proof`",
)
def test_the_demo_on_a_real_engine() -> None:
    done = subprocess.run([ROOT / "tests" / "compose" / "prove.sh"], check=False, timeout=3500)
    assert done.returncode == 0
