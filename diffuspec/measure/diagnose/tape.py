"""A tape: what the drafter says at every place of an answer, so that any settings can be tried on it.

A recorded run has a lattice where each of its steps began. Under other settings steps begin elsewhere, so the tape
has a draft at every place, of every length that may be asked for, each made from what a run would have in its cache
there. What the target says is its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffuspec.errors import MethodError
from diffuspec.models.drafter import DiffusionDrafter

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair


@dataclass(frozen=True)
class Tape:
    """One answer. question, turn: whose; prompt_ids, answer: token ids; entropy: float32 [n], of the target's
    distribution of each answer token, in nats; drafts: k -> ids int32, log q float32 [n, k, W], at each place."""

    question: str
    category: str
    turn: int
    prompt_ids: tuple[int, ...]
    answer: tuple[int, ...]
    entropy: np.ndarray
    drafts: dict[int, tuple[np.ndarray, np.ndarray]]

    def draft(self, place: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of k masks before token `place` of the answer; of more masks, where no draft of k was recorded."""
        length = min((known for known in self.drafts if known >= k), default=max(self.drafts))
        ids, logq = self.drafts[length]
        return ids[place, :k], logq[place, :k]


def record(
    pair: Pair,
    ids: Sequence[int],
    answer: Sequence[int],
    lengths: Sequence[int],
    *,
    width: int,
    passes: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    **whose,
) -> Tape | None:
    """The tape of the target's greedy `answer` to `ids`; None where should_stop() turned true before its end.

    lengths: the k to draft; width: candidates a column; whose: question, category and turn.
    """
    target, drafter, prefix = pair.target, pair.drafter, list(ids)
    if target.remote:
        raise MethodError(
            "A diagnosis reads the target's probabilities of every token, which a server does not tell: diagnose the "
            "same model on this machine, or measure the server with bench."
        )
    cache = target.new_cache(drafter.hidden_entries)
    if not target.prefill(cache, prefix[:-1], should_stop):
        return None
    n = len(answer)
    lengths = [k for k in lengths if k <= drafter.max_block]
    drafts = {k: (np.zeros((n, k, width), np.int32), np.full((n, k, width), -1e4, np.float32)) for k in lengths}
    entropy = np.zeros(n, np.float32)
    for place, token in enumerate(answer):
        if should_stop():
            return None
        for k, (all_ids, all_logq) in drafts.items():
            found, logq = drafter.draft(prefix, k, width=width, passes=passes, cache=cache)
            all_ids[place, :, : found.shape[1]], all_logq[place, :, : found.shape[1]] = found, logq
        logp = target.forward(cache, prefix[-1:])[0].float().log_softmax(-1)
        entropy[place] = -float((logp.exp() * logp.clamp_min(-1e4)).sum())
        prefix.append(int(token))
    return Tape(**whose, prompt_ids=tuple(ids), answer=tuple(answer), entropy=entropy, drafts=drafts)


class TapeDrafter(DiffusionDrafter):
    """Gives what is on a tape."""

    def __init__(self, tape: Tape, kind: str):
        self.tape, self.kind = tape, kind
        self.max_block = max(tape.drafts, default=0)

    def logits(self, prefix, block, cache):
        raise NotImplementedError("A tape has candidates, not logits.")

    def draft(self, prefix, k, *, width, passes, cache):
        ids, logq = self.tape.draft(len(prefix) - len(self.tape.prompt_ids), k)
        return ids[:, :width], logq[:, :width]


class TapeTarget:
    """Says what the tape's answer says, after every beginning of it; of what follows anything else it knows nothing."""

    trees, remote = True, False

    def __init__(self, tape: Tape, vocab_size: int):
        self.tape, self.vocab_size = tape, vocab_size
        self.place = 0

    def start(self, prefix, settings, hidden=(), should_stop=lambda: False):
        return self

    def ranked(self, cache, ids, parents=None) -> TapeLogits:
        answer, place = self.tape.answer, self.place
        parents = parents or range(-1, len(ids) - 1)
        depth, likeliest = np.full(len(ids), -1), np.full(len(ids), UNKNOWN)
        for row, (token, parent) in enumerate(zip(ids, parents, strict=True)):
            if parent < 0:
                depth[row] = 0
            elif depth[parent] >= 0 and likeliest[parent] == token:
                depth[row] = depth[parent] + 1
            if depth[row] >= 0 and place + depth[row] < len(answer):
                likeliest[row] = answer[place + depth[row]]
        return TapeLogits(likeliest)

    def keep(self, cache, total, rows):
        self.place += len(rows)


UNKNOWN = -1


@dataclass(frozen=True)
class TapeLogits:
    """The target's own tokens, int [n], `UNKNOWN` where the tape does not tell."""

    likeliest: np.ndarray
    drawn = False

    def are_numbers(self) -> bool:
        return True
