"""Where DiffuSpec keeps what it would rather not fetch or compile twice."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache folder for weights and compiled code: DIFFUSPEC_CACHE, or the one that the system names."""
    chosen = os.environ.get("DIFFUSPEC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return (Path(base) if base else Path.home() / ".cache") / "diffuspec"
    except RuntimeError:  # a user without a home
        return temporary_dir()


def temporary_dir() -> Path:
    """The user's own folder among the temporary files."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"diffuspec-{user}"
