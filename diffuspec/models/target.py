"""The autoregressive target: a cached forward pass over several tokens, and its rollback.

Any `transformers` causal language model serves. State lives in the cache a run owns, never in the
`Target`, so that many runs may share one set of weights.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from diffuspec.errors import DiffuSpecError, PairError, PromptError, WeightsError
from diffuspec.models.float.llama import KeyValueCache, LlamaDecoder, llama_fits, tail
from diffuspec.models.float.packed import pack_linears, packed_fits
from diffuspec.models.float.static import StaticCache, StaticDecoder, static_fits
from diffuspec.models.hidden import HiddenStates, hidden_of
from diffuspec.models.int8.decoder import Int8Cache, Int8Decoder, int8_fits
from diffuspec.models.ranking import FEW, RankedLogits
from diffuspec.models.vocabulary import has_tokenizer
from diffuspec.settings import Settings

T = TypeVar("T")
NOT_STATIC = (
    "passes of one shape are made for Llama, Qwen2 and Qwen3 on one device, in float32 or bfloat16. Leave --static out."
)
PREFILL_PART = 512  # tokens of a prompt that are read before somebody may stop it


class Target:
    """A causal LM and what decoding needs to know about it.

    model: the plain `transformers` model, None where its weights came compiled; shape: what a config says of it;
    vocab_size: width of its output; parameters: how many weights it has; context: tokens it can hold; source: where
    its weights were loaded from;
    arithmetic: "int8", or the model's own "float32" or "bfloat16".
    static: whether all passes have one shape (`float.static`); by default on a GPU, where the model allows it.
    A Llama on a CPU is run by `Int8Decoder` or `LlamaDecoder`; of any other model on a CPU the linear layers are
    repacked in place, so that everything run on `model` gains. remote: whether it is a server instead, which
    chooses its tokens itself (`models.remote`).
    """

    remote = False

    def __init__(
        self,
        model: torch.nn.Module,
        source: str | Path | None = None,
        arithmetic: str | None = None,
        static: bool | None = None,
    ):
        self._describe(model.eval().requires_grad_(False), source, arithmetic)
        if self.arithmetic == "int8" and not (llama_fits(model) and int8_fits()):
            raise PairError("8-bit arithmetic needs a Llama on a CPU: choose the dtype float32 or bfloat16.")
        if static and (self.arithmetic == "int8" or not static_fits(model)):
            raise PairError(NOT_STATIC[0].upper() + NOT_STATIC[1:])
        if self.arithmetic == "int8":
            self._passes = Int8Decoder(model)
        elif static or (static is None and model.device.type == "cuda" and static_fits(model)):
            self._passes = StaticDecoder(model)
        elif llama_fits(model) and packed_fits(model.dtype, model.device):
            self._passes = LlamaDecoder(model, self.arithmetic)
        else:
            self._passes = StockDecoder(model)
            if packed_fits(model.dtype, model.device):
                pack_linears(model)

    def _describe(self, model: torch.nn.Module, source: str | Path | None, arithmetic: str | None) -> None:
        self.source, self.model = source, model
        self.shape = config = model.config.get_text_config()
        self.vocab_size = model.get_output_embeddings().weight.shape[0]
        self.parameters = sum(p.numel() for p in model.parameters())
        # A model without position embeddings (ALiBi) sets no bound of its own.
        bounds = (getattr(config, name, None) for name in ("max_position_embeddings", "seq_length"))
        self.context = int(next(filter(None, bounds), 2048))
        self.arithmetic = arithmetic or str(model.dtype).removeprefix("torch.")

    @classmethod
    def untouched(cls, model: torch.nn.Module) -> Target:
        """Of a model that its owner goes on using: nothing in it is changed, and transformers' own passes run."""
        target = cls.__new__(cls)
        target._describe(model, None, None)
        target._passes = StockDecoder(model)
        return target

    @classmethod
    def compiled(cls, passes: Int8Decoder, shape, source: str | Path) -> Target:
        """Of layers that were never a `transformers` model; shape: with the names of its configs."""
        target = cls.__new__(cls)
        target.source, target.model, target.shape, target.arithmetic = source, None, shape, "int8"
        target.vocab_size, target.context = shape.vocab_size, shape.max_position_embeddings
        target.parameters = shape.parameters
        target._passes = passes
        return target

    @property
    def device(self) -> torch.device:
        return self.model.device if self.model is not None else torch.device("cpu")

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights that a pass reads, of 8-bit targets; None of others."""
        return self._passes.weight_bytes if isinstance(self._passes, Int8Decoder) else None

    @property
    def static(self) -> bool:
        """Whether all passes have one shape."""
        return isinstance(self._passes, StaticDecoder)

    @property
    def embedding(self):
        """Its input embedding: float [n, h] for embedding[ids], a tensor or an array."""
        return self.model.get_input_embeddings().weight if self.model is not None else self._passes.embedding

    @property
    def trees(self) -> bool:
        """Whether several paths can be verified in one pass: rows need positions of their own."""
        return getattr(self._passes, "trees", True)

    def new_cache(self, hidden: Sequence[int] = ()) -> Int8Cache | KeyValueCache | StaticCache | DynamicCache:
        """hidden: the entries of the hidden states that are to be kept beside it, as `cache.hidden`."""
        cache = self._passes.new_cache()
        if hidden:
            if self.arithmetic == "int8":
                raise PairError("8-bit targets give no hidden states: choose the dtype float32 or bfloat16.")
            cache.hidden = HiddenStates(hidden)
        return cache

    def start(
        self, prefix: Sequence[int], settings: Settings, hidden: Sequence[int] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ):  # fmt: skip
        """A new cache that has read all of a prompt but its last token, the first anchor; None where should_stop ended
        the reading. settings: of the run, for targets that draw their tokens themselves."""
        cache = self.new_cache(hidden)
        return cache if self.prefill(cache, prefix[:-1], should_stop) else None

    @torch.inference_mode()
    def prefill(self, cache, ids: Sequence[int], should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Read `ids` into an empty cache; their logits are not wanted.

        should_stop is asked between parts of a long text; returns False where it ended the reading.
        """
        for start in range(0, len(ids), PREFILL_PART):
            if start and should_stop():
                return False
            part = ids[start : start + PREFILL_PART]
            self._make_sure_of_room(cache, len(part))
            self._passes.prefill(cache, part)
        return True

    @torch.inference_mode()
    def forward(self, cache, ids: Sequence[int]) -> torch.Tensor:
        """Append n `ids` to the cache; logits float32 [n, vocab_size], row i after ids[: i + 1]."""
        self._make_sure_of_room(cache, len(ids))
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
        self._make_sure_of_room(cache, len(ids) if parents is None else 1)
        if isinstance(self._passes, Int8Decoder):
            return RankedLogits(*self._passes.ranked(cache, ids, parents, FEW))
        return RankedLogits(self._passes.forward(cache, ids, parents))

    def _make_sure_of_room(self, cache, n: int) -> None:
        """Positions end with the context: nothing behind its tables may be read."""
        if cache.get_seq_length() + n > self.context:
            raise PromptError(
                f"The text has more than the {self.context} tokens that the target can hold. Shorten the prompt."
            )

    @torch.inference_mode()
    def keep(self, cache, total: int, rows: Sequence[int]) -> None:
        """Of the newest `total` tokens keep only `rows` (increasing, 0 among them) and forget the others."""
        if len(rows) != total:
            first = cache.get_seq_length() - total
            self._passes.keep(cache, first, rows)
            if hidden := hidden_of(cache):
                hidden.keep(first, rows)

    def rollback(self, cache, n: int) -> None:
        """Forget the newest n tokens of the cache."""
        if n:
            cache.crop(-n)
            if hidden := hidden_of(cache):
                hidden.forget(cache.get_seq_length())


class StockDecoder:
    """The passes of any `transformers` causal LM, on a `DynamicCache` that keeps every token in every layer.

    transformers' own choice for layers with a sliding window forgets what lies behind the window, so that rejected
    tokens could not be taken back. Here the window is a matter of the mask alone.
    Raises `PairError` for models whose state is not such a cache.
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        unknown = kinds - {"full_attention", "sliding_attention"}
        if getattr(model, "_is_stateful", False) or unknown:
            what = f"layers of the kind {min(unknown)}" if unknown else "a recurrent state"
            raise PairError(
                f"A {config.model_type} model has {what}: what it read cannot be taken back, which speculative "
                "decoding must do after each rejected token. Choose a target of attention layers alone."
            )
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        if getattr(config, "layer_types", None) and "sliding_attention" not in kinds:
            window = None
        self.window = window
        self._masks_by_kind = bool(window) and len(kinds) > 1 or kinds == {"sliding_attention"}
        masked = getattr(config, "_attn_implementation", None) in (None, "sdpa", "eager")  # others take no mask of ours
        self.trees = masked and "position_ids" in inspect.signature(model.forward).parameters

    def new_cache(self) -> DynamicCache:
        return DynamicCache()

    def prefill(self, cache: DynamicCache, ids: Sequence[int]) -> None:
        self._read(cache, self.model.base_model, ids)

    def forward(self, cache: DynamicCache, ids: Sequence[int], parents: Sequence[int] | None = None) -> torch.Tensor:
        options = {}
        if parents is not None:
            past = cache.get_seq_length()
            hidden, depth = tail(len(ids), len(ids), parents)
            options = {
                "attention_mask": self._masks(past, hidden[:, 0], depth),
                "position_ids": (past + depth)[None].to(self.model.device),
            }
        return self._read(cache, self.model, ids, **options).logits[0].float()

    def _read(self, cache: DynamicCache, network: torch.nn.Module, ids: Sequence[int], **options):
        hidden, past = hidden_of(cache), cache.get_seq_length()
        if hidden is not None:
            options["output_hidden_states"] = True
        out = network(self._tensor(ids), past_key_values=cache, use_cache=True, **options)
        if hidden is not None:
            hidden.put(past, [out.hidden_states[entry][0] for entry in hidden.entries])
        return out

    def _masks(self, past: int, hidden: torch.Tensor, depth: torch.Tensor):
        """Additive masks [1, 1, n, past + n] of a tree of n rows, one of each kind of layer where there are two.

        hidden: float [n, n], -inf where a row is no ancestor; depth: int [n]. A row of depth d in a layer of window w
        sees positions past + d - w + 1 to past + d.
        """
        mask = torch.zeros(len(depth), past + len(depth), dtype=self.model.dtype)
        least = torch.finfo(mask.dtype).min
        mask[:, past:] = hidden.clamp_min(least)
        within = mask
        if self.window:
            positions = torch.cat([torch.arange(past), past + depth])
            within = mask.masked_fill(positions[None] <= (past + depth)[:, None] - self.window, least)
        mask, within = (m[None, None].to(self.model.device) for m in (mask, within))
        return {"full_attention": mask, "sliding_attention": within} if self._masks_by_kind else within

    def keep(self, cache: DynamicCache, first: int, rows: Sequence[int]) -> None:
        """Move the tokens first + rows to first, first + 1, ...; forget all behind them."""
        if list(rows) != list(range(len(rows))):
            chosen = torch.tensor([first + row for row in rows])
            for layer in cache.layers:
                at = chosen.to(layer.keys.device)  # layers may lie on several devices
                layer.keys[:, :, first : first + len(rows)] = layer.keys.index_select(2, at)
                layer.values[:, :, first : first + len(rows)] = layer.values.index_select(2, at)
        cache.crop(first + len(rows) - cache.get_seq_length())

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], device=self.model.device)


def load_target(source: str | Path, *, dtype: str, device: str, spread: bool = False, static: bool | None = None):
    """(Target, tokenizer) from a folder or a Hub id; dtype "int8", "float32" or "bfloat16"; spread: over all
    devices of the kind, for a target that one of them cannot hold; static: as `Target` takes it.

    Raises `WeightsError` with what to do, `PairError` where 8-bit arithmetic does not fit.
    """
    with told(f"The target {source}"):
        options = {"device_map": "auto"} if spread else {}
        model = stock_model(source, torch.float32 if dtype == "int8" else getattr(torch, dtype), **options)
        if not has_tokenizer(source):
            raise WeightsError(f"The target {source} holds no tokenizer: put the files of its tokenizer beside it.")
        tokenizer = AutoTokenizer.from_pretrained(source)
    return Target(model if spread else model.to(device), source, dtype, static), tokenizer


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say of a checkpoint that cannot be loaded why, and what to do about that cause."""
    try:
        yield
    except DiffuSpecError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise WeightsError(f"{what} does not fit into memory: choose a smaller model or --dtype bfloat16.") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        # transformers wraps what the Hub said in words of its own.
        if refused := _of_kind(error, RepositoryNotFoundError):
            raise WeightsError(f"{what} {_refusal(refused)}") from error
        if _of_kind(error, HFValidationError):
            raise WeightsError(f"{what} could not be loaded: it is no folder here and no Hub id. Check it.") from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{what} could not be loaded: {first} {_advice(error)}") from error


def _of_kind(error: BaseException | None, kind: type[T]) -> T | None:
    """The error, or the nearest one behind it, that is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _refusal(error: RepositoryNotFoundError) -> str:
    if isinstance(error, GatedRepoError):
        return "is gated: accept its licence on its page, then log in with `hf auth login`."
    return "is not on the Hub, or is private: check the name, or log in with `hf auth login`."


def _advice(error: Exception) -> str:
    if isinstance(error, SafetensorError):
        return "The file is damaged: fetch it again."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "Free some space, or name another folder in HF_HOME."
    if isinstance(error, ImportError):
        return "Install what it names."
    if isinstance(error, OSError):
        return "Check the name or the folder, and the network."
    return "transformers cannot read this kind of checkpoint: check that it is a causal language model."


def stock_model(source: str | Path, dtype: torch.dtype, **options) -> torch.nn.Module:
    """The model as transformers loads it, nothing repacked; with eager attention where it knows no other. Of a GGUF
    file, its weights are unpacked."""
    if str(source).lower().endswith(".gguf"):
        source, options = Path(source).parent, {**options, "gguf_file": Path(source).name}
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa", **options).eval()
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager", **options).eval()
