"""A file system whose folders and files are the kernel's knobs (cgroup v2, resctrl)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class ControlFiles(Protocol):
    """What the actuators do to it; all paths are relative to the root. Methods raise OSError."""

    def read(self, path: str) -> str:
        """Content of a file, without the newline at its end."""

    def write(self, path: str, text: str) -> None:
        """One write, as these file systems want it."""

    def make(self, path: str) -> None:
        """A new folder, which the kernel fills with files."""

    def remove(self, path: str) -> None:
        """Remove a folder that no process is in, with its files."""

    def folders(self, path: str) -> list[str]:
        """Names of the folders in a folder."""

    def writable(self, path: str) -> bool:
        """Whether this process may write there."""


class KernelFiles:
    """Implements ``ControlFiles`` on a mounted one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8", errors="replace").rstrip("\n")

    def write(self, path: str, text: str) -> None:
        descriptor = os.open(self.root / path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def make(self, path: str) -> None:
        (self.root / path).mkdir()

    def remove(self, path: str) -> None:
        (self.root / path).rmdir()

    def folders(self, path: str) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.root / path) if entry.is_dir(follow_symlinks=False))

    def writable(self, path: str) -> bool:
        return os.access(self.root / path, os.W_OK)


GROUP_PREFIX = "streamspec-"


def move_all(files: ControlFiles, source: str, target: str) -> None:
    """Move every process of one group's ``cgroup.procs`` to another; what ends meanwhile does not matter."""
    for _ in range(8):
        pids = files.read(f"{source}/cgroup.procs").split()
        if not pids:
            return
        for pid in pids:
            try:
                files.write(f"{target}/cgroup.procs", pid)
            except ProcessLookupError:
                continue
    raise OSError(f"processes keep entering {source}")
