"""A GGUF file (version 2 or 3, little endian): its metadata, and where its tensors lie.

The `gguf` package reads this too, but wraps each of the 300,000 strings of a vocabulary in arrays of its own: 13
seconds for a file that is read here in half of one.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from diffuspec.errors import WeightsError

MAGIC = b"GGUF"
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in a GGUF file, and how.

    shape: as numpy has it, [out, in] of a matrix; kind: how its rows are stored; start: its first byte.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    start: int

    @property
    def row_bytes(self) -> int:
        width, size = GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // width * size

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])


class GGUF:
    """A GGUF file: its metadata, and where its tensors lie.

    metadata: key -> number, str, bool or list; tensors: name -> `Tensor`.

    Raises `WeightsError` where the file is none, or is cut off, or uses types that are not known.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self._read(file)
        except OSError as error:
            raise WeightsError(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def _read(self, file) -> None:
        head = file.read(8)
        if head[:4] != MAGIC:
            raise WeightsError(f"{self.path.name} is no GGUF file.")
        if head[4:] not in (b"\x02\0\0\0", b"\x03\0\0\0"):
            raise WeightsError(
                f"{self.path.name} is GGUF of another version or byte order; known are 2 and 3, little endian."
            )
        self._size = self.path.stat().st_size
        # Metadata and the list of tensors are read whole: as many bytes as they turn out to have.
        buffer, wanted = head, 2**25
        while True:
            buffer += file.read(wanted)
            try:
                self.metadata, self.tensors = _parsed(memoryview(buffer), self.path.name)
                break
            except (struct.error, IndexError):
                if len(buffer) >= self._size:
                    raise self._cut_off() from None
                wanted = len(buffer)
            except UnicodeDecodeError:
                raise WeightsError(f"{self.path.name} is damaged: a text in it is not UTF-8.") from None
        for tensor in self.tensors.values():
            if tensor.start + tensor.rows * tensor.row_bytes > self._size:
                raise self._cut_off()

    def _cut_off(self) -> WeightsError:
        return WeightsError(f"{self.path.name} is cut off: its download did not end. Fetch it again.")

    def read(self, tensor: Tensor, first: int = 0, last: int | None = None) -> np.ndarray:
        """Rows first .. last - 1 as they are stored, uint8 [rows, row bytes]."""
        last = tensor.rows if last is None else last
        size = tensor.row_bytes
        return np.fromfile(self.path, np.uint8, (last - first) * size, offset=tensor.start + first * size).reshape(
            last - first, size
        )

    def value(self, key: str, default=None):
        """Metadata under the architecture's name, such as "block_count"."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}", default)


class _Cursor:
    def __init__(self, buffer: memoryview):
        self.buffer, self.at = buffer, 8

    def number(self, code: str):
        (value,) = struct.unpack_from("<" + code, self.buffer, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        size = self.number("Q")
        end = self.at + size
        if end > len(self.buffer):
            raise IndexError
        found = str(self.buffer[self.at : end], "utf-8")
        self.at = end
        return found

    def value(self, kind: int, name: str):
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise WeightsError(f"{name} is damaged, or newer than this program: metadata of the unknown type {kind}.")
        inner, count = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            dtype = np.dtype("<" + _NUMBERS[inner])
            if self.at + count * dtype.itemsize > len(self.buffer):
                raise IndexError
            found = np.frombuffer(self.buffer, dtype, count, self.at).tolist()
            self.at += count * dtype.itemsize
            return found
        if inner == _STRING:
            if self.at + 8 * count > len(self.buffer):
                raise IndexError
            return [self.text() for _ in range(count)]
        raise WeightsError(f"{name} is damaged, or newer than this program: an array of the unknown type {inner}.")


def _parsed(buffer: memoryview, name: str) -> tuple[dict, dict[str, Tensor]]:
    cursor = _Cursor(buffer)
    tensors, keys = cursor.number("Q"), cursor.number("Q")
    metadata = {}
    for _ in range(keys):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("I"), name)
    found = []
    for _ in range(tensors):
        title, depth = cursor.text(), cursor.number("I")
        if not 1 <= depth <= 4:
            raise WeightsError(f"{name} is damaged: its tensor {title} has {depth} dimensions.")
        shape = tuple(cursor.number("Q") for _ in range(depth))[::-1]
        found.append((title, shape, cursor.number("I"), cursor.number("Q")))
    step = metadata.get("general.alignment", 32)
    if not isinstance(step, int) or step < 1:
        raise WeightsError(f"{name} is damaged: its alignment is {step}.")
    start = -(-cursor.at // step) * step
    return metadata, {t.name: t for t in (_tensor(*row, start, name) for row in found)}


def _tensor(title: str, shape: tuple[int, ...], kind: int, offset: int, start: int, name: str) -> Tensor:
    try:
        kind = GGMLQuantizationType(kind)
    except ValueError:
        raise WeightsError(f"{name}: its tensor {title} is stored in the unknown type {kind}.") from None
    if shape[-1] % GGML_QUANT_SIZES[kind][0]:
        raise WeightsError(f"{name} is damaged: {title} has rows of {shape[-1]}, which {kind.name} cannot hold.")
    return Tensor(title, shape, kind, start + offset)
