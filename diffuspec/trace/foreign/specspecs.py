"""Traces of specspecs 0.1.0: a folder of Parquet files, `sequences-*` with prompts and `drafts-*` with steps.

Its viewer takes the first drafted token, from the second step on, for a repeat of the token written before, and counts
it as accepted. A trace logged in the plain sense has no such repeat. Which of the two a trace is, its tokens tell.

Parquet can say in a few bytes what takes gigabytes in memory. It is therefore read in a process of its own, whose
memory and time are bounded.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from diffuspec import codec
from diffuspec.errors import TraceError
from diffuspec.trace.foreign.build import MAX_TOKENS, Answer
from diffuspec.trace.model import MAX_STEPS, Trace
from diffuspec.trace.origin import Origin
from diffuspec.trace.steps import Timing

MAX_FILES, MAX_BYTES, MAX_ROWS = 64, 64 * 2**20, 200_000
LIMIT_S, LIMIT_BYTES, LIMIT_OUT = 60, 4 * 2**30, 256 * 2**20
READ = {
    "sequences": ("sequence_id", "t", "prompt_token_ids"),
    "drafts": ("sequence_id", "step", "t", "draft_tokens", "acceptance_length", "emitted_token"),
}


@dataclass(frozen=True)
class Drafted:
    """A row of `drafts-*`: t in microseconds since 1970, 0 where it was not told."""

    sequence_id: str
    step: int
    draft_tokens: tuple[int, ...]
    acceptance_length: int
    emitted_token: int
    t: int = 0


@dataclass(frozen=True)
class Prompted:
    """A row of `sequences-*`."""

    sequence_id: str
    prompt_token_ids: tuple[int, ...]
    t: int = 0


def is_specspecs(paths: Sequence[Path]) -> bool:
    return any(path.suffix == ".parquet" for path in paths) or (
        len(paths) == 1 and paths[0].is_dir() and any(paths[0].glob("*.parquet"))
    )


def open_specspecs(paths: Sequence[Path], which: int) -> Trace:
    """The sequence numbered `which` from 0, in the order in which they began. Raises `TraceError`."""
    files = sorted(paths[0].glob("*.parquet")) if paths[0].is_dir() else list(paths)
    by_kind = {kind: [file for file in files if kind_of(file) == kind] for kind in READ}
    if not by_kind["drafts"] or not by_kind["sequences"]:
        missing = " and ".join(f"{kind}-*.parquet" for kind, found in by_kind.items() if not found)
        raise TraceError(f"A trace of specspecs is in two files or more: {missing} is missing. Open them together.")
    sizes = [file.stat().st_size for file in files]
    if len(files) > MAX_FILES or sum(sizes) > MAX_BYTES:
        raise TraceError(f"A trace of specspecs may have {MAX_FILES} files and {MAX_BYTES >> 20} MB at most.")
    sequences = [codec.decode(Prompted, row, "sequence") for row in _rows(by_kind["sequences"])]
    drafts = [codec.decode(Drafted, row, "draft") for row in _rows(by_kind["drafts"])]
    sequences.sort(key=lambda sequence: sequence.t)
    if not 0 <= which < len(sequences):
        raise TraceError(
            f"There are {len(sequences)} sequences in it, numbered from 1: there is no number {which + 1}."
        )
    sequence = sequences[which]
    steps = sorted((d for d in drafts if d.sequence_id == sequence.sequence_id), key=lambda d: d.step)
    return _trace(sequence, steps, which, len(sequences))


def kind_of(file: Path) -> str:
    """Of an uploaded file too, whose name may have been prolonged."""
    return next((kind for kind in READ if kind in file.name), "")


def _trace(sequence: Prompted, steps: list[Drafted], which: int, of: int) -> Trace:
    if len(steps) > MAX_STEPS or len(sequence.prompt_token_ids) > MAX_TOKENS:
        raise TraceError(f"This trace has more than {MAX_STEPS} steps, or too long a prompt.")
    for step in steps:
        ids = (*step.draft_tokens, step.emitted_token)
        if not 0 <= step.acceptance_length <= len(step.draft_tokens) or not all(0 <= i < 2**31 for i in ids):
            raise TraceError(f"This trace of specspecs is damaged: its step {step.step} contradicts itself.")
    repeats = len(steps) > 1 and all(
        later.acceptance_length and later.draft_tokens[0] == earlier.emitted_token
        for earlier, later in zip(steps, steps[1:], strict=False)
    )
    timed = bool(sequence.t) and all(step.t for step in steps)
    answer, before = Answer(sequence.prompt_token_ids), sequence.t
    for number, step in enumerate(steps):
        said = int(repeats and number > 0)
        drafted, accepted = step.draft_tokens[said:], step.acceptance_length - said
        took = max((step.t - before) / 1e3, 0.0) if timed else 0.0
        before = step.t
        timing = Timing(0.0, 0.0, min(took, 1e9), 0.0, 0.0)
        answer.add(drafted, accepted, [*drafted[:accepted], step.emitted_token], timing)
    first = "its first drafted token" if len(steps) == 2 else "the first drafted token of each step"
    reading = [
        f"Read as its viewer does: from the second step on {first} repeats the one written before, and is left out."
        if repeats
        else "Read in the plain sense: first drafted tokens repeat no token written before."
    ]
    if of > 1:
        reading.append(f"This is sequence {which + 1} of {of}.")
    origin = Origin("specspecs", "tokens", times="steps" if timed else "", reading=" ".join(reading))
    wall = sum(step.timing.total_ms for step in answer.steps) / 1e3
    return answer.trace(origin, wall_s=min(wall, 1e6))


def _rows(files: Sequence[Path]) -> list[dict]:
    """Rows of Parquet files, read by a bounded process."""
    command = [sys.executable, "-m", "diffuspec.trace.foreign.parquet_rows", *map(str, files)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise TraceError(f"This trace of specspecs takes longer than {LIMIT_S} s to read, and was left.") from None
    if done.returncode == 2:
        raise TraceError(done.stdout.decode("utf-8", "replace").strip())
    if done.returncode:
        raise TraceError("This trace of specspecs is damaged, or takes more memory than a trace may.")
    return [orjson.loads(line) for line in codec.lines(done.stdout)]
