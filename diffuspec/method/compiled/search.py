"""The search stage of a step, compiled by numba: pruning, n-gram proxies, copies and the searches of a lattice.

A step can spare about half a millisecond for all of this, and the model pass before it has emptied the caches.

The searches ask for p_proxy through `judge`. Compiled, it reads the tables of `method.proxy`; a proxy of any other
kind is asked itself, and the same searches are then run as plain Python (see `method.proxy.searching`).
"""

from __future__ import annotations

import math

import numpy as np
from numba.extending import overload

from diffuspec.compilation import compiled
from diffuspec.method.compiled import COPIED, FOLLOWER, LONGEST

_MIX, _MIX2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9  # odd multipliers of the hashes

_ZERO = np.int64(0)  # a literal 0 would have a function compiled for itself
_options = dict(nogil=True, error_model="numpy", no_cfunc_wrapper=True)


@compiled(**_options)
def holds(tokens, token):
    for one in tokens:
        if one == token:
            return True
    return False


@compiled(**_options)
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


# ----------------------------------------------------------------------------------------------- proxies


def judge(proxy, column, tail, ids, kept, p):
    """p[row] = p_proxy(ids[column, row] | tail) for the kept rows of a column; -1 in `tail`: before the text."""
    proxy.judge(column, tail, ids, kept, p)


@overload(judge)
def _judge(proxy, column, tail, ids, kept, p):
    def read(proxy, column, tail, ids, kept, p):
        look_up(proxy, column, tail, ids, kept, p)

    return read


@compiled(**_options)
def look_up(tables, column, tail, ids, kept, p):
    """`judge` from the tables of a proxy (see `method.proxy.tables`)."""
    ngram, context, mix = tables
    p1, backoff1, starts2, words2, logp2, _, backoff2, starts3, words3, logp3, _ = ngram
    counts, uniform, discount = context
    fitted, here, n = mix[0], mix[1], len(tail)
    u = tail[n - 2] if n > 1 else -1
    v = tail[n - 1] if n > 0 else -1
    if fitted > 0.0 and (u >= len(p1) or v >= len(p1)):
        raise IndexError("a token id is outside the vocabulary of the n-gram")

    first2, last2, weight2, first3, last3, weight3 = 0, 0, 1.0, 0, 0, 1.0
    if fitted > 0.0 and v >= 0:
        first2, last2, weight2 = starts2[v], starts2[v + 1], math.exp(np.float64(backoff1[v]))
        row = _find(words2, np.int64(starts2[u]), np.int64(starts2[u + 1]), v) if u >= 0 else -1
        if row >= 0:
            first3, last3, weight3 = starts3[row], starts3[row + 1], math.exp(np.float64(backoff2[row]))
    slot0, slot1, slot2 = -1, -1, -1
    if here > 0.0:
        slot0 = _slot(counts, _ZERO, _ZERO)
        if v >= 0:
            slot1 = _slot(counts, v + 1, _ZERO)
            slot2 = _slot(counts, (u + 1 << 32) + v + 1, _ZERO) if u >= 0 else -1

    for row in range(ids.shape[1]):
        if not kept[column, row]:
            continue
        token, x, y = np.int64(ids[column, row]), 1.0, uniform
        if fitted > 0.0:
            if not 0 <= token < len(p1):
                raise IndexError("a token id is outside the vocabulary of the n-gram")
            at = _find(words3, first3, last3, token)
            if at >= 0:
                x = math.exp(np.float64(logp3[at]))
            else:
                at = _find(words2, first2, last2, token)
                x = math.exp(np.float64(logp2[at])) if at >= 0 else weight2 * p1[token]
                x *= weight3
        if here > 0.0:
            y = _interpolated(counts, slot0, _ZERO, token, discount, y)
            y = _interpolated(counts, slot1, v + 1, token, discount, y)
            y = _interpolated(counts, slot2, (u + 1 << 32) + v + 1, token, discount, y)
        if here == 0.0:
            p[row] = x
        else:
            p[row] = y if fitted == 0.0 else fitted * x + here * y


def propose(proxy, tail, tokens, p):
    """The likeliest tokens that a fitted n-gram saw after `tail`: fills tokens[:n] and p[:n], falling, and gives n.

    A proxy that has no tables proposes nothing.
    """
    return 0


@overload(propose)
def _propose(proxy, tail, tokens, p):
    def read(proxy, tail, tokens, p):
        return followers(proxy, tail, tokens, p)

    return read


@compiled(**_options)
def followers(tables, tail, tokens, p):
    """`propose` from the tables of a proxy: what stood after the last two tokens, then what after the last alone."""
    ngram, _, mix = tables
    p1, _, starts2, words2, logp2, order2, backoff2, starts3, words3, logp3, order3 = ngram
    n, size, most = len(tail), 0, len(tokens)
    u = tail[n - 2] if n > 1 else -1
    v = tail[n - 1] if n > 0 else -1
    if mix[0] == 0.0 or v < 0 or most == 0:
        return 0
    if u >= len(p1) or v >= len(p1):
        raise IndexError("a token id is outside the vocabulary of the n-gram")
    first3, last3, weight3 = 0, 0, 0.0
    row = _find(words2, np.int64(starts2[u]), np.int64(starts2[u + 1]), v) if u >= 0 else -1
    if row >= 0:
        first3, last3, weight3 = np.int64(starts3[row]), np.int64(starts3[row + 1]), np.float64(backoff2[row])
        for i in range(first3, min(last3, first3 + most)):
            at = order3[i]
            size = _enter(tokens, p, size, words3[at], np.float64(logp3[at]))
    for i in range(np.int64(starts2[v]), np.int64(starts2[v + 1])):
        at = order2[i]
        value = weight3 + np.float64(logp2[at])
        if size == most and value <= p[size - 1]:
            break
        if _find(words3, first3, last3, words2[at]) < 0:
            size = _enter(tokens, p, size, words2[at], value)
    for i in range(size):
        p[i] = math.exp(p[i])
    return size


@compiled(**_options)
def _enter(tokens, p, size, token, value):
    """Insert into the first `size` of two lists, in falling order of p; the new size, at most their length."""
    at = size
    while at and p[at - 1] < value:
        at -= 1
    if at < len(tokens):
        size = min(size + 1, len(tokens))
        for j in range(size - 1, at, -1):
            tokens[j], p[j] = tokens[j - 1], p[j - 1]
        tokens[at], p[at] = token, value
    return size


@compiled(**_options)
def _find(words, first, last, word):
    """Where `word` stands in the sorted words[first:last], -1 where it does not."""
    end = last
    while first < last:
        middle = (first + last) >> 1
        if words[middle] < word:
            first = middle + 1
        else:
            last = middle
    return first if first < end and words[first] == word else -1


@compiled(**_options)
def _interpolated(counts, slot, history, token, discount, shorter):
    """p(token | history) from that of the shorter history; slot: of the history's totals."""
    if slot < 0 or counts[slot, 2] == 0:
        return shorter
    total = counts[slot, 2]
    p = discount * counts[slot, 3] / total * shorter
    seen = counts[_slot(counts, history, token + 1), 2]
    return p + (seen - discount) / total if seen else p


@compiled(**_options)
def _slot(counts, history, token):
    """Where the entry of a history and a token stands or would stand: open addressing, an empty one has count 0."""
    mask = len(counts) - 1
    mixed = (history + 1) * _MIX ^ token * _MIX2
    at = (mixed ^ mixed >> 29) & mask
    while counts[at, 2] and (counts[at, 0] != history or counts[at, 1] != token):
        at = at + 1 & mask
    return at


@compiled(**_options)
def count(counts, ids, first):
    """Count ids[first:], each after the none, one and two before it.

    counts: int64 [a power of 2, 4], a row holds (history, token + 1, its count, 0), or of the history itself
    (history, 0, count of all its followers, how many of them are distinct); history: (u + 1) 2^32 + v + 1, 0 for none.
    """
    for i in range(first, len(ids)):
        for n in range(min(i, 2) + 1):
            history = 0
            for j in range(i - n, i):
                history = (history << 32) + ids[j] + 1
            of = _slot(counts, history, _ZERO)
            counts[of, 0] = history
            counts[of, 2] += 1
            at = _slot(counts, history, ids[i] + 1)
            if counts[at, 2] == 0:
                counts[at, 0], counts[at, 1] = history, ids[i] + 1
                counts[of, 3] += 1
            counts[at, 2] += 1


# ------------------------------------------------------------------------------------------------ copies


@compiled(**_options)
def _suffix(text, newest, tail, end, n):
    """Where the entry of the n tokens tail[end - n : end] stands or would stand."""
    mask, mixed = len(newest) - 1, n
    for i in range(end - n, end):
        mixed = mixed * _MIX + tail[i]
    at = (mixed ^ mixed >> 29) & mask
    while newest[at]:
        place = newest[at] >> 3
        same = newest[at] & 7 == n
        i = 1
        while same and i <= n:
            same = text[place - i] == tail[end - i]
            i += 1
        if same:
            return at
        at = at + 1 & mask
    return at


@compiled(**_options)
def remember(text, first, last, newest):
    """Enter the n-grams before text[first:last], n <= LONGEST.

    newest: int64 [a power of 2], 8 place + n for the newest place that an n-gram stands before, 0 for none.
    """
    for place in range(first, last):
        for n in range(1, min(place, LONGEST) + 1):
            newest[_suffix(text, newest, text, place, n)] = 8 * place + n


@compiled(**_options)
def look_back(text, newest, tail, end):
    """(place, length): what followed the longest suffix of tail[:end] in the text, (-1, 0) for nothing."""
    for n in range(min(end, LONGEST), 0, -1):
        entry = newest[_suffix(text, newest, tail, end, n)]
        if entry:
            return entry >> 3, n
    return -1, 0


@compiled(**_options)
def look_back_now(text, newest, size):
    """As `look_back` for text[:size] itself; a match of LONGEST is counted on to its beginning."""
    place, length = look_back(text, newest, text, size)
    if length == LONGEST:
        while length < place and text[place - 1 - length] == text[size - 1 - length]:
            length += 1
    return place, length


# ---------------------------------------------------------------------------------------------- searches


@compiled(**_options)
def beam(proxy, ids, logq, kept, stops, context, lam, widest):
    """`method.search.beam_search`: what makes up its levels, the chosen path's index, and that path.

    context: int64 [order - 1]. Returns (how many levels; survivors and runners-up of each, their parent, rank, score,
    ended; chosen; ids, ranks, score, proxy_logp).
    """
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


@compiled(**_options)
def exact(proxy, ids, logq, kept, stops, context, lam):
    """`method.search.exact_search`: (ids, ranks, score, proxy_logp) of the path, ranks longer than it.

    A state is the rows of the last order - 1 columns, as the digits of a number to the base W.
    """
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


@compiled(**_options)
def _keeps(ids, kept, column, token):
    for row in range(ids.shape[1]):
        if kept[column, row] and ids[column, row] == token:
            return True
    return False


@compiled(**_options)
def tree(
    proxy,
    ids,
    logq,
    kept,
    stops,
    context,
    lam,
    nodes,
    deepest,
    text,
    newest,
    size,
    copied_after,
    weights,
    most_followers,
    trust,
    spent,
    row_ms,
    expected,
):
    """`method.tree.best_first_tree`: (n; ids, parent, depth, rank; log P float64; judged) of `nodes`, n filled.

    context: int64 [at least order - 1 and LONGEST]; text[:size], newest: a copy source's, size 0 for none;
    weights: float64, w of 1, 2, ... matching tokens; most_followers: of an n-gram's, after a node; trust: in their p;
    spent, expected: t and E of a budget; row_ms: float64, its b, empty for none.
    judged: float32, the anchor's row first, log p_proxy of the next column, NaN where none was asked.
    """
    k, width = ids.shape
    length = len(context)
    # log P of what may come after a node: a copied token, then the rows, then the n-gram's followers
    slots = 1 + width + most_followers
    chance = np.empty((nodes, slots))
    follower, follows = np.empty((nodes, most_followers), np.int64), np.empty(most_followers)
    token, parent, depth = np.empty(nodes, np.int32), np.empty(nodes, np.int16), np.empty(nodes, np.int16)
    rank, reached = np.empty(nodes, np.int16), np.empty(nodes)
    tails = np.empty((nodes + 1, length), np.int64)
    place, match = np.empty(nodes + 1, np.int64), np.empty(nodes + 1, np.int64)
    best = np.empty(nodes, np.int64)  # of chance
    judged = np.empty((nodes, width), np.float32)
    mass, p, value = np.empty(k), np.empty(width), np.empty(width)
    for i in range(k):
        mass[i] = -1.0
    for j in range(length):
        tails[0, j] = context[j]
    place[0], match[0] = look_back_now(text, newest, size) if size else (-1, 0)

    n, node = 0, -1  # the newest node: what may come after it is looked at first
    while True:
        if n < nodes:
            opened = node + 1
            log_p, column = (reached[node], depth[node] + 1) if node >= 0 else (0.0, 0)
            for slot in range(slots):
                chance[opened, slot] = -np.inf
            for row in range(width):
                judged[opened, row] = np.nan
            if column < deepest and not (node >= 0 and holds(stops, token[node])):
                if node >= 0:
                    above = parent[node] + 1
                    for j in range(length):
                        tails[opened, j] = tails[above, j + 1] if j + 1 < length else token[node]
                    copied = place[above]
                    if copied >= 0 and text[copied] == token[node] and copied + 1 < size:
                        place[opened], match[opened] = copied + 1, match[above] + 1
                    elif size:
                        place[opened], match[opened] = look_back(text, newest, tails[opened], length)
                    else:
                        place[opened], match[opened] = -1, 0
                weight, copied = 0.0, -1
                if place[opened] >= 0 and match[opened] >= copied_after:
                    weight, copied = weights[min(match[opened], len(weights)) - 1], text[place[opened]]
                least = 0.0
                if len(row_ms):
                    least = expected * row_ms[min(n, len(row_ms) - 1)] / spent * math.exp(-log_p)
                share = trust * (1.0 - weight)  # the followers'
                if column < k:
                    judge(proxy, column, tails[opened], ids, kept, p)
                    if mass[column] < 0.0:
                        mass[column] = 0.0
                        for row in range(width):
                            if kept[column, row]:
                                mass[column] += math.exp(np.float64(logq[column, row]))
                    top, norm = -np.inf, 0.0
                    for row in range(width):
                        if kept[column, row]:
                            causal = math.log(p[row])
                            judged[opened, row] = causal
                            value[row] = lam * np.float64(logq[column, row]) + (1.0 - lam) * causal
                            top = max(top, value[row])
                    for row in range(width):
                        if kept[column, row]:
                            value[row] = math.exp(value[row] - top)
                            norm += value[row]
                    held = min(1.0, mass[column])
                    share *= 1.0 - held
                    of_lattice = (1.0 - weight) * held / norm
                    for row in range(width):
                        if kept[column, row]:
                            part = of_lattice * value[row]
                            if weight and ids[column, row] == copied:
                                part, weight = part + weight, 0.0
                            if part > least:
                                chance[opened, row + 1] = log_p + math.log(part)
                if most_followers and share + weight > least:
                    for i in range(propose(proxy, tails[opened], follower[opened], follows)):
                        here, part = follower[opened, i], share * follows[i]
                        if weight and here == copied:
                            weight += part
                        elif part > least and not (column < k and _keeps(ids, kept, column, here)):
                            chance[opened, 1 + width + i] = log_p + math.log(part)
                if weight > least:
                    chance[opened, 0] = log_p + math.log(weight)
            best[opened] = 0
            for slot in range(1, slots):
                if chance[opened, slot] > chance[opened, best[opened]]:
                    best[opened] = slot
        if n == nodes:
            break

        above, here, most = -1, 0, -np.inf  # of equally likely ones the least deep, then the oldest node's
        for i in range(n + 1):
            column = depth[i - 1] + 1 if i else 0
            if chance[i, best[i]] > most or above >= 0 and chance[i, best[i]] == most and column < here:
                above, here, most = i, column, chance[i, best[i]]
        if above < 0:
            break
        log_p, slot = chance[above, best[above]], best[above]
        if len(row_ms):
            more = row_ms[min(n, len(row_ms) - 1)]
            if math.exp(log_p) <= expected * more / spent:
                break
            expected, spent = expected + math.exp(log_p), spent + more
        if slot == 0:
            token[n], rank[n] = text[place[above]], COPIED
        elif slot <= width:
            token[n], rank[n] = ids[here, slot - 1], slot - 1
        else:
            token[n], rank[n] = follower[above, slot - 1 - width], FOLLOWER
        parent[n], depth[n], reached[n] = above - 1, here, log_p
        chance[above, slot] = -np.inf
        for other in range(slots):
            if chance[above, other] > chance[above, best[above]]:
                best[above] = other
        node, n = n, n + 1
    return n, token, parent, depth, rank, reached, judged
