"""Kernels compile for real devices; needs the compiler that the extra ``gpu`` brings, and no device."""

from __future__ import annotations

import importlib
import os
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(170),
    pytest.mark.skipif(os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", reason="the simulator compiles nothing"),
]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        ("streamspec.stages.automaton_kernels", "_scan", "u4 i8 i4 i4 =i8 u1 u2: =i8 u1"),
        ("streamspec.profiler.gpu_kernels", "_count", "u4 i8 i8 u4: i8: i4:"),
    ],
)
def test_it_compiles(
    module: str, function: str, arguments: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba import cuda, types

    if not importlib.import_module("numba.cuda.cudadrv.nvvm").is_available():
        pytest.skip("no compiler for GPUs: the extra gpu is not installed")
    # Parts of a kernel are compiled for the present device, of which there may be none.
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(importlib.import_module("numba.cuda.dispatcher"), "get_current_device", lambda: device)
    kinds = {"u1": types.uint8, "u2": types.uint16, "u4": types.uint32, "i4": types.int32, "i8": types.int64}

    def kind(text: str) -> Any:
        if text.startswith("="):
            return kinds[text[1:]]
        return types.Array(kinds[text.rstrip(":")], 1 + text.endswith(":"), "C")

    compiled: Any = getattr(importlib.import_module(module), function)
    text, _ = cuda.compile_ptx(compiled, tuple(map(kind, arguments.split())), cc=capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
    assert ".f64" not in text, "no kernel here has floating numbers; one that appears is a type gone wrong"
    assert ".shared" in text
