"""Which path through the lattice is sent to the target (DiffuSpec, section 3.3, Eq. 8).

The columns of a diffusion draft were filled independently of each other; a causal verifier
accepts a prefix of a *sentence*. CPS, causal-consistency path search, walks the pruned lattice
left to right with a beam of width B and scores a path y by

    sum_i  lam log q_i(y_i) + (1 - lam) log p_proxy(y_i | context, y_<i)        (Eq. 8).

A path ends at its first stop token. Ended and open paths have different lengths, and a sum of
logarithms only ever falls, so plain sums would favour short paths. Here like is compared with
like: an ended path competes with any other at its own depth (see `compiled.search_beam`).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from diffuspec.method import compiled
from diffuspec.method.copying import CopySource
from diffuspec.method.lattice import TokenLattice, id_array, prune
from diffuspec.method.length import TreeBudget
from diffuspec.method.proxy import ContextNGram, Proxy, last_tokens, searching
from diffuspec.method.tree import PrefixTree, best_first_tree
from diffuspec.settings import Settings


@dataclass(frozen=True)
class BeamLevel:
    """The best partial paths at one depth, best first; survivors, then the runners-up that lost here.

    parent: int16 [n], index into the previous level (0 at the first); rank: int16 [n], row of the
    column; score: float32 [n], Eq. 8 so far; ended: bool [n], the path's last token is a stop token;
    survivors: how many of the n lived on (or ended) here.
    """

    parent: Annotated[np.ndarray, np.int16, 1]
    rank: Annotated[np.ndarray, np.int16, 1]
    score: Annotated[np.ndarray, np.float32, 1]
    ended: Annotated[np.ndarray, np.bool_, 1]
    survivors: int


class BeamLevels(Sequence):
    """The levels of a search, cut out of the arrays that it gave when they are first looked at: it takes longer than
    the search. sizes: int64 [depth]; the others as in `BeamLevel`, of all levels one after the other."""

    def __init__(self, sizes: np.ndarray, beam: int, *arrays: np.ndarray):
        self._sizes, self._beam, self._arrays = sizes, beam, arrays

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, depth):
        return self._cut[depth]

    @functools.cached_property
    def _cut(self) -> tuple[BeamLevel, ...]:
        ends = np.cumsum(self._sizes).tolist()
        levels = []
        for start, end in zip([0, *ends], ends, strict=False):
            parent, rank, score, ended = (array[start:end] for array in self._arrays)
            levels.append(BeamLevel(parent, rank, score, ended, min(self._beam, end - start)))
        return tuple(levels)


@dataclass(frozen=True)
class SearchResult:
    """The chosen path and how it was found.

    ids, ranks: int32 [n] (a negative rank: a token of the tree that is no kept cell, see `PrefixTree`);
    score: float32 [n], Eq. 8 summed up to each position;
    proxy_logp: float32 [n, W], log p_proxy of each kept candidate after the chosen path up to there,
    NaN where it was not scored; levels: one `BeamLevel` per depth searched (only a beam has any);
    chosen: index of the path in levels[n - 1].

    tree, nodes: where a prefix tree was searched, all of it, and int16 [n], the nodes of the path: the
    way the verifier walked, prolonged below its last accepted node by the likeliest children.
    proposal: where the path was drawn and not searched, float32 [n, W], the distribution each token was
    drawn from, over the cells of its column.
    """

    method: str
    ids: Annotated[np.ndarray, np.int32, 1]
    ranks: Annotated[np.ndarray, np.int32, 1]
    score: Annotated[np.ndarray, np.float32, 1]
    proxy_logp: Annotated[np.ndarray, np.float32, 2]
    levels: tuple[BeamLevel, ...] | BeamLevels = ()
    chosen: int = 0
    tree: PrefixTree | None = None
    nodes: Annotated[np.ndarray, np.int16, 1] | None = None
    proposal: Annotated[np.ndarray, np.float32, 2] | None = None

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
    search, asked = searching(compiled.search_beam, proxy)
    depth, sizes, *levels, chosen, ids, ranks, score, proxy_logp = search(
        asked, lattice.cells(), id_array(stop_ids), id_array(last_tokens(context, proxy.order - 1)), float(lam), beam
    )
    levels = BeamLevels(sizes[:depth], beam, *levels)
    return SearchResult("cps", ids, ranks, score, proxy_logp, levels=levels, chosen=chosen)


def exact_search(
    lattice: TokenLattice, proxy: Proxy, context: Sequence[int], *, lam: float, stop_ids: Collection[int]
) -> SearchResult:
    """The path that maximises Eq. 8, under the same rule for ended paths as a beam as wide as the lattice.

    A dynamic programme (Viterbi, 1967): what follows a path is judged by its last order - 1 tokens only, so of all
    paths that agree in those the best one so far stays the best. With a 3-gram over m candidates a column that is
    m^2 states and k m^3 terms, where a beam has k B m.
    """
    if not lattice.k:
        return argmax_path(lattice, stop_ids)
    search, asked = searching(compiled.search_exact, proxy)
    tail = id_array(last_tokens(context, proxy.order - 1))
    ids, ranks, *path = search(asked, lattice.cells(), id_array(stop_ids), tail, float(lam))
    return SearchResult("exact", ids, ranks[: len(ids)], *path)


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
    history = last_tokens(context, proxy.order - 1)
    ids, ranks, reached, proxies, proposals, total = [], [], [], [], [], 0.0
    for column, (rows, tokens, logq) in enumerate(lattice.kept_cells()):
        logp = [math.log(p) for p in proxy.over(tokens, column)(history)]
        score = [lam * drafter + (1.0 - lam) * causal for drafter, causal in zip(logq, logp, strict=True)]
        best = max(score)
        weights = [math.exp(value - best) for value in score]
        below = list(itertools.accumulate(weights))
        q, seen = [0.0] * lattice.width, [math.nan] * lattice.width
        for row, weight, causal in zip(rows, weights, logp, strict=True):
            q[row], seen[row] = weight / below[-1], causal
        place = min(bisect.bisect_right(below, below[-1] * random.random()), len(rows) - 1)
        total += math.log(weights[place] / below[-1])
        ids.append(tokens[place])
        ranks.append(rows[place])
        reached.append(total)
        proxies.append(seen)
        proposals.append(q)
        history = (*history, tokens[place])[1:] if history else ()
        if tokens[place] in stop_ids:
            break
    shape = len(ids), lattice.width
    return SearchResult(
        method=method,
        ids=np.array(ids, np.int32),
        ranks=np.array(ranks, np.int32),
        score=np.array(reached, np.float32),
        proxy_logp=np.array(proxies, np.float32).reshape(shape),
        proposal=np.array(proposals, np.float32).reshape(shape),
    )


@dataclass(frozen=True)
class TreeSearch:
    """A prefix tree before it was verified. judged: log p_proxy of the next column, as `best_first_tree` gives it."""

    lattice: TokenLattice
    tree: PrefixTree
    judged: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return self.tree.ids

    def along(self, node: int) -> SearchResult:
        """The path through `node` (-1: the anchor) to a leaf."""
        tree, nodes = self.tree, self.tree.path_through(node)
        return SearchResult(
            method="tree",
            ids=tree.ids[nodes],
            ranks=tree.rank[nodes].astype(np.int32),
            score=tree.score[nodes],
            proxy_logp=self.judged[[0, *(above + 1 for above in nodes[:-1])]][: len(nodes)],
            tree=tree,
            nodes=np.array(nodes, np.int16),
        )


def search_lattice(
    lattice: TokenLattice,
    proxy: Proxy,
    context: Sequence[int],
    settings: Settings,
    *,
    stop_ids: Collection[int],
    source: CopySource | None = None,
    deepest: int | None = None,
    budget: TreeBudget | None = None,
) -> SearchResult | TreeSearch:
    """The search that the settings ask for. source, deepest, budget: of a tree, as `best_first_tree` has them."""
    causal = {"lam": settings.lam, "stop_ids": stop_ids}
    if settings.search == "argmax":
        return argmax_path(lattice, stop_ids)
    if settings.search == "tree":
        grown = best_first_tree(
            lattice,
            proxy,
            context,
            nodes=settings.nodes,
            source=source,
            copied_after=settings.copy,
            followers=settings.followers,
            deepest=deepest,
            budget=budget,
            **causal,
        )
        return TreeSearch(lattice, *grown)
    if settings.search == "exact":
        return exact_search(lattice, proxy, context, **causal)
    return beam_search(lattice, proxy, context, beam=settings.beam, **causal)


@functools.cache
def warm_up(search: str) -> None:
    """Compile a search, where this machine has not done so before, and load it: no step should wait for that."""
    lattice = prune(np.zeros((1, 1)), np.zeros((1, 1)), tau=1.0, m_max=1, stop_ids=())
    source = CopySource([0])
    search_lattice(lattice, ContextNGram(1, [0]), [0], Settings(search=search), stop_ids=(), source=source)


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
