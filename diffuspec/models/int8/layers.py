"""The layers of a pass: each thread's share of every stage, one call a pass and thread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffuspec.compilation import compiled
from diffuspec.models.int8.arguments import Buffers, Cache, Rows, Shape, Weights
from diffuspec.models.int8.arithmetic import copy_into, exp, share
from diffuspec.models.int8.attention import CHUNK, PAST, ROWS, SLOT, append_rows, attend_text
from diffuspec.models.int8.layout import BARE, BLOCK, LANES, OPTIONS, SHARED, SPAN, SUMS
from diffuspec.models.int8.product import product
from diffuspec.models.int8.ranks import rank_row
from diffuspec.models.int8.rounding import empty_rows, normed, place_normed, place_rows, rounded
from diffuspec.models.int8.threads import meet


@compiled(**BARE)
def _gate(gate, up, out):
    """out = silu(gate) * up."""
    for i in range(len(out)):
        out[i] = gate[i] / (np.float32(1.0) + exp(-gate[i])) * up[i]


PROJECT, ATTEND, OUTPUT, GATE, DOWN, HEAD = range(6)


class _Pass(NamedTuple):
    """All that the threads of a pass share but the counter. rooms: see `rounding_room`."""

    rows: Rows
    weights: Weights
    shape: Shape
    cache: Cache
    buffers: Buffers
    rooms: tuple[np.ndarray, np.ndarray]


@compiled(forceinline=True, **OPTIONS)
def _round(stage, t, threads, layer, pass_):
    """Thread t's share of the rounding of a stage's input, of SHARED rows or more."""
    x, weights, buffers = pass_.rows.x, pass_.weights, pass_.buffers
    n, width = x.shape
    first, last, rest = n * t // threads, n * (t + 1) // threads, np.empty(BLOCK, np.float32)
    if stage == PROJECT or stage == GATE:
        gain = weights.norms[layer] if stage == PROJECT else weights.post_norms[layer]
        scaled, totals = np.empty(width, np.float32), np.empty(SUMS)
        a, steps = _part(pass_.rooms, n, width)
        place_normed(x, gain, pass_.shape.eps, first, last, scaled, rest, totals, a, steps)
    else:
        rows = buffers.mixed if stage == OUTPUT else buffers.gated
        a, steps = _part(pass_.rooms, n, rows.shape[1])
        place_rows(rows, first, last, rest, a, steps)


@compiled(**OPTIONS)
def _part(rooms, n, width):
    """What n rows of this width take of the room that `empty_rows` gave for wider ones."""
    blocks = n * -(-width // BLOCK)
    return rooms[0][: blocks * BLOCK], rooms[1][:blocks]


@compiled(**OPTIONS)
def _of(matrices, layer):
    """A layer's matrix, of (those of 4 bits, those of 8, int64 [layers]: places in the first, or ~ in the second)."""
    four, eight, places = matrices
    return four[places[layer]] if places[layer] >= 0 else eight[~places[layer]]


@compiled(forceinline=True, **OPTIONS)
def _attend(t, threads, layer, at, pass_):
    """Thread t's share of the attention of a layer, which reads layer `at` of the cache."""
    rows, shape, buffers, keys, values = pass_.rows, pass_.shape, pass_.buffers, pass_.cache.keys, pass_.cache.values
    texts, heads = rows.texts, shape.heads
    met, total = 0, 0
    for text in range(len(texts)):
        total += texts[text, ROWS] * heads * (texts[text, PAST] + texts[text, ROWS])
    for text in range(len(texts)):
        # Threads share queries by what they cost, which is as much as they look at.
        cost, queries = texts[text, PAST] + texts[text, ROWS], texts[text, ROWS] * heads
        first = min(queries, max(0, (total * t // threads - met) // cost))
        last = min(queries, max(0, (total * (t + 1) // threads - met) // cost))
        slot, gain = texts[text, SLOT], pass_.weights.head_norms[layer, 0]
        attend_text(first, last, keys[slot, at], values[slot, at], texts[text], rows, shape, gain, buffers, t)
        met += queries * cost


@compiled(forceinline=True, **OPTIONS)
def _multiply(stage, t, threads, layer, pass_):
    """Thread t's share of a product; of fewer than SHARED rows every thread rounds the input for itself."""
    rows, weights, shape, _, buffers, rooms = pass_
    x, eps = rows.x, shape.eps
    n, width = x.shape
    is_shared = n >= SHARED
    if stage == PROJECT:
        a, steps = _part(rooms, n, width) if is_shared else normed(x, weights.norms[layer], eps)
        weight, out, channels = _of(weights.qkv, layer), buffers.projected, buffers.projected.shape[1]
    elif stage == OUTPUT:
        a, steps = _part(rooms, n, buffers.mixed.shape[1]) if is_shared else rounded(buffers.mixed)
        weight, out, channels = _of(weights.output, layer), x, width
    elif stage == GATE:
        a, steps = _part(rooms, n, width) if is_shared else normed(x, weights.post_norms[layer], eps)
        weight, out, channels = _of(weights.gate_up, layer), buffers.gates, buffers.gated.shape[1]
    elif stage == DOWN:
        a, steps = _part(rooms, n, buffers.gated.shape[1]) if is_shared else rounded(buffers.gated)
        weight, out, channels = _of(weights.down, layer), x, width
    else:
        asked = np.empty((len(rows.asked), width), np.float32)
        for i in range(len(asked)):
            copy_into(x[rows.asked[i]], asked[i])
        a, steps = normed(asked, weights.norm, eps)
        weight, out, channels, n = weights.head, buffers.logits, shape.vocab, len(asked)
    first, last = share(channels, t, threads, LANES), share(channels, t + 1, threads, LANES)
    for half in range(2 if stage == GATE else 1):
        skip = half * channels
        product(weight, a, steps, n, skip + first, skip + last, stage in (OUTPUT, DOWN), out)
    if stage == PROJECT and weights.biases.shape[1]:
        for r in range(n):
            for i in range(first, last):
                buffers.projected[r, i] += weights.biases[layer, i]
    if stage == GATE:
        gates, gated = buffers.gates, buffers.gated
        for r in range(n):
            _gate(gates[r, first:last], gates[r, channels + first : channels + last], gated[r, first:last])


@compiled(**OPTIONS)
def run(t, threads, counter, rows, weights, shape, cache, buffers, rooms, ranks):
    """Thread t's share of the layers of a Llama over n rows, in place in x float32 [n, h]; each of the threads 0 ..
    threads - 1 calls this once, at the same time, and with the same arguments but for t.

    counter: as `new_counter` gives it; rows, weights, shape, cache, buffers: tuples in the order of the fields of
    `arguments`. Layer l reads and appends to layer source[l] of the cache. rooms: see `rounding_room`; ranks: see
    `no_ranks`, for the rows asked; with room for none there the logits are not ranked.
    """
    pass_ = _Pass(Rows(*rows), Weights(*weights), Shape(*shape), Cache(*cache), Buffers(*buffers), rooms)
    layers, asked, met = len(pass_.cache.source), len(pass_.rows.asked), 0
    for layer in range(layers + 1 if asked else layers):
        is_head = layer == layers
        at = pass_.cache.source[0 if is_head else layer]
        for stage in range(HEAD if is_head else PROJECT, HEAD + 1 if is_head else HEAD):
            if stage == ATTEND:
                gain, projected = pass_.weights.head_norms[layer, 1], pass_.buffers.projected
                append_rows(t, threads, at, pass_.rows, pass_.shape, gain, pass_.cache, projected)
                met += threads
                if not meet(counter, met):
                    return
                if layer == layers - 1 and not asked:
                    return  # of the last layer, only keys and values outlive the pass
                _attend(t, threads, layer, at, pass_)
            else:
                if stage != HEAD and len(pass_.rows.x) >= SHARED:
                    _round(stage, t, threads, layer, pass_)
                    met += threads
                    if not meet(counter, met):
                        return
                _multiply(stage, t, threads, layer, pass_)
            met += threads
            if not meet(counter, met):
                return
    ids, best, norms = ranks
    if ids.shape[1]:
        for i in range(t, asked, threads):
            norms[i] = rank_row(pass_.buffers.logits[i], ids[i], best[i])


def _inner(weights) -> int:
    """Channels of a feed-forward, to whole groups."""
    return weights[2][0].shape[1] // 2 * LANES


def room_for(n: int, asked: int, longest: int, weights, shape, threads: int) -> tuple[np.ndarray, ...]:
    """What the threads of a pass over n rows write down for each other, float32, and last the logits [asked, V];
    longest: tokens of the longest text, these rows among them."""
    heads, kv_heads, d, vocab, _ = shape
    inner = _inner(weights)
    shapes = (
        (n, (heads + 2 * kv_heads) * d),
        (n, heads * d),
        (n, 2 * inner),
        (n, inner),
        (threads, CHUNK, longest + SPAN),
        (asked, vocab),
    )
    return tuple(np.empty(shape, np.float32) for shape in shapes)


def rounding_room(n: int, weights, shape) -> tuple[np.ndarray, np.ndarray]:
    """Where the threads of a pass over n rows put their rounded input; hardly any for fewer than SHARED."""
    heads, d = shape[0], shape[2]
    return empty_rows(n if n >= SHARED else 1, max(weights[4].shape[1], heads * d, _inner(weights)))
