"""Packed linear layers: the right product, and a row's bits do not depend on who shares the pass (in bfloat16, where
the processor has no AMX)."""

import llvmlite.binding
import pytest
import torch

from diffuspec.models.float.packed import PackedLinear, packed_fits


@pytest.mark.parametrize("shape", [(960, 576), (576, 576), (3072, 576), (576, 1536), (4096, 576)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_has_the_same_bits_however_many_share_the_pass(dtype, shape):
    if not packed_fits(dtype, torch.device("cpu")):
        return  # this CPU keeps plain layers for the dtype
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=dtype)
    rows = torch.randn(33, shape[1], dtype=dtype)
    layer = PackedLinear(weight)
    with torch.inference_mode():
        together = layer(rows)
        torch.testing.assert_close(together.float(), rows.float() @ weight.float().T, rtol=2e-2, atol=0.5)
        for n in (1, 2, 3, 5, 8, 9, 17):
            if dtype == torch.bfloat16 and llvmlite.binding.get_host_cpu_features().get("amx-bf16"):
                # Tiles add up in another order than what stands beside them: the same but for bfloat16's last place.
                torch.testing.assert_close(layer(rows[:n]), together[:n], rtol=2**-7, atol=1e-3)
            else:
                assert torch.equal(layer(rows[:n]), together[:n]), n


def test_leading_dimensions_are_kept():
    layer = PackedLinear(torch.eye(4))
    assert layer(torch.ones(2, 3, 4)).shape == (2, 3, 4)


def test_float32_is_packed_wherever_torch_has_onednn():
    """Else the test above would look at nothing."""
    assert packed_fits(torch.float32, torch.device("cpu")) == torch.backends.mkldnn.is_available()
