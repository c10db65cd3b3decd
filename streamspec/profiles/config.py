"""Configuration of what is learned while the stream runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from streamspec.core.component import ComponentConfig
from streamspec.core.units import Seconds
from streamspec.profiles.share_config import ShareConfig


class ProfilesConfig(ComponentConfig):
    """The Resource Profile Database."""

    database: Path | None = Field(
        default=None,
        description="File of stored models, of what was learned, and of decisions, relative to the working folder; "
        "unset: the packaged base model is used, and what is learned is forgotten at the end.",
    )
    key: Path | None = Field(
        default=None,
        description="File of the key that signs the database's content; unset: `STREAMSPEC_PROFILES_KEY`, or a file "
        "beside the database.",
    )
    model: str = Field(default="base", description="Name of the base model; its champion is used.")
    state: str = Field(
        default="online",
        description="Name under which what is learned online is kept. Services of different traffic that share a "
        "database or a topic take different names.",
    )
    share: ShareConfig | None = Field(
        default=None,
        description="Exchange what is learned with other instances, so that a new one starts warm; unset: each learns "
        "for itself.",
    )


class LearningConfig(ComponentConfig):
    """How the service learns from every finished segment."""

    enabled: bool = Field(
        default=True,
        description="Learn while running. Off: predictions stay those of the base model, or of size alone.",
    )
    tree_cpu_share: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="Share of one core for the costly models, the trees (0 to 1; 0 turns them off). What does not fit "
        "is learned by the fast models alone and counted. More makes the trees learn from more of the segments.",
    )
    nice: int = Field(
        default=10, ge=0, le=19, description="Nice level of the learner process (0 to 19); higher yields more."
    )
    snapshot_interval: Seconds = Field(
        default=0.5,
        ge=0.05,
        le=60.0,
        description="Longest time from learning something to predicting with it (0.05 to 60 s); a drift is told at "
        "once. Shorter costs the dispatcher about 0.1 ms each time.",
    )
    state_interval: Seconds = Field(
        default=5.0,
        ge=0.5,
        le=3600.0,
        description="How often the state is stored in the database (0.5 s to 1 h); also at exit. After a crash of the "
        "learner at most this much is learned anew.",
    )
    backlog: int = Field(
        default=8192,
        ge=64,
        le=1 << 20,
        description="Outcomes that may wait for the learner (64 to 1048576), 456 bytes each; what does not fit is "
        "counted as `learner_behind`.",
    )
    coverage: float = Field(
        default=0.9,
        ge=0.5,
        le=0.999,
        description="Share of segments whose work stays below the upper prediction (0.5 to 0.999). Higher makes the "
        "controller more careful.",
    )
    adaptation: float = Field(
        default=0.02,
        ge=0.001,
        le=0.5,
        description="How much of a change each segment teaches once the model has settled (0.001 to 0.5): 0.02 looks "
        "back over about 50 segments. Higher follows changes faster and is noisier; sudden changes are noticed apart.",
    )
