"""The half of ``inspect`` that owns a device: what is granted, what goes there, and what is done when it fails.

Nothing is lost with a device: what it does not answer, the CPU searches, and says why under ``gpu_REASON``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog

from streamspec.core.device_choice import DeviceChoice
from streamspec.core.interfaces import AskGrant, Counts, SegmentBatch, SlotMemory
from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.links import cuda
from streamspec.stages.automaton import Automaton

if TYPE_CHECKING:
    from streamspec.stages.gpu_filter import GpuFilter

_log = structlog.get_logger("streamspec.gpu")

DeviceWish = Literal["auto", "cpu", "gpu"]
CPU, GPU = 0, 1
FIRST_PAUSE = 64
"""Batches that stay on the CPU after the device had no memory; twice as many each time in a row..."""
LONGEST_PAUSE = 4096
"""...up to these."""
SHOWN = 8
"""Rules that are named in the log."""


class GpuInspection:
    """One worker's share of a device, for one stage.

    Args:
        wish: ``gpu``: every batch; ``auto``: those for which it is expected to be faster.
        memory_bytes: what is asked for.
        automaton: of the rules.
        whole: see ``GpuFilter``.
    """

    def __init__(self, wish: DeviceWish, memory_bytes: int, automaton: Automaton, *, whole: bool) -> None:
        self.counts: dict[str, int] = {}
        self.choice = DeviceChoice()
        self.chosen = CPU
        self._wish = wish
        self._memory_bytes = memory_bytes
        self._automaton = automaton
        self._whole = whole
        self._slots_in: SlotMemory | None = None
        self._grant: Grant | None = None
        self._filter: GpuFilter | None = None
        self._why_not = "refused"
        self._told: set[str] = set()
        self._pause = FIRST_PAUSE
        self._paused_batches = 0
        self._batch_bytes = 0
        self._spent_ns = 0
        self._missed = False

    # -- the grant ------------------------------------------------------------------------------
    def attach(self, slots_in: SlotMemory, ask: AskGrant) -> None:
        """Ask for memory and open the device that it lies on."""
        self._slots_in = slots_in
        answer = ask(ResourceRequest(gpu_memory_bytes=self._memory_bytes), self._changed)
        if isinstance(answer, Refusal):
            self._cannot("refused", answer.reason)
            return
        self._grant = answer
        self._open()

    def _changed(self, grant: Grant) -> None:
        """The service takes some back, or gives more: between two batches, and free when this returns."""
        self._grant = grant
        if self._filter is not None and grant.amounts.gpu_memory_bytes < self._filter.device.held_bytes:
            try:
                self._filter.finish()  # of segments that were not asked about
            except cuda.DeviceFault as fault:
                self._failed(fault)
                return
            self._close()
            self._cannot("granted_too_little", grant.reason)
        elif self._filter is not None:
            self._filter.device.limit_bytes = grant.amounts.gpu_memory_bytes
        elif self._why_not == "granted_too_little":
            self._open()

    def _open(self) -> None:
        from streamspec.stages.gpu_filter import GpuFilter

        grant, slots_in = self._grant, self._slots_in
        assert grant is not None
        assert slots_in is not None
        limit = grant.amounts.gpu_memory_bytes
        if limit < self._automaton.size_bytes:
            self._cannot("granted_too_little", f"the rules take {self._automaton.size_bytes} bytes of device memory")
            return
        device = None
        try:
            device = cuda.open_device(grant.place, limit)
            self._filter = GpuFilter(device, self._automaton, slots_in, whole=self._whole)
            self._why_not = ""
            self._tell_left_out()
        except cuda.DeviceFault as fault:
            if device is not None:
                device.close()
            self._failed(fault)

    def _tell_left_out(self) -> None:
        left_out = self._automaton.left_out
        if left_out and "left_out" not in self._told:
            self._told.add("left_out")
            self.counts["rules_by_cpu"] = len(left_out)
            shown = {rule: left_out[rule] for rule in sorted(left_out)[:SHOWN]}
            _log.info("rules that stay with the CPU", rules=len(left_out), reasons=shown)

    def _close(self) -> None:
        found, self._filter = self._filter, None
        if found is not None:
            found.close()

    # -- work -----------------------------------------------------------------------------------
    def begin(self, batch: SegmentBatch) -> None:
        """Send a batch to the device, or leave it to the CPU."""
        self._learn()
        self._batch_bytes, self._spent_ns, self._missed = int(batch.places[1].sum()), 0, False
        if self._filter is None and self._paused_batches:
            self._paused_batches -= 1
            if not self._paused_batches:
                self._open()
        if self._filter is None:
            self.chosen = CPU
            self._count(self._why_not, len(batch.segment_ids))
            return
        self.chosen = GPU if self._wish == "gpu" else self.choice.choose(self._batch_bytes)
        if self.chosen == GPU:
            begun_ns = time.perf_counter_ns()
            self._submit(batch, np.arange(len(batch.segment_ids)))
            self.spent(time.perf_counter_ns() - begun_ns)

    def spent(self, duration_ns: int) -> None:
        """Time that this batch took here, on either device; what the choice is learned from."""
        self._spent_ns += duration_ns

    def _submit(self, batch: SegmentBatch, chosen: Counts) -> None:
        assert self._filter is not None
        try:
            self._filter.submit(batch, chosen)
        except cuda.DeviceFault as fault:
            self._failed(fault)
            self._count(fault.reason, len(chosen))
            self.chosen = CPU

    def suspects(self, segment_id: int) -> Counts | None:
        """Spans of a segment in which a covered rule may match; None when the CPU has to look for itself."""
        if self.chosen == CPU:
            return None
        try:
            found = None if self._filter is None else self._filter.suspects(segment_id)
        except cuda.DeviceFault as fault:
            self._failed(fault)
            found = None
        if found is None:
            self._missed = True
            self._count(self._why_not or "not_submitted", 1)
        else:
            self._pause = FIRST_PAUSE
        return found

    def _learn(self) -> None:
        """What the last batch has taken, unless it was on both."""
        if self._wish == "auto" and self._batch_bytes and self._spent_ns and not self._missed:
            self.choice.learn(self.chosen, self._batch_bytes, self._spent_ns / 1e9)

    # -- faults ---------------------------------------------------------------------------------
    def _failed(self, fault: cuda.DeviceFault) -> None:
        self._close()
        if fault.lasting:
            if self._grant is not None:
                self._grant.release()
                self._grant = None
        else:
            self._paused_batches, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        self._cannot(fault.reason, str(fault))

    def _cannot(self, reason: str, detail: str) -> None:
        self._why_not = reason
        if reason not in self._told and reason != "refused":  # the service says that, and once for all workers
            self._told.add(reason)
            _log.warning("inspect goes on without a GPU", reason=reason, detail=detail)

    def _count(self, reason: str, count: int) -> None:
        name = f"gpu_{reason}"
        self.counts[name] = self.counts.get(name, 0) + count
