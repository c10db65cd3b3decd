"""Read a configuration: text, environment and overrides in; a validated :class:`ServiceConfig` out.

Everything that is wrong is reported at once, see :class:`ConfigurationRefused`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from streamspec.config.checks import cross_findings
from streamspec.config.explain import explain
from streamspec.config.models import ServiceConfig
from streamspec.config.overrides import apply_overrides
from streamspec.config.places import PlacedTree, read_tree
from streamspec.config.problems import ConfigurationRefused, Place, Problem, suggest
from streamspec.core.errors import ConfigError

MAX_FILE_BYTES = 4 * 1024 * 1024
"""A larger file is not a configuration."""


def load_config(
    path: Path, overrides: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> ServiceConfig:
    """The configuration in ``path``.

    Args:
        path: a YAML file; files that it refers to lie relative to its folder.
        overrides: ``a.b.c=value`` each, put over the file in this order.
        environment: variables for ``${NAME}``; those of the process by default.

    Raises:
        ConfigurationRefused: with every fault, one line each.
    """
    text = _read(path)
    return parse_config(text, origin=str(path), base=path.parent, overrides=overrides, environment=environment)


def parse_config(
    text: str,
    *,
    origin: str,
    base: Path | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> ServiceConfig:
    """As :func:`load_config`, from text; ``origin`` names it in messages and ``base`` is its folder."""
    tree = read_tree(text, origin, os.environ if environment is None else environment)
    if tree.problems and tree.root is None:  # not YAML at all: whatever else is missing is no news
        raise ConfigurationRefused(tree.problems)
    apply_overrides(tree, overrides)
    if tree.root is not None and not isinstance(tree.root, dict):
        problem = Problem(tree.place(()), "a configuration is a mapping of sections")
        raise ConfigurationRefused([*tree.problems, problem])
    return _validated(tree, base)


def _validated(tree: PlacedTree, base: Path | None) -> ServiceConfig:
    config: ServiceConfig | None = None
    problems = list(tree.problems)
    for path, what, known in cross_findings(tree.root):
        problems.append(
            Problem(tree.place(path), what, path, suggest(tree.written.get(path, ""), known), ", ".join(known))
        )
    try:
        config = ServiceConfig.model_validate({} if tree.root is None else tree.root, context={"base": base})
    except ValidationError as error:
        # A part that could not be read stands as null in the tree and was blamed for that already.
        problems.extend(problem for problem in explain(error, ServiceConfig, tree) if problem.path not in tree.unread)
    except ConfigError as error:
        problems.append(Problem(tree.place(()), str(error)))
    if problems or config is None:
        raise ConfigurationRefused(problems)
    return config


def _read(path: Path) -> str:
    place = Place(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationRefused([Problem(place, f"cannot be read: {reason}")]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationRefused([Problem(place, f"larger than {MAX_FILE_BYTES} bytes, which no configuration is")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationRefused([Problem(Place(str(path), line, 1), "not UTF-8 text")]) from error
