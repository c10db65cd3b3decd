"""Stage ``decode``: link layer to transport of every packet, in one kernel call per segment.

Leaves one ``DECODED`` row per packet in ``segment.notes["decoded"]`` (:mod:`streamspec.stages.decoded`)
for the stages after it; payload and results stay as they are. Segments of messages pass untouched.

Link types: Ethernet (1; VLAN and QinQ tags, MPLS with IP or an Ethernet pseudowire, PPPoE sessions, LLC and
SNAP), Linux cooked (113, 276), raw IP (12, 14, 101, 228, 229), BSD loopback (0, 108), PPP and Cisco HDLC
(9, 50, 104). Tunnels: GRE (with Ethernet, PPP or ERSPAN inside), VXLAN on UDP port 4789, IP in IP, 6in4.

Counted: everything that is not ``ok``, by the names in ``STATUS_NAMES``. A fragment of a tunnelled packet is
described by its outer header, because one fragment alone does not say what is inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from streamspec.core.component import StageConfigBase
from streamspec.core.interfaces import Segment, Stage, StageContext
from streamspec.core.segment import CONTENT_PACKETS, PACKET
from streamspec.stages.decoded import DECODED, NOTE, STATUS_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST_ROWS = 1024


class DecodeConfig(StageConfigBase):
    """Understand packet headers, for the stages that follow."""

    type: Literal["decode"] = Field(description="Link, network and transport headers of each packet.")
    tunnels: Literal["inner", "outer"] = Field(
        default="inner",
        description="Which packet of a tunnel is described: `inner` opens GRE, VXLAN, IP-in-IP and 6in4 (up to three "
        "deep) and describes the innermost IP packet; `outer` stops at the first IP header, which is cheaper and "
        "shows the tunnel itself as one flow.",
    )

    def build(self) -> Stage:
        return DecodeStage(inner=self.tunnels == "inner")


class DecodeStage:
    """Implements ``Stage``. The rows it leaves are overwritten by its next segment."""

    def __init__(self, *, inner: bool = True) -> None:
        from streamspec.stages.decode_kernels import decode_packets

        self._decode: Callable[..., int] = decode_packets
        self._inner = inner
        self._rows = np.zeros(SMALLEST_ROWS, dtype=DECODED)
        self._counts = np.zeros(len(STATUS_NAMES), dtype=np.int64)

    def open(self) -> None:
        """Compile or load the kernel before the first segment."""
        memory = np.zeros(64, dtype=np.uint8)
        self._decode(memory, np.zeros(0, dtype=PACKET), 1, self._inner, self._rows, self._counts)

    def process(self, segment: Segment, context: StageContext) -> None:
        if segment.content != CONTENT_PACKETS:
            return
        packets = segment.packets
        count = len(packets)
        if count > len(self._rows):
            self._rows = np.zeros(1 << count.bit_length(), dtype=DECODED)
        rows = self._rows[:count]
        if self._decode(segment.original, packets, segment.link_type, self._inner, rows, self._counts):
            self._report(context)
        segment.notes[NOTE] = rows

    def _report(self, context: StageContext) -> None:
        counts: list[Any] = self._counts.tolist()
        for name, count in zip(STATUS_NAMES[1:], counts[1:], strict=True):
            if count:
                context.count(name, count)
        self._counts[:] = 0
