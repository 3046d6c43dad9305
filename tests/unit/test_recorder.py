"""What the recorder adds: a fast top-n, and pieces that are bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffuspec.models.int8.ranks import likeliest_few
from diffuspec.models.ranking import RankedLogits, likeliest


@pytest.mark.parametrize("width", [8, 100, 128 * 8, 128 * 9, 49152, 128 * 40 + 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_likeliest_few_are_topk_and_their_sum_is_logsumexp(width, seed):
    values = torch.randn(5, width, generator=torch.Generator().manual_seed(seed)) * 4
    ids, found, norms = likeliest_few(values.numpy(), 8)
    expected, expected_ids = values.topk(8)
    assert np.array_equal(found, expected) and np.array_equal(ids, expected_ids)
    np.testing.assert_allclose(norms, values.logsumexp(-1), rtol=3e-6)


def test_neighbours_in_one_stretch_are_all_found():
    values = np.zeros((1, 128 * 40), np.float32)
    values[0, 300:308] = np.arange(8.0, 0, -1)
    assert likeliest_few(values, 8)[0].tolist() == [list(range(300, 308))]


def test_of_equals_the_first_are_given():
    values = torch.randint(0, 3, (20, 128 * 40), generator=torch.Generator().manual_seed(0)).float().numpy()
    ids, _, _ = likeliest_few(values, 8)
    assert np.array_equal(ids, np.argsort(-values, 1, kind="stable")[:, :8])


def test_minus_infinity_is_the_last_to_be_taken():
    values = np.full((1, 128 * 40), -np.inf, np.float32)
    values[0, 77] = 1.0
    ids, found, norms = likeliest_few(values, 8)
    assert ids[0, 0] == 77 and len(set(ids[0].tolist())) == 8 and norms[0] == 1.0 and found[0, 1] == -np.inf


@pytest.mark.parametrize("text", ["plain", " spaced  out\n\t", "ümlaut", "日本", "🙂", "<b>&</b>", "${x}{{y}}"])
def test_pieces_put_together_are_the_texts_bytes(tiny_pair, text):
    ids = tiny_pair.tokenizer(text, add_special_tokens=False).input_ids
    assert b"".join(map(tiny_pair.piece, ids)) == text.encode()


def test_a_special_token_is_its_name_and_an_unused_row_is_empty(tiny_pair):
    assert tiny_pair.piece(1) == b"<end>" and tiny_pair.piece(2) == b"<|im_start|>"
    assert tiny_pair.piece(263) == b""
    assert {1, 2, 3, 4} <= tiny_pair.special_ids


def test_every_way_to_end_an_answer_is_one_set(tiny_pair):
    """<end> from the generation config, <|im_end|> from the chat template."""
    assert tiny_pair.stop_ids == {1, 3}


@pytest.mark.parametrize("width", [5, 128, 264, 1024, 1280])
def test_the_likeliest_is_argmax_and_of_equals_the_first(width):
    random = torch.Generator().manual_seed(width)
    values = torch.randn(7, width, generator=random)
    values[3] = 0.0
    values[4, [width // 3, width - 1]] = 9.0
    values[5, 1:] = -torch.inf
    found = likeliest(values)
    assert torch.equal(found, values.argmax(-1))
    assert found[3] == 0 and found[4] == width // 3 and found[5] == 0


@pytest.mark.parametrize("width", [5, 8, 128, 1000, 128 * 40, 128 * 40 + 1])
def test_a_row_is_normalised_and_its_top_is_topk(width):
    values = 4 * torch.randn(3, width, generator=torch.Generator().manual_seed(width))
    values[2, : width // 2] = -1e4  # what top-k or top-p took out
    rows = RankedLogits(values)
    expected = values.topk(min(8, width))
    alone = RankedLogits(values).top(np.array([2]))
    rows.top(np.array([1, 1]))
    assert all(np.array_equal(a, b) for a, b in zip(alone, rows.top(np.array([2])), strict=True))
    for row, ids, found, norm in zip(range(3), *rows.top(np.arange(3)), strict=True):
        assert found.tolist() == expected.values[row].tolist()
        assert values[row, torch.from_numpy(ids)].tolist() == found.tolist() and len(set(ids.tolist())) == len(ids)
        assert np.isclose(norm, values[row].double().logsumexp(-1).item(), rtol=1e-6)


def test_a_path_and_the_cells_beside_it_have_the_targets_log_p_and_rank():
    values = 3 * torch.randn(6, 500, generator=torch.Generator().manual_seed(1))
    logits, rows = RankedLogits(values), np.array([0, 2, 3, 5])
    order = values.argsort(-1, descending=True)
    path = np.array([order[0, 0], order[2, 7], order[3, 8], order[5, 400]], np.int32)
    cells = np.arange(9, dtype=np.int32).reshape(3, 3)  # the path may be longer than the lattice
    logp, rank, beside = logits.along(rows, path, cells)
    expected = values.log_softmax(-1).numpy()
    assert rank.tolist() == [0, 7, 8, 400]
    np.testing.assert_allclose(logp, expected[rows, path], atol=1e-5)
    np.testing.assert_allclose(beside[:3], expected[rows[:3, None], cells], atol=1e-5)
    assert np.isnan(beside[3]).all()
    np.testing.assert_allclose(logits.logp(np.array([1, 1]), np.array([3, 4])), expected[1, 3:5], atol=1e-5)
