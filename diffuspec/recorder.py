"""Writes a run down as it happens, without making it slower."""

from __future__ import annotations

import datetime
import functools
import os
import platform
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
from diffuspec.models.kernels import likeliest_of
from diffuspec.models.pair import Pair
from diffuspec.settings import Settings
from diffuspec.trace import Provenance, Step, Timing, Trace, TreeVerification, Verification

ALTERNATIVES = 8
IMPOSSIBLE = -1e4  # log p of a token that top-k or top-p took out; finite, so that it can be saved


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

    def prefilled(self, seconds: float) -> None:
        self.prefill_s = seconds

    def clock(self) -> Clock:
        return Clock()

    def record(
        self,
        clock: Clock,
        lattice: TokenLattice,
        found: SearchResult | TreeSearch,
        logits: torch.Tensor,
        verdict: Verdict,
        decision: LengthDecision,
        emitted: tuple[int, ...],
        likeliest: torch.Tensor | None = None,
    ) -> Step:
        """likeliest: argmax of each row of logits, where the verifier has it already."""
        logits = self._as_sampled(logits)
        rows = Rows(logits)
        if isinstance(found, TreeSearch):
            path = found.along(verdict.nodes[-1] if verdict.nodes else -1)
            own = logits.argmax(-1) if likeliest is None else likeliest.cpu().numpy()
            places = np.concatenate([[0], path.nodes + 1])
            rows.look(np.concatenate([path.tree.parent + 1, places]))  # at once: a call costs half as much as a row
            tree = look_at_tree(rows, own, path.tree, verdict)
            verification = look(rows, lattice, path, verdict, tree, places)
        else:
            path = found
            verification = look(rows, lattice, path, verdict)
        clock.lap("record")
        timing = Timing(**{f"{stage}_ms": ms for stage, ms in clock.ms.items()})
        step = Step(
            index=len(self.steps), start=self.start, anchor=self.anchor, lattice=lattice, search=path,
            verification=verification, length=decision, emitted=emitted, timing=timing,
        )  # fmt: skip
        self.steps.append(step)
        self.start += len(emitted)
        self.anchor = emitted[-1]
        return step

    def _as_sampled(self, logits: torch.Tensor) -> np.ndarray:
        """Logits of the distribution that was sampled from; as they are where the run is greedy."""
        s, logits = self.settings, logits.cpu().numpy()
        if not s.temperature:
            return logits
        if not s.top_k and s.top_p == 1.0:
            return logits / s.temperature
        p = np.stack([distribution(row, s.temperature, s.top_k, s.top_p) for row in logits])
        with np.errstate(divide="ignore"):
            return np.log(p).clip(IMPOSSIBLE).astype(np.float32)

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


class Rows:
    """The target's logits, float32 [n, V], of which each row asked for is looked through once."""

    def __init__(self, logits: np.ndarray):
        self.logits = np.ascontiguousarray(logits, np.float32)
        rows, width = self.logits.shape
        few = min(ALTERNATIVES, width)
        self._seen = np.zeros(rows, bool)
        self._ids, self._top = np.zeros((rows, few), np.int32), np.zeros((rows, few), np.float32)
        self._norm = np.zeros(rows, np.float32)

    def look(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of these rows, int64 [m]: ids and logits of the `ALTERNATIVES` likeliest tokens, best first, [m, ..], and
        logsumexp [m]."""
        new = np.zeros(len(self._seen), bool)
        new[rows] = True
        new &= ~self._seen
        if new.any():
            self._ids[new], self._top[new], self._norm[new] = likeliest_of(
                self.logits, np.flatnonzero(new), self._ids.shape[1]
            )
            self._seen |= new
        return self._ids[rows], self._top[rows], self._norm[rows]


def look(
    rows: Rows,
    lattice: TokenLattice,
    path: SearchResult,
    verdict: Verdict,
    tree: TreeVerification | None = None,
    places: np.ndarray | None = None,
) -> Verification:
    """What the target thought of the path and of its neighbours; places: the row after each number of its tokens."""
    n, columns = len(path), min(len(path), lattice.k)
    places = np.arange(n + 1) if places is None else places
    top_ids, top, norm = rows.look(places)
    path_logits = rows.logits[places[:n], path.ids]
    cell_logp = np.full((n, lattice.width), np.nan, np.float32)
    cell_logp[:columns] = rows.logits[places[:columns, None], lattice.ids[:columns]] - norm[:columns, None]
    path_rank = (top[:n] > path_logits[:, None]).sum(1, dtype=np.int32)
    for i in np.flatnonzero(path_rank == top.shape[1]):  # whatever is larger than one of the top is among the top
        path_rank[i] = np.count_nonzero(rows.logits[places[i]] > path_logits[i])
    return Verification(
        accepted=verdict.accepted,
        token=verdict.token,
        kind=verdict.kind,
        draws=verdict.draws,
        path_logp=path_logits - norm[:n],
        path_rank=path_rank,
        top_ids=top_ids,
        top_logp=top - norm[:, None],
        cell_logp=cell_logp,
        tree=tree,
        uniforms=verdict.uniforms,
        ratios=verdict.ratios,
    )


def look_at_tree(rows: Rows, own: np.ndarray, tree: PrefixTree, verdict: Verdict) -> TreeVerification:
    """What the target thought of every node; own: its likeliest token in every row, row 0 after the anchor."""
    above = tree.parent + 1
    accepted = np.zeros(len(tree), bool)
    accepted[list(verdict.nodes)] = True
    _, _, norm = rows.look(above)
    return TreeVerification(accepted=accepted, logp=rows.logits[above, tree.ids] - norm, own=own.astype(np.int32))


@functools.cache
def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    if torch.cuda.is_available():
        name = f"{torch.cuda.get_device_name()}, {name}"
    return f"{name}, {os.cpu_count()} cores"


@functools.cache
def _versions() -> dict[str, str]:
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def provenance() -> Provenance:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Provenance(recorded_at=now, machine=_machine(), threads=torch.get_num_threads(), versions=_versions())
