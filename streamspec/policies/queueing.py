"""The queueing model, loaded when a policy first asks it: a configuration is read without compiled code."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def queueing() -> Any:
    """The module of its kernels."""
    from streamspec.policies import queueing_kernels

    return queueing_kernels
