"""Which of two devices a batch goes to: by what each has taken for such batches so far. Pure: measures nothing itself.

A device has a fixed cost for each batch (a launch, the queue in front of it) and one that grows with the bytes
(transfer, search). Both are learned while the stream runs, with relative errors weighing alike at all sizes; a factor
for each size class takes up what the line does not fit. So small batches go to the CPU by themselves, and go
elsewhere when that has become wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DECAY = 0.995
"""Of what was learned, at each new measurement: about the last 200 count."""
SIZE_CLASSES = 40
"""Powers of two of bytes."""
FIRST_TRIES = 3
"""Measurements of each device at a size class before it is judged there by more than the line."""
TRY_AGAIN = 256
"""Batches of a size class after which the device that lost there is tried once more..."""
HOPELESS = 4.0
"""...unless it is expected to take so many times as long: then after as many times more batches."""
_MOST_PATIENCE = 1 << 16


@dataclass(slots=True)
class CostLine:
    """``seconds = fixed + slope * bytes``, from measurements that weigh by one over their seconds, squared; both terms
    are kept from being negative."""

    measured: float = 0.0
    _one: float = 0.0
    _size: float = 0.0
    _square: float = 0.0
    _target: float = 0.0
    _target_size: float = 0.0
    _factors: dict[int, float] = field(default_factory=dict)
    _line: tuple[float, float] = (0.0, 0.0)

    def learn(self, size_bytes: float, seconds: float) -> None:
        """One batch that has taken so long."""
        seconds = max(seconds, 1e-9)
        expected = self.predict(size_bytes)
        if expected > 0:
            kind = size_class(size_bytes)
            factor = self._factors.get(kind, 1.0)
            self._factors[kind] = min(max(factor * (seconds / expected) ** 0.2, 0.1), 10.0)
        weight = 1.0 / seconds
        one, size = weight, size_bytes * weight
        self.measured = self.measured * DECAY + 1.0
        self._one = self._one * DECAY + one * one
        self._size = self._size * DECAY + one * size
        self._square = self._square * DECAY + size * size
        self._target = self._target * DECAY + one
        self._target_size = self._target_size * DECAY + size
        self._line = self._fit()

    def predict(self, size_bytes: float) -> float:
        """Expected seconds; 0 before anything was measured."""
        return (self._line[0] + self._line[1] * size_bytes) * self._factors.get(size_class(size_bytes), 1.0)

    def line(self) -> tuple[float, float]:
        """Seconds of each batch, and seconds for each byte."""
        return self._line

    def _fit(self) -> tuple[float, float]:
        determinant = self._one * self._square - self._size * self._size
        if determinant <= 1e-9 * self._one * self._square:  # all of one size: its seconds are all fixed
            return self._target / self._one, 0.0
        fixed = (self._target * self._square - self._target_size * self._size) / determinant
        slope = (self._target_size * self._one - self._target * self._size) / determinant
        if fixed < 0:
            return 0.0, self._target_size / self._square
        if slope < 0:
            return self._target / self._one, 0.0
        return fixed, slope


@dataclass(slots=True)
class _Tried:
    """Of one size class: measurements by device, and batches since the other device was last taken."""

    measurements: list[int] = field(default_factory=lambda: [0, 0])
    since: int = 0
    patience: int = TRY_AGAIN


class DeviceChoice:
    """Chooses a device for each batch, 0 for the CPU and 1 for the GPU, and learns what came of it."""

    def __init__(self) -> None:
        self.lines = (CostLine(), CostLine())
        self._tried: dict[int, _Tried] = {}

    def choose(self, size_bytes: float) -> int:
        """The device that is expected to be done first; now and then the other one, to see whether it still is."""
        kind = size_class(size_bytes)
        tried = self._tried.get(kind)
        if tried is None:
            tried = self._tried[kind] = _Tried()
        expected = (self.lines[0].predict(size_bytes), self.lines[1].predict(size_bytes))
        best = 0 if expected[0] <= expected[1] else 1
        if min(tried.measurements) < FIRST_TRIES:
            for device in (1, 0):
                known = tried.measurements[device]
                hopeless = known and expected[device] > HOPELESS * expected[1 - device] > 0
                if known < FIRST_TRIES and not hopeless:
                    return device
        tried.since += 1
        if tried.since >= tried.patience:
            tried.since = 0
            hopeless = expected[1 - best] > HOPELESS * expected[best]
            tried.patience = min(tried.patience * 4, _MOST_PATIENCE) if hopeless else TRY_AGAIN
            return 1 - best
        return best

    def learn(self, device: int, size_bytes: float, seconds: float) -> None:
        """What a batch of that size has taken there, from handing it over to having the result."""
        self.lines[device].learn(size_bytes, seconds)
        self._tried.setdefault(size_class(size_bytes), _Tried()).measurements[device] += 1


def size_class(size_bytes: float) -> int:
    """Power of two below."""
    return min(max(int(size_bytes), 1).bit_length() - 1, SIZE_CLASSES - 1)
