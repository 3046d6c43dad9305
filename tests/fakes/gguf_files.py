"""Tiny GGUF files of the layouts that are known, and the models that transformers makes of the same numbers."""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>"]
TOKENS = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "Ġ{", "12", "ret", "return", "ĠĠ"]
MERGES = ["r e", "Ġ {", "1 2", "re t", "Ġ Ġ"]


def tiny(architecture: str, tied: bool = True, layers: int = 2, width: int = 256, **more):
    """A random model of two layers, 4 heads over 2 of 64, whose biases and norms matter."""
    torch.manual_seed(3)
    config, network = MODELS[architecture]
    model = (
        network(
            config(
                vocab_size=len(TOKENS) + 2,
                hidden_size=width,
                intermediate_size=512,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=64,
                max_position_embeddings=300,
                tie_word_embeddings=tied,
                initializer_range=0.06,
                rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
                bos_token_id=None,
                eos_token_id=0,
                pad_token_id=None,
                **more,
            )
        )
        .eval()
        .requires_grad_(False)
    )
    for name, number in model.named_parameters():
        if name.endswith("bias"):
            number.normal_(0, 0.5)
        elif "norm" in name:
            number.uniform_(0.5, 1.5)
    return model


def stored(matrix: np.ndarray, kind: Kind, random: np.random.Generator) -> np.ndarray:
    """Rows uint8 [out, bytes] that are near the matrix, or for kinds which nothing here writes at least as large."""
    try:
        return quantize(matrix, kind).view(np.uint8).reshape(len(matrix), -1)
    except NotImplementedError:
        width, size = GGML_QUANT_SIZES[kind]
        rows = random.integers(0, 256, (len(matrix) * matrix.shape[1] // width, size), np.uint8)
        numbers = {Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}[kind]
        halves = np.abs(random.normal(1, 0.2, (len(rows), 2))).astype(np.float16) * np.float16(2e-4)
        halves[:, 1] *= 16 if kind == Kind.Q5_K else 8  # the minimum: the numbers lie on both sides of 0
        for at, half in zip(numbers, halves.T, strict=False):
            rows[:, at : at + 2] = np.ascontiguousarray(half)[:, None].view(np.uint8)
        if kind == Kind.Q6_K:
            rows[:, 192:208] = random.integers(8, 40, (len(rows), 16), np.uint8)
        return rows.reshape(len(matrix), -1)


def write(path, model, kinds=Kind.F16, tokenizer: bool = True, **changes) -> None:
    """Store a model, whose weights become what the file says they are.

    kinds: of all matrices, or by a part of their name; changes: metadata that is replaced, or left out (None).
    """
    config, random = model.config, np.random.default_rng(5)
    writer = GGUFWriter(None, changes.pop("architecture", config.model_type))
    name = writer.arch
    meta = {
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "context_length": config.max_position_embeddings,
    } | {key: value for key, value in changes.items() if isinstance(value, int) and "tokenizer" not in key}
    for key, value in meta.items():
        writer.add_uint32(f"{name}.{key}", value)
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    writer.add_float32(f"{name}.rope.freq_base", config.rope_parameters["rope_theta"])
    for key, value in changes.items():
        if isinstance(value, str) and "tokenizer" not in key:
            writer.add_string(f"{name}.{key}", value)
    if tokenizer:
        _write_tokenizer(writer, changes)
    _write_tensors(writer, model, kinds, random)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: GGUFWriter, changes: dict) -> None:
    writer.add_tokenizer_model(changes.get("tokenizer_model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("tokenizer_pre", "qwen2"))
    writer.add_token_list([*TOKENS, "<|unused_0|>", "<|unused_1|>"])
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(TOKENS) - len(SPECIALS)) + [5, 5])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


NAMES = {
    "embed_tokens": "token_embd",
    "lm_head": "output",
    "model.norm": "output_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}


def _write_tensors(writer: GGUFWriter, model, kinds, random) -> None:
    config = model.config
    for name, number in model.named_parameters():
        parts = name.split(".")
        part = next(NAMES[key] for key in sorted(NAMES, key=len, reverse=True) if key in name)
        block = f"blk.{parts[2]}." if "layers" in parts else ""
        title = f"{block}{part}.{parts[-1]}"
        if number.ndim == 1:
            writer.add_tensor(title, turned(number.numpy()[:, None], part, config)[:, 0].copy())
            continue
        kind = kinds if isinstance(kinds, Kind) else next((k for key, k in kinds.items() if key in title), Kind.F16)
        rows = stored(turned(number.numpy(), part, config), kind, random)
        number.copy_(torch.from_numpy(turned(dequantize(rows, kind), part, config, back=True)))
        writer.add_tensor(title, rows, raw_shape=rows.shape, raw_dtype=kind)


def turned(rows: np.ndarray, part: str, config, back: bool = False) -> np.ndarray:
    """llama.cpp's order of the channels that are turned together, which in a Llama are neighbours."""
    if config.model_type != "llama" or part not in ("attn_q", "attn_k"):
        return rows
    half = config.head_dim // 2
    shape = (-1, half, 2) if back else (-1, 2, half)
    return rows.reshape(*shape, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape).copy()
