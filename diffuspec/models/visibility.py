"""What the tokens of one pass see of each other: a chain, or the branches of a tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def visibility(n: int, parents: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """(hidden, depth): bool [n, n], True where row i must not look at row j; int64 [n], steps below the first row.

    parents[i] < i is the row that row i follows, -1 for a root; None is a chain.
    """
    hidden = np.ones((n, n), bool)
    if parents is None:
        return np.triu(hidden, 1), np.arange(n)
    depth = np.zeros(n, np.int64)
    for i, parent in enumerate(parents):
        if parent >= 0:
            hidden[i] = hidden[parent]
            depth[i] = depth[parent] + 1
        hidden[i, i] = False
    return hidden, depth
