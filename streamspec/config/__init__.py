"""What a configuration file may say (:mod:`models`) and how one is read (:mod:`load`).

Nothing here imports a heavy library: reading a configuration takes a fraction of a second, whatever
its stages will load later.
"""

from streamspec.config.load import load_config, parse_config
from streamspec.config.models import (
    EngineConfig,
    LaneConfig,
    LaneMatch,
    LoggingConfig,
    ObjectiveConfig,
    ServiceConfig,
)
from streamspec.config.problems import ConfigurationRefused, Problem

__all__ = [
    "ConfigurationRefused",
    "EngineConfig",
    "LaneConfig",
    "LaneMatch",
    "LoggingConfig",
    "ObjectiveConfig",
    "Problem",
    "ServiceConfig",
    "load_config",
    "parse_config",
]
