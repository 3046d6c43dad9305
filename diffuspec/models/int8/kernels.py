"""A Llama pass over a few rows in 4- and 8-bit weights, compiled by numba: every row has the same bits in any company.

Losslessness is a matter of arithmetic. In bfloat16 a pass over one token and one over nine round
differently, logits tie, and speculative decoding ends up with another answer than plain decoding.
Here

* a product goes through a row in blocks of 32. Inside a block it is a sum of integers, exact in any order:
  codes of 4 or 8 bits, and activations in 8 bits with one scale a block and a row. The blocks are added up in
  their order, each by the same two operations;
* attention goes through a row's own past in the order of the text, one addition at a time, wherever
  in the cache its ancestors stand;
* what is left (norms, rotation, gates) belongs to one row and is compiled once.

A pass is one call: interpreting its 1,600 operations one by one costs more than the products do.
The weights are read once for all rows, so that a few rows cost little more than one.

Weights lie as the processor wants them: a record holds a block of LANES output channels, as many as a register has
numbers of 32 bits (16 with AVX-512 VNNI, else 8). First its codes: 4 neighbouring inputs of each of the channels, so
that 4 activations of a row, repeated, meet all channels at once, then the next 4; of 4-bit codes the low halves of the
bytes are 4 inputs, the high halves the next 4.
Then a float16 scale for each channel, and of 4-bit codes a float16 minimum:

    w = scale * code + minimum       (4 bits, GGUF's Q4_1)
    w = scale * (code - 128)         (8 bits, GGUF's Q8_0).
"""

from __future__ import annotations

import math
import os

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from diffuspec.compilation import compiled


def _way() -> str:
    """By which instructions products are made: those of AVX-512 VNNI, of AVX2, or any processor's."""
    features = llvmlite.binding.get_host_cpu_features()
    if numba.config.CPU_NAME is not None or not all(features.get(name) for name in ("avx2", "f16c")):
        return "plain"
    return "vnni" if all(features.get(name) for name in ("avx512vnni", "avx512vl", "avx512bw")) else "avx2"


WAY = _way()
if WAY != "plain":
    llvmlite.binding.initialize_native_asmparser()
WIDTHS = {"vnni": 16, "avx2": 8, "plain": 8}  # int32 of a register
BLOCK, LANES = 32, WIDTHS[WAY]  # inputs and output channels of a record


def record_bytes(bits: int, lanes: int = LANES) -> tuple[int, int]:
    """Bytes of a record's codes, and of all of it."""
    codes = lanes * BLOCK * bits // 8
    return codes, codes + (4 if bits == 4 else 2) * lanes


RECORD_4 = record_bytes(4)[1]
LEVEL = 127  # steps of an activation on each side of 0
LINE = 64  # bytes that memory is read by
GROUP = 12 if WAY == "vnni" else 8  # rows that a record meets at once, at most, as registers allow
FEW = 12 if WAY == "vnni" else 4  # the same of 8 bits, which without VNNI need two registers a row
CHUNK = 12  # query rows that pass one key head together
SPAN = 16  # columns of a panel of a float product
TILE, TOGETHER = 6, 2 if WAY == "vnni" else 1  # its rows and panels computed at a time
PATIENCE = 20_000  # looks for the other threads before this one gives way
SHARED = 24  # rows from which on threads round a stage's input together, for which they have to meet once more
SUMS = 16  # chains in which squares are added up
STRETCH = 128  # logits that are passed over together where none is among the best

_options = dict(nogil=True, error_model="numpy")
# For what allocates nothing: without numba's counting of references, of which every slice of an array costs two, each
# an atomic addition; of a pass over one row or eight they were a twentieth.
_bare = dict(_options, _nrt=False)


_byte, _short, _int, _long = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_float, _half = ir.FloatType(), ir.HalfType()


def _vector(kind, count, value=None):
    """A vector type, or a constant of it."""
    vector = ir.VectorType(kind, count)
    return vector if value is None else ir.Constant(vector, [ir.Constant(kind, value)] * count)


def _call(builder, name, result, *arguments):
    kinds = [argument.type for argument in arguments]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments)


def _load(builder, pointer, kind, align=1):
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def _beyond(builder, pointer, *factors):
    """pointer + the product of the factors, numbers or values."""
    place = ir.Constant(_long, 1)
    for factor in factors:
        place = builder.mul(place, ir.Constant(_long, factor) if isinstance(factor, int) else factor)
    return builder.gep(pointer, [place])


def _pairs(builder, products):
    """Sums of neighbours: half as many lanes."""
    count = products.type.count // 2
    none = ir.Constant(products.type, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, none, ir.Constant(_vector(_int, count), list(range(first, 2 * count, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _repeated(builder, value, count):
    none = ir.Constant(_vector(value.type, count), ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(none, value, ir.Constant(_int, 0)), none, ir.Constant(_vector(_int, count), None)
    )


def _ask_for(builder, pointer):
    """Have memory read ahead of need."""
    flags = (ir.Constant(_int, flag) for flag in (0, 3, 1))  # read, keep, data
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)


def _halves(builder, codes):
    """The low and the high 4 bits of bytes."""
    low, shorts = _vector(_byte, codes.type.count, 15), _vector(_short, codes.type.count // 2)
    shifted = builder.lshr(builder.bitcast(codes, shorts), _vector(_short, shorts.count, 4))
    return builder.and_(codes, low), builder.and_(builder.bitcast(shifted, codes.type), low)


def _sums_by_vnni(builder, record, inputs, bits, rows, lanes):
    """Sums of a record's codes times the activations of each row, int32 [lanes]: a sum of four products at once."""
    ints, line = _vector(_int, lanes), 4 * lanes
    sums = [ir.Constant(ints, None)] * rows
    for v in range(record_bytes(bits, lanes)[0] // line):
        codes = _load(builder, _beyond(builder, record, v * line), _vector(_byte, line))
        for number, part in enumerate(_halves(builder, codes) if bits == 4 else [codes]):
            for i in range(rows):
                # Written out: the compiler would load the activations of all rows first, and have no registers left.
                product = f"vpdpbusd {i * BLOCK + 4 * (v * 8 // bits + number)}($2){{1to{lanes}}}, $1, $0"
                kind = ir.FunctionType(ints, [part.type, inputs.type, ints])
                sums[i] = builder.asm(kind, product, "=v,v,r,0,~{memory}", (part, inputs, sums[i]), True)
    return sums


def _sums_by_pairs(builder, record, inputs, bits, rows, lanes, native):
    """The same by products of 4 bits, of which sums of pairs fit into int16; native: by the instructions of AVX2."""
    line, shorts = 4 * lanes, _vector(_short, 2 * lanes)
    sums = {}
    for v in range(record_bytes(bits, lanes)[0] // line):
        codes = _load(builder, _beyond(builder, record, v * line), _vector(_byte, line))
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
            return _call(builder, "llvm.x86.avx2.pmadd.wd", _vector(_int, lanes), pairs, _vector(_short, 16, weight))
        wide = _vector(_int, shorts.count)
        return builder.mul(_pairs(builder, builder.sext(pairs, wide)), _vector(_int, lanes, weight))

    low = [whole(sums[0, i], 1) for i in range(rows)]
    return low if bits == 4 else [builder.add(low[i], whole(sums[1, i], 16)) for i in range(rows)]


def _code_products(builder, codes, inputs, offset, native):
    """int16 [2 lanes]: sums of pairs of products of codes 0 .. 15, uint8 [4 lanes], with 4 int8 at inputs + offset."""
    lanes = codes.type.count // 4
    four = builder.load(builder.bitcast(_beyond(builder, inputs, offset), _int.as_pointer()), align=1)
    four = builder.bitcast(_repeated(builder, four, lanes), codes.type)
    if native:
        return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _vector(_short, 2 * lanes), codes, four)
    wide = _vector(_short, 4 * lanes)
    return _pairs(builder, builder.mul(builder.zext(codes, wide), builder.sext(four, wide)))


def _added_code_products(builder, known, codes, inputs, offset):
    """The same in AVX2, added to `known`, in the order written, for the same reason as in `_sums_by_vnni`."""
    products, shorts = f"vpbroadcastd {offset}($2), $0\n\tvpmaddubsw $0, $1, $0", _vector(_short, 16)
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
            records = _beyond(builder, packed.data, group, blocks, record_bytes(bits, lanes)[1])
            inputs = _beyond(builder, builder.bitcast(a.data, _byte.as_pointer()), start)
            scales = builder.gep(steps.data, [builder.udiv(start, ir.Constant(_long, BLOCK // 2))])
            columns = cgutils.unpack_tuple(builder, y.shape)[1]
            for n in range(1, most + 1):
                with builder.if_then(builder.icmp_signed("==", rows, ir.Constant(rows.type, n))):
                    totals = _totals(builder, records, inputs, scales, bits, n, stride, blocks, way, lanes)
                    for i, total in enumerate(totals):
                        row = builder.mul(builder.add(first_row, ir.Constant(_long, i)), columns)
                        place = builder.gep(y.data, [builder.add(row, channel)])
                        before = _load(builder, place, total.type, 4)
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
    floats, halves = _vector(_float, lanes), _vector(_half, lanes)
    code_bytes, size = record_bytes(bits, lanes)
    totals = [cgutils.alloca_once_value(builder, ir.Constant(floats, None)) for _ in range(rows)]
    for total in totals:
        builder.store(ir.Constant(floats, None), total)
    with cgutils.for_range(builder, blocks, intp=_long) as loop:
        record = _beyond(builder, records, loop.index, size)
        # The next record row: it arrives while this one is met, by several groups of rows if there are that many.
        needed = _beyond(builder, record, blocks, size)
        for line in range(0, size, LINE):
            _ask_for(builder, _beyond(builder, needed, line))
        here = _beyond(builder, inputs, loop.index, stride, BLOCK)
        if way == "vnni":
            sums = _sums_by_vnni(builder, record, here, bits, rows, lanes)
        else:
            sums = _sums_by_pairs(builder, record, here, bits, rows, lanes, way == "avx2")
        scale = builder.fpext(_load(builder, _beyond(builder, record, code_bytes), halves), floats)
        if bits == 4:
            least = builder.fpext(_load(builder, _beyond(builder, record, code_bytes + 2 * lanes), halves), floats)
        else:
            least = builder.fmul(scale, _vector(_float, lanes, -128.0))
        pair = _beyond(builder, scales, loop.index, stride, 2)
        for i, total in enumerate(totals):
            step, sum_ = (_repeated(builder, builder.load(_beyond(builder, pair, 2 * i + j)), lanes) for j in range(2))
            factors = builder.sitofp(sums[i], floats), builder.fmul(scale, step)
            value = _call(builder, f"llvm.fma.v{lanes}f32", floats, *factors, builder.load(total))
            builder.store(_call(builder, f"llvm.fma.v{lanes}f32", floats, least, sum_, value), total)
    return [builder.load(total) for total in totals]


_half_products, _full_products = dots(4, GROUP), dots(8, FEW)


@compiled(**_bare)
def _grouped(n):
    """How many rows meet a record at once: at most GROUP, in groups as equal as they can be."""
    groups = -(-n // GROUP)
    return -(-n // groups)


@compiled(**_options)
def product(packed, a, steps, n, first, last, add, y):
    """Channels first .. last - 1 of y = x w^T, or of y += it; `first` a multiple of LANES.

    packed uint8 [groups of LANES channels, blocks x record], its bits are told from its size; a int8 [n K], K whole
    blocks, and steps float32 [n K / BLOCK, 2]: the rows x as `_place` puts them; y float32 [n, out].
    """
    _product(packed, a, steps, n, first, last, add, y, np.empty((n, LANES), np.float32))


@compiled(**_bare)
def _product(packed, a, steps, n, first, last, add, y, tail):
    width = len(a) // n
    blocks, most = width // BLOCK, _grouped(n)
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


@intrinsic
def _max(typing, a, b):
    """The larger of two float32 that are numbers; unlike `max` it lets a loop be vectorised."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.maxnum.f32", _float, *args)

    return types.float32(types.float32, types.float32), codegen


@intrinsic
def _round_block(typing, x, a, at, factor, steps):
    """Round x float32 [BLOCK] to LEVEL steps each side of 0, into block `at` of a int8; of steps float32 [.., 2]
    row `at` takes what a step is worth, times `factor`, and that times the sum of the block."""

    def codegen(context, builder, signature, args):
        x, a, steps = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 1, 4))
        at, factor = args[2], args[3]
        floats, ints = _vector(_float, BLOCK), _vector(_int, BLOCK)
        part = _load(builder, x.data, floats)
        # Without their signs, floats are ordered as integers are.
        bits = builder.and_(builder.bitcast(part, ints), _vector(_int, BLOCK, 0x7FFFFFFF))
        largest = builder.bitcast(_call(builder, f"llvm.vector.reduce.smax.v{BLOCK}i32", _int, bits), _float)
        level, zero = ir.Constant(_float, float(LEVEL)), ir.Constant(_float, 0.0)
        is_some = builder.fcmp_ordered(">", largest, zero)
        scale = _repeated(builder, builder.select(is_some, builder.fdiv(level, largest), zero), BLOCK)
        nearest = builder.fadd(builder.fmul(part, scale), _vector(_float, BLOCK, 0.5))
        whole = builder.fptosi(_call(builder, f"llvm.floor.v{BLOCK}f32", floats, nearest), ints)
        place = _beyond(builder, builder.bitcast(a.data, _byte.as_pointer()), at, BLOCK)
        small = _vector(_byte, BLOCK)
        builder.store(builder.trunc(whole, small), builder.bitcast(place, small.as_pointer()), align=1)
        total = builder.sitofp(_call(builder, f"llvm.vector.reduce.add.v{BLOCK}i32", _int, whole), _float)
        step = builder.fmul(builder.fdiv(largest, level), factor)
        pair = _beyond(builder, steps.data, at, 2)
        builder.store(step, pair)
        builder.store(builder.fmul(step, total), builder.gep(pair, [ir.Constant(_long, 1)]))
        return context.get_dummy_value()

    return types.void(x, a, types.intp, types.float32, steps), codegen


@compiled(**_bare)
def _place(x, factor, r, n, rest, a, steps):
    """Round row r [K] of n rows, factor x, to LEVEL steps each side of 0 a block: into a int8 [n K'], K' whole blocks.

    The rows of a group lie together: their first blocks, row by row, then the next. In the same order
    steps float32 [n K' / BLOCK, 2] takes what a step is worth, and that times the sum of the block. rest float32
    [BLOCK]: room for a last block that is not whole.
    """
    width = len(a) // n
    most = _grouped(n)
    rows = min(most, n - r // most * most)
    start = r // most * most * width // BLOCK + r % most
    whole = len(x) // BLOCK
    for block in range(whole):
        _round_block(x[block * BLOCK : (block + 1) * BLOCK], a, start + block * rows, factor, steps)
    if whole * BLOCK < len(x):
        for i in range(BLOCK):
            rest[i] = x[whole * BLOCK + i] if whole * BLOCK + i < len(x) else np.float32(0.0)
        _round_block(rest, a, start + whole * rows, factor, steps)


@compiled(**_options)
def _room(n, width):
    """Where `_place` puts n rows of this width: int8, float32."""
    blocks = -(-width // BLOCK)
    return np.empty(n * blocks * BLOCK, np.int8), np.empty((n * blocks, 2), np.float32)


@intrinsic
def _add_squares(typing, x, totals):
    """Add the squares of x float32 [SUMS] to totals float64 [SUMS]."""

    def codegen(context, builder, signature, args):
        x, totals = (context.make_array(signature.args[i])(context, builder, args[i]) for i in range(2))
        doubles = _vector(ir.DoubleType(), SUMS)
        part = builder.fpext(_load(builder, x.data, _vector(_float, SUMS)), doubles)
        place = builder.bitcast(totals.data, doubles.as_pointer())
        builder.store(builder.fadd(builder.load(place, align=8), builder.fmul(part, part)), place, align=8)
        return context.get_dummy_value()

    return types.void(x, totals), codegen


@compiled(**_bare)
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


@compiled(**_options)
def _normed(x, gain, eps):
    """Root mean square norm of rows x [n, h] times gain, placed."""
    n, width = x.shape
    a, steps = _room(n, width)
    scaled, rest, totals = np.empty(width, np.float32), np.empty(BLOCK, np.float32), np.empty(SUMS)
    _place_normed(x, gain, eps, 0, n, scaled, rest, totals, a, steps)
    return a, steps


@compiled(**_bare)
def _place_normed(x, gain, eps, first, last, scaled, rest, totals, a, steps):
    n, width = x.shape
    for r in range(first, last):
        row = x[r]
        for i in range(width):
            scaled[i] = row[i] * gain[i]
        _place(scaled, np.float32(1.0 / math.sqrt(_squares(row, totals) / width + eps)), r, n, rest, a, steps)


@compiled(**_options)
def _rounded(x):
    """Rows x [n, K], placed."""
    n, width = x.shape
    a, steps = _room(n, width)
    _place_rows(x, 0, n, np.empty(BLOCK, np.float32), a, steps)
    return a, steps


@compiled(**_bare)
def _place_rows(x, first, last, rest, a, steps):
    for r in range(first, last):
        _place(x[r], np.float32(1.0), r, len(x), rest, a, steps)


@intrinsic
def _fma(typing, a, b, c):
    """a b + c in float32, rounded once."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.fma.f32", _float, *args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@compiled(**_bare)
def _exp(x):
    """e^x in float32 for x <= 0 and moderate x > 0, to about 2 units in the last place."""
    x = max(np.float32(-87.0), min(np.float32(88.0), x))
    whole = np.floor(_fma(x, np.float32(1.44269504), np.float32(0.5)))
    r = _fma(whole, np.float32(-0.693359375), x)
    r = _fma(whole, np.float32(2.12194440e-4), r)
    p = np.float32(1.9875691500e-4)
    p = _fma(p, r, np.float32(1.3981999507e-3))
    p = _fma(p, r, np.float32(8.3334519073e-3))
    p = _fma(p, r, np.float32(4.1665795894e-2))
    p = _fma(p, r, np.float32(1.6666665459e-1))
    p = _fma(p, r, np.float32(5.0000001201e-1))
    p = _fma(p, r * r, r) + np.float32(1.0)
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled(fastmath={"reassoc", "contract", "nsz"}, **_bare)
def _sum_of_exponentials(x, largest):
    """NaN where one of x is NaN, or the largest infinite: `_exp` itself would make a number of it."""
    total, unordered = np.float32(0.0), np.int32(0)
    for i in range(len(x)):
        below = x[i] - largest
        unordered += np.int32(below != below)
        total += _exp(below)
    return np.float32(np.nan) if unordered else total


@compiled(**_bare)
def _highest(x):
    highest = x[0]
    for i in range(len(x)):
        highest = _max(highest, x[i])
    return highest


@compiled(**_options)
def likeliest_one(logits):
    """Where each row of logits float32 [rows, V] is highest, int64 [rows]; of equals the first."""
    places = np.empty(len(logits), np.int64)
    for r in range(len(logits)):
        row, start = logits[r], 0
        highest = _highest(row[:STRETCH])
        for first in range(STRETCH, len(row), STRETCH):
            here = _highest(row[first : first + STRETCH])
            if here > highest:
                highest, start = here, first
        places[r] = start
        while row[places[r]] != highest and places[r] + 1 < min(start + STRETCH, len(row)):
            places[r] += 1
    return places


@compiled(**_bare)
def _rank(row, place, best):
    """Write down where the largest of a row are, as many as `best` holds, and what they are; their logsumexp."""
    n, known = len(best), 0
    for first in range(0, len(row), STRETCH):
        part = row[first : first + STRETCH]
        if known == n and _highest(part) <= best[n - 1]:
            continue
        for i in range(len(part)):
            value = part[i]
            if known == n and value <= best[n - 1]:
                continue
            at = known if known < n else n - 1
            while at > 0 and best[at - 1] < value:
                best[at], place[at] = best[at - 1], place[at - 1]
                at -= 1
            best[at], place[at] = value, first + i
            known = min(known + 1, n)
    return best[0] + np.log(_sum_of_exponentials(row, best[0]))


def no_ranks(rows: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for what `likeliest_of` finds."""
    return np.zeros((rows, n), np.int32), np.full((rows, n), -np.inf, np.float32), np.zeros(rows, np.float32)


@compiled(**_options)
def likeliest_of(logits, rows, n):
    """The n largest of these rows, int64 [m], of logits float32 [.., V], best first, of equals the first; n at most V.

    ids int32 [m, n]; their logits float32 [m, n]; logsumexp float32 [m], to about 1e-6: for what is written
    down or proposed, not for what is decided. On one thread: it has too little to do to wake others for.
    """
    m = len(rows)
    ids, values = np.zeros((m, n), np.int32), np.full((m, n), -np.inf, np.float32)
    norms = np.empty(m, np.float32)
    for r in range(m):
        norms[r] = _rank(logits[rows[r]], ids[r], values[r])
    return ids, values, norms


@compiled(**_options)
def likeliest_few(logits, n):
    """`likeliest_of` all rows."""
    return likeliest_of(logits, np.arange(len(logits)), n)


@compiled(**_bare)
def _gate(gate, up, out):
    """out = silu(gate) * up."""
    for i in range(len(out)):
        out[i] = gate[i] / (np.float32(1.0) + _exp(-gate[i])) * up[i]


@compiled(**_bare)
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
    floats = _vector(_float, LANES)
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
            inputs = _beyond(builder, a.data, r, width)
            place = builder.gep(_beyond(builder, out.data, r, columns), [builder.mul(j, ir.Constant(_long, SPAN))])
            starts = [
                _beyond(builder, b.data, builder.add(j, ir.Constant(_long, panel)), depth, SPAN)
                for panel in range(panels)
            ]
            for n in range(1, TILE + 1):
                with builder.if_then(builder.icmp_signed("==", rows, ir.Constant(rows.type, n))):
                    sources = [_beyond(builder, inputs, i, width) for i in range(n)]
                    sums = [[cgutils.alloca_once(builder, floats) for _ in pieces] for _ in sources]
                    whole = [cgutils.alloca_once(builder, floats) for _ in sources]
                    for total in (*whole, *(total for row in sums for total in row)):
                        builder.store(ir.Constant(floats, None), total)
                    with cgutils.for_range(builder, count, intp=_long) as loop:
                        here = [_beyond(builder, start, loop.index, SPAN) for start in starts]
                        loaded = [_load(builder, _beyond(builder, here[p], first), floats, 4) for p, first in pieces]
                        for panel in range(panels if is_first else 0):
                            span, line = (
                                make(loop.index, ir.Constant(_long, SPAN)) for make in (builder.udiv, builder.urem)
                            )
                            lines = _beyond(builder, ahead.data, span, far)
                            lines = _beyond(builder, lines, builder.add(j, ir.Constant(_long, panel)), SPAN * SPAN)
                            _ask_for(builder, _beyond(builder, lines, line, SPAN))
                        for i, source in enumerate(sources):
                            value = _repeated(builder, builder.load(builder.gep(source, [loop.index])), LANES)
                            if is_summed:
                                builder.store(builder.fadd(builder.load(whole[i]), value), whole[i])
                            for piece, total in zip(loaded, sums[i], strict=True):
                                known = builder.load(total)
                                fma = _call(builder, f"llvm.fma.v{LANES}f32", floats, value, piece, known)
                                builder.store(fma, total)
                    for i, row_sums in enumerate(sums):
                        if is_summed:
                            one = builder.extract_element(builder.load(whole[i]), ir.Constant(_int, 0))
                            builder.store(one, builder.gep(totals.data, [builder.add(r, ir.Constant(_long, i))]))
                        row = _beyond(builder, place, i, columns)
                        for (panel, first), total in zip(pieces, row_sums, strict=True):
                            to = builder.bitcast(_beyond(builder, row, panel * SPAN + first), floats.as_pointer())
                            builder.store(builder.load(total), to, align=4)
            return context.get_dummy_value()

        index = types.intp
        return types.void(a, index, index, b, index, index, out, ahead, index, totals), codegen

    return fused


_one_panel, _panels, _summed_panels = _fused(1), _fused(TOGETHER), _fused(TOGETHER, is_summed=True)
_first_panels, _first_summed_panels = _fused(TOGETHER, True), _fused(TOGETHER, True, True)


@compiled(**_bare)
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


@compiled(**_bare)
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
        highest = _highest(line)
        for j in range(total):
            line[j] = _exp(line[j] - highest)
        for j in range(n):
            block[j] = np.float32(0.0) if unseen[j] else block[j]
    adds = TOGETHER > 1 and len(values) >= TOGETHER  # else there are no registers left for it
    _matrix(scores, values, total, len(values), out, is_new, next_keys, keys.shape[1] * SPAN, adds, totals)
    if not adds:
        _sums(scores, total, totals)
    for i in range(len(queries)):
        for j in range(out.shape[1]):
            out[i, j] /= totals[i]


@compiled(**_bare)
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


@compiled(**_bare)
def _copy(source, target):
    for i in range(len(source)):
        target[i] = source[i]


@compiled(**_bare)
def _share(total, part, parts, grain):
    """Where the `part`-th of `parts` threads starts in `total` items handed out by `grain`."""
    return min(total, (total // grain * part // parts) * grain) if part < parts else total


@compiled(**_bare)
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


@compiled(**_options)
def _attend_text(first, last, projected, keys, values, text, shape, gain, hidden, place, cos, sin, scores, mixed):
    """Queries first .. last - 1 of a text's rows, key head by key head, into mixed [n, heads d]."""
    room = np.empty((CHUNK, shape[2]), np.float32), np.empty((CHUNK, len(values[0]) * SPAN), np.float32)
    rows, totals = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.float32)
    _attend_queries(
        first, last, projected, keys, values, text, shape, gain, hidden, place, cos, sin, scores, mixed, room, rows,
        totals,
    )  # fmt: skip


@compiled(**_bare)
def _attend_queries(
    first, last, projected, keys, values, text, shape, gain, hidden, place, cos, sin, scores, mixed, room, rows, totals
):  # fmt: skip
    heads, kv_heads, d, _, eps = shape
    group, shrink, n, start = heads // kv_heads, np.float32(1.0 / math.sqrt(d)), text[ROWS], text[FIRST]
    query, out = room
    before = -1
    while first < last:
        g, skip = first // (n * group), first % (n * group)
        size = min(CHUNK, last - first, n * group - skip)
        for i in range(size):
            head = (g * group + (skip + i) % group) * d
            r = rows[i] = start + (skip + i) // group
            _norm_head(projected[r, head : head + d], gain, eps)
            _rotate(projected[r, head : head + d], cos[place[r]], sin[place[r]], query[i], shrink)
        # A head's values are asked for while its keys are met, and the next head's keys while its values are.
        is_new, after, before = g != before, keys[min(g + 1, kv_heads - 1)], g
        part, into = scores[:size], out[:size]
        _attend(query[:size], rows, keys[g], values[g], is_new, after, text[PAST], start, n, hidden, part, totals, into)
        for i in range(size):
            head = (g * group + (skip + i) % group) * d
            _copy(out[i, :d], mixed[rows[i], head : head + d])
        first += size


@compiled(**_bare)
def move(keys, values, first, rows):
    """In every layer of a cache (see `run`), put the tokens first + rows, ascending, to first, first + 1, ..."""
    for layer in range(len(keys)):
        for g in range(keys.shape[1]):
            for i in range(len(rows)):
                source, target = first + rows[i], first + i
                if source == target:
                    continue
                _copy(
                    keys[layer, g, source // SPAN, :, source % SPAN], keys[layer, g, target // SPAN, :, target % SPAN]
                )
                for panel in range(values.shape[2]):
                    _copy(values[layer, g, panel, source], values[layer, g, panel, target])


PROJECT, ATTEND, OUTPUT, GATE, DOWN, HEAD = range(6)
SLOT, FIRST, ROWS, PAST = range(4)  # what is said of a text: see `run`


@compiled(**_options)
def _round(stage, t, threads, layer, x, weights, shape, buffers, rooms):
    """Thread t's share of the rounding of a stage's input, of SHARED rows or more."""
    _, mixed, _, gated, _, _ = buffers
    n, width = x.shape
    first, last, rest = n * t // threads, n * (t + 1) // threads, np.empty(BLOCK, np.float32)
    if stage == PROJECT or stage == GATE:
        gain = weights[4][layer] if stage == PROJECT else weights[5][layer]
        scaled, totals = np.empty(width, np.float32), np.empty(SUMS)
        a, steps = _part(rooms, n, width)
        _place_normed(x, gain, shape[4], first, last, scaled, rest, totals, a, steps)
    else:
        rows = mixed if stage == OUTPUT else gated
        a, steps = _part(rooms, n, rows.shape[1])
        _place_rows(rows, first, last, rest, a, steps)


@compiled(**_options)
def _part(rooms, n, width):
    """What n rows of this width take of the room that `_room` gave for wider ones."""
    blocks = n * -(-width // BLOCK)
    return rooms[0][: blocks * BLOCK], rooms[1][:blocks]


@compiled(**_options)
def _of(matrices, layer):
    """A layer's matrix, of (those of 4 bits, those of 8, int64 [layers]: places in the first, or ~ in the second)."""
    four, eight, places = matrices
    return four[places[layer]] if places[layer] >= 0 else eight[~places[layer]]


@compiled(**_options)
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
        a, steps = _part(rooms, n, width) if is_shared else _normed(x, norms[layer], eps)
        weight, out, channels = _of(qkv, layer), projected, projected.shape[1]
    elif stage == OUTPUT:
        a, steps = _part(rooms, n, mixed.shape[1]) if is_shared else _rounded(mixed)
        weight, out, channels = _of(output, layer), x, width
    elif stage == GATE:
        a, steps = _part(rooms, n, width) if is_shared else _normed(x, post[layer], eps)
        weight, out, channels = _of(gate_up, layer), gates, gated.shape[1]
    elif stage == DOWN:
        a, steps = _part(rooms, n, gated.shape[1]) if is_shared else _rounded(gated)
        weight, out, channels = _of(down, layer), x, width
    elif stage == HEAD:
        rows = np.empty((len(asked), width), np.float32)
        for i in range(len(asked)):
            _copy(x[asked[i]], rows[i])
        a, steps = _normed(rows, norm, eps)
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
            _attend_text(
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
    first, last = _share(channels, t, threads, LANES), _share(channels, t + 1, threads, LANES)
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


@intrinsic
def _count(typing, counter):
    """Add 1 to counter int64 [1], which other threads see at once."""

    def codegen(context, builder, signature, args):
        counter = context.make_array(signature.args[0])(context, builder, args[0])
        builder.atomic_rmw("add", counter.data, ir.Constant(_long, 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), codegen


@intrinsic
def _counted(typing, counter):
    """What counter int64 [1] is now, and all that was written before."""

    def codegen(context, builder, signature, args):
        counter = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load_atomic(counter.data, "acquire", 8)

    return types.int64(counter), codegen


@intrinsic
def _give_way(typing):
    """Let another thread have this processor."""

    def codegen(context, builder, signature, args):
        if os.name == "posix":
            _call(builder, "sched_yield", _int)
        return context.get_dummy_value()

    return types.void(), codegen


@compiled(**_options)
def _meet(counter, goal):
    """Wait until `goal` threads have come."""
    _count(counter)
    looks = 0
    while _counted(counter) < goal:
        looks += 1
        if looks > PATIENCE:
            _give_way()


@compiled(**_bare)
def _append(t, threads, projected, shape, gain, keys, values, at, texts, place, cos, sin):
    """Put thread t's share of the rows' keys and values into cache layer `at`."""
    heads, kv_heads, d, _, eps = shape
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
                    _copy(v[j : j + SPAN], values[slot, at, g, j // SPAN, column])


@compiled(**_options)
def run(
    t, threads, counter, x, weights, shape, source, keys, values, texts, hidden, asked, place, cos, sin, buffers, rooms,
    ranks
):  # fmt: skip
    """Thread t's share of the layers of a Llama over n rows, in place in x float32 [n, h]; each of the threads 0 ..
    threads - 1 calls this once, at the same time, and with the same arguments but for t.

    counter: int64 [1], 0; weights: the layers' qkv, output, gate_up, down, each as `_of` has them, uint8 [.., groups,
    bytes] as `product` reads them, gate and up each a whole number of groups; the gains of their two norms float32
    [layers, h]; the head's gain [h] and weights; the biases of qkv float32 [layers, channels or 0]; the gains of the
    norms of queries' and keys' heads [layers, 2, d or 0]. shape: (heads, kv heads, d, V, eps).
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
                _append(t, threads, projected, shape, weights[9][layer, 1], keys, values, at, texts, place, cos, sin)
                met += threads
                _meet(counter, met)
                if layer == len(source) - 1 and not len(asked):
                    return  # of the last layer, only keys and values outlive the pass
            elif stage != HEAD and len(x) >= SHARED:
                _round(stage, t, threads, layer, x, weights, shape, buffers, rooms)
                met += threads
                _meet(counter, met)
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
            _meet(counter, met)
    ids, best, norms = ranks
    if ids.shape[1]:
        for i in range(t, len(asked), threads):
            norms[i] = _rank(buffers[-1][i], ids[i], best[i])


def _inner(weights) -> int:
    """Channels of a feed-forward, to whole groups."""
    return weights[2][0].shape[1] // 2 * LANES


def room_for(n: int, asked: int, longest: int, weights, shape, threads: int) -> tuple[np.ndarray, ...]:
    """What the threads of a pass over n rows write down for each other, float32, and last the logits [asked, V];
    longest: tokens of the longest text, these rows among them."""
    heads, kv_heads, d, vocab, _ = shape
    inner = _inner(weights)
    shapes = (
        (n, (heads + 2 * kv_heads) * d), (n, heads * d), (n, 2 * inner), (n, inner),
        (threads, CHUNK, longest + SPAN), (asked, vocab),
    )  # fmt: skip
    return tuple(np.empty(shape, np.float32) for shape in shapes)


def rounding_room(n: int, weights, shape) -> tuple[np.ndarray, np.ndarray]:
    """Where the threads of a pass over n rows put their rounded input; hardly any for fewer than SHARED."""
    heads, d = shape[0], shape[2]
    return _room(n if n >= SHARED else 1, max(weights[4].shape[1], heads * d, _inner(weights)))
