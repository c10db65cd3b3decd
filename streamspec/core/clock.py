"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """Implements ``Clock`` with the kernel's clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    time_ns = staticmethod(time.time_ns)
