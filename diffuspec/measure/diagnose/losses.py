"""What each step lost against a drafter that is always right, and to what.

An oracle drafter gives the right tokens at no cost, as many as make a token cheapest: of n tokens in a pass that takes
v(n), a token takes b = min v(n) / n, over the sizes whose cost was measured. A step that emitted e tokens took

    draft + host + verify  =  e b  +  draft  +  host  +  (v(rows) - v(e))  +  (v(e) - e b)  +  (verify - v(rows)).

So what is more than e b is: drafting; the host's own work; rows that were read and refused; a pass that emitted too few
tokens to be worth its weights, which is put down to why it stopped where it did; and what the pass took longer than its
size says, which stays unexplained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffuspec.measure.diagnose.machine import MOST_ROWS, Costs
from diffuspec.method.acceptance import Verdict
from diffuspec.method.lattice import TokenLattice
from diffuspec.settings import Settings
from diffuspec.trace.steps import Step

UNKNOWN_TOKEN, PRUNED, NOT_CHOSEN, TOO_SMALL, TOO_DEAR = "unknown", "pruned", "not chosen", "too small", "too dear"
TOO_SHORT, NO_DRAFT, END = "too short", "no draft", "end"
DRAFTING, HOST, REFUSED, UNEXPLAINED = "drafting", "host", "refused rows", "unexplained"

WORDS = {
    UNKNOWN_TOKEN: "the drafter does not know the token",
    PRUNED: "the token was pruned away",
    NOT_CHOSEN: "the search did not choose it",
    TOO_SMALL: "the tree was too small for it",
    TOO_DEAR: "a row for it would not have paid",
    TOO_SHORT: "the draft was too short",
    NO_DRAFT: "no draft was made",
    END: "the answer ended",
    DRAFTING: "drafting",
    HOST: "search and bookkeeping on the host",
    REFUSED: "rows read and refused",
    UNEXPLAINED: "not explained",
}


@dataclass(frozen=True)
class Loss:
    """name: a key of `WORDS`; ms_per_token: of all tokens; steps: that it ended, 0 where it is no ending."""

    name: str
    ms_per_token: float
    steps: int


@dataclass(frozen=True)
class Losses:
    """Of a run, in milliseconds a token: reached, the oracle's bound, and what lies between them, largest first;
    oracle_rows: tokens in the oracle's pass."""

    reached_ms: float
    bound_ms: float
    oracle_rows: int
    losses: tuple[Loss, ...]

    @property
    def gap_ms(self) -> float:
        return self.reached_ms - self.bound_ms

    @property
    def explained(self) -> float:
        """Share of the gap that has a name."""
        left = sum(loss.ms_per_token for loss in self.losses if loss.name == UNEXPLAINED)
        return 1 - abs(left) / self.gap_ms if self.gap_ms > 0 else 0.0


def reason(lattice: TokenLattice, nodes: int, verdict: Verdict, settings: Settings, tree: bool, ended: bool) -> str:
    """Why a step gave no more tokens than it did."""
    if ended or verdict.token is None:
        return END
    column = verdict.accepted
    if column >= lattice.k:
        return TOO_SHORT if lattice.k else NO_DRAFT
    rank = lattice.rank_of(column, verdict.token)
    if rank is None:
        return UNKNOWN_TOKEN
    if not lattice.kept[column, rank]:
        return PRUNED
    if not tree:
        return NOT_CHOSEN
    return TOO_DEAR if nodes < settings.nodes else TOO_SMALL


def reason_of(step: Step, settings: Settings, last: bool) -> str:
    """`reason` of a recorded step; last: of its answer."""
    check = step.verification
    verdict = Verdict(check.accepted, check.token, check.kind, check.draws, ())
    nodes = len(step.search if step.search.tree is None else step.search.tree)
    return reason(step.lattice, nodes, verdict, settings, step.search.tree is not None, last)


def rows_of(step: Step) -> int:
    """Of its target pass: the anchor and what was drafted."""
    return 1 + len(step.search if step.search.tree is None else step.search.tree)


def bound(costs: Costs) -> tuple[float, int]:
    """The oracle drafter's milliseconds a token, and the tokens in its pass: of those that were measured."""
    return min((costs.verify_ms(n) / n, n) for n in range(1, costs.steps.verify[-1][0] + 1))


def losses(answers: Iterable[Sequence[Step]], settings: Settings, costs: Costs) -> Losses:
    """Of the recorded steps of some answers."""
    least, rows = bound(costs)
    cost = [0.0, *(costs.verify_ms(n) for n in range(1, MOST_ROWS + 1))]
    spent: dict[str, float] = dict.fromkeys((DRAFTING, HOST, REFUSED, UNEXPLAINED), 0.0)
    ended: dict[str, int] = {}
    tokens, total = 0, 0.0
    for steps in answers:
        for step in steps:
            timing, n = step.timing, len(step.emitted)
            why = reason_of(step, settings, step is steps[-1])
            read = costs.verify_ms(rows_of(step))
            tokens, total = tokens + n, total + timing.total_ms
            spent[DRAFTING] += timing.draft_ms
            spent[HOST] += timing.search_ms + timing.commit_ms + timing.record_ms
            spent[REFUSED] += read - cost[n]
            spent[UNEXPLAINED] += timing.verify_ms - read
            spent[why] = spent.get(why, 0.0) + cost[n] - n * least
            ended[why] = ended.get(why, 0) + 1
    if not tokens:
        return Losses(0.0, least, rows, ())
    found = [Loss(name, ms / tokens, ended.get(name, 0)) for name, ms in spent.items() if ms or name == UNEXPLAINED]
    return Losses(total / tokens, least, rows, tuple(sorted(found, key=lambda loss: -loss.ms_per_token)))
