"""The HTB tree on one interface, in netlink messages (pyroute2).

::

    5350:                 root, marks the tree as ours ("SP")
      5350:1              the whole link
        5350:10, :11 ...  one class per lane, with a pfifo of its own
        5350:fe           everything else that leaves by this interface

A packet whose ``SO_PRIORITY`` is a class id goes to that class without a filter: HTB looks it up
(``htb_classify``, net/sched/sch_htb.c). Rates are in bytes per second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamspec.actuators.shares import EgressShare, burst_bytes, quantum_bytes

MARK = 0x5350
ROOT = MARK << 16
LINK = ROOT | 1
REST = ROOT | 0xFE
FIRST_LANE = 0x10
LAST_LANE = 0xEF
TC_H_ROOT = 0xFFFFFFFF
LEAF_PACKETS = 1000
"""Length of a lane's queue. Interfaces made without a queue (``txqueuelen 0``) would drop at once."""


@dataclass(frozen=True, slots=True)
class ClassState:
    """One class as the kernel has it.

    Attributes:
        rate, ceiling: bytes per second.
        priority: 0 to 7.
        quantum: bytes.
        sent_bytes, sent_packets, dropped_packets: since it was made.
        backlog_bytes, backlog_packets: waiting now.
    """

    rate: int
    ceiling: int
    priority: int
    quantum: int
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped_packets: int = 0
    backlog_bytes: int = 0
    backlog_packets: int = 0


def class_text(class_id: int) -> str:
    """0x53500010 -> ``"5350:10"``, as ``tc`` and ``priority_class`` write it."""
    return f"{class_id >> 16:x}:{class_id & 0xFFFF:x}"


async def interface_index(ipr: Any, name: str) -> int | None:
    """Its number, ``None`` when there is none of that name."""
    found = await ipr.link_lookup(ifname=name)
    return int(found[0]) if found else None


async def root_qdisc(ipr: Any, index: int) -> tuple[str, int]:
    """Kind and handle of the root qdisc; handle 0 is what the kernel put there itself."""
    async for qdisc in await ipr.get_qdiscs(index=index):
        if qdisc["parent"] == TC_H_ROOT:
            return str(qdisc.get_attr("TCA_KIND")), int(qdisc["handle"])
    return "none", 0


async def build(ipr: Any, index: int, link: float) -> None:
    """Root, link and rest."""
    await ipr.tc("add", "htb", index, ROOT, default=REST & 0xFFFF)
    await _put_class(ipr, "add-class", index, LINK, ROOT, EgressShare(link, link), link)
    await put_lane(ipr, index, REST, EgressShare(link * 0.01, link, 7), link, new=True)


async def put_lane(ipr: Any, index: int, class_id: int, share: EgressShare, link: float, *, new: bool) -> None:
    """Make or change one leaf class; what waits in it stays."""
    await _put_class(ipr, "add-class" if new else "change-class", index, class_id, LINK, share, link)
    if new:
        await ipr.tc("add", "pfifo", index, (MARK + (class_id & 0xFFFF)) << 16, parent=class_id, limit=LEAF_PACKETS)


async def _put_class(
    ipr: Any, command: str, index: int, class_id: int, parent: int, share: EgressShare, link: float
) -> None:
    rate, ceiling = round(share.bytes_per_second), round(share.ceiling_bytes_per_second)
    await ipr.tc(
        command,
        "htb",
        index,
        class_id,
        parent=parent,
        rate=rate,
        ceil=ceiling,
        burst=burst_bytes(rate),
        cburst=burst_bytes(ceiling),
        quantum=quantum_bytes(rate, link),
        prio=share.urgency,
    )


async def remove_lane(ipr: Any, index: int, class_id: int) -> None:
    """Remove a leaf. What waits in it would be dropped: see that nothing does."""
    await ipr.tc("del-class", index=index, handle=class_id, parent=LINK)


async def remove_tree(ipr: Any, index: int) -> None:
    """Take our root away; the kernel puts its default back."""
    await ipr.tc("del", index=index, handle=ROOT, parent=TC_H_ROOT)


async def classes(ipr: Any, index: int) -> dict[int, ClassState]:
    """All classes of our tree, by class id."""
    found = {}
    async for message in await ipr.get_classes(index=index):
        if message["handle"] >> 16 != MARK or message.get_attr("TCA_KIND") != "htb":
            continue
        found[int(message["handle"])] = _state(message)
    return found


def _state(message: Any) -> ClassState:
    options = message.get_attr("TCA_OPTIONS")
    parameters = options.get_attr("TCA_HTB_PARMS")
    statistics = message.get_attr("TCA_STATS2")
    basic = (statistics and statistics.get_attr("TCA_STATS_BASIC")) or {}
    queue = (statistics and statistics.get_attr("TCA_STATS_QUEUE")) or {}
    return ClassState(
        rate=int(options.get_attr("TCA_HTB_RATE64") or parameters["rate"]),
        ceiling=int(options.get_attr("TCA_HTB_CEIL64") or parameters["ceil"]),
        priority=int(parameters["prio"]),
        quantum=int(parameters["quantum"]),
        sent_bytes=int(basic.get("bytes", 0)),
        sent_packets=int(basic.get("packets", 0)),
        dropped_packets=int(queue.get("drops", 0)),
        backlog_bytes=int(queue.get("backlog", 0)),
        backlog_packets=int(queue.get("qlen", 0)),
    )
