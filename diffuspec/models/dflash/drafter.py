"""DFlash, DFlash 2 and DSpark as drafters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from diffuspec.errors import PairError, SettingsError, WeightsError
from diffuspec.method.proxy import Following
from diffuspec.models.dflash.formats import KINDS, DraftShape, read_shape, reads_hidden_states
from diffuspec.models.dflash.heads import FollowingTerm, confidence
from diffuspec.models.dflash.network import Backbone, Weights, expected_tensors
from diffuspec.models.drafter import MASKED, DiffusionDrafter
from diffuspec.models.target import Target

# What a checkpoint may hold of its target, or of training, and is not needed to draft.
_IDLE = ("verifier_lm_head.weight", "verifier_norm.weight", "rotary_emb.inv_freq", "t2d")


class HiddenStateDrafter(DiffusionDrafter):
    """A drafter that reads hidden states of its target, as DFlash (arXiv 2602.06036) and DSpark (arXiv 2607.05147).

    The block's rows are the anchor and masks: rows 1 .. k predict their own positions, or, if `shape.shifted`, rows
    0 .. k - 1 those after theirs. The embedding and the output are the target's unless the checkpoint has its own;
    of a reduced vocabulary `d2t` says how far each of its ids lies below the target's.
    Raises `PairError` where the checkpoint does not fit the target, or holds tensors too many or too few.
    """

    kind = "hidden-state"

    def __init__(self, shape: DraftShape, weights: Weights, target: Target, name: str = "drafter"):
        if target.model is None or target.arithmetic == "int8":
            raise PairError(
                f"The drafter {name} reads hidden states, which 8-bit targets do not give: choose the dtype float32 or "
                "bfloat16, and a target that is no GGUF file."
            )
        self.shape, self.max_block, self.hidden_entries = shape, shape.max_block, shape.entries
        self.dtype = target.model.dtype
        weights = {key.removeprefix("model."): tensor for key, tensor in weights.items()}
        for key in [key for key in weights if key.endswith("_codebook")]:  # z-lab's files leave the ending out
            weights[f"{key}.weight"] = weights.pop(key)
        _check(shape, weights, target, name)
        offsets = weights.pop("d2t", None)
        self.weights = {
            key: tensor.to(target.device, self.dtype) for key, tensor in weights.items() if key not in _IDLE
        }
        self._backbone = Backbone(shape, self.weights)
        self._embedding = self.weights.get("embed_tokens.weight", target.embedding)
        self._head, self._output = self.weights.get("lm_head.weight"), target.model.get_output_embeddings()
        self._target_ids = self._columns = None
        if shape.draft_vocab != shape.vocab:
            self._target_ids = torch.arange(shape.draft_vocab) + offsets.long().cpu()
            self._columns = torch.zeros(target.vocab_size, dtype=torch.long)
            self._columns[self._target_ids] = torch.arange(shape.draft_vocab)
        self._vocab = target.vocab_size
        term = shape.markov or shape.selector
        self._term = FollowingTerm(shape, self.weights) if term else None
        self.following = self._term.kind if self._term else None
        self.recurrent = bool(self._term) and self._term.recurrent
        self.predicts_acceptance = shape.confidence

    def logits(self, prefix, block, cache):
        if len(block) > self.max_block:
            raise SettingsError(f"The drafter fills {self.max_block} positions at most, not {len(block)}.")
        rows = self._hidden(prefix, block, cache)
        out = self._output(rows) if self._head is None else F.linear(rows, self._head)
        logits = out.float() * self.shape.output_scale
        if self.shape.softcap:
            logits = torch.tanh(logits / self.shape.softcap) * self.shape.softcap
        logits = logits[:, : self._vocab]
        if self._target_ids is None and self.shape.mask_id < logits.shape[1]:
            logits = logits.clone()
            logits[:, self.shape.mask_id] = -torch.inf
        return logits

    def _hidden(self, prefix, block, cache) -> torch.Tensor:
        """Final hidden states [k, h] of the rows that predict the block; those of masks are kept for `follow`."""
        hidden = cache.hidden
        filled = block[:-1] if self.shape.shifted else block
        ids = [prefix[-1], *(self.shape.mask_id if token == MASKED else token for token in filled)]
        embedded = self._embedding[torch.tensor(ids, device=self._embedding.device)].to(self.dtype)
        rows = self._backbone(embedded * self.shape.input_scale, hidden)
        rows = rows if self.shape.shifted else rows[1:]
        drafted, older = rows.clone(), hidden.derived.get((self, "draft"))
        for i, token in enumerate(block):
            if token != MASKED and older is not None and i < len(older.rows):
                drafted[i] = older.rows[i]
        hidden.derived[self, "draft"] = _Drafted(drafted)
        return rows

    def to_target_ids(self, columns):
        return columns if self._target_ids is None else self._target_ids[columns.cpu()]

    @torch.inference_mode()
    def follow(self, cache, anchor: int, ids: np.ndarray, logq: np.ndarray) -> Following:
        rows, columns, tokens = self._cells(cache, ids)
        if self._term.recurrent:

            def along(column: int, path: Sequence[int]) -> np.ndarray:
                with torch.inference_mode():
                    before = torch.tensor(path, device=rows.device)
                    return self._term.along(rows[: column + 1], before, columns[column]).cpu().numpy()

            return Following(anchor, ids, logq, along=along)
        previous = torch.cat([torch.full_like(tokens[:1], anchor), tokens[:-1]])
        return Following(anchor, ids, logq, added=self._term.added(rows, previous, columns, tokens).cpu().numpy())

    @torch.inference_mode()
    def acceptance(self, cache, anchor: int, ids: np.ndarray, logq: np.ndarray) -> np.ndarray:
        rows = self._cells(cache, ids)[0]
        path = self.follow(cache, anchor, ids, logq).walk() if self._term else ids[:, 0].tolist()
        previous = torch.tensor([anchor, *path[:-1]], device=rows.device)
        return confidence(self.shape, self.weights, rows, previous).cpu().numpy()

    def _cells(self, cache, ids):
        """Hidden states [k, h] of the last draft, and of its lattice the columns of the output and the token ids."""
        rows = cache.hidden.derived[self, "draft"].rows[: len(ids)]
        tokens = torch.from_numpy(ids.astype(np.int64))
        columns = tokens if self._columns is None else self._columns[tokens]
        return rows, columns.to(rows.device), tokens.to(rows.device)


class _Drafted:
    """Final hidden states of the block drafted last, [k, h]."""

    def __init__(self, rows: torch.Tensor):
        self.rows = rows

    def forget(self, length: int) -> None:
        pass


def _check(shape: DraftShape, weights: Weights, target: Target, name: str) -> None:
    title, config = KINDS[shape.kind], target.shape
    h, depth = shape.stack["hidden_size"], config.num_hidden_layers
    if h != config.hidden_size:
        raise PairError(
            f"The {title} drafter {name} was made for a target of hidden size {h}; this one's is {config.hidden_size}."
        )
    if shape.num_target_layers not in (None, depth):
        raise PairError(
            f"The {title} drafter {name} was made for a target of {shape.num_target_layers} layers; this one has "
            f"{depth}."
        )
    wrong = [entry for entry in shape.entries if not 0 <= entry <= depth]
    if wrong:
        raise PairError(
            f"The {title} drafter {name} reads entry {wrong[0]} of the target's hidden states, which are 0 to {depth}."
        )
    embedding = weights.get("embed_tokens.weight", target.embedding)
    if not 0 <= shape.mask_id < len(embedding):
        raise PairError(
            f"The mask id {shape.mask_id} of the drafter {name} lies outside the vocabulary of {len(embedding)}."
        )
    if shape.max_block < 1:
        raise PairError(f"The drafter {name} has a block of {shape.block}: no position is left to draft.")
    expected = expected_tensors(shape)
    optional = {"embed_tokens.weight": (shape.vocab, h), "lm_head.weight": (shape.draft_vocab, h)}
    if shape.draft_vocab != shape.vocab:
        expected |= {"d2t": (shape.draft_vocab,), "lm_head.weight": optional["lm_head.weight"]}
    missing = sorted(expected.keys() - weights.keys())
    left_over = sorted(weights.keys() - expected.keys() - optional.keys() - set(_IDLE) - {"d2t"})
    for found, what in ((missing, "lacks"), (left_over, "also holds")):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise PairError(
                f"The checkpoint {name} is no {title} drafter as its config.json says: it {what} {found[0]}{more}."
            )
    for key, size in {**optional, **expected}.items():
        if key in weights and tuple(weights[key].shape) != size:
            raise PairError(
                f"The {title} drafter {name} holds {key} of {list(weights[key].shape)}, where its config.json asks for "
                f"{list(size)}."
            )
    if shape.draft_vocab != shape.vocab:
        ids = torch.arange(shape.draft_vocab) + weights["d2t"].long().cpu()
        if not ((ids >= 0) & (ids < target.vocab_size)).all():
            raise PairError(f"The drafter {name} drafts tokens outside the target's vocabulary of {target.vocab_size}.")


def config_of(source: str | Path) -> dict | None:
    """The config.json of a checkpoint, a folder or a Hub id; None where there is none to be had."""
    try:
        found = cached_file(source, "config.json")
        config = json.loads(Path(found).read_text()) if found else None
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def is_hidden_state_drafter(source: str | Path) -> bool:
    config = config_of(source)
    return config is not None and reads_hidden_states(config)


def load_hidden_state_drafter(source: str | Path, target: Target) -> HiddenStateDrafter:
    """A drafter in the format of z-lab, DeepSpec or `speculators`; `PairError` and `WeightsError` say what is wrong."""
    config = config_of(source)
    if config is None:
        raise WeightsError(f"The drafter {source} could not be loaded: it holds no readable config.json.")
    return HiddenStateDrafter(read_shape(config, str(source)), _weights(source), target, str(source))


def _weights(source: str | Path) -> Weights:
    try:
        single = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        if single:
            return load_file(single)
        index = cached_file(source, "model.safetensors.index.json")
        files, _ = get_checkpoint_shard_files(str(source), index)
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsError(
            f"The weights of the drafter {source} could not be loaded: {str(error).strip().splitlines()[0]} "
            "Check the name and the network, and for gated models `hf auth login`."
        ) from error
