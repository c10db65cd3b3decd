"""Looks at the running compose demo and says what is proven and what is not; exit 1 when anything is not.

Started by ``prove.sh`` after ``up``. Standard library only: it runs with the system's Python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "streamspec.json"
HEALTHY_SECONDS = 60.0
WATCH_SECONDS = 120.0
WINDOW_SECONDS = 10.0
NOTHING, SYS_NICE = "0000000000000000", "0000000000800000"
ASIDE = {"intake", "cache_bytes"}
"""Knobs that change for other reasons than the kind of traffic as well."""
OURS = ("streamspec", "topics", "loadgen", "addresses")


class NotProven(Exception):
    """What is not so."""


def check(holds: bool, what: str) -> None:
    """Raise NotProven unless it holds."""
    if not holds:
        raise NotProven(what)


def run(*command: str, given: str = "") -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=180)
    check(done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first truth of ``holds``, asked four times a second."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        check(time.monotonic() < deadline, f"not within {seconds:g} s: {what}")
        time.sleep(0.25)
    return found


class Demo:
    """One running project."""

    def __init__(self, compose: Sequence[str], project: str) -> None:
        self._compose = [*compose, "-p", project]
        self._project = project
        self._token = os.environ["STREAMSPEC_TOKEN"]
        self.page = f"http://127.0.0.1:{os.environ['STREAMSPEC_PORT']}"
        self.prometheus = f"http://127.0.0.1:{os.environ['PROMETHEUS_PORT']}"
        self.grafana = f"http://127.0.0.1:{os.environ['GRAFANA_PORT']}"

    def compose(self, *arguments: str) -> str:
        """Run Compose."""
        return run(*self._compose, *arguments)

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of the container of a service."""
        labels = {"project": self._project, "service": service}
        filters = [part for k, v in labels.items() for part in ("--filter", f"label=com.docker.compose.{k}={v}")]
        found = run("docker", "ps", "-aq", *filters).split()
        check(len(found) == 1, f"{service}: {len(found)} containers")
        inspected: dict[str, Any] = json.loads(run("docker", "inspect", found[0]))[0]
        return inspected

    def health(self, service: str) -> str:
        """``healthy``, ``running`` (has no check), ``starting``, ``exited`` ..."""
        state = self.container(service)["State"]
        return str(state.get("Health", {}).get("Status", state["Status"]) if state["Running"] else state["Status"])

    def execute(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in its container."""
        full = ["docker", "exec", self.container(service)["Id"], *command]
        return subprocess.run(full, capture_output=True, text=True, check=False, timeout=60)

    def answer(self, url: str, *, token: bool = False) -> tuple[int, bytes]:
        """Status and body of a GET; status 0 when nobody answers."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"} if token else {})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def state(self) -> dict[str, Any]:
        """``/api/v1/state``."""
        status, body = self.answer(f"{self.page}/api/v1/state", token=True)
        check(status == 200, f"/api/v1/state: {status} {body[:200]!r}")
        state: dict[str, Any] = json.loads(body)
        return state

    def changed_since(self, moment: float) -> dict[str, int]:
        """How often each knob was changed by a decision since then, seconds since 1970."""
        _, body = self.answer(f"{self.page}/api/v1/decisions?limit=1000", token=True)
        made = [found for found in json.loads(body) if found["time_seconds"] >= moment]
        done = [found for found in made if found["outcome"] not in ("refused", "recommended")]
        return dict(Counter(step["knob"] for found in done for step in found["steps"]))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query of Prometheus."""
        status, body = self.answer(f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        check(status == 200, f"Prometheus refuses {expression}: {body[:300]!r}")
        found: list[dict[str, Any]] = json.loads(body)["data"]["result"]
        return found

    def topics(self, looked_at: int = 0) -> dict[str, int]:
        """See ``results.py``."""
        script = Path(__file__).with_name("results.py").read_text()
        command = ["docker", "run", "--rm", "-i", "--network", f"{self._project}_default", "--entrypoint", "python"]
        found: dict[str, int] = json.loads(run(*command, "streamspec:0.1.0", "-", str(looked_at), given=script))
        return found


def healthy(demo: Demo, started: float, services: Sequence[str], within: float) -> dict[str, Any]:
    """Everything is up, and how long that took."""
    wanted = {name: "exited" if name in ("topics", "addresses") else "healthy" for name in services}
    wanted["loadgen"] = "running"
    until(lambda: all(demo.health(name) == state for name, state in wanted.items()), 180, "everything healthy")
    seconds = time.time() - started
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    check(seconds <= within, f"healthy after {seconds:.1f} s; {within:g} are allowed; load {load:.1f} per core")
    for name in ("topics", "addresses"):
        check(demo.container(name)["State"]["ExitCode"] == 0, f"{name} failed")
    return {"healthy_seconds": round(seconds, 1), "load_per_core": round(load, 1)}


def confined(demo: Demo, services: Sequence[str]) -> dict[str, Any]:
    """No root, no capability but the one that is used, nothing to write to but what is named."""
    for name in (name for name in services if name in OURS):
        container = demo.container(name)
        host = container["HostConfig"]
        check(container["Config"]["User"] == "10001:10001", f"{name} runs as {container['Config']['User']!r}")
        check(host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], f"{name} is not confined")
        added = [capability.removeprefix("CAP_") for capability in host["CapAdd"] or ()]
        check(added == (["SYS_NICE"] if name == "streamspec" else []), f"{name} has {added}")
    told = demo.execute("streamspec", "sh", "-c", "for each in /proc/[0-9]*/status; do cat $each; echo; done").stdout
    found = [dict(line.split(":\t", 1) for line in text.splitlines()) for text in told.split("\n\n") if text.strip()]
    # What has no parent and is not the first was started from outside: this look, and the health check.
    inside = [process for process in found if process["PPid"] != "0" or process["Pid"] == "1"]
    rights = {process["CapEff"] for process in inside}
    users = {tuple(process["Uid"].split()) for process in inside}
    check(rights <= {NOTHING, SYS_NICE} and users == {("10001",) * 4}, f"capabilities {rights}, users {users}")
    check(SYS_NICE in rights, "SYS_NICE is not handed on")
    check(demo.execute("streamspec", "touch", "/opt/x").returncode != 0, "the root file system can be written to")
    return {"processes": len(inside)}


def addressed(demo: Demo) -> dict[str, Any]:
    """Each page answers where the output says, and says nothing to strangers."""
    told = demo.compose("logs", "addresses")
    for address in (demo.page, demo.prometheus, demo.grafana):
        check(address.replace("127.0.0.1", "localhost") in told, f"{address} is not printed")
    for path in ("/", "/readyz"):
        status, body = demo.answer(f"{demo.page}{path}")
        check(status == 200 and bool(body), f"{path}: {status}")
    for path in ("/metrics", "/api/v1/state"):
        check(demo.answer(f"{demo.page}{path}")[0] == 401, f"{path} without the token")
        check(demo.answer(f"{demo.page}{path}", token=True)[0] == 200, f"{path} with the token")
    return {}


def followed(demo: Demo) -> dict[str, Any]:
    """The kind of traffic shifts, and the service changes lanes, workers or variants."""
    first = demo.state()
    check(first["control"]["mode"] == "auto", "control is not on")
    before = first
    rows: list[dict[str, Any]] = []
    while len(rows) * WINDOW_SECONDS < WATCH_SECONDS:
        time.sleep(WINDOW_SECONDS)
        state = demo.state()
        had = {share["type"]: share["segments"] for share in before["content"]}
        gained = {share["type"]: share["segments"] - had.get(share["type"], 0) for share in state["content"]}
        total = max(sum(gained.values()), 1)
        top = sorted(gained, key=gained.__getitem__, reverse=True)[:3]
        lanes = {lane["name"]: {k["knob"]: k["desired"] for k in lane["knobs"]} for lane in state["lanes"]}
        rows.append(
            {
                "second": round(state["uptime_seconds"]),
                "per_second": round(total / WINDOW_SECONDS),
                "mix": {name: round(gained[name] / total, 2) for name in top},
                "latency": {lane["name"]: lane["latency_high_seconds"] for lane in state["lanes"]},
                "error": state["work_error_ratio"],
                "lanes": lanes,
                "outcomes": state["control"]["outcomes"],
                "fallback": state["control"]["fallback"],
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        before = state
    leading = [next(iter(row["mix"])) for row in rows]
    check(len(set(leading)) >= 3, f"the kind of traffic did not shift: {leading}")
    check(before["learning"]["learned"] > first["learning"]["learned"], "nothing was learned")
    changed = demo.changed_since(first["now_seconds"])
    used = sum(not row["fallback"] for row in rows)
    check(
        used > 0 and bool(changed.keys() - ASIDE),
        f"not what the kind of traffic asks for: changed {changed} in {WATCH_SECONDS:g} s; predictions were in use in "
        f"{used} of {len(rows)} readings, last reason: {rows[-1]['fallback'] or 'none'}",
    )
    return {"windows": rows, "leading": leading, "changed": changed, "readings_with_predictions": used}


def scraped(demo: Demo) -> dict[str, Any]:
    """Prometheus has the metrics, and every query of the Grafana dashboard is one that it takes."""
    up = demo.query('up{job="streamspec"}')
    check([sample["value"][1] for sample in up] == ["1"], f"not scraped: {up}")
    panels = [p for panel in json.loads(DASHBOARD.read_text())["panels"] for p in (panel, *panel.get("panels", ()))]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    empty = [expr for expr in queries if not demo.query(expr.replace("$__rate_interval", "1m"))]
    check(len(empty) <= len(queries) // 3, f"queries of the dashboard without an answer: {empty}")
    return {"dashboard_queries": len(queries), "without_samples": empty}


def came_out(demo: Demo) -> dict[str, Any]:
    """Results are the records that came in, compressed."""
    found = demo.topics(2000)
    check(found["looked_at"] == found["match"] == 2000, f"results are not what came in: {found}")
    return {"topics": found}


def drained(demo: Demo) -> dict[str, Any]:
    """SIGTERM under load finishes what is under way; afterwards nothing is lost and nothing comes twice."""
    begun = time.monotonic()
    demo.compose("stop", "streamspec")
    seconds = time.monotonic() - begun
    code = demo.container("streamspec")["State"]["ExitCode"]
    check(code == 0, f"exit code {code} after SIGTERM")
    check("draining" in demo.compose("logs", "--tail", "200", "streamspec"), "it did not say that it drains")
    begun = time.monotonic()
    demo.compose("start", "streamspec")
    until(lambda: demo.health("streamspec") == "healthy", 60, "healthy after a restart")
    again = time.monotonic() - begun
    demo.compose("stop", "loadgen")

    def settled() -> dict[str, int]:
        counts = demo.topics()
        return counts if counts["results"] + counts["dead-letters"] >= counts["packets"] else {}

    counts = until(settled, 120, "every record has its result")
    twice = counts["results"] + counts["dead-letters"] - counts["packets"]
    check(twice == 0, f"{twice} results more than records")
    return {"stop_seconds": round(seconds, 1), "healthy_again_seconds": round(again, 1), "records": counts}


def grafana(demo: Demo) -> dict[str, Any]:
    """Grafana has the dashboard and reaches Prometheus."""
    status, body = demo.answer(f"{demo.grafana}/api/search?query=streamspec")
    check(status == 200 and len(json.loads(body)) == 1, f"no dashboard: {status} {body[:200]!r}")
    query = urllib.parse.urlencode({"query": "up"})
    status, body = demo.answer(f"{demo.grafana}/api/datasources/proxy/uid/prometheus/api/v1/query?{query}")
    check(status == 200, f"Grafana does not reach Prometheus: {status} {body[:200]!r}")
    return {}


def main() -> int:
    """Look at everything in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compose", required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--started", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--grafana", choices=("yes", "no"), required=True)
    parser.add_argument("--within", type=float, default=HEALTHY_SECONDS, help="seconds until everything is healthy")
    parser.add_argument("--report", type=Path, required=True)
    given = parser.parse_args()
    demo = Demo(given.compose.split(), given.project)
    services = ["kafka", "topics", "streamspec", "loadgen", "prometheus", "addresses"]
    looks: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("healthy", lambda: healthy(demo, given.started, services, given.within)),
        ("confined", lambda: confined(demo, services)),
        ("addressed", lambda: addressed(demo)),
        ("followed", lambda: followed(demo)),
        ("scraped", lambda: scraped(demo)),
        ("came out", lambda: came_out(demo)),
        ("drained", lambda: drained(demo)),
    ]
    if given.grafana == "yes":
        looks.insert(-1, ("grafana", lambda: grafana(demo)))
    report: dict[str, Any] = {}
    failed = False
    for name, look in looks:
        try:
            report[name] = look()
        except NotProven as problem:
            failed = True
            report[name] = {"not_proven": str(problem)}
        given.report.write_text(json.dumps(report, indent=1))
        shown = {key: value for key, value in report[name].items() if key != "windows"}
        print(f"{name}: {json.dumps(shown)}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
