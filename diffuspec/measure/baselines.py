"""What speculation with a diffusion draft is held against, on our own kernels and cache.

AutoregressiveRun   plain decoding, one token a target pass: the yardstick
ServerRun           the same by a server, where that is the target
TokenByToken        the drafter's network used as an ordinary small language model (SPS): k passes for
                    k tokens, each seeing the tokens drafted before it
PromptLookup        no drafter at all: what followed the same few tokens earlier in the text

The last two are drafters, so the engine verifies them and writes the same trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from diffuspec.errors import ModelError, Stopped
from diffuspec.method.sampling import NOT_NUMBERS, distribution, draw
from diffuspec.models.drafter import MASKED, DiffusionDrafter
from diffuspec.models.pair import Pair
from diffuspec.models.ranking import likeliest
from diffuspec.settings import Settings
from diffuspec.trace.model import Baseline, Difference, Trace


class AutoregressiveRun:
    """One token a target pass: an iterator of token ids."""

    def __init__(
        self, pair: Pair, settings: Settings, ids: Sequence[int], should_stop: Callable[[], bool] = lambda: False
    ):
        self.pair, self.settings = pair, settings
        self.budget = min(settings.max_new_tokens, pair.room(ids))
        self.random = np.random.default_rng(settings.seed)
        self.token = ids[-1]
        self.cache = pair.target.new_cache()
        if not self.pair.target.prefill(self.cache, ids[:-1], should_stop):
            self.budget = 0
        self.logits = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        ended = self.logits is not None and self.token in self.pair.stop_ids
        if ended or not self.budget:
            raise StopIteration
        self.logits = self.pair.target.forward(self.cache, [self.token])[0]
        if self.settings.temperature:
            s = self.settings
            p = distribution(self.logits.cpu().numpy(), s.temperature, s.top_k, s.top_p)
            self.token = draw(p, self.random.random())
        else:
            self.token = int(likeliest(self.logits[None])[0])
        if not torch.isfinite(self.logits[self.token]):
            raise ModelError(NOT_NUMBERS)
        self.budget -= 1
        return self.token

    def gap(self, expected: int, got: int) -> float:
        """By how much one token's logit lay above another's where the newest token came from."""
        return float(self.logits[expected] - self.logits[got])


class ServerRun:
    """The server's own plain decoding, in one request: an iterator of token ids, as they come."""

    def __init__(self, pair: Pair, settings: Settings, ids: Sequence[int], should_stop: Callable[[], bool]):
        self._tokens = pair.target.plain(
            ids, min(settings.max_new_tokens, pair.room(ids)), settings, pair.stop_ids, should_stop
        )

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        try:
            return next(self._tokens)
        except Stopped:
            raise StopIteration from None

    def gap(self, expected: int, got: int) -> None:
        """Not known: it tells none of its logits while it decodes."""


def plain_run(
    pair: Pair, settings: Settings, ids: Sequence[int], should_stop: Callable[[], bool] = lambda: False
) -> AutoregressiveRun | ServerRun:
    """Plain decoding of the prompt `ids`, as the yardstick of this pair does it."""
    return (ServerRun if pair.target.remote else AutoregressiveRun)(pair, settings, ids, should_stop)


class TokenByToken(DiffusionDrafter):
    """A diffusion drafter that fills one mask a pass, left to right."""

    def __init__(self, drafter: DiffusionDrafter):
        self.drafter, self.kind, self.max_block = drafter, drafter.kind, drafter.max_block
        self.hidden_entries = drafter.hidden_entries

    def logits(self, prefix, block, cache):
        return self.drafter.logits(prefix, block, cache)

    def to_target_ids(self, columns):
        return self.drafter.to_target_ids(columns)

    @torch.inference_mode()
    def draft(self, prefix, k, *, width, passes, cache):
        ids, logq = np.zeros((k, width), np.int32), np.zeros((k, width), np.float32)
        for i in range(k):
            logits = self.logits(prefix, [*ids[:i, 0].tolist(), MASKED], cache)[i].float()
            best, columns = logits.topk(width)
            ids[i] = self.to_target_ids(columns).cpu().numpy()
            logq[i] = (best - logits.logsumexp(-1)).cpu().numpy()
        return ids, logq


class PromptLookup(DiffusionDrafter):
    """Drafts by copying: the newest place where the last n tokens stood before, the longest n that has one.

    Saxena's prompt lookup decoding. The lattice has one candidate a column, and fewer columns than asked
    for (or none) where nothing was found.
    """

    kind = "none"
    max_block = 100

    def __init__(self, longest: int = 3):
        self.longest = longest

    def logits(self, prefix, block, cache):
        raise NotImplementedError("A copy has no logits.")

    def draft(self, prefix, k, *, width, passes, cache):
        found = self.find(np.asarray(prefix, np.int32))[:k, None]
        return found, np.zeros(found.shape, np.float32)

    def find(self, text: np.ndarray) -> np.ndarray:
        """Everything that followed, int32; empty where the last token is new."""
        for n in range(min(self.longest, len(text) - 1), 0, -1):
            before = np.lib.stride_tricks.sliding_window_view(text[:-1], n)
            places = np.flatnonzero((before == text[-n:]).all(1))
            if places.size:
                return text[places[-1] + n :]
        return text[:0]


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
    run = plain_run(pair, settings, trace.prompt_ids)
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
            difference = _difference(len(made) - 1, token, expected, run.gap)
        ended_early = bool(on_token and on_token(len(made)))
    if greedy and difference is None and not ended_early and len(expected) > len(made):
        difference = Difference(len(made), None, expected[len(made)], None)
    if difference and pair.target.remote:
        difference = first_difference(pair, trace.prompt_ids, made, expected)
    return Baseline(
        token_ids=tuple(made),
        wall_s=spent,
        prefill_ms=prefill_s * 1e3,
        times_ms=tuple(times),
        compared=min(len(made), len(expected)),
        difference=difference,
    )


def _difference(
    position: int, token: int, got: Sequence[int], gap: Callable[[int, int], float | None]
) -> Difference | None:
    if position >= len(got):
        return Difference(position, token, None, None)
    if got[position] == token:
        return None
    return Difference(position, token, got[position], gap(token, got[position]))


def first_difference(pair: Pair, ids: Sequence[int], expected: Sequence[int], got: Sequence[int]) -> Difference | None:
    """Where two answers to the prompt `ids` part, with the target's logit gap there; None where they are equal.

    Both answers made already: one more pass of the target finds the gap.
    """
    if list(expected) == list(got):
        return None
    common = min(len(expected), len(got))
    position = next((i for i in range(common) if expected[i] != got[i]), common)
    if position == common:
        longer = (expected[common], None) if len(expected) > common else (None, got[common])
        return Difference(position, *longer, None)
    text = [*ids, *expected[:position]]
    cache = pair.target.start(text, Settings())
    logits = pair.target.ranked(cache, text[-1:])
    return _difference(position, expected[position], got, lambda a, b: logits.gap(0, a, b))
