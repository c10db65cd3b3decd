"""Where the programs to compare with come from: the system, or an environment of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.proof.harness import CACHE, NotRun

PEERS = CACHE / "peers"
PINNED = Path(__file__).with_name("peers.txt")


def program(name: str, package: str) -> str:
    """Path of an installed program, also of one that was unpacked into ``.cache/bench/peers``.

    Raises:
        NotRun: not there; names the Debian package.
    """
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *map(str, PEERS.glob("*/usr/*bin"))]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise NotRun(f"{name} is not installed (Debian package {package})")
    return found


def first_line(*command: str) -> str:
    """What a program says first about its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[0] if lines else ""


def debian_version(package: str) -> str:
    """Version of an installed package, empty without dpkg."""
    if shutil.which("dpkg-query") is None:
        return ""
    return first_line("dpkg-query", "-W", "-f", "${Package} ${Version}", package)


def pinned_version(name: str) -> str:
    """``name version`` as pinned."""
    for line in PINNED.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}=="):
            return line.replace("==", " ")
    raise NotRun(f"{name} is not in {PINNED.name}")


def python() -> str:
    """Interpreter of an environment with the pinned Python peers, made when it is not there or not as pinned.

    Raises:
        NotRun: they cannot be installed.
    """
    folder = PEERS / "python"
    stamp = folder / "pinned"
    wanted = hashlib.sha256(PINNED.read_bytes()).hexdigest()
    interpreter = str(folder / "bin" / "python")
    if stamp.is_file() and stamp.read_text() == wanted:
        return interpreter
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(PINNED)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise NotRun(f"the environment of the Python peers cannot be made: {last[0]}")
    stamp.write_text(wanted)
    return interpreter
