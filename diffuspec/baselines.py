"""Plain autoregressive decoding, the yardstick: same target, dtype, kernels and cache."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from diffuspec.models.pair import Pair
from diffuspec.trace import Baseline, Difference, Trace


def compare_with_ar(pair: Pair, trace: Trace, *, on_token: Callable[[int], bool | None] | None = None) -> Baseline:
    """Decode the trace's prompt one token a pass and compare the answers token by token.

    A run that was stopped is compared over the tokens it made. Where the run sampled, AR samples
    too, and the answers are not compared. on_token(count) is told of every token, outside the
    measured time; returning True ends the comparison early.
    """
    settings, expected = trace.settings, trace.token_ids
    budget = len(expected) if trace.stop_reason in ("stopped", "running") else settings.max_new_tokens
    budget = min(budget, pair.info.context - len(trace.prompt_ids))
    random = torch.Generator(pair.target.device).manual_seed(settings.seed)
    made, times, difference = [], [], None
    spent, started = 0.0, time.perf_counter()
    cache = pair.target.new_cache()
    pair.target.prefill(cache, trace.prompt_ids[:-1])
    prefill_s = time.perf_counter() - started
    token = trace.prompt_ids[-1]
    while len(made) < budget and (not made or token not in pair.stop_ids):
        logits = pair.target.forward(cache, [token])[0]
        if settings.temperature:
            token = int(torch.multinomial((logits / settings.temperature).softmax(-1), 1, generator=random))
        else:
            token = int(logits.argmax())
        made.append(token)
        spent += time.perf_counter() - started
        times.append(spent * 1e3)
        if difference is None and not settings.temperature:
            difference = _difference(len(made) - 1, token, expected, logits)
        if on_token and on_token(len(made)):
            break
        started = time.perf_counter()
    complete = len(made) == budget or token in pair.stop_ids
    if difference is None and complete and not settings.temperature and len(expected) > len(made):
        difference = Difference(len(made), None, expected[len(made)], None)
    return Baseline(
        token_ids=tuple(made), wall_s=spent, prefill_ms=prefill_s * 1e3, times_ms=tuple(times),
        compared=min(len(made), len(expected)), difference=difference,
    )  # fmt: skip


def _difference(position: int, token: int, got: tuple[int, ...], logits: torch.Tensor) -> Difference | None:
    if position >= len(got):
        return Difference(position, token, None, None)
    if got[position] == token:
        return None
    return Difference(position, token, got[position], float(logits[token] - logits[got[position]]))
