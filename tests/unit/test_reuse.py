"""Arrays given out again."""

from __future__ import annotations

import numpy as np
import torch

from diffuspec.models.reuse import KEPT, Arrays


def test_an_array_is_given_out_again_only_when_nobody_holds_it_or_a_view_of_it():
    arrays = Arrays()
    first = arrays.take(3, 700)
    assert first.shape == (3, 700) and first.dtype == np.float32 and first.flags.c_contiguous
    second = arrays.take(3, 700)
    assert not np.shares_memory(first, second)
    tensor = torch.from_numpy(first)[1:]
    first_base = first.base.ctypes.data
    del first
    assert arrays.take(2, 5).base.ctypes.data != first_base
    del tensor
    assert arrays.take(2100).base.ctypes.data == first_base


def test_a_row_more_finds_room_and_what_is_kept_is_bounded():
    arrays = Arrays()
    place = arrays.take(8, 1000).base.ctypes.data
    assert arrays.take(8, 1001).base.ctypes.data == place
    held = [arrays.take(1000) for _ in range(3 * KEPT)]
    assert len(arrays._kept) == KEPT and len(held) == 3 * KEPT
    assert arrays.take(0, 9).shape == (0, 9)
