"""The path that maximises Eq. 8, by dynamic programming (Viterbi, 1967)."""

from __future__ import annotations

import math

import numpy as np

from diffuspec.compilation import compiled
from diffuspec.method.compiled.columns import holds
from diffuspec.method.compiled.options import OPTIONS
from diffuspec.method.compiled.proxies import judge


@compiled(**OPTIONS)
def search_exact(proxy, cells, stops, context, lam):
    """`method.search.exact_search`: (ids, ranks, score, proxy_logp) of the path, ranks longer than it.

    A state is the rows of the last order - 1 columns, as the digits of a number to the base W.
    """
    ids, logq, kept = cells
    k, width = ids.shape
    order = len(context)
    states = width**order
    total, above = np.empty((k + 1, states)), np.empty((k + 1, states), np.int64)
    rows = np.empty((k + 1, states), np.int64)
    stopped, stopped_above, stopped_row = np.empty(k), np.empty(k, np.int64), np.empty(k, np.int64)
    tail, p = np.empty(order, np.int64), np.empty(width)
    for state in range(states):
        total[0, state] = -np.inf
    total[0, 0], depth, alive = 0.0, -1, True
    while alive and depth + 1 < k:
        depth += 1
        alive, stopped[depth] = False, -np.inf
        for state in range(states):
            total[depth + 1, state] = -np.inf
        for state in range(states):
            if total[depth, state] == -np.inf:
                continue
            digits = state
            for j in range(order - 1, -1, -1):
                column = depth - order + j
                tail[j] = ids[column, digits % width] if column >= 0 else context[order + column]
                digits //= width
            judge(proxy, depth, tail, ids, kept, p)
            for row in range(width):
                if not kept[depth, row]:
                    continue
                value = total[depth, state] + lam * np.float64(logq[depth, row]) + (1.0 - lam) * math.log(p[row])
                if holds(stops, ids[depth, row]):
                    if value > stopped[depth]:
                        stopped[depth], stopped_above[depth], stopped_row[depth] = value, state, row
                    continue
                after = (state * width + row) % states
                if value > total[depth + 1, after]:
                    total[depth + 1, after], above[depth + 1, after], rows[depth + 1, after] = value, state, row
                    alive = True

    best, last = -1, depth  # the winner's state in its last column, -1 where it ended there
    value = -np.inf
    for state in range(states):
        if total[depth + 1, state] > value:
            best, value = state, total[depth + 1, state]
    if stopped[depth] > value:
        best = -1
    ranks, sums = np.empty(k, np.int32), np.empty(k)
    for i in range(depth, -1, -1):
        if i < depth and stopped[i] > sums[i]:
            best, last = -1, i
        # the way down from column i, of a path that is new at i
        if i == last:
            state = best
            for j in range(i, -1, -1):
                if state < 0:
                    ranks[j], sums[j], state = stopped_row[j], stopped[j], stopped_above[j]
                else:
                    ranks[j], sums[j], state = rows[j + 1, state], total[j + 1, state], above[j + 1, state]

    n = last + 1
    path, score, seen = np.empty(n, np.int32), np.empty(n, np.float32), np.empty((n, width), np.float32)
    for j in range(order):
        tail[j] = context[j]
    for i in range(n):
        judge(proxy, i, tail, ids, kept, p)
        for row in range(width):
            seen[i, row] = math.log(p[row]) if kept[i, row] else np.nan
        path[i], score[i] = ids[i, ranks[i]], sums[i]
        for j in range(order):
            tail[j] = tail[j + 1] if j + 1 < order else path[i]
    return path, ranks, score, seen
