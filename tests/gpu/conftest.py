"""Tests on a device: a real one, or numba's simulator in a process of its own (see ``test_simulated``)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    from numba import cuda

    if not cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU; in numba's simulator by test_simulated"))
