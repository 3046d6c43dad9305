"""Blocks of masks cut out of answers: what a block drafter is trained on.

An *anchor* at position P of an answer, or the token just before it, begins a block of k rows: row 0 is the anchor's
token, the others are masks, and row i has to name the token at P + 1 + i. Patterns:

- fully masked (four in five), as a first pass finds it
- partly filled, at random or from the left, as later passes (S > 1) and left-to-right use find it; a row whose
  answer stands visibly in the block is not asked for it
- past the end of an answer, every row has to say end-of-turn, so that the length of a draft means something

Several blocks of a conversation share one copy of its prefix; each sees it up to its own anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffuspec.training.data import Conversation

MASK = -1
LENGTHS = (4, 4, 4, 4, 8, 8, 8, 8, 16, 16, 32)  # the first rows decide: short blocks teach them most per row


@dataclass(frozen=True)
class Blocks:
    """C conversations of A blocks with k rows each, flattened to R = A k rows a conversation.

    inputs int64 [C, R]: token ids, `MASK` for a mask; positions int64 [C, R]; prefix
    [C, layers, 2, key heads, T, head size], or None; text int64 [C, T]: the prefix's ids; mask [C, 1, R, T + R]
    additive, of the prefix's dtype; supervised bool [C, R]: the rows asked. Of these, in order, N: targets int64 [N];
    soft_ids int64 [N, TOP] and soft_p float32 [N, TOP]; depth int64 [N], the row's place in its block; inside bool [N],
    False past the end of the answer; block int64 [N], its number; families, a name for each block.
    """

    inputs: torch.Tensor
    positions: torch.Tensor
    prefix: torch.Tensor | None
    text: torch.Tensor
    mask: torch.Tensor
    supervised: torch.Tensor
    targets: torch.Tensor
    soft_ids: torch.Tensor
    soft_p: torch.Tensor
    depth: torch.Tensor
    inside: torch.Tensor
    block: torch.Tensor
    families: list[str]

    def to(self, device: torch.device) -> Blocks:
        """The same blocks on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **moved)


def anywhere(conversation: Conversation, rng: np.random.Generator) -> int:
    """An answer token, by its place among all those of the conversation: each as likely as any other."""
    return int(rng.integers((conversation.spans[:, 1] - conversation.spans[:, 0]).sum()))


def cut(
    conversations: Sequence[Conversation],
    rng: np.random.Generator,
    *,
    blocks: int,
    length: int,
    stop_ids: frozenset,
    eos: int,
    key_heads: int,
    filled: float,
    choose: Callable[[Conversation, np.random.Generator], int] = anywhere,
    dtype: torch.dtype = torch.float32,
) -> Blocks:
    """`blocks` random blocks of `length` rows out of each conversation.

    stop_ids: ids that end an answer (an answer without one was cut off: nothing is known past its end);
    eos: what rows past the end have to say; filled: the share of partly filled blocks; choose: the answer token that a
    block's first row has to name; dtype: of prefix and mask.
    """
    rows, k = blocks * length, length
    shape = (len(conversations), rows)
    inputs, positions = np.full(shape, MASK, np.int64), np.zeros(shape, np.int64)
    supervised, inside = np.zeros(shape, bool), np.zeros(shape, bool)
    starts = np.zeros((len(conversations), blocks), np.int64)
    top = conversations[0].top_ids.shape[1]
    targets = np.full(shape, eos, np.int64)
    soft_ids, soft_p = np.full((*shape, top), eos, np.int64), np.zeros((*shape, top), np.float32)
    soft_p[..., 0] = 1
    for c, conversation in enumerate(conversations):
        ids = conversation.ids.astype(np.int64)
        lengths = conversation.spans[:, 1] - conversation.spans[:, 0]
        offsets = np.cumsum(lengths) - lengths
        for b in range(blocks):
            # An anchor may stand before each answer token.
            chosen = choose(conversation, rng)
            span = int(np.searchsorted(offsets, chosen, side="right")) - 1
            start, end = (int(x) for x in conversation.spans[span])
            anchor = start + chosen - int(offsets[span]) - 1
            known = min(k, end - 1 - anchor)
            at = slice(b * k, b * k + known)
            own = int(offsets[span]) + anchor + 1 - start
            starts[c, b] = anchor
            positions[c, b * k : (b + 1) * k] = np.arange(anchor, anchor + k)
            inputs[c, b * k] = ids[anchor]
            inside[c, at] = True
            targets[c, at] = ids[anchor + 1 : anchor + 1 + known]
            soft_ids[c, at] = conversation.top_ids[own : own + known]
            p = conversation.top_p[own : own + known].astype(np.float32)
            soft_p[c, at] = p / p.sum(1, keepdims=True)
            ended = int(ids[end - 1]) in stop_ids
            supervised[c, b * k : b * k + (k if ended else known)] = True
            if known > 2 and rng.random() < filled:
                share = rng.random()
                if rng.random() < 0.5:
                    shown = np.flatnonzero(rng.random(known - 1) < share) + 1
                else:
                    shown = np.arange(1, 1 + int(share * (known - 1)))
                inputs[c, b * k + shown] = ids[anchor + shown]
                supervised[c, b * k + shown - 1] = False
    longest = max(1, int(starts.max()))
    seen = np.arange(longest) < starts[:, :, None]
    mask = np.full((len(conversations), rows, longest + rows), -np.inf, np.float32)
    mask[:, :, :longest][np.repeat(seen, k, 1)] = 0
    for b in range(blocks):
        mask[:, b * k : (b + 1) * k, longest + b * k : longest + (b + 1) * k] = 0
    text = np.zeros((len(conversations), longest), np.int64)
    for c, conversation in enumerate(conversations):
        part = conversation.ids[:longest]
        text[c, : len(part)] = part
    tensor = torch.from_numpy
    place = np.broadcast_to(np.tile(np.arange(k), blocks), shape)
    number = np.repeat(np.arange(len(conversations) * blocks).reshape(shape[0], -1), k, 1)
    return Blocks(
        tensor(inputs),
        tensor(positions),
        _prefix(conversations, longest, key_heads, dtype),
        tensor(text),
        tensor(mask)[:, None].to(dtype),
        tensor(supervised),
        tensor(targets[supervised]),
        tensor(soft_ids[supervised]),
        tensor(soft_p[supervised]),
        tensor(place[supervised]),
        tensor(inside[supervised]),
        tensor(number[supervised]),
        [c.family for c in conversations for _ in range(blocks)],
    )


def _prefix(
    conversations: Sequence[Conversation], longest: int, key_heads: int, dtype: torch.dtype
) -> torch.Tensor | None:
    if conversations[0].cache is None:
        return None
    _, layers, _, width = conversations[0].cache.shape
    stored = torch.zeros(len(conversations), longest, layers, 2, width, dtype=dtype)
    for c, conversation in enumerate(conversations):
        part = torch.from_numpy(np.array(conversation.cache[:longest]))
        stored[c, : len(part)] = part
    return stored.unflatten(-1, (key_heads, -1)).permute(0, 2, 3, 4, 1, 5)
