"""One speculative step as it is recorded, and what must hold of one that was read from a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from diffuspec.method.lattice import TokenLattice
from diffuspec.method.length import LengthDecision
from diffuspec.method.search import SearchResult
from diffuspec.method.tree import FOLLOWER

# Of a step, in their order; `Timing` has the milliseconds of each as `NAME_ms`.
STAGES = ("draft", "search", "verify", "commit", "record")


@dataclass(frozen=True)
class TreeVerification:
    """One target pass over a tree of n nodes.

    accepted: bool [n], the nodes the verifier walked; logp: float32 [n], the target's log p of each
    node's token after its parent; own: int32 [n + 1], the target's likeliest token after the anchor
    (entry 0) and after node i (entry i + 1).
    """

    accepted: Annotated[np.ndarray, np.bool_, 1]
    logp: Annotated[np.ndarray, np.float32, 1]
    own: Annotated[np.ndarray, np.int32, 1]


@dataclass(frozen=True)
class ServerPass:
    """What a verification took where the target is a server.

    requests: HTTP requests, repeated ones counted; prompts: texts in them; total_ms: until the last byte was here;
    server_ms: of these by the server's own clock; recomputed: tokens that it says it read anew, both None where it does
    not tell.
    """

    requests: int
    prompts: int
    total_ms: float
    server_ms: float | None
    recomputed: int | None


@dataclass(frozen=True)
class Verification:
    """One target pass over a path of n tokens.

    accepted: drafted tokens accepted; token, kind: the target's own next token and whether it is a
    "correction" or a "bonus" (None after a stop token); draws: the target's choice at each position
    it looked at. Log-probabilities are the target's at the run's temperature (at 1 where greedy):
    path_logp float32 [n], path_rank int32 [n] (0 = likeliest) of the drafted tokens;
    top_ids int32, top_logp float32 [n + 1, 8] its likeliest tokens, row i after i drafted tokens;
    cell_logp float32 [n, W] of every lattice candidate after the path up to it (NaN behind the last column,
    where a path of a tree goes on by copying). Where a tree was
    verified the path is `SearchResult.nodes`, and `tree` tells of the other nodes. With top-k or top-p
    they are of the filtered distribution, -1e4 standing for probability 0. uniforms, ratios: where
    drafted tokens were accepted by ratio, the two numbers compared at each one looked at. server: where the target is
    one; log-probabilities that it did not tell are NaN, and such ranks -1.
    """

    accepted: int
    token: int | None
    kind: str | None
    draws: tuple[int, ...]
    path_logp: Annotated[np.ndarray, np.float32, 1]
    path_rank: Annotated[np.ndarray, np.int32, 1]
    top_ids: Annotated[np.ndarray, np.int32, 2]
    top_logp: Annotated[np.ndarray, np.float32, 2]
    cell_logp: Annotated[np.ndarray, np.float32, 2]
    tree: TreeVerification | None = None
    uniforms: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    server: ServerPass | None = None


@dataclass(frozen=True)
class Timing:
    """Milliseconds a step spent in each stage; `record_ms` is what writing it down cost."""

    draft_ms: float
    search_ms: float
    verify_ms: float
    commit_ms: float
    record_ms: float

    @property
    def total_ms(self) -> float:
        return self.draft_ms + self.search_ms + self.verify_ms + self.commit_ms + self.record_ms

    def stages(self) -> dict[str, float]:
        """Milliseconds by stage, in the order of `STAGES`."""
        return {stage: getattr(self, f"{stage}_ms") for stage in STAGES}


@dataclass(frozen=True)
class Step:
    """One speculative step: draft, search, verify, commit, next length.

    start: tokens of the answer before this step; anchor: the newest token, the last of the prefix;
    emitted: the tokens this step added (after the cut at the budget and at a stop token).
    """

    index: int
    start: int
    anchor: int
    lattice: TokenLattice
    search: SearchResult
    verification: Verification
    length: LengthDecision
    emitted: tuple[int, ...]
    timing: Timing

    @property
    def draft_length(self) -> int:
        """k of this step: the masked positions the drafter filled."""
        return self.lattice.k

    @property
    def path(self) -> tuple[int, ...]:
        return tuple(self.search.ids.tolist())

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted and kept: Eq. 2 of the paper counts these only."""
        return min(self.verification.accepted, len(self.emitted))


def step_holds(step: Step, foreign: bool = False) -> bool:
    """Whether the shapes, indices and numbers of a step are such that pictures can rely on them; foreign: of another
    engine, which may not have told some numbers."""
    lattice, search, check = step.lattice, step.search, step.verification
    n, k, width = len(search), lattice.k, lattice.width
    lowest = 0 if search.tree is None else FOLLOWER
    ok = (
        lattice.logq.shape == lattice.kept.shape == (k, width)
        and (n <= k or search.tree is not None)
        and search.ranks.shape == search.score.shape == check.path_logp.shape == check.path_rank.shape == (n,)
        and len(search.proxy_logp) == len(check.cell_logp) == n
        and check.top_ids.shape == check.top_logp.shape
        and len(check.top_ids) == n + 1
        and 0 <= check.accepted <= n
        and len(check.uniforms) == len(check.ratios) <= n
        and (search.proposal is None or search.proposal.shape == ((n, width) if n else (0, 0)))
        and len(check.draws) == check.accepted + (check.token is not None)
        and check.kind in ((None,) if check.token is None else ("correction", "bonus"))
        and 0 < len(step.emitted) <= len(check.draws)
        and (not n or (lowest <= search.ranks.min() and search.ranks.max() < width))
        and (not n or search.proxy_logp.shape == check.cell_logp.shape == (n, width))
        and (not search.levels or n <= len(search.levels) <= k)
        and (not search.levels or 0 <= search.chosen < len(search.levels[n - 1].rank))
    )
    below = 1
    for level in search.levels:
        size = len(level.rank)
        ok = ok and size == len(level.parent) == len(level.score) == len(level.ended)
        ok = ok and size and 0 <= level.survivors <= size and 0 <= level.parent.min()
        ok = ok and level.parent.max() < below and 0 <= level.rank.min() and level.rank.max() < width
        below = size
    return bool(ok) and _tree_holds(step) and _numbers_hold(step, foreign)


def _tree_holds(step: Step) -> bool:
    """Whether a step's tree agrees with its lattice, its path and its verification."""
    tree, nodes, check = step.search.tree, step.search.nodes, step.verification.tree
    if tree is None or nodes is None or check is None:
        return tree is nodes is check is None
    n, path = len(tree), nodes.tolist()
    if not len(tree.parent) == len(tree.depth) == len(tree.rank) == len(tree.score) == n:
        return False
    if not len(check.accepted) == len(check.logp) == len(check.own) - 1 == n:
        return False
    depth, lattice = {-1: -1}, step.lattice
    for node, (parent, column) in enumerate(zip(tree.parent.tolist(), tree.depth.tolist(), strict=True)):
        if depth.get(parent) != column - 1:
            return False
        depth[node] = column
    if (tree.rank < FOLLOWER).any():
        return False
    drafted = tree.rank >= 0
    columns, cells = tree.depth[drafted], tree.rank[drafted]
    return (
        bool(((0 <= cells) & (cells < lattice.width) & (columns < lattice.k)).all())
        and bool((lattice.ids[columns, cells] == tree.ids[drafted]).all())
        and bool((tree.ids >= 0).all())
        and len(path) == len(step.search)
        and all(0 <= node < n for node in path)
        and tree.parent[path].tolist() == [-1, *path][: len(path)]
        and tree.ids[path].tolist() == step.search.ids.tolist()
        and tree.rank[path].tolist() == step.search.ranks.tolist()
    )


def _numbers_hold(step: Step, foreign: bool) -> bool:
    """Whether probabilities are probabilities and times are times."""
    check = step.verification
    logs = (step.lattice.logq, check.path_logp, check.top_logp, check.cell_logp[: step.lattice.k], step.search.score)
    unknown = foreign or check.server is not None  # of what was not told
    logs = [log[~np.isnan(log)] for log in logs] if unknown else list(logs)
    logs += [step.search.proxy_logp[~np.isnan(step.search.proxy_logp)], *(level.score for level in step.search.levels)]
    times = dataclasses.astuple(step.timing)
    if check.server:
        times += tuple(number for number in dataclasses.astuple(check.server) if number is not None)
    return all(((-1e6 <= log) & (log <= 1e-3)).all() for log in logs) and all(0 <= ms <= 1e9 for ms in times)
