"""Diffusion drafters: one pass fills k masked positions at once.

Two families share one interface:

StandaloneDrafter   a pretrained diffusion language model, as in the paper: it reads token ids
BlockDrafter        a small block drafter tied to one target: it also reads the key-value cache
                    the target has already computed (as DFlash, arXiv 2602.06036)

The embedded drafter is of the second kind. The paper's method needs no training; this stand-in
did, because no pretrained diffusion model exists at its size.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from diffuspec.errors import PairError, WeightsError
from diffuspec.method.proxy import Following
from diffuspec.models.float.linear import FloatLinear, fastest_arithmetic
from diffuspec.models.float.llama import LayerView
from diffuspec.models.int8.decoder import Int8Cache, Int8Stack, LayerWeights, Ranks
from diffuspec.models.int8.ranks import likeliest_few
from diffuspec.models.target import Target

MASKED = -1
LAYER_BITS = 4  # of a compiled drafter: a draft may be rounded, what it proposes is verified
_NOT_LLAMA = ("_proj.bias", "q_norm.weight", "k_norm.weight")  # Qwen's, which the compiled layers do not know
ATTENTION = ("full", "block-causal", "causal-prefix")


class DiffusionDrafter(ABC):
    """What fills the masks. One's own needs `max_block` and `logits`; docs/drafters.md shows one.

    kind: how it is described, such as "standalone"; max_block: the largest k, 0 where there is no drafter.
    hidden_entries: of the target's hidden states, counted as in `models.hidden`, those that it wants to find in
    `cache.hidden`. following: "markov" or "selector" where it learned how tokens follow each other (`follow`);
    recurrent: whether that depends on all of the draft before a token, and not on the last one alone;
    predicts_acceptance: whether it learned how likely each position is accepted (`acceptance`).
    edition: of its weights, "" where nobody tells them apart.
    One drafter serves many runs at once: what belongs to a run stands in its cache.
    """

    kind: str = "custom"
    max_block: int
    edition: str = ""
    hidden_entries: tuple[int, ...] = ()
    following: str | None = None
    recurrent: bool = False
    predicts_acceptance: bool = False

    @abstractmethod
    def logits(self, prefix: Sequence[int], block: Sequence[int], cache: DynamicCache) -> torch.Tensor:
        """One denoising pass: logits [k, drafter's vocabulary] of the k block positions after `prefix`.

        block: k token ids, `MASKED` where the position is to be filled; cache: the target's, holding
        prefix[:-1]. The newest token of the prefix is the *anchor*: emitted, not yet in that cache.
        """

    def to_target_ids(self, columns: torch.Tensor) -> torch.Tensor:
        """Columns of the drafter's logits -> token ids of the target, the same unless the drafter has its own."""
        return columns

    def follow(self, cache, anchor: int, ids: np.ndarray, logq: np.ndarray) -> Following:
        """The learned left-to-right term over the lattice drafted last, ids and logq [k, W], after the anchor."""
        raise NotImplementedError

    def acceptance(self, cache, anchor: int, ids: np.ndarray, logq: np.ndarray) -> np.ndarray:
        """How likely each of its positions is accepted if those before it are, float32 [k]."""
        raise NotImplementedError

    def ranked(
        self, prefix: Sequence[int], block: Sequence[int], cache: DynamicCache, width: int
    ) -> tuple[torch.Tensor, np.ndarray]:
        """Of one denoising pass, as `logits`: columns int64 of the largest of each row, best first, and their log q,
        float32, both [k, at most width]."""
        return _ranked(self.logits(prefix, block, cache).float(), width)

    @torch.inference_mode()
    def draft(
        self, prefix: Sequence[int], k: int, *, width: int, passes: int, cache: DynamicCache
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranked candidates of the k positions after `prefix`: ids int32 and log q float32, both [k, width].

        With S = passes > 1, pass s fills the most confident masks until ceil(k s / S) are filled (Eq. 5);
        a column shows the distribution from which its position was filled.
        """
        block = [MASKED] * k
        if passes == 1:
            columns, logp = self.ranked(prefix, block, cache, width)
            return self.to_target_ids(columns).cpu().numpy().astype(np.int32), logp
        ids = np.zeros((k, width), np.int32)
        logq = np.zeros((k, width), np.float32)
        for s in range(1, min(passes, k) + 1):
            columns, logp = self.ranked(prefix, block, cache, width)
            tokens = self.to_target_ids(columns).cpu().numpy()
            masked = [i for i in range(k) if block[i] == MASKED]
            masked.sort(key=lambda i: -logp[i, 0])
            for i in masked[: math.ceil(k * s / min(passes, k)) - (k - len(masked))]:
                ids[i], logq[i] = tokens[i], logp[i]
                block[i] = int(tokens[i, 0])
        return ids, logq

    @torch.inference_mode()
    def extend(
        self, prefix: Sequence[int], ids: np.ndarray, logq: np.ndarray, more: int, *, width: int, cache: DynamicCache
    ) -> tuple[np.ndarray, np.ndarray]:
        """A draft and `more` columns behind it: one pass over masks after its likeliest tokens."""
        k = len(ids)
        columns, logp = self.ranked(prefix, [*ids[:, 0].tolist(), *[MASKED] * more], cache, width)
        new = self.to_target_ids(columns[k:]).cpu().numpy().astype(np.int32)
        return np.concatenate([ids, new]), np.concatenate([logq, logp[k:]])


def _ranked(logits: torch.Tensor, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Columns int64 [k, width] of the largest of each row of logits float32 [k, V], and their log q, float32."""
    if logits.device.type == "cpu":
        columns, values, norms = likeliest_few(logits.contiguous().numpy(), min(width, logits.shape[1]))
        return torch.from_numpy(columns).long(), values - norms[:, None]
    values, columns = logits.topk(min(width, logits.shape[1]), dim=-1)
    return columns, (values - logits.logsumexp(-1, keepdim=True)).cpu().numpy()


@dataclass(frozen=True)
class Convention:
    """How a standalone diffusion model wants to be read.

    mask_token: its mask as an id or as text of the tokenizer; attention: "full", "block-causal" (then
    blocks of `block` positions, counted from the start of the text) or "causal-prefix" (the text is read
    causally, the newest token and k - 1 masks see everything: what `training` makes, always shifted);
    shifted: True for models adapted from autoregressive ones, where position p is read from output row
    p - 1; layout: the transformers class whose weight names the checkpoint uses, where its own type is not
    built in; context: tokens the model can hold, prompt and draft together.
    """

    mask_token: int | str
    attention: str = "full"
    shifted: bool = False
    block: int = 32
    layout: str | None = None
    context: int | None = None


class StandaloneDrafter(DiffusionDrafter):
    """A diffusion LM that sees token ids only; the whole text is read at each pass (as the paper does)."""

    kind = "standalone"

    def __init__(self, model: torch.nn.Module, mask_id: int, convention: Convention, target_vocab: int):
        if convention.attention not in ATTENTION:
            raise PairError(f"Unknown attention {convention.attention!r}: use {', '.join(ATTENTION)}.")
        if convention.attention == "causal-prefix" and not convention.shifted:
            raise PairError("Causal-prefix drafters are shifted: say so (--shifted).")
        self.model, self.mask_id, self.convention = model.eval(), mask_id, convention
        self.context = convention.context or int(model.config.max_position_embeddings)
        self.max_block = min(100, self.context - 1)
        width = model.get_output_embeddings().weight.shape[0]
        if not 0 <= mask_id < width:
            raise PairError(f"The mask id {mask_id} lies outside the drafter's vocabulary of {width}.")
        self._rows, self._vocab = width, min(width, target_vocab)

    def logits(self, prefix, block, cache):
        room = self.context - len(block)
        text = list(prefix)[-room:]
        # What this project trains never saw a mask in the place that its last row predicts.
        rows_read = block[:-1] if self.convention.attention == "causal-prefix" else block
        n = len(text) + len(rows_read)
        known = [
            t if 0 <= t < self._rows else self.mask_id for t in (*text, *rows_read)
        ]  # the rest are masks, or padding
        ids = torch.tensor([known], device=self.model.device)
        out = self.model(ids, attention_mask=self._mask(n, len(text) - 1), use_cache=False).logits[0]
        first = len(text) - int(self.convention.shifted)
        rows = out[first : first + len(block), : self._vocab]
        if self.mask_id < self._vocab:
            rows = rows.clone()
            rows[:, self.mask_id] = -torch.inf
        return rows

    def _mask(self, n: int, anchor: int) -> torch.Tensor:
        """Additive attention mask [1, 1, n, n]: 0 where row i may look at column j; anchor: the newest token's row."""
        mask = torch.zeros(n, n, dtype=self.model.dtype, device=self.model.device)
        if self.convention.attention == "block-causal":
            block = torch.arange(n, device=self.model.device) // self.convention.block
            mask.masked_fill_(block[None, :] > block[:, None], torch.finfo(mask.dtype).min)
        elif self.convention.attention == "causal-prefix":
            mask[:anchor] = torch.full_like(mask[:anchor], torch.finfo(mask.dtype).min).triu(1)
        return mask[None, None]


class NoDrafter(DiffusionDrafter):
    """Of a pair without one: drafts are what the text and the n-gram offer, and no position is ever masked."""

    kind = "none"
    max_block = 0

    def logits(self, prefix, block, cache):
        raise PairError("This pair has no diffusion drafter.")


class BlockDrafter(DiffusionDrafter):
    """The embedded drafter: a few of the target's layers, of Llama's or Qwen's form, over a block of masks.

    Row 0 of the block is the embedding of the anchor at position P, rows 1 .. k - 1 stand for positions
    P + 1 ..; row i predicts the token at P + 1 + i. Layer i attends, without a mask, to the target's cached
    keys and values of its layer target_layers[i] for positions 0 .. P - 1 and to the block itself. The
    output is a dot product with the target's embeddings of a reduced draft vocabulary, or with `head.weight`
    where the target's output is not tied to its input.
    """

    kind = "target-conditioned"

    def __init__(self, config: dict, weights: dict[str, torch.Tensor], target: Target):
        shape = target.shape
        for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
            if getattr(shape, name) != config[name]:
                raise PairError(f"The drafter was made for a target of {name} {config[name]}: {config['target']}.")
        self.config = config
        self.max_block = config["max_block"]
        self.heads, self.kv_heads, self.head_dim = (
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
        )
        embedding, device = target.embedding, target.device
        self.draft_vocab = weights["draft_vocab"].long().to(device)
        if isinstance(embedding, torch.Tensor):
            dtype = torch.float32 if device.type == "cpu" else embedding.dtype
            embedding = embedding.to(dtype)
            named = embedding[self.draft_vocab]
        else:
            dtype, named = torch.float32, torch.from_numpy(embedding[self.draft_vocab.numpy()])
        arithmetic = fastest_arithmetic(device)  # a draft may be rounded: what it proposes is verified
        self._embedding = embedding
        weights = {name: tensor.to(device, dtype) for name, tensor in weights.items() if name != "draft_vocab"}
        self._mask = weights["mask_embedding"]
        output = weights.get("head.weight", named)
        layers = [f"layers.{i}." for i in range(len(config["target_layers"]))]
        self._compiled = target.arithmetic == "int8" and not any(name.endswith(_NOT_LLAMA) for name in weights)
        if self._compiled:
            self._stack = Int8Stack(
                (_layer_weights(weights, at) for at in layers),
                weights["norm.weight"],
                output,
                heads=self.heads,
                kv_heads=self.kv_heads,
                head_dim=self.head_dim,
                eps=config["rms_norm_eps"],
                theta=config["rope_theta"],
                positions=target.context + self.max_block,
                bits=LAYER_BITS,
            )
            self._source = np.array(config["target_layers"], np.int32)
            # In numpy's hands, for the reason given in `Int8Decoder`.
            self._mask = self._mask.numpy()
            if isinstance(embedding, torch.Tensor):
                self._embedding = embedding.detach().numpy()
            return
        self._head = FloatLinear(output, weights["norm.weight"], arithmetic)
        self._layers = [_Layer(weights, at, arithmetic) for at in layers]
        self._eps = torch.tensor(config["rms_norm_eps"], device=device, dtype=dtype)
        inverse = config["rope_theta"] ** (-torch.arange(0, self.head_dim, 2, device=device) / self.head_dim)
        angle = torch.arange(target.context + self.max_block, device=device)[:, None] * inverse
        self._cos = torch.cat([angle.cos(), angle.cos()], 1)[:, None].to(dtype)
        self._sin = torch.cat([-angle.sin(), angle.sin()], 1)[:, None].to(dtype)

    def ranked(self, prefix, block, cache, width):
        if not self._compiled:
            return super().ranked(prefix, block, cache, width)
        _, (columns, best, norms) = self._run_compiled(self._rows(prefix, block), len(prefix) - 1, cache, width)
        return torch.from_numpy(columns).long(), best - norms[:, None]

    def logits(self, prefix, block, cache):
        k, start = len(block), len(prefix) - 1
        rows = self._rows(prefix, block)
        if self._compiled:
            return torch.from_numpy(self._run_compiled(rows, start, cache)[0])
        cos, sin = self._cos[start : start + k], self._sin[start : start + k]
        for layer, source in zip(self._layers, self.config["target_layers"], strict=True):
            rows = layer.output.add_to(rows, self._attend(layer, rows, cache.layers[source], start, cos, sin))
            gate, up = layer.gate_up(rows, self._rms(rows)).chunk(2, -1)
            rows = layer.down.add_to(rows, F.silu(gate).mul_(up))
        return self._head(rows, self._rms(rows))

    def _rows(self, prefix, block):
        """What is read: the anchor and the block but its last position, which no row stands for [k, h]."""
        rows = self._embedding[[prefix[-1], *(max(t, 0) for t in block[:-1])]]
        rows[[i + 1 for i, t in enumerate(block[:-1]) if t == MASKED]] = self._mask
        return rows

    def _run_compiled(self, rows: np.ndarray, start: int, cache: Int8Cache, few: int = 0) -> tuple[np.ndarray, Ranks]:
        """The block's keys and values stand behind the target's for the time of this pass."""
        k = len(rows)
        with cache.scratch(start, k):
            place, nothing = start + np.arange(k), np.zeros((k, k), bool)
            return self._stack(rows, cache, self._source, start, nothing, place, few=few)

    def _rms(self, rows):
        """1 / root mean square of each row [k, 1]."""
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return torch.addcmul(self._eps, norm, norm, value=1 / rows.shape[1]).rsqrt_()

    def _attend(self, layer, rows, past, start, cos, sin):
        k, kv = len(rows), self.kv_heads
        mixed = layer.qkv(rows, self._rms(rows))
        if layer.bias is not None:  # Qwen2
            mixed = mixed + layer.bias
        mixed = mixed.view(k, -1, self.head_dim)
        turned, value = mixed[:, : self.heads + kv], mixed[:, self.heads + kv :].transpose(0, 1)
        if layer.head_norms is not None:  # Qwen3
            parts = zip((turned[:, : self.heads], turned[:, self.heads :]), layer.head_norms, strict=True)
            turned = torch.cat([F.rms_norm(part, norm.shape, norm, float(self._eps)) for part, norm in parts], 1)
        turned = torch.addcmul(turned * cos, turned.roll(self.head_dim // 2, -1), sin).transpose(0, 1)
        query, key = turned[: self.heads], turned[self.heads :]
        if start and isinstance(past, LayerView):
            key, value = past.extended(start, key, value)
        elif start:
            key = torch.cat([past.keys[0, :, :start].to(key.dtype), key], 1)
            value = torch.cat([past.values[0, :, :start].to(key.dtype), value], 1)
        # Without a mask, the query heads that share a key head are just more rows.
        seen = F.scaled_dot_product_attention(query.reshape(1, kv, -1, self.head_dim), key[None], value[None])
        return seen.view(self.heads, k, self.head_dim).transpose(0, 1).reshape(k, -1)

    def to_target_ids(self, columns):
        return self.draft_vocab[columns]


class _Layer:
    """One layer's weights, products that share an input fused into one."""

    def __init__(self, weights: dict[str, torch.Tensor], at: str, arithmetic: str):
        def linear(*names, norm=None):
            stacked = torch.cat([weights[f"{at}{name}.weight"] for name in names])
            return FloatLinear(stacked, norm and weights[f"{at}{norm}.weight"], arithmetic)

        self.qkv = linear(*(f"self_attn.{name}_proj" for name in "qkv"), norm="input_layernorm")
        attention = f"{at}self_attn."
        biased, normed = f"{attention}q_proj.bias" in weights, f"{attention}q_norm.weight" in weights
        self.bias = torch.cat([weights[f"{attention}{name}_proj.bias"] for name in "qkv"]) if biased else None
        self.head_norms = [weights[f"{attention}{name}_norm.weight"] for name in "qk"] if normed else None
        self.output = linear("self_attn.o_proj")
        self.gate_up = linear("mlp.gate_proj", "mlp.up_proj", norm="post_attention_layernorm")
        self.down = linear("mlp.down_proj")


def _layer_weights(weights: dict[str, torch.Tensor], at: str) -> LayerWeights:
    def stacked(*names):
        return torch.cat([weights[f"{at}{name}.weight"] for name in names])

    return LayerWeights(
        qkv=stacked(*(f"self_attn.{name}_proj" for name in "qkv")),
        output=stacked("self_attn.o_proj"),
        gate_up=stacked("mlp.gate_proj", "mlp.up_proj"),
        down=stacked("mlp.down_proj"),
        norm=stacked("input_layernorm"),
        post_norm=stacked("post_attention_layernorm"),
    )


SCALE = ".scale"


def pack(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """8-bit form of a drafter: matrices as int8 with one float32 scale an output row, the rest, and what has that form
    already, as it is."""
    packed = {}
    for name, tensor in weights.items():
        if tensor.ndim != 2 or name + SCALE in weights or name.endswith(SCALE):
            packed[name] = tensor.clone()
            continue
        tensor = tensor.float()
        scale = tensor.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        packed[name] = (tensor / scale).round().to(torch.int8)
        packed[name + SCALE] = scale
    return packed


def unpack(packed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The float32 weights that `pack` wrote down; tensors without a scale are returned as they are."""
    return {
        name: tensor.float() * packed[name + SCALE] if name + SCALE in packed else tensor
        for name, tensor in packed.items()
        if not name.endswith(SCALE)
    }


def pack_folder(
    source: Path, out: Path, tokens: torch.Tensor | None = None, others: Sequence[Path] = ()
) -> tuple[int, int]:
    """Write the 8-bit form of a drafter's folder to `out`; bytes of the weights before and after.

    tokens: int64, what is left of the draft vocabulary; by default all of it. The product with it is a third of a
    draft pass, and most of its tokens are hardly ever drafted. others: drafters of the same shape and vocabulary,
    of whose weights and the source's the mean is taken; those of successive stages are better together
    (Wortsman et al., "Model soups", arXiv 2203.05482).
    Raises `WeightsError` where a folder is damaged or they do not go together.
    """
    try:
        config = json.loads((source / "config.json").read_text())
        weights = load_file(source / "model.safetensors")
        if others:
            weights = _mean([unpack(load_file(path / "model.safetensors")) for path in (source, *others)])
        if tokens is not None:
            kept = torch.isin(weights["draft_vocab"], tokens)
            for name in {"draft_vocab", "head.weight", "head.weight" + SCALE} & weights.keys():
                weights[name] = weights[name][kept]
            config["draft_vocab_size"] = int(kept.sum())
        out.mkdir(parents=True, exist_ok=True)
        save_file(pack(weights), out / "model.safetensors")
        (out / "config.json").write_text(json.dumps(config, indent=1))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsError(f"Cannot pack {source} into {out}: {error}.") from error
    return (source / "model.safetensors").stat().st_size, (out / "model.safetensors").stat().st_size


def _mean(drafters: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of each floating tensor, in float32; `ValueError` where shapes or draft vocabularies differ."""
    first, mean = drafters[0], {}
    for name, tensor in first.items():
        all_ = [drafter.get(name) for drafter in drafters]
        if any(other is None or other.shape != tensor.shape for other in all_):
            raise ValueError(f"{name} is not of the same shape in all of them")
        if tensor.is_floating_point():
            mean[name] = torch.stack([other.float() for other in all_]).mean(0)
        elif any(not torch.equal(other, tensor) for other in all_):
            raise ValueError(f"{name} differs")
        else:
            mean[name] = tensor
    return mean


def edition_of(folder: Path) -> str:
    """Of a drafter's folder: the first 12 digits of the sha256 of its weights, so that other weights are another."""
    with (folder / "model.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def load_block_drafter(folder: Path, target: Target) -> BlockDrafter:
    """A block drafter from `config.json` and `model.safetensors` (8-bit or plain); `WeightsError` if damaged."""
    try:
        config = json.loads((folder / "config.json").read_text())
        drafter = BlockDrafter(config, unpack(load_file(folder / "model.safetensors")), target)
        drafter.edition = edition_of(folder)
        return drafter
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, PairError):
            raise
        raise WeightsError(
            f"The drafter in {folder.name}/ is missing or damaged ({error}). Restore it with `git checkout -- assets`."
        ) from error
