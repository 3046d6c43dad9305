"""How the threads of a pass wait for each other."""

from __future__ import annotations

import os

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from diffuspec.compilation import compiled
from diffuspec.models.int8.layout import OPTIONS
from diffuspec.models.int8.llvm import INT, LONG, call

PATIENCE = 20_000  # looks for the other threads before this one gives way


@intrinsic
def _count(typing, counter):
    """Add 1 to counter int64 [1], which other threads see at once."""

    def codegen(context, builder, signature, args):
        counter = context.make_array(signature.args[0])(context, builder, args[0])
        builder.atomic_rmw("add", counter.data, ir.Constant(LONG, 1), "seq_cst")
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
            call(builder, "sched_yield", INT)
        return context.get_dummy_value()

    return types.void(), codegen


@compiled(**OPTIONS)
def meet(counter, goal):
    """Wait until `goal` threads have come."""
    _count(counter)
    looks = 0
    while _counted(counter) < goal:
        looks += 1
        if looks > PATIENCE:
            _give_way()
