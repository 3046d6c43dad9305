"""Which drafted tokens the target accepts (DiffuSpec, section 3.1, step 4).

    greedy       accept while y_i = argmax p_i; then emit argmax p of the first refusal
    point mass   draw t_i ~ p_i; emit t_i; go on while t_i = y_i
    ratio        accept y_i with probability min(1, p_i(y_i) / q_i(y_i)); at the first refusal emit a
                 draw from (p_i - q_i)+, renormalised (Leviathan et al., arXiv 2211.17192)

A step therefore always ends in one token of the target's own: the *correction* after a rejection,
the *bonus* after a full accept.

The first two need no drafter probability, so they leave the target's distribution untouched for any
path, also for one found by search, and for a prefix tree, where "equals y_i" becomes "is carried by
a child of the last accepted node". The ratio rule is exact if y_i was *drawn* from q_i, as
`method.search.sample_path` does. The paper applies it to a path that a search chose, with the
drafter's marginal for q_i. That path is a deterministic function of the prefix, not a draw, and the
output is biased: p = (.5, .3, .2), q = (.4, .35, .25) and a path fixed at the second word give
(.143, .857, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from diffuspec.method.sampling import draw
from diffuspec.method.tree import PrefixTree


@dataclass(frozen=True)
class Verdict:
    """What the target made of a drafted path or tree.

    accepted: drafted tokens accepted; token: the target's own next one (None after a stop token);
    kind: "correction", "bonus" or None; draws: the target's token at each position looked at (for the
    ratio rule: the token emitted there); nodes: the accepted ones, as indices into the path or the tree;
    uniforms, ratios: of the ratio rule, at each drafted token looked at: accepted where uniform < ratio.
    """

    accepted: int
    token: int | None
    kind: str | None
    draws: tuple[int, ...]
    nodes: tuple[int, ...]
    uniforms: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()


def verify(path: np.ndarray, next_token: Callable[[int], int], stop_ids: Collection[int]) -> Verdict:
    """Walk the path while the target's token equals the drafted one.

    path: int [n] drafted tokens. next_token(i) gives the target's token after i accepted ones,
    0 <= i <= n: the argmax for the greedy rule, a draw from p_i for the point-mass rule.
    """
    draws = []
    for position, drafted in enumerate(path.tolist()):
        draws.append(next_token(position))
        if draws[-1] != drafted:
            return Verdict(position, draws[-1], "correction", tuple(draws), tuple(range(position)))
        if drafted in stop_ids:
            return Verdict(position + 1, None, None, tuple(draws), tuple(range(position + 1)))
    draws.append(next_token(len(path)))
    return Verdict(len(path), draws[-1], "bonus", tuple(draws), tuple(range(len(path))))


def verify_tree(tree: PrefixTree, next_token: Callable[[int], int], stop_ids: Collection[int]) -> Verdict:
    """Walk down from the anchor while the target's token has a node.

    next_token(0) gives the target's token after the anchor, next_token(i + 1) after node i. A token
    after a leaf is a bonus.
    """
    draws, nodes, node, below = [], [], -1, tree.children()
    while True:
        draws.append(next_token(node + 1))
        children = below.get(node, {})
        if draws[-1] not in children:
            kind = "correction" if children else "bonus"
            return Verdict(len(nodes), draws[-1], kind, tuple(draws), tuple(nodes))
        nodes.append(node := children[draws[-1]])
        if draws[-1] in stop_ids:
            return Verdict(len(nodes), None, None, tuple(draws), tuple(nodes))


def accept_probability(p: np.ndarray, q: np.ndarray, token: int) -> float:
    """min(1, p(token) / q(token)) of two distributions [V]; where q underflowed to 0, the limit."""
    p_token, q_token = float(p[token]), float(q[token])
    return min(1.0, p_token / q_token) if q_token > 0 else float(p_token > 0)


def residual(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(p - q)+ renormalised, float64 [V]: what is drawn from after a refusal."""
    rest = np.maximum(p - q, 0.0)
    total = rest.sum()
    return rest / total if total > 0 else p  # p = q refuses nothing but for rounding


def verify_ratio(
    path: np.ndarray,
    cells: np.ndarray,
    proposal: np.ndarray,
    target: Callable[[int], np.ndarray],
    random: np.random.Generator,
    stop_ids: Collection[int],
) -> Verdict:
    """Walk the path by the ratio rule.

    path: int [n]; cells: int [n, W], the tokens that q_i gives mass to, and proposal: float [n, W], that
    mass; target(i): p_i float64 [V], the target's distribution after i accepted tokens, 0 <= i <= n.
    """
    uniforms, ratios, n = [], [], len(path)
    for position, drafted in enumerate(path.tolist()):
        p = target(position)
        q = np.zeros_like(p)
        q[cells[position]] = proposal[position]
        uniforms.append(float(random.random()))
        ratios.append(accept_probability(p, q, drafted))
        if uniforms[-1] >= ratios[-1]:
            token = draw(residual(p, q), random.random())
            break
        if drafted in stop_ids:
            token, position = None, position + 1
            break
    else:
        position, token = n, draw(target(n), random.random())
    kind = None if token is None else "bonus" if position == n else "correction"
    emitted = (*path[:position].tolist(), *(() if token is None else (token,)))
    return Verdict(position, token, kind, emitted, tuple(range(position)), tuple(uniforms), tuple(ratios))
