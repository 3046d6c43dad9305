"""The Llama decoder as few large operations, for a CPU and a handful of rows.

`transformers` spends about half of a one-token pass outside its matrix products. Here projections
that share an input are one product, the caches are allocated ahead and written in place, the
normalisations' weights are folded into the products behind them, and nothing is built per pass but
one small mask.

It is also written so that a token's row has the same bits however many tokens share its pass and
wherever in the cache its ancestors stand. The products see to that themselves (`packed`); attention is
summed in float64 and rounded to float32 once, so that the order of the sum is invisible. That makes plain
decoding, chains and trees agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from diffuspec.models.float.linear import FloatLinear
from diffuspec.models.hidden import hidden_of
from diffuspec.models.visibility import visibility

CHUNK = 256  # the caches grow by this many tokens at least
_ALIGN = 16  # rows of scores are padded to whole vectors, or their tails would take another exp


def llama_fits(model: torch.nn.Module) -> bool:
    """Whether `LlamaDecoder` computes exactly what this `transformers` model does."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type == "llama"
        and model.device.type == "cpu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.hidden_act == "silu"
        and rope.get("rope_type", "default") == "default"
    )


class KeyValueCache:
    """Keys and values of all layers in two tensors that grow ahead of need.

    keys float64 [layers, kv heads, room, d]; values float64 [layers, kv heads, room, d + 1], whose last
    column is 1, so that the sum of the attention weights comes out of the product with the values.
    """

    def __init__(self, layers: int, heads: int, head_dim: int):
        self.length = 0
        self.keys = torch.zeros(layers, heads, 0, head_dim, dtype=torch.float64)
        self.values = torch.zeros(layers, heads, 0, head_dim + 1, dtype=torch.float64)
        self.layers = [LayerView(self, i) for i in range(layers)]

    def get_seq_length(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, whether filled yet or not."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, total: int) -> None:
        """Make room for `total` tokens and the padding behind them."""
        room = self.keys.shape[2]
        if total + _ALIGN <= room:
            return
        more = max(total + _ALIGN - room, CHUNK, room // 4)
        self.keys = F.pad(self.keys, (0, 0, 0, more))
        self.values = F.pad(self.values, (0, 0, 0, more))
        self.values[:, :, room:, -1] = 1.0

    def keep(self, first: int, rows: Sequence[int]) -> None:
        """Move the tokens first + rows to first, first + 1, ...; forget all behind them."""
        if list(rows) != list(range(len(rows))):
            chosen = torch.tensor([first + row for row in rows])
            for store in (self.keys, self.values):
                store[:, :, first : first + len(rows)] = store.index_select(2, chosen)
        self.length = first + len(rows)
        for layer in self.layers:
            layer.forget(first)

    def crop(self, more: int) -> None:
        """Forget the newest -more tokens, as `transformers`' caches do."""
        self.length += more
        for layer in self.layers:
            layer.forget(self.length)


class LayerView:
    """One layer as `transformers`' caches show it: keys and values float32 [1, kv heads, length, d].

    The float32 form is made on demand and kept, so that a drafter which reads the layer at every step
    pays for the new tokens only.
    """

    def __init__(self, cache: KeyValueCache, layer: int):
        self._cache, self._layer, self._known = cache, layer, 0
        self._stores: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def keys(self) -> torch.Tensor:
        return self._view()[0]

    @property
    def values(self) -> torch.Tensor:
        return self._view()[1]

    def forget(self, length: int) -> None:
        self._known = min(self._known, length)

    @torch.inference_mode()
    def extended(self, start: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `start` keys and values and these [kv heads, k, d] behind them, float32 [kv heads, start + k, d].

        Valid until the next look at this layer; the cache itself is not changed.
        """
        self._view()
        end = start + key.shape[1]
        self._make_room(end)
        for store, block in zip(self._stores, (key, value), strict=True):
            store[:, start:end] = block
        self.forget(start)
        return tuple(store[:, :end] for store in self._stores)

    @torch.inference_mode()
    def _view(self) -> tuple[torch.Tensor, torch.Tensor]:
        known, length = self._known, self._cache.length
        self._make_room(length)
        if known < length:
            for store, source in zip(self._stores, (self._cache.keys, self._cache.values), strict=True):
                store[:, known:length] = source[self._layer, :, known:length, : store.shape[2]]
            self._known = length
        return tuple(store[None, :, :length] for store in self._stores)

    def _make_room(self, total: int) -> None:
        heads, _, head_dim = self._cache.keys.shape[1:]
        if self._stores is None:
            self._stores = (torch.zeros(heads, 0, head_dim), torch.zeros(heads, 0, head_dim))
        room = self._stores[0].shape[1]
        if total > room:
            more = max(total - room, CHUNK, room // 4)
            self._stores = tuple(F.pad(store, (0, 0, 0, more)) for store in self._stores)


class LlamaDecoder:
    """The layers and the head of a `transformers` Llama, products in one arithmetic.

    arithmetic: "float32" or "bfloat16" (products only; everything between them is float32).
    """

    def __init__(self, model: torch.nn.Module, arithmetic: str):
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.group = self.heads // self.kv_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self._eps = torch.tensor(config.rms_norm_eps)
        self.context = int(config.max_position_embeddings)
        self.embedding = model.get_input_embeddings().weight
        base = model.base_model
        self.layers = [_Layer(layer, arithmetic, self) for layer in base.layers]
        self.head = FloatLinear(model.get_output_embeddings().weight, base.norm.weight, arithmetic)
        self._norm = base.norm.weight.float()
        self._angles(config.rope_parameters["rope_theta"])

    def _angles(self, theta: float) -> None:
        """cos and signed sin float32 [context, 1, d]: rotated = x cos + (x with its halves swapped) sin."""
        inverse = theta ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
        angle = torch.arange(self.context, dtype=torch.float32)[:, None] * inverse
        self.cos = torch.cat([angle.cos(), angle.cos()], 1)[:, None]
        self.sin = torch.cat([-angle.sin(), angle.sin()], 1)[:, None]

    def new_cache(self) -> KeyValueCache:
        return KeyValueCache(len(self.layers), self.kv_heads, self.head_dim)

    def keep(self, cache: KeyValueCache, first: int, rows: Sequence[int]) -> None:
        cache.keep(first, rows)

    def prefill(self, cache: KeyValueCache, ids: Sequence[int]) -> None:
        """Append `ids` to the cache in one pass; no logits."""
        past, n = cache.length, len(ids)
        end = past + n
        cache.reserve(end)
        seen = torch.ones(n, end, dtype=torch.bool).tril(past) if past else None
        x = self.embedding[list(ids)].float()
        cos, sin = self.cos[past:end], self.sin[past:end]
        hidden = hidden_of(cache)
        all_layers, states = hidden is not None and len(self.layers) in hidden.entries, [x]
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, cos, sin)
            cache.keys[i, :, past:end] = k.transpose(0, 1)
            cache.values[i, :, past:end, :-1] = v.transpose(0, 1)
            if i == len(self.layers) - 1 and not all_layers:
                break
            keys, values = k.transpose(0, 1), v.transpose(0, 1)
            if past:
                keys = cache.keys[i, :, :end].to(q.dtype)
                values = cache.values[i, :, :end, :-1].to(q.dtype)
            mixed = (
                F.scaled_dot_product_attention(
                    q.transpose(0, 1)[None],
                    keys[None],
                    values[None],
                    seen,
                    is_causal=seen is None,
                    scale=1.0,
                    enable_gqa=True,
                )[0]
                .transpose(0, 1)
                .reshape(n, -1)
            )
            x = self._mlp(layer, layer.output.add_to(x, mixed))
            states.append(x)
        cache.length = end
        self._remember(hidden, past, states)

    def forward(self, cache: KeyValueCache, ids: Sequence[int], parents: Sequence[int] | None = None) -> torch.Tensor:
        """Append n `ids` to the cache, a chain or the tree that `parents` describe; logits float32 [n, V]."""
        n, past = len(ids), cache.length
        cache.reserve(past + n)
        width = -(-(past + n) // _ALIGN) * _ALIGN
        hidden, depth = tail(n, width - past, parents)
        x = self.embedding[list(ids)].float()
        if parents is None:
            cos, sin = self.cos[past : past + n], self.sin[past : past + n]
        else:
            place = past + depth
            cos, sin = self.cos[place], self.sin[place]
        states = [x]
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, cos, sin)
            keys, values = cache.keys[i], cache.values[i]
            keys[:, past : past + n] = k.transpose(0, 1)
            values[:, past : past + n, :-1] = v.transpose(0, 1)
            x = layer.output.add_to(x, self._attend(q, keys[:, :width], values[:, :width], hidden))
            x = self._mlp(layer, x)
            states.append(x)
        cache.length = past + n
        self._remember(hidden_of(cache), past, states)
        return self.head(x, self._rms(x))

    def _remember(self, hidden, first: int, states: list[torch.Tensor]) -> None:
        if hidden is None:
            return
        last = len(self.layers)
        if last in hidden.entries:
            states[last] = states[last] * self._rms(states[last]) * self._norm
        hidden.put(first, [states[entry] for entry in hidden.entries])

    def _project(self, layer, x, cos, sin):
        """Rotated queries [n, heads, d] and keys [n, kv heads, d], values [n, kv heads, d]."""
        both, split = self.heads + self.kv_heads, self.heads
        qkv = layer.qkv(x, self._rms(x)).view(len(x), both + self.kv_heads, self.head_dim)
        qk = qkv[:, :both]
        rotated = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin)
        return rotated[:, :split], rotated[:, split:], qkv[:, both:]

    def _attend(self, q, keys, values, hidden):
        """float64 from the scores to the mixture; q [n, heads, d] already holds the factor 1 / sqrt(d)."""
        n, kv, group, d = len(q), self.kv_heads, self.group, self.head_dim
        wide = torch.empty(kv, n, group, d, dtype=torch.float64)
        wide.copy_(q.view(n, kv, group, d).transpose(0, 1))
        scores = torch.bmm(wide.view(kv, n * group, d), keys.transpose(1, 2))
        scores.view(kv, n, group, -1)[..., -hidden.shape[-1] :] += hidden
        weights = scores.float()
        weights -= weights.amax(-1, keepdim=True)
        mixed = torch.bmm(weights.exp_().double(), values)
        out = torch.empty(n, kv, group, d)
        torch.div(mixed[..., :d], mixed[..., d:], out=mixed[..., :d])
        out.copy_(mixed[..., :d].view(kv, n, group, d).transpose(0, 1))
        return out.view(n, -1)

    def _mlp(self, layer, x):
        gate, up = layer.gate_up(x, self._rms(x)).chunk(2, -1)
        return layer.down.add_to(x, F.silu(gate).mul_(up))

    def _rms(self, x):
        """1 / root mean square of each row, float32 [n, 1]."""
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return torch.addcmul(self._eps, norm, norm, value=1 / x.shape[1]).rsqrt_()


class _Layer:
    """One layer's four products."""

    def __init__(self, layer, arithmetic: str, shape: LlamaDecoder):
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = (getattr(attention, f"{name}_proj").weight.float() for name in "qkv")
        gate, up, down = (getattr(mlp, f"{name}_proj").weight.float() for name in ("gate", "up", "down"))

        def linear(parts, norm=None):
            return FloatLinear(torch.cat(parts), norm and norm.weight, arithmetic)

        # The attention's 1 / sqrt(d) belongs to the queries.
        self.qkv = linear((q * shape.head_dim**-0.5, k, v), layer.input_layernorm)
        self.output = linear((attention.o_proj.weight.float(),))
        self.gate_up = linear((gate, up), layer.post_attention_layernorm)
        self.down = linear((down,))


def tail(n: int, columns: int, parents: Sequence[int] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """What the n new tokens must not see of the last `columns`, and how deep each stands.

    Additive float64 [n, 1, columns], 0 or -inf, for all heads of a group; int64 [n].
    """
    hidden = torch.full((n, columns), -torch.inf, dtype=torch.float64)
    unseen, depth = visibility(n, parents)
    hidden[:, :n].masked_fill_(torch.from_numpy(~unseen), 0.0)
    return hidden[:, None], torch.from_numpy(depth)
