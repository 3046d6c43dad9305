"""The roofline of plain decoding (Williams et al. 2009): a pass over one token reads every weight once and multiplies
it once, so it takes at least

    max(bytes of weights / memory bandwidth, multiply-adds / multiply-adds a second).

Both rates are measured here, with the threads and in the arithmetic that the passes use.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffuspec.method.length import StepCost

if TYPE_CHECKING:
    from diffuspec.models.target import Target

BYTES = 1 << 28  # read at once: far more than a processor's caches hold
SIDE = 1536  # of the square matrices multiplied
ROUNDS = 5
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # where a config tells of them


MOST_ROWS = 256  # of a pass that is reckoned with


@dataclass(frozen=True)
class Costs:
    """What the parts of a step take in a run here, in milliseconds.

    steps: curves measured in bursts, over as much text as the answers have; weighed: the curves that a run's policy
    weighs; levels: (rows, how much longer a pass over so many takes in a run than in a burst), straight lines between;
    draft_level: the same of drafts; host_ms: all of a step that is no pass.
    """

    steps: StepCost
    weighed: StepCost
    levels: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    draft_level: float = 1.0
    host_ms: float = 0.0

    def draft_ms(self, k: int) -> float:
        return self.draft_level * self.steps.draft_ms(k)

    @functools.cached_property
    def _verify_ms(self) -> list[float]:
        level = np.interp(np.arange(1, MOST_ROWS + 1), *np.array(self.levels).T)
        return np.maximum.accumulate(level * self.steps.verify_ms(MOST_ROWS)).tolist()

    def verify_ms(self, rows: int) -> float:
        return self._verify_ms[rows - 1]


@dataclass(frozen=True)
class Machine:
    """gigabytes_s: read from memory in a second; giga_multiply_adds_s: made in a second, in the pair's arithmetic."""

    gigabytes_s: float
    giga_multiply_adds_s: float


@dataclass(frozen=True)
class Roofline:
    """Of a plain pass over one token. weight_bytes, multiply_adds: that it needs, None where the target's layout is
    not known; floor_ms: the least it can take; pass_ms: what it took in the run; alone_ms: what it took in a burst."""

    weight_bytes: int | None
    multiply_adds: int | None
    floor_ms: float | None
    pass_ms: float
    alone_ms: float

    @property
    def reached(self) -> float | None:
        """Share of the roofline that plain decoding reaches."""
        return self.floor_ms / self.pass_ms if self.floor_ms else None


def measure_machine(target: Target) -> Machine:
    """In about a second; of a few rounds the best, since a busy moment makes a round slower, never faster."""
    import torch

    device = target.device

    def made(act: Callable, *numbers) -> None:
        act(*numbers)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    reads = _least(functools.partial(made, torch.sum, torch.zeros(BYTES // 4, dtype=torch.float32, device=device)))
    if target.arithmetic == "int8":
        left, right = (torch.ones(SIDE, SIDE, dtype=torch.int8) for _ in range(2))
        multiply = torch._int_mm
    else:
        left, right = (torch.ones(SIDE, SIDE, dtype=getattr(torch, target.arithmetic), device=device) for _ in range(2))
        multiply = torch.mm
    multiplied = _least(functools.partial(made, multiply, left, right))
    return Machine(BYTES / reads / 1e9, SIDE**3 / multiplied / 1e9)


def _least(act: Callable[[], object]) -> float:
    act()
    took = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        act()
        took.append(time.perf_counter() - started)
    return min(took)


def needed(target: Target) -> tuple[int | None, int | None]:
    """Bytes of weights that a plain pass reads, and its multiply-adds; None for a target of another layout than a
    Llama's or Qwen's, or of experts of which a token meets a few."""
    shape = target.shape
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    sizes = [getattr(shape, name, None) for name in names]
    if not all(isinstance(size, int) for size in sizes) or any(getattr(shape, name, None) for name in EXPERTS):
        return None, None
    hidden, inner, layers, heads, kv_heads, vocabulary = sizes
    head_dim = getattr(shape, "head_dim", None) or hidden // heads
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    multiply_adds = layers * (attention + 3 * hidden * inner) + vocabulary * hidden
    per_weight = {"float32": 4, "bfloat16": 2}.get(target.arithmetic)
    return target.weight_bytes if per_weight is None else per_weight * multiply_adds, multiply_adds


def roofline(machine: Machine, target: Target, pass_ms: float, alone_ms: float) -> Roofline:
    weight_bytes, multiply_adds = needed(target)
    floor = None
    if weight_bytes and multiply_adds:
        floor = max(weight_bytes / machine.gigabytes_s, multiply_adds / machine.giga_multiply_adds_s) / 1e6
    return Roofline(weight_bytes, multiply_adds, floor, pass_ms, alone_ms)
