"""Small pieces of float32 arithmetic that more than one kernel needs."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from diffuspec.compilation import compiled
from diffuspec.models.int8.layout import BARE
from diffuspec.models.int8.llvm import FLOAT, call

STRETCH = 128  # logits that are passed over together where none is among the best


@intrinsic
def larger(typing, a, b):
    """The larger of two float32 that are numbers; unlike `max` it lets a loop be vectorised."""

    def codegen(context, builder, signature, args):
        return call(builder, "llvm.maxnum.f32", FLOAT, *args)

    return types.float32(types.float32, types.float32), codegen


@intrinsic
def _fma(typing, a, b, c):
    """a b + c in float32, rounded once."""

    def codegen(context, builder, signature, args):
        return call(builder, "llvm.fma.f32", FLOAT, *args)

    return types.float32(types.float32, types.float32, types.float32), codegen


@compiled(**BARE)
def exp(x):
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


@compiled(**BARE)
def highest_of(x):
    highest = x[0]
    for i in range(len(x)):
        highest = larger(highest, x[i])
    return highest


@compiled(**BARE)
def copy_into(source, target):
    for i in range(len(source)):
        target[i] = source[i]


@compiled(**BARE)
def share(total, part, parts, grain):
    """Where the `part`-th of `parts` threads starts in `total` items handed out by `grain`."""
    return min(total, (total // grain * part // parts) * grain) if part < parts else total
