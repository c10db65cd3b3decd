"""A real Apache Kafka (KRaft) for tests and benchmarks: one node or several on free loopback ports.

The jars come from Maven Central by ``tests/kafka/pom.xml``, once, into ``.cache/kafka`` beside the package (or
``STREAMSPEC_KAFKA_JARS``). Nodes are not children of the test process, so that one may be killed and started
again inside a test; a watcher ends them when that process is gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POM = ROOT / "tests" / "kafka" / "pom.xml"
JAVA_OPTIONS = (
    "-Xmx384m",
    "-Xms64m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # starts in half the time; benchmarks leave it out
    "-Xshare:auto",
)
CLUSTER_ID = "c3RyZWFtc3BlYy10ZXN0cw"
START_SECONDS = 60.0

_WATCH = """
"$@" >"$LOG" 2>&1 </dev/null &
node=$!
(while kill -0 "$PARENT" 2>/dev/null && kill -0 $node 2>/dev/null; do sleep 1; done
 kill -9 $node 2>/dev/null) >/dev/null 2>&1 </dev/null &
echo $node
"""


def missing() -> str:
    """Why a real broker cannot be started here; empty when it can."""
    if shutil.which("java") is None:
        return "no java"
    if not _folder().is_dir() and shutil.which("mvn") is None:
        return "no jars and no mvn to fetch them"
    return ""


def _folder() -> Path:
    return Path(os.environ.get("STREAMSPEC_KAFKA_JARS", ROOT / ".cache" / "kafka"))


def jars() -> Path:
    """The folder with the jars, fetched the first time.

    Raises:
        RuntimeError: they cannot be fetched.
    """
    folder = _folder()
    if (folder / "complete").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").is_file():
            command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
            command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                raise RuntimeError(f"Maven could not fetch Kafka: {done.stdout[-2000:]}")
            (folder / "complete").touch()
    return folder


@dataclass(frozen=True)
class Security:
    """Listeners beside the plain one, and who may use them.

    Attributes:
        key_store: PEM file with the private key (PKCS#8) and the certificate of the brokers.
        trust_store: PEM file of the authority that signs clients (mutual TLS on the listener ``SSL``).
        users: names and passwords for SASL PLAIN and SCRAM-SHA-256/512.
        acls: whether users other than ``admin`` need to be allowed what they do.
    """

    key_store: Path
    trust_store: Path
    users: tuple[tuple[str, str], ...] = ()
    acls: bool = False


LISTENERS = ("PLAINTEXT", "SSL", "MUTUAL", "SASL_PLAINTEXT", "SASL_SSL")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, outside the range that outgoing connections take."""
    held = []
    first = 20_000 + os.getpid() * 37 % 10_000
    for port in range(first, 32_000):
        trial = socket.socket()
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            trial.close()
            continue
        held.append(trial)
        if len(held) == count:
            break
    ports = [trial.getsockname()[1] for trial in held]
    for trial in held:
        trial.close()
    return ports


@dataclass
class Node:
    """One broker that is also a controller."""

    number: int
    folder: Path
    ports: dict[str, int]
    properties: dict[str, str]
    java: Sequence[str]
    pid: int = 0

    @property
    def address(self) -> str:
        """Of the plain listener."""
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"

    @property
    def log(self) -> Path:
        """What the node printed."""
        return self.folder / "output.log"

    def format(self, scram: Sequence[tuple[str, str]] = ()) -> None:
        """Make its storage."""
        written = "\n".join(f"{name}={value}" for name, value in self.properties.items())
        (self.folder / "server.properties").write_text(written)
        command = [*self.java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID]
        command += ["-c", str(self.folder / "server.properties")]
        for name, password in scram:
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                command += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot format: {done.stdout}{done.stderr}")

    def start(self) -> None:
        """Start it; see :meth:`Kafka.wait_ready`."""
        environment = os.environ | {"LOG": str(self.log), "PARENT": str(os.getpid())}
        command = ["sh", "-c", _WATCH, "sh", *self.java, "kafka.Kafka", str(self.folder / "server.properties")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        self.pid = int(done.stdout)

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        self._end(signal.SIGKILL, 10.0)

    def stop(self) -> None:
        """Controlled shutdown: leaders move away first."""
        self._end(signal.SIGTERM, 30.0)

    def _end(self, number: signal.Signals, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while self.pid and self._alive():
            os.kill(self.pid, number)
            number = signal.SIGKILL if time.monotonic() > deadline else number
            time.sleep(0.05)
        self.pid = 0

    def _alive(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in ("Z", "X")


@dataclass
class Kafka:
    """A cluster. Make it with :meth:`launch`, end it with :meth:`close`."""

    folder: Path
    nodes: list[Node] = field(default_factory=list)
    security: Security | None = None

    @classmethod
    def launch(
        cls,
        folder: Path,
        nodes: int = 1,
        *,
        security: Security | None = None,
        java: Sequence[str] = JAVA_OPTIONS,
        settings: dict[str, str] | None = None,
    ) -> Kafka:
        """Format and start a cluster in ``folder``; returns when it answers."""
        cluster = cls(folder, security=security)
        command = ["java", *java, "-cp", f"{jars()}/*"]
        names = LISTENERS if security is not None else LISTENERS[:1]
        ports = free_ports(nodes * (len(names) + 1))
        quorum = ",".join(f"{n + 1}@127.0.0.1:{ports[n]}" for n in range(nodes))
        del_at = nodes
        for index in range(nodes):
            own = dict(zip(names, ports[del_at:], strict=False))
            del_at += len(names)
            place = folder / f"node{index + 1}"
            place.mkdir(parents=True)
            properties = _properties(index + 1, nodes, quorum, ports[index], own, place, security) | (settings or {})
            cluster.nodes.append(Node(index + 1, place, own, properties, command))
        for node in cluster.nodes:
            node.format(security.users if security is not None else ())
        try:
            for node in cluster.nodes:
                node.start()
            cluster.wait_ready()
        except BaseException:
            cluster.close()
            raise
        return cluster

    @property
    def address(self) -> str:
        """Bootstrap servers, plain."""
        return ",".join(node.address for node in self.nodes)

    def listener(self, name: str) -> str:
        """``host:port`` of a listener of the first node, by its name in :data:`LISTENERS`."""
        return f"127.0.0.1:{self.nodes[0].ports[name]}"

    def wait_ready(self) -> None:
        """Return when every node answers."""
        for node in self.nodes:
            if node.pid:
                _wait_answer(node)

    def close(self) -> None:
        """End all nodes and forget their storage."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _properties(
    number: int, nodes: int, quorum: str, controller: int, ports: dict[str, int], place: Path, security: Security | None
) -> dict[str, str]:
    copies = str(min(nodes, 3))
    listeners = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
    kinds = ["CONTROLLER:PLAINTEXT", "MUTUAL:SSL", *(f"{n}:{n}" for n in LISTENERS if n != "MUTUAL")]
    return {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": quorum,
        "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join(listeners),
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": ",".join(kinds),
        "log.dirs": str(place / "storage"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "2",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "2",
        "share.coordinator.state.topic.replication.factor": copies,
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "controlled.shutdown.retry.backoff.ms": "200",
        "num.network.threads": "2",
        "num.io.threads": "2",
        "log.cleaner.enable": "false",
        "log.message.timestamp.after.max.ms": "9223372036854775807",
    } | (_secured(security) if security is not None else {})


def _secured(security: Security) -> dict[str, str]:
    plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="unused" '
    plain += " ".join(f'user_{name}="{password}"' for name, password in security.users) + ";"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(security.key_store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(security.trust_store),
        "listener.name.mutual.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        properties[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
        properties[f"listener.name.{listener}.scram-sha-256.sasl.jaas.config"] = scram
        properties[f"listener.name.{listener}.scram-sha-512.sasl.jaas.config"] = scram
    if security.acls:
        properties["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        properties["super.users"] = "User:ANONYMOUS;User:admin"
    return properties


def _wait_answer(node: Node) -> None:
    """Until the node tells its API versions (request 18, version 0), which it does when it is no longer starting."""
    request = b"\x00\x00\x00\x0c\x00\x12\x00\x00\x00\x00\x00\x01\x00\x02ss"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not node._alive():
            raise RuntimeError(f"the broker ended: {node.log.read_text()[-2000:]}")
        try:
            with socket.create_connection(("127.0.0.1", node.ports["PLAINTEXT"]), 1.0) as peer:
                peer.sendall(request)
                if peer.recv(4):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the broker does not answer: {node.log.read_text()[-2000:]}")


async def create_topic(
    address: str,
    name: str,
    *,
    partitions: int = 1,
    copies: int = 1,
    settings: dict[str, str] | None = None,
    only_on: int | None = None,
) -> None:
    """Make a topic and return when its leaders are known.

    Args:
        only_on: number of the one node that shall have it.
    """
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        if only_on is None:
            made = NewTopic(name, partitions, copies, topic_configs=settings or {})
        else:
            made = NewTopic(name, -1, -1, {number: [only_on] for number in range(partitions)}, settings or {})
        await admin.create_topics([made])
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            (told,) = await admin.describe_topics([name])
            if len(told["partitions"]) == partitions and all(p["leader"] >= 0 for p in told["partitions"]):
                return
    finally:
        await admin.close()
    raise RuntimeError(f"topic {name} was not made")


def allow(address: str, principal: str, *, groups: bool = True) -> None:
    """Let a user do everything with topics, and with groups too."""
    from confluent_kafka import admin as names

    known: Any = names
    kinds = [known.ResourceType.TOPIC, *([known.ResourceType.GROUP] if groups else [])]
    everything = ("*", known.ResourcePatternType.LITERAL, principal, "*", known.AclOperation.ALL)
    rules = [known.AclBinding(kind, *everything, known.AclPermissionType.ALLOW) for kind in kinds]
    admin = known.AdminClient({"bootstrap.servers": address})
    for done in admin.create_acls(rules).values():
        done.result(timeout=START_SECONDS)
