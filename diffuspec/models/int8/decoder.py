"""A Llama in 4- and 8-bit weights, whose rows do not care what else shares the pass; `layers` computes a pass.

A pass is bound by reading the weights: the fewer bits, the sooner. They are never rounded to 4 bits here, but a model
whose weights come from a 4-bit file holds at most 16 evenly spaced values in each block of 32, and is then stored in 4
bits without loss; other weights are rounded to 8. Activations keep 8 bits with one scale for 32 of them, so that the
few channels which tower over the others cost only their neighbours levels.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import numba
import numpy as np
import torch

from diffuspec.cores import usable_cores
from diffuspec.models.int8.attention import PAST, ROWS, move
from diffuspec.models.int8.layers import room_for, rounding_room, run
from diffuspec.models.int8.layout import BLOCK, LANES, SPAN
from diffuspec.models.int8.product import product
from diffuspec.models.int8.ranks import no_ranks
from diffuspec.models.int8.rounding import rounded
from diffuspec.models.int8.team import Team
from diffuspec.models.int8.threads import new_counter, release
from diffuspec.models.visibility import visibility

ROOM = 256  # the caches grow by this many tokens at least
PROMPT_ROWS = 64  # rows of a pass over the prompt

# Of each row: ids int32 and logits float32 [m, few] of its likeliest, best first, and logsumexp float32 [m].
Ranks = tuple[np.ndarray, np.ndarray, np.ndarray]

_one_pass = threading.Lock()  # two at a time would only share the cores, and wait for each other's helpers


class _Leader:
    """A thread that carries out what the main thread asks for, one thing after the other.

    An interrupt reaches the main thread alone. Between two shares of a pass it would leave the first waiting for the
    second for ever; inside an executor or any other lock of `threading` it can end as a RuntimeError. A SimpleQueue
    bears it at any moment.
    """

    def __init__(self):
        self._asked: SimpleQueue = SimpleQueue()
        threading.Thread(target=self._lead, name="int8-leader", daemon=True).start()

    def _lead(self) -> None:
        while True:
            work, arguments, answer = self._asked.get()
            try:
                answer.put((work(*arguments), None))
            except BaseException as error:  # noqa: BLE001  it is raised where the work was asked for
                answer.put((None, error))
            del work, arguments, answer

    def __call__(self, work: Callable, *arguments):
        answer: SimpleQueue = SimpleQueue()
        self._asked.put((work, arguments, answer))
        result, error = answer.get()
        if error is not None:
            raise error
        return result


_leader = functools.cache(_Leader)


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """Threads that take a share of a pass each, beside the one that asks for it.

    OpenMP would have done, but for its habit of sending all threads to sleep at every wait, 150 times a pass, once a
    second one of the program's threads has used it: in the app a pass then takes three times as long.
    """
    return ThreadPoolExecutor(max(1, _most_threads() - 1), "int8-pass")


def _most_threads() -> int:
    """Threads of a pass at most; NUMBA_NUM_THREADS may ask for fewer or more than cores are usable."""
    return numba.config.NUMBA_NUM_THREADS if "NUMBA_NUM_THREADS" in os.environ else usable_cores()


def _after_fork() -> None:
    """A forked child has none of the threads, and maybe a lock that nobody will ever open."""
    global _one_pass
    _one_pass = threading.Lock()
    _leader.cache_clear()
    _helpers.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def int8_fits() -> bool:
    """Whether this machine compiles the kernels and computes 8-bit products as they should be."""
    try:
        x, weight = np.ones((3, 32), np.float32), torch.arange(-128.0, 128.0).reshape(8, 32)
        a, steps = rounded(x)
        y = np.zeros((3, 8), np.float32)
        product(quantise([weight])[0], a, steps, 3, 0, 8, False, y)
        return bool(np.allclose(y, weight.sum(1), rtol=0.01, atol=0.5))
    except (numba.NumbaError, RuntimeError, OSError):
        return False


def quantise(matrices: Sequence[torch.Tensor], bits: int | None = None, lanes: int = LANES) -> np.ndarray:
    """Matrices [out, in] of one shape as `product` reads them, uint8 [matrices, groups, bytes].

    bits: 4 or 8; by default 4 where that loses nothing in any of them, else 8. lanes: channels of a record.
    """
    blocks = [_blocks(matrix, lanes) for matrix in matrices]
    if bits != 8:
        halves = [_in_4_bits(part) for part in blocks]
        if bits == 4 or all(_are(*half, part) for half, part in zip(halves, blocks, strict=True)):
            return np.stack([_records(*half) for half in halves])
    return np.stack([_records(*_in_8_bits(part)) for part in blocks])


def _blocks(matrix: torch.Tensor, lanes: int) -> torch.Tensor:
    """float32 [groups, lanes, blocks, BLOCK], zeros where channels or inputs end before."""
    matrix = matrix.detach().float().cpu()
    out, width = matrix.shape
    matrix = torch.nn.functional.pad(matrix, (0, -width % BLOCK, 0, -out % lanes))
    return matrix.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, lanes))


def _in_4_bits(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes 0 .. 15, scales and minima float16 [.., 1]."""
    least, most = blocks.aminmax(dim=-1, keepdim=True)
    scale, least = ((most - least) / 15).half(), least.half()
    codes = ((blocks - least) / torch.where(scale == 0, 1, scale)).round_().clamp_(0, 15)
    return codes.to(torch.uint8), scale, least


def _are(codes: torch.Tensor, scale: torch.Tensor, least: torch.Tensor, blocks: torch.Tensor) -> bool:
    """Whether nothing was lost."""
    return torch.equal(codes * scale.float() + least.float(), blocks)


def _in_8_bits(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes 0 .. 255 around 128, and scales float16 [.., 1]."""
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).half()
    codes = (blocks / torch.where(scale == 0, 1, scale)).round_().clamp_(-128, 127) + 128
    return codes.to(torch.uint8), scale


def _records(codes: torch.Tensor, *numbers: torch.Tensor) -> np.ndarray:
    """uint8 [groups, bytes] of codes [groups, lanes, blocks, BLOCK] and of float16 numbers of each block."""
    fours = codes.unflatten(-1, (-1, 4)).permute(0, 2, 3, 1, 4)  # [groups, blocks, fours, lanes, 4]
    if len(numbers) == 2:
        fours = fours[:, :, 0::2] | fours[:, :, 1::2] << 4
    parts = [fours.flatten(2)]
    parts += [number.squeeze(-1).transpose(1, 2).contiguous().view(torch.uint8) for number in numbers]
    return torch.cat(parts, 2).flatten(1).numpy()


class Int8Cache:
    """Keys and values of all layers, in arrays that grow ahead of need.

    In panels of SPAN columns, as `attention` reads them, S = SPAN: keys float32 [layers, kv heads, room / S, d, S],
    values float32 [layers, kv heads, d / S rounded up, room, S]; what lies behind `length` is scratch.
    """

    def __init__(self, layers: int, heads: int, head_dim: int):
        span = SPAN
        self.length, self.head_dim = 0, head_dim
        self.keys = np.zeros((layers, heads, 0, head_dim, span), np.float32)
        self.values = np.zeros((layers, heads, -(-head_dim // span), 0, span), np.float32)

    @property
    def layers(self) -> list[LayerView]:
        """The layers as `transformers`' caches show them."""
        return [LayerView(self, i) for i in range(len(self.keys))]

    def get_seq_length(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, whether filled yet or not."""
        return self.keys.nbytes + self.values.nbytes

    def reserve(self, total: int) -> None:
        """Make room for `total` tokens and a span behind them."""
        room = self.values.shape[3]
        if total + SPAN <= room:
            return
        panels = -(-max(total + SPAN, room + ROOM, room * 5 // 4) // SPAN)
        more = panels - room // SPAN
        self.keys = np.pad(self.keys, ((0, 0), (0, 0), (0, more), (0, 0), (0, 0)))
        self.values = np.pad(self.values, ((0, 0), (0, 0), (0, 0), (0, more * SPAN), (0, 0)))

    def keep(self, first: int, rows: Sequence[int]) -> None:
        """Move the tokens first + rows to first, first + 1, ...; forget all behind them."""
        self.length = first + len(rows)
        if list(rows) != list(range(len(rows))):
            move(self.keys, self.values, first, np.array(rows))

    def crop(self, more: int) -> None:
        """Forget the newest -more tokens, as `transformers`' caches do."""
        self.length += more

    @contextmanager
    def scratch(self, start: int, n: int) -> Iterator[None]:
        """Room for n tokens at `start`; whatever was there comes back afterwards."""
        self.reserve(start + n)
        kept = range(start, min(self.length, start + n))
        tokens = self._tokens(kept) if kept else None
        yield
        if kept:
            self._put(kept, tokens)

    def _tokens(self, slots: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Copies of keys [tokens, layers, kv heads, d] and values [layers, kv heads, panels, tokens, S]."""
        panel, column = np.divmod(np.asarray(slots, np.int64), SPAN)
        return self.keys[:, :, panel, :, column], self.values[:, :, :, slots]

    def _put(self, slots: Sequence[int], tokens: tuple[np.ndarray, np.ndarray]) -> None:
        panel, column = np.divmod(np.asarray(slots, np.int64), SPAN)
        self.keys[:, :, panel, :, column], self.values[:, :, :, slots] = tokens


class Int8Slots:
    """Caches of several texts, of `capacity` tokens each, in one array: what `Int8Decoder.forward_several` reads."""

    def __init__(self, slots: int, capacity: int, layers: int, heads: int, head_dim: int):
        span = SPAN
        panels, self.head_dim = -(-capacity // span) + 1, head_dim
        self.lengths = np.zeros(slots, np.int64)
        self.keys = np.zeros((slots, layers, heads, panels, head_dim, span), np.float32)
        self.values = np.zeros((slots, layers, heads, -(-head_dim // span), panels * span, span), np.float32)

    def kept(self, slot: int, layers: Sequence[int], length: int) -> np.ndarray:
        """float16 [length, layers, 2, kv heads * d]: keys and values of a slot's first tokens."""
        keys = self.keys[slot, list(layers)].swapaxes(3, 4)  # [layers, heads, panels, S, d]
        keys = keys.reshape(*keys.shape[:2], -1, self.head_dim)[:, :, :length]
        values = self.values[slot, list(layers)].swapaxes(2, 3)[:, :, :length]
        values = values.reshape(*values.shape[:3], -1)[..., : self.head_dim]
        both = np.stack([keys, values], 1)  # [layers, 2, heads, length, d]
        return both.transpose(3, 0, 1, 2, 4).reshape(length, len(layers), 2, -1).astype(np.float16)


@dataclass(frozen=True)
class LayerView:
    """One layer: keys and values float32 [1, kv heads, length, d], copied."""

    cache: Int8Cache
    index: int

    @property
    def keys(self) -> torch.Tensor:
        panels = torch.from_numpy(self.cache.keys[self.index])
        return panels.transpose(2, 3).flatten(1, 2)[None, :, : self.cache.length]

    @property
    def values(self) -> torch.Tensor:
        panels = torch.from_numpy(self.cache.values[self.index, :, :, : self.cache.length])
        return panels.transpose(1, 2).flatten(2)[None, ..., : self.cache.head_dim]


@dataclass(frozen=True)
class LayerWeights:
    """One layer's weights, [out, in] and [h]: projections that share an input stand below each other."""

    qkv: torch.Tensor
    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    norm: torch.Tensor
    post_norm: torch.Tensor


class Int8Stack:
    """Llama layers over a key-value cache, a last norm and the product with a vocabulary.

    bits: of the layers' weights, see `quantise`.
    """

    def __init__(
        self,
        layers: Iterable[LayerWeights],
        norm: torch.Tensor,
        head: torch.Tensor,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        eps: float,
        theta: float,
        positions: int,
        bits: int | None = None,
    ):
        layers = list(layers)
        products = [quantise([getattr(layer, name) for layer in layers], bits) for name in ("qkv", "output")]
        products.append(quantise([_whole_groups(layer.gate_up) for layer in layers], bits))
        products.append(quantise([layer.down for layer in layers], bits))
        gains = (np.stack([_array(getattr(layer, name)) for layer in layers]) for name in ("norm", "post_norm"))
        weights = (*map(alike, products), *gains, _array(norm), quantise([head])[0], *nothing_more(len(layers)))
        inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self._take(weights, (heads, kv_heads, head_dim, len(head), float(eps)), inverse, positions)

    @classmethod
    def packed(cls, weights: tuple, shape: tuple, inverse: torch.Tensor, positions: int) -> Int8Stack:
        """weights, shape: see `arguments`; inverse: float32 [d / 2], angles of the rotation a position."""
        stack = cls.__new__(cls)
        stack._take(weights, shape, inverse, positions)
        return stack

    def _take(self, weights, shape, inverse, positions) -> None:
        self._weights, self.shape = weights, shape
        angle = torch.arange(positions, dtype=torch.float32)[:, None] * inverse
        self._cos, self._sin = angle.cos().numpy(), angle.sin().numpy()
        self._team = Team()
        _leader()  # a thread's start is another thing that does not bear an interrupt

    def __call__(
        self,
        x: np.ndarray,
        cache: Int8Cache,
        source: np.ndarray,
        past: int,
        hidden: np.ndarray,
        place: np.ndarray,
        want_logits: bool = True,
        few: int = 0,
    ) -> tuple[np.ndarray, Ranks]:
        """Logits float32 [n, V] of rows x float32 [n, h], which become the last layer's output, and the `few` likeliest
        of each row.

        Layer i reads `past` tokens of the cache's layer source[i] and appends n, for which there is room.
        hidden: bool [n, n] as `visibility` gives it; place: int64 [n], the rows' positions.
        """
        n = len(x)
        texts, asked = np.array([[0, 0, n, past]]), np.arange(n if want_logits else 0)
        return self.several(x, cache.keys[None], cache.values[None], source, texts, hidden, asked, place, few)

    def several(
        self,
        x: np.ndarray,
        keys: np.ndarray,
        values: np.ndarray,
        source: np.ndarray,
        texts: np.ndarray,
        hidden: np.ndarray,
        asked: np.ndarray,
        place: np.ndarray,
        few: int = 0,
    ) -> tuple[np.ndarray, Ranks]:
        """Logits float32 [m, V] of the m rows `asked` of a pass over rows of several texts, and the `few` likeliest of
        each, which the threads of the pass look for together; see `run`."""
        threads = min(torch.get_num_threads(), _most_threads())
        arguments = x, keys, values, source, texts, hidden, asked, place, few, threads
        if threading.current_thread() is threading.main_thread():
            return _leader()(self._pass, *arguments)
        return self._pass(*arguments)

    def _pass(self, x, keys, values, source, texts, hidden, asked, place, few, threads):
        longest = int((texts[:, PAST] + texts[:, ROWS]).max())
        with _one_pass:
            started, choice = time.perf_counter(), self._team.choice(len(x))
            together = threads > 1 and choice.next()
            threads_now = threads if together else 1
            buffers = room_for(len(x), len(asked), longest, self._weights, self.shape, threads_now)
            ranks = no_ranks(len(asked), min(few, buffers[-1].shape[1]))
            counter = new_counter()
            rows = x, texts, hidden, asked, place, self._cos, self._sin
            cache, rooms = (keys, values, source), rounding_room(len(x), self._weights, self.shape)
            pass_ = threads_now, counter, rows, self._weights, self.shape, cache, buffers, rooms, ranks
            _share_out(counter, pass_, threads_now)
            if threads > 1:
                choice.took(together, time.perf_counter() - started)
        return buffers[-1], ranks


def _share_out(counter: np.ndarray, pass_: tuple, threads: int) -> None:
    """Carry out a pass; an error in one thread's share lets the others go, and is raised here."""

    def share(t: int) -> None:
        try:
            run(t, *pass_)
        except BaseException:
            release(counter)
            raise

    shares = []
    try:
        for t in range(1, threads):
            shares.append(_helpers().submit(share, t))
        share(0)
    except BaseException:
        release(counter)
        wait(shares)  # the pass's arrays are theirs until then
        raise
    for one in shares:
        one.result()


def alike(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of layers that are all of 4 bits or all of 8, as `_of` takes them."""
    return matrices, matrices[:0], np.arange(len(matrices))


def nothing_more(layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Neither biases nor norms of heads."""
    return np.zeros((layers, 0), np.float32), np.zeros((layers, 2, 0), np.float32)


def _whole_groups(gate_up: torch.Tensor) -> torch.Tensor:
    """Gate and up filled with zeros to whole groups each."""
    halves = [torch.nn.functional.pad(half, (0, 0, 0, -len(half) % LANES)) for half in gate_up.chunk(2)]
    return torch.cat(halves)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


class Int8Decoder:
    """The layers and the head of a `transformers` Llama (see `llama.llama_fits`)."""

    def __init__(self, model: torch.nn.Module):
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        base = model.base_model
        stack = Int8Stack(
            map(_layer_weights, base.layers),
            base.norm.weight,
            model.get_output_embeddings().weight,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            eps=config.rms_norm_eps,
            theta=config.rope_parameters["rope_theta"],
            positions=int(config.max_position_embeddings),
        )
        # In numpy's hands: torch looks several rows up in two threads, of which one goes on waiting for more work for
        # milliseconds, on the core that a helper of the pass needs.
        self._take(stack, _array(model.get_input_embeddings().weight), len(base.layers))

    @classmethod
    def packed(cls, stack: Int8Stack, embedding, layers: int) -> Int8Decoder:
        """embedding: gives float32 [n, h] for embedding[ids]."""
        decoder = cls.__new__(cls)
        decoder._take(stack, embedding, layers)
        return decoder

    def _take(self, stack: Int8Stack, embedding, layers: int) -> None:
        self._stack, self.embedding = stack, embedding
        _, self._kv_heads, self._head_dim, _, _ = stack.shape
        self._source = np.arange(layers, dtype=np.int32)
        cache = self.new_cache()
        self.forward(cache, [0, 0])  # compiles, where this machine has not done so before
        self.keep(cache, 0, [1])

    @property
    def weight_bytes(self) -> int:
        """That a pass reads: of the layers and the head."""
        return sum(
            part.nbytes for group in self._stack._weights for part in (group if isinstance(group, tuple) else (group,))
        )

    def new_cache(self) -> Int8Cache:
        return Int8Cache(len(self._source), self._kv_heads, self._head_dim)

    def keep(self, cache: Int8Cache, first: int, rows: Sequence[int]) -> None:
        cache.keep(first, rows)

    def prefill(self, cache: Int8Cache, ids: Sequence[int]) -> None:
        """Append `ids` to the cache; no logits."""
        cache.reserve(cache.length + len(ids))
        for first in range(0, len(ids), PROMPT_ROWS):
            self._read(cache, ids[first : first + PROMPT_ROWS], None, want_logits=False)

    def forward(self, cache: Int8Cache, ids: Sequence[int], parents: Sequence[int] | None = None) -> torch.Tensor:
        """Append n `ids` to the cache, a chain or the tree that `parents` describe; logits float32 [n, V]."""
        return self.ranked(cache, ids, parents, 0)[0]

    def ranked(
        self, cache: Int8Cache, ids: Sequence[int], parents: Sequence[int] | None, few: int
    ) -> tuple[torch.Tensor, Ranks]:
        """`forward`, and the `few` likeliest tokens of each row."""
        cache.reserve(cache.length + len(ids))
        logits, ranks = self._read(cache, ids, parents, few=few)
        return torch.from_numpy(logits), ranks

    def new_slots(self, slots: int, capacity: int) -> Int8Slots:
        return Int8Slots(slots, capacity, len(self._source), self._kv_heads, self._head_dim)

    def forward_several(self, slots: Int8Slots, parts: Sequence[tuple[int, Sequence[int]]], ask: bool) -> np.ndarray:
        """Append to each slot of parts (slot, ids) its ids, in one pass; no slot twice.

        Logits float32 [parts, V] after the last of each part's ids, or [0, V] unless one asks.
        """
        rows = np.array([len(ids) for _, ids in parts])
        first = np.cumsum(rows) - rows
        numbers = np.array([slot for slot, _ in parts])
        texts = np.stack([numbers, first, rows, slots.lengths[numbers]], 1)
        n = int(rows.sum())
        hidden = np.triu(np.ones((n, n), bool), 1)
        place = np.arange(n) - np.repeat(first, rows) + np.repeat(slots.lengths[numbers], rows)
        x = self.embedding[[token for _, ids in parts for token in ids]]
        asked = first + rows - 1 if ask else np.zeros(0, np.int64)
        logits, _ = self._stack.several(x, slots.keys, slots.values, self._source, texts, hidden, asked, place)
        slots.lengths[numbers] += rows
        return logits

    def _read(self, cache, ids, parents, want_logits=True, few=0) -> tuple[np.ndarray, Ranks]:
        hidden, depth = visibility(len(ids), parents)
        x = self.embedding[list(ids)]
        found = self._stack(x, cache, self._source, cache.length, hidden, cache.length + depth, want_logits, few)
        cache.length += len(ids)
        return found


def _layer_weights(layer: torch.nn.Module) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        qkv=torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        output=attention.o_proj.weight,
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        down=mlp.down_proj.weight,
        norm=layer.input_layernorm.weight,
        post_norm=layer.post_attention_layernorm.weight,
    )
