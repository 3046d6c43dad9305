"""Products of rounded rows with 4- and 8-bit weights: exact in a block, blocks added up in their order."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from diffuspec.compilation import compiled
from diffuspec.models.int8.layout import BARE, BLOCK, FEW, GROUP, LANES, LINE, OPTIONS, RECORD_4, WAY, record_bytes
from diffuspec.models.int8.llvm import (
    BYTE,
    FLOAT,
    HALF,
    INT,
    LONG,
    SHORT,
    add_pairs,
    ask_for,
    beyond,
    call,
    load,
    repeated,
    vector,
)


def _halves(builder, codes):
    """The low and the high 4 bits of bytes."""
    low, shorts = vector(BYTE, codes.type.count, 15), vector(SHORT, codes.type.count // 2)
    shifted = builder.lshr(builder.bitcast(codes, shorts), vector(SHORT, shorts.count, 4))
    return builder.and_(codes, low), builder.and_(builder.bitcast(shifted, codes.type), low)


def _sums_by_vnni(builder, record, inputs, bits, rows, lanes):
    """Sums of a record's codes times the activations of each row, int32 [lanes]: a sum of four products at once."""
    ints, line = vector(INT, lanes), 4 * lanes
    sums = [ir.Constant(ints, None)] * rows
    for v in range(record_bytes(bits, lanes)[0] // line):
        codes = load(builder, beyond(builder, record, v * line), vector(BYTE, line))
        for number, part in enumerate(_halves(builder, codes) if bits == 4 else [codes]):
            for i in range(rows):
                # Written out: the compiler would load the activations of all rows first, and have no registers left.
                product = f"vpdpbusd {i * BLOCK + 4 * (v * 8 // bits + number)}($2){{1to{lanes}}}, $1, $0"
                kind = ir.FunctionType(ints, [part.type, inputs.type, ints])
                sums[i] = builder.asm(kind, product, "=v,v,r,0,~{memory}", (part, inputs, sums[i]), True)
    return sums


def _sums_by_pairs(builder, record, inputs, bits, rows, lanes, native):
    """The same by products of 4 bits, of which sums of pairs fit into int16; native: by the instructions of AVX2."""
    line, shorts = 4 * lanes, vector(SHORT, 2 * lanes)
    sums = {}
    for v in range(record_bytes(bits, lanes)[0] // line):
        codes = load(builder, beyond(builder, record, v * line), vector(BYTE, line))
        for number, half in enumerate(_halves(builder, codes)):
            first, part = (8 * v + 4 * number, 0) if bits == 4 else (4 * v, number)
            for i in range(rows):
                known, place = sums.get((part, i)), i * BLOCK + first
                if native and bits == 4:
                    sums[part, i] = _added_code_products(builder, known, half, inputs, place)
                else:
                    product = _code_products(builder, half, inputs, place, native)
                    sums[part, i] = product if known is None else builder.add(known, product)

    def whole(pairs, weight):
        if native:
            return call(builder, "llvm.x86.avx2.pmadd.wd", vector(INT, lanes), pairs, vector(SHORT, 16, weight))
        wide = vector(INT, shorts.count)
        return builder.mul(add_pairs(builder, builder.sext(pairs, wide)), vector(INT, lanes, weight))

    low = [whole(sums[0, i], 1) for i in range(rows)]
    return low if bits == 4 else [builder.add(low[i], whole(sums[1, i], 16)) for i in range(rows)]


def _code_products(builder, codes, inputs, offset, native):
    """int16 [2 lanes]: sums of pairs of products of codes 0 .. 15, uint8 [4 lanes], with 4 int8 at inputs + offset."""
    lanes = codes.type.count // 4
    four = builder.load(builder.bitcast(beyond(builder, inputs, offset), INT.as_pointer()), align=1)
    four = builder.bitcast(repeated(builder, four, lanes), codes.type)
    if native:
        return call(builder, "llvm.x86.avx2.pmadd.ub.sw", vector(SHORT, 2 * lanes), codes, four)
    wide = vector(SHORT, 4 * lanes)
    return add_pairs(builder, builder.mul(builder.zext(codes, wide), builder.sext(four, wide)))


def _added_code_products(builder, known, codes, inputs, offset):
    """The same in AVX2, added to `known`, in the order written, for the same reason as in `_sums_by_vnni`."""
    products, shorts = f"vpbroadcastd {offset}($2), $0\n\tvpmaddubsw $0, $1, $0", vector(SHORT, 16)
    kind = ir.FunctionType(shorts, [codes.type, inputs.type])
    made = builder.asm(kind, products, "=&x,x,r,~{memory}", (codes, inputs), True)
    if known is None:
        return made
    return builder.asm(ir.FunctionType(shorts, [shorts] * 2), "vpaddw $2, $1, $0", "=x,x,x", (known, made), True)


def dots(bits: int, most: int, way: str = WAY, lanes: int = LANES):
    """An intrinsic: products of record row `group` with `rows` <= most activation rows, into (or onto) y[r.., at..].

    packed uint8 [groups, blocks x record]; a int8 and steps float32 as `_place` puts them, the first of the rows
    from `start` on, in a group of `stride` rows; y float32 [n, out]. The bits are the same by every way of `WIDTHS`.
    """

    @intrinsic
    def products(typing, packed, group, a, steps, start, rows, stride, blocks, y, r, at, onto):
        def codegen(context, builder, signature, args):
            packed, a, steps, y = (
                context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 3, 8)
            )
            group, start, rows, stride, blocks, first_row, channel, onto = (args[i] for i in (1, 4, 5, 6, 7, 9, 10, 11))
            records = beyond(builder, packed.data, group, blocks, record_bytes(bits, lanes)[1])
            inputs = beyond(builder, builder.bitcast(a.data, BYTE.as_pointer()), start)
            scales = builder.gep(steps.data, [builder.udiv(start, ir.Constant(LONG, BLOCK // 2))])
            columns = cgutils.unpack_tuple(builder, y.shape)[1]
            for n in range(1, most + 1):
                with builder.if_then(builder.icmp_signed("==", rows, ir.Constant(rows.type, n))):
                    totals = _totals(builder, records, inputs, scales, bits, n, stride, blocks, way, lanes)
                    for i, total in enumerate(totals):
                        row = builder.mul(builder.add(first_row, ir.Constant(LONG, i)), columns)
                        place = builder.gep(y.data, [builder.add(row, channel)])
                        before = load(builder, place, total.type, 4)
                        before = builder.select(onto, before, ir.Constant(total.type, None))
                        place = builder.bitcast(place, total.type.as_pointer())
                        builder.store(builder.fadd(before, total), place, align=4)
            return context.get_dummy_value()

        index = types.intp
        known = packed, index, a, steps, index, index, index, index, y, index, index, types.boolean
        return types.void(*known), codegen

    return products


def _totals(builder, records, inputs, scales, bits, rows, stride, blocks, way, lanes):
    """A record row times each of the rows, float32 [lanes], block after block."""
    floats, halves = vector(FLOAT, lanes), vector(HALF, lanes)
    code_bytes, size = record_bytes(bits, lanes)
    totals = [cgutils.alloca_once_value(builder, ir.Constant(floats, None)) for _ in range(rows)]
    for total in totals:
        builder.store(ir.Constant(floats, None), total)
    with cgutils.for_range(builder, blocks, intp=LONG) as loop:
        record = beyond(builder, records, loop.index, size)
        # The next record row: it arrives while this one is met, by several groups of rows if there are that many.
        needed = beyond(builder, record, blocks, size)
        for line in range(0, size, LINE):
            ask_for(builder, beyond(builder, needed, line))
        here = beyond(builder, inputs, loop.index, stride, BLOCK)
        if way == "vnni":
            sums = _sums_by_vnni(builder, record, here, bits, rows, lanes)
        else:
            sums = _sums_by_pairs(builder, record, here, bits, rows, lanes, way == "avx2")
        scale = builder.fpext(load(builder, beyond(builder, record, code_bytes), halves), floats)
        if bits == 4:
            least = builder.fpext(load(builder, beyond(builder, record, code_bytes + 2 * lanes), halves), floats)
        else:
            least = builder.fmul(scale, vector(FLOAT, lanes, -128.0))
        pair = beyond(builder, scales, loop.index, stride, 2)
        for i, total in enumerate(totals):
            step, sum_ = (repeated(builder, builder.load(beyond(builder, pair, 2 * i + j)), lanes) for j in range(2))
            factors = builder.sitofp(sums[i], floats), builder.fmul(scale, step)
            value = call(builder, f"llvm.fma.v{lanes}f32", floats, *factors, builder.load(total))
            builder.store(call(builder, f"llvm.fma.v{lanes}f32", floats, least, sum_, value), total)
    return [builder.load(total) for total in totals]


_half_products, _full_products = dots(4, GROUP), dots(8, FEW)


@compiled(**BARE)
def grouped(n):
    """How many rows meet a record at once: at most GROUP, in groups as equal as they can be."""
    groups = -(-n // GROUP)
    return -(-n // groups)


@compiled(**OPTIONS)
def product(packed, a, steps, n, first, last, add, y):
    """Channels first .. last - 1 of y = x w^T, or of y += it; `first` a multiple of LANES.

    packed uint8 [groups of LANES channels, blocks x record], its bits are told from its size; a int8 [n K], K whole
    blocks, and steps float32 [n K / BLOCK, 2]: the rows x as `_place` puts them; y float32 [n, out].
    """
    _product(packed, a, steps, n, first, last, add, y, np.empty((n, LANES), np.float32))


@compiled(**BARE)
def _product(packed, a, steps, n, first, last, add, y, tail):
    width = len(a) // n
    blocks, most = width // BLOCK, grouped(n)
    is_half = packed.shape[1] == blocks * RECORD_4
    for at in range(first, last, LANES):
        group, is_whole = at // LANES, at + LANES <= last
        out, place = (y, at) if is_whole else (tail, 0)
        for r in range(0, n, most):
            rows = min(most, n - r)
            start, onto = r * width, add and is_whole
            if is_half:
                _half_products(packed, group, a, steps, start, rows, rows, blocks, out, r, place, onto)
                continue
            for i in range(0, rows, FEW):
                few, here = min(FEW, rows - i), start + i * BLOCK
                _full_products(packed, group, a, steps, here, few, rows, blocks, out, r + i, place, onto)
        if not is_whole:
            for r in range(n):
                for o in range(last - at):
                    y[r, at + o] = y[r, at + o] + tail[r, o] if add else tail[r, o]
