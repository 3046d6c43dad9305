"""What happened in a run, complete and immutable.

Every picture of the playground is drawn from a `Trace`; nothing is computed twice and no model
is called to look at it. A trace is saved as JSON Lines (gzip where the name ends in .gz): a
header, one line a step, and a last line with the totals. Arrays keep their exact float32 values.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import importlib
import io
import typing
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from diffuspec import codec
from diffuspec.errors import DiffuSpecError, TraceError
from diffuspec.method.search import oracle_accepted
from diffuspec.plaintext import brief
from diffuspec.provenance import PairInfo, Provenance
from diffuspec.settings import Settings
from diffuspec.trace.origin import Origin, Totals
from diffuspec.trace.steps import STAGES, Step, step_holds

FORMAT = "diffuspec-trace"
VERSION = 1
# Of a file that is read. The longest step that can be recorded, 100 columns of 64 candidates, takes half a megabyte.
MAX_BYTES = 256 * 2**20
MAX_STEPS = 20_000
MAX_LINE_BYTES = 16 * 2**20
MAX_LINE_LISTS = 20_000


@dataclass(frozen=True)
class Difference:
    """The first token in which an answer differs from plain AR's.

    position: 0-based, in the answer; expected, got: token ids (None past an end);
    gap: AR's logit of `expected` minus its logit of `got`, None where either is missing.
    """

    position: int
    expected: int | None
    got: int | None
    gap: float | None


@dataclass(frozen=True)
class Baseline:
    """Plain AR decoding by the same target, dtype, kernels and cache, in the same run.

    times_ms: when each token came, milliseconds since the start, prefill included; difference: None
    where the answers agree; compared: tokens of both that were compared (a stopped run may be
    shorter); prefill_ms: the part of wall_s before the first pass.
    """

    token_ids: tuple[int, ...]
    wall_s: float
    prefill_ms: float
    times_ms: tuple[float, ...]
    compared: int
    difference: Difference | None

    @property
    def tokens_per_second(self) -> float:
        return len(self.token_ids) / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True)
class Trace:
    """A whole run.

    prompt: what the user typed (None where the run was given ids); prompt_ids: the ids the target
    saw, template included; pieces: token id -> its bytes, one character a byte (Latin-1);
    special: ids of special tokens; stop_ids: ids that end an answer; stop_reason: "stop token",
    "max tokens", "context", "stopped" or "running"; wall_s: seconds of decoding, prefill included;
    origin: of a trace that another engine made, None for our own.
    """

    prompt: str | None
    prompt_ids: tuple[int, ...]
    settings: Settings
    pair: PairInfo
    provenance: Provenance
    stop_ids: tuple[int, ...]
    pieces: dict[int, str]
    special: tuple[int, ...]
    steps: tuple[Step, ...]
    text: str
    stop_reason: str
    prefill_ms: float
    wall_s: float
    baseline: Baseline | None = None
    origin: Origin | None = None

    def __deepcopy__(self, memo) -> Trace:
        return self

    @functools.cached_property
    def token_ids(self) -> tuple[int, ...]:
        """The answer, stop token included where one ended it."""
        return tuple(token for step in self.steps for token in step.emitted)

    @functools.cached_property
    def totals(self) -> Totals:
        """Sums over the run: what another engine gave as such, else those of the steps."""
        if self.origin and self.origin.totals:
            return self.origin.totals
        accepted, drafted = sum(step.accepted for step in self.steps), sum(len(step.path) for step in self.steps)
        return Totals(len(self.token_ids), len(self.steps), drafted, accepted)

    @property
    def new_tokens(self) -> int:
        return self.totals.tokens

    @property
    def accepted_per_step(self) -> float:
        """MAT as the paper counts it (Eq. 2): accepted drafted tokens a step; 0 where the steps were not counted."""
        totals = self.totals
        return totals.accepted / totals.steps if totals.steps else 0.0

    @property
    def tokens_per_step(self) -> float:
        """MAT as Spec-Bench, vLLM and DFlash count it: correction or bonus included; 0 where steps were not counted."""
        totals = self.totals
        return totals.tokens / totals.steps if totals.steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.new_tokens / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def speedup(self) -> float | None:
        """Tokens per second over plain AR's, both with prefill; None where AR was not run, or made nothing."""
        if self.baseline is None or not self.wall_s or not self.baseline.tokens_per_second:
            return None
        return self.tokens_per_second / self.baseline.tokens_per_second

    @property
    def identical_to_ar(self) -> bool | None:
        """None where AR was not run or the run sampled (then only the distribution is the same)."""
        if self.baseline is None or self.settings.temperature > 0:
            return None
        return self.baseline.difference is None

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds over the whole run by stage, in the order of `STAGES`."""
        return {name: sum(getattr(step.timing, f"{name}_ms") for step in self.steps) for name in STAGES}

    def oracle(self, index: int) -> int:
        """Tokens the best path in step `index`'s pruned lattice would have had accepted.

        Known only as far as the answer goes on after the step; what came next is the target's own choice.
        """
        step = self.steps[index]
        return oracle_accepted(step.lattice, self.token_ids[step.start : step.start + step.lattice.k])

    def report(self) -> dict[str, Any]:
        """The figures of the run by name; plain AR's are None where it was not run."""
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "new_tokens": self.new_tokens,
            "steps": self.totals.steps,
            "accepted_per_step": self.accepted_per_step,
            "tokens_per_step": self.tokens_per_step,
            "wall_s": self.wall_s,
            "ar_wall_s": self.baseline.wall_s if self.baseline else None,
            "speedup": self.speedup,
            "identical_to_ar": self.identical_to_ar,
        }

    def with_baseline(self, baseline: Baseline) -> Trace:
        return dataclasses.replace(self, baseline=baseline)

    def piece(self, token: int) -> bytes:
        return self.pieces.get(token, "").encode("latin-1")

    def __repr__(self) -> str:
        origin = f" by {self.origin.engine}" if self.origin else ""
        totals = self.totals
        return (
            f"<Trace{origin}: {totals.tokens} tokens in {'?' if totals.steps is None else totals.steps} steps, "
            f"{self.tokens_per_step:.2f} tokens/step, {self.stop_reason}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook displays: the player, without a network."""
        return _notebook().frame(self)

    def show(self, step: int, phase: str = "verify"):
        """For a notebook: the player, opened at a step, from 1, and one of its phases mask, lattice, search, verify and
        commit. Raises `TraceError` for others."""
        return _notebook().shown(self, step, phase)

    def to_dataframe(self, tokens: bool = False):
        """A pandas `DataFrame` with one row a step, or a token of the answer; columns as in the exported tables."""
        return _notebook().dataframe(self, tokens)

    def dumps(self) -> bytes:
        """The trace as JSON Lines."""
        body = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "steps"}
        head = {"format": FORMAT, "version": VERSION}
        for name in ("prompt", "settings", "pair", "provenance"):
            head[name] = body.pop(name)
        return b"".join(map(codec.encode, (head, *({"step": step} for step in self.steps), {"end": body})))

    def save(self, path: str | Path) -> None:
        """Write the trace, as a whole or not at all (see `codec.write`); gzip where the name ends in .gz.

        Raises `TraceError`.
        """
        path = Path(path)
        data = self.dumps()
        if path.suffix == ".gz":
            data = gzip.compress(data, 6, mtime=0)
        try:
            codec.write(path, data)
        except OSError as error:
            raise TraceError(f"Cannot write the trace to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace; raises `TraceError` on anything that is not one."""
        return cls.loads(read_file(path))

    @classmethod
    def open(cls, path: str | Path, which: int = 0) -> Trace:
        """Read a trace of this program, or what another engine wrote of a run (see `trace.foreign`).

        path: a file, or a folder of specspecs; which: of several runs in it, counted from 0. Raises `TraceError`.
        """
        from diffuspec.trace.foreign import open_trace

        return open_trace(path, which)

    @classmethod
    def loads(cls, data: bytes) -> Trace:
        """Parse a trace from untrusted bytes, plain or gzip.

        Line by line, each bounded before it is parsed: what is small enough to be sent may unpack to more than a
        machine can hold. Raises `TraceError`.
        """
        data = unpacked(data)
        _bounded(data)
        lines = codec.lines(data)
        try:
            head = orjson.loads(next(lines))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError
        except (ValueError, StopIteration):
            raise TraceError("This is not a DiffuSpec trace: its first line names no such format.") from None
        if head.get("version") != VERSION or isinstance(head["version"], bool):
            raise TraceError(f"This trace has version {brief(head.get('version'))}; this program reads {VERSION}.")
        try:
            steps, end = [], None
            for line in lines:
                if end is not None:
                    raise ValueError("something follows its last line, the totals")
                entry = orjson.loads(line)
                if "end" in entry:
                    end = entry["end"]
                    continue
                steps.append(codec.decode(Step, entry["step"], f"trace.steps[{len(steps)}]"))
            if end is None:
                raise ValueError("its last line, the totals, is missing")
            names = [f.name for f in dataclasses.fields(cls) if f.name != "steps"]
            body = {**head, **end}
            hints = typing.get_type_hints(cls)
            body.setdefault("origin", None)  # of the traces of older programs
            made = {name: codec.decode(hints[name], body[name], f"trace.{name}") for name in names}
            trace = cls(**made, steps=tuple(steps))
            check(trace)
            return trace
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, DiffuSpecError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else error
            raise TraceError(f"This trace is damaged: {brief(detail)}.") from error


def _notebook():
    # By name and late: a trace needs nothing of the pages but here.
    return importlib.import_module("diffuspec.ui.player.notebook")


def read_file(path: str | Path) -> bytes:
    """A file of at most one byte more than may be; raises `TraceError`."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TraceError(f"Cannot read {path}: {error.strerror or error}.") from error


def unpacked(data: bytes) -> bytes:
    """Bytes that may be gzip, as what is in them; raises `TraceError` where that is damaged or too much."""
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"This trace is damaged: its gzip stream does not unpack ({brief(error)}).") from error
    if len(data) > MAX_BYTES:
        raise TraceError(f"This trace is larger than {MAX_BYTES >> 20} MB unpacked.")
    return data


def _bounded(data: bytes) -> None:
    """Refuse what could not be parsed in a moment: too many lines, a line too long, or one of too many lists."""
    if data.count(b"\n") > 2 * MAX_STEPS:
        raise TraceError(f"This trace has more than {MAX_STEPS} steps.")
    steps = -2  # the first line and the last hold none
    for line in codec.lines(data):
        steps += 1
        if steps > MAX_STEPS:
            raise TraceError(f"This trace has more than {MAX_STEPS} steps.")
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(f"This trace has a line of more than {MAX_LINE_BYTES >> 20} MB.")
        if line.count(b"[") + line.count(b"{") > MAX_LINE_LISTS:
            raise TraceError(f"This trace has a line of more than {MAX_LINE_LISTS} lists.")


def check(trace: Trace) -> None:
    """Shapes, indices and numbers that the pictures rely on; `ValueError` where they do not hold."""
    if not (0 <= trace.prefill_ms <= 1e9 and 0 <= trace.wall_s <= 1e6):
        raise ValueError("its times are not times")
    if trace.origin and not trace.origin.holds():
        raise ValueError("what it says of the engine that made it contradicts itself")
    position = 0
    for place, step in enumerate(trace.steps):
        if step.index != place or step.start != position or not step_holds(step, foreign=trace.origin is not None):
            raise ValueError(f"step {place} contradicts itself")
        position += len(step.emitted)
    if not _baseline_holds(trace):
        raise ValueError("what it says of plain AR contradicts itself")
    for piece in trace.pieces.values():
        piece.encode("latin-1")


def _baseline_holds(trace: Trace) -> bool:
    """Whether what is said of plain AR's answer fits together."""
    ar = trace.baseline
    if ar is None:
        return True
    times = np.array(ar.times_ms, dtype=np.float64)
    return (
        len(times) == len(ar.token_ids)
        and bool((times >= 0).all())
        and 0 <= ar.wall_s <= 1e6
        and 0 <= ar.prefill_ms <= 1e9
        and 0 <= ar.compared <= len(ar.token_ids)
        and (ar.difference is None or 0 <= ar.difference.position <= len(ar.token_ids))
    )
