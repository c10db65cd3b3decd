"""The choice between two devices, on devices whose true cost is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from streamspec.core.device_choice import CostLine, DeviceChoice

Cost = Callable[[float], float]
SEGMENT = 64 << 10


def cpu(size: float) -> float:
    """2 us and 3 GB/s."""
    return 2e-6 + size / 3e9


def gpu(size: float) -> float:
    """80 us of launch and queue, 40 GB/s."""
    return 80e-6 + size / 40e9


def _run(
    choice: DeviceChoice, costs: tuple[Cost, Cost], sizes: list[float], noise: random.Random, spread: float = 0.1
) -> tuple[float, float, list[int]]:
    """Seconds spent, seconds of the better device each time, and what was chosen."""
    spent = best = 0.0
    chosen = []
    for size in sizes:
        device = choice.choose(size)
        choice.learn(device, size, costs[device](size) * noise.lognormvariate(0, spread))
        spent += costs[device](size)
        best += min(cost(size) for cost in costs)
        chosen.append(device)
    return spent, best, chosen


@pytest.mark.parametrize("seed", range(5))
def test_at_every_batch_size_it_is_near_the_better_device(seed: int) -> None:
    noise, choice = random.Random(seed), DeviceChoice()
    sizes = [float(SEGMENT * 2**power) for power in range(13)]
    _run(choice, (cpu, gpu), [noise.choice(sizes) for _ in range(1000)], noise)
    for size in sizes:
        spent, best, _ = _run(choice, (cpu, gpu), [size] * 300, noise)
        assert spent <= 1.10 * best, size


def test_small_batches_stay_on_the_cpu_and_large_ones_do_not() -> None:
    noise, choice = random.Random(1), DeviceChoice()
    _run(
        choice,
        (cpu, gpu),
        [float(noise.choice((1500, SEGMENT, 16 * SEGMENT, 256 * SEGMENT))) for _ in range(400)],
        noise,
    )
    small = _run(choice, (cpu, gpu), [1500.0] * 1000, noise)[2]
    large = _run(choice, (cpu, gpu), [256.0 * SEGMENT] * 1000, noise)[2]
    assert sum(small) <= 2
    assert sum(large) >= 995


def test_a_device_that_others_use_is_left_and_taken_again_when_it_is_free() -> None:
    noise, choice, size = random.Random(2), DeviceChoice(), 64.0 * SEGMENT
    _run(choice, (cpu, gpu), [size] * 300, noise)

    def crowded(size: float) -> float:
        return 50 * gpu(size)

    busy = _run(choice, (cpu, crowded), [size] * 600, noise)[2]
    assert sum(busy[:50]) < 25, "left after a few batches"
    assert sum(busy[100:]) <= 5
    again = _run(choice, (cpu, gpu), [size] * 8000, noise)[2]
    assert sum(again[-1000:]) >= 990


def test_nothing_is_tried_often_that_is_hopeless() -> None:
    noise, choice = random.Random(3), DeviceChoice()

    def slow(size: float) -> float:
        return 1000 * cpu(size)

    chosen = _run(choice, (cpu, slow), [float(SEGMENT)] * 20_000, noise)[2]
    assert sum(chosen) <= 12


def test_the_line_is_that_of_its_measurements_and_never_negative() -> None:
    line = CostLine()
    assert line.predict(100) == 0
    for size in (1e3, 1e4, 1e5, 1e6) * 20:
        line.learn(size, 50e-6 + size / 1e9)
    fixed, slope = line.line()
    assert fixed == pytest.approx(50e-6, rel=0.01)
    assert slope == pytest.approx(1e-9, rel=0.01)
    falling = CostLine()
    for size in (1e3, 1e6) * 20:
        falling.learn(size, 1 / size)
    assert min(falling.line()) >= 0
    assert falling.predict(1e9) > 0
    one = CostLine()
    one.learn(1000, 0.5)
    assert one.predict(1000) == pytest.approx(0.5)
