"""How long the next draft is (DiffuSpec, section 3.4, Eqs. 9-11).

After a step, L_gen tokens of the raw draft came before its first stop token and L_acc drafted
tokens were accepted. Adaptive draft length (ADL) smooths both,

    EMA_gen <- (1 - rho) EMA_gen + rho L_gen        (Eq. 10)
    EMA_acc <- (1 - rho) EMA_acc + rho L_acc

and sets

    k' = clip(EMA_gen + delta [EMA_acc >= EMA_gen], k_min, k_max)        (Eq. 11).

Both averages start at 0 and k_1 = k_max. k' is rounded half up. Note the feedback: L_gen is at
most the k that produced it, so at the paper's settings k leaves k_min only if EMA_gen > k_min,
or EMA_acc >= EMA_gen > k_min - delta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from diffuspec.settings import Settings


@dataclass(frozen=True)
class LengthDecision:
    """What a policy saw after a step and what it chose.

    wanted is Eq. 11 before clipping, in tokens (None for a policy without averages);
    decided names the term that fixed next_k: "EMA_gen", "EMA_gen + δ", "k_min", "k_max" or "fixed".
    """

    k: int
    generated: int
    accepted: int
    ema_gen: float | None
    ema_acc: float | None
    grew: bool
    wanted: float | None
    next_k: int
    decided: str


class LengthPolicy(Protocol):
    k: int

    def update(self, generated: int, accepted: int) -> LengthDecision:
        """Take L_gen and L_acc of the step just verified; set and explain the next `k`."""
        ...


class FixedLength:
    """The same k at every step."""

    def __init__(self, k: int):
        self.k = k

    def update(self, generated: int, accepted: int) -> LengthDecision:
        return LengthDecision(self.k, generated, accepted, None, None, False, None, self.k, "fixed")


class AdaptiveDraftLength:
    """ADL exactly as the paper writes it."""

    def __init__(self, k_min: int, k_max: int, delta: int, rho: float):
        self.k_min, self.k_max, self.delta, self.rho = k_min, k_max, delta, rho
        self.k = k_max
        self.ema_gen = self.ema_acc = 0.0

    def update(self, generated: int, accepted: int) -> LengthDecision:
        used = self.k
        self.ema_gen += self.rho * (generated - self.ema_gen)
        self.ema_acc += self.rho * (accepted - self.ema_acc)
        grew = self.ema_acc >= self.ema_gen
        wanted = self.ema_gen + (self.delta if grew else 0)
        rounded = math.floor(wanted + 0.5)
        self.k = min(max(rounded, self.k_min), self.k_max)
        if rounded < self.k_min:
            decided = "k_min"
        elif rounded > self.k_max:
            decided = "k_max"
        else:
            decided = "EMA_gen + δ" if grew else "EMA_gen"
        return LengthDecision(used, generated, accepted, self.ema_gen, self.ema_acc, grew, wanted, self.k, decided)


def make_policy(settings: Settings) -> LengthPolicy:
    if settings.length == "fixed":
        return FixedLength(settings.k)
    return AdaptiveDraftLength(settings.k_min, settings.k_max, settings.delta, settings.rho)
