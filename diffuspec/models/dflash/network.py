"""The layers of DFlash, DFlash 2 and DSpark.

The anchor stands at position P, the target has read 0 .. P - 1. With ctx = hidden_norm(fc(hidden states)) of those
positions, each layer computes

    h = input_layernorm(x);   q of h;   k, v of [ctx, h]          (ctx takes part without the layer's norm)
    x = x + o_proj(attention(rope(q_norm q), rope(k_norm k), v));  x = x + mlp(post_attention_layernorm(x))

over the rows x: the embeddings of the anchor and of the masks behind it, at positions P, P + 1, ... No row is hidden
from another in a full layer. ctx's keys and values do not depend on the block: each position's are computed once.
DFlash 2 (`conv`) mixes each row with those before it, before and after attention and MLP, by kernels that depend on it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from diffuspec.models.dflash.formats import DraftShape, LayerAttention
from diffuspec.models.hidden import CHUNK, HiddenStates

Weights = dict[str, torch.Tensor]


class ContextKeys:
    """Keys and values of the positions read so far, [kv heads, length, d] of each draft layer."""

    def __init__(self, layers: int):
        self.length = 0
        self._stores: list[list[torch.Tensor]] = [[] for _ in range(layers)]

    def forget(self, length: int) -> None:
        self.length = min(self.length, length)

    def add(self, layer: int, *new: torch.Tensor) -> None:
        """Behind the positions known; `extend` then counts them."""
        stores, end = self._stores[layer], self.length + new[0].shape[1]
        for i, part in enumerate(new):
            if i == len(stores):
                stores.append(part.new_empty(part.shape[0], 0, part.shape[2]))
            if end > stores[i].shape[1]:
                grown = part.new_empty(part.shape[0], max(end, stores[i].shape[1] * 5 // 4 + CHUNK), part.shape[2])
                grown[:, : self.length] = stores[i][:, : self.length]
                stores[i] = grown
            stores[i][:, self.length : end] = part

    def of(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._stores[layer]
        return keys[:, : self.length], values[:, : self.length]


class Backbone:
    """The layers of a drafter that reads hidden states of the target.

    weights: float, by the names that all three makers use.
    """

    def __init__(self, shape: DraftShape, weights: Weights):
        self.shape, self.weights = shape, weights
        stack = shape.stack
        self.head_dim, self.eps = stack["head_dim"], stack["rms_norm_eps"]
        self.device, self.dtype = weights["fc.weight"].device, weights["fc.weight"].dtype
        self._rotary = Qwen3RotaryEmbedding(Qwen3Config(**stack)).to(self.device)

    def __call__(self, rows: torch.Tensor, hidden: HiddenStates | None) -> torch.Tensor:
        """Final hidden states [n, h] of the embedded rows [n, h], which stand behind the positions of `hidden`."""
        context = self._context(hidden)
        start = context.length if context else 0
        cos, sin = self._angles(start, len(rows), rows)
        x = rows
        for i, attention in enumerate(self.shape.layers):
            at = f"layers.{i}."
            h, after = self._mixed(f"{at}attention_conv.", self._norm(x, f"{at}input_layernorm"))
            h = self._attend(at, h, context and context.of(i), attention, cos, sin)
            x = x + self._finished(f"{at}attention_conv.", h, after)
            h, after = self._mixed(f"{at}mlp_conv.", self._norm(x, f"{at}post_attention_layernorm"))
            h = F.silu(self._linear(f"{at}mlp.gate_proj", h)) * self._linear(f"{at}mlp.up_proj", h)
            h = self._linear(f"{at}mlp.down_proj", h)
            x = x + self._finished(f"{at}mlp_conv.", h, after)
        return self._norm(x, "norm")

    def _context(self, hidden: HiddenStates | None) -> ContextKeys | None:
        if hidden is None or not hidden.length:
            return None
        known = hidden.derived.get(self)
        if known is None:
            known = hidden.derived[self] = ContextKeys(len(self.shape.layers))
        first = known.length
        if first < hidden.length:
            new = hidden.rows[first:].to(self.device, self.dtype)
            ctx = self._norm(self._linear("fc", new), "hidden_norm")
            cos, sin = self._angles(first, len(new), ctx)
            for i in range(len(self.shape.layers)):
                known.add(i, *self._keys(f"layers.{i}.self_attn.", ctx, cos, sin))
            known.length = hidden.length
        return known

    def _attend(self, at, h, context, attention: LayerAttention, cos, sin):
        at += "self_attn."
        query = self._turned(self._norm(self._heads(f"{at}q_proj", h), f"{at}q_norm"), cos, sin)
        key, value = self._keys(at, h, cos, sin)
        past = 0
        if context:
            past = context[0].shape[1]
            key, value = torch.cat([context[0], key], 1), torch.cat([context[1], value], 1)
        mask = _visible(attention, past, len(h), h.device)
        seen = F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask, enable_gqa=True)
        return self._linear(f"{at}o_proj", seen[0].transpose(0, 1).reshape(len(h), -1))

    def _keys(self, at, h, cos, sin):
        key = self._norm(self._heads(f"{at}k_proj", h), f"{at}k_norm")
        return self._turned(key, cos, sin), self._heads(f"{at}v_proj", h)

    def _heads(self, name, h):
        return self._linear(name, h).view(len(h), -1, self.head_dim).transpose(0, 1)

    def _turned(self, x, cos, sin):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    def _angles(self, start: int, n: int, like: torch.Tensor):
        cos, sin = self._rotary(like, torch.arange(start, start + n, device=like.device)[None])
        return cos[0], sin[0]

    def _linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, x, name):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weights[f"{name}.weight"] * wide.to(x.dtype)

    # DFlash 2

    def _mixed(self, at, h):
        """The rows convolved, and the kernels for what the sublayer makes of them."""
        if self.shape.conv is None:
            return h, None
        size, group = self.shape.conv
        kernels = self._linear(f"{at}kernel_projection", h).view(len(h), 2, size, h.shape[1] // group, 1)
        return self._convolved(at, 0, h, kernels[:, 0]), kernels[:, 1]

    def _finished(self, at, h, kernels):
        return h if kernels is None else self._convolved(at, 1, h, kernels)

    def _convolved(self, at, side, h, kernels):
        """Of row t the sum over j of (base[j] + kernels[t, j]) h[t - j]; nothing stands before the first row."""
        size, group = self.shape.conv
        base = self.weights[f"{at}base_kernel"][side].to(h.dtype).view(size, -1, group)
        rows = h.view(len(h), -1, group)
        out = torch.zeros_like(rows)
        for j in range(min(size, len(h))):
            out[j:] += (base[j] + kernels[j:, j]) * rows[: len(h) - j]
        return out.view_as(h)


def _visible(attention: LayerAttention, past: int, n: int, device) -> torch.Tensor | None:
    """What row i of the block sees of the text and the block, bool [n, past + n]; None is everything."""
    if not attention.causal and attention.window is None:
        return None
    row = past + torch.arange(n, device=device)[:, None]
    column = torch.arange(past + n, device=device)[None]
    visible = torch.ones(n, past + n, dtype=torch.bool, device=device)
    if attention.causal:
        visible &= column <= row
    if attention.window is not None and attention.from_anchor:
        visible &= column >= past - attention.window
    elif attention.window is not None:
        visible &= (row - column).abs() < attention.window if not attention.causal else row - column < attention.window
    return visible


def expected_tensors(shape: DraftShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a checkpoint of this shape must hold, its own embedding and output aside."""
    s = shape.stack
    h, mlp, d = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    q, kv = s["num_attention_heads"] * d, s["num_key_value_heads"] * d
    found: dict[str, tuple[int, ...]] = {
        "fc.weight": (h, len(shape.entries) * h),
        "hidden_norm.weight": (h,),
        "norm.weight": (h,),
    }
    for i in range(s["num_hidden_layers"]):
        at = f"layers.{i}."
        for name, rows, columns in (("q", q, h), ("k", kv, h), ("v", kv, h), ("o", h, q)):
            found[f"{at}self_attn.{name}_proj.weight"] = (rows, columns)
            if s["attention_bias"]:
                found[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        found |= {f"{at}self_attn.{name}_norm.weight": (d,) for name in "qk"}
        found |= {f"{at}mlp.{name}_proj.weight": (mlp, h) for name in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = (h, mlp)
        found |= {f"{at}{name}_layernorm.weight": (h,) for name in ("input", "post_attention")}
        if shape.conv:
            size, group = shape.conv
            for name in ("attention_conv", "mlp_conv"):
                found[f"{at}{name}.base_kernel"] = (2, size, h)
                found[f"{at}{name}.kernel_projection.weight"] = (2 * size * (h // group), h)
    if shape.selector:
        rank = shape.selector[0]
        for name in ("predecessor", "successor"):
            found[f"candidate_selector.{name}_codebook.weight"] = (shape.vocab, rank)
        found["candidate_selector.hidden_projection.weight"] = (rank, h)
    rank = 0
    if shape.markov:
        rank, kind = shape.markov
        found["markov_head.markov_w1.weight"] = (shape.vocab, rank)
        found["markov_head.markov_w2.weight"] = (shape.draft_vocab, rank)
        projection = {"gated": ("gate_proj", rank, h + rank), "rnn": ("joint_proj", 3 * rank, 2 * rank + h)}.get(kind)
        if projection:
            name, rows, columns = projection
            found[f"markov_head.{name}.weight"], found[f"markov_head.{name}.bias"] = (rows, columns), (rows,)
    if shape.confidence:
        features = h + (rank if shape.confidence_with_markov else 0)
        found["confidence_head.proj.weight"], found["confidence_head.proj.bias"] = (1, features), (1,)
    return found
