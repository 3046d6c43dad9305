"""The layers of a pass: each thread's share of every stage, one call a pass and thread."""

from __future__ import annotations

import numpy as np

from diffuspec.compilation import compiled
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


@compiled(**OPTIONS)
def _round(stage, t, threads, layer, x, weights, shape, buffers, rooms):
    """Thread t's share of the rounding of a stage's input, of SHARED rows or more."""
    _, mixed, _, gated, _, _ = buffers
    n, width = x.shape
    first, last, rest = n * t // threads, n * (t + 1) // threads, np.empty(BLOCK, np.float32)
    if stage == PROJECT or stage == GATE:
        gain = weights[4][layer] if stage == PROJECT else weights[5][layer]
        scaled, totals = np.empty(width, np.float32), np.empty(SUMS)
        a, steps = _part(rooms, n, width)
        place_normed(x, gain, shape[4], first, last, scaled, rest, totals, a, steps)
    else:
        rows = mixed if stage == OUTPUT else gated
        a, steps = _part(rooms, n, rows.shape[1])
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


@compiled(**OPTIONS)
def _work(
    stage, t, threads, layer, x, weights, shape, keys, values, at, texts, hidden, asked, place, cos, sin, buffers, rooms
):
    """Thread t's share of one stage of a layer; of fewer than SHARED rows every thread rounds the input for itself."""
    qkv, output, gate_up, down, norms, post, norm, head, biases, gains = weights
    heads, kv_heads, d, vocab, eps = shape
    projected, mixed, gates, gated, scores, logits = buffers
    n, width = x.shape
    is_shared = n >= SHARED
    if stage == PROJECT:
        a, steps = _part(rooms, n, width) if is_shared else normed(x, norms[layer], eps)
        weight, out, channels = _of(qkv, layer), projected, projected.shape[1]
    elif stage == OUTPUT:
        a, steps = _part(rooms, n, mixed.shape[1]) if is_shared else rounded(mixed)
        weight, out, channels = _of(output, layer), x, width
    elif stage == GATE:
        a, steps = _part(rooms, n, width) if is_shared else normed(x, post[layer], eps)
        weight, out, channels = _of(gate_up, layer), gates, gated.shape[1]
    elif stage == DOWN:
        a, steps = _part(rooms, n, gated.shape[1]) if is_shared else rounded(gated)
        weight, out, channels = _of(down, layer), x, width
    elif stage == HEAD:
        rows = np.empty((len(asked), width), np.float32)
        for i in range(len(asked)):
            copy_into(x[asked[i]], rows[i])
        a, steps = normed(rows, norm, eps)
        weight, out, channels, n = head, logits, vocab, len(asked)
    else:
        weighed, whole = 0, 0
        for text in range(len(texts)):
            whole += texts[text, ROWS] * heads * (texts[text, PAST] + texts[text, ROWS])
        for text in range(len(texts)):
            # Threads share queries by what they cost, which is as much as they look at.
            cost, queries = texts[text, PAST] + texts[text, ROWS], texts[text, ROWS] * heads
            first = min(queries, max(0, (whole * t // threads - weighed) // cost))
            last = min(queries, max(0, (whole * (t + 1) // threads - weighed) // cost))
            slot = texts[text, SLOT]
            attend_text(
                first,
                last,
                projected,
                keys[slot, at],
                values[slot, at],
                texts[text],
                shape,
                gains[layer, 0],
                hidden,
                place,
                cos,
                sin,
                scores[t],
                mixed,
            )
            weighed += queries * cost
        return
    first, last = share(channels, t, threads, LANES), share(channels, t + 1, threads, LANES)
    for half in range(2 if stage == GATE else 1):
        skip = half * channels
        product(weight, a, steps, n, skip + first, skip + last, stage in (OUTPUT, DOWN), out)
    if stage == PROJECT and biases.shape[1]:
        for r in range(n):
            for i in range(first, last):
                projected[r, i] += biases[layer, i]
    if stage == GATE:
        for r in range(n):
            _gate(gates[r, first:last], gates[r, channels + first : channels + last], gated[r, first:last])


@compiled(**OPTIONS)
def run(
    t,
    threads,
    counter,
    x,
    weights,
    shape,
    source,
    keys,
    values,
    texts,
    hidden,
    asked,
    place,
    cos,
    sin,
    buffers,
    rooms,
    ranks,
):
    """Thread t's share of the layers of a Llama over n rows, in place in x float32 [n, h]; each of the threads 0 ..
    threads - 1 calls this once, at the same time, and with the same arguments but for t.

    counter: as `new_counter` gives it; weights: the layers' qkv, output, gate_up, down, each as `_of` has them, uint8
    [.., groups, bytes] as `product` reads them, gate and up each a whole number of groups; the gains of their two norms
    float32 [layers, h]; the head's gain [h] and weights; the biases of qkv float32 [layers, channels or 0]; the gains
    of the norms of queries' and keys' heads [layers, 2, d or 0]. shape: (heads, kv heads, d, V, eps).
    source int32 [layers]: the cache layer that layer l reads and appends to; keys float32 [slots, cache layers, kv
    heads, room / SPAN, d, SPAN], values float32 [.., kv heads, d / SPAN rounded up, room, SPAN].
    texts int64 [texts, 4]: each text's slot of the cache, its first row of the pass, how many there are, and the tokens
    that the slot holds, behind which its rows are appended; room for SPAN more is needed.
    hidden bool [n, n]: True where row i must not look at row j, both of one text; asked int64 [m]: the rows whose
    logits are wanted, or none (x is then not finished); place int64 [n]: the rows' positions; cos, sin float32
    [context, d / 2]. buffers: see `room_for`; the last takes the logits. rooms: see `rounding_room`.
    ranks: see `no_ranks`, for the rows asked; with room for none there the logits are not ranked.
    """
    projected, met = buffers[0], 0
    for layer in range(len(source) + 1 if len(asked) else len(source)):
        is_head = layer == len(source)
        at = source[0] if is_head else source[layer]
        for stage in range(HEAD if is_head else PROJECT, HEAD + 1 if is_head else HEAD):
            if stage == ATTEND:
                append_rows(
                    t, threads, projected, shape, weights[9][layer, 1], keys, values, at, texts, place, cos, sin
                )
                met += threads
                if not meet(counter, met):
                    return
                if layer == len(source) - 1 and not len(asked):
                    return  # of the last layer, only keys and values outlive the pass
            elif stage != HEAD and len(x) >= SHARED:
                _round(stage, t, threads, layer, x, weights, shape, buffers, rooms)
                met += threads
                if not meet(counter, met):
                    return
            _work(
                stage,
                t,
                threads,
                layer,
                x,
                weights,
                shape,
                keys,
                values,
                at,
                texts,
                hidden,
                asked,
                place,
                cos,
                sin,
                buffers,
                rooms,
            )
            met += threads
            if not meet(counter, met):
                return
    ids, best, norms = ranks
    if ids.shape[1]:
        for i in range(t, len(asked), threads):
            norms[i] = rank_row(buffers[-1][i], ids[i], best[i])


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
