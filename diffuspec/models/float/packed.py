"""Linear layers in oneDNN's own weight layout: faster for a few rows, and indifferent to their number.

`torch.nn.Linear` hands plain row-major weights to a general matrix product, which for 2 to 16 rows
runs far from memory speed. oneDNN's blocked layout does not; and since each output row is summed in
the same order however many rows share the call, a row has the same bits in a pass of one token and in
a pass of nine (checked by a test on this machine's kernels). float32 needs one precaution: a single
row would take another kernel, so it is sent twice. bfloat16 keeps no such promise where the processor has
AMX: there a row's sums depend on its place among the others.
"""

from __future__ import annotations

import functools

import torch

ROWS_EXPECTED = 8


@functools.cache
def available() -> bool:
    """True where this build of torch can pack weights for its CPU kernels."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        probe = PackedLinear(torch.eye(16))
        return bool(torch.allclose(probe(torch.ones(3, 16)), torch.ones(3, 16)))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def packed_fits(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether packing `dtype` weights on `device` is possible and a gain."""
    if device.type != "cpu" or not available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedLinear(torch.nn.Module):
    """y = x W^T without bias; weight [out, in] is repacked and not kept in its plain form."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.twice = weight.dtype == torch.float32
        with torch.inference_mode(False), torch.no_grad():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS_EXPECTED)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        if self.twice and len(rows) == 1:
            y = self._product(rows.expand(2, -1).contiguous())[:1]
        else:
            y = self._product(rows)
        return y.view(*x.shape[:-1], self.out_features)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(rows, self.packed, None, "none", [], "")


def pack_linears(model: torch.nn.Module) -> None:
    """Replace every bias-free `nn.Linear` of a model in place; embeddings tied to one stay as they are."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear) and child.bias is None:
                setattr(module, name, PackedLinear(child.weight))
