"""Which path through the lattice is sent to the target (DiffuSpec, section 3.3, Eq. 8).

The columns of a diffusion draft were filled independently of each other; a causal verifier
accepts a prefix of a *sentence*. CPS, causal-consistency path search, walks the pruned lattice
left to right with a beam of width B and scores a path y by

    sum_i  lam log q_i(y_i) + (1 - lam) log p_proxy(y_i | context, y_<i)        (Eq. 8).

A path ends at its first stop token. Ended and open paths have different lengths, and a sum of
logarithms only ever falls, so plain sums would favour short paths. Here like is compared with
like: an ended path competes with any other at its own depth (see `_choose`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from diffuspec.method.lattice import TokenLattice
from diffuspec.method.proxy import Proxy
from diffuspec.method.sampling import draw
from diffuspec.method.tree import PrefixTree, best_first_tree


@dataclass(frozen=True)
class BeamLevel:
    """The best partial paths at one depth, best first; survivors, then the runners-up that lost here.

    parent: int16 [n], index into the previous level (0 at the first); rank: int16 [n], row of the
    column; score: float32 [n], Eq. 8 so far; ended: bool [n], the path's last token is a stop token;
    survivors: how many of the n lived on (or ended) here.
    """

    parent: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    ended: np.ndarray
    survivors: int


@dataclass(frozen=True)
class SearchResult:
    """The chosen path and how it was found.

    ids, ranks: int32 [n]; score: float32 [n], Eq. 8 summed up to each position;
    proxy_logp: float32 [n, W], log p_proxy of each kept candidate after the chosen path up to there,
    NaN where it was not scored; levels: one `BeamLevel` per depth searched (only a beam has any);
    chosen: index of the path in levels[n - 1].

    tree, nodes: where a prefix tree was searched, all of it, and int16 [n], the nodes of the path: the
    way the verifier walked, prolonged below its last accepted node by the likeliest children.
    proposal: where the path was drawn and not searched, float32 [n, W], the distribution each token was
    drawn from, over the cells of its column.
    """

    method: str
    ids: np.ndarray
    ranks: np.ndarray
    score: np.ndarray
    proxy_logp: np.ndarray
    levels: tuple[BeamLevel, ...] = ()
    chosen: int = 0
    tree: PrefixTree | None = None
    nodes: np.ndarray | None = None
    proposal: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)


def argmax_path(lattice: TokenLattice, stop_ids: Collection[int]) -> SearchResult:
    """Each column's likeliest token, up to and with the first stop token."""
    ids = lattice.raw_draft
    n = next((i + 1 for i, token in enumerate(ids.tolist()) if token in stop_ids), len(ids))
    return SearchResult(
        method="argmax",
        ids=ids[:n].copy(),
        ranks=np.zeros(n, np.int32),
        score=np.cumsum(lattice.logq[:n, :1].sum(axis=1), dtype=np.float32),
        proxy_logp=np.full((n, lattice.width), np.nan, np.float32),
    )


def beam_search(
    lattice: TokenLattice,
    proxy: Proxy,
    context: Sequence[int],
    *,
    beam: int,
    lam: float,
    stop_ids: Collection[int],
) -> SearchResult:
    """CPS over the kept cells of `lattice`. `context` holds the token ids before the draft.

    Beam search is approximate: with `beam` at least the number of partial paths it is exact.
    """
    if not lattice.k:
        return argmax_path(lattice, stop_ids)
    order = proxy.order - 1
    history = np.full((1, order), -1, np.int64)
    if order and len(context):
        tail = context[-order:]
        history[0, order - len(tail) :] = tail
    scores = np.zeros(1)
    alive = np.zeros(1, np.int64)  # indices of the open paths in the previous level
    levels, proxies, rows = [], [], []
    stops = np.fromiter(stop_ids, np.int32, len(stop_ids))
    any_stop = np.isin(lattice.ids, stops) & lattice.kept
    for depth in range(lattice.k):
        rank = np.flatnonzero(lattice.kept[depth])
        candidates = lattice.ids[depth, rank]
        log_proxy = proxy.logp(history, candidates)
        total = (1.0 - lam) * log_proxy
        total += lam * lattice.logq[depth, rank]
        total += scores[:, None]
        flat = total.ravel()
        best = np.argsort(-flat, kind="stable")[: 2 * beam]
        parent, column = np.divmod(best, len(rank))
        ended = any_stop[depth, rank[column]]
        survivors = min(beam, len(best))
        levels.append(
            BeamLevel(
                parent=alive[parent].astype(np.int16),
                rank=rank[column].astype(np.int16),
                score=flat[best].astype(np.float32),
                ended=ended,
                survivors=survivors,
            )
        )
        proxies.append((rank, log_proxy))
        rows.append(parent)
        alive = np.flatnonzero(~ended[:survivors])
        if not len(alive):
            break
        scores = flat[best[alive]]
        history = np.concatenate([history[parent[alive]], candidates[column[alive], None]], axis=1)[:, 1:]
    return _result(lattice, levels, proxies, rows)


def _choose(levels: list[BeamLevel]) -> tuple[int, int]:
    """(depth, index) of the winning path.

    The champion is the best path that reached the last depth. Ended paths challenge it, the deepest
    first: one takes its place if its score exceeds the champion's own prefix at the same depth.
    """
    depth, index = len(levels) - 1, 0
    for at in range(len(levels) - 2, -1, -1):
        level = levels[at]
        for challenger in np.flatnonzero(level.ended[: level.survivors]).tolist():
            ancestor = index
            for d in range(depth, at, -1):
                ancestor = int(levels[d].parent[ancestor])
            if level.score[challenger] > level.score[ancestor]:
                depth, index = at, challenger
                break
    return depth, index


def _result(lattice, levels, proxies, rows) -> SearchResult:
    depth, chosen = _choose(levels)
    n = depth + 1
    ranks = np.zeros(n, np.int32)
    score = np.zeros(n, np.float32)
    proxy_logp = np.full((n, lattice.width), np.nan, np.float32)
    index = chosen
    for d in range(depth, -1, -1):
        rank, log_proxy = proxies[d]
        ranks[d], score[d] = levels[d].rank[index], levels[d].score[index]
        proxy_logp[d, rank] = log_proxy[rows[d][index]]
        index = int(levels[d].parent[index])
    return SearchResult(
        method="cps",
        ids=lattice.ids[np.arange(n), ranks],
        ranks=ranks,
        score=score,
        proxy_logp=proxy_logp,
        levels=tuple(levels),
        chosen=chosen,
    )


def sample_path(
    lattice: TokenLattice,
    proxy: Proxy,
    context: Sequence[int],
    *,
    lam: float,
    random: np.random.Generator,
    stop_ids: Collection[int],
    method: str = "sampled-search",
) -> SearchResult:
    """A path drawn left to right over the kept cells, each token from

        q~_i(v | path)  ~  q_i(v)^lam p_proxy(v | context, path)^(1 - lam).

    lam = 1 draws from the drafter's own marginals. `proposal` of the result is q~ exactly, so that the
    ratio rule leaves the target's distribution untouched.
    """
    order = proxy.order - 1
    text = [-1] * order + list(context[-order:] if order else ())
    ranks, proxies, proposals = [], [], []
    for column in range(lattice.k):
        rows = np.flatnonzero(lattice.kept[column])
        history = np.array([text[len(text) - order :]], np.int64).reshape(1, order)
        log_proxy = proxy.logp(history, lattice.ids[column, rows])[0]
        log_q = lam * lattice.logq[column, rows] + (1.0 - lam) * log_proxy
        q = np.zeros(lattice.width, np.float32)
        q[rows] = np.exp(log_q - log_q.max())
        q /= q.sum()
        seen = np.full(lattice.width, np.nan, np.float32)
        seen[rows] = log_proxy
        ranks.append(draw(q.astype(np.float64), random.random()))
        proxies.append(seen), proposals.append(q)
        text.append(int(lattice.ids[column, ranks[-1]]))
        if text[-1] in stop_ids:
            break
    n = len(ranks)
    proposal = np.array(proposals, np.float32).reshape(n, lattice.width)
    return SearchResult(
        method=method,
        ids=lattice.ids[np.arange(n), ranks],
        ranks=np.array(ranks, np.int32),
        score=np.cumsum(np.log(proposal[np.arange(n), ranks]), dtype=np.float32),
        proxy_logp=np.array(proxies, np.float32).reshape(n, lattice.width),
        proposal=proposal,
    )


def tree_search(
    lattice: TokenLattice,
    proxy: Proxy,
    context: Sequence[int],
    *,
    nodes: int,
    lam: float,
    stop_ids: Collection[int],
) -> TreeSearch:
    """The prefix tree of the `nodes` likeliest nodes; see `method.tree`."""
    tree, inner = best_first_tree(lattice, proxy, context, nodes=nodes, lam=lam, stop_ids=stop_ids)
    return TreeSearch(lattice, tree, inner)


@dataclass(frozen=True)
class TreeSearch:
    """A prefix tree before it was verified. inner: {node: float32 [W]}, log p_proxy of the next column."""

    lattice: TokenLattice
    tree: PrefixTree
    inner: dict[int, np.ndarray]

    @property
    def ids(self) -> np.ndarray:
        return self.tree.ids

    def along(self, node: int) -> SearchResult:
        """The path through `node` (-1: the anchor) to a leaf."""
        tree, nodes = self.tree, self.tree.path_through(node)
        above = [-1, *nodes[:-1]] if nodes else []
        return SearchResult(
            method="tree",
            ids=tree.ids[nodes],
            ranks=tree.rank[nodes].astype(np.int32),
            score=tree.score[nodes],
            proxy_logp=np.array([self.inner[i] for i in above], np.float32).reshape(len(nodes), self.lattice.width),
            tree=tree,
            nodes=np.array(nodes, np.int16),
        )


def oracle_accepted(lattice: TokenLattice, continuation: Sequence[int]) -> int:
    """Accepted tokens of the best path in the pruned lattice, given what the target went on to say.

    Splits a rejection in two: the right token was not in the lattice (a drafter miss), or it was
    and the search did not pick it (a search miss).
    """
    for position in range(min(lattice.k, len(continuation))):
        rank = lattice.rank_of(position, continuation[position])
        if rank is None or not lattice.kept[position, rank]:
            return position
    return min(lattice.k, len(continuation))
