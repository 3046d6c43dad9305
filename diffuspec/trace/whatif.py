"""What if: a recorded step again under other settings, and what the models would have made of another path.

Searching the recorded lattice again needs no model: the lattice, the text before the step and the
n-gram are all there. How many tokens of the new path the target would have accepted is known as far
as the recorded answer goes on, for under the greedy rule what the answer says next *is* the target's
choice after every prefix of itself (where it draws its tokens: the same draws). Beyond the answer's
end, and where tokens were accepted by ratio, it is unknown, and said to be.

With the models: `verify_path` reads another path in one target pass. To draft the step again at
another length, or to go on from any other prefix, `DiffuSpec.stream(ids=prefix)`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from diffuspec import assets
from diffuspec.errors import PromptError, SettingsError
from diffuspec.method.acceptance import Verdict
from diffuspec.method.copying import make_source
from diffuspec.method.lattice import TokenLattice, prune
from diffuspec.method.proxy import LEARNED, make_proxy
from diffuspec.method.search import SearchResult, search_lattice
from diffuspec.method.tree import PrefixTree
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace
from diffuspec.trace.steps import Step, TreeVerification, Verification

UNSAID_EDITIONS = {3: "f2cda38e3d7a"}  # edition of the n-gram -> of the drafter, of traces that tell only the first
EMBEDDED = "embedded"  # the pair whose drafter comes along


@dataclass(frozen=True)
class Again:
    """A step searched again.

    lattice: the recorded columns under the new pruning; search: the path (with its tree, if one was
    searched); verdict: as far as the recorded answer tells; certain: False where the path agrees with
    the answer to its end, so that more might have been accepted; ms: pruning and search.
    """

    lattice: TokenLattice
    search: SearchResult
    verdict: Verdict
    certain: bool
    ms: float


def context(trace: Trace, index: int) -> tuple[int, ...]:
    """Token ids before step `index`: the prompt and the answer so far; the last one is the anchor."""
    return trace.prompt_ids + trace.token_ids[: trace.steps[index].start]


def continuation(trace: Trace, index: int) -> tuple[int, ...]:
    """The target's own tokens from step `index` on, to the end of the recorded answer."""
    return trace.token_ids[trace.steps[index].start :]


def proxies(trace: Trace) -> tuple[str, ...]:
    """The proxies that can judge this trace: of the fitted n-grams only the one that it was made with, and none that
    the drafter learned, whose weights are not here."""
    choices = tuple(c for c in Settings.knobs()["proxy"].choices if c not in LEARNED)
    fitted = trace.pair.ngram == assets.NGRAM_EDITIONS.get(trace.pair.name)
    return choices if fitted else tuple(c for c in choices if "ngram" not in c)


def why_not(trace: Trace, proxy: str) -> str:
    """What a user is told where a proxy cannot judge this trace, "" where it can."""
    if proxy in proxies(trace):
        return ""
    edition, shipped = trace.pair.ngram, assets.NGRAM_EDITIONS.get(trace.pair.name, 0)
    if proxy in LEARNED:
        missing = f"This trace was made by {trace.pair.drafter}, and what it learned of the order of tokens is not here"
    elif not shipped or edition < 1:
        missing = f"This trace was made by {trace.pair.target}, and its n-gram is not here"
    elif edition < shipped:
        missing = f"This trace was scored by edition {edition} of the n-gram, which is no longer shipped"
    else:
        missing = f"This trace was scored by edition {edition} of the n-gram, which comes with a newer DiffuSpec"
    return f"{missing}: search again with the proxy context or none."


def drafter_edition(trace: Trace) -> str:
    """Of the drafter that made a trace, "" where the pair's has none; of the embedded pair's, which traces did not
    always tell, "earlier" where it is not the one that came with the n-gram now in use."""
    if trace.pair.drafter_edition or trace.pair.name != EMBEDDED:
        return trace.pair.drafter_edition
    return UNSAID_EDITIONS.get(trace.pair.ngram, "earlier")


def search_again(trace: Trace, index: int, settings: Settings) -> Again:
    """Prune and search the lattice of step `index` by other settings.

    Raises `SettingsError` for a proxy that cannot judge this trace.
    """
    if reason := why_not(trace, settings.proxy):
        raise SettingsError(reason)
    recorded, before = trace.steps[index].lattice, context(trace, index)
    ngram = assets.ngram(trace.pair.name) if "ngram" in settings.proxy else None
    vocabulary = ngram.vocab_size if ngram else max(trace.pieces, default=0) + 1
    proxy = make_proxy(
        settings.proxy if settings.search != "argmax" else "none",
        ngram=ngram,
        vocab_size=vocabulary,
        weight=settings.context_weight,
        prompt_ids=before,
    )
    source = make_source(settings, before)
    started = time.perf_counter()
    lattice = prune(
        recorded.ids, recorded.logq, tau=settings.tau, m_max=settings.m_max, stop_ids=frozenset(trace.stop_ids)
    )
    known = continuation(trace, index) if judged(trace.settings) else ()
    found = search_lattice(
        lattice,
        proxy,
        before,
        settings,
        stop_ids=frozenset(trace.stop_ids),
        source=source,
        deepest=trace.settings.max_new_tokens - trace.steps[index].start - 1,
    )
    ms = (time.perf_counter() - started) * 1e3
    if isinstance(found, SearchResult):
        verdict, certain = judge(found.ids.tolist(), known, trace.stop_ids)
        return Again(lattice, found, verdict, certain, ms)
    verdict, certain = judge_tree(found.tree, known, trace.stop_ids)
    return Again(lattice, found.along(verdict.nodes[-1] if verdict.nodes else -1), verdict, certain, ms)


def judged(settings: Settings) -> bool:
    """Whether the recorded answer tells what another path would have had accepted.

    It does where the target's token at a place depends on the text before it alone. By ratio a token is
    accepted on a number drawn for it, and for another one none was drawn.
    """
    return settings.temperature == 0 or settings.rule == "point-mass"


def judge(path: Sequence[int], known: Sequence[int], stop_ids: Collection[int]) -> tuple[Verdict, bool]:
    """The verdict on a path by the target's own tokens `known`, and whether they tell all of it."""
    end = len(path) - 1
    return _walk(
        lambda node, token: node + 1 if node < end and path[node + 1] == token else None,
        lambda node: node == end,
        known,
        stop_ids,
    )


def judge_tree(tree: PrefixTree, known: Sequence[int], stop_ids: Collection[int]) -> tuple[Verdict, bool]:
    """As `judge`, of a tree."""
    below = tree.children()
    return _walk(lambda node, token: below.get(node, {}).get(token), lambda node: node not in below, known, stop_ids)


def _walk(child, is_leaf, known, stop_ids) -> tuple[Verdict, bool]:
    nodes, node = [], -1
    for token in known:
        below = child(node, token)
        if below is None:
            kind = "bonus" if is_leaf(node) else "correction"
            return Verdict(len(nodes), token, kind, tuple(known[: len(nodes) + 1]), tuple(nodes)), True
        nodes.append(node := below)
        if token in stop_ids:
            return Verdict(len(nodes), None, None, tuple(known[: len(nodes)]), tuple(nodes)), True
    return Verdict(len(nodes), None, None, tuple(known), tuple(nodes)), False


def as_step(trace: Trace, index: int, again: Again) -> Step:
    """The step as it would have been recorded, to be drawn like any other.

    The target's probabilities are those of the recorded pass where the prefix is the same, NaN elsewhere.
    """
    step = trace.steps[index]
    old, new, verdict = step.verification, again.search, again.verdict
    n, width = len(new), again.lattice.width
    same = 0
    while same < min(n, len(step.search)) and new.ids[same] == step.search.ids[same]:
        same += 1
    cell_logp = np.full((n, width), np.nan, np.float32)
    rows = min(n, same + 1, len(step.search))
    cell_logp[:rows] = old.cell_logp[:rows]
    path_rank = np.full(n, -1, np.int32)
    path_rank[:same] = old.path_rank[:same]
    tree = None
    if new.tree is not None:
        walked = np.zeros(len(new.tree), bool)
        walked[list(verdict.nodes)] = True
        unknown = np.full(len(new.tree), np.nan, np.float32)
        tree = TreeVerification(walked, unknown, np.full(len(new.tree) + 1, -1, np.int32))
    verification = Verification(
        accepted=verdict.accepted,
        token=verdict.token,
        kind=verdict.kind,
        draws=verdict.draws,
        path_logp=cell_logp[np.arange(n), new.ranks],
        path_rank=path_rank,
        top_ids=old.top_ids[: same + 1],
        top_logp=old.top_logp[: same + 1],
        cell_logp=cell_logp,
        tree=tree,
    )
    emitted = tuple(new.ids[: verdict.accepted].tolist()) + (() if verdict.token is None else (verdict.token,))
    timing = dataclasses.replace(step.timing, search_ms=again.ms)
    return dataclasses.replace(
        step, lattice=again.lattice, search=new, verification=verification, emitted=emitted, timing=timing
    )


def verify_path(pair, trace: Trace, index: int, ranks: Sequence[int]) -> Step:
    """The step with another path, read by the target in one pass; ranks: the path's row in each column.

    pair: a `Pair` of the models that made the trace. Raises `SettingsError` for a sampled run: its verdict
    on another path would be one more draw, not what the run would have done.
    """
    if trace.settings.temperature > 0:
        raise SettingsError(
            f"This run was sampled (T = {trace.settings.temperature:g}): the target would draw anew on another path. "
            "Branch from it instead, or verify a path of a greedy run."
        )
    import torch

    from diffuspec.method.acceptance import verify
    from diffuspec.trace.recorder import path_verification

    step, before = trace.steps[index], context(trace, index)
    n, lattice = len(ranks), step.lattice
    if pair.room(before) < n:
        raise PromptError(
            f"The text before this step has {len(before)} tokens: with a path of {n} that is more than the "
            f"{pair.info.context} that {pair.info.target} can hold."
        )
    ids = lattice.ids[np.arange(n), list(ranks)]
    path = SearchResult(
        method="argmax",
        ids=ids,
        ranks=np.array(ranks, np.int32),
        score=np.zeros(n, np.float32),
        proxy_logp=np.full((n, lattice.width), np.nan, np.float32),
    )
    with torch.inference_mode():
        cache = pair.target.start(before, trace.settings)
        started = time.perf_counter()
        logits = pair.target.ranked(cache, [before[-1], *ids.tolist()])
        spent = (time.perf_counter() - started) * 1e3
    verdict = verify(ids, logits.likeliest.tolist().__getitem__, trace.stop_ids)
    emitted = tuple(ids[: verdict.accepted].tolist()) + (() if verdict.token is None else (verdict.token,))
    return dataclasses.replace(
        step,
        search=path,
        verification=path_verification(logits, lattice, path, verdict),
        emitted=emitted,
        timing=dataclasses.replace(step.timing, verify_ms=spent),
    )
