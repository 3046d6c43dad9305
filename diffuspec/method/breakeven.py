"""When speculation pays: the expected speed-up of one step.

Leviathan et al. (arXiv 2211.17192, Theorem 3.8), for a drafter of one pass and a verifier that is not free:

    tokens a step   E = (1 - a^(k+1)) / (1 - a)          a: acceptance per drafted token, k: draft length
    cost of a step  C = d + v(k + 1)                     in passes of the target over one token
    speed-up        E / C

d is the cost of the draft, v(n) that of a target pass over n tokens. Their theorem is v = 1 and d = k c. The
theorem takes every drafted token for an independent draw; real drafts are likelier to fail far from the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FREE = ((1, 1.0),)


def tokens_per_step(acceptance: np.ndarray | float, k: int) -> np.ndarray:
    """E, the target's own token included; acceptance: 0 to 1."""
    powers = np.asarray(acceptance, dtype=float)[..., None] ** np.arange(k + 1)
    return powers.sum(-1)


def acceptance_rate(accepted: int, refused: int) -> float:
    """Likeliest acceptance per token, given tokens accepted and steps that ended in a refusal; 0 where unknown."""
    judged = accepted + refused
    return accepted / judged if judged else 0.0


def acceptance_for(accepted_per_step: float, k: int) -> float:
    """The acceptance per token at which a draft of k has `accepted_per_step` tokens accepted on average."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_step(middle, k) - 1 < accepted_per_step else (low, middle)
    return high


def verify_cost(n: float, curve: Sequence[tuple[int, float]] = FREE) -> float:
    """v(n) by straight lines between the measured points (tokens in a pass, cost); flat beyond the first,
    and as steep as the last two points beyond the last."""
    sizes, costs = np.array(curve, dtype=float).T
    if len(sizes) > 1 and n > sizes[-1]:
        slope = (costs[-1] - costs[-2]) / (sizes[-1] - sizes[-2])
        return float(costs[-1] + slope * (n - sizes[-1]))
    return float(np.interp(n, sizes, costs))


def speedup(
    acceptance: np.ndarray | float, draft_cost: np.ndarray | float, k: int, curve: Sequence[tuple[int, float]] = FREE
) -> np.ndarray:
    """Tokens of a step over its cost in one-token target passes; both arguments broadcast."""
    return tokens_per_step(acceptance, k) / (np.asarray(draft_cost, dtype=float) + verify_cost(k + 1, curve))
