"""Writes a run down as it happens, without making it slower."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from diffuspec.method.acceptance import Verdict
from diffuspec.method.lattice import TokenLattice
from diffuspec.method.length import LengthDecision
from diffuspec.method.sampling import distribution
from diffuspec.method.search import SearchResult, TreeSearch
from diffuspec.method.tree import PrefixTree
from diffuspec.models.pair import Pair
from diffuspec.models.ranking import RankedLogits, warm_up
from diffuspec.provenance import provenance
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.steps import ServerPass, Step, Timing, TreeVerification, Verification

IMPOSSIBLE = -1e4  # stands for the log of a probability of 0: finite, so that it can be saved


class Clock:
    """Wall time of the stages of one step, in milliseconds."""

    def __init__(self):
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now


class Recorder:
    """Collects the steps of one run and makes a `Trace` of them at any time."""

    def __init__(self, pair: Pair, settings: Settings, prompt: str | list | None, ids: Sequence[int]):
        self.pair, self.settings = pair, settings
        self.prompt = prompt if isinstance(prompt, str) or prompt is None else prompt[-1]["content"]
        self.prompt_ids = tuple(ids)
        self.anchor = ids[-1]
        self.steps: list[Step] = []
        self.start = 0
        self.prefill_s = 0.0
        self._pieces = self._spell({}, self.prompt_ids)
        self._spelled = 0
        warm_up()

    def prefilled(self, seconds: float) -> None:
        self.prefill_s = seconds

    def clock(self) -> Clock:
        return Clock()

    def record(
        self,
        clock: Clock,
        lattice: TokenLattice,
        found: SearchResult | TreeSearch,
        logits: RankedLogits,
        verdict: Verdict,
        decision: LengthDecision,
        emitted: tuple[int, ...],
    ) -> Step:
        logits = self._as_sampled(logits)
        if isinstance(found, TreeSearch):
            path = found.along(verdict.nodes[-1] if verdict.nodes else -1)
            assert path.nodes is not None
            tree = tree_verification(logits, found.tree, verdict)
            verification = path_verification(
                logits, lattice, path, verdict, tree, np.concatenate([[0], path.nodes + 1])
            )
        else:
            path = found
            verification = path_verification(logits, lattice, path, verdict)
        clock.lap("record")
        timing = Timing(**{f"{stage}_ms": ms for stage, ms in clock.ms.items()})
        step = Step(
            index=len(self.steps),
            start=self.start,
            anchor=self.anchor,
            lattice=lattice,
            search=path,
            verification=verification,
            length=decision,
            emitted=emitted,
            timing=timing,
        )
        self.steps.append(step)
        self.start += len(emitted)
        self.anchor = emitted[-1]
        return step

    def _as_sampled(self, logits: RankedLogits) -> RankedLogits:
        """Logits of the distribution that was sampled from; as they are where the run is greedy."""
        s = self.settings
        if not s.temperature or logits.drawn:
            return logits
        if not s.top_k and s.top_p == 1.0:
            return RankedLogits(logits.values / s.temperature)
        p = np.stack([distribution(row, s.temperature, s.top_k, s.top_p) for row in logits.array])
        with np.errstate(divide="ignore"):
            return RankedLogits(torch.from_numpy(np.log(p).clip(IMPOSSIBLE).astype(np.float32)))

    def trace(self, stop_reason: str) -> Trace:
        steps = tuple(self.steps)
        for step in steps[self._spelled :]:
            seen = np.concatenate([step.lattice.ids.ravel(), step.verification.top_ids.ravel(), step.emitted])
            if step.search.tree is not None:
                seen = np.concatenate([seen, step.search.tree.ids])
            self._pieces = self._spell(self._pieces, np.unique(seen).tolist())
        self._spelled = len(steps)
        answer = [token for step in steps for token in step.emitted]
        special = self.pair.special_ids
        return Trace(
            prompt=self.prompt,
            prompt_ids=self.prompt_ids,
            settings=self.settings,
            pair=self.pair.info,
            provenance=provenance(),
            stop_ids=tuple(sorted(self.pair.stop_ids)),
            pieces=self._pieces,
            special=tuple(sorted(special & self._pieces.keys())),
            steps=steps,
            text=self.pair.tokenizer.decode([t for t in answer if t not in special]),
            stop_reason=stop_reason,
            prefill_ms=self.prefill_s * 1e3,
            wall_s=self.prefill_s + sum(step.timing.total_ms for step in steps) / 1e3,
        )

    def _spell(self, known: dict[int, str], ids: Iterable[int]) -> dict[int, str]:
        """`known` and the bytes of the tokens it lacks; a new dict, since traces given out hold the old one."""
        return {**known, **{i: self.pair.piece(i).decode("latin-1") for i in ids if i not in known}}


def path_verification(
    logits: RankedLogits,
    lattice: TokenLattice,
    path: SearchResult,
    verdict: Verdict,
    tree: TreeVerification | None = None,
    places: np.ndarray | None = None,
) -> Verification:
    """What the target thought of the path and of its neighbours; places: the row after each number of its tokens."""
    n = len(path)
    places = np.arange(n + 1) if places is None else places
    top_ids, top, norm = logits.top(places)
    path_logp, path_rank, cell_logp = logits.along(places[:n], path.ids, lattice.ids[:n])
    return Verification(
        accepted=verdict.accepted,
        token=verdict.token,
        kind=verdict.kind,
        draws=verdict.draws,
        path_logp=path_logp.clip(IMPOSSIBLE),
        path_rank=path_rank,
        top_ids=top_ids,
        top_logp=(top - norm[:, None]).clip(IMPOSSIBLE),
        cell_logp=cell_logp.clip(IMPOSSIBLE),
        tree=tree,
        uniforms=verdict.uniforms,
        ratios=verdict.ratios,
        server=ServerPass(**vars(logits.took)) if logits.drawn else None,
    )


def tree_verification(logits: RankedLogits, tree: PrefixTree, verdict: Verdict) -> TreeVerification:
    """What the target thought of every node."""
    accepted = np.zeros(len(tree), bool)
    accepted[list(verdict.nodes)] = True
    logp = logits.logp(tree.parent + 1, tree.ids).clip(IMPOSSIBLE)
    return TreeVerification(accepted=accepted, logp=logp, own=logits.likeliest.astype(np.int32))
