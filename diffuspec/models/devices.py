"""What a machine's devices can do, described in plain values, so that every choice by them can be tested anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from diffuspec.errors import PairError
from diffuspec.models.memory import free_memory
from diffuspec.models.presets import ROOM
from diffuspec.provenance import DTYPES

BYTES = {"int8": 4, "float32": 4, "bfloat16": 2}  # of a weight while it is loaded; int8 is made of float32


@dataclass(frozen=True)
class Device:
    """A place where models can be computed.

    name: torch's; kind: "cpu", "cuda" or another of torch's types; free: bytes that are free there; free_together:
    those of all devices of its kind; int8, bfloat16: whether it computes in the project's 8-bit arithmetic, and in
    bfloat16 faster than in float32.
    """

    name: str
    kind: str
    free: int
    free_together: int
    int8: bool
    bfloat16: bool


def this_device(name: str | None = None, dtype: str | None = None) -> Device:
    """The device of that name, or the best one here: a GPU unless 8-bit arithmetic is asked for, which is the CPU's.

    Raises `PairError` for a device that is not there or cannot hold a model.
    """
    from diffuspec.models.int8.decoder import int8_fits

    name = name or ("cuda" if torch.cuda.is_available() and dtype != "int8" else "cpu")
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise PairError(f"Unknown device {name!r}: try cpu or cuda.") from None
    if kind == "cpu":
        free = free_memory()
        return Device(name, kind, free, free, int8_fits(), False)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise PairError("This machine has no usable CUDA device: use --device cpu.")
        index = torch.device(name).index or 0
        if index >= torch.cuda.device_count():
            raise PairError(f"There is no {name}: this machine has {torch.cuda.device_count()} CUDA devices.")
        free = [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]
        fast = torch.cuda.get_device_capability(index)[0] >= 8  # before Ampere bfloat16 is emulated
        return Device(name, kind, free[index], sum(free), False, fast)
    if kind == "mps" and torch.backends.mps.is_available():
        free = psutil.virtual_memory().available
        return Device(name, kind, free, free, False, False)
    raise PairError(f"Models cannot be computed on the device {name!r}: use cpu or cuda.")


def dtypes_on(device: Device, quantised: bool) -> tuple[str, ...]:
    """The dtypes that a device computes in, its default first; quantised: the target's weights come from a file of
    few bits, so that 8-bit arithmetic loses nothing of them."""
    if device.kind == "cpu":
        exact = ("int8", "float32") if quantised else ("float32", "int8")
        return (*(dtype for dtype in exact if dtype != "int8" or device.int8), "bfloat16")
    return ("bfloat16", "float32") if device.bfloat16 else ("float32", "bfloat16")


def choose_dtype(asked: str | None, device: Device, quantised: bool) -> str:
    """The dtype asked for, or the device's default. Raises `PairError` for one that it does not compute in."""
    able = dtypes_on(device, quantised)
    if asked is None:
        return able[0]
    if asked not in DTYPES:
        raise PairError(f"Unknown dtype {asked!r}: use {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.")
    if asked not in able:
        raise PairError(
            f"8-bit arithmetic runs on a CPU, not on {device.name}: use --dtype {able[0]}, or --device cpu."
        )
    return asked


def spread_over(needed: int | None, device: Device) -> bool:
    """Whether weights of `needed` bytes have to be spread over all devices of the kind; never where one is named by its
    number.

    Raises `PairError` where they fit nowhere, with what would.
    """
    if needed is None or needed * ROOM <= device.free:
        return False
    one = device.kind != "cuda" or ":" in device.name
    have = device.free if one else device.free_together
    if needed * ROOM <= have:
        return True
    fits = have / ROOM / BYTES["bfloat16"] / 1e9
    raise PairError(
        f"These models need about {needed * ROOM / 1e9:.1f} GB, and {device.name} has {have / 1e9:.1f} GB free, enough "
        f"for {fits:.1f} billion parameters in bfloat16. Close what else uses it, choose --dtype bfloat16 or a smaller "
        "pair, or another --device."
    )
