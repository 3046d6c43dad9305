"""How the search stage is compiled, and the records and constants that it shares with plain Python.

Nothing here imports numba: a trace is looked at without a search.
"""

from __future__ import annotations

import numpy as np

OPTIONS = dict(nogil=True, error_model="numpy", no_cfunc_wrapper=True)
LONGEST = 4  # the longest suffix that a copy is looked up by
COPIED, FOLLOWER = -1, -2  # the row of a token that is no kept cell: copied, or an n-gram's follower
MIX, MIX2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9  # odd multipliers of the hashes


# The records are plain tuples, which the first line of a compiled function unpacks: numba takes a microsecond longer to
# look at each named one, and a whole search takes thirty.

Cells = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A lattice: ids int32, logq float32, kept bool, all [k, W] and contiguous."""

Fitted = tuple[np.ndarray, ...]
"""A fitted 3-gram (see `method.proxy.NGram`) of V tokens, n2 bigrams and n3 trigrams, n2 = 0 for none:

p1 float64 [V], backoff1 float32 [V]; starts2 int32 [V + 1], where the followers of a token begin; words2 int32 [n2],
these followers, by token id; logp2 float32 [n2]; order2 int32 [n2], their rows, likeliest first; backoff2 float32 [n2];
starts3 [n2 + 1], words3, logp3, order3 [n3] likewise.
"""

Counted = tuple[np.ndarray, float, float]
"""A 3-gram of the text so far: counts int64 [a power of 2, 4] (see `proxies.count`), 1 / V, the discount."""

Tables = tuple[Fitted, Counted, float, float]
"""A proxy that compiled code reads for itself: two 3-grams and the share of each. Both shares 0: p = 1."""

Copies = tuple[np.ndarray, np.ndarray, int, int, np.ndarray]
"""What a tree may copy: text int64, newest int64 and size, size 0 for none (see `copies.remember`); the least number of
tokens that must match; w of 1, 2, ... matching tokens, float64."""

Followers = tuple[int, float]
"""How many of an n-gram's followers a tree may hold after a node, and the factor r of their probability."""

Spending = tuple[float, float, np.ndarray, np.ndarray, np.ndarray]
"""Of a `TreeBudget` t in milliseconds, E in tokens, and b, float64, milliseconds a row; b empty for no bound. Then the
knots of a `Calibration`'s map, x and y, float64; empty where nodes are taken at their word."""
