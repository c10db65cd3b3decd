"""Errors that end a run of the generator; each class carries the exit code that the command ends with."""

from __future__ import annotations

EXIT_OK = 0
EXIT_LOSS = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 69
EXIT_SCENARIO = 78


class LoadgenError(Exception):
    """Root of the errors that are raised on purpose: one line that says what, where and what to do."""

    exit_code = EXIT_USAGE


class UsageError(LoadgenError):
    """The command line asks for something that does not exist (exit 2)."""


class ScenarioError(LoadgenError):
    """The scenario file is wrong; nothing was sent (exit 78)."""

    exit_code = EXIT_SCENARIO


class Unreachable(LoadgenError):
    """The destination, a file or a port is not there or went away (exit 69)."""

    exit_code = EXIT_UNREACHABLE
