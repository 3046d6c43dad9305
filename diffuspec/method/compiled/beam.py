"""CPS: beam search over the lattice, and who wins among ended and open paths."""

from __future__ import annotations

import math

import numpy as np

from diffuspec.compilation import compiled
from diffuspec.method.compiled.columns import holds
from diffuspec.method.compiled.options import OPTIONS
from diffuspec.method.compiled.proxies import judge


@compiled(**OPTIONS)
def search_beam(proxy, cells, stops, context, lam, widest):
    """`method.search.beam_search`: what makes up its levels, the chosen path's index, and that path.

    context: int64 [order - 1]. Returns (how many levels; survivors and runners-up of each, their parent, rank, score,
    ended; chosen; ids, ranks, score, proxy_logp).
    """
    ids, logq, kept = cells
    k, width = ids.shape
    most, order = 2 * widest, len(context)
    size, cell, score = np.empty(k, np.int64), np.empty((k, most), np.int64), np.empty((k, most))
    place, reached, tails = np.empty((k + 1, widest), np.int64), np.empty(widest), np.empty((widest, order), np.int64)
    grown_reached, grown_tails = np.empty(widest), np.empty((widest, order), np.int64)
    p, logp = np.empty(width), np.empty((k, widest, width), np.float32)
    place[0, 0], reached[0] = 0, 0.0
    for j in range(order):
        tails[0, j] = context[j]

    alive, depth = 1, -1
    while alive and depth + 1 < k:
        depth += 1
        n = 0
        for a in range(alive):
            judge(proxy, depth, tails[a], ids, kept, p)
            for row in range(width):
                if not kept[depth, row]:
                    continue
                causal = math.log(p[row])
                logp[depth, a, row] = causal
                total = reached[a] + lam * np.float64(logq[depth, row]) + (1.0 - lam) * causal
                at = n
                while at and score[depth, at - 1] < total:
                    at -= 1
                if at < most:
                    n = min(n + 1, most)
                    for j in range(n - 1, at, -1):
                        score[depth, j], cell[depth, j] = score[depth, j - 1], cell[depth, j - 1]
                    score[depth, at], cell[depth, at] = total, a * width + row
        size[depth], grown = n, 0
        for j in range(min(n, widest)):
            a, token = cell[depth, j] // width, ids[depth, cell[depth, j] % width]
            if not holds(stops, token):
                place[depth + 1, grown], grown_reached[grown] = j, score[depth, j]
                for h in range(order):
                    grown_tails[grown, h] = tails[a, h + 1] if h + 1 < order else token
                grown += 1
        alive, reached, grown_reached, tails, grown_tails = grown, grown_reached, reached, grown_tails, tails

    entries, levels = 0, depth + 1
    for i in range(levels):
        entries += size[i]
    parent, rank = np.empty(entries, np.int16), np.empty(entries, np.int16)
    recorded, ended = np.empty(entries, np.float32), np.empty(entries, np.bool_)
    at = 0
    for i in range(levels):
        for j in range(size[i]):
            rank[at], parent[at] = cell[i, j] % width, place[i, cell[i, j] // width]
            recorded[at], ended[at] = score[i, j], holds(stops, ids[i, rank[at]])
            at += 1

    # The champion is the best path that reached the last depth. Ended paths challenge it, the deepest first: one
    # takes its place if its score exceeds the champion's own prefix at the same depth.
    chosen, ancestor = 0, 0
    for i in range(levels - 2, -1, -1):
        ancestor = place[i + 1, cell[i + 1, ancestor] // width]
        for j in range(min(size[i], widest)):
            if holds(stops, ids[i, cell[i, j] % width]):
                if score[i, j] > score[i, ancestor]:
                    depth, chosen, ancestor = i, j, j
                    break
    path, ranks = np.empty(depth + 1, np.int32), np.empty(depth + 1, np.int32)
    sums, seen = np.empty(depth + 1, np.float32), np.empty((depth + 1, width), np.float32)
    at = chosen
    for i in range(depth, -1, -1):
        a, row = cell[i, at] // width, cell[i, at] % width
        path[i], ranks[i], sums[i] = ids[i, row], row, score[i, at]
        for j in range(width):
            seen[i, j] = logp[i, a, j] if kept[i, j] else np.nan
        at = place[i, a]
    return levels, size, parent, rank, recorded, ended, chosen, path, ranks, sums, seen
