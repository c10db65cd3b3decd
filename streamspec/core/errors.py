"""One tree of errors; each message says what, where, the value, what is allowed, and the next step.

The class says what the caller does next: :class:`ConfigError` is for the person who wrote the
configuration (exit 78), :class:`DependencyUnavailable` for something outside the process that is
missing (exit 69), :class:`StageError` sends a segment to a retry and then to the dead letter, and
:class:`InternalError` is a bug of ours (exit 70).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_CONFIG = 78


class StreamspecError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        what: the fault in one clause, without a full stop.
        where: the component or place, e.g. ``sources.packets.bind`` or ``config.yaml:3:5``.
        value: the offending value, shown with ``repr``.
        allowed: what would have been accepted.
        next_step: what the reader should do now.
    """

    exit_code = EXIT_INTERNAL

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        value: object = None,
        allowed: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.value = value
        self.allowed = allowed
        self.next_step = next_step
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.value is not None:
            text += f" (got {self.value!r})"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.next_step:
            text += f"; next: {self.next_step}"
        return text


class UsageError(StreamspecError):
    """The command line asks for something that does not exist (exit 2)."""

    exit_code = EXIT_USAGE


class ConfigError(StreamspecError):
    """The configuration is wrong; nothing was started (exit 78)."""

    exit_code = EXIT_CONFIG


class DependencyUnavailable(StreamspecError):
    """Something outside the process is missing: a port, a file, a capability, a broker (exit 69)."""

    exit_code = EXIT_UNAVAILABLE


class InternalError(StreamspecError):
    """An invariant of ours broke (exit 70)."""


class StageError(StreamspecError):
    """A stage could not process a segment; the segment is retried, then dead-lettered."""


class OutputTooLarge(StageError):
    """The results of one segment exceed what the engine is configured to carry."""


class SinkError(StreamspecError):
    """A sink lost its destination for good; what it holds is not acknowledged."""

    exit_code = EXIT_UNAVAILABLE
