"""Recorded values as JSON and back, and the one way in which a file is written.

A recorded class is a dataclass of plain values. Its arrays declare dtype and number of dimensions at their field,

    ids: Annotated[np.ndarray, np.int32, 2]

and `decode` rebuilds the class from parsed JSON by its annotations, checking types as it goes: files of traces and
results travel, so what is in one is hostile until it has been decoded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import secrets
import stat
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson

from diffuspec.settings import Settings

LARGEST = 2**53  # the integers that JSON and JavaScript keep exact


def encode(value: Any) -> bytes:
    """One line of JSON, line feed included. Arrays keep their exact float32 values; NaN becomes null."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(value, option=options, default=tuple)  # of a sequence that is no tuple


def decode(kind: Any, value: Any, where: str) -> Any:
    """Rebuild a value of the annotated type `kind` from parsed JSON; `where` names the value in messages.

    A field that an older program did not write takes its default, where it has one; one that this program does not
    know is left out. Raises `ValueError`, without a full stop, that says what does not fit.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _array(value, args[1], args[2], where)
    if kind is Settings:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        return Settings.from_mapping(value)
    if dataclasses.is_dataclass(kind):
        return _instance(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} is not a list")
        return tuple(decode(args[0], entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")
        return {
            (int(key) if args[0] is int else key): decode(args[1], entry, f"{where}[{key}]")
            for key, entry in value.items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} is not of type {kind.__name__}")
    if kind in (int, float) and not abs(value) <= LARGEST:
        raise ValueError(f"{where} is not a sensible number")
    return value


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, Any, Any], ...]:
    """Of a recorded class: each field's name, annotated type and default (`dataclasses.MISSING`)."""
    hints = typing.get_type_hints(kind, include_extras=True)
    made = []
    for field in dataclasses.fields(kind):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        made.append((field.name, hints[field.name], default))
    return tuple(made)


def _instance(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    made = {}
    for name, hint, default in _fields(kind):
        if name not in value:
            if default is dataclasses.MISSING:
                raise ValueError(f"{where}.{name} is missing")
            made[name] = default
        elif value[name] is None and default is None:
            made[name] = None
        else:
            made[name] = decode(hint, value[name], f"{where}.{name}")
    return kind(**made)


def _array(value: Any, dtype: type, ndim: int, where: str) -> np.ndarray:
    try:
        raw = np.array(value if value else np.zeros((0,) * ndim))
        if raw.dtype == object:
            raw = np.array(value, dtype=np.float64)  # null stands for NaN
        if raw.size and (raw.dtype.kind not in "biuf" or (raw.dtype.kind == "b") != (dtype is np.bool_)):
            raise ValueError
        with np.errstate(invalid="ignore", over="ignore"):
            array = raw.astype(dtype)
        if raw.size and np.issubdtype(dtype, np.integer) and not (raw == array).all():
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{where} holds something other than numbers") from None
    if array.ndim != ndim:
        raise ValueError(f"{where} has {array.ndim} dimensions instead of {ndim}")
    return array


def is_file_or_new(path: Path) -> bool:
    """Whether `path` is a regular file or nothing yet, so that a whole file may take its place; not so for a device,
    a pipe or a folder."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def write(path: str | Path, data: bytes) -> None:
    """Write a file as a whole or not at all: whoever reads it, even after a crash, finds the old bytes or the new ones.

    A link is followed and kept, and so are the permissions of a file that is replaced. A device or a pipe gets the
    bytes as it is. Raises `OSError`.
    """
    path = Path(os.path.realpath(path))
    if not is_file_or_new(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f"{path.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            partial.chmod(stat.S_IMODE(path.stat().st_mode))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        # A file that may be written while its folder may not, or that is a mount of its own (containers).
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY) or not path.exists():
            raise
        path.write_bytes(data)


def lines(data: bytes) -> Iterator[bytes]:
    """Lines that are not blank, one by one."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        line = data[start:end]
        if line.strip():
            yield line
        start = end + 1
