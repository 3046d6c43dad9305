"""Tiny random models, built in a second: a Llama with its byte tokenizer, Qwens, and drafters for the Llama."""

from __future__ import annotations

import functools

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from diffuspec.models.drafter import DiffusionDrafter

SPECIALS = ["<unk>", "<end>", "<|im_start|>", "<|im_end|>", "<mask>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: the specials, then the 256 bytes."""
    vocab = {token: i for i, token in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        mask_token="<mask>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_target(seed: int = 1, vocab: int = 264, context: int = 512, ends: tuple[int, ...] = (1,)) -> LlamaForCausalLM:
    """A random Llama of three layers; `ends` are written into its generation config and made likelier."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=ends[0],
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[[1, 3]] *= 1.5
    model.generation_config.eos_token_id = list(ends)
    return model


def block_parts(model: LlamaForCausalLM, max_block: int = 32) -> tuple[dict, dict[str, torch.Tensor]]:
    """Config and weights of a drafter of the model's own layers, over a shuffled part of its vocabulary."""
    shape = model.config
    random = torch.Generator().manual_seed(7)
    parts = {
        name.removeprefix("model."): tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith("model.layers.") or name == "model.norm.weight"
    }
    parts["mask_embedding"] = 0.05 * torch.randn(shape.hidden_size, generator=random)
    parts["draft_vocab"] = torch.randperm(shape.vocab_size, generator=random)[: shape.vocab_size - 20].int()
    config = {
        "target": "tiny",
        "target_layers": list(range(shape.num_hidden_layers)),
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_parameters["rope_theta"],
        "max_block": max_block,
    }
    return config, parts


class PeekingDrafter(DiffusionDrafter):
    """Knows the target's greedy continuation and adds noise, differently at every position."""

    kind = "standalone"
    max_block = 40

    def __init__(self, model, stop_ids):
        self.model, self.stop_ids = model, stop_ids
        self._next = functools.cache(self._greedy)

    def logits(self, prefix, block, cache):
        random = np.random.default_rng(len(prefix))
        rows = random.normal(0, 1, (len(block), self.model.config.vocab_size))
        text, sure = list(prefix), random.choice([12.0, 5.0, 2.0], len(block), p=[0.6, 0.25, 0.15])
        for row, strength in zip(rows, sure, strict=True):
            text.append(text[-1] if text[-1] in self.stop_ids else self._next(tuple(text)))
            row[text[-1]] += strength
        return torch.from_numpy(rows).float()

    @torch.inference_mode()
    def _greedy(self, text):
        return int(self.model(torch.tensor([text])).logits[0, -1].argmax())

    def to_target_ids(self, columns):
        return columns


def qwen(kind):
    config, model = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]
    torch.manual_seed(2)
    return model(
        config(
            vocab_size=264,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=512,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=None,
            tie_word_embeddings=True,
        )
    ).eval()
