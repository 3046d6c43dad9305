"""Matrix products y = (gain * x) W^T in the arithmetic that was asked for, behind one call.

Each takes x float [n, in] and an optional factor on each row [n, 1], and gives float [n, out];
`add_to` adds that to a residual. The gain is a normalisation's weight, which stands in front of
every such product in a Llama.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from diffuspec.models.float.packed import PackedLinear, packed_fits


def fastest_arithmetic(device: torch.device) -> str:
    """What is quickest here where rounding does no harm, as in a draft: "bfloat16", "float32" or "plain"."""
    if device.type != "cpu":
        return "plain"
    return next((name for name in ("bfloat16", "float32") if packed_fits(getattr(torch, name), device)), "plain")


class FloatLinear:
    """A float product with the gain in its weights, packed for this machine's kernels where that is possible."""

    def __init__(self, weight: torch.Tensor, gain: torch.Tensor | None, arithmetic: str):
        dtype = weight.dtype if arithmetic == "plain" else getattr(torch, arithmetic)
        weight = (weight if gain is None else weight.float() * gain.float()).to(dtype)
        self.weight = PackedLinear(weight) if packed_fits(dtype, weight.device) and arithmetic != "plain" else weight
        self.dtype = dtype

    def __call__(self, x: torch.Tensor, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        rows = x.to(self.dtype)
        y = F.linear(rows, self.weight) if isinstance(self.weight, torch.Tensor) else self.weight(rows)
        y = y.to(x.dtype)
        return y if row_scale is None else y.mul_(row_scale)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self(x).add_(residual)
