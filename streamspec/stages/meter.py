"""Stage ``meter``: packets to flow records, as a flow exporter (IPFIX, RFC 7011; two directions, RFC 5103).

In the workers one kernel call per segment sums packets up by flow; what comes out, about a tenth of the rows,
goes to the reducer in the dispatcher, which keeps the one flow table (:mod:`streamspec.stages.flow_table`).
Records of finished flows are described in :mod:`streamspec.stages.flow_records`.

Needs ``decode`` before it. Packets without IP are not in any flow (``decode`` counts them as ``not_ip``);
later fragments have no ports, so they form a flow of their own with ports 0, as does ICMP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from streamspec.core.component import StageConfigBase
from streamspec.core.errors import StageError
from streamspec.core.interfaces import Reducer, Rows, Segment, Stage, StageContext
from streamspec.core.segment import CONTENT_PACKETS, PACKET
from streamspec.core.units import Seconds
from streamspec.stages.decoded import DECODED, NOTE
from streamspec.stages.flow_rows import DELTA, aligned_zeros

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST_TABLE = 1024
SPANS_PER_ACTIVE_TIMEOUT = 8
"""A delta covers at most this fraction of the active timeout: the reducer cannot cut one in two, so a
record that reaches the timeout ends up to an eighth of it early."""


class MeterConfig(StageConfigBase):
    """Count packets and bytes by flow and give a record of each flow that ends."""

    needs_before: ClassVar[tuple[str, ...]] = ("decode",)
    type: Literal["meter"] = Field(description="Bidirectional flow records with IPFIX names.")
    idle_timeout: Seconds = Field(
        default=30.0,
        gt=0,
        le=86400,
        description="Seconds without a packet after which a flow is over (above 0 to 86400). Shorter frees the table "
        "sooner and cuts slow conversations into several records.",
    )
    active_timeout: Seconds = Field(
        default=300.0,
        gt=0,
        le=604800,
        description="Longest time that one record covers, in seconds (idle_timeout to 604800); a longer flow gives "
        "several. Shorter shows long flows earlier and gives more records.",
    )
    end_linger: Seconds = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="Seconds that a TCP connection waits for late packets after FIN from both sides or RST, before "
        "its record is written (0 to 3600, at most idle_timeout).",
    )
    max_flows: int = Field(
        default=1_000_000,
        ge=1,
        le=50_000_000,
        description="Flows kept at the same time (1 to 50 million), about 160 bytes of memory each when used. Beyond "
        "it the flow that was idle for longest is closed with flowEndReason 5.",
    )
    timestamps: Literal["milliseconds", "nanoseconds", "both"] = Field(
        default="milliseconds",
        description="Which times a record has: `milliseconds` since 1970 as integers, `nanoseconds` as text of RFC "
        "3339 (and those of the reverse direction), or `both`. Text makes a record half as long again.",
    )
    vlan_in_key: bool = Field(
        default=False,
        description="Keep flows of different VLANs apart, for networks whose addresses overlap.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> MeterConfig:
        if self.active_timeout < self.idle_timeout:
            raise ValueError("active_timeout is shorter than idle_timeout")
        if self.end_linger > self.idle_timeout:
            raise ValueError("end_linger is longer than idle_timeout")
        return self

    def build(self) -> Stage:
        return MeterStage(
            idle_timeout_seconds=self.idle_timeout,
            active_timeout_seconds=self.active_timeout,
            vlan_in_key=self.vlan_in_key,
        )

    def build_reducer(self) -> Reducer:
        from streamspec.stages.flow_table import FlowTable

        return FlowTable(
            idle_timeout_seconds=self.idle_timeout,
            active_timeout_seconds=self.active_timeout,
            end_linger_seconds=self.end_linger,
            max_flows=self.max_flows,
            timestamps=self.timestamps,
        )


class MeterStage:
    """Implements ``Stage``: the worker's half."""

    def __init__(
        self,
        *,
        idle_timeout_seconds: float = 30.0,
        active_timeout_seconds: float = 300.0,
        vlan_in_key: bool = False,
    ) -> None:
        from streamspec.stages.meter_kernels import aggregate

        self._aggregate: Callable[..., int] = aggregate
        self._idle_ns = round(idle_timeout_seconds * 1e9)
        self._span_ns = round(active_timeout_seconds * 1e9 / SPANS_PER_ACTIVE_TIMEOUT)
        self._vlan_in_key = vlan_in_key
        self._generation = 0
        self._resize(SMALLEST_TABLE)

    def open(self) -> None:
        """Compile or load the kernel before the first segment."""
        self._sum_up(np.zeros(0, dtype=DECODED), np.zeros(0, dtype=PACKET))

    def process(self, segment: Segment, context: StageContext) -> None:
        if segment.content != CONTENT_PACKETS:
            return
        rows = segment.notes.get(NOTE)
        if rows is None:
            raise StageError(
                "packets were not decoded", where="stages.meter", next_step="put a stage of type decode before it"
            )
        count = self._sum_up(rows, segment.packets)
        if count:
            context.delta(self._delta_bytes[: count * DELTA.itemsize])

    def _sum_up(self, rows: Rows, packets: Rows) -> int:
        if len(rows) > len(self._deltas):
            self._resize(1 << len(rows).bit_length())
        self._generation += 1
        return self._aggregate(
            rows,
            packets,
            self._idle_ns,
            self._span_ns,
            self._vlan_in_key,
            self._generation,
            self._slots,
            self._deltas,
        )

    def _resize(self, packets: int) -> None:
        self._deltas = aligned_zeros(packets, DELTA)
        self._delta_bytes = self._deltas.view(np.uint8).data
        self._slots = np.zeros(2 * packets, dtype=np.int64)
