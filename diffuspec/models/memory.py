"""How much memory this process can still have."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")  # of a container, as it sees itself


def free_memory() -> int:
    """Bytes that this process can still have: of the machine, or of its container where that is bounded."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, min(free, limit - used + int(stat.get("inactive_file", 0))))  # cached files give way
    except (OSError, ValueError):  # no cgroup, or no bound ("max")
        return free
