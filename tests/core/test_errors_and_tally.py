"""What an error says, and that counting stays bounded."""

from __future__ import annotations

from streamspec.core import errors
from streamspec.core.tally import MAX_REASONS, Tally


def test_an_error_says_what_where_value_allowed_and_next_step() -> None:
    error = errors.DependencyUnavailable(
        "the port is in use",
        where="sources.packets.bind",
        value="127.0.0.1:9000",
        allowed="a free port",
        next_step="stop it",
    )
    assert str(error) == (
        "sources.packets.bind: the port is in use (got '127.0.0.1:9000'); allowed: a free port; next: stop it"
    )
    assert error.exit_code == 69


def test_exit_codes_of_the_tree() -> None:
    codes = {cls.__name__: cls.exit_code for cls in errors.StreamspecError.__subclasses__()}
    assert codes["UsageError"] == 2
    assert codes["ConfigError"] == 78
    assert codes["InternalError"] == 70
    assert issubclass(errors.OutputTooLarge, errors.StageError)


def test_a_tally_counts_merges_and_stays_bounded() -> None:
    tally = Tally()
    tally.add("a")
    tally.add("a", 4)
    tally.add("nothing", 0)
    tally.merge({"b": 2})
    assert tally.counts == {"a": 5, "b": 2}
    assert (tally["a"], tally["absent"], tally.total()) == (5, 0, 7)
    for i in range(1000):
        tally.add(f"hostile{i}")
    assert len(tally.counts) <= MAX_REASONS + 1
    assert tally.total() == 1007
