"""Several lattice paths at once: a prefix tree, verified in one target pass.

A path stakes the whole pass on one continuation. A tree spends the same rows on several: each node
is one token after its parent, and the target reads all of them together under an ancestor mask
(SpecInfer, arXiv 2305.09781). What a tree is worth is the expected length of the walk through it,

    E[accepted] = sum over nodes of P(the target walks to the node),

so with a budget of n nodes the best tree holds the n nodes likeliest to be reached. A node is never
likelier than its parent: best-first search finds them (DDTree, arXiv 2604.12989). Here a node's
probability joins what the columns say on their own with what came before on the path, Eq. 8 as a
distribution over the kept candidates of the next column,

    P(v | node)  ~  q_i(v)^lam p_proxy(v | context, path)^(1 - lam)   / normaliser,

and P(node) is the product down from the anchor.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from diffuspec.method.lattice import TokenLattice
from diffuspec.method.proxy import Proxy


@dataclass(frozen=True)
class PrefixTree:
    """n drafted tokens, parents before children, likeliest first.

    ids: int32 [n]; parent: int16 [n], index of the node it follows, -1 for the anchor;
    depth: int16 [n], its lattice column, 0 below the anchor; rank: int16 [n], its row of that column;
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


def best_first_tree(
    lattice: TokenLattice,
    proxy: Proxy,
    context: Sequence[int],
    *,
    nodes: int,
    lam: float,
    stop_ids: Collection[int],
) -> tuple[PrefixTree, dict[int, np.ndarray]]:
    """The `nodes` likeliest nodes over the kept cells of `lattice`; `context`: token ids before the draft.

    Also log p_proxy of the next column after each inner node: {node: float32 [W]}, NaN where a cell
    was pruned.
    """
    order = proxy.order - 1
    kept = [np.flatnonzero(row) for row in lattice.kept]
    ids, parent, depth, rank, score = [], [], [], [], []
    proxies: dict[int, np.ndarray] = {}
    heap: list[tuple[float, int, int, int, int]] = []

    def open_below(node: int, history: tuple[int, ...]) -> None:
        column = depth[node] + 1 if node >= 0 else 0
        if column == lattice.k or (node >= 0 and ids[node] in stop_ids):
            return
        rows = kept[column]
        candidates = lattice.ids[column, rows]
        log_proxy = proxy.logp(np.array([history], np.int64).reshape(1, order), candidates)[0]
        log_p = lam * lattice.logq[column, rows] + (1.0 - lam) * log_proxy
        best = log_p.max()
        log_p -= best + np.log(np.exp(log_p - best).sum())
        if node >= 0:
            log_p += score[node]
        proxies[node] = row = np.full(lattice.width, np.nan, np.float32)
        row[rows] = log_proxy
        for value, token, place in zip(log_p.tolist(), candidates.tolist(), rows.tolist(), strict=True):
            heapq.heappush(heap, (-value, column, node, place, token))

    tail = [-1] * order + list(context[-order:] if order else ())
    histories = {-1: tuple(tail[len(tail) - order :])}
    open_below(-1, histories[-1])
    while heap and len(ids) < nodes:
        minus, column, above, place, token = heapq.heappop(heap)
        node = len(ids)
        ids.append(token), parent.append(above), depth.append(column), rank.append(place), score.append(-minus)
        histories[node] = (*histories[above], token)[1:] if order else ()
        open_below(node, histories[node])
    tree = PrefixTree(
        np.array(ids, np.int32), np.array(parent, np.int16), np.array(depth, np.int16), np.array(rank, np.int16),
        np.array(score, np.float32),
    )  # fmt: skip
    return tree, proxies
