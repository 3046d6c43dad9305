"""Algorithm 1 of DiffuSpec (arXiv 2510.02358), one method a line of the paper.

    draft    k masked positions in one drafter pass          -> token lattice
    search   a left-to-right path through the lattice        -> CPS
    verify   the path, or a tree of paths, in one target pass -> accepted tokens and one of its own
    commit   keep what was accepted, roll the caches back
    adapt    the next draft length                           -> ADL

The newest token, the *anchor*, is always emitted but not yet in the target's cache: each target
pass reads the anchor and the path, so that a step emits at least one token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diffuspec.errors import ModelError, PromptError, SettingsError, Stopped
from diffuspec.method.acceptance import Verdict, verify, verify_ratio, verify_tree
from diffuspec.method.copying import make_source
from diffuspec.method.lattice import TokenLattice, generated_length, prune
from diffuspec.method.length import NoDraft, TreeBudget, make_policy
from diffuspec.method.proxy import LEARNED, LEAST, NoProxy, Proxy, make_proxy, possible_proxy
from diffuspec.method.sampling import NOT_NUMBERS, distribution, draw
from diffuspec.method.search import SearchResult, TreeSearch, sample_path, search_lattice, warm_up
from diffuspec.models.pair import Pair
from diffuspec.models.ranking import RankedLogits
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.recorder import IMPOSSIBLE, Recorder
from diffuspec.trace.steps import Step

LATTICE_ROWS = 15
_NO_DRAFT = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)


class DiffuSpec:
    """Speculative decoding of one pair with one choice of settings.

    settings: by default those that suit the pair; note: what stands for a setting that it cannot have, or None.
    Raises `SettingsError` where a draft length exceeds what the pair's
    drafter can fill, or where it has none and the search is not for a tree, which alone drafts without.
    """

    def __init__(self, pair: Pair, settings: Settings | None = None):
        self.pair = pair
        self.settings = settings or pair.settings
        self.note = None
        if possible_proxy(self.settings.proxy, pair.proxy) != self.settings.proxy:
            self.note = (
                f"The pair {pair.info.name} has no fitted n-gram: the one of the text so far (proxy = context) stands "
                f"for {self.settings.proxy}. Attach one with --ngram; `diffuspec train ngram` makes it."
            )
        if not pair.drafter.max_block:
            if self.settings.search != "tree":
                raise SettingsError(
                    f"The pair {pair.info.name!r} has no diffusion drafter, so there is nothing to search for search = "
                    f"{self.settings.search}: only search = tree drafts without one, from copies and the n-gram."
                )
            return
        longest = "k" if self.settings.length == "fixed" else "k_max"
        if getattr(self.settings, longest) > pair.drafter.max_block:
            raise SettingsError(
                f"{longest} = {getattr(self.settings, longest)} exceeds the {pair.drafter.max_block} positions "
                f"the drafter of the pair {pair.info.name!r} can fill."
            )
        if pair.target.remote and self.settings.temperature and self.settings.rule != "point-mass":
            raise SettingsError(
                f"rule = {self.settings.rule} compares probabilities, and a server does not tell all of its own: "
                "choose rule = point-mass."
            )
        if self.settings.search == "tree" and not pair.target.trees:
            raise SettingsError(
                f"search = tree needs a target whose rows have positions of their own, which {pair.info.target} does "
                "not take: use search = cps."
            )
        for asked, has, what in (
            (self.settings.proxy if self.settings.search != "argmax" else "", pair.drafter.following, "proxy"),
            (self.settings.length, "predicted" if pair.drafter.predicts_acceptance else None, "length"),
        ):
            if asked in (*LEARNED, "predicted") and asked != has:
                learned = f": choose {has}, or another" if has else ", for it learned none: choose another"
                raise SettingsError(f"{what} = {asked} is not possible with the drafter {pair.info.drafter}{learned}.")
        if pair.drafter.recurrent and self.settings.proxy in LEARNED and self.settings.search == "exact":
            raise SettingsError(
                "search = exact needs a proxy that looks back a few tokens; this drafter's Markov head looks back over "
                "the whole draft: choose search = cps or tree."
            )

    def run(self, prompt: str | list | None = None, **options) -> Trace:
        """Decode to the end; arguments as `stream`."""
        run = self.stream(prompt, **options)
        for _ in run:
            pass
        return run.trace

    def stream(
        self, prompt: str | list | None = None, *, ids: Sequence[int] | None = None, max_new_tokens: int | None = None
    ) -> Run:
        """Start a run and return it; iterating yields a `Step` at a time.

        prompt: a user turn, or chat messages, put into the chat template; ids: raw token ids instead.
        Raises `PromptError` for an empty prompt or one that leaves no room for an answer.
        """
        settings = self.settings
        if max_new_tokens is not None:
            settings = settings.replace(max_new_tokens=max_new_tokens)
        if (prompt is None) == (ids is None):
            raise PromptError("Give either a prompt or token ids.")
        ids = self.pair.encode(prompt) if ids is None else list(ids)
        return Run(self.pair, settings, ids, prompt)


class Run:
    """One answer in the making: an iterator of steps that owns the caches.

    `trace` is what has happened so far, at any time, also where a step raised an error; `stop()` ends the run
    before its next step. should_stop: asked while a long prompt is read.
    """

    should_stop: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, pair: Pair, settings: Settings, ids: Sequence[int], prompt: str | list | None = None):
        settings = settings.replace(proxy=possible_proxy(settings.proxy, pair.proxy))
        self.pair, self.settings = pair, settings
        self.prefix = list(ids)
        self.stop_ids = pair.stop_ids
        self.budget = min(settings.max_new_tokens, pair.room(ids))
        cost = pair.step_cost if settings.length == "throughput" else None
        self.policy = make_policy(settings, cost) if pair.drafter.max_block else NoDraft(cost)
        self.policy.calibration = pair.calibration
        proxy = settings.proxy if settings.search != "argmax" else "none"
        self.learned = proxy in LEARNED
        self.proxy: Proxy = make_proxy(
            "none" if self.learned else proxy,
            ngram=pair.proxy,
            vocab_size=pair.target.vocab_size,
            weight=settings.context_weight,
            prompt_ids=ids,
        )
        self.source = make_source(settings, ids)
        self.random = np.random.default_rng(settings.seed)
        self.cache = self.pending_tree = None
        self.stop_reason = "running"
        warm_up(settings.search)
        self.recorder = Recorder(pair, settings, prompt, ids)

    @property
    def trace(self) -> Trace:
        return self.recorder.trace(self.stop_reason)

    def stop(self) -> None:
        """May be called from another thread: a step under way is finished first."""
        if self.stop_reason == "running":
            self.stop_reason = "stopped"

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        try:
            if self.cache is None and self.stop_reason == "running":
                self.prefill()
            if self.stop_reason == "running":
                return self.step()
        except Stopped:
            self.stop()
        except Exception:
            self.stop_reason = "failed"
            raise
        self.cache = None
        raise StopIteration

    def _told_to_stop(self) -> bool:
        return self.stop_reason != "running" or self.should_stop()

    def prefill(self) -> None:
        """Read the prompt, all but its last token, which is the first anchor."""
        started = time.perf_counter()
        hidden = self.pair.drafter.hidden_entries
        self.cache = self.pair.target.start(self.prefix, self.settings, hidden, self._told_to_stop)
        if self.cache is None:
            self.stop()
        self.recorder.prefilled(time.perf_counter() - started)

    def step(self) -> Step:
        clock = self.recorder.clock()
        k = min(self.policy.k, self.budget - 1)

        ids, logq = self.draft(k)
        clock.lap("draft")
        lattice = self.prune(ids, logq)
        path = self.search(lattice)
        clock.lap("search")
        logits = self.target_pass(path)
        verdict = self.verify(lattice, path, logits)
        clock.lap("verify")
        emitted = self.commit(path, verdict)
        self.pending_tree = None
        grow = self.grow_undrafted if isinstance(path, TreeSearch) else None
        decision = self.policy.update(generated_length(lattice.raw_draft, self.stop_ids), verdict.accepted, grow)
        clock.lap("commit")
        step = self.recorder.record(clock, lattice, path, logits, verdict, decision, emitted)
        self.policy.took(step.timing.search_ms + step.timing.commit_ms + step.timing.record_ms)
        return step

    def draft(self, k: int):
        if not k:
            self.policy.columns(())
            return _NO_DRAFT
        width = max(self.settings.m_max, LATTICE_ROWS)
        options = dict(width=width, passes=self.settings.passes, cache=self.cache)
        ids, logq = self.pair.drafter.draft(self.prefix, k, **options)
        drafter, anchor = self.pair.drafter, self.prefix[-1]
        logq = np.nan_to_num(logq, nan=IMPOSSIBLE, neginf=IMPOSSIBLE).clip(IMPOSSIBLE, 0.0)
        while more := self.policy.more(logq[:, 0].tolist(), self.budget - 1 - len(ids)):
            ids, logq = drafter.extend(self.prefix, ids, logq, more, width=options["width"], cache=self.cache)
        if self.pair.calibration:
            logq = self.pair.calibration.tempered(logq)
        best = logq[:, 0]
        if self.settings.length == "predicted":
            best = np.log(np.maximum(drafter.acceptance(self.cache, anchor, ids, logq), LEAST))
        kept = self.policy.columns(best.tolist())
        ids, logq = ids[:kept], logq[:kept]
        if self.learned:
            self.proxy = drafter.follow(self.cache, anchor, ids, logq)
        return ids, logq

    def prune(self, ids: np.ndarray, logq: np.ndarray) -> TokenLattice:
        return prune(ids, logq, tau=self.settings.tau, m_max=self.settings.m_max, stop_ids=self.stop_ids)

    def search(self, lattice: TokenLattice) -> SearchResult | TreeSearch:
        settings, stop_ids = self.settings, self.stop_ids
        rule = settings.rule if settings.temperature else "greedy"
        if rule == "sampled-path":
            drawn = dict(lam=1.0, stop_ids=stop_ids, random=self.random, method=rule)
            return sample_path(lattice, NoProxy(), self.prefix, **drawn)
        if rule == "sampled-search":
            drawn = dict(lam=settings.lam, stop_ids=stop_ids, random=self.random)
            return sample_path(lattice, self.proxy, self.prefix, **drawn)
        if not lattice.k and self.pending_tree is not None:
            return self.pending_tree
        return self.search_as_set(lattice, self.policy.tree_budget())

    def search_as_set(self, lattice: TokenLattice, budget: TreeBudget | None) -> SearchResult | TreeSearch:
        deepest = self.budget - 1
        options = dict(stop_ids=self.stop_ids, source=self.source, deepest=deepest, budget=budget)
        return search_lattice(lattice, self.proxy, self.prefix, self.settings, **options)

    def grow_undrafted(self, budget: TreeBudget) -> None:
        """Grow the tree of a step without a draft, in case the length policy wants one."""
        if self.budget:
            self.pending_tree = self.search_as_set(self.prune(*_NO_DRAFT), budget)

    def target_pass(self, path: SearchResult | TreeSearch) -> RankedLogits:
        """One target pass over the anchor and the draft: logits [n + 1, V]."""
        parents = [-1, *(path.tree.parent + 1).tolist()] if isinstance(path, TreeSearch) else None
        logits = self.pair.target.ranked(self.cache, [self.prefix[-1], *path.ids.tolist()], parents)
        if not logits.are_numbers():
            raise ModelError(NOT_NUMBERS)
        return logits

    def verify(self, lattice: TokenLattice, path: SearchResult | TreeSearch, logits: RankedLogits) -> Verdict:
        settings = self.settings
        choose = self.chooser(logits)
        if isinstance(path, TreeSearch):
            return verify_tree(path.tree, choose, self.stop_ids)
        if settings.temperature == 0 or settings.rule == "point-mass":
            return verify(path.ids, choose, self.stop_ids)
        cells = lattice.ids[: len(path)]
        proposal = np.exp(lattice.logq[: len(path)]) if settings.rule == "paper" else path.proposal
        return verify_ratio(path.ids, cells, proposal, self.distributions(logits), self.random, self.stop_ids)

    def distributions(self, logits: RankedLogits) -> Callable[[int], np.ndarray]:
        """The distribution sampled from at row i of the pass, float64 [V]."""
        s = self.settings
        return lambda i: distribution(logits.array[i], s.temperature, s.top_k, s.top_p)

    def chooser(self, logits: RankedLogits) -> Callable[[int], int]:
        """The target's own token at row i of the pass: argmax, or a draw."""
        if self.settings.temperature == 0 or logits.drawn:
            return logits.likeliest.tolist().__getitem__
        p = self.distributions(logits)
        return lambda i: draw(p(i), self.random.random())

    def commit(self, path: SearchResult | TreeSearch, verdict: Verdict) -> tuple[int, ...]:
        """Emit what was accepted and the target's own token; forget the rejected rest."""
        emitted = path.ids[list(verdict.nodes)].tolist()
        if verdict.token is not None:
            emitted.append(verdict.token)
        self.pair.target.keep(self.cache, len(path.ids) + 1, [0, *(node + 1 for node in verdict.nodes)])
        self.prefix.extend(emitted)
        self.proxy.extend(emitted)
        if self.source:
            self.source.extend(emitted)
        self.budget -= len(emitted)
        if emitted[-1] in self.stop_ids:
            self.stop_reason = "stop token"
        elif self.budget == 0:
            full = len(self.prefix) == self.pair.info.context
            self.stop_reason = "context" if full else "max tokens"
        return tuple(emitted)
