"""The autoregressive target: a cached forward pass over several tokens, and its rollback.

Any `transformers` causal language model serves. State lives in the cache a run owns, never in the
`Target`, so that many runs may share one set of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from diffuspec.errors import PairError, WeightsError
from diffuspec.models.float.llama import KeyValueCache, LlamaDecoder, llama_fits, tail
from diffuspec.models.float.packed import pack_linears, packed_fits
from diffuspec.models.int8.decoder import Int8Cache, Int8Decoder, int8_fits
from diffuspec.models.ranking import FEW, RankedLogits


class Target:
    """A causal LM and what decoding needs to know about it.

    model: the plain `transformers` model, None where its weights came compiled; shape: what a config says of it;
    vocab_size: width of its output; context: tokens it can hold; source: where its weights were loaded from;
    arithmetic: "int8", or the model's own "float32" or "bfloat16".
    A Llama on a CPU is run by `Int8Decoder` or `LlamaDecoder`; of any other model on a CPU the linear layers are
    repacked in place, so that everything run on `model` gains.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        source: str | Path | None = None,
        arithmetic: str | None = None,
    ):
        self.source = source
        self.model = model.eval().requires_grad_(False)
        self.shape = config = model.config.get_text_config()
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.context = int(config.max_position_embeddings)
        self.arithmetic = arithmetic or str(model.dtype).removeprefix("torch.")
        if self.arithmetic == "int8" and not (llama_fits(model) and int8_fits()):
            raise PairError("8-bit arithmetic needs a Llama on a CPU: choose the dtype float32 or bfloat16.")
        if self.arithmetic == "int8":
            self._passes = Int8Decoder(model)
        elif llama_fits(model) and packed_fits(model.dtype, model.device):
            self._passes = LlamaDecoder(model, self.arithmetic)
        else:
            self._passes = StockDecoder(model)
            if packed_fits(model.dtype, model.device):
                pack_linears(model)

    @classmethod
    def compiled(cls, passes: Int8Decoder, shape, source: str | Path) -> Target:
        """Of layers that were never a `transformers` model; shape: with the names of its configs."""
        target = cls.__new__(cls)
        target.source, target.model, target.shape, target.arithmetic = source, None, shape, "int8"
        target.vocab_size, target.context = shape.vocab_size, shape.max_position_embeddings
        target._passes = passes
        return target

    @property
    def device(self) -> torch.device:
        return self.model.device if self.model is not None else torch.device("cpu")

    @property
    def embedding(self):
        """Its input embedding: float [n, h] for embedding[ids], a tensor or an array."""
        return self.model.get_input_embeddings().weight if self.model is not None else self._passes.embedding

    def new_cache(self) -> Int8Cache | KeyValueCache | DynamicCache:
        return self._passes.new_cache()

    @torch.inference_mode()
    def prefill(self, cache, ids: Sequence[int]) -> None:
        """Read `ids` into an empty cache; their logits are not wanted."""
        if ids:
            self._passes.prefill(cache, ids)

    @torch.inference_mode()
    def forward(self, cache, ids: Sequence[int]) -> torch.Tensor:
        """Append n `ids` to the cache; logits float32 [n, vocab_size], row i after ids[: i + 1]."""
        return self._passes.forward(cache, ids)

    @torch.inference_mode()
    def forward_tree(self, cache, ids: Sequence[int], parents: Sequence[int]) -> torch.Tensor:
        """Append a tree of n `ids` to the cache; logits float32 [n, vocab_size], row i after the way down to ids[i].

        parents[i] is the index of the token that ids[i] follows, less than i; -1 for the root, ids[0].
        Each token sees the cache and its ancestors, at the position of its depth.
        """
        return self._passes.forward(cache, ids, parents)

    @torch.inference_mode()
    def ranked(self, cache, ids: Sequence[int], parents: Sequence[int] | None = None) -> RankedLogits:
        """`forward`, or with parents `forward_tree`, and what is likely in each row."""
        if isinstance(self._passes, Int8Decoder):
            return RankedLogits(*self._passes.ranked(cache, ids, parents, FEW))
        return RankedLogits(self._passes.forward(cache, ids, parents))

    @torch.inference_mode()
    def keep(self, cache, total: int, rows: Sequence[int]) -> None:
        """Of the newest `total` tokens keep only `rows` (increasing, 0 among them) and forget the others."""
        if len(rows) != total:
            self._passes.keep(cache, cache.get_seq_length() - total, rows)

    def rollback(self, cache, n: int) -> None:
        """Forget the newest n tokens of the cache."""
        if n:
            cache.crop(-n)


class StockDecoder:
    """The passes of any `transformers` causal LM, on its own `DynamicCache`."""

    def __init__(self, model: torch.nn.Module):
        self.model = model

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def prefill(self, cache: DynamicCache, ids: Sequence[int]) -> None:
        self.model.base_model(self._tensor(ids), past_key_values=cache, use_cache=True)

    def forward(self, cache: DynamicCache, ids: Sequence[int], parents: Sequence[int] | None = None) -> torch.Tensor:
        options = {}
        if parents is not None:
            past = cache.get_seq_length()
            hidden, depth = tail(len(ids), len(ids), parents)
            mask = torch.zeros(len(ids), past + len(ids), dtype=self.model.dtype)
            mask[:, past:] = hidden[:, 0].clamp_min(torch.finfo(mask.dtype).min)
            options = {
                "attention_mask": mask[None, None].to(self.model.device),
                "position_ids": (past + depth)[None].to(self.model.device),
            }
        return self.model(self._tensor(ids), past_key_values=cache, use_cache=True, **options).logits[0].float()

    def keep(self, cache: DynamicCache, first: int, rows: Sequence[int]) -> None:
        """Move the tokens first + rows to first, first + 1, ...; forget all behind them."""
        if list(rows) != list(range(len(rows))):
            chosen = self._tensor([first + row for row in rows])[0]
            for layer in cache.layers:
                layer.keys[:, :, first : first + len(rows)] = layer.keys.index_select(2, chosen)
                layer.values[:, :, first : first + len(rows)] = layer.values.index_select(2, chosen)
        cache.crop(first + len(rows) - cache.get_seq_length())

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.model.device)


def load_target(source: str | Path, *, dtype: str, device: str):
    """(Target, tokenizer) from a folder or a Hub id; dtype "int8", "float32" or "bfloat16".

    Raises `WeightsError` with what to do, `PairError` where 8-bit arithmetic does not fit.
    """
    try:
        model = stock_model(source, torch.float32 if dtype == "int8" else getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The target {source} could not be loaded: {str(error).strip().splitlines()[0]} "
            "Check the name, the network, and for gated models `hf auth login`."
        ) from error
    return Target(model.to(device), source, dtype), tokenizer


def stock_model(source: str | Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model as transformers loads it, nothing repacked; of a GGUF file, its weights are unpacked."""
    named = {}
    if str(source).lower().endswith(".gguf"):
        source, named = Path(source).parent, {"gguf_file": Path(source).name}
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa", **named).eval()


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
