"""Several lattice paths at once: a prefix tree, verified in one target pass.

A path stakes the whole pass on one continuation. A tree spends the same rows on several: each node
is one token after its parent, and the target reads all of them together under an ancestor mask
(SpecInfer, arXiv 2305.09781). What a tree is worth is the expected length of the walk through it,

    E[accepted] = sum over nodes of P(the target walks to the node),

so with a budget of n nodes the best tree holds the n nodes likeliest to be reached. A node is never
likelier than its parent: best-first search finds them (DDTree, arXiv 2604.12989).

How likely, then, is a token v after a node? Two experts answer. The lattice joins what its column
says with what came before on the path, Eq. 8 as a distribution over the kept candidates, which
together are given the mass Q_i that the drafter gave them,

    P_lattice(v | node) = Q_i q_i(v)^lam p_proxy(v | context, path)^(1 - lam) / sum over kept of the same,

and the text so far says what followed the same words before (see `method.copying`),

    P(v | node) = (1 - w) P_lattice(v | node) + w [v is that token],

with a weight w that grows with the number of tokens that match. P(node) is the product down from the
anchor. The estimate is calibrated: of the nodes of real runs to which it gave about p, about a share p was
walked to (see README), so that a tree's expected length may be read off its scores.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffuspec.method.copying import LONGEST, Copy, CopySource, copy_weight
from diffuspec.method.lattice import TokenLattice
from diffuspec.method.length import TreeBudget
from diffuspec.method.proxy import Proxy, last_tokens

COPIED = -1


@dataclass(frozen=True)
class PrefixTree:
    """n drafted tokens, parents before children, likeliest first.

    ids: int32 [n]; parent: int16 [n], index of the node it follows, -1 for the anchor;
    depth: int16 [n], its lattice column, 0 below the anchor; rank: int16 [n], its row of that column, `COPIED`
    where the token was copied from the text and is no kept cell there;
    score: float32 [n], natural log of the estimated probability that the target walks to it.
    """

    ids: np.ndarray
    parent: np.ndarray
    depth: np.ndarray
    rank: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def child(self, node: int, token: int) -> int | None:
        """The node that carries `token` after `node` (-1: the anchor), None where there is none."""
        hits = np.flatnonzero((self.parent == node) & (self.ids == token))
        return int(hits[0]) if hits.size else None

    def path_through(self, node: int) -> list[int]:
        """Nodes from the anchor down to `node` and on to a leaf, by the likeliest child."""
        path = []
        above = node
        while above >= 0:
            path.append(above)
            above = int(self.parent[above])
        path.reverse()
        while (below := np.flatnonzero(self.parent == node)).size:
            node = int(below[0])
            path.append(node)
        return path


class _Way(NamedTuple):
    """How a node was reached: its last tokens, and what may be copied after it."""

    tail: tuple[int, ...]
    copy: Copy | None


def best_first_tree(
    lattice: TokenLattice,
    proxy: Proxy,
    context: Sequence[int],
    *,
    nodes: int,
    lam: float,
    stop_ids: Collection[int],
    source: CopySource | None = None,
    copied_after: int = 1,
    deepest: int | None = None,
    budget: TreeBudget | None = None,
) -> tuple[PrefixTree, dict[int, tuple[list[int], list[float]]]]:
    """The `nodes` likeliest nodes over the kept cells of `lattice`; `context`: token ids before the draft.

    source: the same context, to copy from where `copied_after` tokens match; None copies nothing.
    deepest: bound on the tokens of a path, which a copied run may make longer than the lattice; by default k.
    budget: ends the tree before `nodes` where one more would not pay.
    Also log p_proxy of the next column after each inner node: {node: (rows of its kept cells, log p of each)}.
    """
    deepest = lattice.k if deepest is None else deepest
    cells, columns = lattice.kept_cells()[:deepest], []
    order, log, exp = proxy.order - 1, math.log, math.exp
    ids, parent, depth, rank, score = [], [], [], [], []
    judged: dict[int, tuple[list[int], list[float]]] = {}
    heap: list[tuple[float, int, int, int, int]] = []  # -log P, column, the node above, row, token

    def open_below(node: int, column: int, reached: float, way: _Way) -> None:
        if column == deepest:
            return
        weight = copy_weight(way.copy.length) if way.copy and way.copy.length >= copied_after else 0.0
        least = budget.least * exp(-reached) if budget else 0.0
        if column < len(cells):
            if column == len(columns):  # a column is prepared when the tree first gets there
                rows, tokens, logq = cells[column]
                mass = min(1.0, sum(map(exp, logq)))
                columns.append((rows, tokens, [lam * value for value in logq], mass, proxy.over(tokens)))
            rows, tokens, own, mass, judge = columns[column]
            logp = [log(p) for p in judge(way.tail[len(way.tail) - order :])]
            judged[node] = rows, logp
            value = [drafter + (1.0 - lam) * causal for drafter, causal in zip(own, logp, strict=True)]
            best = max(value)
            chances = [exp(v - best) for v in value]
            share = (1.0 - weight) * mass / sum(chances)
            copied = way.copy.token if weight else None
            for chance, token, row in zip(chances, tokens, rows, strict=True):
                p = share * chance
                if token == copied:
                    p, weight = p + weight, 0.0
                if p > least:
                    heapq.heappush(heap, (-reached - log(p), column, node, row, token))
        if weight > least:
            heapq.heappush(heap, (-reached - log(weight), column, node, COPIED, way.copy.token))

    def below(way: _Way, token: int) -> _Way:
        tail = (*way.tail, token)[1:]
        copy = source.next(way.copy) if way.copy and way.copy.token == token else None
        return _Way(tail, copy or (source.after(tail) if source else None))

    ways = {-1: _Way(last_tokens(context, max(order, LONGEST)), source.now() if source else None)}
    open_below(-1, 0, 0.0, ways[-1])
    while heap and len(ids) < nodes:
        minus, column, above, row, token = heapq.heappop(heap)
        if budget:
            if exp(-minus) <= budget.least:
                break
            budget.take(exp(-minus))
        node = len(ids)
        ids.append(token), parent.append(above), depth.append(column), rank.append(row), score.append(-minus)
        if token not in stop_ids and node + 1 < nodes:
            ways[node] = below(ways[above], token)
            open_below(node, column + 1, -minus, ways[node])
    tree = PrefixTree(
        np.array(ids, np.int32), np.array(parent, np.int16), np.array(depth, np.int16), np.array(rank, np.int16),
        np.array(score, np.float32),
    )  # fmt: skip
    return tree, judged
