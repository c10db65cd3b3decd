"""``streamspec doctor``: what this host allows, what that is good for, and the command that would enable the rest.

Everything is tried, not guessed: on a thread, a process or a network namespace that ends afterwards. Nothing on
the host is changed, except that what a killed service left behind is removed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamspec.core.errors import EXIT_OK, EXIT_UNAVAILABLE, StreamspecError, UsageError
from streamspec.core.units import format_bytes

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig

SYSCTL = Path("/proc/sys")
WANTED_BUFFER_BYTES = 4 << 20
"""Socket buffer that holds a hundred milliseconds of a third of a Gbit/s; a configuration may want more."""
KAFKA_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that this host allows or not.

    Attributes:
        name: for ``--require``.
        available: it can be used; ``None``: it was not asked.
        effect: what the service does with it.
        found: how it would be used here, or why it cannot.
        command: what would enable it, or the rest of it; empty when there is nothing to do.
    """

    name: str
    available: bool | None
    effect: str
    found: str
    command: str = ""


Check = Callable[["ServiceConfig | None"], Awaitable[Ability]]


# -- checks -------------------------------------------------------------------------------------
async def affinity(config: ServiceConfig | None) -> Ability:
    """Cores of workers."""
    from streamspec.actuators.affinity import Affinity

    ready = await Affinity().probe()
    effect = "lanes get cores of their own, by caches, threads and big or little cores"
    return Ability("affinity", ready.active, effect, ready.reason or ready.way, ready.next_step)


async def nice(config: ServiceConfig | None) -> Ability:
    """Nice levels downwards."""
    from streamspec.actuators.priority import NEXT_STEP, PriorityRange

    lowest = PriorityRange.try_out().lowest_nice
    effect = "a light segment takes the core from a heavy one at once, and workers change lanes freely"
    if lowest <= -20:
        return Ability("nice", True, effect, "nice -20 to 19, up and down")
    # Levels that the planner uses lie between 0 and 19.
    found = f"back down to {lowest}" if lowest < 20 else "workers can become nicer and not come back"
    return Ability("nice", lowest <= 0, effect, found, NEXT_STEP)


async def batch(config: ServiceConfig | None) -> Ability:
    """SCHED_BATCH."""
    from streamspec.actuators.priority import PriorityRange

    works = PriorityRange.try_out().batch
    effect = "workers of patient lanes and the learner never interrupt others when they wake up"
    step = "" if works else "allow sched_setscheduler in the seccomp profile of the container"
    return Ability("sched_batch", works, effect, "can be set and unset" if works else "refused", step)


async def htb(config: ServiceConfig | None) -> Ability:
    """Traffic control."""
    from streamspec.actuators.bandwidth import NEXT_STEP, may_administer, try_htb

    effect = "each lane has its share of the way out, enforced by the kernel (else: token buckets in the sinks)"
    problem = await try_htb()
    if problem:
        return Ability("tc_htb", False, effect, problem, "modprobe sch_htb (kernel with CONFIG_NET_SCH_HTB)")
    if not may_administer():
        return Ability("tc_htb", False, effect, "the kernel has HTB; changing it is not permitted", NEXT_STEP)
    return Ability("tc_htb", True, effect, "HTB and pfifo, CAP_NET_ADMIN")


async def cgroups(config: ServiceConfig | None) -> Ability:
    """cgroup v2."""
    from streamspec.actuators.cgroup import Cgroup

    ready = await Cgroup().probe()
    effect = "weight and cores per lane that child processes of stages cannot escape (else: nice and affinity)"
    return Ability("cgroups", ready.active, effect, ready.reason or ready.way, ready.next_step)


async def resctrl(config: ServiceConfig | None) -> Ability:
    """Cache ways."""
    from streamspec.actuators.resctrl import Resctrl

    ready = await Resctrl().probe()
    effect = "ways of the last-level cache per lane: heavy lanes do not push out what light ones need"
    return Ability("resctrl", ready.active, effect, ready.reason or ready.way, ready.next_step)


async def gpu(config: ServiceConfig | None) -> Ability:
    """NVML."""
    from streamspec.actuators.gpu_memory import GpuMemory

    ledger = GpuMemory(lambda: (os.getpid(),))
    try:
        ready = await ledger.probe()
        free = await ledger.read_back()
    finally:
        await ledger.restore()
    effect = "stages are granted GPU memory, checked against what others use"
    found = ", ".join(f"device {place}: {format_bytes(size)} to grant" for place, size in free.items())
    return Ability("gpu", ready.active, effect, ready.reason or found, ready.next_step)


async def socket_buffers(config: ServiceConfig | None) -> Ability:
    """Receive buffers."""
    wanted = max([WANTED_BUFFER_BYTES, *(size for _, size in _settings(config, "receive_buffer_bytes"))])
    allowed = int(_text(SYSCTL / "net/core/rmem_max") or 0)
    forced = _capability(12)  # SO_RCVBUFFORCE
    effect = "bursts wait in the kernel instead of being dropped while the service is busy"
    found = f"net.core.rmem_max is {format_bytes(allowed)}, {format_bytes(wanted)} are wanted"
    if forced and allowed < wanted:
        found += "; CAP_NET_ADMIN goes beyond it"
    step = "" if allowed >= wanted or forced else f"sysctl -w net.core.rmem_max={wanted}"
    return Ability("socket_buffers", allowed >= wanted or forced, effect, found, step)


async def af_packet(config: ServiceConfig | None) -> Ability:
    """Raw sockets."""
    effect = "the source `af_packet` reads from a network interface"
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        step = "give the process CAP_NET_RAW (docker run --cap-add NET_RAW, setcap cap_net_raw+ep on the interpreter)"
        return Ability("af_packet", False, effect, str(error.strerror), step)
    return Ability("af_packet", True, effect, "raw sockets may be opened")


async def pressure(config: ServiceConfig | None) -> Ability:
    """PSI."""
    effect = "the controller sees that something waits for a core before latencies show it"
    works = bool(_text(Path("/proc/pressure/cpu")))
    found = "/proc/pressure" if works else "the kernel does not count it"
    return Ability("pressure", works, effect, found, "" if works else "boot with psi=1 (kernel with CONFIG_PSI)")


async def kafka(config: ServiceConfig | None) -> Ability:
    """Every Kafka component of the configuration."""
    effect = "sources and sinks of type `kafka`"
    places = [(where, part) for where, part in _components(config) if getattr(part, "type", "") == "kafka"]
    if not places:
        if config is None:
            return Ability("kafka", None, effect, "no broker was asked", "streamspec doctor --config FILE")
        return Ability("kafka", True, effect, "the configuration needs none")
    problems = [problem for where, part in places if (problem := await _reach_kafka(where, part)) is not None]
    if problems:
        return Ability("kafka", False, effect, "; ".join(str(p.what) for p in problems), problems[0].next_step or "")
    return Ability("kafka", True, effect, f"brokers answer ({', '.join(where for where, _ in places)})")


async def _reach_kafka(where: str, access: Any) -> StreamspecError | None:
    from aiokafka.client import AIOKafkaClient

    from streamspec.links.kafka_clients import reach, stop

    class Client(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no annotations
        start = AIOKafkaClient.bootstrap
        stop = AIOKafkaClient.close

    brief = access.model_copy(update={"connect_timeout": min(access.connect_timeout, KAFKA_SECONDS)})
    try:
        client = await reach(lambda options: Client(**options), brief, where)
    except StreamspecError as error:
        return error
    await stop(client)
    return None


CHECKS: dict[str, Check] = {
    "affinity": affinity,
    "nice": nice,
    "sched_batch": batch,
    "tc_htb": htb,
    "cgroups": cgroups,
    "resctrl": resctrl,
    "gpu": gpu,
    "socket_buffers": socket_buffers,
    "af_packet": af_packet,
    "pressure": pressure,
    "kafka": kafka,
}


# -- the command --------------------------------------------------------------------------------
async def examine(config: ServiceConfig | None = None) -> list[Ability]:
    """All checks. One that breaks says so and counts as not available."""
    found = []
    for name, check in CHECKS.items():
        try:
            found.append(await check(config))
        except Exception as error:
            found.append(Ability(name, False, "", f"the check failed: {type(error).__name__}: {error}"))
    return found


def run_doctor(required: Sequence[str] = (), config: ServiceConfig | None = None, *, as_json: bool = False) -> int:
    """Print what :func:`examine` finds; the exit code.

    Args:
        required: names that must be available, or the code is 69.
        config: whose wishes and brokers are looked at.
        as_json: one object for machines.

    Raises:
        UsageError: a required name that does not exist.
    """
    unknown = [name for name in required if name not in CHECKS]
    if unknown:
        raise UsageError("no such ability", where="--require", value=unknown[0], allowed=", ".join(CHECKS))
    abilities = asyncio.run(examine(config))
    missing = [ability.name for ability in abilities if ability.name in required and not ability.available]
    if as_json:
        document = {"abilities": [asdict(ability) for ability in abilities], "missing": missing}
        print(json.dumps(document, indent=2 if sys.stdout.isatty() else None))
    else:
        _print(abilities)
        for name in missing:
            print(f"required and not available: {name}", file=sys.stderr)
    return EXIT_UNAVAILABLE if missing else EXIT_OK


def _print(abilities: Sequence[Ability]) -> None:
    width = max(len(ability.name) for ability in abilities)
    for ability in abilities:
        mark = {True: "yes", False: "no", None: "-"}[ability.available]
        print(f"{mark:3}  {ability.name:{width}}  {ability.found}")
        print(f"{'':5}{'':{width}}  for: {ability.effect}")
        if ability.command:
            print(f"{'':5}{'':{width}}  enable: {ability.command}")


# -- small things -------------------------------------------------------------------------------
def _components(config: ServiceConfig | None) -> Iterator[tuple[str, Any]]:
    if config is None:
        return
    for section in ("sources", "sinks"):
        for name, part in getattr(config, section).items():
            yield f"{section}.{name}", part
    if config.dead_letter is not None:
        yield "dead_letter", config.dead_letter


def _settings(config: ServiceConfig | None, field: str) -> Iterator[tuple[str, int]]:
    for where, part in _components(config):
        value = getattr(part, field, None)
        if isinstance(value, int):
            yield where, value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _capability(bit: int) -> bool:
    line = next((line for line in _text(Path("/proc/self/status")).splitlines() if line.startswith("CapEff:")), "x 0")
    return bool(int(line.split()[1], 16) >> bit & 1)
