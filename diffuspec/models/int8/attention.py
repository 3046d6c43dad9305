"""Attention over a cache in panels, in the order of the text, one addition at a time."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from diffuspec.compilation import compiled
from diffuspec.models.int8.arithmetic import copy_into, exp, highest_of
from diffuspec.models.int8.layout import BARE, LANES, OPTIONS, SPAN, WAY
from diffuspec.models.int8.llvm import FLOAT, INT, LONG, ask_for, beyond, call, load, repeated, vector

CHUNK = 12  # query rows that pass one key head together
TILE, TOGETHER = 6, 2 if WAY == "vnni" else 1  # its rows and panels computed at a time


@compiled(**BARE)
def _rotate(vector, cos, sin, out, factor):
    """RoPE, half-rotation, of one head [d]."""
    half = len(vector) // 2
    for i in range(half):
        a, b = vector[i], vector[i + half]
        out[i] = (a * cos[i] - b * sin[i]) * factor
        out[i + half] = (b * cos[i] + a * sin[i]) * factor


def _fused(panels: int, is_first: bool = False, is_summed: bool = False):
    """An intrinsic: out[r.., SPAN j..] = sum over i < count of a[r.., i] b[j, i, :] for `rows` <= TILE rows and
    `panels` j.

    One fused multiply-add after the other, so that an element does not know of its neighbours.
    a float32 [m, >= count], b float32 [panels, >= count, SPAN], out float32 [m, >= panels SPAN]. is_first: the first
    to read these b; with every line of it a line of `ahead` float32 is asked for: of its spans of SPAN lines, `far`
    floats from one to the next, as many as b has SPANs of i, and in them of the j-th SPAN of lines. is_summed:
    totals[r..] float32 take the sums of a[r.., i] too, by additions that the processor does beside the others.
    """
    floats = vector(FLOAT, LANES)
    pieces = [(panel, first) for panel in range(panels) for first in range(0, SPAN, LANES)]

    @intrinsic
    def fused(typing, a, r, rows, b, j, count, out, ahead, far, totals):
        def codegen(context, builder, signature, args):
            a, b, out, ahead, totals = (
                context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 3, 6, 7, 9)
            )
            r, rows, j, count, far = (args[i] for i in (1, 2, 4, 5, 8))
            width, columns = (cgutils.unpack_tuple(builder, array.shape)[1] for array in (a, out))
            depth = cgutils.unpack_tuple(builder, b.shape)[1]
            inputs = beyond(builder, a.data, r, width)
            place = builder.gep(beyond(builder, out.data, r, columns), [builder.mul(j, ir.Constant(LONG, SPAN))])
            starts = [
                beyond(builder, b.data, builder.add(j, ir.Constant(LONG, panel)), depth, SPAN)
                for panel in range(panels)
            ]
            for n in range(1, TILE + 1):
                with builder.if_then(builder.icmp_signed("==", rows, ir.Constant(rows.type, n))):
                    sources = [beyond(builder, inputs, i, width) for i in range(n)]
                    sums = [[cgutils.alloca_once(builder, floats) for _ in pieces] for _ in sources]
                    whole = [cgutils.alloca_once(builder, floats) for _ in sources]
                    for total in (*whole, *(total for row in sums for total in row)):
                        builder.store(ir.Constant(floats, None), total)
                    with cgutils.for_range(builder, count, intp=LONG) as loop:
                        here = [beyond(builder, start, loop.index, SPAN) for start in starts]
                        loaded = [load(builder, beyond(builder, here[p], first), floats, 4) for p, first in pieces]
                        for panel in range(panels if is_first else 0):
                            span, line = (
                                make(loop.index, ir.Constant(LONG, SPAN)) for make in (builder.udiv, builder.urem)
                            )
                            lines = beyond(builder, ahead.data, span, far)
                            lines = beyond(builder, lines, builder.add(j, ir.Constant(LONG, panel)), SPAN * SPAN)
                            ask_for(builder, beyond(builder, lines, line, SPAN))
                        for i, source in enumerate(sources):
                            value = repeated(builder, builder.load(builder.gep(source, [loop.index])), LANES)
                            if is_summed:
                                builder.store(builder.fadd(builder.load(whole[i]), value), whole[i])
                            for piece, total in zip(loaded, sums[i], strict=True):
                                known = builder.load(total)
                                fma = call(builder, f"llvm.fma.v{LANES}f32", floats, value, piece, known)
                                builder.store(fma, total)
                    for i, row_sums in enumerate(sums):
                        if is_summed:
                            one = builder.extract_element(builder.load(whole[i]), ir.Constant(INT, 0))
                            builder.store(one, builder.gep(totals.data, [builder.add(r, ir.Constant(LONG, i))]))
                        row = beyond(builder, place, i, columns)
                        for (panel, first), total in zip(pieces, row_sums, strict=True):
                            to = builder.bitcast(beyond(builder, row, panel * SPAN + first), floats.as_pointer())
                            builder.store(builder.load(total), to, align=4)
            return context.get_dummy_value()

        index = types.intp
        return types.void(a, index, index, b, index, index, out, ahead, index, totals), codegen

    return fused


_one_panel, _panels, _summed_panels = _fused(1), _fused(TOGETHER), _fused(TOGETHER, is_summed=True)
_first_panels, _first_summed_panels = _fused(TOGETHER, True), _fused(TOGETHER, True, True)


@compiled(**BARE)
def _matrix(a, b, count, panels, out, is_new, ahead, far, is_summed, totals):
    """out[:, SPAN j..] = a[:, :count] b[j, :count] for j < panels, each sum in the order of the text.

    is_new: b was not read just before; ahead, far: what to ask for meanwhile, see `_fused`. is_summed: totals float32
    take the sums of a[:, :count], in the order of the text too; for panels >= TOGETHER.
    """
    for first in range(0, panels, TOGETHER):
        for r in range(0, len(a), TILE):
            rows, is_first, adds = min(TILE, len(a) - r), is_new and r == 0, is_summed and first == 0
            if first + TOGETHER > panels:
                for j in range(first, panels):
                    _one_panel(a, r, rows, b, j, count, out, ahead, far, totals)
            elif is_first and adds:
                _first_summed_panels(a, r, rows, b, first, count, out, ahead, far, totals)
            elif is_first:
                _first_panels(a, r, rows, b, first, count, out, ahead, far, totals)
            elif adds:
                _summed_panels(a, r, rows, b, first, count, out, ahead, far, totals)
            else:
                _panels(a, r, rows, b, first, count, out, ahead, far, totals)


@compiled(**BARE)
def _attend(queries, rows, keys, values, is_new, next_keys, past, first, n, hidden, scores, totals, out):
    """Query rows [m, d] of one key head, the i-th of the pass's row rows[i], over the past of their text and its block,
    rows first .. first + n - 1 of the pass.

    keys float32 [room / SPAN, d, SPAN], values [d / SPAN rounded up, room, SPAN]: in panels, which are read from
    front to back; is_new, next_keys: whether this head was not the last one met, and the keys to be met next; totals
    float32 [>= m]: room; out float32 [m, d rounded up to whole spans]. A column of the block that a row must not see
    gets the weight 0, which no sum notices.
    """
    total = past + n
    spans, far = -(-total // SPAN), values.shape[1] * SPAN
    _matrix(queries, keys, queries.shape[1], spans, scores, is_new, values, far, False, totals)
    for i in range(len(queries)):
        line, block, unseen = scores[i, :total], scores[i, past:total], hidden[rows[i]][first : first + n]
        for j in range(n):
            block[j] = np.float32(-np.inf) if unseen[j] else block[j]
        highest = highest_of(line)
        for j in range(total):
            line[j] = exp(line[j] - highest)
        for j in range(n):
            block[j] = np.float32(0.0) if unseen[j] else block[j]
    adds = TOGETHER > 1 and len(values) >= TOGETHER  # else there are no registers left for it
    _matrix(scores, values, total, len(values), out, is_new, next_keys, keys.shape[1] * SPAN, adds, totals)
    if not adds:
        _sums(scores, total, totals)
    for i in range(len(queries)):
        for j in range(out.shape[1]):
            out[i, j] /= totals[i]


@compiled(**BARE)
def _sums(weights, n, totals):
    """Sums of the first n of each row, in the order of the text; six rows at a time, since each sum is a chain."""
    m = len(weights)
    for i in range(0, m, 6):
        # The last rows may be summed twice, not beyond the end.
        a, b, c = i, min(i + 1, m - 1), min(i + 2, m - 1)
        d, e, f = min(i + 3, m - 1), min(i + 4, m - 1), min(i + 5, m - 1)
        ta = tb = tc = td = te = tf = np.float32(0.0)
        for j in range(n):
            ta += weights[a, j]
            tb += weights[b, j]
            tc += weights[c, j]
            td += weights[d, j]
            te += weights[e, j]
            tf += weights[f, j]
        totals[a], totals[b], totals[c], totals[d], totals[e], totals[f] = ta, tb, tc, td, te, tf


@compiled(**BARE)
def _norm_head(vector, gain, eps):
    """Root mean square norm of one head [d] times gain, in place; nothing where the gain is empty."""
    if len(gain) == 0:
        return
    total = 0.0
    for i in range(len(vector)):
        total += float(vector[i]) * float(vector[i])
    factor = np.float32(1.0 / math.sqrt(total / len(vector) + eps))
    for i in range(len(vector)):
        vector[i] = vector[i] * factor * gain[i]


@compiled(forceinline=True, **OPTIONS)
def attend_text(first, last, keys, values, text, rows, shape, gain, buffers, t):
    """Queries first .. last - 1 of a text's rows, key head by key head, into mixed [n, heads d]; rows, shape, buffers:
    see `arguments`. Scores go to those of thread t."""
    room = np.empty((CHUNK, shape.d), np.float32), np.empty((CHUNK, len(values[0]) * SPAN), np.float32)
    sums = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.float32)
    _attend_queries(first, last, keys, values, text, rows, shape, gain, buffers, t, room, sums)


@compiled(forceinline=True, **BARE)
def _attend_queries(first, last, keys, values, text, rows, shape, gain, buffers, t, room, sums):
    projected, mixed, scores = buffers.projected, buffers.mixed, buffers.scores[t]
    hidden, place, cos, sin = rows.hidden, rows.place, rows.cos, rows.sin
    numbers, totals = sums
    heads, kv_heads, d, _, eps = shape
    group, shrink, n, start = heads // kv_heads, np.float32(1.0 / math.sqrt(d)), text[ROWS], text[FIRST]
    query, out = room
    before = -1
    while first < last:
        g, skip = first // (n * group), first % (n * group)
        size = min(CHUNK, last - first, n * group - skip)
        for i in range(size):
            head = (g * group + (skip + i) % group) * d
            r = numbers[i] = start + (skip + i) // group
            _norm_head(projected[r, head : head + d], gain, eps)
            _rotate(projected[r, head : head + d], cos[place[r]], sin[place[r]], query[i], shrink)
        # A head's values are asked for while its keys are met, and the next head's keys while its values are.
        is_new, after, before = g != before, keys[min(g + 1, kv_heads - 1)], g
        part, into = scores[:size], out[:size]
        _attend(
            query[:size], numbers, keys[g], values[g], is_new, after, text[PAST], start, n, hidden, part, totals, into
        )
        for i in range(size):
            head = (g * group + (skip + i) % group) * d
            copy_into(out[i, :d], mixed[numbers[i], head : head + d])
        first += size


@compiled(**BARE)
def move(keys, values, first, rows):
    """In every layer of an `arguments.Cache`, put the tokens first + rows, ascending, to first, first + 1, ..."""
    for layer in range(len(keys)):
        for g in range(keys.shape[1]):
            for i in range(len(rows)):
                source, target = first + rows[i], first + i
                if source == target:
                    continue
                copy_into(
                    keys[layer, g, source // SPAN, :, source % SPAN], keys[layer, g, target // SPAN, :, target % SPAN]
                )
                for panel in range(values.shape[2]):
                    copy_into(values[layer, g, panel, source], values[layer, g, panel, target])


SLOT, FIRST, ROWS, PAST = range(4)  # what is said of a text: see `arguments.Rows`


@compiled(forceinline=True, **BARE)
def append_rows(t, threads, at, rows, shape, gain, cache, projected):
    """Put thread t's share of the rows' keys and values into cache layer `at`."""
    heads, kv_heads, d, _, eps = shape
    keys, values, _ = cache
    texts, place, cos, sin = rows.texts, rows.place, rows.cos, rows.sin
    for text in range(len(texts)):
        slot, first_row, past = texts[text, SLOT], texts[text, FIRST], texts[text, PAST]
        for i in range(t, texts[text, ROWS], threads):
            r, column = first_row + i, past + i
            for g in range(kv_heads):
                first, last = (heads + g) * d, (heads + kv_heads + g) * d
                k, v = projected[r, first : first + d], projected[r, last : last + d]
                key = keys[slot, at, g, column // SPAN, :, column % SPAN]
                _norm_head(k, gain, eps)
                _rotate(k, cos[place[r]], sin[place[r]], key, np.float32(1.0))
                for j in range(0, d, SPAN):
                    copy_into(v[j : j + SPAN], values[slot, at, g, j // SPAN, column])
