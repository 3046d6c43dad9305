"""The prefix tree of the likeliest nodes, best first (see `method.tree`)."""

from __future__ import annotations

import math

import numpy as np

from diffuspec.compilation import compiled
from diffuspec.method.compiled.columns import holds, keeps
from diffuspec.method.compiled.copies import look_back, look_back_now
from diffuspec.method.compiled.options import COPIED, FOLLOWER, OPTIONS
from diffuspec.method.compiled.proxies import judge, propose


@compiled(**OPTIONS)
def grow_tree(proxy, cells, stops, context, lam, nodes, deepest, copies, followers, spending):
    """`method.tree.best_first_tree`: (n; ids, parent, depth, rank; log P float64; judged) of `nodes`, n filled.

    context: int64 [at least order - 1 and LONGEST]; copies, followers, spending: see `options`.
    judged: float32, the anchor's row first, log p_proxy of the next column, NaN where none was asked.
    """
    ids, logq, kept = cells
    text, newest, size, copied_after, weights = copies
    most_followers, trust = followers
    spent, expected, row_ms, claimed, kept_to = spending
    k, width = ids.shape
    # Row i of these tells what may come after the anchor (0) or after node i - 1. chance: log P of a copied token, of
    # the column's rows, of the n-gram's followers; -inf for what may not come, or has come already.
    chance, best = np.empty((nodes, 1 + width + most_followers)), np.empty(nodes, np.int64)
    follower, judged = np.empty((nodes, most_followers), np.int64), np.empty((nodes, width), np.float32)
    tails = np.empty((nodes + 1, len(context)), np.int64)
    place, match = np.empty(nodes + 1, np.int64), np.empty(nodes + 1, np.int64)

    token, parent, depth = np.empty(nodes, np.int32), np.empty(nodes, np.int16), np.empty(nodes, np.int16)
    rank, reached = np.empty(nodes, np.int16), np.empty(nodes)
    mass, p, value, follows = np.full(k, -1.0), np.empty(width), np.empty(width), np.empty(most_followers)
    tails[0] = context
    place[0], match[0] = look_back_now(text, newest, size) if size else (-1, 0)

    grown, worth, more = 0, 0.0, 0.0  # how many nodes; the probability from which one more pays; what it costs
    for n in range(nodes):
        if len(row_ms):
            more = row_ms[min(n, len(row_ms) - 1)]
            worth = _claim(expected * more / spent, claimed, kept_to)

        # What may come after the newest node?
        log_p, column = (reached[n - 1], depth[n - 1] + 1) if n else (0.0, 0)
        for slot in range(chance.shape[1]):
            chance[n, slot] = -np.inf
        for row in range(width):
            judged[n, row] = np.nan
        if column < deepest and not (n and holds(stops, token[n - 1])):
            if n:
                above = parent[n - 1] + 1
                _extend(tails, above, token[n - 1], n)
                copied = place[above]
                if copied >= 0 and text[copied] == token[n - 1] and copied + 1 < size:
                    place[n], match[n] = copied + 1, match[above] + 1
                else:
                    place[n], match[n] = look_back(text, newest, tails[n], len(context)) if size else (-1, 0)
            weight, copied = 0.0, -1
            if place[n] >= 0 and match[n] >= copied_after:
                weight, copied = weights[min(match[n], len(weights)) - 1], text[place[n]]
            least = worth * math.exp(-log_p) if worth else 0.0
            share = trust * (1.0 - weight)  # the followers'
            if column < k:
                judge(proxy, column, tails[n], ids, kept, p)
                norm = _weigh(logq, kept, column, p, lam, judged, n, value)
                if mass[column] < 0.0:
                    mass[column] = _mass(logq, kept, column)
                held = min(1.0, mass[column])
                share *= 1.0 - held
                of_lattice = (1.0 - weight) * held / norm
                for row in range(width):
                    if kept[column, row]:
                        part = of_lattice * value[row]
                        if weight and ids[column, row] == copied:
                            part, weight = part + weight, 0.0
                        if part > least:
                            chance[n, row + 1] = log_p + math.log(part)
            if most_followers and share + weight > least:
                for i in range(propose(proxy, tails[n], follower[n], follows)):
                    here, part = follower[n, i], share * follows[i]
                    if weight and here == copied:
                        weight += part
                    elif part > least and not (column < k and keeps(ids, kept, column, here)):
                        chance[n, 1 + width + i] = log_p + math.log(part)
            if weight > least:
                chance[n, 0] = log_p + math.log(weight)
        best[n] = _largest(chance, n)

        # The likeliest of all that may come.
        above, column = _likeliest(n + 1, chance, best, depth)
        if above < 0:
            break
        slot = best[above]
        log_p = chance[above, slot]
        if len(row_ms):
            if math.exp(log_p) <= worth:
                break
            expected, spent = expected + _kept(math.exp(log_p), claimed, kept_to), spent + more
        if slot == 0:
            token[n], rank[n] = text[place[above]], COPIED
        elif slot <= width:
            token[n], rank[n] = ids[column, slot - 1], slot - 1
        else:
            token[n], rank[n] = follower[above, slot - 1 - width], FOLLOWER
        parent[n], depth[n], reached[n] = above - 1, column, log_p
        chance[above, slot] = -np.inf
        best[above] = _largest(chance, above)
        grown = n + 1
    return grown, token, parent, depth, rank, reached, judged


@compiled(**OPTIONS)
def _kept(p, x, y):
    """The calibrated probability: from x to y by straight lines, p itself without knots."""
    for i in range(1, len(x)):
        if p <= x[i]:
            return y[i - 1] + (p - x[i - 1]) / (x[i] - x[i - 1]) * (y[i] - y[i - 1])
    return p


@compiled(**OPTIONS)
def _claim(worth, x, y):
    """The largest p that is not kept to more than `worth`: the way back."""
    if len(x) == 0:
        return worth
    last = -1
    for i in range(len(y)):
        if y[i] <= worth:
            last = i
    if last < 0:
        return 0.0
    if last == len(y) - 1:
        return 1.0
    return x[last] + (worth - y[last]) / (y[last + 1] - y[last]) * (x[last + 1] - x[last])


@compiled(forceinline=True, **OPTIONS)
def _extend(tails, above, token, at):
    """tails[at]: the last tokens of tails[above] and `token`."""
    last = tails.shape[1] - 1
    for j in range(last):
        tails[at, j] = tails[above, j + 1]
    tails[at, last] = token


@compiled(forceinline=True, **OPTIONS)
def _weigh(logq, kept, column, p, lam, judged, at, value):
    """judged[at]: log p of the kept rows of a column; value: their q^lam p^(1 - lam), up to a factor. The sum of it."""
    top, norm = -np.inf, 0.0
    for row in range(len(p)):
        if kept[column, row]:
            causal = math.log(p[row])
            judged[at, row] = causal
            value[row] = lam * np.float64(logq[column, row]) + (1.0 - lam) * causal
            top = max(top, value[row])
    for row in range(len(p)):
        if kept[column, row]:
            value[row] = math.exp(value[row] - top)
            norm += value[row]
    return norm


@compiled(forceinline=True, **OPTIONS)
def _mass(logq, kept, column):
    """Q: what the drafter gave to the kept rows of a column together."""
    mass = 0.0
    for row in range(logq.shape[1]):
        if kept[column, row]:
            mass += math.exp(np.float64(logq[column, row]))
    return mass


@compiled(forceinline=True, **OPTIONS)
def _largest(chance, at):
    """The index of the largest in chance[at]; ties: the first."""
    best = 0
    for i in range(1, chance.shape[1]):
        if chance[at, i] > chance[at, best]:
            best = i
    return best


@compiled(forceinline=True, **OPTIONS)
def _likeliest(n, chance, best, depth):
    """(row, column) of the likeliest next node, row -1 for none; ties: the least deep, then the oldest."""
    above, here, most = -1, 0, -np.inf
    for i in range(n):
        column = depth[i - 1] + 1 if i else 0
        value = chance[i, best[i]]
        if value > most or above >= 0 and value == most and column < here:
            above, here, most = i, column, value
    return above, here
