"""How well predicted probabilities are kept: calibration of the drafter's q, of the search's score and of tree nodes.

    ECE     expected calibration error (Naeini et al. 2015): sum over bins of share x |mean predicted - share walked|,
            15 bins as wide as each other
    Brier   mean of (predicted - walked)^2
    AUROC   how often one that was walked to is given more than one that was not

Recalibration (Guo et al. 2017; Zadrozny and Elkan 2002): first a temperature for each depth, P^(1 / T_d), then an
isotonic map over all of them, by pooling adjacent violators. Both keep the order within a depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffuspec.measure.diagnose.machine import Costs
from diffuspec.measure.diagnose.replay import Replayed, replay_all
from diffuspec.measure.diagnose.tape import Tape
from diffuspec.method.calibration import Calibration
from diffuspec.settings import Settings

if TYPE_CHECKING:
    from diffuspec.models.pair import Pair

BINS = 15
_ENDS = np.array([0.0, 1.0])
TEMPERATURES = np.geomspace(0.4, 2.5, 43)
DEEPEST = 16  # deeper ones share a temperature
LEAST, KNOTS, FEWEST_EVENTS = 1e-6, 32, 100
DRAFTER, SCORE, NODES = "drafter's q", "search's score", "tree nodes"


@dataclass(frozen=True)
class Events:
    """Predictions of one kind: p and walked of each, at its depth and rank (from 0), in its question."""

    p: np.ndarray
    walked: np.ndarray
    depth: np.ndarray
    rank: np.ndarray
    question: np.ndarray

    def __len__(self) -> int:
        return len(self.p)

    def where(self, mask: np.ndarray) -> Events:
        return Events(*(part[mask] for part in vars(self).values()))

    @classmethod
    def joined(cls, parts: Iterable[Sequence[np.ndarray]]) -> Events:
        parts = list(parts)
        if not parts:
            return cls(*(np.zeros(0) for _ in range(5)))
        p, walked, depth, rank, question = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(p.astype(float), walked.astype(float), depth.astype(int), rank.astype(int), question.astype(int))


@dataclass(frozen=True)
class Bin:
    """predicted, walked: means of those whose prediction lies in one of the bins."""

    predicted: float
    walked: float
    count: int


@dataclass(frozen=True)
class Reliability:
    """Of one kind of prediction, on answers that nothing was fitted on, and once recalibrated. by_chance: the ECE that
    as many events would have if every prediction were kept; temperatures: by depth."""

    kind: str
    count: int
    ece: float
    by_chance: float
    brier: float
    auroc: float | None
    bins: tuple[Bin, ...]
    ece_after: float
    brier_after: float
    bins_after: tuple[Bin, ...]
    temperatures: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """Predictions at one depth and rank (from 1)."""

    depth: int
    rank: int
    count: int
    predicted: float
    walked: float


def _binned(p: np.ndarray, walked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    count = np.bincount(at, minlength=BINS)
    return count, np.bincount(at, p, BINS), np.bincount(at, walked, BINS)


def ece(p: np.ndarray, walked: np.ndarray) -> float:
    _, predicted, happened = _binned(p, walked)
    return float(np.abs(predicted - happened).sum() / max(len(p), 1))


def by_chance(p: np.ndarray, draws: int = 50) -> float:
    """The mean ECE of events that happen as predicted."""
    random = np.random.default_rng(0)
    return float(np.mean([ece(p, random.random(len(p)) < p) for _ in range(draws)]))


def brier(p: np.ndarray, walked: np.ndarray) -> float:
    return float(np.mean((p - walked) ** 2)) if len(p) else 0.0


def auroc(p: np.ndarray, walked: np.ndarray) -> float | None:
    """By ranks (Mann and Whitney), ties counted half; None where all were walked to, or none."""
    positive = int(walked.sum())
    negative = len(walked) - positive
    if not positive or not negative:
        return None
    _, place, count = np.unique(p, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[walked > 0].sum() - positive * (positive + 1) / 2) / (positive * negative))


def bins(p: np.ndarray, walked: np.ndarray) -> tuple[Bin, ...]:
    count, predicted, happened = _binned(p, walked)
    return tuple(
        Bin(float(predicted[i] / n), float(happened[i] / n), int(n)) for i, n in enumerate(count.tolist()) if n
    )


@dataclass(frozen=True)
class Recalibration:
    """p -> isotonic(p^(1 / T_depth)). temperatures: [depths], the last holds for all deeper ones; x, y: of the map,
    straight lines between, both rising."""

    temperatures: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __call__(self, p: np.ndarray, depth: np.ndarray) -> np.ndarray:
        at = self.temperatures[np.minimum(depth, len(self.temperatures) - 1)]
        return np.interp(np.maximum(p, LEAST) ** (1 / at), self.x, self.y)


def fit(events: Events) -> Recalibration:
    """Temperatures of the least Brier score, then the isotonic map."""
    deepest = min(int(events.depth.max(initial=0)) + 1, DEEPEST)
    depth = np.minimum(events.depth, deepest - 1)
    temperatures = np.ones(deepest)
    for d in range(deepest):
        mine = depth == d
        if mine.sum() >= 50:  # fewer say nothing
            p, walked = np.maximum(events.p[mine], LEAST), events.walked[mine]
            temperatures[d] = min(TEMPERATURES, key=lambda t, p=p, walked=walked: brier(p ** (1 / t), walked))
    tempered = np.maximum(events.p, LEAST) ** (1 / temperatures[depth])
    return Recalibration(temperatures, *isotonic(tempered, events.walked))


def fitted(tapes: Sequence[Tape], pair: Pair, settings: Settings, costs: Costs) -> Calibration | None:
    """For the tree of these settings: the temperatures of each column of the likeliest drafts, then g of what nodes say
    under them. None where there are too few nodes."""
    columns = max((k for tape in tapes for k in tape.drafts), default=0)
    temperatures = np.array([_hottest(tapes, column) for column in range(columns)] or [1.0])
    flat = Calibration(temperatures, _ENDS, _ENDS, pair.info.target, pair.info.drafter)
    nodes = of_search(replay_all(dataclasses.replace(pair, calibration=flat), settings, tapes, costs))
    if len(nodes) < FEWEST_EVENTS:
        return None
    x, y = isotonic(nodes.p, nodes.walked)
    return dataclasses.replace(flat, x=x, y=y)


def _hottest(tapes: Sequence[Tape], column: int) -> float:
    """The temperature under which the answers' tokens are likeliest in a column; 1 where too few say."""
    rows, places = [], []
    for tape in tapes:
        known = [k for k in tape.drafts if k > column]
        n = len(tape.answer) - column
        if not known or n <= 0:
            continue
        ids, logq = tape.drafts[min(known)]
        right = ids[:n, column] == np.array(tape.answer)[column:, None]
        rows.append(logq[:n, column])
        places.append(np.where(right.any(1), right.argmax(1), -1))
    if sum(map(len, rows)) < FEWEST_EVENTS:
        return 1.0
    q, place = np.concatenate(rows), np.concatenate(places)

    def loss(temperature: float) -> float:
        one = Calibration(np.full(len(q), temperature), _ENDS, _ENDS).tempered(q).astype(float)
        rest = np.log(np.maximum(1 - np.exp(one).sum(1), LEAST))
        return -float(np.where(place >= 0, one[np.arange(len(q)), place], rest).mean())

    return float(min(TEMPERATURES, key=loss))


def isotonic(p: np.ndarray, walked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rising map of the least squared error, as knots x, y, at most about `KNOTS`; from 0 to 1."""
    order = np.argsort(p, kind="stable")
    blocks: list[list[float]] = []  # mean, weight, sum of p
    for x, y in zip(p[order].tolist(), walked[order].tolist(), strict=True):
        mean, weight, at = y, 1.0, x
        while blocks and blocks[-1][0] >= mean:
            before = blocks.pop()
            mean = (before[0] * before[1] + mean * weight) / (before[1] + weight)
            weight, at = weight + before[1], at + before[2]
        blocks.append([mean, weight, at])
    blocks = _coarse(blocks, len(p) / KNOTS)
    x = [0.0, *(at / weight for _, weight, at in blocks), 1.0]
    y = [0.0, *(mean for mean, *_ in blocks), blocks[-1][0] if blocks else 1.0]
    x, first = np.unique(x, return_index=True)
    return x, np.maximum.accumulate(np.array(y)[first])


def _coarse(blocks: list[list[float]], least: float) -> list[list[float]]:
    """Neighbours joined until each stands for `least` events: a step of a few events is noise."""
    joined: list[list[float]] = []
    for mean, weight, at in blocks:
        if joined and joined[-1][1] < least:
            before = joined[-1]
            total = before[1] + weight
            joined[-1] = [(before[0] * before[1] + mean * weight) / total, total, before[2] + at]
        else:
            joined.append([mean, weight, at])
    return joined


def judged(kind: str, events: Events) -> Reliability | None:
    """Fitted on every other question, judged on the rest; None where there are too few of either."""
    held = events.question % 2 == 1
    before, rest = events.where(~held), events.where(held)
    if len(before) < FEWEST_EVENTS or len(rest) < FEWEST_EVENTS:
        return None
    again = fit(before)
    mended = dataclasses.replace(rest, p=again(rest.p, rest.depth))
    return compared(kind, rest, mended, again)


def compared(kind: str, rest: Events, mended: Events, again: Recalibration | Calibration, kept=None) -> Reliability:
    """Held-out events before and after; kept: maps the probabilities of the latter, where that was not done."""
    after = mended.p if kept is None else kept(mended.p)
    return Reliability(
        kind,
        len(rest),
        ece(rest.p, rest.walked),
        by_chance(rest.p),
        brier(rest.p, rest.walked),
        auroc(rest.p, rest.walked),
        bins(rest.p, rest.walked),
        ece(after, mended.walked),
        brier(after, mended.walked),
        bins(after, mended.walked),
        tuple(again.temperatures.tolist()),
    )


def of_drafter(tapes: Sequence[Tape], k: int) -> Events:
    """Each candidate of each column, whatever came before it: q is of the position alone."""
    parts, questions = [], _numbers(tapes)
    for tape in tapes:
        if not tape.drafts:
            continue
        ids, logq = tape.drafts[min((known for known in tape.drafts if known >= k), default=max(tape.drafts))]
        answer, (n, columns, width) = np.array(tape.answer), ids.shape
        place = np.arange(n)[:, None] + np.arange(columns)
        known = place < len(answer)
        right = ids == answer[np.minimum(place, len(answer) - 1)][..., None]
        shape = (int(known.sum()), width)
        parts.append(
            (
                np.exp(logq[known]).ravel(),
                right[known].ravel(),
                np.broadcast_to(np.arange(columns), known.shape)[known].repeat(width),
                np.broadcast_to(np.arange(width), shape).ravel(),
                np.full(shape, questions[tape.question]).ravel(),
            )
        )
    return Events.joined(parts)


def of_search(replayed: Replayed) -> Events:
    """Each token that was judged, of a tree or a path, as far as its answer tells."""
    questions, parts = _numbers([tape for tape, _ in replayed.all]), []
    for tape, steps in replayed.all:
        for step in steps:
            known = step.place + step.depth < len(tape.answer)
            parts.append(
                (
                    np.exp(step.score[known]).clip(0, 1),
                    step.walked[known],
                    step.depth[known],
                    step.rank[known],
                    np.full(int(known.sum()), questions[tape.question]),
                )
            )
    return Events.joined(parts)


def _numbers(tapes: Sequence[Tape]) -> dict[str, int]:
    return {question: i for i, question in enumerate(dict.fromkeys(tape.question for tape in tapes))}


def cells(events: Events, deepest: int = 8, ranks: int = 4) -> tuple[Cell, ...]:
    """By depth and rank."""
    found = []
    for depth in range(deepest):
        for rank in range(ranks):
            mine = (events.depth == depth) & (events.rank == rank)
            if n := int(mine.sum()):
                found.append(
                    Cell(depth + 1, rank + 1, n, float(events.p[mine].mean()), float(events.walked[mine].mean()))
                )
    return tuple(found)
