"""Where a segment came from, packed into its slot."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.links import kafka_meta

HEADERS = st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=40)), max_size=8)
MANY = settings(deadline=None, max_examples=150)


@MANY
@given(
    topic=st.text("abc-._09", min_size=1, max_size=249),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    token=st.integers(0, 2**64 - 1),
    key=st.none() | st.binary(max_size=5),
    value=st.none() | st.binary(max_size=5),
    headers=HEADERS,
    lone=st.booleans(),
)
def test_what_is_packed_comes_back(
    topic: str,
    partition: int,
    offset: int,
    token: int,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    lone: bool,
) -> None:
    record = SimpleNamespace(key=key, value=value, offset=offset, headers=tuple(headers))
    meta = kafka_meta.pack(topic.encode(), partition, token, record, lone=lone)
    expected = (key is not None, value is not None, lone, partition, offset, token, topic, headers)
    assert kafka_meta.unpack(meta) == expected
    assert kafka_meta.unpack(kafka_meta.without_headers(meta)) == (*expected[:-1], [])


@MANY
@given(st.binary(max_size=100))
def test_other_metadata_is_not_taken_for_it(meta: bytes) -> None:
    found = kafka_meta.unpack(meta)
    assert found is None or meta[0] == 1
