"""What instances tell each other of what they learned: the fast models as arrays, no pickles, and signed.

When is another's model better than one's own? Averaging the two, by experience or by covariance, would be wrong:

* Their evidence is not independent. After one exchange both contain the same outcomes, and multiplying such
  posteriors counts them twice (the problem of "double counting" in sensor networks: Julier and Uhlmann 1997).
* The weights are not of one truth. The intercept is the speed of a machine, and every filter follows what its own
  machine does now, so half of each is the speed of neither.
* A filter forgets. Beyond about ``SETTLED_FACTOR / adaptation`` outcomes more experience makes it no better.

So a model is taken over whole or not at all, head by head: when ours has not settled yet and theirs has learned
``MUCH_MORE`` times as much. It cannot go back and forth, because who took over counts as experienced. The trees stay
where they grew: they are River objects, and they learn what the linear model leaves, so they grow anew on this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamspec.core.features import FEATURE_SCHEMA_VERSION
from streamspec.profiles.array_bytes import Array, pack_arrays, unpack_arrays
from streamspec.profiles.bound_kernels import SEEN
from streamspec.profiles.change_kernels import new_watch
from streamspec.profiles.latency_kernels import LatencyState
from streamspec.profiles.online_inputs import INPUT_NAMES
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.signing import SigningKey
from streamspec.profiles.tracking_kernels import COUNT, LOSS_COUNT, Tracking

FORMAT = 2
LARGEST_BYTES = 8 << 20
SETTLED_FACTOR = 10.0
"""A filter looks back over about ``1 / adaptation`` outcomes; after ten times that it has nothing to gain."""
MUCH_MORE = 4.0
WORTH_TELLING = 50.0
"""Outcomes that a model has learned before others take it over."""
SPEED_DOUBT = 0.1
"""Variance added to the intercept of a model that comes from another machine, which may be faster or slower: about
a third either way, so that a few outcomes tell."""
LEARNED_FIELDS = ("weights", "covariance", "numbers", "sums", "watch")

_MAGIC = b"SSS1"
_SIGNATURE_BYTES = 32
_IDENTITY_BYTES = 16
_PURPOSE = b"streamspec shared state 1"


# -- the envelope -----------------------------------------------------------------------------
def seal(key: SigningKey, name: bytes, body: bytes) -> bytes:
    """A record's value: ``body``, signed together with the record's key ``name``."""
    return b"".join([_MAGIC, key.identity.encode(), key.sign(_PURPOSE, name, body), body])


def unseal(key: SigningKey, name: bytes, value: bytes) -> bytes:
    """The body of :func:`seal`.

    Raises:
        ContentRefused: it is none, another key signed it, or it was changed or came under another name.
    """
    head = len(_MAGIC) + _IDENTITY_BYTES + _SIGNATURE_BYTES
    if len(value) < head or len(value) > LARGEST_BYTES or not value.startswith(_MAGIC):
        raise _refused("not what an instance says it learned", "look who else writes to the topic")
    theirs = value[len(_MAGIC) : len(_MAGIC) + _IDENTITY_BYTES]
    if theirs != key.identity.encode():
        raise _refused(
            f"signed by another key ({theirs.decode('ascii', 'replace')}) than ours ({key.identity})",
            "give all instances the same key: profiles.key, or STREAMSPEC_PROFILES_KEY",
        )
    signature, body = value[head - _SIGNATURE_BYTES : head], value[head:]
    if not key.check(signature, _PURPOSE, name, body):
        raise _refused("the signature is not of this content: it was forged or damaged", "look who writes to the topic")
    return body


def _refused(what: str, next_step: str) -> ContentRefused:
    return ContentRefused(what, where="profiles.share", next_step=next_step)


# -- the content ------------------------------------------------------------------------------
@dataclass(frozen=True)
class SharedState:
    """What one instance learned. Arrays are as in the online layer.

    Attributes:
        base: identity of the base model below.
        heads: keys of its heads.
        learned: outcomes.
        models: of the heads.
        latency: models of latency.
        bounds, doubt: see ``online_kernels.Correction``.
    """

    base: str
    heads: tuple[str, ...]
    learned: int
    models: Tracking
    latency: LatencyState
    bounds: Array
    doubt: Array


def pack_state(state: SharedState) -> bytes:
    """Bytes that :func:`unpack_state` reads; no pickle."""
    facts = {
        "format": FORMAT,
        "feature_schema": FEATURE_SCHEMA_VERSION,
        "inputs": INPUT_NAMES,
        "base": state.base,
        "heads": state.heads,
        "learned": state.learned,
    }
    arrays: dict[str, Array] = {}
    for prefix, tracking in (
        ("models", state.models),
        ("residual", state.latency.residual),
        ("miss", state.latency.miss),
    ):
        arrays |= {f"{prefix}.{name}": getattr(tracking, name) for name in LEARNED_FIELDS}
    arrays |= {"bounds": state.bounds, "doubt": state.doubt, "latency.bounds": state.latency.bounds}
    return pack_arrays(facts, arrays)


def experience(body: bytes) -> int:
    """Outcomes that a state of :func:`pack_state` has learned.

    Raises:
        ContentRefused: it is none.
    """
    facts, _ = unpack_arrays(body)
    try:
        return int(facts["learned"])
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(f"not a learned state: {error!r}", "see the log of the instance that sent it") from error


def unpack_state(body: bytes, like: SharedState) -> SharedState:
    """A state with arrays shaped as those of ``like``, but for the number of heads.

    Raises:
        ContentRefused: it is damaged, or of another version, feature schema or base model.
    """
    facts, arrays = unpack_arrays(body)
    wanted = (FORMAT, FEATURE_SCHEMA_VERSION, list(INPUT_NAMES), like.base)
    if tuple(facts.get(name) for name in ("format", "feature_schema", "inputs", "base")) != wanted:
        raise _refused(
            "learned on top of another base model, by another version of streamspec",
            "run instances of one group with the same version and base model",
        )
    try:
        heads = tuple(map(str, facts["heads"]))
        latency = LatencyState(
            _tracking(arrays, "residual", like.latency.residual, 1),
            _tracking(arrays, "miss", like.latency.miss, 1),
            _array(arrays, "latency.bounds", like.latency.bounds),
        )
        models = _tracking(arrays, "models", like.models, len(heads))
        bounds, doubt = _array(arrays, "bounds", like.bounds), _array(arrays, "doubt", like.doubt)
        return SharedState(like.base, heads, int(facts["learned"]), models, latency, bounds, doubt)
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(f"not a learned state: {error}", "see the log of the instance that sent it") from error


def _tracking(arrays: Mapping[str, Array], prefix: str, like: Tracking, count: int) -> Tracking:
    found: dict[str, Any] = {
        name: _array(arrays, f"{prefix}.{name}", getattr(like, name), count) for name in LEARNED_FIELDS
    }
    if (found["covariance"].diagonal(axis1=1, axis2=2) < 0).any() or (found["numbers"] < 0).any():
        raise ValueError(f"{prefix} with a variance or a count below zero")
    return like._replace(**found)


def _array(arrays: Mapping[str, Array], name: str, like: Array, count: int | None = None) -> Array:
    found = arrays[name]
    shape = like.shape if count is None else (count, *like.shape[1:])
    if found.shape != shape or found.dtype != like.dtype or not np.isfinite(found).all():
        raise ValueError(f"{name} of another shape")
    return found


# -- the rule ---------------------------------------------------------------------------------
def is_worth_taking(ours: float, theirs: float, adaptation: float) -> bool:
    """Whether a model that learned ``theirs`` outcomes should replace ours, which learned ``ours``."""
    return ours < SETTLED_FACTOR / adaptation and theirs >= max(MUCH_MORE * ours, WORTH_TELLING)


def adopt(ours: SharedState, theirs: SharedState, adaptation: float) -> list[int]:
    """Take over in place what is worth it, each part for itself; returns the places of our heads that were replaced.

    Parts: each head, both models of latency, and, with any head, the bounds of each type.
    """
    counts, others = ours.models.numbers[:, COUNT], theirs.models.numbers[:, COUNT]
    pairs = [(place, theirs.heads.index(key)) for place, key in enumerate(ours.heads) if key in theirs.heads]
    pairs = [(own, other) for own, other in pairs if is_worth_taking(counts[own], others[other], adaptation)]
    places = [own for own, _ in pairs]
    if places:
        take(ours.models, places, theirs.models, [other for _, other in pairs])
        ours.models.numbers[places, LOSS_COUNT] = 0  # the recent error is of our own outcomes
        _doubt_speed(ours.models, places)
        ours.models.watch[places] = new_watch(len(places), ours.models.watch.shape[1] - 1)  # another machine's levels
        _take_bounds(ours, theirs, adaptation)
    for own, other, bounds in (
        (ours.latency.residual, theirs.latency.residual, True),
        (ours.latency.miss, theirs.latency.miss, False),
    ):
        if is_worth_taking(own.numbers[0, COUNT], other.numbers[0, COUNT], adaptation):
            take(own, [0], other, [0])
            if bounds:
                ours.latency.bounds[:] = theirs.latency.bounds
    return places


def _take_bounds(ours: SharedState, theirs: SharedState, adaptation: float) -> None:
    """With the models, because they are of those models' errors."""
    seen = zip(ours.bounds[:, SEEN], theirs.bounds[:, SEEN], strict=True)
    rows = [row for row, (own, other) in enumerate(seen) if is_worth_taking(own, other, adaptation)]
    ours.bounds[rows] = theirs.bounds[rows]
    if 0 in rows:
        ours.doubt[:] = theirs.doubt


def _doubt_speed(models: Tracking, places: list[int]) -> None:
    grown = models.covariance[places, 0, 0] + SPEED_DOUBT
    models.covariance[places, 0, 0] = np.maximum(
        np.minimum(grown, models.prior[places, 0]), models.covariance[places, 0, 0]
    )


def take(ours: Tracking, places: Iterable[int], theirs: Tracking, sources: Iterable[int]) -> None:
    """Replace what the models at ``places`` learned by that of ``theirs`` at ``sources``."""
    own, other = list(places), list(sources)
    for name in LEARNED_FIELDS:
        getattr(ours, name)[own] = getattr(theirs, name)[other]
