"""Arrays that are given out again once nobody holds them."""

from __future__ import annotations

import math
import sys

import numpy as np

KEPT = 24
FREE = 3  # references to an array that only `Arrays.take` looks at: its list's, the loop's, and the question's own


class Arrays:
    """A pass writes megabytes that are done with at its end. Fresh memory costs a page fault for every 4 KB of them,
    which on some virtual machines takes longer than the pass."""

    def __init__(self):
        self._kept: list[np.ndarray] = []

    def take(self, *shape: int) -> np.ndarray:
        """float32 of this shape, holding anything; it, and views of it, are the caller's as long as they are held."""
        size = math.prod(shape)
        for array in self._kept:
            if array.size >= size and sys.getrefcount(array) == FREE:
                return array[:size].reshape(shape)
        # By powers of two, so that the next pass, with a row more, finds it large enough.
        array = np.empty(1 << max(10, (size - 1).bit_length()), np.float32)
        self._kept = sorted([*self._kept[-KEPT + 1 :], array], key=len)
        return array[:size].reshape(shape)
