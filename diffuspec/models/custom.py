"""Drafters of one's own: `--drafter module:Class`, or an entry point of the group "diffuspec.drafters".

docs/drafters.md shows one from beginning to end.
"""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from pathlib import Path

import torch

from diffuspec.errors import DiffuSpecError, PairError
from diffuspec.models.drafter import MASKED, DiffusionDrafter
from diffuspec.models.target import Target
from diffuspec.settings import Settings

GROUP = "diffuspec.drafters"
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_TRIAL = 2  # masks of the first draft, which shows whether the class keeps the contract


def is_custom(source: str | Path) -> bool:
    """Whether a drafter is named as module:Class or by an entry point, and not as a folder."""
    return not Path(source).exists() and (bool(_PLACE.fullmatch(str(source))) or _entry(source) is not None)


def custom_drafter(source: str, target: Target, tokenizer) -> DiffusionDrafter:
    """The drafter that Class(target, tokenizer) makes. Raises `PairError` where it does not keep the contract."""
    try:
        if _PLACE.fullmatch(source):
            module, _, name = source.partition(":")
            made = getattr(importlib.import_module(module), name)
        else:
            made = _entry(source).load()
    except Exception as error:  # what a module of someone else raises
        raise PairError(f"The drafter {source} could not be imported: {error}.") from error
    if not (isinstance(made, type) and issubclass(made, DiffusionDrafter)):
        raise PairError(f"The drafter {source} is no DiffusionDrafter: derive it from diffuspec.DiffusionDrafter.")
    try:
        drafter = made(target, tokenizer)
        _try(drafter, target)
    except DiffuSpecError:
        raise
    except Exception as error:
        raise PairError(f"The drafter {source} failed at its first draft: {type(error).__name__}: {error}") from error
    return drafter


def _entry(source: str | Path) -> metadata.EntryPoint | None:
    return next(iter(metadata.entry_points(group=GROUP, name=str(source))), None)


def _try(drafter: DiffusionDrafter, target: Target) -> None:
    if not (isinstance(drafter.max_block, int) and drafter.max_block > 0):
        raise PairError(f"max_block of {type(drafter).__name__} must be a whole number above 0.")
    k = min(_TRIAL, drafter.max_block)
    cache = target.start([0, 1, 2], Settings(), drafter.hidden_entries)
    with torch.inference_mode():
        logits = drafter.logits([0, 1, 2], [MASKED] * k, cache)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != k:
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise PairError(f"logits of {type(drafter).__name__} must be a tensor [{k}, vocabulary] here, not {shape}.")
    if not (logits > -torch.inf).any(-1).all() or logits.isnan().any():
        raise PairError(f"logits of {type(drafter).__name__} hold rows that are not numbers.")
    ids = drafter.to_target_ids(torch.tensor([[0, logits.shape[1] - 1]]))
    if not ((ids >= 0) & (ids < target.vocab_size)).all():
        raise PairError(
            f"{type(drafter).__name__} drafts token ids that the target's vocabulary of {target.vocab_size} lacks: "
            "cut its logits, or override to_target_ids."
        )
