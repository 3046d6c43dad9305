"""The drafter in its trainable form: a few of the target's own decoder layers, reading blocks of masks.

Any causal LM of `transformers` with a Llama or Qwen layout serves (`model.layers`, `norm`, `rotary_emb`): its
layers are copied as they are, with whatever biases and norms they have, and called with other keys and another mask.

target-conditioned   a block's rows attend to the keys and values that the *target* has computed, in draft layer i
                     those of its layer `layers[i]`, and to the block itself
standalone           the drafter reads the text itself: its rows are causal, the block's rows attend to all of them
                     and to the block; it costs the whole text at every training step

In both, row 0 of a block is the anchor's embedding and row i predicts the token i + 1 places after the anchor;
nothing is masked within a block. Embeddings are the target's, frozen; the output is a product with those of the
draft vocabulary.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from diffuspec.errors import WeightsError
from diffuspec.models.drafter import unpack
from diffuspec.training.blocks import Blocks
from diffuspec.training.data import write_atomically
from diffuspec.training.slots import grouped_attention  # noqa: F401  registers the attention

KINDS = ("target-conditioned", "standalone")


def spread_layers(count: int, wanted: int) -> list[int]:
    """The default choice: the first two layers, which embed, and an even spread up to the last one."""
    if not 1 <= wanted <= count:
        raise WeightsError(f"{wanted} layers cannot be taken from a target of {count}.")
    if wanted < 3:
        return [count - 1] if wanted == 1 else [0, count - 1]
    rest = [round(1 + (count - 2) * i / (wanted - 2)) for i in range(1, wanted - 1)]
    return [0, 1, *rest]


class _Prefix:
    """A cache in the eyes of one pass: stored keys and values in front of the block's own, nothing is kept."""

    def __init__(self, stored: torch.Tensor):
        self._stored = stored

    def update(self, key_states, value_states, layer, *args, **kwargs):
        key, value = self._stored[:, layer, 0], self._stored[:, layer, 1]
        return torch.cat([key, key_states], 2), torch.cat([value, value_states], 2)


def _narrowed(mlp: nn.Module, inner: int) -> None:
    """Keep `inner` of a gated feed-forward's channels: those that add most to the output where the input is noise, by
    the product of the norms of the weights into and out of them."""
    into = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1)
    kept = (into * mlp.down_proj.weight.norm(dim=0)).topk(inner).indices.sort().values
    for linear, dim in ((mlp.gate_proj, 0), (mlp.up_proj, 0), (mlp.down_proj, 1)):
        linear.weight = nn.Parameter(linear.weight.detach().index_select(dim, kept))
        if linear.bias is not None and dim == 0:
            linear.bias = nn.Parameter(linear.bias.detach()[kept])
        linear.out_features, linear.in_features = linear.weight.shape


class DrafterNetwork(nn.Module):
    """The block drafter as it is trained: layers copied from the target.

    layers: which of the target's layers are copied; draft_vocab: ids that the output ranks, int64 [V']; inner:
    channels of their feed-forwards that are kept, by default all: fewer make room for more layers at the same cost.
    """

    def __init__(
        self,
        target: nn.Module,
        layers: Sequence[int],
        draft_vocab: torch.Tensor,
        kind: str = KINDS[0],
        inner: int | None = None,
    ):
        super().__init__()
        if kind not in KINDS:
            raise WeightsError(f"Unknown kind of drafter {kind!r}: use {' or '.join(KINDS)}.")
        body = target.base_model
        self.kind, self.target_layers, self.config = kind, list(layers), copy.deepcopy(target.config)
        self.config._attn_implementation = "grouped"
        shape = self.config.get_text_config()
        self.key_heads, full = shape.num_key_value_heads, shape.intermediate_size
        if inner is not None and not 1 <= inner <= full:
            raise WeightsError(f"{inner} channels cannot be kept of feed-forwards of {full}.")
        shape.intermediate_size = inner or full
        self.layers = nn.ModuleList()
        for i, source in enumerate(layers):
            layer = copy.deepcopy(body.layers[source]).float().requires_grad_(True)
            layer.self_attn.layer_idx, layer.self_attn.config = i, self.config
            if inner:
                _narrowed(layer.mlp, inner)
            self.layers.append(layer)
        self.norm = copy.deepcopy(body.norm).float().requires_grad_(True)
        self._rotary = [body.rotary_emb]  # in lists: the target's own, no part of this module's state
        self._embedding = [target.get_input_embeddings().weight.detach().float()]
        output = target.get_output_embeddings().weight.detach().float()
        self._output, self._head = [output], [output[draft_vocab]]
        self.register_buffer("draft_vocab", draft_vocab.clone())
        self.mask_embedding = nn.Parameter(self._embedding[0].mean(0))

    def forward(self, blocks: Blocks, columns: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Logits of the blocks' supervised rows (`blocks.supervised`) [N, V'], or [N, M] of M columns of V' alone."""
        embedding = self._embedding[0]
        rows = embedding[blocks.inputs.clamp_min(0)]
        rows = torch.where((blocks.inputs < 0)[..., None], self.mask_embedding, rows)
        positions, mask, prefix = blocks.positions, blocks.mask, None
        if self.kind == "standalone":
            text = blocks.text
            rows = torch.cat([embedding[text], rows], 1)
            own = torch.arange(text.shape[1], device=text.device).expand(len(text), -1)
            positions = torch.cat([own, positions], 1)
            causal = torch.full((text.shape[1], mask.shape[-1]), -torch.inf, dtype=mask.dtype, device=mask.device).triu(
                1
            )
            mask = torch.cat([causal.expand(len(text), 1, -1, -1), mask], 2)
        else:
            prefix = _Prefix(blocks.prefix)
        cos_sin = self._rotary[0](rows, positions)
        for layer in self.layers:
            rows = layer(rows, attention_mask=mask, position_embeddings=cos_sin, past_key_values=prefix)
            rows = rows[0] if isinstance(rows, tuple) else rows
        rows = self.norm(rows[:, -blocks.inputs.shape[1] :][blocks.supervised])
        return F.linear(rows, self._head[0][columns])

    @property
    def device(self) -> torch.device:
        return self.mask_embedding.device

    def move(self, device: str | torch.device) -> DrafterNetwork:
        """Put the network, and what it borrows of the target, on a device."""
        self.to(device)
        self._rotary = [copy.deepcopy(self._rotary[0]).to(device)]
        self._embedding, self._output, self._head = (
            [part[0].to(device)] for part in (self._embedding, self._output, self._head)
        )
        return self

    def in_bfloat16(self) -> DrafterNetwork:
        """A copy in bfloat16, embeddings included."""
        twin = copy.deepcopy(self).bfloat16()
        twin._embedding, twin._output, twin._head = (
            [part[0].bfloat16()] for part in (self._embedding, self._output, self._head)
        )
        return twin

    def start_from(self, folder: Path) -> None:
        """Take the weights of a drafter that was exported before (8-bit or plain), instead of the target's; its
        draft vocabulary may be another."""
        try:
            weights = unpack(load_file(folder / "model.safetensors"))
            names = [name for name in self.state_dict() if name != "draft_vocab"]
            self.load_state_dict({name: weights[name].float() for name in names}, strict=False)
        except (OSError, KeyError, RuntimeError) as error:
            raise WeightsError(f"The drafter in {folder} does not fit this one ({error}).") from error


def shape_of(folder: Path) -> tuple[tuple[int, ...], int]:
    """The target's layers that an exported, target-conditioned drafter reads, and its feed-forwards' channels."""
    try:
        config = json.loads((folder / "config.json").read_text())
        return tuple(config["target_layers"]), config["intermediate_size"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} holds no target-conditioned drafter ({error}).") from error


def export(
    network: DrafterNetwork, weights: dict[str, torch.Tensor], folder: Path, *, name: str, max_block: int, eos: int
) -> None:
    """Write a drafter's folder, bfloat16: what `load_block_drafter` reads, or a checkpoint in the target's own layout.

    weights: those of `network.state_dict()`, or an average of them. name: the target's; eos: the id it was trained
    to put after the end. A standalone drafter's mask is the row behind the target's vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = network.config.get_text_config()
    if network.kind == "standalone":
        config = shape.to_dict() | {
            "num_hidden_layers": len(network.layers),
            "vocab_size": len(network._embedding[0]) + 1,
            "tie_word_embeddings": False,
        }
        config.pop("layer_types", None)
        mask = weights["mask_embedding"][None]
        stored = {f"model.{key}": value for key, value in weights.items() if key.startswith(("layers.", "norm."))}
        stored["model.embed_tokens.weight"] = torch.cat([network._embedding[0], mask])
        stored["lm_head.weight"] = torch.cat([network._output[0], torch.zeros_like(mask)])
    else:
        config = {
            "target": name,
            "target_layers": network.target_layers,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_attention_heads": shape.num_attention_heads,
            "num_key_value_heads": shape.num_key_value_heads,
            "head_dim": getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads,
            "rms_norm_eps": shape.rms_norm_eps,
            "rope_theta": shape.rope_parameters["rope_theta"],
            "max_block": max_block,
            "draft_vocab_size": len(network.draft_vocab),
            "eos_token_id": eos,
        }
        stored = dict(weights) | {"draft_vocab": network.draft_vocab.int()}
        if not shape.tie_word_embeddings:
            stored["head.weight"] = network._head[0]
        if shape.rope_parameters.get("rope_type", "default") != "default":
            raise WeightsError("Only plain rotary positions are known to the block drafter, not a scaled form.")
    stored = {
        key: (value if value.dtype == torch.int32 else value.bfloat16()).contiguous() for key, value in stored.items()
    }
    write_atomically(folder / "model.safetensors", lambda path: save_file(stored, path))
    write_atomically(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=1)))
