"""What a column of the lattice holds and keeps."""

from __future__ import annotations

import math

import numpy as np

from diffuspec.compilation import compiled
from diffuspec.method.compiled.options import OPTIONS


@compiled(**OPTIONS)
def holds(tokens, token):
    for one in tokens:
        if one == token:
            return True
    return False


@compiled(**OPTIONS)
def keeps(ids, kept, column, token):
    for row in range(ids.shape[1]):
        if kept[column, row] and ids[column, row] == token:
            return True
    return False


@compiled(**OPTIONS)
def pruned(ids, logq, stops, tau, m_max):
    """Eq. 7: bool [k, W]."""
    k, width = ids.shape
    kept = np.empty((k, width), np.bool_)
    for i in range(k):
        before = 0.0
        for row in range(width):
            kept[i, row] = row < m_max and (before < tau or holds(stops, ids[i, row]))
            before += math.exp(np.float64(logq[i, row]))
    return kept
