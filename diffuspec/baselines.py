"""Plain autoregressive decoding, the yardstick: same target, dtype, kernels and cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from diffuspec.models.pair import Pair
from diffuspec.settings import Settings
from diffuspec.trace import Baseline, Difference, Trace


class AutoregressiveRun:
    """One token a target pass: an iterator of token ids; `logits` are those the newest came from [V]."""

    def __init__(self, pair: Pair, settings: Settings, ids: Sequence[int]):
        self.pair, self.settings = pair, settings
        self.budget = min(settings.max_new_tokens, pair.info.context - len(ids))
        self.random = torch.Generator(pair.target.device).manual_seed(settings.seed)
        self.token = ids[-1]
        self.cache = pair.target.new_cache()
        self.pair.target.prefill(self.cache, ids[:-1])
        self.logits = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        ended = self.logits is not None and self.token in self.pair.stop_ids
        if ended or not self.budget:
            raise StopIteration
        self.logits = self.pair.target.forward(self.cache, [self.token])[0]
        if self.settings.temperature:
            p = (self.logits / self.settings.temperature).softmax(-1)
            self.token = int(torch.multinomial(p, 1, generator=self.random))
        else:
            self.token = int(self.logits.argmax())
        self.budget -= 1
        return self.token


def compare_with_ar(pair: Pair, trace: Trace, *, on_token: Callable[[int], bool | None] | None = None) -> Baseline:
    """Decode the trace's prompt one token a pass and compare the answers token by token.

    A run that was stopped is compared over the tokens it made. Where the run sampled, AR samples
    too, and the answers are not compared. on_token(count) is told of every token, outside the
    measured time; returning True ends the comparison early.
    """
    settings, expected = trace.settings, trace.token_ids
    if trace.stop_reason in ("stopped", "running"):
        settings = settings.replace(max_new_tokens=max(1, len(expected)))
    greedy = not settings.temperature
    made, times, difference, ended_early = [], [], None, False
    started = time.perf_counter()
    run = AutoregressiveRun(pair, settings, trace.prompt_ids)
    spent = prefill_s = time.perf_counter() - started
    while not ended_early:
        started = time.perf_counter()
        token = next(run, None)
        spent += time.perf_counter() - started
        if token is None:
            break
        made.append(token)
        times.append(spent * 1e3)
        if greedy and difference is None:
            difference = _difference(len(made) - 1, token, expected, run.logits)
        ended_early = bool(on_token and on_token(len(made)))
    if greedy and difference is None and not ended_early and len(expected) > len(made):
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
