"""What a process has changed on the host, written down so that the next start can undo it after a ``kill -9``.

One JSON file per process in a runtime folder, named by pid and start time (a pid alone is used again). What
belongs to a process that lives is left alone.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROC = Path("/proc")
_NAME = re.compile(r"(\d+)-(\d+)\.json")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process for certain: its pid and its start in clock ticks since boot."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int, proc: Path = PROC) -> Owner | None:
        """The process that has this pid now, if any."""
        try:
            fields = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else cls(pid, int(fields[19]))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The inverse of ``str``."""
        match = re.fullmatch(r"(\d+)-(\d+)", text)
        return cls(int(match[1]), int(match[2])) if match else None

    def lives(self, proc: Path = PROC) -> bool:
        """Whether it is still there."""
        return Owner.of(self.pid, proc) == self

    def __str__(self) -> str:
        return f"{self.pid}-{self.start_ticks}"


def runtime_folder() -> Path:
    """``$RUNTIME_DIRECTORY`` (systemd's ``RuntimeDirectory=``), else ``/run/streamspec`` for root, else
    ``$XDG_RUNTIME_DIR/streamspec``, else one in the temporary folder."""
    if given := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return Path("/run/streamspec")
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own) / "streamspec" if own else Path(tempfile.gettempdir()) / f"streamspec-{os.geteuid()}"


class Leftovers:
    """See the module.

    Args:
        folder: made when it is first written to, for this user only.
        proc: where processes are looked up.
    """

    def __init__(self, folder: Path | None = None, *, proc: Path = PROC) -> None:
        self.folder = runtime_folder() if folder is None else folder
        self._proc = proc
        own = Owner.of(os.getpid(), proc)
        assert own is not None, "this process is in /proc"
        self.own = own
        self._kept: dict[str, Any] = {}

    def note(self, kind: str, content: Any) -> None:
        """Write down, before it is done, what the actuator ``kind`` changes; replaces what it wrote before.
        ``None``: nothing is changed any more. A folder that cannot be written is no obstacle."""
        if content is None:
            self._kept.pop(kind, None)
        else:
            self._kept[kind] = content
        path = self.folder / f"{self.own}.json"
        try:
            if not self._kept:
                path.unlink(missing_ok=True)
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(self._kept), encoding="utf-8")
            fresh.replace(path)
        except OSError:
            return

    def of_others(self, kind: str) -> list[tuple[Owner, Any]]:
        """What other processes have written down under ``kind``, dead or alive."""
        found = []
        for owner, path in self._files():
            content = _read(path).get(kind)
            if owner != self.own and content is not None:
                found.append((owner, content))
        return found

    def of_the_dead(self, kind: str) -> list[tuple[Owner, Any]]:
        """What processes that have ended left behind."""
        return [(owner, content) for owner, content in self.of_others(kind) if not owner.lives(self._proc)]

    def settled(self, owner: Owner, kind: str) -> None:
        """What a dead process left under ``kind`` is removed."""
        path = self.folder / f"{owner}.json"
        rest = _read(path)
        rest.pop(kind, None)
        try:
            if rest:
                path.write_text(json.dumps(rest), encoding="utf-8")
            else:
                path.unlink(missing_ok=True)
        except OSError:
            return

    def _files(self) -> list[tuple[Owner, Path]]:
        try:
            paths = sorted(self.folder.iterdir())
        except OSError:
            return []
        return [(Owner(int(m[1]), int(m[2])), path) for path in paths if (m := _NAME.fullmatch(path.name))]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
