"""Traces that another engine made: which one, and how much it told.

Nothing that was not told is made up. A token that nobody named has the id `UNKNOWN`, a probability that nobody gave is
NaN, times that nobody took are 0 and not shown.
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = -1  # the id of a token that was not told
NOT_TOLD = "not told"  # decided a draft's length

# What an engine may tell of a run, from most to least.
KNOWS = {
    "tokens": "which tokens were drafted, accepted and written in each step",
    "lengths": "how many tokens were drafted and accepted in each step",
    "totals": "sums over the run",
}
TIMES = ("", "steps", "stages")


@dataclass(frozen=True)
class Totals:
    """Sums over a run, in tokens and steps; None where they were not told. histogram: entry j counts the steps that
    accepted j drafted tokens."""

    tokens: int
    steps: int | None
    drafted: int
    accepted: int
    histogram: tuple[int, ...] = ()

    def holds(self) -> bool:
        numbers = (self.tokens, self.steps or 0, self.drafted, self.accepted, *self.histogram)
        return min(numbers) >= 0 and self.accepted <= self.drafted and len(self.histogram) <= 4096


@dataclass(frozen=True)
class Origin:
    """engine: its name and, where it is known, its version; knows: a key of `KNOWS`; times: "" where none were told,
    "steps" for whole steps, "stages" for draft and verification apart; candidates: whether the drafter's other
    candidates and its q are known; target: whether the target's p is; reading: what had to be decided to read the file,
    in sentences; totals: where the steps do not tell all."""

    engine: str
    knows: str
    times: str = ""
    candidates: bool = False
    target: bool = False
    reading: str = ""
    totals: Totals | None = None

    @property
    def missing(self) -> list[str]:
        """What its traces lack, in words."""
        return [
            *(["single steps"] if self.knows == "totals" else []),
            *(["which tokens were drafted"] if self.knows == "lengths" else []),
            *([] if self.candidates else ["the drafter’s other candidates and its q"]),
            *([] if self.target else ["the target’s p"]),
            *{"": ["times of steps"], "steps": ["times of the stages of a step"], "stages": []}[self.times],
            "plain decoding’s answer",
        ]

    @property
    def sentence(self) -> str:
        """What is known, what is not, and how the file was read."""
        missing = self.missing
        listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
        return " ".join(filter(None, [f"{self.engine} tells {KNOWS[self.knows]}. Not told: {listed}.", self.reading]))

    def holds(self) -> bool:
        known = self.knows in KNOWS and self.times in TIMES
        return known and (self.totals is None or self.totals.holds()) and (self.knows != "totals" or bool(self.totals))
