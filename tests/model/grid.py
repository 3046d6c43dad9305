"""Settings that cover a grid without running all of it."""

from __future__ import annotations

import random
from typing import Any


def cover(grid: dict[str, list[Any]], n: int, seed: int = 0) -> list[dict[str, Any]]:
    """n choices from `grid` in which every value of every knob appears (n at least the longest list)."""
    shuffle = random.Random(seed).shuffle
    columns = {}
    for name, values in grid.items():
        assert len(values) <= n
        columns[name] = (values * (n // len(values) + 1))[:n]
        shuffle(columns[name])
    return [{name: column[i] for name, column in columns.items()} for i in range(n)]
