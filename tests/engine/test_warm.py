"""After warming up, the data path compiles nothing more."""

from __future__ import annotations

import inspect
from typing import Any

import numba

from streamspec.engine import kernels
from streamspec.engine.warm import warm_kernels

ELSEWHERE = {"route", "bucket_of"}
"""Compiled when lanes are set, before sources read, and within its caller."""


def test_every_kernel_of_the_engine_is_warmed() -> None:
    warm_kernels()
    compiled: dict[str, Any] = dict(
        inspect.getmembers(kernels, lambda value: isinstance(value, numba.core.dispatcher.Dispatcher))
    )
    cold = {name for name, kernel in compiled.items() if not kernel.signatures}
    assert cold <= ELSEWHERE
