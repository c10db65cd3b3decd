"""Messages and output regions survive their round trip."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamspec.engine import wire

LINES = st.binary(min_size=1, max_size=30).map(lambda b: b.replace(b"\n", b" "))


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.lists(LINES, min_size=1, max_size=4), max_size=4))
def test_records(records: dict[str, list[bytes]]) -> None:
    decoded = wire.decode_records(memoryview(wire.encode_records(records)))
    assert [(name, bytes(lines)) for name, lines in decoded] == [
        (name, b"\n".join(lines) + b"\n") for name, lines in records.items()
    ]


@given(st.lists(st.tuples(st.integers(0, 15), st.binary(max_size=50)), max_size=5))
def test_deltas(deltas: list[tuple[int, bytes]]) -> None:
    assert [(s, bytes(c)) for s, c in wire.decode_deltas(memoryview(b"".join(wire.encode_deltas(deltas))))] == deltas


def test_kinds_of_messages_are_told_apart() -> None:
    assert wire.kind_of(np.array([7, 8], dtype=np.int32).tobytes()) == 7
    assert wire.kind_of(wire.encode_control({"ready": True})) == wire.CONTROL
    assert wire.decode_control(wire.encode_control({"counts": {"a": {"b": 1}}})) == {"counts": {"a": {"b": 1}}}
    assert wire.kind_of(wire.encode_spill(3, 1 << 33)) == wire.SPILL
    assert wire.decode_spill(wire.encode_spill(3, 1 << 33)) == (3, 1 << 33)
