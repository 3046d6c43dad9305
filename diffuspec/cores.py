"""How many processor cores this process may use: not those of the machine where a container has fewer."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def usable_cores() -> int:
    """Cores by the affinity of this process and by its control group's quota, whichever are fewer; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(Path("/"))
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def cpu_quota(root: Path) -> float | None:
    """Cores that the control groups (version 1 or 2) leave this process, None where nothing bounds them.

    root: where `proc` and `sys` are. A group's parents bound it too. Threads that wait for each other are all held up
    once the quota of a period is spent, so whoever starts threads rounds this down.
    """
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, as deep as they are seen from here, and all above them."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    places = [(mounted, "/"), (mounted / "cpu", "/"), (mounted / "cpu,cpuacct", "/")]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            places += [(mounted, path), (mounted / "unified", path)]
        elif "cpu" in controllers.split(","):
            places += [(mounted / controllers, path), (mounted / "cpu", path)]
    for top, path in places:
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth])


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            spent, period = (folder / "cpu.max").read_text().split()
        else:
            spent = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        quota = float(spent) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
    return quota if quota > 0 else None
