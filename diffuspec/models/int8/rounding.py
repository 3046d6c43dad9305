"""Rows of activations in 8 bits, as a product reads them."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from diffuspec.compilation import compiled
from diffuspec.models.int8.layout import BARE, BLOCK, LEVEL, OPTIONS, SUMS
from diffuspec.models.int8.llvm import BYTE, FLOAT, INT, LONG, beyond, call, load, repeated, vector
from diffuspec.models.int8.product import grouped


@intrinsic
def _round_block(typing, x, a, at, factor, steps):
    """Round x float32 [BLOCK] to LEVEL steps each side of 0, into block `at` of a int8; of steps float32 [.., 2]
    row `at` takes what a step is worth, times `factor`, and that times the sum of the block."""

    def codegen(context, builder, signature, args):
        x, a, steps = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 4))
        at, factor = args[2], args[3]
        floats, ints = vector(FLOAT, BLOCK), vector(INT, BLOCK)
        part = load(builder, x.data, floats)
        # Without their signs, floats are ordered as integers are.
        bits = builder.and_(builder.bitcast(part, ints), vector(INT, BLOCK, 0x7FFFFFFF))
        largest = builder.bitcast(call(builder, f"llvm.vector.reduce.smax.v{BLOCK}i32", INT, bits), FLOAT)
        level, zero = ir.Constant(FLOAT, float(LEVEL)), ir.Constant(FLOAT, 0.0)
        is_some = builder.fcmp_ordered(">", largest, zero)
        scale = repeated(builder, builder.select(is_some, builder.fdiv(level, largest), zero), BLOCK)
        nearest = builder.fadd(builder.fmul(part, scale), vector(FLOAT, BLOCK, 0.5))
        whole = builder.fptosi(call(builder, f"llvm.floor.v{BLOCK}f32", floats, nearest), ints)
        place = beyond(builder, builder.bitcast(a.data, BYTE.as_pointer()), at, BLOCK)
        small = vector(BYTE, BLOCK)
        builder.store(builder.trunc(whole, small), builder.bitcast(place, small.as_pointer()), align=1)
        total = builder.sitofp(call(builder, f"llvm.vector.reduce.add.v{BLOCK}i32", INT, whole), FLOAT)
        step = builder.fmul(builder.fdiv(largest, level), factor)
        pair = beyond(builder, steps.data, at, 2)
        builder.store(step, pair)
        builder.store(builder.fmul(step, total), builder.gep(pair, [ir.Constant(LONG, 1)]))
        return context.get_dummy_value()

    return types.void(x, a, types.intp, types.float32, steps), codegen


@compiled(**BARE)
def _place(x, factor, r, n, rest, a, steps):
    """Round row r [K] of n rows, factor x, to LEVEL steps each side of 0 a block: into a int8 [n K'], K' whole blocks.

    The rows of a group lie together: their first blocks, row by row, then the next. In the same order
    steps float32 [n K' / BLOCK, 2] takes what a step is worth, and that times the sum of the block. rest float32
    [BLOCK]: room for a last block that is not whole.
    """
    width = len(a) // n
    most = grouped(n)
    rows = min(most, n - r // most * most)
    start = r // most * most * width // BLOCK + r % most
    whole = len(x) // BLOCK
    for block in range(whole):
        _round_block(x[block * BLOCK : (block + 1) * BLOCK], a, start + block * rows, factor, steps)
    if whole * BLOCK < len(x):
        for i in range(BLOCK):
            rest[i] = x[whole * BLOCK + i] if whole * BLOCK + i < len(x) else np.float32(0.0)
        _round_block(rest, a, start + whole * rows, factor, steps)


@compiled(**OPTIONS)
def empty_rows(n, width):
    """Where `_place` puts n rows of this width: int8, float32."""
    blocks = -(-width // BLOCK)
    return np.empty(n * blocks * BLOCK, np.int8), np.empty((n * blocks, 2), np.float32)


@intrinsic
def _add_squares(typing, x, totals):
    """Add the squares of x float32 [SUMS] to totals float64 [SUMS]."""

    def codegen(context, builder, signature, args):
        x, totals = (context.make_array(signature.args[i])(context, builder, args[i]) for i in range(2))
        doubles = vector(ir.DoubleType(), SUMS)
        part = builder.fpext(load(builder, x.data, vector(FLOAT, SUMS)), doubles)
        place = builder.bitcast(totals.data, doubles.as_pointer())
        builder.store(builder.fadd(builder.load(place, align=8), builder.fmul(part, part)), place, align=8)
        return context.get_dummy_value()

    return types.void(x, totals), codegen


@compiled(**BARE)
def _squares(x, totals):
    """Sum of squares in float64, in SUMS sums, since each is a chain of additions: totals float64 [SUMS]."""
    whole = len(x) // SUMS * SUMS
    for i in range(SUMS):
        totals[i] = 0.0
    for i in range(0, whole, SUMS):
        _add_squares(x[i : i + SUMS], totals)
    total = 0.0
    for i in range(whole, len(x)):
        total += float(x[i]) * float(x[i])
    for i in range(SUMS):
        total += totals[i]
    return total


@compiled(**OPTIONS)
def normed(x, gain, eps):
    """Root mean square norm of rows x [n, h] times gain, placed."""
    n, width = x.shape
    a, steps = empty_rows(n, width)
    scaled, rest, totals = np.empty(width, np.float32), np.empty(BLOCK, np.float32), np.empty(SUMS)
    place_normed(x, gain, eps, 0, n, scaled, rest, totals, a, steps)
    return a, steps


@compiled(**BARE)
def place_normed(x, gain, eps, first, last, scaled, rest, totals, a, steps):
    n, width = x.shape
    for r in range(first, last):
        row = x[r]
        for i in range(width):
            scaled[i] = row[i] * gain[i]
        _place(scaled, np.float32(1.0 / math.sqrt(_squares(row, totals) / width + eps)), r, n, rest, a, steps)


@compiled(**OPTIONS)
def rounded(x):
    """Rows x [n, K], placed."""
    n, width = x.shape
    a, steps = empty_rows(n, width)
    place_rows(x, 0, n, np.empty(BLOCK, np.float32), a, steps)
    return a, steps


@compiled(**BARE)
def place_rows(x, first, last, rest, a, steps):
    for r in range(first, last):
        _place(x[r], np.float32(1.0), r, len(x), rest, a, steps)
