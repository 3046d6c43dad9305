"""GGUF's ways to store a row of weights, and how they come into the compiled layout (`int8.layout`).

All of them are codes with a scale and mostly a minimum for 16 or 32 neighbours, w = scale code + least:

    Q4_0  scale (code - 8)       32, 4 bits     Q4_1  scale code + least      32, 4 bits
    Q8_0  scale code             32, 8 bits     Q4_K  scale code - least      32, 4 bits, numbers of 6 bits times one of
    Q6_K  scale (code - 32)      16, 6 bits                                   256 neighbours
    Q5_K  scale code - least     32, 5 bits     F16, BF16, F32                the numbers themselves

Those of 4 bits stay in 4, with each scale and minimum rounded to float16, and Q8_0 stays as it is; the others are
rounded to 8 bits for 32 neighbours, a step of which is a fourth of Q6_K's own.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from diffuspec.compilation import compiled
from diffuspec.cores import usable_cores
from diffuspec.models.int8.layout import BLOCK, LANES, record_bytes

HALF_KINDS = (Kind.Q4_0, Kind.Q4_1, Kind.Q4_K)  # those that fit into 4 bits
KINDS = (*HALF_KINDS, Kind.Q8_0, Kind.Q5_K, Kind.Q6_K, Kind.F16, Kind.BF16, Kind.F32)
_AT_ONCE = 2**21  # numbers that are taken apart together

_options = dict(nogil=True, error_model="numpy")


@dataclass(frozen=True)
class Blocks:
    """codes uint8 [n, K]; scale, least float32 [n, K / size]: w = scale code + least of `size` neighbours."""

    codes: np.ndarray
    scale: np.ndarray
    least: np.ndarray

    def floats(self) -> np.ndarray:
        """float32 [n, K]."""
        size = self.codes.shape[1] // self.scale.shape[1]
        out = np.empty(self.codes.shape, np.float32)
        _multiply(self.codes, self.scale, self.least, size, out)
        return out


def blocks(kind: Kind, rows: np.ndarray) -> Blocks:
    """Rows uint8 [n, row bytes] of a kind that has codes."""
    size, stored = GGML_QUANT_SIZES[kind]
    n = len(rows)
    parts = rows.reshape(-1, stored)
    codes = np.empty((len(parts), size), np.uint8)
    if kind in (Kind.Q4_0, Kind.Q4_1):
        first = stored - size // 2
        codes[:, : size // 2], codes[:, size // 2 :] = parts[:, first:] & 15, parts[:, first:] >> 4
        scale = _half(parts, 0)
        least = scale * np.float32(-8) if kind == Kind.Q4_0 else _half(parts, 2)
    elif kind == Kind.Q8_0:
        np.add(parts[:, 2:], 128, out=codes)
        scale = _half(parts, 0)
        least = scale * np.float32(-128)
    elif kind in (Kind.Q4_K, Kind.Q5_K):
        scale, least = np.empty((len(parts), 8), np.float32), np.empty((len(parts), 8), np.float32)
        _open_k(parts, _half(parts, 0), _half(parts, 2), kind == Kind.Q5_K, codes, scale, least)
    elif kind == Kind.Q6_K:
        scale = np.empty((len(parts), 16), np.float32)
        _open_6(parts, _half(parts, 208), codes, scale)
        least = scale * np.float32(-32)
    else:
        raise ValueError(kind)
    return Blocks(codes.reshape(n, -1), scale.reshape(n, -1), least.reshape(n, -1))


def _half(parts: np.ndarray, at: int) -> np.ndarray:
    """The float16 at this byte of each part, float32 [n]."""
    return np.ascontiguousarray(parts[:, at : at + 2]).view(np.float16)[:, 0].astype(np.float32)


def floats(kind: Kind, rows: np.ndarray) -> np.ndarray:
    """Rows uint8 [n, row bytes] as the numbers they stand for, float32 [n, K]."""
    if kind in (Kind.F16, Kind.F32):
        return rows.view(np.float16 if kind == Kind.F16 else np.float32).astype(np.float32)
    return blocks(kind, rows).floats() if kind in KINDS and kind != Kind.BF16 else dequantize(rows, kind)


def pack(read, kinds: list[Kind], order: list[tuple[int, int]], width: int, bits: int) -> np.ndarray:
    """Matrices below each other as `int8.product` reads them, uint8 [groups, bytes].

    read(part, first, last): rows of a part, as stored; kinds, order: of each part, and its first channel in the whole
    and how many it has, all but the last ones of a part whole groups of LANES; what lies between is 0.
    """
    count = -(-width // BLOCK)
    groups = max(-(-(first + n) // LANES) for first, n in order)
    packed = np.zeros((groups, count * record_bytes(bits)[1]), np.uint8)
    step = max(LANES, _AT_ONCE // width // LANES * LANES)
    work = [(p, at, min(at + step, n)) for p, (_, n) in enumerate(order) for at in range(0, n, step)]

    def fill(task) -> None:
        part, first, last = task
        _fill(kinds[part], read(part, first, last), packed, order[part][0] + first, width, bits)

    with ThreadPoolExecutor(min(4, usable_cores())) as threads:
        list(threads.map(fill, work))
    return packed


def _fill(kind: Kind, rows: np.ndarray, packed: np.ndarray, channel: int, width: int, bits: int) -> None:
    if bits == 4 or kind == Kind.Q8_0:
        found = blocks(kind, rows)
        codes, scale, least = found.codes, found.scale, found.least
    else:
        numbers = floats(kind, rows)
        if width % BLOCK:
            numbers = np.pad(numbers, ((0, 0), (0, -width % BLOCK)))
        codes, scale, least = (
            np.empty(numbers.shape, np.uint8),
            np.empty((len(numbers), numbers.shape[1] // BLOCK), np.float32),
            None,
        )
        _steps(numbers, scale)
        scale = scale.astype(np.float16).astype(np.float32)
        _round(numbers, scale, codes)
    halves = scale.astype(np.float16).view(np.uint16)
    if bits == 4:
        _put_4(codes, halves, least.astype(np.float16).view(np.uint16), packed, channel, LANES)
    else:
        _put_8(codes, halves, packed, channel, LANES)


@compiled(**_options)
def _multiply(codes, scale, least, size, out):
    for r in range(len(codes)):
        for b in range(scale.shape[1]):
            for i in range(b * size, (b + 1) * size):
                out[r, i] = scale[r, b] * np.float32(codes[r, i]) + least[r, b]


@compiled(**_options)
def _open_k(parts, d, low, is_5, codes, scale, least):
    """Q4_K and Q5_K: two float16, 8 scales and 8 minima of 6 bits in 12 bytes, in Q5_K the fifth bits, the codes."""
    first = 48 if is_5 else 16
    for p in range(len(parts)):
        part = parts[p]
        for j in range(8):
            if j < 4:
                s, m = part[4 + j] & 63, part[8 + j] & 63
            else:
                s = (part[8 + j] & 15) | ((part[j] >> 6) << 4)
                m = (part[8 + j] >> 4) | ((part[4 + j] >> 6) << 4)
            scale[p, j], least[p, j] = d[p] * np.float32(s), -low[p] * np.float32(m)
        for j in range(4):
            for i in range(32):
                byte = part[first + 32 * j + i]
                codes[p, 64 * j + i], codes[p, 64 * j + 32 + i] = byte & 15, byte >> 4
        if is_5:
            for j in range(8):
                for i in range(32):
                    codes[p, 32 * j + i] += ((part[16 + i] >> j) & 1) << 4


@compiled(**_options)
def _open_6(parts, d, codes, scale):
    """Q6_K: low 4 bits of 256 codes, high 2, 16 scales of 8 bits, a float16."""
    for p in range(len(parts)):
        part = parts[p]
        for j in range(16):
            scale[p, j] = d[p] * np.float32(np.int8(part[192 + j]))
        for half in range(2):
            low, high, at = 64 * half, 128 + 32 * half, 128 * half
            for i in range(32):
                bits = part[high + i]
                codes[p, at + i] = (part[low + i] & 15) | ((bits & 3) << 4)
                codes[p, at + 32 + i] = (part[low + 32 + i] & 15) | (((bits >> 2) & 3) << 4)
                codes[p, at + 64 + i] = (part[low + i] >> 4) | (((bits >> 4) & 3) << 4)
                codes[p, at + 96 + i] = (part[low + 32 + i] >> 4) | ((bits >> 6) << 4)


@compiled(**_options)
def _steps(numbers, scale):
    for r in range(len(numbers)):
        for b in range(scale.shape[1]):
            largest = np.float32(0.0)
            for i in range(b * 32, b * 32 + 32):
                largest = max(largest, abs(numbers[r, i]))
            scale[r, b] = largest / np.float32(127.0)


@compiled(**_options)
def _round(numbers, scale, codes):
    for r in range(len(numbers)):
        for b in range(scale.shape[1]):
            factor = np.float32(1.0) / scale[r, b] if scale[r, b] > 0 else np.float32(0.0)
            for i in range(b * 32, b * 32 + 32):
                code = np.floor(numbers[r, i] * factor + np.float32(0.5))
                codes[r, i] = np.uint8(np.int32(min(np.float32(127.0), max(np.float32(-128.0), code))) + 128)


@compiled(**_options)
def _put_4(codes, scale, least, packed, channel, lanes):
    """Codes uint8 [n, K] and the bits of float16 [n, K / 32] into the records of the channels from `channel` on."""
    blocks, size = scale.shape[1], packed.shape[1] // scale.shape[1]
    for r in range(len(codes)):
        group, lane = (channel + r) // lanes, (channel + r) % lanes
        row, record = codes[r], packed[group]
        for b in range(blocks):
            at = b * size
            for v in range(4):
                to, first = at + v * 4 * lanes + lane * 4, b * 32 + 8 * v
                for j in range(4):
                    record[to + j] = row[first + j] | (row[first + 4 + j] << 4)
            at += 16 * lanes + 2 * lane
            record[at], record[at + 1] = scale[r, b] & 255, scale[r, b] >> 8
            at += 2 * lanes
            record[at], record[at + 1] = least[r, b] & 255, least[r, b] >> 8


@compiled(**_options)
def _put_8(codes, scale, packed, channel, lanes):
    blocks, size = scale.shape[1], packed.shape[1] // scale.shape[1]
    for r in range(len(codes)):
        group, lane = (channel + r) // lanes, (channel + r) % lanes
        row, record = codes[r], packed[group]
        for b in range(blocks):
            at = b * size
            for v in range(8):
                to, first = at + v * 4 * lanes + lane * 4, b * 32 + 4 * v
                for j in range(4):
                    record[to + j] = row[first + j]
            at += 32 * lanes + 2 * lane
            record[at], record[at + 1] = scale[r, b] & 255, scale[r, b] >> 8
