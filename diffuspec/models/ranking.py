"""The likeliest of many logits, sooner than `argmax` finds it."""

from __future__ import annotations

import torch

_BLOCK = 128


def likeliest(values: torch.Tensor) -> torch.Tensor:
    """As `values.argmax(-1)` of a float [rows, V], several times sooner: block maxima first. Of equals the first."""
    rows, width = values.shape
    blocks = width // _BLOCK
    if blocks * _BLOCK != width or blocks < 2:
        return values.argmax(-1)
    tiled = values.unflatten(1, (blocks, _BLOCK))
    block = tiled.amax(-1).argmax(-1)
    return block * _BLOCK + tiled[torch.arange(rows, device=values.device), block].argmax(-1)
