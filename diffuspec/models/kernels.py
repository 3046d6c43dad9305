"""A Llama pass over a few rows in 8-bit weights, compiled by numba: every row has the same bits in any company.

Losslessness is a matter of arithmetic. In bfloat16 a pass over one token and one over nine round
differently, logits tie, and speculative decoding ends up with another answer than plain decoding.
Here

* a product is a sum of integers, exact in any order: int8 weights with one scale an output channel,
  activations with one scale a *row* and as many levels as a 32-bit sum can hold (about 13 bits);
* attention goes through a row's own past in the order of the text, one addition at a time, wherever
  in the cache its ancestors stand;
* what is left (norms, rotation, gates) belongs to one row and is compiled once.

A pass is one call: interpreting its 1,600 operations one by one costs more than the products do.
The weights are read once for up to eight rows, so that a few rows cost little more than one.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # weights taken at a time; the products' inner width must be a multiple of it
LINE, AHEAD = 64, 8  # bytes that memory is read by; channels asked for ahead of their use
TILE = 16  # output channels whose weights stay in the nearest cache while all rows pass
CHUNK = 12  # query rows that pass one key head together
SPAN = 16  # columns of a float product computed at a time

_options = dict(nogil=True, error_model="numpy", cache=True)
_no_nan = {"nnan", "ninf", "nsz"}  # changes no sum: lets a maximum be vectorised


@numba.njit(cache=True)
def levels(width):
    """Levels of an activation on each side of 0, so that `width` products with int8 never leave 32 bits."""
    return min(2**15 - 1, (2**31 - 1) // (127 * width))


def _dots(rows: int):
    """An intrinsic: dot products of weight rows o, o + 1 with `rows` activation rows, into out[r.., at] and the next.

    weight int8 [.., K], K a multiple of LANES; a int16, from `start` on the rows interleaved by LANES (see `_place`);
    out int32 [n, TILE]. Neighbouring products are added in pairs, a pattern that compilers turn into one instruction
    (pmaddwd, vpdpwssd).
    """
    i32, i64 = ir.IntType(32), ir.IntType(64)
    bytes_, shorts = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(16), LANES)
    words, pairs = ir.VectorType(i32, LANES), ir.VectorType(i32, LANES // 2)
    none = ir.Constant(words, ir.Undefined)

    def half(first):
        return ir.Constant(ir.VectorType(i32, LANES // 2), [ir.Constant(i32, i) for i in range(first, LANES, 2)])

    @intrinsic
    def dots(typing, weight, o, a, start, r, at, out):
        def codegen(context, builder, signature, args):
            weight, a, out = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 6))
            o, start, r, at = args[1], args[3], args[4], args[5]

            def number(value):
                return ir.Constant(i64, value)

            def lanes_of(pointer, kind, elements):
                place = builder.gep(pointer, [elements])
                return builder.sext(builder.load(builder.bitcast(place, kind.as_pointer()), align=1), words)

            width = cgutils.unpack_tuple(builder, weight.shape)[1]
            channels = [builder.gep(weight.data, [builder.mul(builder.add(o, number(i)), width)]) for i in range(2)]
            inputs = builder.gep(a.data, [start])
            sums = [
                [cgutils.alloca_once_value(builder, ir.Constant(pairs, None)) for _ in range(rows)] for _ in range(2)
            ]
            with cgutils.for_range(builder, builder.udiv(width, number(LANES)), intp=i64) as loop:
                weights = [lanes_of(pointer, bytes_, builder.mul(loop.index, number(LANES))) for pointer in channels]
                here = builder.gep(inputs, [builder.mul(loop.index, number(rows * LANES))])
                for i in range(rows):
                    x = lanes_of(here, shorts, number(i * LANES))
                    for w, total in zip(weights, sums, strict=True):
                        product = builder.mul(w, x, flags=["nsw"])
                        even, odd = (builder.shuffle_vector(product, none, half(first)) for first in (0, 1))
                        builder.store(builder.add(builder.load(total[i]), builder.add(even, odd)), total[i])
            add = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(i32, [pairs]), f"llvm.vector.reduce.add.v{LANES // 2}i32"
            )
            for channel, total in enumerate(sums):
                for i in range(rows):
                    row = builder.mul(builder.add(r, number(i)), number(TILE))
                    place = builder.gep(out.data, [builder.add(row, builder.add(at, number(channel)))])
                    builder.store(builder.call(add, [builder.load(total[i])]), place)
            return context.get_dummy_value()

        index = types.intp
        return types.void(weight, index, a, index, index, index, out), codegen

    return dots


@intrinsic
def _fetch(typing, weight, o):
    """Ask for weight rows o, o + 1 (int8 [.., K]) ahead of their use; beyond the end it asks for nothing that matters.

    Two channels read side by side hide from the processor that all of it is one stream.
    """

    def codegen(context, builder, signature, args):
        i64, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        weight = context.make_array(signature.args[0])(context, builder, args[0])
        width = cgutils.unpack_tuple(builder, weight.shape)[1]
        start = builder.gep(weight.data, [builder.mul(args[1], width)])
        flags = [ir.IntType(32)] * 3
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, *flags]), "llvm.prefetch.p0"
        )
        lines = builder.udiv(builder.mul(width, ir.Constant(i64, 2)), ir.Constant(i64, LINE))
        with cgutils.for_range(builder, lines, intp=i64) as loop:
            place = builder.gep(start, [builder.mul(loop.index, ir.Constant(i64, LINE))])
            builder.call(prefetch, [place, *(ir.Constant(ir.IntType(32), v) for v in (0, 3, 1))])  # read, keep, data
        return context.get_dummy_value()

    return types.void(weight, types.intp), codegen


_dots1, _dots2, _dots3, _dots4 = _dots(1), _dots(2), _dots(3), _dots(4)
GROUP = 4  # rows whose activations are interleaved


@numba.njit(**_options)
def product(weight, scale, a, step, first, last, add, y):
    """Channels first .. last - 1 of y = (step * a) (scale * weight)^T, or of y += it.

    weight int8 [out rounded up to even, K], scale float32 [out], a int16 [n K] as `_place` puts it, step float32 [n],
    y float32 [n, out].
    """
    n, width = len(step), weight.shape[1]
    sums = np.empty((n, TILE), np.int32)
    for at in range(first, last, TILE):
        size = min(last - at, TILE)
        for r in range(0, n, GROUP):
            start = r * width
            first_rows = r == 0
            if n - r >= 4:
                for o in range(0, size, 2):
                    if first_rows:
                        _fetch(weight, at + o + AHEAD)
                    _dots4(weight, at + o, a, start, r, o, sums)
            elif n - r == 3:
                for o in range(0, size, 2):
                    if first_rows:
                        _fetch(weight, at + o + AHEAD)
                    _dots3(weight, at + o, a, start, r, o, sums)
            elif n - r == 2:
                for o in range(0, size, 2):
                    if first_rows:
                        _fetch(weight, at + o + AHEAD)
                    _dots2(weight, at + o, a, start, r, o, sums)
            else:
                for o in range(0, size, 2):
                    if first_rows:
                        _fetch(weight, at + o + AHEAD)
                    _dots1(weight, at + o, a, start, r, o, sums)
        for r in range(n):
            for o in range(size):
                value = np.float32(sums[r, o]) * (step[r] * scale[at + o])
                y[r, at + o] = y[r, at + o] + value if add else value


@numba.njit(fastmath=_no_nan, **_options)
def _largest(x):
    largest = np.float32(0.0)
    for v in x:
        largest = max(largest, abs(v))
    return largest


@numba.njit(**_options)
def _place(x, r, n, level, a):
    """Round row r [K] of n to a grid of `level` steps each side of 0, into a int16 [n K'], K' whole lanes; the step.

    GROUP rows (the last group may have fewer) lie together: their first LANES numbers, row by row, then the next.
    """
    width = len(a) // n
    rows = min(GROUP, n - r // GROUP * GROUP)
    start = r // GROUP * GROUP * width + r % GROUP * LANES
    largest = _largest(x)
    factor = np.float32(level) / largest if largest > 0.0 else np.float32(0.0)
    for block in range(width // LANES):
        first = block * LANES
        target = a[start + first * rows : start + first * rows + LANES]
        for i in range(min(LANES, len(x) - first)):
            target[i] = np.int16(np.int32(np.floor(x[first + i] * factor + np.float32(0.5))))
    return largest / np.float32(level)


@numba.njit(**_options)
def _normed(x, gain, eps, level):
    """Root mean square norm of rows x [n, h] times gain, rounded and placed: int16 [n h'], steps float32 [n]."""
    n, width = x.shape
    a, step = np.zeros(n * (-(-width // LANES) * LANES), np.int16), np.empty(n, np.float32)
    scaled = np.empty(width, np.float32)
    for r in range(n):
        row = x[r]
        total = 0.0
        for i in range(width):
            total += float(row[i]) * float(row[i])
            scaled[i] = row[i] * gain[i]
        step[r] = np.float32(_place(scaled, r, n, level, a) / math.sqrt(total / width + eps))
    return a, step


@numba.njit(**_options)
def _rounded(x, level):
    """Rows x [n, K], rounded and placed: int16 [n K'], steps float32 [n]."""
    n, width = x.shape
    a, step = np.zeros(n * (-(-width // LANES) * LANES), np.int16), np.empty(n, np.float32)
    for r in range(n):
        step[r] = _place(x[r], r, n, level, a)
    return a, step


@numba.njit(**_options)
def _exp(x):
    """e^x in float32 for x <= 0 and moderate x > 0, to about 2 units in the last place."""
    x = max(np.float32(-87.0), min(np.float32(88.0), x))
    whole = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - whole * np.float32(0.693359375)
    r = r - whole * np.float32(-2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@numba.njit(fastmath=_no_nan | {"reassoc", "contract"}, **_options)
def sum_of_exponentials(x, largest):
    """sum e^(x_i - largest) of float32 [n], to about 1e-6: for what is written down, not for what is decided."""
    total = np.float32(0.0)
    for i in range(len(x)):
        total += _exp(x[i] - largest)
    return total


@numba.njit(**_options)
def _gate(gate, up, out):
    """out = silu(gate) * up."""
    for i in range(len(out)):
        out[i] = gate[i] / (np.float32(1.0) + _exp(-gate[i])) * up[i]


@numba.njit(**_options)
def _rotate(vector, cos, sin, out, factor):
    """RoPE, half-rotation, of one head [d]."""
    half = len(vector) // 2
    for i in range(half):
        a, b = vector[i], vector[i + half]
        out[i] = (a * cos[i] - b * sin[i]) * factor
        out[i + half] = (b * cos[i] + a * sin[i]) * factor


@numba.njit(fastmath=_no_nan, **_options)
def _highest(x):
    highest = x[0]
    for v in x:
        highest = max(highest, v)
    return highest


def _fused(rows: int):
    """An intrinsic: out[r.., j..] = sum over i < count of a[r.., i] b[i, j..] for `rows` rows and SPAN columns.

    One fused multiply-add after the other, so that an element does not know of its neighbours.
    """
    f32, i64 = ir.FloatType(), ir.IntType(64)
    half = ir.VectorType(f32, SPAN // 2)
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), SPAN // 2), None)

    @intrinsic
    def fused(typing, a, r, b, j, count, out):
        def codegen(context, builder, signature, args):
            a, b, out = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 5))
            r, j, count = args[1], args[3], args[4]
            row = [builder.add(r, ir.Constant(i64, i)) for i in range(rows)]
            width, room, columns = (cgutils.unpack_tuple(builder, array.shape)[1] for array in (a, b, out))
            inputs = [builder.gep(a.data, [builder.mul(i, width)]) for i in row]
            start = builder.gep(b.data, [j])
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(half, [half] * 3), f"llvm.fma.v{SPAN // 2}f32"
            )
            zero, none = ir.Constant(half, None), ir.Constant(half, ir.Undefined)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(2)] for _ in row]
            with cgutils.for_range(builder, count, intp=i64) as loop:
                here = builder.gep(start, [builder.mul(loop.index, room)])
                pieces = []
                for i in range(2):
                    piece = builder.gep(here, [ir.Constant(i64, i * SPAN // 2)])
                    pieces.append(builder.load(builder.bitcast(piece, half.as_pointer()), align=4))
                for source, totals in zip(inputs, sums, strict=True):
                    value = builder.load(builder.gep(source, [loop.index]))
                    value = builder.insert_element(
                        ir.Constant(half, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
                    )
                    value = builder.shuffle_vector(value, none, lanes)
                    for piece, total in zip(pieces, totals, strict=True):
                        builder.store(builder.call(fma, [value, piece, builder.load(total)]), total)
            for i, totals in zip(row, sums, strict=True):
                place = builder.gep(out.data, [builder.add(builder.mul(i, columns), j)])
                for number, total in enumerate(totals):
                    to = builder.gep(place, [ir.Constant(i64, number * SPAN // 2)])
                    builder.store(builder.load(total), builder.bitcast(to, half.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(a, types.intp, b, types.intp, types.intp, out), codegen

    return fused


_fused1, _fused4 = _fused(1), _fused(4)


@numba.njit(**_options)
def _matrix(a, b, count, columns, out):
    """out[:, :columns] = a[:, :count] b[:count], each sum in the order of the text; columns a multiple of SPAN."""
    m = len(a)
    for j in range(0, columns, SPAN):
        r = 0
        while r + 4 <= m:
            _fused4(a, r, b, j, count, out)
            r += 4
        while r < m:
            _fused1(a, r, b, j, count, out)
            r += 1


@numba.njit(**_options)
def _attend(queries, rows, keys, values, past, hidden, scores, out):
    """Query rows [m, d] of one key head, the i-th of the block's row rows[i], over its past and the block.

    keys float32 [d, room], values [room, d padded to whole spans], as out. A column of the block that a row must
    not see gets the weight 0, which no sum notices.
    """
    n = past + len(hidden)
    _matrix(queries, keys, queries.shape[1], -(-n // SPAN) * SPAN, scores)
    for i in range(len(queries)):
        line = scores[i, :n]
        for j in range(len(hidden)):
            if hidden[rows[i], j]:
                line[past + j] = -np.inf
        highest = _highest(line)
        for j in range(n):
            line[j] = _exp(line[j] - highest)
        for j in range(len(hidden)):
            if hidden[rows[i], j]:
                line[past + j] = 0.0
    _matrix(scores, values, n, values.shape[1], out)
    totals = np.empty(len(queries), np.float32)
    _sums(scores, n, totals)
    for i in range(len(queries)):
        for j in range(out.shape[1]):
            out[i, j] /= totals[i]


@numba.njit(**_options)
def _sums(weights, n, totals):
    """Sums of the first n of each row, in the order of the text; four rows at a time, since each sum is a chain."""
    m = len(weights)
    for i in range(0, m, 4):
        # The last rows may be summed twice, not beyond the end.
        a, b, c, d = weights[i], weights[min(i + 1, m - 1)], weights[min(i + 2, m - 1)], weights[min(i + 3, m - 1)]
        ta = tb = tc = td = np.float32(0.0)
        for j in range(n):
            ta += a[j]
            tb += b[j]
            tc += c[j]
            td += d[j]
        totals[i], totals[min(i + 1, m - 1)], totals[min(i + 2, m - 1)], totals[min(i + 3, m - 1)] = ta, tb, tc, td


@numba.njit(**_options)
def _copy(source, target):
    for i in range(len(source)):
        target[i] = source[i]


@numba.njit(**_options)
def _share(total, part, parts, grain):
    """Where the `part`-th of `parts` threads starts in `total` items handed out by `grain`."""
    return min(total, (total // grain * part // parts) * grain) if part < parts else total


PROJECT, ATTEND, OUTPUT, GATE, DOWN, HEAD = range(6)


@numba.njit(**_options)
def _work(stage, t, threads, layer, x, weights, shape, keys, values, past, hidden, place, cos, sin, buffers):
    """Thread t's share of one stage of a layer; every thread rounds the stage's input for itself."""
    (qkv, qkv_scale), (output, output_scale), (gate_up, gate_up_scale), (down, down_scale), norms, post = weights[0]
    norm, (head, head_scale) = weights[1]
    heads, kv_heads, d, eps = shape
    projected, mixed, gates, gated, scores, logits = buffers
    n, width = x.shape
    if stage == PROJECT:
        a, step = _normed(x, norms[layer], eps, levels(width))
        weight, scale, out = qkv[layer], qkv_scale[layer], projected
    elif stage == OUTPUT:
        a, step = _rounded(mixed, levels(mixed.shape[1]))
        weight, scale, out = output[layer], output_scale[layer], x
    elif stage == GATE:
        a, step = _normed(x, post[layer], eps, levels(width))
        weight, scale, out = gate_up[layer], gate_up_scale[layer], gates
    elif stage == DOWN:
        a, step = _rounded(gated, levels(gated.shape[1]))
        weight, scale, out = down[layer], down_scale[layer], x
    elif stage == HEAD:
        a, step = _normed(x, norm, eps, levels(width))
        weight, scale, out = head, head_scale, logits
    else:
        group, shrink = heads // kv_heads, np.float32(1.0 / math.sqrt(d))
        tasks = -(-n * group // CHUNK) * kv_heads
        for task in range(_share(tasks, t, threads, 1), _share(tasks, t + 1, threads, 1)):
            g, first = task % kv_heads, task // kv_heads * CHUNK
            size = min(CHUNK, n * group - first)
            query, out = np.empty((size, d), np.float32), np.empty((size, values.shape[2]), np.float32)
            rows = np.empty(size, np.int64)
            for i in range(size):
                at = (g * group + (first + i) % group) * d
                r = rows[i] = (first + i) // group
                _rotate(projected[r, at : at + d], cos[place[r]], sin[place[r]], query[i], shrink)
            _attend(query, rows, keys[g], values[g], past, hidden, scores[t, :size], out)
            for i in range(size):
                at = (g * group + (first + i) % group) * d
                _copy(out[i, :d], mixed[rows[i], at : at + d])
        return
    channels = gated.shape[1] if stage == GATE else len(scale)
    first, last = _share(channels, t, threads, TILE), _share(channels, t + 1, threads, TILE)
    for half in range(2 if stage == GATE else 1):
        skip = half * channels
        product(weight, scale, a, step, skip + first, skip + last, stage in (OUTPUT, DOWN), out)
    if stage == GATE:
        for r in range(n):
            _gate(gates[r, first:last], gates[r, channels + first : channels + last], gated[r, first:last])


@numba.njit(parallel=True, **_options)
def run(x, weights, shape, source, keys, values, past, hidden, place, cos, sin, want_logits, threads):
    """The layers of a Llama over n rows, in place in x float32 [n, h]; logits float32 [n, V], or [0, V] unwanted.

    weights: the layers' qkv, output, gate_up, down as (int8 [layers, out, K], float32 [layers, out]) and the gains
    of their two norms float32 [layers, h]; the head's gain [h] and (int8 [V, K], float32 [V]); see `product`.
    shape: (heads, kv heads, d, eps).
    source int32 [layers]: the cache layer that layer l reads and appends to; keys float32 [cache layers, kv heads,
    d, room], values float32 [.., kv heads, room, d], `past` tokens in them; row i is appended at past + i.
    hidden bool [n, n]: True where row i must not look at row j of the block; place int64 [n]: the rows' positions;
    cos, sin float32 [context, d / 2]. The cache needs room for past + n tokens and SPAN more.
    """
    # A parallel loop takes no tuples: they are taken apart here and put together in it.
    (qkv, qkv_scale), (output, output_scale), (gate_up, gate_up_scale), (down, down_scale), norms, post = weights[0]
    norm, (head, head_scale) = weights[1]
    heads, kv_heads, d, eps = shape
    n = len(x)
    inner = gate_up.shape[1] // 2
    logits = np.empty((n if want_logits else 0, len(head_scale)), np.float32)
    projected, mixed = np.empty((n, qkv.shape[1]), np.float32), np.empty((n, heads * d), np.float32)
    gates, gated = np.empty((n, 2 * inner), np.float32), np.empty((n, inner), np.float32)
    scores = np.empty((threads, CHUNK, past + n + SPAN), np.float32)
    for layer in range(len(source) + 1 if want_logits else len(source)):
        is_head = layer == len(source)
        at = source[0] if is_head else source[layer]
        for stage in range(HEAD if is_head else PROJECT, HEAD + 1 if is_head else HEAD):
            if stage == ATTEND:
                for r in range(n):
                    for g in range(kv_heads):
                        first, last = (heads + g) * d, (heads + kv_heads + g) * d
                        k, v = projected[r, first : first + d], projected[r, last : last + d]
                        _rotate(k, cos[place[r]], sin[place[r]], keys[at, g, :, past + r], np.float32(1.0))
                        _copy(v, values[at, g, past + r])
            for t in prange(threads):
                layers = (
                    (qkv, qkv_scale), (output, output_scale), (gate_up, gate_up_scale), (down, down_scale), norms, post,
                )  # fmt: skip
                _work(
                    np.int64(stage), np.int64(t), threads, np.int64(layer), x, (layers, (norm, (head, head_scale))),
                    (heads, kv_heads, d, eps), keys[at], values[at], past, hidden, place, cos, sin,
                    (projected, mixed, gates, gated, scores, logits),
                )  # fmt: skip
    return logits
