"""Egress bandwidth of lanes: an HTB tree on one interface, or buckets in user space where that is out of reach.

A lane's sockets are tagged with ``SO_PRIORITY`` = :meth:`Bandwidth.class_of` (``priority_class`` of the network
sinks); changing a share while traffic runs keeps what waits. :meth:`Bandwidth.restore` takes the tree away; one
that a killed process left is known by its mark and by the notes of its owner, and is removed by the next probe.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import structlog

from streamspec.actuators import htb
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.netlink import NetlinkThread
from streamspec.actuators.pacing import LanePacer
from streamspec.actuators.shares import EgressShare, fit
from streamspec.core.actuation import Applied, Readiness

_log = structlog.get_logger("streamspec.bandwidth")

NEXT_STEP = "give the process CAP_NET_ADMIN (docker run --cap-add NET_ADMIN, AmbientCapabilities= in systemd)"
DRAIN_SECONDS = 2.0
"""How long :meth:`Bandwidth.restore` waits for what is queued: removing the tree would drop it."""

Result = TypeVar("Result")


class Bandwidth:
    """Implements ``Actuator`` by lane.

    Args:
        interface: name of the one that results leave by.
        link_bytes_per_second: what may leave by it, all lanes together.
        leftovers: where it writes down what it changed.
    """

    name = "bandwidth"

    def __init__(self, interface: str, link_bytes_per_second: float, leftovers: Leftovers) -> None:
        self.interface = interface
        self.link_bytes_per_second = link_bytes_per_second
        self.pacer: LanePacer | None = None
        """Set after a :meth:`probe` that found the kernel out of reach: sinks wait as it says."""
        self._notes = leftovers
        self._netlink: NetlinkThread | None = None
        self._index = 0
        self._built = False
        self._minor: dict[str, int] = {}
        self._desired: dict[str, EgressShare] = {}
        self._shares: dict[str, EgressShare] = {}

    # -- Actuator -------------------------------------------------------------------------------
    async def probe(self) -> Readiness:
        """See ``Actuator``."""
        if self._built:
            return Readiness(self.name, True, f"HTB on {self.interface}")
        await self._hang_up()
        self.pacer = None
        reason, step = await self._obstacle()
        if not reason:
            return Readiness(self.name, True, f"HTB on {self.interface}")
        return await self._without_kernel(reason, step)

    async def _without_kernel(self, reason: str, step: str) -> Readiness:
        await self._hang_up()
        self.pacer = LanePacer(self.link_bytes_per_second)
        return Readiness(self.name, False, "token buckets in the sinks", reason, step)

    async def apply(self, desired: Mapping[str, EgressShare]) -> Applied[str, EgressShare]:
        """See ``Actuator``. Guarantees that add up to more than the link are scaled down together, all lanes'."""
        self._desired |= desired
        shares = fit(self._desired, self.link_bytes_per_second)
        if self.pacer is not None:
            self.pacer.set_shares(time.monotonic_ns(), shares)
            return Applied(await self.read_back())
        refused = {}
        if self._built and not await self._classes():
            _log.warning("someone removed the egress tree, making it anew", interface=self.interface)
            self._built, self._minor, self._shares = False, {}, {}
        changed = {lane: share for lane, share in shares.items() if self._shares.get(lane) != share}
        # The smaller first: the guarantees never add up to more than the link, not even for a moment.
        for lane in sorted(changed, key=lambda lane: _growth(self._shares.get(lane), changed[lane])):
            if refusal := await self._put(lane, changed[lane]):
                refused[lane] = refusal
        return Applied(await self.read_back(), refused)

    async def read_back(self) -> Mapping[str, EgressShare]:
        """See ``Actuator``."""
        if self.pacer is not None:
            return self.pacer.shares
        states = await self.statistics()
        return {lane: EgressShare(s.rate, s.ceiling, s.priority) for lane, s in states.items()}

    async def restore(self) -> None:
        """See ``Actuator``. Waits up to :data:`DRAIN_SECONDS` for what is queued."""
        if self._built:
            self._built = False
            left = await self._drained()
            if left:
                _log.warning("packets dropped from egress queues", interface=self.interface, packets=left)
            try:
                await self._call(lambda ipr: htb.remove_tree(ipr, self._index))
            except Exception as error:
                _log.warning("egress tree not removed", interface=self.interface, reason=_why(error))
            self._notes.note(self.name, None)
        self._minor, self._shares, self._desired = {}, {}, {}
        await self._hang_up()

    # -- for sinks and the dashboard --------------------------------------------------------------
    def class_of(self, lane: str) -> str | None:
        """``priority_class`` of the lane's sockets; ``None`` without the kernel, and for a lane without share."""
        minor = self._minor.get(lane)
        return None if minor is None or not self._built else htb.class_text(htb.ROOT | minor)

    async def statistics(self) -> dict[str, htb.ClassState]:
        """Classes by lane: rates, what was sent and dropped, what waits. Empty without the kernel."""
        found = await self._classes() if self._built else {}
        return {lane: found[htb.ROOT | m] for lane, m in self._minor.items() if htb.ROOT | m in found}

    async def retain(self, lanes: set[str]) -> None:
        """Remove the classes of other lanes, once nothing waits in them (call again until it is so)."""
        if self.pacer is not None:
            for lane in set(self.pacer.shares) - lanes:
                self.pacer.forget(lane)
        waiting = await self.statistics()
        for lane in set(self._desired) - lanes:
            state = waiting.get(lane)
            if state is not None:
                if state.backlog_packets:
                    continue
                await self._remove(htb.ROOT | self._minor.pop(lane))
            self._desired.pop(lane, None)
            self._shares.pop(lane, None)

    # -- parts ----------------------------------------------------------------------------------
    async def _obstacle(self) -> tuple[str, str]:
        """Why the kernel is out of reach, and what would help; both empty when it is not."""
        netlink = NetlinkThread()
        try:
            await netlink.start()
        except (ImportError, OSError) as error:
            return f"netlink: {error}", "pip install pyroute2"
        self._netlink = netlink
        index = await self._call(lambda ipr: htb.interface_index(ipr, self.interface))
        if index is None:
            return f"there is no interface {self.interface!r}", "name one that `ip link` shows"
        self._index = index
        try:
            if reason := await self._occupied():
                return reason, f"tc qdisc del dev {self.interface} root"
        except Exception as error:
            return f"{self.interface}: {_why(error)}", NEXT_STEP
        if not may_administer():
            return "changing traffic control is not permitted", NEXT_STEP
        if problem := await try_htb():
            return problem, "modprobe sch_htb (CONFIG_NET_SCH_HTB)"
        return "", ""

    async def _occupied(self) -> str:
        """Remove what a dead process left; say what else is there."""
        kind, handle = await self._call(lambda ipr: htb.root_qdisc(ipr, self._index))
        if handle == htb.ROOT:
            for owner, place in self._notes.of_others(self.name):
                if place == self._place() and owner.lives():
                    return f"streamspec with pid {owner.pid} shapes {self.interface} already"
            await self._call(lambda ipr: htb.remove_tree(ipr, self._index))
            _log.info("removed what a killed process had left", interface=self.interface)
        elif handle:
            return f"{self.interface} has a root qdisc that somebody made: {kind} {handle >> 16:x}:"
        for owner, place in self._notes.of_the_dead(self.name):
            if place == self._place():
                self._notes.settled(owner, self.name)
        return ""

    def _place(self) -> dict[str, Any]:
        """The interface for certain: the same name may exist in several network namespaces."""
        return {"interface": self.interface, "namespace": os.stat("/proc/thread-self/ns/net").st_ino}

    async def _put(self, lane: str, share: EgressShare) -> str:
        """Why not; empty when it is done."""
        new = lane not in self._minor
        minor = self._minor.get(lane) or self._free_minor()
        if minor is None:
            return f"there are {htb.LAST_LANE - htb.FIRST_LANE + 1} classes already"
        try:
            if not self._built:
                self._notes.note(self.name, self._place())
                self._built = True
                await self._call(lambda ipr: htb.build(ipr, self._index, self.link_bytes_per_second))
            link = self.link_bytes_per_second
            await self._call(lambda ipr: htb.put_lane(ipr, self._index, htb.ROOT | minor, share, link, new=new))
        except Exception as error:
            return _why(error)
        self._minor[lane] = minor
        self._shares[lane] = share
        return ""

    async def _remove(self, class_id: int) -> None:
        await self._call(lambda ipr: htb.remove_lane(ipr, self._index, class_id))

    def _free_minor(self) -> int | None:
        taken = set(self._minor.values())
        return next((m for m in range(htb.FIRST_LANE, htb.LAST_LANE + 1) if m not in taken), None)

    async def _drained(self) -> int:
        """Packets that are still queued after the wait."""
        until = time.monotonic() + DRAIN_SECONDS
        while True:
            waiting = sum(state.backlog_packets for state in (await self._classes()).values())
            if not waiting or time.monotonic() > until:
                return waiting
            await asyncio.sleep(0.02)

    async def _classes(self) -> dict[int, htb.ClassState]:
        """Every class of the tree, by class id; none when the interface or the tree is gone."""
        try:
            return await self._call(lambda ipr: htb.classes(ipr, self._index))
        except Exception:
            return {}

    async def _call(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        assert self._netlink is not None, "probe first"
        return await self._netlink.call(work)

    async def _hang_up(self) -> None:
        netlink, self._netlink = self._netlink, None
        if netlink is not None:
            await netlink.close()


def _growth(before: EgressShare | None, after: EgressShare) -> float:
    return after.bytes_per_second - (before.bytes_per_second if before is not None else 0.0)


def _why(error: Exception) -> str:
    code = getattr(error, "code", None)  # NetlinkError
    return os.strerror(code) if isinstance(code, int) and code > 0 else str(error) or type(error).__name__


def may_administer() -> bool:
    """CAP_NET_ADMIN (bit 12) among the effective capabilities."""
    with open("/proc/thread-self/status", encoding="utf-8", errors="replace") as status:
        line = next((line for line in status if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(line.split()[1], 16) >> 12 & 1)


async def try_htb() -> str:
    """Whether the kernel has what is needed; what is missing, or nothing. Changes nothing on the host."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamspec.actuators.htb_trial", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode().strip() if process.returncode else ""
