"""Where the conversations of a synthesis stand: slots of a key-value cache that share each pass over the weights.

StockSlots      the target as `transformers` has it, in any floating dtype
CompiledSlots   the compiled pass in 4 and 8 bits (`models.int8`): the arithmetic in which the embedded target decodes,
                so that a drafter learns the very tokens it will have to foresee
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from diffuspec.models.int8.decoder import PROMPT_ROWS, Int8Decoder


class Slots(ABC):
    """Several texts that one model decodes side by side.

    slots: how many; capacity: tokens of each.
    """

    slots: int
    capacity: int

    @abstractmethod
    def read(self, slot: int, start: int, ids: Sequence[int]) -> None:
        """Put ids at start, start + 1, ... of a slot, and forget what was there and behind."""

    @abstractmethod
    def following(self, slots: Sequence[int], at: Sequence[int], ids: Sequence[int]) -> np.ndarray:
        """One pass over a token of each of these slots, put at its place `at`: logits float32 [slots, V]."""

    @abstractmethod
    def kept(self, slot: int, layers: Sequence[int], length: int) -> np.ndarray:
        """float16 [length, layers, 2, key heads * head size]: keys and values of a slot's first tokens."""


class CompiledSlots(Slots):
    def __init__(self, decoder: Int8Decoder, slots: int, capacity: int):
        self.slots, self.capacity = slots, capacity
        self._decoder = decoder
        self._store = self._decoder.new_slots(slots, capacity)

    def read(self, slot, start, ids):
        self._store.lengths[slot] = start
        for first in range(0, len(ids), PROMPT_ROWS):
            self._decoder.forward_several(self._store, [(slot, ids[first : first + PROMPT_ROWS])], ask=False)

    def following(self, slots, at, ids):
        self._store.lengths[list(slots)] = at
        return self._decoder.forward_several(
            self._store, [(slot, [i]) for slot, i in zip(slots, ids, strict=True)], True
        )

    def kept(self, slot, layers, length):
        return self._store.kept(slot, layers, length)


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values [slots, key heads, capacity, head size], written in place."""

    def __init__(self, cursor: dict, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.cursor, self.is_initialized = cursor, True

    def update(self, key_states, value_states, *args, **kwargs):
        """Store [rows, key heads, n, head size] where the cursor stands; everything up to it comes back."""
        slots, at, end = self.cursor["slots"], self.cursor["at"], self.cursor["end"]
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            if isinstance(slots, int):
                store[slots, :, at : at + new.shape[2]] = new[0]
            else:
                store[slots, :, at] = new[:, :, 0]
        if isinstance(slots, int):
            return self.keys[slots : slots + 1, :, :end], self.values[slots : slots + 1, :, :end]
        return self.keys[:, :, :end], self.values[:, :, :end]

    def lazy_initialization(self, key_states, value_states): ...

    def get_mask_sizes(self, query_length):
        return self.cursor["end"], 0

    def get_seq_length(self):
        return self.cursor["end"]

    def get_max_length(self):
        return self.keys.shape[2]


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention in which the query heads that share a key head are just more rows: no key is copied.

    query [B, heads, n, d]; key, value [B, key heads, T, d]; attention_mask additive [B, 1, n, T]. Where gradients are
    asked for the weights are written out: going back through them costs a third of what torch's fused attention takes.
    """
    batch, heads, n, size = query.shape
    shared = key.shape[1]
    rows = query.reshape(batch, shared, -1, size)
    mask = attention_mask[:, :, None].expand(-1, -1, heads // shared, -1, -1).flatten(2, 3)
    if torch.is_grad_enabled():
        scale = size**-0.5 if scaling is None else scaling
        seen = (torch.matmul(rows * scale, key.transpose(2, 3)) + mask).softmax(-1) @ value
    else:
        seen = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scaling)
    return seen.reshape(batch, heads, n, size).transpose(1, 2), None


AttentionInterface.register("grouped", grouped_attention)


class StockSlots(Slots):
    def __init__(self, model: torch.nn.Module, slots: int, capacity: int):
        model.set_attn_implementation("grouped")
        self.slots, self.capacity, self._model = slots, capacity, model.eval()
        shape = model.config.get_text_config()
        size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        self._cursor: dict = {}
        store = (slots, shape.num_key_value_heads, capacity, size)
        self._device = model.device
        self._cache = Cache(
            [_SlotLayer(self._cursor, store, model.dtype, self._device) for _ in range(shape.num_hidden_layers)]
        )

    @torch.inference_mode()
    def read(self, slot, start, ids):
        end = start + len(ids)
        self._cursor.update(slots=slot, at=start, end=end)
        device, dtype = self._device, self._model.dtype
        mask = torch.full((len(ids), end), -torch.inf, dtype=dtype, device=device).triu(start + 1)[None, None]
        self._model.base_model(
            torch.tensor([ids], device=device),
            attention_mask=mask,
            position_ids=torch.arange(start, end, device=device)[None],
            past_key_values=self._cache,
            use_cache=True,
        )

    @torch.inference_mode()
    def following(self, slots, at, ids):
        # All slots take part, so that the cache need not be copied; what the idle ones write is overwritten.
        places, tokens = torch.zeros(self.slots, dtype=torch.long), torch.zeros(self.slots, dtype=torch.long)
        places[list(slots)], tokens[list(slots)] = torch.tensor(at), torch.tensor(ids)
        end = int(places.max()) + 1
        mask = torch.zeros(self.slots, 1, 1, end, dtype=self._model.dtype)
        mask.masked_fill_(torch.arange(end) > places[:, None, None, None], -torch.inf)
        places, tokens, mask = (part.to(self._device) for part in (places, tokens, mask))
        self._cursor.update(slots=torch.arange(self.slots, device=self._device), at=places, end=end)
        logits = (
            self._model(
                tokens[:, None],
                attention_mask=mask,
                position_ids=places[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
            .logits[:, -1]
            .float()
        )
        return logits[list(slots)].cpu().numpy()

    def kept(self, slot, layers, length):
        both = [
            torch.stack([self._cache.layers[i].keys[slot, :, :length], self._cache.layers[i].values[slot, :, :length]])
            for i in layers
        ]
        return torch.stack(both).permute(3, 0, 1, 2, 4).flatten(3).half().cpu().numpy()
