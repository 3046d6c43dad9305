"""A diagnosis as a file: plain values, saved and loaded. Files of it travel, so loading one checks everything."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import orjson

from diffuspec import codec
from diffuspec.errors import DiffuSpecError, ResultsError
from diffuspec.measure.diagnose.levers import Lever
from diffuspec.measure.diagnose.losses import WORDS, Losses
from diffuspec.measure.diagnose.machine import Machine, Roofline
from diffuspec.measure.diagnose.reliability import Cell, Reliability
from diffuspec.measure.diagnose.splits import Split
from diffuspec.measure.results import YARDSTICK, Measured
from diffuspec.measure.statistics import Estimate
from diffuspec.measure.studies.result import QuestionsUsed
from diffuspec.method.calibration import Calibration
from diffuspec.plaintext import brief
from diffuspec.provenance import PairInfo, Provenance
from diffuspec.settings import Settings

FORMAT, VERSION = "diffuspec-diagnosis", 1
MAX_BYTES, MOST_RESULTS = 16 * 2**20, 20_000
AS_SET = "as set"


@dataclass(frozen=True)
class Cost:
    """part: "draft" or "verify"; size: masks filled or rows read; ms: in a run here."""

    part: str
    size: int
    ms: float


@dataclass(frozen=True)
class Budget:
    """A tree of so many nodes, by replay; speedup: over plain decoding, prompts included."""

    nodes: int
    tokens_per_step: float
    speedup: Estimate


@dataclass(frozen=True)
class Position:
    """Of a drafter's position (from 1): drafts in which all before it stood, and it did too."""

    drafter: str
    position: int
    reached: int
    accepted: int


@dataclass(frozen=True)
class Diagnosis:
    """All that was measured and reckoned.

    questions.count: how many were answered by every method; minutes: that it was given, took_s: that it took; results:
    plain AR, plain AR again, the settings (`AS_SET`) and other methods; pulled: plain AR, the settings and the levers
    that were pulled; draft_nodes: mean drafted tokens a step; cells: of the drafter's q; notes: what could not be
    done, and why; calibration: fitted on every other question, None where there were too few; recalibrated: speed
    with it over speed without, by replay of the rest.
    """

    pair: PairInfo
    settings: Settings
    provenance: Provenance
    questions: QuestionsUsed
    seed: int
    minutes: float
    took_s: float
    machine: Machine
    plain: Roofline
    costs: tuple[Cost, ...]
    host_ms: float
    draft_nodes: float
    results: tuple[Measured, ...]
    pulled: tuple[Measured, ...]
    losses: Losses
    levers: tuple[Lever, ...]
    reliability: tuple[Reliability, ...]
    cells: tuple[Cell, ...]
    budgets: tuple[Budget, ...]
    positions: tuple[Position, ...]
    splits: tuple[Split, ...]
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    recalibrated: Estimate | None = None

    def cost(self, part: str, size: int) -> float | None:
        """Milliseconds of a pass that was measured."""
        return next((c.ms for c in self.costs if (c.part, c.size) == (part, size)), None)

    def to_json(self) -> bytes:
        from diffuspec.measure.diagnose.verdict import sentences

        document = {"format": FORMAT, "version": VERSION, "verdict": sentences(self), **vars(self)}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)

    def save(self, path: Path) -> None:
        """As a whole or not at all. Raises `ResultsError`."""
        try:
            codec.write(path, self.to_json())
        except OSError as error:
            raise ResultsError(f"Cannot write the diagnosis to {path}: {error.strerror or error}.") from error

    @classmethod
    def load(cls, path: Path) -> Diagnosis:
        """Raises `ResultsError` on anything that is not one."""
        try:
            with path.open("rb") as file:
                return cls.loads(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise ResultsError(f"Cannot read {path}: {error.strerror or error}.") from error

    @classmethod
    def loads(cls, data: bytes) -> Diagnosis:
        """Parse a diagnosis from untrusted bytes."""
        if len(data) > MAX_BYTES:
            raise ResultsError(f"This file is larger than the {MAX_BYTES >> 20} MB that a diagnosis may have.")
        try:
            document = orjson.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ResultsError("This is not a file of a DiffuSpec diagnosis.")
        if document.get("version") != VERSION:
            raise ResultsError("This diagnosis is of another version than this program reads.")
        try:
            found = codec.decode(cls, document, "diagnosis")
            _check(found)
            return found
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, DiffuSpecError) as error:
            raise ResultsError(f"This diagnosis is damaged: {brief(error)}.") from error


def _check(found: Diagnosis) -> None:
    """What sentences and pictures rely on."""
    if len(found.results) + len(found.pulled) > MOST_RESULTS:
        raise ValueError("it has too many results")
    for r in (*found.results, *found.pulled):
        if not (r.tokens >= 0 and r.seconds >= 0 and r.steps >= 0) or (r.tokens and not (r.seconds and r.steps)):
            raise ValueError("a result contradicts itself")
    if not {YARDSTICK, AS_SET} <= {r.variant for r in found.results if r.tokens}:
        raise ValueError("it lacks plain AR or the settings")
    if not all(loss.name in WORDS for loss in found.losses.losses):
        raise ValueError("it has a loss without a name")
    if found.plain.pass_ms <= 0 or found.losses.reached_ms <= 0 or found.losses.bound_ms <= 0:
        raise ValueError("a time is none")
    for number in _numbers(dataclasses.asdict(found)):
        if not math.isfinite(number):
            raise ValueError("it has a number that is none")


def _numbers(value):
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
