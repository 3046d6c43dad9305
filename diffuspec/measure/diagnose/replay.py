"""The engine along a tape: the steps that a run under other settings would make, without a model.

Length policy, pruning, search, tree and verification are the engine's own; drafts and the target's tokens come from
the tape, so that what a step gives is what it would give. What it takes is reckoned from what passes cost here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffuspec.engine import Run
from diffuspec.measure.diagnose.losses import reason
from diffuspec.measure.diagnose.machine import Costs
from diffuspec.measure.diagnose.tape import Tape, TapeDrafter, TapeTarget
from diffuspec.method.search import TreeSearch
from diffuspec.settings import Settings
from diffuspec.trace.steps import Timing

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair

REPLAYED = ("adl", "fixed", "throughput", "confidence")  # length policies that need nothing but a draft


@dataclass(frozen=True)
class ReplayedStep:
    """place: tokens of the answer before it; k: columns; nodes: tokens judged; tokens: emitted; loss: why it gave no
    more (see `losses.reason`); of each token judged, its depth and rank, what its search says of it, log P of a
    tree's node or the score of Eq. 8 so far, and whether the target walked there."""

    place: int
    k: int
    nodes: int
    accepted: int
    tokens: int
    kind: str | None
    loss: str
    draft_ms: float
    verify_ms: float
    host_ms: float
    depth: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    walked: np.ndarray

    @property
    def ms(self) -> float:
        return self.draft_ms + self.verify_ms + self.host_ms


class _Clock:
    def lap(self, stage: str) -> None:
        pass


class _Ledger:
    """Stands where a run has its recorder."""

    prefill_s = 0.0

    def __init__(self, run: Replay):
        self.run, self.place, self.steps = run, 0, []

    def prefilled(self, seconds: float) -> None:
        pass

    def clock(self) -> _Clock:
        return _Clock()

    def record(self, clock, lattice, path, logits, verdict, decision, emitted):
        costs, settings = self.run.costs, self.run.settings
        if isinstance(path, TreeSearch):
            depth, rank, score = path.tree.depth, path.tree.rank, path.tree.score
        else:
            depth, rank, score = np.arange(len(path)), path.ranks, path.score
        walked = np.zeros(len(score), bool)
        walked[list(verdict.nodes)] = True
        ended = self.run.stop_reason != "running"
        why = reason(lattice, len(path.ids), verdict, settings, isinstance(path, TreeSearch), ended)
        step = ReplayedStep(
            self.place,
            lattice.k,
            len(path.ids),
            min(verdict.accepted, len(emitted)),
            len(emitted),
            verdict.kind,
            why,
            costs.draft_ms(lattice.k) if lattice.k else 0.0,
            costs.verify_ms(len(path.ids) + 1),
            costs.host_ms,
            depth,
            rank,
            score,
            walked,
        )
        self.steps.append(step)
        self.place += len(emitted)
        return _Timed(Timing(step.draft_ms, costs.host_ms, step.verify_ms, 0.0, 0.0))


@dataclass(frozen=True)
class _Timed:
    timing: Timing


class Replay(Run):
    """A run along a tape; `steps` are its `ReplayedStep`s."""

    def __init__(self, pair: Pair, settings: Settings, tape: Tape, costs: Costs):
        self.costs = costs
        stand_in = dataclasses.replace(
            pair,
            drafter=TapeDrafter(tape, pair.drafter.kind) if tape.drafts else pair.drafter,
            target=TapeTarget(tape, pair.target.vocab_size),
        )
        stand_in.__dict__["step_cost"] = costs.weighed
        super().__init__(stand_in, settings, tape.prompt_ids)
        self.budget = min(self.budget, len(tape.answer))
        self.recorder = _Ledger(self)

    @property
    def steps(self) -> list[ReplayedStep]:
        return self.recorder.steps


def replay(pair: Pair, settings: Settings, tape: Tape, costs: Costs) -> list[ReplayedStep]:
    """Along the whole tape."""
    run = Replay(pair, settings, tape, costs)
    for _ in run:
        pass
    return run.steps


@dataclass(frozen=True)
class Replayed:
    """Of some settings, a value a question in the order of `questions`: tokens, steps, accepted, and milliseconds."""

    questions: tuple[str, ...]
    tokens: np.ndarray
    steps: np.ndarray
    accepted: np.ndarray
    ms: np.ndarray
    all: tuple[tuple[Tape, list[ReplayedStep]], ...]

    @property
    def tokens_per_step(self) -> float:
        return float(self.tokens.sum() / max(self.steps.sum(), 1))

    def seconds(self, prefill_ms: dict[str, float]) -> np.ndarray:
        """Of each question, its prompts included."""
        return (self.ms + np.array([prefill_ms.get(q, 0.0) for q in self.questions])) / 1e3


def replay_all(pair: Pair, settings: Settings, tapes: Sequence[Tape], costs: Costs) -> Replayed:
    """Every tape, added up by question."""
    made = [(tape, replay(pair, settings, tape, costs)) for tape in tapes]
    questions = tuple(dict.fromkeys(tape.question for tape in tapes))
    sums = np.zeros((4, len(questions)))
    for tape, steps in made:
        at = questions.index(tape.question)
        for row, value in enumerate(
            (len(tape.answer), len(steps), sum(s.accepted for s in steps), sum(s.ms for s in steps))
        ):
            sums[row, at] += value
    return Replayed(questions, *sums, tuple(made))
