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

    P(v | node) = (1 - w) P_drafted(v | node) + w [v is that token],

with a weight w that grows with the number of tokens that match. P_drafted is P_lattice for a kept candidate. What the
drafter left to others, all of it where no column is (below the last one, and in a step without a draft), may go to the
tokens that the fitted 3-gram has seen most often after the node, its *followers*:

    P_drafted(v | node) = r (1 - Q_i) p_ngram(v | path),    v not kept, Q_i = 0 without a column,

r < 1 because an n-gram is too sure of itself on texts that are not those it was fitted on. P(node) is the product down
from the anchor. The estimate is calibrated: of the nodes of real runs to which it gave about p, about a share p was
walked to (see README), so that a tree's expected length may be read off its scores.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from diffuspec.method import compiled
from diffuspec.method.compiled.options import COPIED as COPIED
from diffuspec.method.compiled.options import FOLLOWER as FOLLOWER
from diffuspec.method.compiled.options import LONGEST
from diffuspec.method.copying import CopySource
from diffuspec.method.lattice import TokenLattice, id_array
from diffuspec.method.length import TreeBudget
from diffuspec.method.proxy import Proxy, last_tokens, searching

FOLLOWER_TRUST = 0.85  # r
_UNBOUNDED = (1.0, 1.0, np.zeros(0), np.zeros(0), np.zeros(0))


@functools.cache
def _nothing() -> CopySource:
    return CopySource()


@dataclass(frozen=True)
class PrefixTree:
    """n drafted tokens, parents before children, likeliest first.

    ids: int32 [n]; parent: int16 [n], index of the node it follows, -1 for the anchor;
    depth: int16 [n], its lattice column, 0 below the anchor; rank: int16 [n], its row of that column, `COPIED`
    where the token was copied from the text and is no kept cell there, `FOLLOWER` where the n-gram added it;
    score: float32 [n], natural log of the estimated probability that the target walks to it.
    """

    ids: Annotated[np.ndarray, np.int32, 1]
    parent: Annotated[np.ndarray, np.int16, 1]
    depth: Annotated[np.ndarray, np.int16, 1]
    rank: Annotated[np.ndarray, np.int16, 1]
    score: Annotated[np.ndarray, np.float32, 1]

    def __len__(self) -> int:
        return len(self.ids)

    def children(self) -> dict[int, dict[int, int]]:
        """Of each inner node (-1: the anchor), the tokens of its children and their numbers, likeliest first."""
        below: dict[int, dict[int, int]] = {}
        for node, (parent, token) in enumerate(zip(self.parent.tolist(), self.ids.tolist(), strict=True)):
            below.setdefault(parent, {}).setdefault(token, node)
        return below

    def path_through(self, node: int) -> list[int]:
        """Nodes from the anchor down to `node` and on to a leaf, by the likeliest child."""
        path, above, parent = [], node, self.parent.tolist()
        while above >= 0:
            path.append(above)
            above = parent[above]
        path.reverse()
        for child in range(node + 1, len(parent)):  # a child stands behind its parent, the likeliest first
            if parent[child] == node:
                path.append(node := child)
        return path


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
    followers: int = 0,
    deepest: int | None = None,
    budget: TreeBudget | None = None,
) -> tuple[PrefixTree, np.ndarray]:
    """The `nodes` likeliest nodes over the kept cells of `lattice`; `context`: token ids before the draft.

    source: the same context, to copy from where `copied_after` tokens match; None copies nothing.
    followers: up to this many tokens that the proxy's fitted n-gram saw most often after a node may stand there too.
    deepest: bound on the tokens of a path, which copies and followers may make longer than the lattice; by default k.
    budget: ends the tree before `nodes` where one more would not pay.
    Also log p_proxy of the next column after the anchor and each inner node: float32 [inner nodes + 1, W], NaN where
    none was asked.
    """
    search, asked = searching(compiled.grow_tree, proxy)
    tail = id_array(last_tokens(context, max(proxy.order - 1, LONGEST)))
    n, ids, parent, depth, rank, score, judged = search(
        asked,
        lattice.cells(),
        id_array(stop_ids),
        tail,
        float(lam),
        nodes,
        lattice.k if deepest is None else deepest,
        (source or _nothing()).copies(copied_after),
        (followers, FOLLOWER_TRUST),
        (budget.ms, budget.expected, budget.row_ms, *budget.knots) if budget else _UNBOUNDED,
    )
    if budget:
        for p in np.exp(score[:n]).tolist():
            budget.take(p)
    tree = PrefixTree(ids[:n], parent[:n], depth[:n], rank[:n], score[:n].astype(np.float32))
    return tree, judged[: n + 1]
