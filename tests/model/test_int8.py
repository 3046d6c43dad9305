"""8-bit arithmetic and the Llama decoder: close to the model, and the same bits whatever shares the pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffuspec.errors import PairError
from diffuspec.models.int8 import Int8Linear, int8_fits, splits, spread
from diffuspec.models.target import Target


def test_this_machine_has_8_bit_kernels():
    """The bench's default arithmetic; where it is missing, float32 is used, and these tests say nothing."""
    assert int8_fits() == any(name in torch.backends.quantized.supported_engines for name in ("x86", "fbgemm"))


def test_a_row_has_the_same_bits_alone_and_in_company():
    random = torch.Generator().manual_seed(1)
    layer = Int8Linear(torch.randn(96, 64, generator=random))
    rows = torch.randn(33, 64, generator=random)
    together = layer(rows)
    for n in (1, 2, 5, 9, 16):
        assert torch.equal(layer(rows[:n].contiguous()), together[:n])
        assert torch.equal(layer(rows[-n:].contiguous()), together[-n:])


def test_splitting_outlier_channels_brings_the_product_nearer():
    random = torch.Generator().manual_seed(2)
    weight, rows = torch.randn(64, 128, generator=random), torch.randn(9, 128, generator=random)
    rows[:, 3] *= 60
    exact = rows @ weight.T
    copies = splits(rows.abs().amax(0))
    assert copies.sum() == 128 + 64 and copies.argmax() == 3

    def error(layer):
        return float((layer(rows) - exact).norm() / exact.norm())

    assert error(Int8Linear(weight, copies=copies)) < 0.5 * error(Int8Linear(weight)) < 0.2


def test_spread_channels_add_up_and_copies_stand_apart():
    channels, share = spread(torch.tensor([1, 4, 2, 1]))
    total = torch.zeros(4).index_add_(0, channels, share)
    torch.testing.assert_close(total, torch.ones(4))
    assert channels[:4].tolist() == [0, 1, 2, 3] and len(channels) == 8


def test_a_gain_a_row_factor_and_a_residual():
    random = torch.Generator().manual_seed(3)
    weight, gain = torch.randn(64, 64, generator=random), torch.rand(64, generator=random)
    rows = torch.randn(4, 64, generator=random)
    layer, factor = Int8Linear(weight, gain), torch.rand(4, 1, generator=random)
    exact = (rows * gain) @ weight.T * factor
    assert (layer(rows, factor) - exact).norm() < 0.05 * exact.norm()
    torch.testing.assert_close(layer.add_to(torch.ones(4, 64), rows), layer(rows) + 1)
    assert torch.equal(layer(torch.zeros(2, 64)), torch.zeros(2, 64))


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_chains_and_trees_agree_with_single_passes_to_the_last_bit(tiny, arithmetic):
    random = np.random.default_rng(4)
    target = Target(tiny.model(), arithmetic=arithmetic, calibration=[5, 6, 7, 8, 9, 10, 11, 12])
    ids = random.integers(5, 260, 60).tolist()
    cache = target.new_cache()
    target.prefill(cache, ids[:20])
    alone = torch.cat([target.forward(cache, [token]) for token in ids[20:]])
    for n in (2, 7, 16):
        cache = target.new_cache()
        target.prefill(cache, ids[:20])
        chained = torch.cat([target.forward(cache, ids[i : i + n]) for i in range(20, 60, n)])
        assert torch.equal(chained, alone)

    cache = target.new_cache()
    target.prefill(cache, ids[:20])
    tree, parents, way = [ids[20]], [-1], [0]
    for token in ids[21:32]:  # each true token has a false sibling before it
        tree += [int(random.integers(5, 260)), token]
        parents += [way[-1], way[-1]]
        way.append(len(tree) - 1)
    assert torch.equal(target.forward_tree(cache, tree, parents)[way], alone[:12])
    target.keep(cache, len(tree), way)
    assert torch.equal(target.forward(cache, ids[32:40]), alone[12:20])


def test_int8_is_near_the_model(tiny, tiny_model):
    target = Target(tiny.model(), arithmetic="int8", calibration=list(range(5, 40)))
    cache, ids = target.new_cache(), list(range(40, 60))
    logits = target.forward(cache, ids)
    exact = tiny_model(torch.tensor([ids])).logits[0]
    assert torch.nn.functional.cosine_similarity(logits, exact).mean() > 0.97


def test_other_architectures_are_refused_with_a_way_out():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=64, n_positions=32))
    with pytest.raises(PairError, match="float32"):
        Target(model, arithmetic="int8")


def test_the_embedded_pair_in_int8_says_what_plain_decoding_says(embedded_pair):
    from diffuspec import DiffuSpec, Settings, load_pair
    from diffuspec.baselines import compare_with_ar

    pair = load_pair("embedded")
    assert pair.info.dtype == ("int8" if int8_fits() else "float32")
    for search in ("cps", "tree"):
        trace = DiffuSpec(pair, Settings(search=search)).run("Name three colours of a rainbow.", max_new_tokens=48)
        assert compare_with_ar(pair, trace).difference is None
