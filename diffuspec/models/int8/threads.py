"""How the threads of a pass wait for each other: they look for a moment, then sleep until the last one wakes them.

Beside other programs a thread that only looks would use up its share of the processor waiting for one that was sent to
sleep. A counter is int64 [2]: how many threads have come, and how many sleep.
"""

from __future__ import annotations

import platform
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from diffuspec.compilation import compiled
from diffuspec.models.int8.layout import OPTIONS
from diffuspec.models.int8.llvm import INT, LONG, call

PATIENCE = 20_000  # looks for the other threads, some 20 microseconds, before this one goes to sleep
RELEASED = 1 << 40  # more threads than ever come
_COME, _ASLEEP = 0, 1

# futex(2) by its number: glibc has no name for it. Elsewhere threads give way again and again.
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(platform.machine()) if sys.platform == "linux" else None
_WAIT, _WAKE = 128, 129  # within this process


def new_counter() -> np.ndarray:
    """A counter that no thread has come to."""
    return np.zeros(2, np.int64)


def _place(context, builder, counter_type, counter, at):
    return builder.gep(context.make_array(counter_type)(context, builder, counter).data, [at])


@intrinsic
def _add(typing, counter, at, more):
    """Add to counter[at], which other threads see at once; what it was before."""

    def codegen(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", place, args[2], "seq_cst")

    return types.int64(counter, types.intp, types.int64), codegen


@intrinsic
def _seen(typing, counter, at):
    """What counter[at] is now, and all that was written before."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_place(context, builder, signature.args[0], args[0], args[1]), "seq_cst", 8)

    return types.int64(counter, types.intp), codegen


def _futex(builder, place, what, value):
    kind = ir.FunctionType(LONG, [LONG], var_arg=True)
    function = cgutils.get_or_insert_function(builder.module, kind, "syscall")
    none = ir.Constant(place.type, None)
    builder.call(function, [ir.Constant(LONG, _FUTEX), place, ir.Constant(INT, what), value, none])


@intrinsic
def _sleep(typing, counter, known):
    """Sleep until another thread wakes this one, unless the count is no longer `known`; it may wake for no reason."""

    def codegen(context, builder, signature, args):
        if _FUTEX is not None:
            place = _place(context, builder, signature.args[0], args[0], ir.Constant(LONG, _COME))
            _futex(builder, place, _WAIT, builder.trunc(args[1], INT))
        elif sys.platform != "win32":
            call(builder, "sched_yield", INT)
        return context.get_dummy_value()

    return types.void(counter, types.int64), codegen


@intrinsic
def _wake(typing, counter):
    """Wake all threads that sleep at this counter."""

    def codegen(context, builder, signature, args):
        if _FUTEX is not None:
            place = _place(context, builder, signature.args[0], args[0], ir.Constant(LONG, _COME))
            _futex(builder, place, _WAKE, ir.Constant(INT, 2**31 - 1))
        return context.get_dummy_value()

    return types.void(counter), codegen


@compiled(**OPTIONS)
def meet(counter, goal):
    """Wait until `goal` threads have come; False where they were released instead."""
    come = _add(counter, _COME, 1) + 1
    if come >= goal:
        if _seen(counter, _ASLEEP):
            _wake(counter)
        return come < RELEASED
    looks = 0
    while come < goal and looks < PATIENCE:
        looks += 1
        come = _seen(counter, _COME)
    if come < goal:
        _add(counter, _ASLEEP, 1)  # before the last look: whoever comes after it sees that one sleeps
        come = _seen(counter, _COME)
        while come < goal:
            _sleep(counter, come)
            come = _seen(counter, _COME)
        _add(counter, _ASLEEP, -1)
    return come < RELEASED


@compiled(**OPTIONS)
def release(counter):
    """Let all threads go that wait here or come later: one of them cannot come any more."""
    _add(counter, _COME, RELEASED + 1)
    _wake(counter)
