"""The target's keys and values over all training data, computed once.

A target-conditioned drafter reads them at every block it is trained on; with them on disk, a training step costs the
block's rows only. `synthesis` leaves them behind by itself for the layers it is told; this file computes what is
missing, for other layers or for conversations from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache

from diffuspec.training.data import Conversation, DataFolder, save_array, write_atomically


def fill(model, folder: DataFolder, layers: Sequence[int], progress: Callable[[float | None, str], None]) -> int:
    """Compute the cache of every shard that has none; the number of tokens read. Shards done before are kept."""
    folder.set_layers(layers)
    missing = [shard for shard in folder.shards() if not folder.cache_path(shard).exists()]
    read = 0
    for done, shard in enumerate(missing):
        cache = np.concatenate([_read(model, c, layers) for c in folder.read(shard)])
        _save(folder.cache_path(shard), cache)
        read += len(cache)
        progress((done + 1) / len(missing), f"{done + 1}/{len(missing)} shards, {read} tokens")
    return read


@torch.inference_mode()
def _read(model, conversation: Conversation, layers: Sequence[int]) -> np.ndarray:
    """float16 [n, layers, 2, key heads * head size]: one causal pass over a conversation."""
    cache = DynamicCache(config=model.config)
    ids = torch.from_numpy(conversation.ids.astype(np.int64))[None]
    model.base_model(ids, past_key_values=cache, use_cache=True)
    kept = torch.stack([torch.stack([cache.layers[i].keys[0], cache.layers[i].values[0]]) for i in layers])
    return kept.permute(3, 0, 1, 2, 4).flatten(3).half().cpu().numpy()


def _save(path: Path, cache: np.ndarray) -> None:
    write_atomically(path, lambda out: save_array(out, cache))
