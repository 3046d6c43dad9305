"""Which drafted tokens the target accepts (DiffuSpec, section 3.1, step 4).

Both rules here leave the target's output distribution untouched and need no drafter
probability, so they hold for a path found by search, which is a deterministic function of the
prefix:

    greedy       accept while y_i = argmax p_i; then emit argmax p of the first refusal
    point mass   draw t_i ~ p_i; emit t_i; go on while t_i = y_i

A step therefore always ends in one token of the target's own: the *correction* after a
rejection, the *bonus* after a full accept. In a prefix tree "equals y_i" becomes "is carried by a
child of the last accepted node": the walk goes down while the target's token has a node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from diffuspec.method.tree import PrefixTree


@dataclass(frozen=True)
class Verdict:
    """accepted: drafted tokens accepted; token: the target's own next one (None after a stop token);
    kind: "correction", "bonus" or None; draws: the target's token at each position looked at;
    nodes: the accepted ones, as indices
    into the path or the tree."""

    accepted: int
    token: int | None
    kind: str | None
    draws: tuple[int, ...]
    nodes: tuple[int, ...]


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
    draws, nodes, node = [], [], -1
    while True:
        draws.append(next_token(node + 1))
        below = tree.child(node, draws[-1])
        if below is None:
            kind = "correction" if (tree.parent == node).any() else "bonus"
            return Verdict(len(nodes), draws[-1], kind, tuple(draws), tuple(nodes))
        nodes.append(node := below)
        if draws[-1] in stop_ids:
            return Verdict(len(nodes), None, None, tuple(draws), tuple(nodes))
