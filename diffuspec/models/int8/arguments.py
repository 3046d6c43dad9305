"""What the compiled functions of a pass share, by name.

numba takes a microsecond to look at each named tuple that Python gives it, and nothing for those that compiled code
makes itself: `layers.run` takes plain tuples in the order of these fields, and names them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Sizes of the layers.

    heads, kv_heads: of queries, and of keys and values; d: numbers of a head; vocab: V; eps: of the norms.
    """

    heads: int
    kv_heads: int
    d: int
    vocab: int
    eps: float


class Weights(NamedTuple):
    """Of all layers. qkv, output, gate_up, down: each (those of 4 bits, those of 8, int64 [layers]: places in the
    first, or ~ in the second), uint8 [.., groups, bytes] as `product` reads them, gate and up whole numbers of groups;
    norms, post_norms: gains float32 [layers, h]; norm, head: the last norm's gain [h], and the vocabulary's weights;
    biases: of qkv, float32 [layers, channels or 0]; head_norms: gains for queries and keys, [layers, 2, d or 0].
    """

    qkv: tuple[np.ndarray, np.ndarray, np.ndarray]
    output: tuple[np.ndarray, np.ndarray, np.ndarray]
    gate_up: tuple[np.ndarray, np.ndarray, np.ndarray]
    down: tuple[np.ndarray, np.ndarray, np.ndarray]
    norms: np.ndarray
    post_norms: np.ndarray
    norm: np.ndarray
    head: np.ndarray
    biases: np.ndarray
    head_norms: np.ndarray


class Rows(NamedTuple):
    """The rows of a pass.

    x: float32 [n, h], replaced in place; texts: int64 [texts, 4], each text's slot of the cache, its first row of
    the pass, how many there are, and the tokens that the slot holds, behind which its rows are appended; hidden: bool
    [n, n], True where row i must not look at row j, both of one text; asked: int64 [m], the rows whose logits are
    wanted, or none (x is then not finished); place: int64 [n], positions; cos, sin: float32 [context, d / 2].
    """

    x: np.ndarray
    texts: np.ndarray
    hidden: np.ndarray
    asked: np.ndarray
    place: np.ndarray
    cos: np.ndarray
    sin: np.ndarray


class Cache(NamedTuple):
    """Keys and values of all layers.

    keys: float32 [slots, layers, kv heads, room / SPAN, d, SPAN]; values: [.., kv heads, d / SPAN rounded up, room,
    SPAN], with room for SPAN tokens more than are appended; source: int32 [layers], the cache layer of each layer.
    """

    keys: np.ndarray
    values: np.ndarray
    source: np.ndarray


class Buffers(NamedTuple):
    """What the threads of a pass write down for each other, float32, see `layers.room_for`; the last for the logits."""

    projected: np.ndarray
    mixed: np.ndarray
    gates: np.ndarray
    gated: np.ndarray
    scores: np.ndarray
    logits: np.ndarray
