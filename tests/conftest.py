"""Pairs that the tests share: three tiny random ones, built in a second, and the embedded one.

The tiny pairs have one target. Their drafters are good enough to be accepted now and then, and bad
enough to be refused: two are made of the target's own layers reading in both directions, the third
peeks at the target's answer and adds noise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings as hypothesis_settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models import embedded as weights
from diffuspec.models.drafter import BlockDrafter, Convention, DiffusionDrafter

hypothesis_settings.register_profile("shared machine", deadline=None)
hypothesis_settings.load_profile("shared machine")

MARKS = {"api": "slow", "browser": "browser", "model": "models", "training": "training"}  # by folder of tests/


def pytest_collection_modifyitems(items):
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in MARKS:
            item.add_marker(MARKS[folder])


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


@pytest.fixture(scope="session")
def tiny():
    """The builders above, for tests that want a pair of their own."""
    return SimpleNamespace(
        tokenizer=byte_tokenizer, model=tiny_target, block_parts=block_parts, PeekingDrafter=PeekingDrafter
    )


@pytest.fixture(scope="session")
def tiny_model():
    """The tiny target as plain transformers has it: its layers are not repacked."""
    return tiny_target()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A checkpoint folder of the tiny target with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-target")
    tiny_target().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pairs(tiny_folder, tiny_model):
    """name -> Pair: a standalone drafter, a block drafter, and one that peeks; one target for all."""
    standalone = load_pair(
        target=str(tiny_folder), drafter=str(tiny_folder), convention=Convention("<mask>", shifted=True)
    )
    target = standalone.target

    def with_drafter(name, drafter):
        info = dataclasses.replace(
            standalone.info, name=name, drafter=name, drafter_kind=drafter.kind, max_draft=drafter.max_block
        )
        return dataclasses.replace(standalone, info=info, drafter=drafter)

    return {
        "standalone": standalone,
        "block": with_drafter("block", BlockDrafter(*block_parts(tiny_model), target)),
        "peeking": with_drafter("peeking", PeekingDrafter(tiny_model, standalone.stop_ids)),
    }


@pytest.fixture(scope="session")
def tiny_pair(tiny_pairs):
    return tiny_pairs["block"]


@pytest.fixture(scope="session")
def tiny_trace(tiny_pairs) -> Trace:
    """A short run, compared with plain AR: beams, rejections, accepts and one bonus at least."""
    pair = tiny_pairs["peeking"]
    trace = DiffuSpec(pair, Settings(proxy="context", k_min=2, k_max=6)).run("A tiny <b>run</b> ⚙", max_new_tokens=24)
    return trace.with_baseline(compare_with_ar(pair, trace))


@contextlib.contextmanager
def one_thread():
    """torch on one thread. Two wait for each other some 400 times a pass, and on a machine whose cores are wanted
    elsewhere each wait may last a time slice: five times as long as one thread alone was measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def plain_greedy():
    """(model, ids, n, stop_ids) -> the new ids of transformers' own `generate(do_sample=False)`."""
    known = {}

    def generate(model, ids, n, stop_ids=(1, 3)):
        key = (id(model), tuple(ids), n)
        if key not in known:
            with one_thread():
                made = model.generate(
                    torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=n,
                    eos_token_id=sorted(stop_ids),
                    pad_token_id=0,
                )
            known[key] = made[0, len(ids) :].tolist()
        return known[key]

    return generate


@pytest.fixture(scope="session")
def embedded_pair():
    """The real models in float32. Where they cannot be had, the tests fail; they are never skipped."""
    return load_pair("embedded", dtype="float32")


@pytest.fixture(scope="session")
def embedded_int8():
    """The real models as the app loads them on a processor that can."""
    pair = load_pair("embedded")
    assert pair.info.dtype == "int8"
    return pair


@pytest.fixture(scope="session")
def embedded_model(embedded_pair):
    """The embedded target as plain transformers loads it: its layers are not repacked."""
    return AutoModelForCausalLM.from_pretrained(weights.embedded_target(), dtype=torch.float32).eval()
