"""Shorthands for writing LLVM code by hand, where numba would not choose the instructions."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

BYTE, SHORT, INT, LONG = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT, HALF = ir.FloatType(), ir.HalfType()


def vector(kind, count, value=None):
    """A vector type, or a constant of it."""
    vector = ir.VectorType(kind, count)
    return vector if value is None else ir.Constant(vector, [ir.Constant(kind, value)] * count)


def call(builder, name, result, *arguments):
    kinds = [argument.type for argument in arguments]
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name)
    return builder.call(function, arguments)


def load(builder, pointer, kind, align=1):
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def beyond(builder, pointer, *factors):
    """pointer + the product of the factors, numbers or values."""
    place = ir.Constant(LONG, 1)
    for factor in factors:
        place = builder.mul(place, ir.Constant(LONG, factor) if isinstance(factor, int) else factor)
    return builder.gep(pointer, [place])


def add_pairs(builder, products):
    """Sums of neighbours: half as many lanes."""
    count = products.type.count // 2
    none = ir.Constant(products.type, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(products, none, ir.Constant(vector(INT, count), list(range(first, 2 * count, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd)


def repeated(builder, value, count):
    none = ir.Constant(vector(value.type, count), ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(none, value, ir.Constant(INT, 0)), none, ir.Constant(vector(INT, count), None)
    )


def ask_for(builder, pointer):
    """Have memory read ahead of need."""
    flags = (ir.Constant(INT, flag) for flag in (0, 3, 1))  # read, keep, data
    call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *flags)
