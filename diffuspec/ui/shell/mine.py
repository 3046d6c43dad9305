"""The runs that visitors made lately: a reload brings the last one back.

The browser keeps the list (`gr.BrowserState`), the server the traces, as files that nobody finds without their key.
"""

from __future__ import annotations

import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from diffuspec.errors import DiffuSpecError
from diffuspec.trace.model import Trace

STORAGE_KEY = "diffuspec-runs"
LISTED = 12  # runs in a visitor's list
KEPT_S, KEPT_BYTES = 24 * 3600.0, 512 * 2**20  # of all visitors' traces, the oldest go first
PROMPT_CHARACTERS = 120


class RecentRuns:
    """Traces by key, in a temporary folder of this process."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="diffuspec-runs-")
        self._lock = threading.Lock()
        weakref.finalize(self, self._folder.cleanup)

    def keep(self, key: str, trace: Trace) -> None:
        """Keep a run under its visitor's key, or what it has made so far; replaces an earlier state of it."""
        path = self._path(key)
        with self._lock:
            trace.save(path)
            self._sweep()

    def get(self, key: str) -> Trace | None:
        """None where it is gone, or never was."""
        path = self._path(key)
        try:
            return Trace.load(path) if path.is_file() else None
        except DiffuSpecError:
            return None

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def _path(self, key: str) -> Path:
        return Path(self._folder.name) / f"{'' if not is_key(key) else key}.jsonl.gz"

    def _sweep(self) -> None:
        now, total = time.time(), 0
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in Path(self._folder.name).glob("*.gz")]
        for made, size, path in sorted(files, key=lambda file: -file[0]):
            total += size
            if total > KEPT_BYTES or now - made > KEPT_S:
                path.unlink(missing_ok=True)


def is_key(key: Any) -> bool:
    """Whether this is a key as `uuid4().hex` gives them; the list comes from a browser."""
    return isinstance(key, str) and len(key) == 32 and key.isascii() and key.isalnum()


def entry(key: str, prompt: str) -> dict[str, Any]:
    """A line of the visitor's list: key, the prompt's beginning, and when the run began (seconds since 1970)."""
    return {"key": key, "prompt": prompt.strip()[:PROMPT_CHARACTERS], "at": round(time.time())}


def listed(mine: Any) -> list[dict[str, Any]]:
    """The list that a browser sent, newest first, without what is no entry of one."""
    return [
        {"key": item["key"], "prompt": str(item.get("prompt", ""))[:PROMPT_CHARACTERS], "at": item.get("at", 0)}
        for item in (mine if isinstance(mine, list) else [])
        if isinstance(item, dict) and is_key(item.get("key")) and isinstance(item.get("at", 0), (int, float))
    ][:LISTED]


def added(mine: Any, new: dict[str, Any]) -> list[dict[str, Any]]:
    """The list with a run more in front."""
    return [new, *listed(mine)][:LISTED]
