"""The audit file: what was sent, by key, so that a sink can be checked against it.

Messages of a key are numbered without gaps, so the counts say everything. It is JSON, replaced as a whole every
second and at the end: after a crash of the generator it is at most a second old, and says ``complete: false``.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadgen.errors import UsageError

FORMAT = "loadgen-audit-1"


@dataclass
class Audit:
    """What one run sent.

    Attributes:
        run: the run's number, as in the markers.
        sent: messages per key; those of key ``k`` are numbered from 0 to ``sent[k] - 1``.
        complete: the run ended and wrote this last; otherwise more may have been sent.
        started_ns: wall clock at the start.
        target: where to.
        scenario: what.
    """

    run: int
    sent: list[int] = field(default_factory=list)
    complete: bool = False
    started_ns: int = 0
    target: str = ""
    scenario: str = ""
    format: str = FORMAT

    def write(self, path: Path) -> None:
        """Replace ``path`` at once; raises UsageError when that cannot be done."""
        beside = path.with_name(path.name + ".tmp")
        try:
            beside.write_text(json.dumps(asdict(self)), encoding="utf-8")
            os.replace(beside, path)
        except OSError as error:
            raise UsageError(f"--audit {path}: cannot write: {error.strerror or error}") from None


def read_audit(path: Path) -> Audit:
    """The audit in ``path``; raises UsageError when it is none."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        audit = Audit(**fields)
        if audit.format != FORMAT or not all(number >= 0 for number in [int(audit.run), *map(int, audit.sent)]):
            raise ValueError(f"its format is not {FORMAT}")
    except OSError as error:
        raise UsageError(f"--audit {path}: cannot read: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"--audit {path}: not an audit file: {error}") from None
    return audit
