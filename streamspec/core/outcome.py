"""The outcome record: what one finished segment cost and how it ended. Learning reads these."""

from __future__ import annotations

import numpy as np

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.segment import MAX_STAGES

DELIVERED, DEAD_LETTERED, SHED = range(3)
ENDINGS = ("delivered", "dead_lettered", "shed")

OUTCOME = np.dtype(
    [
        ("segment_id", "<u8"),
        ("key_hash", "<u8"),
        ("source", "<u2"),
        ("lane", "<u2"),
        ("worker", "<u4"),
        ("ending", "u1"),  # DELIVERED, DEAD_LETTERED, SHED
        ("error_kind", "u1"),  # index into segment.ERROR_KINDS
        ("attempts", "u1"),
        ("nice", "i1"),  # allocation it ran under: the lane's nice level,
        ("workers", "<u2"),  # the lane's workers
        ("batch", "<u2"),  # and the lane's batch size when it finished
        ("packets", "<u4"),
        ("length", "<u4"),  # payload bytes in
        ("bytes_out", "<u4"),  # result payload and records
        ("payload_bytes_out", "<u4"),  # result payload alone
        ("profiled", "u1"),  # 1: `features` were filled, so it can be learned from
        ("model_version", "<u4"),  # snapshot that predicted it; 0 before the first
        ("host_load", "<f4"),  # share of the usable cores busy when it was predicted
        ("predicted_ns", "<f4"),  # useful time predicted of the whole chain; 0: not predicted
        ("predicted_upper_ns", "<f4"),  # its pessimistic bound
        ("arrival_ns", "<i8"),  # monotonic
        ("wait_ns", "<i8"),  # from arrival to the start of the first stage
        ("service_ns", "<i8"),  # wall time in the stage chain
        ("order_ns", "<i8"),  # finished, and waiting for an earlier segment of its key
        ("sink_ns", "<i8"),  # in its turn, and waiting for the sinks
        ("latency_ns", "<i8"),  # from arrival until every sink had it
        ("useful_ns", "<i8", (MAX_STAGES,)),  # thread CPU time per stage
        ("variant", "<i2", (MAX_STAGES,)),
        ("features", "<f4", (FEATURE_COUNT,)),
    ],
    align=True,
)
"""One row per finished segment; times in nanoseconds."""
