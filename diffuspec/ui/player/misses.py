"""Why drafts were refused: the right token was not in the lattice, was pruned, or was passed over."""

from __future__ import annotations

from diffuspec.trace.model import Trace
from diffuspec.trace.origin import NOT_TOLD
from diffuspec.trace.steps import Step

KINDS = ("drafter", "pruned", "search")


def miss(step: Step) -> str | None:
    """`drafter`, `pruned` or `search` for a step whose draft was refused, None for any other, and where another
    engine did not tell what else it drafted."""
    if step.length.decided == NOT_TOLD:
        return None
    place = step.verification.accepted
    if step.verification.kind != "correction" or place >= step.lattice.k:
        return None
    rank = step.lattice.rank_of(place, step.verification.draws[place])
    if rank is None:
        return "drafter"
    return "search" if step.lattice.kept[place, rank] else "pruned"


def misses(trace: Trace) -> dict[str, list[int]]:
    """Kind -> indices of the steps that were refused for it."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for step in trace.steps:
        if (kind := miss(step)) is not None:
            found[kind].append(step.index)
    return found
