"""Passes of one shape: rows with the same bits in plain decoding, in a chain and in a tree, in bfloat16 too.

A matrix product is summed by a kernel that is chosen by its shape, so that a row's last bits depend on how many rows
share the pass. Here every pass has `ROWS` rows, of which the unused ones are padding; a longer draft is read in several
of them. Attention is summed in float64 and rounded once, so that it does not matter where in the cache the tokens lie.
Then a row depends on its own text alone, and greedy answers are those of plain decoding token for token. A prompt is
read in passes of `WIDE` rows and then of `ROWS`, the same for every way of decoding.

On a GPU padding costs next to nothing, for a pass is bound by reading the weights; for each room of the cache the pass
is captured as a CUDA graph once, and replayed. On a CPU the same code runs without graphs, for tests and for whoever
wants exact bfloat16 there.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from diffuspec.models.hidden import hidden_of
from diffuspec.models.visibility import visibility

ROWS, WIDE = 16, 256  # of every pass, and of one over a prompt
FIRST_ROOM = 1024  # tokens that a cache can hold before it is doubled

KNOWN = ("llama", "qwen2", "qwen3")


def static_fits(model: torch.nn.Module) -> bool:
    """Whether `StaticDecoder` computes what this `transformers` model does, on one device."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        config.model_type in KNOWN
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and rope.get("rope_type", "default") in ("default", "linear", "llama3", "yarn")
        and kinds == {"full_attention"}
        and len({p.device for p in model.parameters()}) == 1
    )


class StaticCache:
    """Keys and values of one run; where they lie has a fixed room, and goes back to the decoder when the run is over.

    layers[i].keys and .values: [1, kv heads, length, d], as `transformers`' caches show them.
    """

    def __init__(self, decoder: StaticDecoder):
        self.decoder, self.length = decoder, 0
        self.buffers = decoder.lend(FIRST_ROOM)
        self.layers = [_LayerView(self, i) for i in range(decoder.depth)]
        self._returned = weakref.finalize(self, decoder.take_back, self.buffers)

    def get_seq_length(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        return self.buffers.keys.nbytes + self.buffers.values.nbytes

    def reserve(self, total: int) -> None:
        """Room for so many tokens and the padding behind them."""
        room = self.buffers.room
        if total + ROWS <= room:
            return
        while room < total + ROWS:
            room *= 2
        larger = self.decoder.lend(room)
        for new, old in ((larger.keys, self.buffers.keys), (larger.values, self.buffers.values)):
            new[:, :, : self.length] = old[:, :, : self.length]
        self._returned()
        self.buffers = larger
        self._returned = weakref.finalize(self, self.decoder.take_back, larger)

    def crop(self, more: int) -> None:
        """Forget the newest -more tokens, as `transformers`' caches do."""
        self.length += more


class _LayerView:
    def __init__(self, cache: StaticCache, layer: int):
        self._cache, self._layer = weakref.proxy(cache), layer

    @property
    def keys(self) -> torch.Tensor:
        return self._cache.buffers.keys[self._layer][None, :, : self._cache.length]

    @property
    def values(self) -> torch.Tensor:
        return self._cache.buffers.values[self._layer][None, :, : self._cache.length]


class _Buffers:
    """What one pass reads and writes, at fixed places: keys, values [layers, kv heads, room, d] and its inputs."""

    def __init__(self, decoder: StaticDecoder, room: int):
        shape = (decoder.depth, decoder.kv_heads, room, decoder.head_dim)
        like = {"device": decoder.device, "dtype": decoder.dtype}
        self.room = room
        self.keys, self.values = torch.zeros(shape, **like), torch.zeros(shape, **like)
        self.few = _Inputs(ROWS, room, decoder.device)
        self.replayed: _Replayed | None = None


class _Inputs:
    """ids, places (positions of the text) and columns (where in the cache) int64 [rows]; mask float64 [rows, room],
    0 or -inf."""

    def __init__(self, rows: int, room: int, device: torch.device):
        self.rows, self.room, self.device = rows, room, device
        self.ids = torch.zeros(rows, dtype=torch.long, device=device)
        self.places, self.columns = torch.zeros_like(self.ids), torch.arange(rows, device=device)
        self.mask = torch.zeros(rows, room, dtype=torch.float64, device=device)

    def fill(self, ids: Sequence[int], past: int, first: int, seen: torch.Tensor, places: torch.Tensor) -> None:
        """A part of a text that begins behind `past`: `ids`, its tokens from `first` on; seen bool [n, n]: which of
        its tokens each looks at; places int64 [n]."""
        rows, count = self.rows, len(ids)
        small = torch.zeros(3, rows, dtype=torch.long)
        small[0, :count] = torch.tensor(list(ids))
        small[1, :count] = places[first : first + count]
        small[2] = past + first + torch.arange(rows)
        table = torch.full((rows, first + rows), -torch.inf, dtype=torch.float64)
        table[:count, : first + count].masked_fill_(seen[first : first + count, : first + count], 0.0)
        for row in range(count, rows):  # padding sees itself alone
            table[row, first + row] = 0.0
        for tensor, row in zip((self.ids, self.places, self.columns), small.to(self.device), strict=True):
            tensor.copy_(row)
        self.mask.fill_(-torch.inf)
        self.mask[:, :past] = 0.0
        self.mask[:, past : past + first + rows] = table.to(self.device)


class _Replayed:
    """A function of fixed tensors: on a GPU captured as a CUDA graph and replayed, elsewhere called."""

    def __init__(self, run, device: torch.device):
        self._run, self._graph = run, None
        if device.type != "cuda":
            return
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries set themselves up in the first calls, which no graph may hold
                run()
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._made = run()

    def __call__(self):
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._made


class StaticDecoder:
    """The passes of a Llama, Qwen2 or Qwen3 of `transformers`, whose weights are used where they lie."""

    def __init__(self, model: torch.nn.Module):
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.depth, self.eps = config.num_hidden_layers, config.rms_norm_eps
        self.embedding = model.get_input_embeddings().weight
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self._base, self._head = model.base_model, model.get_output_embeddings().weight
        # In oneDNN's bfloat16 product a row's sums depend on its place among the others where there is AMX.
        amx = self.device.type == "cpu" and torch.cpu._is_amx_tile_supported()
        self._widen = amx and self.dtype == torch.bfloat16
        context = int(config.max_position_embeddings)
        with torch.inference_mode():
            turns = self._base.rotary_emb(
                self.embedding[:1].float()[None], torch.arange(context, device=self.device)[None]
            )
        self._cos, self._sin = (turn[0][:, None] for turn in turns)  # float32 [context, 1, d]
        self._idle: dict[int, list[_Buffers]] = {}
        self._lock = threading.Lock()

    def lend(self, room: int) -> _Buffers:
        with self._lock:
            waiting = self._idle.get(room)
            if waiting:
                return waiting.pop()
        return _Buffers(self, room)

    def take_back(self, buffers: _Buffers) -> None:
        with self._lock:
            self._idle.setdefault(buffers.room, []).append(buffers)

    def new_cache(self) -> StaticCache:
        return StaticCache(self)

    def prefill(self, cache: StaticCache, ids: Sequence[int]) -> None:
        """Append `ids` to the cache; no logits."""
        wide = len(ids) // WIDE * WIDE
        for first in range(0, wide, WIDE):
            self._read(cache, ids[first : first + WIDE], None, WIDE)
        if wide < len(ids):
            self._read(cache, ids[wide:], None)

    def forward(self, cache: StaticCache, ids: Sequence[int], parents: Sequence[int] | None = None) -> torch.Tensor:
        """Append n `ids` to the cache, a chain or the tree that `parents` describe; logits float32 [n, V]."""
        return torch.cat(self._read(cache, ids, parents))

    @torch.inference_mode()
    def _read(self, cache: StaticCache, ids: Sequence[int], parents, rows: int = ROWS) -> list[torch.Tensor]:
        n, past = len(ids), cache.length
        cache.reserve(past + n)
        unseen, depth = visibility(n, parents)
        seen, places = torch.from_numpy(~unseen), torch.from_numpy(past + depth)
        buffers, hidden, logits, states = cache.buffers, hidden_of(cache), [], []
        inputs, run = buffers.few, buffers.replayed
        if rows != ROWS:
            inputs = _Inputs(rows, buffers.room, self.device)
            run = functools.partial(self._pass, buffers, inputs, False)
        elif run is None:
            # The buffers hold their graph; the graph must not hold them, or they would stay for good.
            held = weakref.proxy(buffers)
            run = buffers.replayed = _Replayed(lambda: self._pass(held, held.few, True), self.device)
        for first in range(0, n, rows):
            count = min(rows, n - first)
            inputs.fill(ids[first : first + count], past, first, seen, places)
            made, entries = run()
            if made is not None:
                logits.append(made[:count].clone())
            if hidden is not None:
                states.append([entries[entry][:count].clone() for entry in hidden.entries])
        cache.length = past + n
        if hidden is not None:
            hidden.put(past, [torch.cat(parts) for parts in zip(*states, strict=True)])
        return logits

    def _pass(self, buffers: _Buffers, inputs: _Inputs, head: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Logits float32 [rows, V], if wanted, and the hidden states [rows, h] after the embedding and each layer, the
        last one normed."""
        cos, sin = self._cos[inputs.places], self._sin[inputs.places]
        x = self.embedding[inputs.ids]
        states = [x]
        for i, layer in enumerate(self._base.layers):
            attention = layer.self_attn
            h = self._norm(x, layer.input_layernorm)
            q, k, v = (self._linear(h, getattr(attention, f"{p}_proj")).view(len(x), -1, self.head_dim) for p in "qkv")
            if hasattr(attention, "q_norm"):
                q, k = self._norm(q, attention.q_norm), self._norm(k, attention.k_norm)
            keys, values = buffers.keys[i], buffers.values[i]
            keys.index_copy_(1, inputs.columns, self._turn(k, cos, sin).transpose(0, 1))
            values.index_copy_(1, inputs.columns, v.transpose(0, 1))
            mixed = self._attend(self._turn(q, cos, sin), keys, values, inputs.mask)
            x = x + self._linear(mixed, attention.o_proj)
            h = self._norm(x, layer.post_attention_layernorm)
            gated = F.silu(self._linear(h, layer.mlp.gate_proj)) * self._linear(h, layer.mlp.up_proj)
            x = x + self._linear(gated, layer.mlp.down_proj)
            states.append(x)
        states[-1] = self._norm(x, self._base.norm)
        return self._product(states[-1], self._head).float() if head else None, states

    def _norm(self, x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
        wide = x.float()
        return norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def _linear(self, x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
        made = self._product(x, layer.weight)
        return made if layer.bias is None else made + layer.bias

    def _product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self._widen:
            return F.linear(x.float(), weight.float()).to(x.dtype)
        return F.linear(x, weight)

    def _turn(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([-b, a], -1) * sin.to(x.dtype)

    def _attend(self, q, keys, values, mask) -> torch.Tensor:
        """float64 from the scores to the mixture; q [rows, heads, d] -> [rows, heads * d]."""
        rows, kv, group, d = len(q), self.kv_heads, self.heads // self.kv_heads, self.head_dim
        wide = q.double().view(rows, kv, group, d).transpose(0, 1).reshape(kv, rows * group, d)
        scores = torch.bmm(wide, keys.double().transpose(1, 2)).view(kv, rows, group, -1) * d**-0.5
        weights = (scores + mask[None, :, None]).softmax(-1).view(kv, rows * group, -1)
        mixed = torch.bmm(weights, values.double()).view(kv, rows, group, d)
        return mixed.transpose(0, 1).reshape(rows, -1).to(q.dtype)

    @torch.inference_mode()
    def keep(self, cache: StaticCache, first: int, rows: Sequence[int]) -> None:
        """Move the tokens first + rows to first, first + 1, ...; forget all behind them."""
        if list(rows) != list(range(len(rows))):
            chosen = torch.tensor([first + row for row in rows], device=self.device)
            for store in (cache.buffers.keys, cache.buffers.values):
                store[:, :, first : first + len(rows)] = store.index_select(2, chosen)
        cache.length = first + len(rows)
