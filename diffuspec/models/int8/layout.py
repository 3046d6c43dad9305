"""A Llama pass over a few rows in 4- and 8-bit weights, compiled by numba: no row's bits depend on the other rows.

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

import llvmlite.binding
import numba


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
SPAN = 16  # columns of a panel of a float product
SHARED = 24  # rows from which on threads round a stage's input together, for which they have to meet once more
SUMS = 16  # chains in which squares are added up
OPTIONS = dict(nogil=True, error_model="numpy")
# For what allocates nothing: without numba's counting of references, of which every slice of an array costs two, each
# an atomic addition; of a pass over one row or eight they were a twentieth.
BARE = dict(OPTIONS, _nrt=False)
