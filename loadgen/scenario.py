"""Scenarios: what to send, as phases of a mix of kinds at a rate. Models and loading from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loadgen.arrivals import Arrivals, PoissonArrivals
from loadgen.errors import ScenarioError, UsageError
from loadgen.kinds import KINDS
from loadgen.places import Places
from loadgen.quantities import Bytes, BytesPerSecond, MessagesPerSecond, Seconds
from loadgen.sizes import NaturalSize, Size

FOLDER = Path(__file__).parent / "scenarios"
MOST_KEYS = 4096


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Model):
    """The mean rate of a phase; exactly one of the two."""

    messages_per_second: Annotated[MessagesPerSecond, Field(gt=0, le=1e8)] | None = Field(
        default=None, description="Messages (datagrams or frames) per second."
    )
    bytes_per_second: Annotated[BytesPerSecond, Field(gt=0, le=1e11)] | None = Field(
        default=None, description="Bytes of messages per second, markers included, framing and headers not."
    )

    @model_validator(mode="after")
    def _one(self) -> Rate:
        if (self.messages_per_second is None) == (self.bytes_per_second is None):
            raise ValueError("give either messages_per_second or bytes_per_second")
        return self


class Keys(_Model):
    """Stream keys: each is one UDP source port or one TCP connection."""

    count: int = Field(default=8, ge=1, le=MOST_KEYS, description="How many (1 to 4096).")
    skew: float = Field(
        default=0.0,
        ge=0,
        le=5,
        description="Exponent s of Zipf's law: key k is used as 1/k^s. 0 is evenly, 1 strongly.",
    )


class Phase(_Model):
    """One stretch of time with steady parameters."""

    name: str = Field(min_length=1, max_length=64, description="For progress reports.")
    seconds: Seconds = Field(gt=0, le=86400 * 366, description="Length; `--seconds` scales all phases alike.")
    rate: Rate
    arrivals: Arrivals = Field(default=PoissonArrivals(process="poisson"), description="When messages are due.")
    mix: dict[str, float] = Field(min_length=1, description="Kind of traffic to its weight among the messages.")
    size: Size | dict[str, Size] = Field(
        default=NaturalSize(), description="Sizes of all kinds, or per kind (those left out: their natural ones)."
    )
    keys: Keys = Field(default=Keys())

    @field_validator("mix")
    @classmethod
    def _known(cls, mix: dict[str, float]) -> dict[str, float]:
        for kind, weight in mix.items():
            if kind not in KINDS:
                raise ValueError(f"no kind {kind!r}; kinds: {', '.join(KINDS)}")
            if not weight >= 0:
                raise ValueError(f"the weight of {kind} is negative")
        if not 0 < sum(mix.values()) < float("inf"):
            raise ValueError("the weights have no positive finite sum")
        return mix

    def size_of(self, kind: str) -> Size:
        """The size distribution of ``kind`` in this phase."""
        return self.size.get(kind, NaturalSize()) if isinstance(self.size, dict) else self.size


class PoolLimits(_Model):
    """How many different messages are made beforehand per kind and size distribution; they are then sent in turn."""

    messages: int = Field(default=1024, ge=1, le=1 << 20, description="At most so many.")
    bytes: Bytes = Field(default=8 << 20, ge=1 << 10, le=1 << 30, description="At most so many bytes in all of them.")


class Scenario(_Model):
    """Everything that decides what is sent; equal scenarios with equal seeds give equal traffic."""

    name: str = Field(min_length=1, max_length=64)
    description: str = Field(default="", description="One line for people.")
    seed: int = Field(default=1, ge=0, lt=2**63)
    phases: list[Phase] = Field(min_length=1, max_length=1000)
    pool: PoolLimits = Field(default=PoolLimits())

    @property
    def seconds(self) -> float:
        """The length of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def key_count(self) -> int:
        """The most keys that a phase uses."""
        return max(phase.keys.count for phase in self.phases)

    def adapted(
        self,
        *,
        seconds: float | None = None,
        rate: Rate | None = None,
        keys: int | None = None,
        seed: int | None = None,
    ) -> Scenario:
        """A copy with all phases scaled to ``seconds`` in sum, and each phase with that rate and number of keys."""
        scale = 1.0 if seconds is None else seconds / self.seconds
        phases = []
        for phase in self.phases:
            changes: dict[str, Any] = {"seconds": phase.seconds * scale}
            if rate is not None:
                changes["rate"] = rate
            if keys is not None:
                changes["keys"] = phase.keys.model_copy(update={"count": keys})
            phases.append(phase.model_copy(update=changes))
        return self.model_copy(update={"phases": phases, "seed": self.seed if seed is None else seed})


def scenario_names() -> list[str]:
    """Names of the scenarios that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_scenario(name_or_path: str) -> Scenario:
    """A scenario by the name of one that comes along, or from a YAML file.

    Raises:
        UsageError: there is no such scenario.
        ScenarioError: the file is wrong; the message has one line ``file:line:column: ...`` per fault.
    """
    path = FOLDER / f"{name_or_path}.yaml" if name_or_path in scenario_names() else Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(scenario_names())
        raise UsageError(
            f"cannot read scenario {name_or_path!r} ({error}); give a YAML file or one of: {names}"
        ) from None
    return parse_scenario(text, str(path))


def parse_scenario(text: str, where: str) -> Scenario:
    """A scenario from YAML; ``where`` names the text in errors."""
    try:
        places = Places(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        spot = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise ScenarioError(f"{spot}: not YAML: {getattr(error, 'problem', None) or error}") from None
    try:
        return Scenario.model_validate(places.content)
    except ValidationError as error:
        lines = [f"{places.spot(where, fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise ScenarioError("\n".join(dict.fromkeys(lines))) from None
