"""Training data on disk: conversations in append-only shards, and beside them the target's keys and values.

    data.json          the target's name and which of its layers the caches hold
    shard-00000.npz    conversations: token ids, answer spans, the target's top 8 at each answer token
    cache-00000.npy    float16 [tokens, layers, 2, key heads * head size] of these conversations, one after the other

A shard appears by a rename when it is complete: after a kill at any moment every file that has its name is whole.
Caches are computed once and read for every block that is ever trained on; they are memory-mapped, so that they
may be larger than memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffuspec.errors import DiffuSpecError

SHARD_TOKENS = 16_000


@dataclass
class Conversation:
    """A conversation with the target's answers, as training reads it.

    number, family: of its prompt; ids: int32 [n]; spans: int32 [answers, 2], where each answer starts and ends;
    top_ids int32, top_p float16 [answer tokens, TOP]: what the target thought came there, likeliest first;
    cache: float16 [at least n - 1, layers, 2, key heads * head size], or None where it was not computed.
    """

    number: int
    family: str
    ids: np.ndarray
    spans: np.ndarray
    top_ids: np.ndarray
    top_p: np.ndarray
    cache: np.ndarray | None = None

    @property
    def answers(self) -> list[list[int]]:
        return [self.ids[start:end].tolist() for start, end in self.spans]


class DataFolder:
    """A folder of shards. layers: which of the target's layers the caches hold; empty where there are none."""

    def __init__(self, path: Path):
        self.path = path
        try:
            about = json.loads((path / "data.json").read_text()) if (path / "data.json").exists() else {}
        except (OSError, ValueError) as error:
            raise DiffuSpecError(f"{path / 'data.json'} is damaged ({error}).") from error
        self.layers: tuple[int, ...] = tuple(about.get("layers", ()))

    def shards(self) -> list[Path]:
        return sorted(self.path.glob("shard-*.npz"))

    def numbers(self) -> set[int]:
        """Numbers of the prompts whose conversations are here."""
        return {int(n) for shard in self.shards() for n in _arrays(shard, "numbers")[0]}

    def answer_tokens(self) -> int:
        return sum(len(_arrays(shard, "top_p")[0]) for shard in self.shards())

    def read(self, shard: Path) -> list[Conversation]:
        names = "numbers", "families", "lengths", "ids", "span_counts", "spans", "top_ids", "top_p"
        numbers, families, lengths, ids, span_counts, spans, top_ids, top_p = _arrays(shard, *names)
        cache_path = self.cache_path(shard)
        cache = np.load(cache_path, mmap_mode="r") if self.layers and cache_path.exists() else None
        found, at, span_at, top_at = [], 0, 0, 0
        for number, family, length, count in zip(numbers, families, lengths, span_counts, strict=True):
            own = spans[span_at : span_at + count]
            answered = int((own[:, 1] - own[:, 0]).sum())
            found.append(
                Conversation(
                    int(number),
                    str(family),
                    ids[at : at + length],
                    own,
                    top_ids[top_at : top_at + answered],
                    top_p[top_at : top_at + answered],
                    None if cache is None else cache[at : at + length],
                )
            )
            at, span_at, top_at = at + length, span_at + count, top_at + answered
        return found

    def conversations(self) -> list[Conversation]:
        return [conversation for shard in self.shards() for conversation in self.read(shard)]

    def cache_path(self, shard: Path) -> Path:
        return shard.with_name(shard.name.replace("shard-", "cache-").replace(".npz", ".npy"))

    def set_layers(self, layers: Sequence[int]) -> None:
        """Write down which layers the caches hold; caches of other layers are not mixed with them."""
        if self.layers and tuple(layers) != self.layers:
            raise DiffuSpecError(
                f"The caches in {self.path} hold the target's layers {list(self.layers)}, not {list(layers)}: "
                "use the same, or delete its cache-*.npy files and data.json."
            )
        self.layers = tuple(layers)
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "data.json", lambda path: path.write_text(json.dumps({"layers": self.layers})))

    def writer(self, layers: Sequence[int] = ()) -> ShardWriter:
        self.path.mkdir(parents=True, exist_ok=True)
        if layers:
            self.set_layers(layers)
        return ShardWriter(self)


class ShardWriter:
    """Collects conversations and writes a shard whenever `SHARD_TOKENS` have come together, and at the end."""

    def __init__(self, folder: DataFolder):
        self._folder = folder
        self._waiting: list[Conversation] = []
        self._tokens = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error) -> None:
        self.flush()

    def add(self, conversation: Conversation) -> None:
        self._waiting.append(conversation)
        self._tokens += len(conversation.ids)
        if self._tokens >= SHARD_TOKENS:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        taken = [int(path.stem.split("-")[1]) for path in self._folder.shards()]
        path = self._folder.path / f"shard-{max(taken, default=-1) + 1:05}.npz"
        waiting = self._waiting
        if waiting[0].cache is not None:
            rows = []
            for conversation in waiting:
                missing = len(conversation.ids) - len(conversation.cache)
                rows.append(np.pad(conversation.cache, ((0, missing), (0, 0), (0, 0), (0, 0))))
            cache = np.concatenate(rows)
            write_atomically(self._folder.cache_path(path), lambda out: save_array(out, cache))
        arrays = {
            "numbers": np.array([c.number for c in waiting], np.int64),
            "families": np.array([c.family for c in waiting]),
            "lengths": np.array([len(c.ids) for c in waiting], np.int64),
            "ids": np.concatenate([c.ids for c in waiting]),
            "span_counts": np.array([len(c.spans) for c in waiting], np.int64),
            "spans": np.concatenate([c.spans.reshape(-1, 2) for c in waiting]),
            "top_ids": np.concatenate([c.top_ids for c in waiting]),
            "top_p": np.concatenate([c.top_p for c in waiting]),
        }
        write_atomically(path, lambda out: save_arrays(out, arrays))
        self._waiting, self._tokens = [], 0


def write_atomically(path: Path, write) -> None:
    """Call write(temporary path), then rename: `path` is either as before or complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as out:
        np.save(out, array)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as out:
        np.savez(out, **arrays)


def _arrays(path: Path, *names: str) -> list[np.ndarray]:
    try:
        with np.load(path) as stored:
            return [stored[name] for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise DiffuSpecError(f"{path} is not a shard of training data ({error}).") from error
