"""Requests as people write them, and pools that give no more than there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.pools import AmountPool
from streamspec.core.resources import Grant, Refusal, ResourceRequest, Taken


def test_a_request_is_written_with_units() -> None:
    asked = ResourceRequest.of(gpu_memory="2 GiB", cache="64 MiB", threads=2, bandwidth="8 Mbit/s")
    assert asked == ResourceRequest(2, 64 << 20, 2 << 30, 1e6)
    assert str(asked) == "2 threads, cache 64.0 MiB, gpu_memory 2.0 GiB, bandwidth 976.6 KiB/s"
    assert ResourceRequest.from_amounts(asked.amounts()) == asked
    assert str(ResourceRequest()) == "nothing"


@pytest.mark.parametrize("wrong", [{"cache": "2 GX"}, {"gpu_memory": -1}, {"threads": -2}, {"bandwidth": "fast"}])
def test_what_is_no_amount_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"not|negative"):
        ResourceRequest.of(**wrong)


def test_a_refusal_says_what_is_left_and_is_false() -> None:
    pool = AmountPool("cache_bytes", 10 << 20)
    assert pool.take("a", 8 << 20) == Taken(8 << 20)
    refusal = pool.take("b", 3 << 20)
    assert isinstance(refusal, Refusal)
    assert not refusal
    assert refusal.reason == "cache 3.0 MiB asked for, cache 2.0 MiB left of cache 10.0 MiB"
    assert refusal.available == ResourceRequest(cache_bytes=2 << 20)
    assert Grant(1, ResourceRequest())


def test_a_lowered_limit_is_an_overdraft() -> None:
    pool = AmountPool("threads", 4)
    pool.take("a", 3)
    pool.limit = 2
    assert pool.overdraft() == {"": 1}
    assert pool.available() == 0


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(0, 50)), max_size=40))
@settings(deadline=None, max_examples=100)
def test_a_pool_never_gives_more_than_its_limit(steps: list[tuple[bool, str, int]]) -> None:
    pool = AmountPool("cache_bytes", 100)
    for takes, holder, amount in steps:
        if takes:
            pool.take(holder, amount)
        else:
            pool.give_back(holder, Taken(amount))
        assert 0 <= sum(pool.granted.values()) <= 100
        assert all(held > 0 for held in pool.granted.values() if held)
