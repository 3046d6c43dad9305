"""Captured passes on a GPU: the same bits in every company, and in the same answers."""

from __future__ import annotations

import gc

import pytest
import torch

from diffuspec import DiffuSpec, Settings, load_pair
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.float.static import StaticDecoder
from diffuspec.models.target import Target
from tests.model.test_static import KINDS, ids, network, one_by_one

DTYPES = [torch.bfloat16, torch.float32]


def on_gpu(kind, dtype):
    made = Target(network(kind, dtype).to("cuda"))
    assert isinstance(made._passes, StaticDecoder), "the default on a GPU"
    return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_in_a_chain_and_in_a_tree(kind, dtype):
    decoded, text = on_gpu(kind, dtype), ids(60, seed=4)
    alone = one_by_one(decoded, text, 25)
    cache = decoded.new_cache()
    decoded.prefill(cache, text[:25])
    assert torch.equal(alone, decoded.forward(cache, text[25:]))
    cache = decoded.new_cache()
    decoded.prefill(cache, text[:25])
    tree = decoded.forward_tree(cache, [text[25], 7, text[26], 9, text[27]], [-1, 0, 0, 2, 2])
    assert torch.equal(tree[[0, 2, 4]], alone[:3])
    decoded.keep(cache, 5, [0, 2, 4])
    assert torch.equal(decoded.forward(cache, text[28:]), alone[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_pass_is_the_pass_itself(kind):
    decoded, text = on_gpu(kind, torch.float32), ids(40)
    replayed = one_by_one(decoded, text, 12)
    plain = network(kind, torch.float32)
    with torch.inference_mode():
        expected = plain(torch.tensor([text])).logits[0, 12:]
    torch.testing.assert_close(replayed.cpu(), expected, rtol=2e-3, atol=2e-3)


def test_rooms_are_used_again_and_memory_does_not_grow():
    decoded, text = on_gpu("qwen3", torch.bfloat16), ids(60)
    one_by_one(decoded, text, 25)
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        one_by_one(decoded, text, 25)
        gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


@pytest.mark.parametrize("method", [dict(), dict(search="tree", length="throughput"), dict(search="argmax")])
def test_the_embedded_pair_answers_in_bfloat16_as_plain_decoding(method):
    pair = load_pair("embedded")
    assert pair.info.device.startswith("cuda") and pair.info.dtype == "bfloat16"
    for prompt in ("Why is the sky blue?", "Write a list of ten animals.", "2 + 3 * 4 = ?"):
        trace = DiffuSpec(pair, Settings(**method)).run(prompt, max_new_tokens=96)
        assert compare_with_ar(pair, trace).difference is None
