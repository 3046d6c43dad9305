"""A tree pass gives every node what reading its own path alone gives, and leaves the cache as if it had been."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def paths_of(ids, parents):
    found = []
    for token, parent in zip(ids, parents, strict=True):
        found.append([*(found[parent] if parent >= 0 else []), token])
    return found


@pytest.mark.parametrize("past", [0, 1, 9])
@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_every_node_reads_as_if_its_path_were_alone(tiny_pair, tiny_model, past, seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 14))
    ids = random.integers(5, 260, n).tolist()
    parents = [-1, *(int(random.integers(0, i)) for i in range(1, n))]
    prefix = random.integers(5, 260, past).tolist()
    target, cache = tiny_pair.target, tiny_pair.target.new_cache()
    target.prefill(cache, prefix)
    logits = target.forward_tree(cache, ids, parents)
    assert logits.shape == (n, target.vocab_size) and logits.dtype == torch.float32
    paths = paths_of(ids, parents)
    for row, path in zip(logits, paths, strict=True):
        alone = tiny_model(torch.tensor([prefix + path]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-3, atol=1e-4)

    node = int(random.integers(0, n))
    rows = []
    while node >= 0:
        rows.append(node)
        node = parents[node]
    rows.reverse()
    target.keep(cache, n, rows)
    then = target.forward(cache, [7, 8])
    alone = tiny_model(torch.tensor([[*prefix, *(ids[row] for row in rows), 7, 8]]), use_cache=False).logits[0, -2:]
    torch.testing.assert_close(then, alone, rtol=1e-3, atol=1e-4)
