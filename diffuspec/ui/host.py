"""The models of this process, shared by all visitors, and the runs they make on them.

Models are loaded in the background, one pair a dtype. Everything that computes with them runs on
one thread, in turn; a visitor's `Job` is followed from another and can be stopped at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from diffuspec.settings import Settings
from diffuspec.trace import Trace
from diffuspec.ui.views.merits import MEASURED, Source

DTYPES = ("float32", "bfloat16")
POLL_S = 0.33


def _load_embedded(dtype: str, progress: Callable[[float | None, str], None]) -> Any:
    from diffuspec import load_pair

    return load_pair("embedded", dtype=dtype, progress=progress)


def _start(pair: Any, settings: Settings, prompt: str) -> Any:
    from diffuspec import DiffuSpec

    return DiffuSpec(pair, settings).stream(prompt)


def _compare(pair: Any, trace: Trace, on_token: Callable[[int], bool]) -> Any:
    from diffuspec.baselines import compare_with_ar

    return compare_with_ar(pair, trace, on_token=on_token)


@dataclass(frozen=True)
class Status:
    """How far a pair is. fraction: 0 to 1, None where unknown; error: why it failed."""

    text: str
    fraction: float | None = None
    ready: bool = False
    error: BaseException | None = None


@dataclass
class Job:
    """One visitor's run, from the click to the end of the comparison with plain AR."""

    prompt: str
    settings: Settings
    dtype: str = DTYPES[0]
    compare: bool = True
    stopped: threading.Event = field(default_factory=threading.Event)
    run: Any = None

    def stop(self) -> None:
        """No further step; a step under way is finished first."""
        self.stopped.set()
        if self.run is not None:
            self.run.stop()


@dataclass(frozen=True)
class Progress:
    """One look at a job: waiting for the models (status), or the trace so far and where it comes from."""

    status: Status | None = None
    trace: Trace | None = None
    source: Source = Source(MEASURED)
    final: bool = False


class Host:
    """load(dtype, progress) gives a pair, start(pair, settings, prompt) a run of the engine,
    compare(pair, trace, on_token) plain AR's `Baseline`."""

    def __init__(self, load=_load_embedded, start=_start, compare=_compare):
        self._load, self._start, self._compare = load, start, compare
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._pairs: dict[str, Future] = {}
        self._said: dict[str, tuple[str, float | None]] = {}
        self._lock = threading.Lock()

    def warm_up(self, dtype: str = DTYPES[0]) -> Future:
        """Begin to load a pair; once failed, the next call tries again."""
        with self._lock:
            known = self._pairs.get(dtype)
            if known is None or (known.done() and known.exception()):
                self._said[dtype] = ("Loading the models", None)
                self._pairs[dtype] = self._loader.submit(self._load, dtype, self._progress(dtype))
            return self._pairs[dtype]

    def _progress(self, dtype: str) -> Callable[[float | None, str], None]:
        def say(fraction: float | None, text: str) -> None:
            self._said[dtype] = (text, fraction)

        return say

    def status(self, dtype: str = DTYPES[0]) -> Status:
        known = self._pairs.get(dtype)
        text, fraction = self._said.get(dtype, ("The models are not loaded yet", None))
        if known is None or not known.done():
            return Status(text, fraction)
        error = known.exception()
        return Status(text, error=error) if error else Status("The models are ready", 1.0, ready=True)

    def follow(self, job: Job) -> Iterator[Progress]:
        """Run a job, with a look at it a few times a second; the last look is `final`.

        Closing the iterator stops the run. Raises what loading, the engine or the comparison raise.
        """
        try:
            loading = self.warm_up(job.dtype)
            while not loading.done():
                yield Progress(self.status(job.dtype))
                wait([loading], POLL_S)
                if job.stopped.is_set():
                    return
            pair = loading.result()
            job.run = self._models.submit(self._start, pair, job.settings, job.prompt).result()
            if job.stopped.is_set():
                job.run.stop()
            decoding = self._models.submit(_exhaust, job.run)
            while not decoding.done():
                yield Progress(trace=job.run.trace)
                wait([decoding], POLL_S)
            decoding.result()
            trace = job.run.trace
            if job.compare and not job.stopped.is_set():
                baseline = yield from self._against_ar(job, pair, trace)
                # A comparison that was cut short says nothing.
                if not job.stopped.is_set():
                    trace = trace.with_baseline(baseline)
            yield Progress(trace=trace, final=True)
        finally:
            job.stop()

    def _against_ar(self, job: Job, pair: Any, trace: Trace) -> Iterator[Progress]:
        made = [0]

        def on_token(count: int) -> bool:
            made[0] = count
            return job.stopped.is_set()

        comparing = self._models.submit(self._compare, pair, trace, on_token)
        while not comparing.done():
            yield Progress(trace=trace, source=Source(MEASURED, comparing=made[0]))
            wait([comparing], POLL_S)
        return comparing.result()


def _exhaust(run: Any) -> None:
    for _ in run:
        pass
