"""The block drafter against its conventions, written a second time: slowly, and from their description.

Row 0 is the embedding of the anchor, rows 1 .. k - 1 the mask vector or the embedding of a filled-in
token. Row i stands at position P + i, P tokens being in the target's cache. Every row attends to the
target's cached keys and values of layer target_layers[l] and to the whole block. Row i predicts the
token at P + 1 + i, over the listed part of the vocabulary.
"""

from __future__ import annotations

import math

import pytest
import torch

from diffuspec.models import drafter as drafter_module
from diffuspec.models.drafter import MASKED, BlockDrafter


def rotate(vector: torch.Tensor, position: int, theta: float) -> torch.Tensor:
    """RoPE, half-rotation: pair d with d + D / 2, turned by position * theta^(-2 d / D)."""
    half = len(vector) // 2
    turned = torch.empty_like(vector)
    for d in range(half):
        angle = position * theta ** (-2 * d / len(vector))
        a, b = vector[d], vector[d + half]
        turned[d] = a * math.cos(angle) - b * math.sin(angle)
        turned[d + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def rms_norm(row, weight, eps):
    return row / math.sqrt(float((row * row).mean()) + eps) * weight


def reference(config, weights, embedding, prefix, block, cache) -> torch.Tensor:
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    eps, theta, past = config["rms_norm_eps"], config["rope_theta"], len(prefix) - 1
    rows = [embedding[prefix[-1]]]
    rows += [weights["mask_embedding"] if token == MASKED else embedding[token] for token in block[:-1]]
    for number, source in enumerate(config["target_layers"]):
        at = f"layers.{number}."
        normed = [rms_norm(row, weights[f"{at}input_layernorm.weight"], eps) for row in rows]
        q, k, v = (
            [(weights[f"{at}self_attn.{name}_proj.weight"] @ row).view(-1, size) for row in normed] for name in "qkv"
        )
        q = [[rotate(head, past + i, theta) for head in row] for i, row in enumerate(q)]
        k = [[rotate(head, past + i, theta) for head in row] for i, row in enumerate(k)]
        after = []
        for i, row in enumerate(rows):
            outputs = []
            for h in range(heads):
                g = h // (heads // kv_heads)
                keys = [cache.layers[source].keys[0, g, p] for p in range(past)] + [key[g] for key in k]
                values = [cache.layers[source].values[0, g, p] for p in range(past)] + [value[g] for value in v]
                weight = torch.softmax(torch.stack([q[i][h] @ key / math.sqrt(size) for key in keys]), 0)
                outputs.append(sum(w * value for w, value in zip(weight, values, strict=True)))
            row = row + weights[f"{at}self_attn.o_proj.weight"] @ torch.cat(outputs)
            inner = rms_norm(row, weights[f"{at}post_attention_layernorm.weight"], eps)
            gate, up = weights[f"{at}mlp.gate_proj.weight"] @ inner, weights[f"{at}mlp.up_proj.weight"] @ inner
            after.append(row + weights[f"{at}mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up))
        rows = after
    head = embedding[weights["draft_vocab"].long()]
    return torch.stack([head @ rms_norm(row, weights["norm.weight"], eps) for row in rows])


CASES = [
    ([5, 90, 17, 33], [MASKED] * 6),
    ([5, 90, 17, 33], [MASKED, 40, MASKED, 7, MASKED, 99]),  # a token in the last place changes no row
    ([70], [MASKED] * 3),  # an empty cache
    ([70, 71], [MASKED]),
    ([9] * 40, [3, MASKED, MASKED]),
]


@pytest.fixture(scope="module")
def parts(tiny, tiny_model):
    config, weights = tiny.block_parts(tiny_model)
    random = torch.Generator().manual_seed(3)
    for name, tensor in weights.items():
        if name != "draft_vocab":  # not the target's own layers: nothing may be right by accident
            weights[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=random)
    return {**config, "target_layers": [2, 0, 1]}, weights


def logits_of(parts, tiny_pair, prefix, block):
    drafter = BlockDrafter(*parts, tiny_pair.target)
    cache = tiny_pair.target.new_cache()
    tiny_pair.target.prefill(cache, prefix[:-1])
    with torch.inference_mode():
        made = drafter.logits(prefix, block, cache).float()
        embedding = tiny_pair.target.model.get_input_embeddings().weight
        return made, reference(*parts, embedding, prefix, block, cache)


@pytest.mark.parametrize(("prefix", "block"), CASES)
def test_the_logits_equal_the_conventions(parts, tiny_pair, monkeypatch, prefix, block):
    monkeypatch.setattr(drafter_module, "fastest_arithmetic", lambda device: "plain")  # plain float32 products
    made, expected = logits_of(parts, tiny_pair, prefix, block)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("prefix", "block"), CASES)
def test_in_this_machines_own_arithmetic_they_stay_close(parts, tiny_pair, prefix, block):
    """Eight bits on rows of 32 and 48 numbers are coarse; on the embedded drafter's 576 they are not."""
    made, expected = logits_of(parts, tiny_pair, prefix, block)
    likeness = torch.nn.functional.cosine_similarity(made, expected)
    assert likeness.min() > 0.95 and likeness.mean() > 0.98


def test_a_tail_left_in_the_cache_is_not_read(parts, tiny_pair):
    """The cache may hold more than prefix[:-1] for a moment; the drafter reads positions before the anchor only."""
    drafter, target, logits = BlockDrafter(*parts, tiny_pair.target), tiny_pair.target, []
    for tail in ([], [8, 9]):
        cache = target.new_cache()
        target.prefill(cache, [5, 6, *tail])
        logits.append(drafter.logits([5, 6, 7], [MASKED] * 4, cache))
    torch.testing.assert_close(*logits)


def test_a_draft_is_ranked_and_speaks_the_targets_ids(tiny_pair):
    target, drafter = tiny_pair.target, tiny_pair.drafter
    cache = target.new_cache()
    target.prefill(cache, [5, 6])
    ids, logq = drafter.draft([5, 6, 7], 5, width=20, passes=1, cache=cache)
    rows = drafter.logits([5, 6, 7], [MASKED] * 5, cache).float().log_softmax(-1)
    assert ids.shape == logq.shape == (5, 20) and (logq[:, 1:] <= logq[:, :-1]).all()
    column_of = {int(token): column for column, token in enumerate(drafter.draft_vocab)}
    for i in range(5):
        at = torch.tensor([column_of[token] for token in ids[i].tolist()])
        torch.testing.assert_close(rows[i, at], torch.from_numpy(logq[i]), rtol=1e-3, atol=1e-3)
        assert rows[i].max() == rows[i, at[0]]


def test_several_passes_fill_the_most_confident_masks_first(tiny_pair):
    """Eq. 5 by hand: with S passes over k masks, ceil(k s / S) are filled after pass s, each seeing the last."""
    target, drafter, prefix, k, passes = tiny_pair.target, tiny_pair.drafter, [5, 6, 7], 7, 3
    cache = target.new_cache()
    target.prefill(cache, prefix[:-1])
    block, filled_from = [MASKED] * k, {}
    for goal in (3, 5, 7):  # ceil(7 / 3), ceil(14 / 3), 7
        q = drafter.logits(prefix, block, cache).float().log_softmax(-1)
        open_positions = sorted((i for i in range(k) if block[i] == MASKED), key=lambda i: -float(q[i].max()))
        for i in open_positions[: goal - len(filled_from)]:
            filled_from[i] = q[i]
            block[i] = int(drafter.draft_vocab[q[i].argmax()])
    ids, logq = drafter.draft(prefix, k, width=10, passes=passes, cache=cache)
    assert ids[:, 0].tolist() == block
    for i, q in filled_from.items():
        torch.testing.assert_close(torch.from_numpy(logq[i]), q.topk(10).values, rtol=1e-3, atol=1e-3)


def test_one_pass_less_than_positions_or_more_is_the_same_as_one_each(tiny_pair):
    cache = tiny_pair.target.new_cache()
    tiny_pair.target.prefill(cache, [5, 6])
    three, many = (tiny_pair.drafter.draft([5, 6, 7], 3, width=4, passes=passes, cache=cache)[0] for passes in (3, 16))
    assert (three == many).all()
