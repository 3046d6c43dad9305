"""8-bit linear layers whose rows do not care what else shares the pass.

Losslessness is a matter of arithmetic: in bfloat16 a pass over one token and one over nine round
differently, logits tie, and speculative decoding ends up with another answer than plain decoding.
Integer sums are exact in any order. So weights are int8 with one scale an output channel,
activations are int8 with one scale a *row*, and the product is summed in int32: a row has the same
bits whatever its company, at half the bytes of bfloat16.

A few input channels of a language model are far larger than the rest and would leave the others a
handful of the 255 levels. They are split (outlier channel splitting, Zhao et al., arXiv 1901.09504):
a channel x enters r times as x / r, next to r copies of its weights, which changes nothing in exact
arithmetic and divides the row's largest value by r.
"""

from __future__ import annotations

import functools
import warnings

import torch
import torch.nn.functional as F

LEVELS = 127  # of an activation, on each side of 0
SPLITS = 64
_ZERO = 128  # the unsigned byte that stands for 0


@functools.cache
def weight_levels() -> int:
    """Levels of a weight on each side of 0.

    Without VNNI two products are added in 16 bits, which saturate: 95 levels leave room for all but the rarest
    pairs (measured on the embedded target: KL to float32 0.012, against 0.033 with 127 and 0.019 with 63).
    """
    return 127 if torch.cpu._is_vnni_supported() else 95


@functools.cache
def _engine() -> str | None:
    """The quantised engine of this build and machine; None where there is none for x86."""
    supported = torch.backends.quantized.supported_engines
    vnni = torch.cpu._is_vnni_supported()
    return next((name for name in (("x86", "fbgemm") if vnni else ("fbgemm", "x86")) if name in supported), None)


@functools.cache
def int8_fits() -> bool:
    """Whether this machine computes 8-bit products, each row by itself, as `Int8Linear` needs them."""
    if _engine() is None:
        return False
    try:
        random = torch.Generator().manual_seed(0)
        weight, rows = torch.randn(64, 64, generator=random), torch.randn(9, 64, generator=random)
        layer = Int8Linear(weight)
        together, exact = layer(rows), rows @ weight.T
        alone = torch.cat([layer(row[None]) for row in rows])
        return torch.equal(together, alone) and bool((together - exact).norm() < 0.05 * exact.norm())
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def splits(largest: torch.Tensor, extra: int = SPLITS) -> torch.Tensor:
    """How often each channel enters, int64 [in]: `extra` copies go, one by one, to what is then the largest.

    largest: float [in], the largest magnitude each channel was seen to take.
    """
    copies = torch.ones_like(largest, dtype=torch.long)
    for _ in range(extra):
        copies[(largest / copies).argmax()] += 1
    return copies


def spread(copies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channel of each column once split, int64 [sum of copies], and the share of it that a column carries, float.

    Copies of a channel stand apart: neighbouring products are added first, in 16 bits where there is no VNNI.
    """
    channels = torch.arange(len(copies))
    more = channels.repeat_interleave(copies - 1)
    half = (len(more) + 1) // 2
    apart = F.pad(more, (0, 2 * half - len(more)), value=-1).view(2, half).T.reshape(-1)
    channels = torch.cat([channels, apart[apart >= 0]])
    return channels, (1.0 / copies)[channels]


class Int8Linear(torch.nn.Module):
    """y = (gain * x) W^T in 8 bits; `weight` float [out, in] is quantised and not kept.

    gain: float [in], a factor on the input (a normalisation's weight), by default 1.
    copies: int64 [in] as `splits` gives them, by default none is split.
    """

    def __init__(self, weight: torch.Tensor, gain: torch.Tensor | None = None, copies: torch.Tensor | None = None):
        super().__init__()
        gain = torch.ones(weight.shape[1]) if gain is None else gain.float()
        self.channels = None
        if copies is not None and int(copies.max()) > 1:
            self.channels, share = spread(copies)
            weight, gain = weight[:, self.channels], gain[self.channels] * share
        self.gain = None if bool((gain == 1).all()) else gain
        weight = weight.detach().float()
        scale = weight.abs().amax(1).clamp_min(1e-12).double() / weight_levels()
        torch.backends.quantized.engine = _engine()
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # deprecated for a later torch than the pinned one
            quantised = torch.quantize_per_channel(
                weight, scale, torch.zeros(len(scale), dtype=torch.long), 0, torch.qint8
            )
            self.packed = torch.ops.quantized.linear_prepack(quantised, None)

    def forward(self, x: torch.Tensor, row_scale: torch.Tensor | None = None) -> torch.Tensor:
        """x float32 [n, in]; row_scale float32 [n, 1], a factor on each output row; float32 [n, out]."""
        y, largest = self._product(x)
        return y.mul_(largest if row_scale is None else largest.mul_(row_scale))

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """residual + forward(x), in one operation less."""
        return torch.addcmul(residual, *self._product(x))

    def _product(self, x):
        """(y [n, out], factor [n, 1]), whose product is the result."""
        if self.channels is not None:
            x = x.index_select(1, self.channels)
        if self.gain is not None:
            x = x * self.gain
        largest = x.abs().amax(1, keepdim=True)  # a row of zeros becomes NaN, any integer, and 0 again
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / largest, 1 / LEVELS, _ZERO, self.packed
        ), largest
