"""What the lessons ask, computed: each function finds a real step, or replays a rule, and gives the answer.

Steps are picked from the recorded traces by what happened in them, never by number, and examples are run through
`diffuspec.method`, so that a lesson stays true when the traces are recorded anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import plotly.graph_objects as go

from diffuspec import assets
from diffuspec.errors import TraceError
from diffuspec.method import breakeven
from diffuspec.method.acceptance import accept_probability, residual, verify, verify_tree
from diffuspec.method.lattice import prune
from diffuspec.method.length import AdaptiveDraftLength
from diffuspec.method.proxy import Proxy, make_proxy
from diffuspec.method.search import argmax_path
from diffuspec.method.tree import PrefixTree, best_first_tree
from diffuspec.settings import Settings
from diffuspec.trace.gallery import Gallery
from diffuspec.trace.model import Trace
from diffuspec.trace.steps import Step
from diffuspec.ui.draw.palette import COLOURS
from diffuspec.ui.player.misses import misses
from diffuspec.ui.player.text import token_label

MAIN = "1-maths"  # the run that lessons about a whole run look at


@dataclass(frozen=True)
class Table:
    """A table that stands below a puzzle.

    head: column titles; rows: as many texts each.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """A lesson's question answered.

    answer: a key of the lesson's choices, or a number; facts: what the lesson names in braces; table: shown with the
    question; after: shown with the reveal; figure: likewise; trace, step: what is opened on the Playground, by name of
    a recorded trace and 0-based step.
    """

    answer: str | float
    facts: dict[str, str]
    table: Table | None = None
    after: Table | None = None
    figure: go.Figure | None = None
    trace: str | None = None
    step: int | None = None


def solve(gallery: Gallery, compute: str, inputs: dict[str, float] | None = None) -> Outcome:
    """Run the puzzle named `compute`; inputs: values of its sliders.

    Raises `KeyError` for an unknown name and `TraceError` where no recorded trace shows what it needs.
    """
    return PUZZLES[compute](gallery, **(inputs or {}))


def _pick(gallery: Gallery, worth: Callable[[Trace, Step], float | None]) -> tuple[str, Trace, Step]:
    """The worthiest recorded step (ties: the first); `worth` gives None for a step that will not do."""
    found, most = None, -np.inf
    for entry in gallery:
        trace = gallery.trace(entry.name)
        for step in trace.steps:
            value = worth(trace, step)
            if value is not None and value > most:
                found, most = (entry.name, trace, step), value
    if found is None:
        raise TraceError(
            "No recorded trace shows what this lesson needs; make them anew: `python -m diffuspec record`."
        )
    return found


def _main(gallery: Gallery) -> tuple[str, Trace]:
    """The main recorded run, or the first that was compared with plain AR."""
    names = sorted((entry.name for entry in gallery), key=lambda name: name != MAIN)
    for name in names:
        trace = gallery.trace(name)
        if trace.baseline is not None and trace.baseline.times_ms and trace.steps:
            return name, trace
    raise TraceError("No recorded trace was compared with plain AR; make them anew: `python -m diffuspec record`.")


def _continuation(trace: Trace, step: Step) -> tuple[int, ...]:
    """What the target wrote from this step on; under greedy decoding its own choices, whatever was drafted."""
    return trace.token_ids[step.start :]


def _accepted(trace: Trace, step: Step, path: Sequence[int]) -> int:
    """Tokens of `path` that the target would have accepted in this step, as far as the answer is known."""
    truth = _continuation(trace, step)
    known = np.array(path[: len(truth) - 1], np.int32)
    return verify(known, lambda i: truth[i], trace.stop_ids).accepted


def _drafted(step: Step) -> bool:
    return step.search.method != "tree" and len(step.path) > 1


# ------------------------------------------------------------------------------------------------ lessons


def pass_cost(gallery: Gallery) -> Outcome:
    name, trace = _main(gallery)
    times = np.diff([trace.baseline.prefill_ms, *trace.baseline.times_ms])
    ar_ms = float(np.median(times))
    by_size: dict[int, list[float]] = {1: times.tolist()}
    for step in trace.steps:
        if step.search.method != "tree":
            by_size.setdefault(len(step.path) + 1, []).append(step.timing.verify_ms)
    sizes = sorted(size for size, values in by_size.items() if len(values) >= 3)
    n = sizes[-1]
    verify_ms = median(by_size[n])
    figure = _figure("tokens in one pass", "milliseconds")
    figure.add_scatter(
        x=[1, n],
        y=[ar_ms, n * ar_ms],
        name="if each token cost as much as the first",
        mode="lines",
        line={"color": COLOURS["quiet"], "dash": "dot", "width": 2},
    )
    figure.add_scatter(
        x=sizes,
        y=[median(by_size[size]) for size in sizes],
        name="measured",
        mode="lines+markers",
        line={"color": COLOURS["accepted"], "width": 2.5},
        marker={"size": 8},
    )
    longest = max(trace.steps, key=lambda step: len(step.path))
    facts = {
        "ar_ms": f"{ar_ms:.0f}",
        "n": str(n),
        "ratio": f"{verify_ms / ar_ms:.2f}",
        "verify_ms": f"{verify_ms:.0f}",
        "drafted": str(n - 1),
    }
    rows = tuple((str(size), f"{median(by_size[size]):.1f}", str(len(by_size[size]))) for size in sizes)
    after = Table(("tokens in the pass", "median ms", "passes"), rows)
    return Outcome(verify_ms / ar_ms, facts, after=after, figure=figure, trace=name, step=longest.index)


def masks_at_once(gallery: Gallery) -> Outcome:
    def favourites(step):
        return step.lattice.ids[:, 0].tolist()

    def right(trace, step):
        return [a == b for a, b in zip(favourites(step), _continuation(trace, step), strict=False)]

    def twins(trace, step):
        """The first of two neighbours with the same favourite, of which one is wrong."""
        ids, fits = favourites(step), right(trace, step)
        return next((i for i in range(len(fits) - 1) if ids[i] == ids[i + 1] and fits[i] != fits[i + 1]), None)

    def worth(trace, step):
        if not _drafted(step) or len(right(trace, step)) < step.draft_length or twins(trace, step) is None:
            return None
        return sum(right(trace, step))

    name, trace, step = _pick(gallery, worth)
    label, ids, at = functools.partial(token_label, trace), favourites(step), twins(trace, step)
    truth = _continuation(trace, step)
    q = np.exp(step.lattice.logq[:, 0].astype(float))
    rows = [(f"+{i + 1}", label(token), f"{q[i]:.2f}") for i, token in enumerate(ids)]
    facts = {
        "k": str(len(ids)),
        "right": str(sum(right(trace, step))),
        "doubled": label(ids[at]),
        "first": str(at + 1),
        "second": str(at + 2),
    }
    after = Table(
        ("position", "favourite", "q", "the target wrote"),
        tuple((*row, label(truth[i])) for i, row in enumerate(rows)),
    )
    table = Table(("position", "favourite", "q"), tuple(rows))
    return Outcome(sum(right(trace, step)), facts, table, after, trace=name, step=step.index)


def one_step(gallery: Gallery) -> Outcome:
    def worth(trace, step):
        n, accepted = len(step.path), step.accepted
        if not _drafted(step) or step.verification.kind != "correction" or not 2 <= accepted < n - 1:
            return None
        return accepted if len(step.emitted) == accepted + 1 else None

    name, trace, step = _pick(gallery, worth)
    check = step.verification
    own = [*check.draws, *check.top_ids[len(check.draws) : -1, 0].tolist()]
    verdict = verify(step.search.ids, own.__getitem__, trace.stop_ids)
    label = functools.partial(token_label, trace)
    rows = tuple((f"+{i + 1}", label(token), label(own[i])) for i, token in enumerate(step.path))
    facts = {
        "most": str(len(step.path) + 1),
        "emitted": str(verdict.accepted + 1),
        "accepted": str(verdict.accepted),
        "refused": label(step.path[verdict.accepted]),
        "place": str(verdict.accepted + 1),
        "own": label(verdict.token),
    }
    table = Table(("position", "drafted", "the target’s own choice"), rows)
    return Outcome(verdict.accepted + 1, facts, table, trace=name, step=step.index)


def pruning(gallery: Gallery, tau: float = 0.8, m_max: int = 15) -> Outcome:
    def worth(trace, step):
        wide = prune(step.lattice.ids, step.lattice.logq, tau=0.8, m_max=15, stop_ids=()).kept.sum(1)
        fit = [column for column, kept in enumerate(wide) if 3 <= kept <= 5]
        return -fit[0] if fit else None

    name, trace, step = _pick(gallery, worth)
    column = -int(worth(trace, step))
    ids, logq = step.lattice.ids[column : column + 1], step.lattice.logq[column : column + 1]
    # Stop tokens are always kept, which would blur the count.
    kept = int(prune(ids, logq, tau=tau, m_max=int(m_max), stop_ids=()).kept.sum())
    q = np.exp(logq[0].astype(float))
    mass = np.cumsum(q)
    facts = {
        "tau": f"{tau:g}",
        "m_max": str(int(m_max)),
        "kept": str(kept),
        "before_count": str(kept - 1),
        "before": f"{mass[kept - 2] if kept > 1 else 0.0:.2f}",
        "mass": f"{mass[kept - 1]:.2f}",
    }
    shown = range(min(8, len(q)))
    rows = tuple((str(r + 1), token_label(trace, int(ids[0, r])), f"{q[r]:.2f}") for r in shown)
    figure = _figure("rank", "mass of the likeliest")
    figure.add_bar(
        x=list(range(1, len(q) + 1)),
        y=mass.tolist(),
        name="mass so far",
        marker={"color": [COLOURS["accepted"] if r < kept else COLOURS["line"] for r in range(len(q))]},
    )
    figure.add_hline(y=tau, line={"color": COLOURS["correction"], "dash": "dash"})
    figure.update_layout(showlegend=False)
    return Outcome(kept, facts, Table(("rank", "token", "q"), rows), figure=figure, trace=name, step=step.index)


def path_search(gallery: Gallery) -> Outcome:
    def lengths(trace, step):
        plain = argmax_path(step.lattice, trace.stop_ids).ids
        return _accepted(trace, step, plain.tolist()), _accepted(trace, step, step.path)

    def worth(trace, step):
        plain, chosen = lengths(trace, step) if _drafted(step) and step.search.method == "cps" else (0, 0)
        return chosen - plain if chosen > plain else None

    name, trace, step = _pick(gallery, worth)
    pairs = [lengths(trace, s) for s in trace.steps if _drafted(s)]
    plain, chosen = lengths(trace, step)
    argmax = argmax_path(step.lattice, trace.stop_ids).ids.tolist()
    truth = _continuation(trace, step)
    label = functools.partial(token_label, trace)
    longest = max(len(argmax), len(step.path))
    cell = lambda ids, i: label(ids[i]) if i < len(ids) else ""  # noqa: E731
    paths = [(f"+{i + 1}", cell(argmax, i), cell(step.path, i)) for i in range(longest)]
    facts = {
        "argmax_accepted": str(plain),
        "cps_accepted": str(chosen),
        "cps_better": str(sum(c > p for p, c in pairs)),
        "argmax_better": str(sum(p > c for p, c in pairs)),
        "same": str(sum(p == c for p, c in pairs)),
    }
    answer = "cps" if chosen > plain else "argmax" if plain > chosen else "equal"
    after = Table(
        ("position", "argmax", "CPS", "the target wrote"), tuple((*row, cell(truth, i)) for i, row in enumerate(paths))
    )
    return Outcome(
        answer, facts, Table(("position", "argmax", "CPS"), tuple(paths)), after, trace=name, step=step.index
    )


def who_missed(gallery: Gallery) -> Outcome:
    name, trace = _main(gallery)
    found = misses(trace)
    counts = {kind: len(steps) for kind, steps in found.items()}
    order = {"drafter": "drafter miss", "pruned": "pruning miss", "search": "search miss"}
    figure = _figure("", "refusals")
    figure.add_bar(
        x=list(order.values()),
        y=[counts[kind] for kind in order],
        marker={"color": [COLOURS["correction"], COLOURS["average"], COLOURS["accepted"]]},
    )
    figure.update_layout(showlegend=False)
    drafted = [step for step in trace.steps if step.draft_length]
    facts = {
        **{kind: str(count) for kind, count in counts.items()},
        "refusals": str(sum(counts.values())),
        "oracle": f"{sum(trace.oracle(step.index) for step in drafted) / len(trace.steps):.2f}",
        "accepted": f"{trace.accepted_per_step:.2f}",
    }
    shown = found["search"] or found["pruned"] or found["drafter"]
    answer = max(counts, key=counts.get)
    return Outcome(answer, facts, figure=figure, trace=name, step=shown[0])


def random_drafter(gallery: Gallery, drafted: int = 6) -> Outcome:
    name, trace = _main(gallery)
    answer = trace.token_ids
    vocabulary = np.array(sorted(trace.pieces), np.int32)
    random = np.random.default_rng(0)
    made: list[int] = []
    steps = 0
    while len(made) < len(answer):
        rest = answer[len(made) :]
        path = random.choice(vocabulary, min(drafted, len(rest) - 1))
        verdict = verify(path, rest.__getitem__, trace.stop_ids)
        made += path[: verdict.accepted].tolist() + ([] if verdict.token is None else [verdict.token])
        steps += 1
    gaps = np.array(
        [
            row[0] - row[1]
            for step in trace.steps
            for row in step.verification.top_logp.tolist()[: len(step.verification.draws)]
            if len(row) > 1
        ]
    )
    products = (random.standard_normal(1000) / 16).astype(np.float16)
    add = lambda total, value: np.float16(total + value)  # noqa: E731
    forward, backward = functools.reduce(add, products), functools.reduce(add, products[::-1])
    same = sum(a == b for a, b in zip(made, answer, strict=False))
    facts = {
        "drafted": str(drafted),
        "identical": str(same),
        "tokens": str(len(answer)),
        "steps": str(steps),
        "recorded_steps": str(len(trace.steps)),
        "per_step": f"{len(made) / steps:.2f}",
        "recorded_per_step": f"{trace.tokens_per_step:.2f}",
        "terms": str(len(products)),
        "forward": f"{forward:.4f}",
        "backward": f"{backward:.4f}",
        "close": str(int((gaps < BFLOAT16_STEP).sum())),
        "positions": str(len(gaps)),
    }
    figure = _figure("gap between the target’s two likeliest tokens (natural log)", "positions")
    figure.add_histogram(
        x=gaps.tolist(), xbins={"size": BFLOAT16_STEP, "start": 0}, marker={"color": COLOURS["accepted"]}
    )
    figure.add_vrect(x0=0, x1=BFLOAT16_STEP, fillcolor=COLOURS["correction"], opacity=0.35, line={"width": 0})
    figure.update_layout(showlegend=False, xaxis_range=[0, 4])
    verdict = "worse" if made != list(answer) else "same" if steps > len(trace.steps) else "faster"
    return Outcome(verdict, facts, figure=figure, trace=name, step=0)


BFLOAT16_STEP = 0.125  # the distance of two neighbouring bfloat16 numbers between 16 and 32, where large logits lie


def two_conventions(gallery: Gallery) -> Outcome:
    name, trace = _main(gallery)
    own = trace.new_tokens - sum(step.accepted for step in trace.steps)
    facts = {
        "tokens": str(trace.new_tokens),
        "steps": str(len(trace.steps)),
        "own": str(own),
        "accepted_per_step": f"{trace.accepted_per_step:.2f}",
        "tokens_per_step": f"{trace.tokens_per_step:.2f}",
        "difference": f"{trace.tokens_per_step - trace.accepted_per_step:.2f}",
        "most": str(max(4, round(2 * trace.tokens_per_step))),
    }
    rows = []
    for entry in gallery:
        other = gallery.trace(entry.name)
        rows.append(
            (entry.title, str(len(other.steps)), f"{other.accepted_per_step:.2f}", f"{other.tokens_per_step:.2f}")
        )
    after = Table(("recorded run", "steps", "accepted/step", "tokens/step"), tuple(rows))
    last = max(trace.steps, key=lambda step: (step.accepted, step.index))
    return Outcome(trace.tokens_per_step, facts, after=after, trace=name, step=last.index)


def break_even(gallery: Gallery, alpha: float = 0.5, draft: float = 0.15, token: float = 0.03) -> Outcome:
    name, trace = _main(gallery)
    mean = lambda stage: trace.stage_ms()[stage] / len(trace.steps)  # noqa: E731
    step_ms = sum(step.timing.total_ms for step in trace.steps) / len(trace.steps)
    ar_ms = (trace.baseline.times_ms[-1] - trace.baseline.prefill_ms) / len(trace.baseline.times_ms)
    even = step_ms / ar_ms
    lengths = list(range(1, 33))
    curve = ((1, 1.0), (2, 1.0 + token))
    speed = [float(breakeven.speedup(alpha, draft, k, curve)) for k in lengths]
    figure = _figure("draft length k", "speed-up")
    figure.add_scatter(
        x=lengths, y=speed, mode="lines", name=f"α = {alpha:g}", line={"color": COLOURS["accepted"], "width": 2.5}
    )
    best = int(np.argmax(speed))
    figure.add_scatter(
        x=[lengths[best]],
        y=[speed[best]],
        mode="markers+text",
        name="best k",
        text=[f"k = {lengths[best]}"],
        textposition="top right",
        marker={"size": 10, "symbol": "diamond", "color": COLOURS["bonus"]},
    )
    figure.add_hline(y=1, line={"color": COLOURS["correction"], "dash": "dash"})
    figure.update_layout(yaxis_range=[0, 1.18 * max(*speed, 1)])
    facts = {
        "step_ms": f"{step_ms:.1f}",
        "draft_ms": f"{mean('draft'):.1f}",
        "verify_ms": f"{mean('verify'):.1f}",
        "rest_ms": f"{step_ms - mean('draft') - mean('verify'):.1f}",
        "ar_ms": f"{ar_ms:.1f}",
        "tokens_per_step": f"{trace.tokens_per_step:.2f}",
        "speedup": f"{trace.tokens_per_step / even:.2f}",
    }
    return Outcome(even, facts, figure=figure, trace=name, step=0)


def next_length(gallery: Gallery) -> Outcome:
    def worth(trace, step):
        if trace.settings.length != "adl" or step.index < 1 or step.length.k != step.draft_length:
            return None
        # Best where an end of text cut the draft short and the length really changed.
        cut = step.length.accepted <= step.length.generated < step.length.k
        return 2 * (cut and step.length.accepted > 0) + (step.length.next_k != step.length.k)

    name, trace, step = _pick(gallery, worth)
    settings = trace.settings
    policy = AdaptiveDraftLength(settings.k_min, settings.k_max, settings.delta, settings.rho)
    for earlier in trace.steps[: step.index]:
        policy.update(earlier.length.generated, earlier.length.accepted)
    before = policy.ema_gen, policy.ema_acc
    made = policy.update(step.length.generated, step.length.accepted)
    words = {"k_min": "the guard rail k_min", "k_max": "the guard rail k_max"}
    facts = {
        "step": str(step.index + 1),
        "k": str(step.length.k),
        "generated": str(made.generated),
        "accepted": str(made.accepted),
        "old_gen": f"{before[0]:.2f}",
        "old_acc": f"{before[1]:.2f}",
        "rho": f"{settings.rho:g}",
        "delta": str(settings.delta),
        "k_min": str(settings.k_min),
        "k_max": str(settings.k_max),
        "top": str(settings.k_max + settings.delta),
        "next_k": str(made.next_k),
        "new_gen": f"{made.ema_gen:.2f}",
        "new_acc": f"{made.ema_acc:.2f}",
        "bracket": str(int(made.grew)),
        "wanted": f"{made.wanted:.2f}",
        "decided": words.get(made.decided, made.decided),
    }
    return Outcome(made.next_k, facts, trace=name, step=step.index)


def adl_replay(
    gallery: Gallery, chance: float = 0.95, k_min: int = 20, k_max: int = 30, delta: int = 10, steps: int = 40
) -> Outcome:
    policy = AdaptiveDraftLength(int(min(k_min, k_max)), int(max(k_min, k_max)), int(delta), Settings.paper().rho)
    random = np.random.default_rng(2)
    decisions = []
    for _ in range(steps):
        k = policy.k
        refused = np.flatnonzero(random.random(k) >= chance)
        decisions.append(policy.update(k, int(refused[0]) if refused.size else k))
    used = [decision.k for decision in decisions]
    usual = max(set(used), key=used.count)
    x = list(range(1, steps + 1))
    figure = _figure("step", "tokens")
    figure.add_bar(
        x=x, y=[d.accepted for d in decisions], name="L_acc", marker={"color": COLOURS["bonus"], "line": {"width": 0}}
    )
    for values, label, colour, dash in (
        ([d.ema_gen for d in decisions], "EMA_gen", "average", "dash"),
        ([d.ema_acc for d in decisions], "EMA_acc", "correction", "dot"),
        (used, "k", "accepted", "solid"),
    ):
        figure.add_scatter(
            x=x, y=values, name=label, mode="lines", line={"color": COLOURS[colour], "dash": dash, "width": 2.5}
        )
    facts = {
        "k_usual": str(usual),
        "k_share": str(used.count(usual)),
        "steps": str(steps),
        "first": ", ".join(map(str, used[:6])),
        "accepted": f"{np.mean([d.accepted for d in decisions]):.1f}",
    }
    return Outcome(str(usual), facts, figure=figure)


def biased_rule(
    gallery: Gallery, p1: float = 0.5, p2: float = 0.3, q1: float = 0.4, q2: float = 0.35, word: int = 2
) -> Outcome:
    p, q = _three(p1, p2), _three(q1, q2)
    token = int(word) - 1
    # The path token is accepted with min(1, p/q), and what is left goes to the residual.
    chance = accept_probability(p, q, token)
    biased = (1 - chance) * residual(p, q)
    biased[token] += chance
    # Rule A is the same rule with what the path really is, a point mass, in the place of q.
    point = np.eye(3)[token]
    kept = accept_probability(p, point, token)
    exact = (1 - kept) * residual(p, point)
    exact[token] += kept
    show = lambda values: "(" + ", ".join(f"{value:.3g}" for value in values) + ")"  # noqa: E731
    words = ["word 1", "word 2", "word 3"]
    figure = _figure("", "probability")
    for values, name, colour in (
        (p, "the target alone", "accepted"),
        (biased, "the paper’s rule", "correction"),
        (exact, "rule A", "bonus"),
    ):
        figure.add_bar(
            x=words,
            y=values.tolist(),
            name=name,
            marker={"color": COLOURS[colour]},
            text=[f"{value:.2f}" for value in values],
            textposition="outside",
            cliponaxis=False,
        )
    figure.update_layout(barmode="group", yaxis_range=[0, 1.08])
    facts = {
        "p": show(p),
        "q": show(q),
        "word": str(int(word)),
        "p3": f"{p[2]:.2g}",
        "biased3": f"{100 * biased[2]:.0f}",
        "biased": show(biased.round(3)),
        "exact": show(exact.round(3)),
    }
    rows = [(words[i], f"{p[i]:.3f}", f"{q[i]:.3f}", f"{biased[i]:.3f}", f"{exact[i]:.3f}") for i in range(len(words))]
    after = Table(("", "target p", "drafter q", "the paper’s rule", "rule A"), tuple(rows))
    return Outcome(100 * float(biased[2]), facts, after=after, figure=figure)


def _three(first: float, second: float) -> np.ndarray:
    """A distribution over three words; the third takes the rest, and what exceeds 1 is scaled down."""
    values = np.array([first, second, max(1 - first - second, 0.05)])
    return values / values.sum()


LARGEST_TREE = 24
TREE_STEPS = 40  # enough for a mean, and soon computed


def tree(gallery: Gallery, nodes: int = 10) -> Outcome:
    name, trace = _main(gallery)
    walks = _tree_walks(gallery, name)
    steps = [trace.steps[index] for index in walks]
    mean = lambda budget: sum(sum(n < budget for n in walk) for walk in walks.values()) / len(walks)  # noqa: E731
    budgets = sorted({1, 2, 4, 6, 8, 10, 12, 16, 20, LARGEST_TREE, int(nodes)})
    single = sum(step.accepted for step in steps) / len(steps)
    oracle = sum(trace.oracle(step.index) for step in steps) / len(steps)
    length = sum(len(step.path) for step in steps) / len(steps)
    figure = _figure("nodes in the tree", "accepted/step")
    figure.add_scatter(
        x=budgets,
        y=[mean(budget) for budget in budgets],
        name="tree",
        mode="lines+markers",
        line={"color": COLOURS["accepted"], "width": 2.5},
        marker={"size": 8},
    )
    figure.add_scatter(
        x=[length],
        y=[single],
        name="the recorded single paths",
        mode="markers",
        marker={"size": 11, "symbol": "diamond", "color": COLOURS["correction"]},
    )
    figure.add_scatter(
        x=[nodes],
        y=[mean(int(nodes))],
        mode="markers",
        showlegend=False,
        marker={"size": 15, "symbol": "circle-open", "color": COLOURS["ink"], "line": {"width": 2.5}},
    )
    figure.add_hline(y=oracle, line={"color": COLOURS["quiet"], "dash": "dot"})
    facts = {
        "steps": str(len(steps)),
        "nodes": str(int(nodes)),
        "tree": f"{mean(int(nodes)):.2f}",
        "single": f"{single:.2f}",
        "path_nodes": f"{length:.1f}",
        "oracle": f"{oracle:.2f}",
        "most": f"{oracle + 1:.0f}",
    }
    after = Table(("nodes", "accepted/step"), tuple((str(budget), f"{mean(budget):.2f}") for budget in budgets))
    return Outcome(mean(int(nodes)), facts, after=after, figure=figure)


@functools.cache
def _tree_walks(gallery: Gallery, name: str) -> dict[int, tuple[int, ...]]:
    """Step -> nodes passed on the way down the tree of its lattice along the recorded answer.

    Nodes are numbered from the likeliest on, so a smaller tree is the beginning of a larger one.
    """
    trace = gallery.trace(name)
    proxy, read, walks = proxy_of(trace), 0, {}
    for step in [step for step in trace.steps if _drafted(step)][:TREE_STEPS]:
        proxy.extend(trace.token_ids[read : step.start])
        read = step.start
        context = [*trace.prompt_ids, *trace.token_ids[: step.start]]
        made, _ = best_first_tree(
            step.lattice, proxy, context, nodes=LARGEST_TREE, lam=trace.settings.lam, stop_ids=trace.stop_ids
        )
        said = _along(made, _continuation(trace, step))
        walks[step.index] = verify_tree(made, said.__getitem__, trace.stop_ids).nodes
    return walks


def _along(made: PrefixTree, truth: Sequence[int]) -> dict[int, int]:
    """What the target says after the anchor (0) and after each node (i + 1) on the way of its answer `truth`."""
    node, said, below = -1, {}, made.children()
    for token in truth:
        said[node + 1] = token
        node = below.get(node, {}).get(token)
        if node is None:
            break
    else:
        said[node + 1] = -1  # the answer ends here: no node carries this
    return said


# ------------------------------------------------------------------------------------------------ shared


def proxy_of(trace: Trace) -> Proxy:
    """The causal proxy that a recorded run of the embedded pair began with."""
    settings, fitted = trace.settings, assets.ngram("embedded")
    return make_proxy(
        settings.proxy,
        ngram=fitted,
        vocab_size=fitted.vocab_size,
        weight=settings.context_weight,
        prompt_ids=trace.prompt_ids,
    )


def _figure(x: str, y: str) -> go.Figure:
    return go.Figure(
        layout=go.Layout(
            template=go.layout.Template(),
            height=260,
            margin={"l": 52, "r": 12, "t": 30, "b": 44},
            dragmode=False,
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            bargap=0.2,
            font={"color": COLOURS["ink-soft"], "size": 14},
            legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "top"},
            xaxis={
                "title": {"text": x, "standoff": 6},
                "fixedrange": True,
                "showgrid": False,
                "linecolor": COLOURS["line"],
            },
            yaxis={
                "title": {"text": y, "standoff": 6},
                "fixedrange": True,
                "gridcolor": COLOURS["line"],
                "zeroline": False,
                "rangemode": "tozero",
            },
        )
    )


PUZZLES: dict[str, Callable[..., Outcome]] = {
    function.__name__: function
    for function in (
        pass_cost,
        masks_at_once,
        one_step,
        pruning,
        path_search,
        who_missed,
        random_drafter,
        two_conventions,
        break_even,
        next_length,
        adl_replay,
        biased_rule,
        tree,
    )
}
