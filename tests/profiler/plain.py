"""Every feature in plain Python and NumPy, as slow as it likes: what the kernels must equal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np

from streamspec.core.features import FEATURE_NAMES
from streamspec.profiler.histogram_kernels import SEPARATORS, STRUCTURAL
from streamspec.profiler.repetition_kernels import (
    GRAM_TABLE_BITS,
    MATCH_COST,
    MATCH_TABLE_BITS,
    MATCH_WINDOW_BYTES,
    MATCH_WINDOWS,
    NEAR_BEST,
    PERIOD_WINDOW_BYTES,
    PIECE_BYTES,
    WEAKEST_PERIOD,
)
from streamspec.profiler.sampling_kernels import BLOCK_BYTES

ALPHANUMERIC = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
BASE64 = ALPHANUMERIC | frozenset(b"+/-_=")
GOLDEN = 2654435769
MULTIPLIER = 0x9E3779B1


def blocks(length: int, sample_bytes: int) -> list[tuple[int, int]]:
    """``(start, end)`` of what is read."""
    count = sample_bytes // BLOCK_BYTES
    if sample_bytes <= 0 or length <= sample_bytes or length <= max(count, 1) * BLOCK_BYTES or count < 2:
        return [(0, length)]
    found = []
    for index in range(count):
        low, high = index * length // count, (index + 1) * length // count
        start = low + (index * index * GOLDEN % 2**32) * (high - low - BLOCK_BYTES) // 2**32
        found.append((start, start + BLOCK_BYTES))
    return found


def entropy(values: list[int], sampled: bool) -> float:
    """Shannon entropy in bits."""
    if not values:
        return 0.0
    counts = Counter(values)
    bits = -sum(c / len(values) * math.log2(c / len(values)) for c in counts.values())
    if sampled:
        bits += (len(counts) - 1) / (2 * math.log(2) * len(values))
    return min(max(bits, 0.0), 8.0)


def runs(data: bytes, read: list[tuple[int, int]], members: frozenset[int], minimum: int) -> tuple[int, int]:
    """``(longest run, bytes read in runs)`` of at least ``minimum``."""
    longest = total = run = seen = 0
    previous = None

    def close() -> None:
        nonlocal longest, total, run, seen
        if seen >= minimum:
            longest, total = max(longest, run), total + seen
        run = seen = 0

    for start, end in read:
        if previous is not None and start > previous:
            if data[start] in members and seen >= BLOCK_BYTES:
                run += start - previous
            else:
                close()
        for byte in data[start:end]:
            if byte in members:
                run, seen = run + 1, seen + 1
            else:
                close()
        previous = end
    close()
    return longest, total


def utf8_errors(data: bytes) -> int:
    """Bytes that are not where RFC 3629 would have them; a character cut off at either end is none."""
    size = [0] * len(data)
    for index, byte in enumerate(data):
        size[index] = 2 if 0xC2 <= byte <= 0xDF else 3 if 0xE0 <= byte <= 0xEF else 4 if 0xF0 <= byte <= 0xF4 else 0
    narrow: dict[int, Callable[[int], bool]] = {
        0xE0: lambda byte: byte >= 0xA0,
        0xED: lambda byte: byte < 0xA0,
        0xF0: lambda byte: byte >= 0x90,
        0xF4: lambda byte: byte < 0x90,
    }
    errors = 0
    inside = 0
    while inside < len(data) and 0x80 <= data[inside] <= 0xBF:
        inside += 1
    for index, byte in enumerate(data):
        due = any(index >= back and size[index - back] > back for back in (1, 2, 3))
        follows = 0x80 <= byte <= 0xBF
        wrong = due != follows or (byte >= 0x80 and not follows and not size[index])
        if index < inside <= 3 and follows:
            wrong = False
        if index and follows and data[index - 1] in narrow and not narrow[data[index - 1]](byte):
            wrong = True
        errors += wrong
    return errors


def gram_hash(data: bytes, at: int, bits: int) -> int:
    """Slot of the 4-gram at ``at``."""
    return (int.from_bytes(data[at : at + 4], "little") * MULTIPLIER % 2**32) >> (32 - bits)


def gram_bits(grams: int) -> int:
    """Bits of the table."""
    return next(b for b in range(10, GRAM_TABLE_BITS + 1) if 2**b >= 2 * grams or b == GRAM_TABLE_BITS)


def new_grams(slots: set[int], bits: int, grams: int) -> float:
    """Different 4-grams by linear counting."""
    size = 2**bits
    return min(size * math.log(size / max(size - len(slots), 0.5)), grams)


def repetition(data: bytes, read: list[tuple[int, int]]) -> float:
    """Share of repeated 4-grams."""
    if len(read) > 1:
        bits = gram_bits(len(read) * BLOCK_BYTES)
        slots = [gram_hash(data, at, bits) for start, end in read for at in range(start, end - 3)]
        return 1 - new_grams(set(slots), bits, len(slots)) / len(slots)
    grams = fresh = 0.0
    for piece in range(0, len(data), PIECE_BYTES):
        part = data[piece : piece + PIECE_BYTES]
        bits = gram_bits(len(part))
        count = max(len(part) - 3, 0)
        fresh += new_grams({gram_hash(part, at, bits) for at in range(count)}, bits, count)
        grams += count
    return 1 - fresh / grams if grams else 0.0


def match_ratio(data: bytes) -> float:
    """Literals and copied stretches by bytes."""
    length = len(data)
    several = length > MATCH_WINDOWS * MATCH_WINDOW_BYTES
    windows, size = (MATCH_WINDOWS, MATCH_WINDOW_BYTES) if several else (1, length)
    if size < 4:
        return 1.0 if length else 0.0
    recent: dict[int, int] = {}
    cost = 0
    for window in range(windows):
        first = (2 * window + 1) * (length - size) // (2 * windows)
        covered = [False] * size
        for at in range(first, first + size - 3):
            slot = gram_hash(data, at, MATCH_TABLE_BITS)
            candidate = recent.get(slot, 0)
            recent[slot] = at
            if candidate < at and data[candidate : candidate + 4] == data[at : at + 4]:
                covered[at - first : at - first + 4] = [True] * 4
        begins = sum(now and not before for now, before in zip(covered, [False, *covered[:-1]], strict=True))
        cost += covered.count(False) + MATCH_COST * begins
    return min(cost / (windows * size), 1.0)


def period(data: bytes) -> tuple[int, float]:
    """Best lag of 2 to 64 and its strength."""
    window = min(len(data), PERIOD_WINDOW_BYTES + 64)
    compared = (window - 64) // 64 * 64
    if compared <= 0:
        return 0, 0.0
    first = (len(data) - window) // 2
    array = np.frombuffer(data, dtype=np.uint8)
    base = array[first : first + compared]
    same = {lag: int((base == array[first + lag : first + lag + compared]).sum()) for lag in range(2, 65)}
    mean, best = sum(same.values()) / 63, max(same.values())
    if best <= mean:
        return 0, 0.0
    strength = (best - mean) / (compared - mean)
    if strength < WEAKEST_PERIOD:
        return 0, strength
    return next(lag for lag in same if same[lag] - mean >= NEAR_BEST * (best - mean)), strength


def features(data: bytes, sample_bytes: int, packets: int = 1) -> dict[str, float]:
    """All features by name, but for the type."""
    result = dict.fromkeys(FEATURE_NAMES[:-1], 0.0)
    result |= {"length_bytes": len(data), "packets": packets}
    if not data:
        return result
    read = blocks(len(data), sample_bytes)
    sampled = len(read) > 1
    values = [byte for start, end in read for byte in data[start:end]]
    differences = [
        (data[at] - data[at - 1]) % 256
        for start, end in read
        for at in range(start, end)
        if at and (not sampled or (at - start) % 16 < 8)
    ]
    array = np.array(values, dtype=np.float64)
    total = len(values)

    def share(members: bytes) -> float:
        return sum(values.count(member) for member in members) / total

    result |= {
        "entropy_bits": entropy(values, sampled),
        "difference_entropy_bits": entropy(differences, sampled),
        "minimum": min(values),
        "maximum": max(values),
        "mean": float(array.mean()),
        "variance": float(array.var()),
        "distinct_values": len(set(values)),
        "top_share": Counter(values).most_common(1)[0][1] / total,
        "zero_share": share(b"\0"),
        "printable_share": share(bytes(range(0x20, 0x7F))),
        "digit_share": share(b"0123456789"),
        "upper_share": share(bytes(range(65, 91))),
        "lower_share": share(bytes(range(97, 123))),
        "newline_share": share(b"\r\n"),
        "separator_share": share(SEPARATORS),
        "structural_share": share(STRUCTURAL),
        "utf8_valid_share": 1 - sum(utf8_errors(data[start:end]) for start, end in read) / total,
        "repetition_share": repetition(data, read),
        "lz_ratio": match_ratio(data),
    }
    result |= {f"bin_{index:02d}_share": share(bytes(range(index * 16, index * 16 + 16))) for index in range(16)}
    result["base64_longest_bytes"], base64_total = runs(data, read, BASE64, 16)
    result["alphanumeric_longest_bytes"], alphanumeric_total = runs(data, read, ALPHANUMERIC, 8)
    result |= {"base64_run_share": base64_total / total, "alphanumeric_run_share": alphanumeric_total / total}
    result["period_bytes"], result["period_share"] = period(data)
    return result
