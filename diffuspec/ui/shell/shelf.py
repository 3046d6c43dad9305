"""The pairs of this process: which can be had, which are loaded, and what gives way to another."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import psutil

from diffuspec.errors import PairError


class Unloaded(PairError):
    """A pair was given up while it was loaded."""


@dataclass(eq=False)
class Copy:
    """One pair in one arithmetic, loaded or on its way.

    dtype: what it is computed in, as asked for until the device's own is known; ready: the pair, or why it could not
    be loaded; said: what happens, and how far it is; users: the work that has asked for it; size: bytes of memory that
    it took; given_up: stops the loading; same: the copy that this one turned out to be.
    """

    key: str
    dtype: str
    ready: Future = field(default_factory=Future)
    said: tuple[str, float | None] = ("Loading the models", None)
    users: weakref.WeakValueDictionary = field(default_factory=weakref.WeakValueDictionary)
    used: float = field(default_factory=time.monotonic)
    size: int = 0
    given_up: bool = False
    same: Copy | None = None

    def tell(self) -> tuple[str, float | None]:
        return (self.same or self).said

    def become(self, other: Copy) -> None:
        """Have what the other has, once it has it."""
        self.same = other
        other.users.update(self.users)

        def pass_on(ready: Future) -> None:
            if error := ready.exception():
                self.ready.set_exception(error)
            else:
                self.ready.set_result(ready.result())

        other.ready.add_done_callback(pass_on)

    @property
    def failed(self) -> bool:
        return self.ready.done() and self.ready.exception() is not None

    @property
    def pair(self) -> Any:
        """None while it is not loaded."""
        return self.ready.result() if self.ready.done() and not self.failed else None

    @property
    def in_use(self) -> bool:
        return any(not work.stopped.is_set() for work in list(self.users.values()))


class Shelf:
    """pairs: key -> load, called as (dtype, progress), with a `fetch` and an `arithmetic` where it is a `Loader`.

    Each load has a thread of its own, so that one that is fetched for an hour keeps nobody waiting, but weights get
    into memory one pair at a time. A copy in another arithmetic of the same pair goes as soon as nobody uses it;
    other pairs go where the memory is wanted, the one first that was not used for longest.
    """

    def __init__(self, pairs: Mapping[str, Callable]):
        self.pairs = dict(pairs)
        self._copies: dict[tuple[str, str], Copy] = {}
        self._made: dict[tuple[str, str], str] = {}  # what is computed in where an arithmetic is asked for
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        for load in self.pairs.values():
            self._connect(load)

    def add(self, key: str, load: Callable) -> None:
        with self._lock:
            self.pairs[key] = load
            self._connect(load)

    def _connect(self, load: Callable) -> None:
        if hasattr(load, "make_room"):
            load.make_room = self.make_room
            load.could_make_room = lambda lacking: sum(copy.size for copy in self._idle()) >= lacking

    def ask(self, key: str, dtype: str, work: Any = None) -> Copy:
        """The pair in that arithmetic; begins to load it where it is not there. Once failed, the next call tries
        again. Raises `PairError` for a pair that is not offered."""
        load = self.pairs.get(key)
        if load is None:
            raise PairError(f"The pair {key} is not offered here. Choose one of: {', '.join(self.pairs)}.")
        with self._lock:
            copy = self.found(key, dtype)
            if copy is None or copy.given_up or copy.failed:
                copy = Copy(key, self._made.get((key, dtype), dtype))
                self._copies[key, copy.dtype] = copy
                threading.Thread(target=self._load, args=(copy, load), name=f"load {key}", daemon=True).start()
            copy.used = time.monotonic()
            if work is not None:
                copy.users[id(work)] = work
        return copy

    def found(self, key: str, dtype: str) -> Copy | None:
        """As `ask`, but nothing is begun."""
        return self._copies.get((key, self._made.get((key, dtype), dtype)))

    def _computed_in(self, copy: Copy, load: Callable) -> bool:
        """Find out what the device computes in, which takes seconds the first time; whether that copy is to be made."""
        asked, made = copy.dtype, load.arithmetic(copy.dtype)
        with self._lock:
            self._made[copy.key, asked] = made
            if made == asked or copy.given_up:
                return True
            if self._copies.get((copy.key, asked)) is copy:
                del self._copies[copy.key, asked]
            there = self._copies.get((copy.key, made))
            if there is not None and not (there.given_up or there.failed):
                copy.become(there)
                return False
            copy.dtype = made
            self._copies[copy.key, made] = copy
            return True

    def copies(self, key: str | None = None) -> list[Copy]:
        """Those of one pair, or all, the last used one last."""
        with self._lock:
            found = [copy for copy in self._copies.values() if key in (None, copy.key)]
        return sorted(found, key=lambda copy: copy.used)

    def unload(self, key: str) -> None:
        """Give up all copies of a pair; a run on one of them still ends as it would have."""
        with self._lock:
            for copy in self.copies(key):
                copy.given_up = True
                self._copies.pop((copy.key, copy.dtype), None)
        give_back()

    def make_room(self, lacking: int) -> bool:
        """Drop copies that nobody uses until so many bytes are free; none where all of them would not do."""
        with self._lock:
            idle, chosen = self._idle(), []
            if sum(copy.size for copy in idle) < lacking:
                return False
            while lacking > 0:
                chosen.append(idle.pop(0))
                lacking -= chosen[-1].size
            self._drop(chosen)
        return True

    def _drop(self, copies: list[Copy]) -> None:
        """Let go of copies; the list is emptied, so that nothing refers to them."""
        while copies:
            copy = copies.pop()
            del self._copies[copy.key, copy.dtype], copy
        give_back()

    def _idle(self) -> list[Copy]:
        return [copy for copy in self.copies() if copy.pair is not None and not copy.in_use]

    def _load(self, copy: Copy, load: Callable) -> None:
        def heard(fraction: float | None, text: str) -> None:
            if copy.given_up:
                raise Unloaded(f"The pair {copy.key} was unloaded while it was loaded.")
            copy.said = (text, fraction)

        try:
            if hasattr(load, "arithmetic") and not self._computed_in(copy, load):
                return
            if hasattr(load, "fetch"):
                load.fetch(copy.dtype, heard)
            if self._reading.locked():
                heard(None, "Waiting until another pair is loaded")
            with self._reading:
                heard(None, "Loading the models")
                self._drop_others(copy)
                before = memory_taken()
                pair = load(copy.dtype, heard)
                copy.size = max(0, memory_taken() - before)
            copy.ready.set_result(pair)
        except BaseException as error:
            _forget_frames(error)
            copy.ready.set_exception(error)
            give_back()

    def _drop_others(self, new: Copy) -> None:
        with self._lock:
            others = [copy for copy in self._idle() if copy.key == new.key and copy is not new]
            if others:
                self._drop(others)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an error and its causes hold: half a model, where memory was too small for it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def memory_taken() -> int:
    """Bytes that this process holds, on a GPU where it uses one."""
    torch = sys.modules.get("torch")
    taken = psutil.Process().memory_info().rss
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        taken += sum(torch.cuda.memory_allocated(i) for i in range(torch.cuda.device_count()))
    return taken


def give_back() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
