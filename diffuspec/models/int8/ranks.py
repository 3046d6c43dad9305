"""The likeliest of many logits."""

from __future__ import annotations

import numpy as np

from diffuspec.compilation import compiled
from diffuspec.models.int8.arithmetic import STRETCH, exp, highest_of
from diffuspec.models.int8.layout import BARE, OPTIONS


@compiled(fastmath={"reassoc", "contract", "nsz"}, **BARE)
def _sum_of_exponentials(x, largest):
    """NaN where one of x is NaN, or the largest infinite: `exp` itself would make a number of it."""
    total, unordered = np.float32(0.0), np.int32(0)
    for i in range(len(x)):
        below = x[i] - largest
        unordered += np.int32(below != below)
        total += exp(below)
    return np.float32(np.nan) if unordered else total


@compiled(**OPTIONS)
def likeliest_one(logits):
    """Where each row of logits float32 [rows, V] is highest, int64 [rows]; ties: the first."""
    places = np.empty(len(logits), np.int64)
    for r in range(len(logits)):
        row, start = logits[r], 0
        highest = highest_of(row[:STRETCH])
        for first in range(STRETCH, len(row), STRETCH):
            here = highest_of(row[first : first + STRETCH])
            if here > highest:
                highest, start = here, first
        places[r] = start
        while row[places[r]] != highest and places[r] + 1 < min(start + STRETCH, len(row)):
            places[r] += 1
    return places


@compiled(**BARE)
def rank_row(row, place, best):
    """Write down where the largest of a row are, as many as `best` holds, and what they are; their logsumexp."""
    n, known = len(best), 0
    for first in range(0, len(row), STRETCH):
        part = row[first : first + STRETCH]
        if known == n and highest_of(part) <= best[n - 1]:
            continue
        for i in range(len(part)):
            value = part[i]
            if known == n and value <= best[n - 1]:
                continue
            at = known if known < n else n - 1
            while at > 0 and best[at - 1] < value:
                best[at], place[at] = best[at - 1], place[at - 1]
                at -= 1
            best[at], place[at] = value, first + i
            known = min(known + 1, n)
    return best[0] + np.log(_sum_of_exponentials(row, best[0]))


def no_ranks(rows: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for what `likeliest_of` finds."""
    return np.zeros((rows, n), np.int32), np.full((rows, n), -np.inf, np.float32), np.zeros(rows, np.float32)


@compiled(**OPTIONS)
def likeliest_of(logits, rows, n):
    """The n largest of these rows, int64 [m], of logits float32 [.., V], best first (ties: the first); n at most V.

    ids int32 [m, n]; their logits float32 [m, n]; logsumexp float32 [m], to about 1e-6: for what is written
    down or proposed, not for what is decided. On one thread: it has too little to do to wake others for.
    """
    m = len(rows)
    ids, values = np.zeros((m, n), np.int32), np.full((m, n), -np.inf, np.float32)
    norms = np.empty(m, np.float32)
    for r in range(m):
        norms[r] = rank_row(logits[rows[r]], ids[r], values[r])
    return ids, values, norms


@compiled(**OPTIONS)
def likeliest_few(logits, n):
    """`likeliest_of` all rows."""
    return likeliest_of(logits, np.arange(len(logits)), n)
