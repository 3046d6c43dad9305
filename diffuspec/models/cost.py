"""What the passes of a pair cost on this machine, measured once, for the policies that weigh time against tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from diffuspec.method.length import StepCost
from diffuspec.models.drafter import DiffusionDrafter
from diffuspec.models.target import Target
from diffuspec.settings import Settings

CONTEXT, ROUNDS = 128, 3
BURST, BURST_S = 5, 0.05  # passes of a size one after the other; of slow ones only as many, and two at least
ROWS, DRAFTS = (1, 2, 4, 8, 12, 16, 24), (1, 4, 8, 16)
WIDTH = 15  # candidates a column


def measure(target: Target, drafter: DiffusionDrafter, context: int = CONTEXT) -> StepCost:
    """What passes of each size take one after the other, as they do in a run: where a processor slows down under many
    products, a single one would look too cheap. Of a few rounds the least, since a busy moment makes a pass slower,
    never faster. context: tokens in the cache."""
    text = [1] * min(context, target.context - max(ROWS))
    cache = target.start(text, Settings(), drafter.hidden_entries)
    random = np.random.default_rng(0)

    def verify(rows: int) -> None:
        # A server keeps what it read: were the same rows sent again, it would not read them.
        ids = random.integers(target.vocab_size, size=rows).tolist() if target.remote else text[:1] * rows
        target.forward(cache, ids)
        target.rollback(cache, rows)

    def draft(k: int) -> None:
        drafter.draft(text, k, width=WIDTH, passes=1, cache=cache)

    sizes = [k for k in DRAFTS if k < drafter.max_block] + [drafter.max_block]
    return StepCost(draft=_curve(draft, sizes) if drafter.max_block else (), verify=_curve(verify, ROWS))


def _curve(run: Callable[[int], None], sizes) -> tuple[tuple[int, float], ...]:
    least = dict.fromkeys(sizes, float("inf"))
    run(sizes[-1])  # the first pass sets things up
    for _ in range(ROUNDS):
        for size in sizes:
            took = []
            while len(took) < 2 or len(took) < BURST and sum(took) < 1e3 * BURST_S:
                started = time.perf_counter()
                run(size)
                took.append((time.perf_counter() - started) * 1e3)
            least[size] = min(least[size], statistics.median(took))
    floor, curve = 0.0, []
    for size, ms in least.items():
        curve.append((size, floor := max(floor, ms)))  # more work is never cheaper: what says so is noise
    return tuple(curve)
