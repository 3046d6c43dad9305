"""The target's keys and values over all training data, computed once.

A target-conditioned drafter reads them at every block it is trained on; with them on disk, a training step costs the
block's rows only. `synthesis` leaves them behind by itself for the layers it is told; this file computes what is
missing, for other layers or for conversations from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from diffuspec.training.data import Conversation, DataFolder, save_array, write_atomically
from diffuspec.training.slots import Slots


def fill(slots: Slots, folder: DataFolder, layers: Sequence[int], progress: Callable[[float | None, str], None]) -> int:
    """Compute the cache of every shard that has none, in the first of the slots; the number of tokens read. Shards done
    before are kept."""
    folder.set_layers(layers)
    missing = [shard for shard in folder.shards() if not folder.cache_path(shard).exists()]
    read = 0
    for done, shard in enumerate(missing):
        cache = np.concatenate([_read(slots, c, layers) for c in folder.read(shard)])
        _save(folder.cache_path(shard), cache)
        read += len(cache)
        progress((done + 1) / len(missing), f"{done + 1}/{len(missing)} shards, {read} tokens")
    return read


def _read(slots: Slots, conversation: Conversation, layers: Sequence[int]) -> np.ndarray:
    """float16 [n, layers, 2, key heads * head size] of a conversation."""
    slots.read(0, 0, conversation.ids.tolist())
    return slots.kept(0, layers, len(conversation.ids))


def _save(path: Path, cache: np.ndarray) -> None:
    write_atomically(path, lambda out: save_array(out, cache))
