"""How long the next draft is (DiffuSpec, section 3.4, Eqs. 9-11), and four policies beside the paper's.

After a step, L_gen tokens of the raw draft came before its first stop token and L_acc drafted
tokens were accepted. Adaptive draft length (ADL) smooths both,

    EMA_gen <- (1 - rho) EMA_gen + rho L_gen        (Eq. 10)
    EMA_acc <- (1 - rho) EMA_acc + rho L_acc

and sets

    k' = clip(EMA_gen + delta [EMA_acc >= EMA_gen], k_min, k_max)        (Eq. 11).

Both averages start at 0 and k_1 = k_max. k' is rounded half up. Note the feedback: L_gen is at
most the k that produced it, so at the paper's settings k leaves k_min only if EMA_gen > k_min,
or EMA_acc >= EMA_gen > k_min - delta.

Beside it:

    confidence    draft k_max tokens and keep the columns up to which the drafter's cumulated
                  confidence, prod_j max_v q_j(v), is at least a threshold
    failfast      k_min tokens, and k_min more, behind the likeliest ones so far, while none of the newest has a
                  confidence max_v q_j(v) below the threshold, up to k_max (FailFast, arXiv 2512.20573)
    predicted     draft k_max tokens and keep the columns before the first whose acceptance, as a trained head of the
                  drafter expects it, is below the threshold (DSpark, arXiv 2607.05147)
    throughput    the k that maximises expected tokens over expected time,

                      (1 + sum_{i <= k} A_i) / (draft(k) + verify(rows)),      k_min <= k <= k_max,

                  where A_i is the running share of drafts whose first i tokens were accepted and the
                  costs were measured on this machine; of a prefix tree, whose scores s_1 >= s_2 >= ...
                  say how likely each node is reached, it keeps the n nodes that maximise
                  (1 + s_1 + ... + s_n) / (draft(k) + verify(n + 1)). Where the tree of a step without a draft,
                  of what the text and the n-gram offer, promises more, k = 0

Times decide how far a draft goes, never which token is emitted.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffuspec.method.breakeven import verify_cost
from diffuspec.method.calibration import Calibration
from diffuspec.settings import Settings

MOST_ROWS = 64  # of a pass that is weighed
_NO_KNOTS = np.zeros(0)


@dataclass(frozen=True)
class StepCost:
    """What a step costs on this machine, in milliseconds: (size, ms) as measured, straight lines between.

    draft: by k; verify: by the rows of a target pass.
    """

    draft: tuple[tuple[int, float], ...]
    verify: tuple[tuple[int, float], ...]

    def draft_ms(self, k: int) -> float:
        return verify_cost(k, self.draft) if k else 0.0

    def verify_ms(self, most: int) -> np.ndarray:
        """Of passes over 1 .. `most` rows, float64: the highest curve below what was measured along which each row
        costs at least as much as the one before it, as it does where reading the weights hides the first rows."""
        below: list[tuple[int, float]] = []
        points = dict(self.verify)
        points.setdefault(most, verify_cost(most, self.verify))
        for n, ms in sorted(points.items()):
            while len(below) > 1 and _slope(below[-2], below[-1]) >= _slope(below[-2], (n, ms)):
                below.pop()
            below.append((n, ms))
        return np.interp(np.arange(1, most + 1), *np.array(below, dtype=float).T)


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


class TreeBudget:
    """Counts the expected tokens and the time of a tree while it grows.

    A node likely to be reached with probability p pays if (E + p) / (t + b) > E / t, that is if p exceeds
    `least` = E b / t; E counts the target's own token, t is the time of the step so far, b that of one more row,
    row_ms[i] for node i (the last holds for all after it), never less than for the node before.
    With nodes in falling order of p the first that does not pay ends the tree: none after it would.
    calibration: says how often nodes of a probability are walked to; None takes them at their word.
    """

    def __init__(self, ms: float, row_ms: Sequence[float] | np.ndarray, calibration: Calibration | None = None):
        self.nodes, self.expected, self.ms = 0, 1.0, ms
        self.knots = (calibration.x, calibration.y) if calibration else (_NO_KNOTS, _NO_KNOTS)
        self.row_ms = np.asarray(row_ms, float)
        self._row_ms = self.row_ms.tolist()

    @property
    def next_ms(self) -> float:
        """What the next row costs."""
        return self._row_ms[min(self.nodes, len(self._row_ms) - 1)]

    @property
    def least(self) -> float:
        return self.expected * self.next_ms / self.ms

    def take(self, p: float) -> None:
        self.expected += float(np.interp(p, *self.knots)) if len(self.knots[0]) else p
        self.ms += self.next_ms
        self.nodes += 1


@dataclass(frozen=True)
class LengthDecision:
    """What a policy saw after a step and what it chose.

    wanted is Eq. 11 before clipping, in tokens, or the columns that were sure enough (None for a policy
    without either); decided names the term that fixed the length: "EMA_gen", "EMA_gen + δ", "k_min", "k_max",
    "fixed", "confidence", "failfast" or "predicted" (of k, the columns of this step), "throughput" or "no draft";
    rate: the tokens per second that next_k promises.
    """

    k: int
    generated: int
    accepted: int
    ema_gen: float | None
    ema_acc: float | None
    grew: bool
    wanted: float | None
    next_k: int
    decided: str
    rate: float | None = None


# Grows the tree that the next step could verify without a draft, as far as the budget goes.
Undrafted = Callable[[TreeBudget], object]


class LengthPolicy(ABC):
    """Sets how many masks the next draft fills.

    k: masks that the next draft fills; calibration: of the scores of tree nodes, where there is one.
    """

    k: int
    calibration: Calibration | None = None

    @abstractmethod
    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        """Take L_gen and L_acc of the step just verified; set and explain the next `k`.

        undrafted: asked by a policy that weighs a step without a draft; None where such a step would be plain decoding.
        """

    def columns(self, best: Sequence[float]) -> int:
        """How many columns of a draft are kept; best: log q of each column's likeliest token."""
        return len(best)

    def more(self, best: Sequence[float], room: int) -> int:
        """How many columns, at most `room`, the draft is to grow by before it is kept; 0 ends it."""
        return 0

    def tree_budget(self) -> TreeBudget | None:
        """What limits the tree of this step beside its number of nodes."""
        return None

    def took(self, other_ms: float) -> None:  # noqa: B027
        """Hear how long the step just made took beside drafting and verifying, in milliseconds."""


class FixedLength(LengthPolicy):
    """The same k at every step."""

    def __init__(self, k: int):
        self.k = k

    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        return LengthDecision(self.k, generated, accepted, None, None, False, None, self.k, "fixed")


class AdaptiveDraftLength(LengthPolicy):
    """ADL exactly as the paper writes it."""

    def __init__(self, k_min: int, k_max: int, delta: int, rho: float):
        self.k_min, self.k_max, self.delta, self.rho = k_min, k_max, delta, rho
        self.k = k_max
        self.ema_gen = self.ema_acc = 0.0

    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        used = self.k
        self.ema_gen += self.rho * (generated - self.ema_gen)
        self.ema_acc += self.rho * (accepted - self.ema_acc)
        grew = self.ema_acc >= self.ema_gen
        wanted = self.ema_gen + (self.delta if grew else 0)
        rounded = math.floor(wanted + 0.5)
        self.k = min(max(rounded, self.k_min), self.k_max)
        if rounded < self.k_min:
            decided = "k_min"
        elif rounded > self.k_max:
            decided = "k_max"
        else:
            decided = "EMA_gen + δ" if grew else "EMA_gen"
        return LengthDecision(used, generated, accepted, self.ema_gen, self.ema_acc, grew, wanted, self.k, decided)


class ConfidentLength(LengthPolicy):
    """k_max masks at every step, of which the columns are kept that the drafter is sure enough of, at least k_min."""

    decided = "confidence"

    def __init__(self, k_min: int, k_max: int, threshold: float):
        self.k_min, self.k, self.threshold = k_min, k_max, threshold
        self._sure = self._kept = self._drafted = k_max

    def columns(self, best: Sequence[float]) -> int:
        self._drafted, self._sure = len(best), self._sure_of(best)
        self._kept = min(max(self._sure, self.k_min), self._drafted)
        return self._kept

    def _sure_of(self, best: Sequence[float]) -> int:
        least = math.log(self.threshold)
        return next((i for i, total in enumerate(itertools.accumulate(best)) if total < least), len(best))

    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        decided = "k_max" if self._sure == self._drafted else "k_min" if self._sure < self.k_min else self.decided
        wanted = float(self._sure)
        return LengthDecision(self._kept, generated, accepted, None, None, False, wanted, self.k, decided)


class FailFastLength(LengthPolicy):
    """Short where the drafter is unsure, long where it is sure: k_min columns at a time."""

    def __init__(self, k_min: int, k_max: int, threshold: float):
        self.k, self.k_max, self.threshold = k_min, k_max, threshold
        self._drafted, self._unsure = k_min, False

    def more(self, best: Sequence[float], room: int) -> int:
        self._unsure = any(logq < math.log(self.threshold) for logq in best[-self.k :])
        return 0 if self._unsure else max(min(self.k, self.k_max - len(best), room), 0)

    def columns(self, best: Sequence[float]) -> int:
        self._drafted = len(best)
        return len(best)

    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        decided = "failfast" if self._unsure and self._drafted > self.k else "k_min" if self._unsure else "k_max"
        return LengthDecision(self._drafted, generated, accepted, None, None, not self._unsure, None, self.k, decided)


class PredictedLength(ConfidentLength):
    """k_max masks, of which the columns before the first that is expected to be refused are kept, at least k_min.

    `columns` is given the logarithm of the expected acceptance of each column instead of its likeliest log q.
    """

    decided = "predicted"

    def _sure_of(self, best: Sequence[float]) -> int:
        least = math.log(self.threshold)
        return next((i for i, expected in enumerate(best) if expected < least), len(best))


class ThroughputLength(LengthPolicy):
    """The k, and of a tree the nodes, that promise the most tokens per second.

    Acceptance at position i, given that the positions before it were accepted, is a running share: each step
    counts `MEMORY` times as much as the one after it, and a position with few trials leans on all of them together.
    """

    MEMORY, LEAN = 0.97, 4.0

    def __init__(self, k_min: int, k_max: int, cost: StepCost):
        self.k_min, self.k, self.cost = k_min, k_max, cost
        self._hits, self._trials = [0.0] * k_max, [0.0] * k_max
        self._draft_ms = [cost.draft_ms(k) for k in range(k_max + 1)]
        verify_ms = cost.verify_ms(MOST_ROWS)
        self._row_ms, self._verify_ms = np.diff(verify_ms), verify_ms.tolist()
        self._drafted, self._tree = k_max, None
        self._other_ms = None  # of a step, smoothed: search, commit, writing it down
        self._rows = None  # rows of a pass, smoothed, where they are a tree's and do not follow from k

    def columns(self, best: Sequence[float]) -> int:
        self._drafted = len(best)
        return len(best)

    def tree_budget(self) -> TreeBudget:
        self._tree = self._budget(self._draft_ms[self._drafted])
        return self._tree

    def _budget(self, draft_ms: float) -> TreeBudget:
        return TreeBudget(draft_ms + self._verify_ms[0] + (self._other_ms or 0.0), self._row_ms, self.calibration)

    def took(self, other_ms: float) -> None:
        self._other_ms = _smoothed(self._other_ms, other_ms)

    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        used = self._drafted
        if self._tree and used:
            self._rows = _smoothed(self._rows, self._tree.nodes + 1)
        for i in range(len(self._trials)):
            self._hits[i] *= self.MEMORY
            self._trials[i] *= self.MEMORY
            if i <= accepted and i < used:
                self._trials[i] += 1.0
                self._hits[i] += i < accepted
        self.k, rate = max(self._rates(), key=lambda entry: entry[1])
        decided = "k_max" if self.k == len(self._trials) else "k_min" if self.k == self.k_min else "throughput"
        budget = self._budget(0.0)
        if undrafted:
            undrafted(budget)
        if budget.expected / budget.ms > rate:
            self.k, rate, decided = 0, budget.expected / budget.ms, "no draft"
        return LengthDecision(used, generated, accepted, None, None, False, None, self.k, decided, 1e3 * rate)

    def _rates(self) -> Iterator[tuple[int, float]]:
        """(k, expected tokens per millisecond)."""
        pooled = (sum(self._hits) + 1.0) / (sum(self._trials) + 2.0)
        expected, reached = 1.0, 1.0
        tree_ms = self._between(self._rows) if self._rows else None
        for k in range(1, len(self._trials) + 1):
            reached *= (self._hits[k - 1] + self.LEAN * pooled) / (self._trials[k - 1] + self.LEAN)
            expected += reached
            if k >= self.k_min:
                verify_ms = tree_ms or self._verify_ms[min(k, MOST_ROWS - 1)]
                yield k, expected / (self._draft_ms[k] + verify_ms + (self._other_ms or 0.0))

    def _between(self, rows: float) -> float:
        """What a pass over `rows` costs, which need not be a whole number."""
        whole = min(int(rows), MOST_ROWS - 1)
        below, above = self._verify_ms[whole - 1 : whole + 1]
        return below + min(rows - whole, 1.0) * (above - below)


class NoDraft(LengthPolicy):
    """Of a pair without a drafter: k = 0 always. cost: of a tree whose nodes are to promise the most tokens per second,
    None where their number is as set."""

    k = 0

    def __init__(self, cost: StepCost | None = None):
        self._verify_ms = None if cost is None else cost.verify_ms(MOST_ROWS)
        self._other_ms = self._tree = None

    def tree_budget(self) -> TreeBudget | None:
        if self._verify_ms is not None:
            ms = self._verify_ms[0] + (self._other_ms or 0.0)
            self._tree = TreeBudget(ms, np.diff(self._verify_ms), self.calibration)
        return self._tree

    def took(self, other_ms: float) -> None:
        self._other_ms = _smoothed(self._other_ms, other_ms)

    def update(self, generated: int, accepted: int, undrafted: Undrafted | None = None) -> LengthDecision:
        rate = 1e3 * self._tree.expected / self._tree.ms if self._tree else None
        return LengthDecision(0, generated, accepted, None, None, False, None, 0, "no draft", rate)


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None else old + 0.2 * (new - old)


def make_policy(settings: Settings, cost: StepCost | None = None) -> LengthPolicy:
    """cost: what throughput weighs; the others need none."""
    if settings.length == "fixed":
        return FixedLength(settings.k)
    if settings.length == "confidence":
        return ConfidentLength(settings.k_min, settings.k_max, settings.confidence)
    if settings.length == "failfast":
        return FailFastLength(settings.k_min, settings.k_max, settings.confidence)
    if settings.length == "predicted":
        return PredictedLength(settings.k_min, settings.k_max, settings.confidence)
    if settings.length == "throughput":
        if cost is None:
            raise ValueError("length = throughput needs to know what a step costs here: give `cost`.")
        return ThroughputLength(settings.k_min, settings.k_max, cost)
    return AdaptiveDraftLength(settings.k_min, settings.k_max, settings.delta, settings.rho)
