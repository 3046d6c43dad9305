"""The 8-bit form of a drafter, and the ways in which its folder can be damaged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from diffuspec.errors import PairError, WeightsError
from diffuspec.models.drafter import SCALE, load_block_drafter, pack, pack_folder, unpack


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 40), st.sampled_from([1e-6, 0.02, 1.0, 1e4]))
def test_no_weight_moves_by_more_than_half_a_scale(seed, rows, columns, spread):
    matrix = spread * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    packed = pack({"w": matrix})
    scale = matrix.abs().amax(1, keepdim=True) / 127
    assert packed["w"].dtype == torch.int8 and packed["w" + SCALE].shape == (rows, 1)
    assert ((unpack(packed)["w"] - matrix).abs() <= scale * 0.5001).all()


def test_a_row_of_noughts_stays_one():
    assert not unpack(pack({"w": torch.zeros(3, 4)}))["w"].any()


def test_vectors_and_ids_are_kept_as_they_are():
    kept = {"norm.weight": torch.randn(7), "draft_vocab": torch.arange(5, dtype=torch.int32)}
    after = unpack(pack(kept))
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in kept.items())


def test_plain_weights_pass_unpack_unchanged():
    plain = {"w": torch.randn(3, 4)}
    assert torch.equal(unpack(plain)["w"], plain["w"])


@pytest.fixture
def folder(tiny, tiny_model, tmp_path):
    config, weights = tiny.block_parts(tiny_model)
    source = tmp_path / "plain"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    save_file(weights, source / "model.safetensors")
    return source


def test_a_packed_folder_is_about_a_quarter_and_drafts_nearly_the_same(folder, tiny_pair, tmp_path):
    before, after = pack_folder(folder, tmp_path / "packed")
    assert after < 0.5 * before  # the tiny one's scales weigh more than a real one's
    target = tiny_pair.target
    cache = target.new_cache()
    target.prefill(cache, [5, 6])
    plain, packed = (
        load_block_drafter(path, target).logits([5, 6, 7], [-1] * 4, cache).float()
        for path in (folder, tmp_path / "packed")
    )
    assert not torch.equal(plain, packed)
    assert torch.nn.functional.cosine_similarity(plain, packed).min() > 0.99


def test_of_several_drafters_the_mean_is_packed(folder, tmp_path):
    first = load_file(folder / "model.safetensors")
    shutil.copytree(folder, tmp_path / "other")
    moved = {name: t + 0.5 if t.is_floating_point() else t for name, t in first.items()}
    save_file(moved, tmp_path / "other" / "model.safetensors")
    pack_folder(folder, tmp_path / "mean", others=[tmp_path / "other"])
    mean = unpack(load_file(tmp_path / "mean" / "model.safetensors"))
    for name, tensor in first.items():
        wanted = tensor.float() + 0.25 if tensor.is_floating_point() else tensor
        assert mean[name].shape == tensor.shape
        # Half a step of 8 bits: a row's largest is some 127 of them.
        assert (mean[name] - wanted).abs().max() <= wanted.abs().max() / 127


def test_drafters_of_different_vocabularies_have_no_mean(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    shutil.copytree(folder, tmp_path / "other")
    save_file({**weights, "draft_vocab": weights["draft_vocab"].flip(0)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(WeightsError, match="draft_vocab"):
        pack_folder(folder, tmp_path / "mean", others=[tmp_path / "other"])


def test_a_smaller_vocabulary_leaves_the_other_tokens_as_they_were(folder, tiny_pair, tmp_path):
    pack_folder(folder, tmp_path / "all")
    full = load_block_drafter(tmp_path / "all", tiny_pair.target)
    chosen = full.draft_vocab[::3]
    pack_folder(tmp_path / "all", tmp_path / "some", tokens=torch.cat([chosen, torch.tensor([10**6])]))
    some = load_block_drafter(tmp_path / "some", tiny_pair.target)
    assert torch.equal(some.draft_vocab, chosen) and some.config["draft_vocab_size"] == len(chosen)
    cache = tiny_pair.target.new_cache()
    tiny_pair.target.prefill(cache, [5, 6])
    few, all_ = (drafter.logits([5, 6, 7], [-1] * 4, cache).float() for drafter in (some, full))
    torch.testing.assert_close(few, all_[:, ::3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "damage", ["no config", "no weights", "cut", "text", "bad json", "a tensor less", "a key less"]
)
def test_a_damaged_folder_is_a_weights_error(folder, tiny_pair, damage):
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "no config":
        config.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "bad json":
        config.write_text("{")
    elif damage == "a key less":
        config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "max_block"}))
    elif damage == "a tensor less":
        save_file({"draft_vocab": torch.arange(3)}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[:2000] if damage == "cut" else b"hello")
    with pytest.raises(WeightsError, match="missing or damaged"):
        load_block_drafter(folder, tiny_pair.target)


def test_a_drafter_for_another_target_is_a_pair_error(folder, tiny_pair):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 576}))
    with pytest.raises(PairError, match="hidden_size 576"):
        load_block_drafter(folder, tiny_pair.target)


def test_packing_what_is_not_there_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="Cannot pack"):
        pack_folder(tmp_path, tmp_path / "out")
