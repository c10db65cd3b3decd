"""Base of every component's configuration model: strict, frozen, and able to build its component."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamspec.core.features import TYPE_NAMES
from streamspec.core.interfaces import Reducer, Sink, Source, Stage


class ComponentConfig(BaseModel):
    """Unknown keys are refused and values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceConfigBase(ComponentConfig):
    """A source's configuration; the field ``type`` of each subclass names it in YAML."""

    content_type: Literal[TYPE_NAMES] | None = Field(  # type: ignore[valid-type]
        default=None,
        description="What its segments hold, if that is known, e.g. `json` or `tls`; unset: each is looked at. The "
        "kind decides the predicted cost together with what is measured of the bytes.",
    )

    def build(self, name: str) -> Source:
        """The source, not yet opened. ``name`` is its key under ``sources``."""
        raise NotImplementedError


class StageConfigBase(ComponentConfig):
    """A stage's configuration.

    Attributes:
        needs_before: stage types of which each must stand somewhere before this one in the chain.
        changes_payload: its result payload has another size than what it was given, which is worth predicting.
    """

    needs_before: ClassVar[tuple[str, ...]] = ()
    changes_payload: ClassVar[bool] = False

    @property
    def cost_keys(self) -> tuple[str, ...]:
        """What the cost of each variant is learned under; one for a stage without variants."""
        return (str(getattr(self, "type", "stage")),)

    @property
    def default_variant(self) -> int:
        """Index into :attr:`cost_keys` of the variant that runs unless another is chosen."""
        return 0

    def build(self) -> Stage:
        """The stage, in a worker process. Heavy imports belong here or in the stage's ``open``."""
        raise NotImplementedError

    def build_reducer(self) -> Reducer | None:
        """The half that merges deltas in the dispatcher, if the stage has one."""
        return None


class SinkConfigBase(ComponentConfig):
    """A sink's configuration."""

    def build(self, name: str) -> Sink:
        """The sink, not yet opened. ``name`` is its key under ``sinks``."""
        raise NotImplementedError
