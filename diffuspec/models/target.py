"""The autoregressive target: a cached forward pass over several tokens, and its rollback.

Any `transformers` causal language model serves. State lives in the cache a run owns, never in the
`Target`, so that many runs may share one set of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from diffuspec.errors import WeightsError
from diffuspec.models.packed import pack_linears, packed_fits


class Target:
    """A causal LM and what decoding needs to know about it.

    vocab_size: width of its output; context: tokens it can hold; source: where
    its weights were loaded from. On a CPU the model's linear layers are
    repacked in place, so that everything run on `model` gains, plain decoding included.
    """

    def __init__(self, model: torch.nn.Module, source: str | Path | None = None):
        self.source = source
        self.model = model.eval().requires_grad_(False)
        config = model.config.get_text_config()
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.context = int(config.max_position_embeddings)
        if packed_fits(model.dtype, model.device):
            pack_linears(model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def prefill(self, cache: DynamicCache, ids: Sequence[int]) -> None:
        """Read `ids` into the cache; their logits are not wanted."""
        if ids:
            self.model.base_model(self._tensor(ids), past_key_values=cache, use_cache=True)

    @torch.inference_mode()
    def forward(self, cache: DynamicCache, ids: Sequence[int]) -> torch.Tensor:
        """Append n `ids` to the cache; logits float32 [n, vocab_size], row i after ids[: i + 1]."""
        return self.model(self._tensor(ids), past_key_values=cache, use_cache=True).logits[0].float()

    @torch.inference_mode()
    def forward_tree(self, cache: DynamicCache, ids: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Append a tree of n `ids` to the cache; logits float32 [n, vocab_size], row i after the way down to ids[i].

        parents[i] is the index of the token that ids[i] follows, less than i; -1 for the root, ids[0].
        Each token sees the cache and its ancestors, at the position of its depth.
        """
        n, past = len(ids), cache.get_seq_length()
        seen = torch.zeros(n, past + n, dtype=torch.bool)
        seen[:, :past] = True
        depth = [0] * n
        for i, parent in enumerate(parents):
            if parent >= 0:
                seen[i] = seen[parent]
                depth[i] = depth[parent] + 1
            seen[i, past + i] = True
        hidden = torch.finfo(self.model.dtype).min
        mask = torch.zeros(n, past + n, dtype=self.model.dtype).masked_fill_(~seen, hidden)
        return self.model(
            self._tensor(ids), past_key_values=cache, use_cache=True, attention_mask=mask[None, None].to(self.device),
            position_ids=self._tensor([past + d for d in depth]),
        ).logits[0].float()  # fmt: skip

    @torch.inference_mode()
    def keep(self, cache: DynamicCache, total: int, rows: Sequence[int]) -> None:
        """Of the newest `total` tokens keep only `rows` (increasing, 0 among them) and forget the others."""
        if len(rows) == total:
            return
        first = cache.get_seq_length() - total
        if list(rows) != list(range(len(rows))):
            chosen = torch.tensor([first + row for row in rows], device=self.device)
            for layer in cache.layers:
                layer.keys[:, :, first : first + len(rows)] = layer.keys.index_select(2, chosen)
                layer.values[:, :, first : first + len(rows)] = layer.values.index_select(2, chosen)
        self.rollback(cache, total - len(rows))

    def rollback(self, cache: DynamicCache, n: int) -> None:
        """Forget the newest n tokens of the cache."""
        if n:
            cache.crop(-n)

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.device)


def load_target(source: str | Path, *, dtype: torch.dtype, device: str):
    """(Target, tokenizer) from a folder or a Hub id; raises `WeightsError` with what to do."""
    try:
        model = stock_model(source, dtype)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The target {source} could not be loaded: {str(error).strip().splitlines()[0]} "
            "Check the name, the network, and for gated models `hf auth login`."
        ) from error
    return Target(model.to(device), source), tokenizer


def stock_model(source: str | Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model as transformers loads it, nothing repacked."""
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa").eval()


def stop_ids(model: torch.nn.Module, tokenizer) -> frozenset[int]:
    """Every id that ends an answer: the model's own end tokens and the chat template's.

    The template's is found by rendering an assistant turn and looking at the special token after it.
    """
    found = set()
    for ends in (model.generation_config.eos_token_id, model.config.get_text_config().eos_token_id):
        if ends is not None:
            found.update([ends] if isinstance(ends, int) else ends)
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("answer")[2]
        tail = tokenizer(after, add_special_tokens=False).input_ids
        if tail and tail[0] in tokenizer.all_special_ids:
            found.add(tail[0])
    return frozenset(found)
