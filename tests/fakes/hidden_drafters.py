"""Tiny targets, and tiny DFlash, DFlash 2 and DSpark drafters of random weights in the formats of their makers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from diffuspec.models.dflash.formats import read_shape
from diffuspec.models.dflash.network import expected_tensors

VOCAB, LAYERS, BLOCK, MASK = 264, 8, 8, 4
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    rms_norm_eps=1e-6,
    attention_bias=False,
)
DRAFTER = {**SHAPE, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
SELECTOR = dict(conv_kernel_size=2, conv_group_size=8, selector_rank=6, selector_top_k=9)
MARKOV = dict(markov_rank=6, markov_head_type="vanilla", enable_confidence_head=True, confidence_head_with_markov=True)
IDS = [1, 3, 6]


def target_model(kind: str = "qwen3", seed: int = 0):
    """A random target of eight layers; "qwen3" runs on its own layers of transformers, "llama" on ours."""
    torch.manual_seed(seed)
    config, network = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    model = network(
        config(
            **SHAPE,
            num_hidden_layers=LAYERS,
            tie_word_embeddings=True,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=None,
        )
    ).eval()
    model.generation_config.eos_token_id = [1, 3]
    return model


def zlab(kind: str = "dflash", **changes) -> dict:
    """The config.json of z-lab: what is the drafter's own stands under dflash_config."""
    own = {"mask_token_id": MASK, "target_layer_ids": IDS, **(SELECTOR if kind == "dflash2" else {})}
    name = {"dflash": "DFlashDraftModel", "dflash2": "DFlash2DraftModel"}[kind]
    return {
        **DRAFTER,
        "architectures": [name],
        "model_type": "qwen3",
        "block_size": BLOCK,
        "num_target_layers": LAYERS,
        "dflash_config": own,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        **changes,
    }


def deepspec(**changes) -> dict:
    return {
        **DRAFTER,
        "architectures": ["Qwen3DSparkModel"],
        "model_type": "qwen3",
        "block_size": BLOCK,
        **MARKOV,
        "num_target_layers": LAYERS,
        "mask_token_id": MASK,
        "target_layer_ids": IDS,
        "num_anchors": 4,
        "rope_theta": 10000.0,
        **changes,
    }


def speculators(kind: str, **changes) -> dict:
    """Entries of hidden_states, not layers: one more than z-lab's for the same layers."""
    more = {"dflash": {}, "dflash2": SELECTOR, "dspark": MARKOV}[kind]
    return {
        "speculators_model_type": kind,
        "architectures": ["DFlashSpeculator"],
        "block_size": BLOCK,
        "draft_vocab_size": VOCAB,
        "mask_token_id": MASK,
        "aux_hidden_state_layer_ids": [i + 1 for i in IDS],
        "transformer_layer_config": {**DRAFTER, "model_type": "qwen3", "rope_theta": 10000.0},
        **more,
        **changes,
    }


def random_weights(config: dict, seed: int = 5, own_output: bool = False) -> dict[str, torch.Tensor]:
    shape = read_shape(config, "tiny")
    sizes = expected_tensors(shape)
    if shape.draft_vocab != shape.vocab or own_output:
        sizes["lm_head.weight"] = (shape.draft_vocab, shape.stack["hidden_size"])
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, size in sizes.items():
        around = 1.0 if name.endswith("norm.weight") else 0.0
        weights[name] = around + 0.25 * torch.randn(size, generator=random)
        if name.endswith("base_kernel"):
            weights[name][:, 0] += 1.0
    if shape.draft_vocab != shape.vocab:
        ids = torch.randperm(shape.vocab, generator=random)[: shape.draft_vocab].sort().values
        weights["d2t"] = ids - torch.arange(shape.draft_vocab)
        weights["t2d"] = torch.isin(torch.arange(shape.vocab), ids)
    return weights


def write(folder: Path, config: dict, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


CONFIGS = {
    "dflash": zlab(),
    "dflash-sliding": zlab(
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        sliding_window=5,
        use_sliding_window=True,
    ),
    "dflash2": zlab("dflash2"),
    "dspark": deepspec(),
    "dspark-gated": deepspec(markov_head_type="gated"),
    "dspark-rnn": deepspec(markov_head_type="rnn"),
    "speculators-dflash": speculators("dflash", draft_vocab_size=120),
    "speculators-dflash2": speculators("dflash2"),
    "speculators-dspark": speculators("dspark", draft_vocab_size=120),
}
