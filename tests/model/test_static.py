"""Passes of one shape: whatever shares a pass, a row keeps its bits, also in bfloat16."""

from __future__ import annotations

import dataclasses
import gc

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from diffuspec import DiffuSpec, Settings, load_pair
from diffuspec.errors import PairError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.float import static
from diffuspec.models.float.static import ROWS, WIDE, StaticDecoder
from diffuspec.models.target import Target

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4})),
    "llama3": (
        LlamaConfig,
        LlamaForCausalLM,
        dict(
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        ),
    ),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=16)),
}
SIZES = dict(
    vocab_size=264,
    hidden_size=64,
    intermediate_size=112,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    initializer_range=0.3,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=None,
)


def network(kind, dtype, seed=3):
    torch.manual_seed(seed)
    config, made, more = KINDS[kind]
    model = made(config(**SIZES, **more)).to(dtype).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor.normal_(0, 0.2)
    return model


def target(kind, dtype):
    return Target(network(kind, dtype), static=True)


def ids(n, seed=0):
    return torch.randint(5, 264, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def one_by_one(decoded, text, prompt):
    cache = decoded.new_cache()
    decoded.prefill(cache, text[:prompt])
    return torch.cat([decoded.forward(cache, [token]) for token in text[prompt:]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", [9, WIDE + 20])
def test_float32_passes_are_those_of_transformers(kind, prompt):
    decoded, plain = target(kind, torch.float32), network(kind, torch.float32)
    text = ids(prompt + 21)
    cache = decoded.new_cache([0, 2, 3])
    decoded.prefill(cache, text[:prompt])
    made = decoded.forward(cache, text[prompt:])
    with torch.inference_mode():
        out = plain(torch.tensor([text]), output_hidden_states=True)
    torch.testing.assert_close(made, out.logits[0, prompt:], rtol=2e-4, atol=2e-4)
    states = torch.cat([out.hidden_states[entry][0] for entry in (0, 2, 3)], -1)
    torch.testing.assert_close(cache.hidden.rows, states, rtol=2e-4, atol=2e-4)
    assert cache.get_seq_length() == len(text) and cache.layers[1].keys.shape == (1, 2, len(text), 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_in_a_chain_and_in_a_tree(kind, dtype):
    decoded, text = target(kind, dtype), ids(60, seed=4)
    alone = one_by_one(decoded, text, 25)
    cache = decoded.new_cache()
    decoded.prefill(cache, text[:25])
    chain = decoded.forward(cache, text[25:])
    assert torch.equal(alone, chain), "35 rows are three passes"

    cache = decoded.new_cache()
    decoded.prefill(cache, text[:25])
    # The text's tokens at every third node, others hung between them.
    nodes, parents, at = [text[25]], [-1], [0]
    for token in text[26:36]:
        for wrong in (7, 9):
            nodes.append(wrong)
            parents.append(at[-1])
        nodes.append(token)
        parents.append(at[-1])
        at.append(len(nodes) - 1)
    assert len(nodes) > ROWS
    tree = decoded.forward_tree(cache, nodes, parents)
    assert torch.equal(tree[at], alone[: len(at)])
    decoded.keep(cache, len(nodes), at)
    assert cache.get_seq_length() == 25 + len(at)
    assert torch.equal(decoded.forward(cache, text[36:]), alone[11:]), "kept tokens are as if nothing else had been"


def test_passes_of_other_shapes_differ_in_bfloat16():
    """What this is for: the layers of transformers, given the same tokens in passes of other sizes."""
    plain = Target.untouched(network("qwen3", torch.bfloat16))
    text = ids(60, seed=4)
    cache = plain.new_cache()
    plain.prefill(cache, text[:25])
    assert not torch.equal(plain.forward(cache, text[25:]), one_by_one(plain, text, 25))


def test_a_cache_grows_and_its_room_is_used_again(monkeypatch):
    monkeypatch.setattr(static, "FIRST_ROOM", 32)
    decoded, text = target("llama", torch.bfloat16), ids(90)
    alone = one_by_one(decoded, text, 10)
    monkeypatch.setattr(static, "FIRST_ROOM", 256)
    assert torch.equal(alone, one_by_one(decoded, text, 10)), "the room does not matter"
    gc.collect()
    idle = decoded._passes._idle
    assert {room: len(found) for room, found in idle.items()} == {32: 1, 64: 1, 128: 1, 256: 1}
    one_by_one(decoded, text, 10)
    gc.collect()
    assert len(idle[256]) == 1


def test_rolling_back_forgets(tiny_model):
    decoded, text = target("qwen2", torch.bfloat16), ids(30)
    cache = decoded.new_cache([1])
    decoded.prefill(cache, text[:20])
    first = decoded.forward(cache, text[20:])
    decoded.rollback(cache, 10)
    decoded.forward(cache, ids(10, seed=9))
    decoded.rollback(cache, 10)
    assert torch.equal(decoded.forward(cache, text[20:]), first) and len(cache.hidden.rows) == 30


SETTINGS = [
    dict(search="cps", k_min=2, k_max=12),
    dict(search="argmax", length="fixed", k=20),
    dict(search="tree", nodes=40, length="fixed", k=8),
    dict(search="tree", nodes=12, copy=2),
    dict(search="exact", length="confidence"),
    dict(search="cps", length="failfast", passes=2),
]


@pytest.fixture(scope="module")
def exact_pair(tiny, tmp_path_factory):
    """In bfloat16 with passes of one shape; its drafter peeks, and is often right."""
    folder = tmp_path_factory.mktemp("static")
    model = tiny.model()
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    options = dict(target=str(folder), drafter=str(folder), convention={"mask_token": 4, "shifted": True})
    pair = load_pair(**options, dtype="bfloat16", static=True)
    assert isinstance(pair.target._passes, StaticDecoder)
    drafter = tiny.PeekingDrafter(model, pair.stop_ids)
    info = dataclasses.replace(pair.info, drafter="peeking", max_draft=drafter.max_block)
    return dataclasses.replace(pair, info=info, drafter=drafter)


@pytest.mark.parametrize("settings", SETTINGS)
def test_bfloat16_answers_are_those_of_plain_decoding(exact_pair, settings):
    accepted = 0
    for prompt in ([70], [2, 70], list(range(40, 60)), [9] * 33, [62, 102]):
        trace = DiffuSpec(exact_pair, Settings(proxy="context", **settings)).run(ids=prompt, max_new_tokens=40)
        assert compare_with_ar(exact_pair, trace).difference is None
        accepted += sum(step.accepted for step in trace.steps)
    assert accepted > 20


def test_what_cannot_have_passes_of_one_shape_says_so(tiny, tiny_folder):
    with pytest.raises(PairError, match="Passes of one shape are made for Llama, Qwen2 and Qwen3"):
        Target(tiny.model(), arithmetic="int8", static=True)
    with pytest.raises(PairError, match="Leave --static out"):
        load_pair("coder", static=True)
