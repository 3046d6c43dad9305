"""One step as the player draws it: the lattice, the search, the verification."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from diffuspec.method.tree import COPIED, FOLLOWER
from diffuspec.trace.steps import Step

DIGITS = 3


def outline(step: Step) -> dict[str, Any]:
    """What every step shows at once: its path, what was accepted and emitted, its next length."""
    length, timing = step.length, step.timing
    return {
        "i": step.index,
        "start": step.start,
        "anchor": step.anchor,
        "k": step.draft_length,
        "path": step.search.ids.tolist(),
        "accepted": step.accepted,
        "seen": step.verification.accepted,
        "token": step.verification.token,
        "kind": step.verification.kind,
        "emitted": step.emitted,
        "length": {
            "k": length.k,
            "generated": length.generated,
            "accepted": length.accepted,
            "ema_gen": _short(length.ema_gen),
            "ema_acc": _short(length.ema_acc),
            "grew": length.grew,
            "wanted": _short(length.wanted),
            "next_k": length.next_k,
            "decided": length.decided,
        },
        "ms": [round(ms, 2) for ms in timing.stages().values()],
    }


def detail(step: Step) -> dict[str, Any]:
    """Everything else, column by column; logarithms to three decimals, which is all a picture shows."""
    lattice, search, check = step.lattice, step.search, step.verification
    return {
        "tree": _tree(step),
        "outside": {str(rank): _outside(step, rank) for rank in (COPIED, FOLLOWER)},
        "ids": lattice.ids.tolist(),
        "logq": _round(lattice.logq),
        "kept": lattice.kept.astype(np.int8).tolist(),
        "method": search.method,
        "ranks": search.ranks.tolist(),
        "score": _round(search.score),
        "proxy": _round(search.proxy_logp),
        "levels": [
            {
                "parent": level.parent.tolist(),
                "rank": level.rank.tolist(),
                "score": _round(level.score),
                "survivors": level.survivors,
            }
            for level in search.levels
        ],
        "chosen": search.chosen,
        "draws": check.draws,
        "uniforms": [round(value, 4) for value in check.uniforms],
        "ratios": [round(value, 4) for value in check.ratios],
        "server": dataclasses.asdict(check.server) if check.server else None,
        "pathLogp": _round(check.path_logp),
        "pathRank": check.path_rank.tolist(),
        "topIds": check.top_ids.tolist(),
        "topLogp": _round(check.top_logp),
        "cellLogp": _round(check.cell_logp),
    }


def _tree(step: Step) -> dict[str, Any] | None:
    """The nodes that were verified in one pass, parents before children; None where a single path was."""
    tree, check = step.search.tree, step.verification.tree
    if tree is None or check is None:
        return None
    return {
        "ids": tree.ids.tolist(),
        "parent": tree.parent.tolist(),
        "depth": tree.depth.tolist(),
        "rank": tree.rank.tolist(),
        "score": _round(tree.score),
        "accepted": check.accepted.astype(np.int8).tolist(),
        "logp": _round(check.logp),
        "own": check.own.tolist(),
    }


def _outside(step: Step, rank: int) -> list[int | None]:
    """Of the tree's nodes of this negative rank the likeliest token at each position, the path's own first; empty
    where there are none."""
    tree = step.search.tree
    if tree is None or not (tree.rank == rank).any():
        return []
    columns: list[int | None] = [None] * (int(tree.depth.max()) + 1)
    for node in [*step.search.nodes.tolist(), *range(len(tree))]:
        if tree.rank[node] == rank and columns[tree.depth[node]] is None:
            columns[tree.depth[node]] = int(tree.ids[node])
    return columns


def tokens_shown(step: Step) -> set[int]:
    """Ids of every token that a drawing of this step names."""
    shown = {step.anchor, *step.emitted, *step.verification.draws}
    shown.update(step.lattice.ids.ravel().tolist(), step.verification.top_ids.ravel().tolist(), step.path)
    if step.verification.tree is not None:
        shown.update(step.verification.tree.own.tolist())
    if step.search.tree is not None:
        shown.update(step.search.tree.ids.tolist())
    return shown


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _round(values: np.ndarray) -> np.ndarray:
    """Rounded float64, so that JSON carries the short decimal; NaN becomes null there."""
    return np.round(values.astype(np.float64), DIGITS)
