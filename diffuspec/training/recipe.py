"""Every option of a training run, once: the command line's flags are derived from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

FILLED = 0.2


@dataclass(frozen=True)
class Recipe:
    """conversations x anchors: blocks a step, at 16 rows each; steps: in all, of which `warmup`; lr falls to a
    twentieth; soft: weight of distillation; decay: rows after which the loss has fallen to 1 / e; reach: share of a
    row's weight that is the probability of the rows before it instead; visited: share of anchors where decoding with
    the drafter as it was at the start would have begun a draft, which is where it failed before; average: of the
    weights, per step; negatives: tokens of the draft vocabulary, besides those that a part of a step is about, over
    which its logits are normalised; balance: draw families alike instead of conversations alike; bf16: products in
    bfloat16, weights stay float32."""

    steps: int = 2000
    conversations: int = 12
    anchors: int = 4
    lr: float = 8e-4
    warmup: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    soft: float = 0.5
    decay: float = 5.0
    reach: float = 0.0
    filled: float = FILLED
    visited: float = 0.0
    average: float = 0.995
    negatives: int = 4096
    balance: int = 1
    bf16: int = 0
    seed: int = 0

    def learning_rate(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
