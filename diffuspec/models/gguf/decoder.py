"""The passes of a GGUF's Llama, Qwen2 or Qwen3 in the compiled stack, without a float32 model on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind

from diffuspec.errors import WeightsError
from diffuspec.models.gguf.blocks import HALF_KINDS, KINDS, floats, pack
from diffuspec.models.gguf.file import GGUF, Tensor
from diffuspec.models.int8.decoder import Int8Decoder, Int8Stack
from diffuspec.models.int8.layout import LANES

Progress = Callable[[float | None, str], None]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
LONGEST = 131_072  # tokens of context at most: the angles of each position are kept
PRODUCTS = {
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "output": ("attn_output",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}


@dataclass(frozen=True)
class Shape:
    """What decoding needs to know of a model, by the names of `transformers`' configs."""

    architecture: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    parameters: int = 0


def shape_of(file: GGUF) -> Shape:
    """Raises `WeightsError` for a model that the compiled layers would not compute as it is meant."""
    name = file.path.name
    architecture = str(file.metadata.get("general.architecture"))
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise WeightsError(f"{name} is a model of the architecture {architecture}; known are {known}.")
    if file.value("expert_count", 0):
        raise WeightsError(f"{name} is a mixture of experts, which the compiled layers do not know.")
    try:
        heads, hidden = int(file.value("attention.head_count")), int(file.value("embedding_length"))
        found = Shape(
            architecture,
            int(file.value("block_count")),
            hidden,
            int(file.value("feed_forward_length")),
            heads,
            int(file.value("attention.head_count_kv", heads)),
            int(file.value("attention.key_length", hidden // heads)),
            file.tensors["token_embd.weight"].rows,
            min(int(file.value("context_length")), LONGEST),
            float(file.value("attention.layer_norm_rms_epsilon")),
            float(file.value("rope.freq_base", 10000.0)),
            sum(math.prod(tensor.shape) for tensor in file.tensors.values()),
        )
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise WeightsError(f"{name} does not say what its layers look like ({error}).") from error
    counts = [value for value in vars(found).values() if isinstance(value, int)]
    if min(counts) < 1 or heads % found.num_key_value_heads or found.head_dim % 2:
        raise WeightsError(f"{name} does not say what its layers look like: its sizes do not fit together.")
    if found.num_hidden_layers > len(file.tensors):
        raise WeightsError(
            f"{name} lacks tensors: it names {found.num_hidden_layers} layers and has {len(file.tensors)}."
        )
    if file.value("attention.value_length", found.head_dim) != found.head_dim:
        raise WeightsError(f"{name} has values of another size than its keys, which the compiled layers do not know.")
    if file.value("rope.dimension_count", found.head_dim) != found.head_dim:
        raise WeightsError(f"{name} rotates a part of each head only, which the compiled layers do not know.")
    scaling = file.value("rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise WeightsError(f"{name} stretches its context by {scaling}, which the compiled layers do not know.")
    return found


class _Embedding:
    """Rows of an embedding, taken apart when they are asked for."""

    def __init__(self, kind: Kind, rows: np.ndarray):
        self._kind, self._rows = kind, rows

    def __getitem__(self, ids: Sequence[int]) -> np.ndarray:
        return floats(self._kind, self._rows[ids])


def decoder(file: GGUF, progress: Progress = lambda fraction, message: None) -> Int8Decoder:
    """Raises `WeightsError` for models, layouts and types that are not known."""
    return _Builder(file, progress).decoder()


class _Builder:
    def __init__(self, file: GGUF, progress: Progress):
        self.file, self.progress, self.shape = file, progress, shape_of(file)

    def decoder(self) -> Int8Decoder:
        shape, file = self.shape, self.file
        self._known()
        layers = range(shape.num_hidden_layers)
        made = []
        for at, stage in enumerate(PRODUCTS):
            self.progress(at / 5, f"Reading the weights of {file.path.name}")
            made.append(self._product(stage))
        norms = (np.stack([self._numbers(f"blk.{i}.{n}.weight") for i in layers]) for n in ("attn_norm", "ffn_norm"))
        self.progress(4 / 5, f"Reading the vocabulary of {file.path.name}")
        embedding = file.tensors["token_embd.weight"]
        head = self._packed(["output.weight" if "output.weight" in file.tensors else "token_embd.weight"])
        weights = (*made, *norms, self._numbers("output_norm.weight"), head, self._biases(), self._head_norms())
        numbers = (
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
            shape.vocab_size,
            shape.rms_norm_eps,
        )
        stack = Int8Stack.packed(weights, numbers, self._inverse(), shape.max_position_embeddings)
        return Int8Decoder.packed(stack, _Embedding(embedding.kind, file.read(embedding)), shape.num_hidden_layers)

    def _known(self) -> None:
        """Every tensor that is needed is there, of the right size and of a type that is known; no other is."""
        shape, name = self.shape, self.file.path.name
        heads, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        h, inner = shape.hidden_size, shape.intermediate_size
        sizes = {
            "attn_q": (heads, h),
            "attn_k": (keys, h),
            "attn_v": (keys, h),
            "attn_output": (h, heads),
            "ffn_gate": (inner, h),
            "ffn_up": (inner, h),
            "ffn_down": (h, inner),
            "attn_norm": (h,),
            "ffn_norm": (h,),
        }
        wanted = {f"blk.{i}.{k}.weight": size for i in range(shape.num_hidden_layers) for k, size in sizes.items()}
        wanted |= {"token_embd.weight": (shape.vocab_size, h), "output_norm.weight": (h,)}
        extra = {"output.weight": (shape.vocab_size, h), "rope_freqs.weight": (shape.head_dim // 2,)}
        for i in range(shape.num_hidden_layers):
            extra |= {f"blk.{i}.{k}.bias": size[:1] for k, size in sizes.items() if k in PRODUCTS["qkv"]}
            extra |= {f"blk.{i}.attn_{k}_norm.weight": (shape.head_dim,) for k in "qk"}
        for title, tensor in self.file.tensors.items():
            size = wanted.get(title) or extra.get(title)
            if size is None:
                raise WeightsError(f"{name} has a tensor {title}, which a {shape.architecture} known here has not.")
            if tensor.shape != size:
                raise WeightsError(f"{name}: {title} is {list(tensor.shape)}, where {list(size)} is expected.")
            if tensor.kind not in KINDS:
                kinds = ", ".join(kind.name for kind in KINDS)
                raise WeightsError(f"{name}: {title} is stored as {tensor.kind.name}; known are {kinds}.")
        missing = next((title for title in wanted if title not in self.file.tensors), None)
        if missing:
            raise WeightsError(f"{name} lacks the tensor {missing}.")

    def _product(self, stage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A product of all layers as `layers.run` takes it: a layer in 4 bits where all its parts are."""
        names = [[f"blk.{i}.{part}.weight" for part in PRODUCTS[stage]] for i in range(self.shape.num_hidden_layers)]
        is_half = [all(self.file.tensors[name].kind in HALF_KINDS for name in layer) for layer in names]
        places, kept = np.zeros(len(names), np.int64), {True: 0, False: 0}
        for i, half in enumerate(is_half):
            places[i] = kept[half] if half else ~kept[half]
            kept[half] += 1
        found: dict[bool, np.ndarray | None] = {True: None, False: None}
        for layer, half, place in zip(names, is_half, places, strict=True):
            packed = self._packed(layer)
            if found[half] is None:
                found[half] = np.empty((kept[half], *packed.shape), np.uint8)
            found[half][place if half else ~place] = packed
        groups = next(array for array in found.values() if array is not None).shape[1]
        for half, array in found.items():
            if array is None:
                found[half] = np.zeros((0, groups, 0), np.uint8)
        return found[True], found[False], places

    def _packed(self, names: list[str]) -> np.ndarray:
        tensors = [self.file.tensors[name] for name in names]
        order, first = [], 0
        for tensor in tensors:
            order.append((first, tensor.rows))
            first += tensor.rows
            if "ffn_gate" in tensor.name:
                first += -first % LANES
        bits = 4 if all(tensor.kind in HALF_KINDS for tensor in tensors) else 8
        rotated = {i: self._half_turned(t) for i, t in enumerate(tensors) if self._interleaved(t.name)}

        def read(part: int, first: int, last: int) -> np.ndarray:
            if part in rotated:
                return rotated[part][first:last]
            return self.file.read(tensors[part], first, last)

        return pack(read, [tensor.kind for tensor in tensors], order, tensors[0].shape[1], bits)

    def _interleaved(self, name: str) -> bool:
        """Whether a head's channels stand as llama.cpp turns those of a Llama: neighbours in pairs."""
        return self.shape.architecture == "llama" and name.split(".")[-2] in ("attn_q", "attn_k")

    def _half_turned(self, tensor: Tensor) -> np.ndarray:
        """The rows in the order in which the first half of a head is turned with the second."""
        rows = self.file.read(tensor)
        return rows.reshape(-1, self.shape.head_dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)

    def _numbers(self, name: str) -> np.ndarray:
        tensor = self.file.tensors[name]
        return floats(tensor.kind, self.file.read(tensor)).reshape(-1)

    def _biases(self) -> np.ndarray:
        shape, found = self.shape, []
        if not any(name.endswith("attn_q.bias") for name in self.file.tensors):
            return np.zeros((shape.num_hidden_layers, 0), np.float32)
        for i in range(shape.num_hidden_layers):
            parts = []
            for part in PRODUCTS["qkv"]:
                name = f"blk.{i}.{part}.bias"
                if name not in self.file.tensors:
                    raise WeightsError(f"{self.file.path.name} lacks the tensor {name}.")
                numbers = self._numbers(name)
                if self._interleaved(name):
                    numbers = numbers.reshape(-1, shape.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
                parts.append(numbers)
            found.append(np.concatenate(parts))
        return np.stack(found)

    def _head_norms(self) -> np.ndarray:
        layers = range(self.shape.num_hidden_layers)
        names = [[f"blk.{i}.attn_{k}_norm.weight" for k in "qk"] for i in layers]
        there = {name in self.file.tensors for layer in names for name in layer}
        if there != {True}:
            if self.shape.architecture == "qwen3" or True in there:
                raise WeightsError(f"{self.file.path.name} lacks norms of its heads.")
            return np.zeros((len(names), 2, 0), np.float32)
        return np.stack([[self._numbers(name) for name in layer] for layer in names])

    def _inverse(self) -> torch.Tensor:
        """The rotation's angles a position, float32 [d / 2]."""
        d = self.shape.head_dim
        inverse = self.shape.rope_theta ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
        if self.file.value("rope.scaling.type") == "linear":
            inverse = inverse / float(self.file.value("rope.scaling.factor", 1.0))
        if "rope_freqs.weight" in self.file.tensors:  # Llama 3.1's stretching of the context
            inverse = inverse / torch.from_numpy(self._numbers("rope_freqs.weight"))
        return inverse
