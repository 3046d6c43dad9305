"""Every way to decode that can be measured or raced, behind one interface.

A method starts a *decoding*: an iterator with one `Emission` a target pass. Whoever stops iterating
stops the method.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diffuspec.errors import SettingsError
from diffuspec.settings import PRESETS, Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.steps import Step

if TYPE_CHECKING:  # the table below must not wait for torch
    from diffuspec.engine import Run
    from diffuspec.measure.rivals import Pass
    from diffuspec.models.pair import Pair


@dataclass(frozen=True)
class Emission:
    """What one target pass gave.

    accepted: drafted tokens among `tokens`; ms: time since the emission before, the first one's from the
    start, prefill included; step: the trace's, for methods that write one.
    """

    tokens: tuple[int, ...]
    accepted: int
    ms: float
    step: Step | None = None


class Decoding(Protocol):
    """A run of a method: an iterator of `Emission`s.

    trace: everything so far, None for methods that write none.
    """

    trace: Trace | None

    def __iter__(self) -> Iterator[Emission]: ...

    def __next__(self) -> Emission: ...


def never() -> bool:
    return False


@dataclass(frozen=True)
class Method:
    """A way to decode, as benchmark, races and tables know it.

    name: for the command line; label, about: for people; lossless: greedy answers must equal plain AR's.

    start(pair, settings, ids, should_stop): a decoding of the token ids `ids`. should_stop is asked during
    a pass by those methods that give their whole answer at once.
    """

    name: str
    label: str
    about: str
    start: Callable[[Pair, Settings, Sequence[int], Callable[[], bool]], Decoding]
    lossless: bool = True


class _Speculative:
    def __init__(self, run: Run):
        self.run = run

    @property
    def trace(self) -> Trace:
        return self.run.trace

    def __iter__(self):
        return self

    def __next__(self) -> Emission:
        step = next(self.run)
        prefill_ms = self.run.recorder.prefill_s * 1e3 if step.index == 0 else 0.0
        return Emission(step.emitted, step.accepted, prefill_ms + step.timing.total_ms, step)


class _Untraced:
    """Passes of (tokens, ms) from a decoder that writes no trace."""

    trace = None

    def __init__(self, passes: Callable[[], Iterable[Pass]]):
        self._start, self._passes = passes, None

    def __iter__(self):
        return self

    def __next__(self) -> Emission:
        if self._passes is None:
            self._passes = iter(self._start())
        tokens, ms = next(self._passes)
        return Emission(tokens, len(tokens) - 1, ms)


def _speculative(drafter: Callable[[Pair], Pair] = lambda pair: pair, **changes) -> Callable:
    def start(pair, settings, ids, should_stop=never):
        from diffuspec.engine import DiffuSpec

        run = DiffuSpec(drafter(pair), settings.replace(**changes)).stream(ids=ids)
        run.should_stop = should_stop
        return _Speculative(run)

    return start


def _ar(pair, settings, ids, should_stop=never):
    from diffuspec.measure.baselines import plain_run

    def passes():
        started = time.perf_counter()
        for token in plain_run(pair, settings, ids, should_stop):
            now = time.perf_counter()
            yield (token,), (now - started) * 1e3
            started = time.perf_counter()

    return _Untraced(passes)


def _generate(**options) -> Callable:
    def start(pair, settings, ids, should_stop=never):
        from diffuspec.measure import rivals

        return _Untraced(lambda: rivals.generate(pair, settings, ids, should_stop, **options))

    return start


def _llama_cpp(pair, settings, ids, should_stop=never):
    from diffuspec.measure import rivals

    return _Untraced(lambda: rivals.llama_cpp(pair, settings, ids, should_stop))


def _token_by_token(pair: Pair) -> Pair:
    from diffuspec.measure.baselines import TokenByToken

    info = dataclasses.replace(pair.info, drafter=f"{pair.info.drafter}, one token a pass")
    return dataclasses.replace(pair, info=info, drafter=TokenByToken(pair.drafter))


def _prompt_lookup(pair: Pair) -> Pair:
    from diffuspec.measure.baselines import PromptLookup

    drafter = PromptLookup()
    info = dataclasses.replace(pair.info, drafter="prompt lookup", drafter_kind=drafter.kind)
    return dataclasses.replace(pair, info=info, drafter=drafter)


METHODS = {
    method.name: method
    for method in (
        Method("ar", "Plain AR", "one token a target pass, on our kernels and cache: the yardstick", _ar),
        Method("ar-again", "Plain AR, again", "the yardstick a second time: its distance from 1 is noise", _ar),
        Method(
            "hf-generate",
            "generate",
            "transformers' own generate on its own layers, in the pair's dtype",
            _generate(),
            lossless=False,
        ),
        Method(
            "hf-generate-bf16",
            "generate, bf16",
            "transformers' own generate in bfloat16",
            _generate(dtype="bfloat16"),
            lossless=False,
        ),
        Method(
            "hf-prompt-lookup",
            "generate, prompt lookup",
            "transformers' own prompt lookup, 10 tokens a draft",
            _generate(prompt_lookup_num_tokens=10),
            lossless=False,
        ),
        Method(
            "llama-cpp",
            "llama.cpp",
            "plain decoding of the target's GGUF file by llama.cpp",
            _llama_cpp,
            lossless=False,
        ),
        Method(
            "prompt-lookup",
            "Prompt lookup",
            "no drafter: copies what followed the same words earlier in the text",
            _speculative(_prompt_lookup, search="argmax", length="fixed", k=10),
        ),
        Method(
            "ar-drafter",
            "Drafter, token by token",
            "the drafter's network as an ordinary small model: k passes for k tokens",
            _speculative(_token_by_token, search="argmax", length="fixed"),
        ),
        Method(
            "plain",
            "Diffusion draft",
            "the likeliest token of every column, fixed k: no CPS, no ADL",
            _speculative(**PRESETS["plain"].changes),
        ),
        Method("cps", "CPS", "path search over the lattice, fixed k", _speculative(search="cps", length="fixed")),
        Method(
            "adl", "ADL", "the likeliest token of every column, adaptive k", _speculative(search="argmax", length="adl")
        ),
        Method("diffuspec", "DiffuSpec", "the paper's method: CPS and ADL", _speculative(search="cps", length="adl")),
        Method(
            "exact",
            "Exact search",
            "the path that maximises the score CPS searches for, fixed k",
            _speculative(search="exact", length="fixed"),
        ),
        Method(
            "tree",
            "Tree",
            "several paths of the lattice verified in one pass; the length as set",
            _speculative(search="tree", copy=0),
        ),
        Method(
            "tree+copy",
            "Tree with copies",
            "a tree that also holds what followed the same words before; the length as set",
            _speculative(search="tree", copy=1),
        ),
        Method(
            "throughput",
            "Throughput",
            "a tree with copies and n-gram followers, its depth and size chosen for the "
            "most tokens per second, with or without a draft",
            _speculative(**PRESETS["fastest"].changes),
        ),
        Method(
            "confidence",
            "Confidence",
            "CPS over the columns that the drafter is sure enough of",
            _speculative(search="cps", length="confidence"),
        ),
        Method("as-set", "As set", "search and length as the settings say", _speculative()),
    )
}


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: a method of `METHODS` with settings of its own."""

    name: str
    method: str
    settings: Settings


def parse_methods(text: str) -> list[str]:
    """Names out of a comma-separated list, "ar" first and always among them; `SettingsError` on an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise SettingsError(f"Unknown method {', '.join(unknown) or text!r}. Methods: {', '.join(METHODS)}.")
    return ["ar", *(name for name in dict.fromkeys(names) if name != "ar")]
