"""Steps and traces made of what another engine told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffuspec.errors import TraceError
from diffuspec.method.lattice import TokenLattice
from diffuspec.method.length import LengthDecision
from diffuspec.method.search import SearchResult
from diffuspec.provenance import PairInfo, Provenance
from diffuspec.settings import Settings
from diffuspec.trace.model import MAX_STEPS, Trace
from diffuspec.trace.origin import NOT_TOLD, UNKNOWN, Origin
from diffuspec.trace.steps import Step, Timing, Verification

MAX_DRAFT = 1024  # drafted tokens of a step that are believed
MAX_TOKENS = 2**20  # of an answer, or a prompt
NO_TIMES = Timing(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Looked:
    """Probabilities that an engine gave of a step that drafted n tokens.

    ids, logq: the drafter's candidates [n, W], best first, and the row of the drafted one among them, ranks [n];
    path_logp, path_rank [n], top_ids, top_logp [n + 1, m], cell_logp [n, W]: as of `Verification`.
    """

    ids: np.ndarray
    logq: np.ndarray
    ranks: np.ndarray
    path_logp: np.ndarray
    path_rank: np.ndarray
    top_ids: np.ndarray
    top_logp: np.ndarray
    cell_logp: np.ndarray

    @classmethod
    def nothing(cls, drafted: Sequence[int]) -> Looked:
        """Only which tokens were drafted."""
        n = len(drafted)
        unknown, ids = np.full(n, np.nan, np.float32), np.array(drafted, np.int32).reshape(n, min(n, 1))
        return cls(
            ids=ids,
            logq=unknown.reshape(ids.shape),
            ranks=np.zeros(n, np.int32),
            path_logp=unknown,
            path_rank=np.full(n, -1, np.int32),
            top_ids=np.zeros((n + 1, 0), np.int32),
            top_logp=np.zeros((n + 1, 0), np.float32),
            cell_logp=unknown.reshape(ids.shape),
        )


@dataclass
class Answer:
    """A trace in the making: its steps, one after the other."""

    prompt_ids: Sequence[int] = ()
    steps: list[Step] = field(default_factory=list)
    start: int = 0

    def add(
        self,
        drafted: Sequence[int],
        accepted: int,
        emitted: Sequence[int],
        timing: Timing = NO_TIMES,
        looked: Looked | None = None,
    ) -> Step:
        """A step that drafted some tokens, of which the first `accepted` were, and wrote `emitted`: these and one of
        the target's own, or less where the answer ended. Raises `TraceError` for what cannot be."""
        n, whole = len(drafted), len(emitted) > accepted
        if not (0 <= accepted <= n <= MAX_DRAFT and 0 < len(emitted) <= accepted + 1):
            raise TraceError(
                f"Step {len(self.steps) + 1} of this trace drafts {n} tokens, accepts {accepted} and writes "
                f"{len(emitted)}, which cannot be."
            )
        if len(self.steps) >= MAX_STEPS:
            raise TraceError(f"This trace has more than {MAX_STEPS} steps.")
        looked = looked or Looked.nothing(drafted)
        before = self.steps[-1].emitted[-1] if self.steps else self.prompt_ids[-1] if len(self.prompt_ids) else UNKNOWN
        draws = (*emitted, *drafted[len(emitted) : accepted])
        step = Step(
            index=len(self.steps),
            start=self.start,
            anchor=int(before),
            lattice=TokenLattice(looked.ids, looked.logq, np.ones(looked.ids.shape, np.bool_)),
            search=SearchResult(
                method="argmax",
                ids=np.array(drafted, np.int32),
                ranks=looked.ranks,
                score=np.full(n, np.nan, np.float32),
                proxy_logp=np.full(looked.ids.shape, np.nan, np.float32),
            ),
            verification=Verification(
                accepted=accepted,
                token=int(emitted[-1]) if whole else None,
                kind=None if not whole else "bonus" if accepted == n else "correction",
                draws=tuple(int(token) for token in draws),
                path_logp=looked.path_logp,
                path_rank=looked.path_rank,
                top_ids=looked.top_ids,
                top_logp=looked.top_logp,
                cell_logp=looked.cell_logp,
            ),
            length=LengthDecision(n, n, accepted, None, None, False, None, 0, NOT_TOLD, None),
            emitted=tuple(int(token) for token in emitted),
            timing=timing,
        )
        self.steps.append(step)
        self.start += len(emitted)
        return step

    def trace(
        self,
        origin: Origin,
        *,
        model: str = "",
        drafter: str = "",
        text: str = "",
        prompt: str | None = None,
        stop_reason: str = "",
        pieces: Mapping[int, str] | None = None,
        special: Sequence[int] = (),
        stop_ids: Sequence[int] = (),
        prefill_ms: float = 0.0,
        wall_s: float = 0.0,
        temperature: float | None = None,
        info: PairInfo | None = None,
        source: Provenance | None = None,
    ) -> Trace:
        """pieces: as of `Trace`, where the texts of tokens are known; info, source: where more is known than names."""
        info = info or PairInfo(
            name=origin.engine.split()[0],
            target=model or "a model that was not told",
            drafter=drafter or "a drafter that was not told",
            drafter_kind="",
            dtype="",
            device="",
            context=0,
            max_draft=max((len(step.path) for step in self.steps), default=0),
            ngram=0,
        )
        settings = Settings(search="argmax", length="fixed", proxy="none")
        if temperature:
            settings = settings.replace(
                temperature=min(temperature, Settings.knobs()["temperature"].high or temperature)
            )
        return Trace(
            prompt=prompt,
            prompt_ids=tuple(int(token) for token in self.prompt_ids),
            settings=settings,
            pair=info,
            provenance=source or Provenance("", "", 0, {}),
            stop_ids=tuple(stop_ids),
            pieces=dict(pieces or {}),
            special=tuple(special),
            steps=tuple(self.steps),
            text=text,
            stop_reason=stop_reason or "a reason that is not told",
            prefill_ms=prefill_ms,
            wall_s=wall_s,
            origin=origin,
        )
