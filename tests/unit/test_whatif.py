"""Searching a recorded step again: the recorded settings give the recorded path, and what is not known is said."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuspec import assets
from diffuspec.assets import NGRAM_EDITIONS
from diffuspec.errors import SettingsError
from diffuspec.method.acceptance import verify, verify_tree
from diffuspec.method.tree import FOLLOWER
from diffuspec.models.drafter import edition_of
from diffuspec.models.pair import OWN_NGRAM
from diffuspec.trace.model import Trace
from diffuspec.trace.whatif import (
    as_step,
    context,
    continuation,
    drafter_edition,
    judge,
    judge_tree,
    proxies,
    search_again,
    verify_path,
)
from diffuspec.ui.lab import view
from diffuspec.ui.lab.events import Lab

TRACES = sorted((Path(__file__).parents[2] / "assets" / "traces").glob("*.jsonl.gz"))


@pytest.fixture(scope="module")
def trace():
    return Trace.load(TRACES[0])


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name)
def test_the_recorded_settings_give_the_recorded_step(path):
    trace = Trace.load(path)
    assert proxies(trace) == ("ngram", "ngram+context", "context", "none")
    for step in trace.steps:
        again = search_again(trace, step.index, trace.settings)
        assert again.search.ids.tolist() == list(step.path)
        assert np.array_equal(again.lattice.kept, step.lattice.kept)
        if again.certain:
            assert again.verdict.accepted == step.verification.accepted
            assert again.verdict.token == step.verification.token
            assert again.verdict.kind == step.verification.kind
        else:
            assert step.index >= len(trace.steps) - 1
        drawn = as_step(trace, step.index, again)
        np.testing.assert_allclose(drawn.verification.path_logp, step.verification.path_logp, atol=1e-5)


def test_other_settings_change_the_path_and_keep_the_text(trace):
    changed = 0
    for step in trace.steps:
        again = search_again(trace, step.index, trace.settings.replace(lam=1.0, search="argmax"))
        known = continuation(trace, step.index)
        changed += again.search.ids.tolist() != list(step.path)
        assert again.search.ids[: again.verdict.accepted].tolist() == list(known[: again.verdict.accepted])
    assert changed > 5
    assert context(trace, 3) == trace.prompt_ids + trace.token_ids[: trace.steps[3].start]


def sampled(trace: Trace, rule: str) -> Trace:
    return dataclasses.replace(trace, settings=trace.settings.replace(temperature=0.7, rule=rule))


def test_a_sampled_run_is_judged_only_where_its_tokens_were_drawn(trace):
    step = next(step for step in trace.steps if step.accepted >= 2)
    by_draws = search_again(sampled(trace, "point-mass"), step.index, trace.settings)
    assert by_draws.certain and by_draws.verdict.accepted == step.verification.accepted
    for rule in ("sampled-path", "sampled-search", "paper"):
        by_ratio = search_again(sampled(trace, rule), step.index, trace.settings)
        assert not by_ratio.certain and by_ratio.verdict.accepted == 0 and by_ratio.verdict.token is None


def test_no_path_of_a_sampled_run_is_verified(trace):
    with pytest.raises(SettingsError, match=r"This run was sampled \(T = 0.7\)"):
        verify_path(None, sampled(trace, "point-mass"), 0, [0])


def test_probabilities_are_kept_only_where_the_prefix_is_the_same(trace):
    parted = 0
    for step in trace.steps:
        again = search_again(trace, step.index, trace.settings.replace(search="argmax"))
        new, old = again.search.ids.tolist(), list(step.path)
        if new == old or not new:
            continue
        same = next(
            (i for i, pair in enumerate(zip(new, old, strict=False)) if pair[0] != pair[1]), min(len(new), len(old))
        )
        drawn = as_step(trace, step.index, again).verification
        assert not np.isnan(drawn.cell_logp[: same + 1]).any()
        assert np.isnan(drawn.cell_logp[same + 1 :]).all()
        parted += same + 1 < len(new)
    assert parted


def test_a_tree_is_walked_along_the_answer(trace):
    walked = 0
    for step in trace.steps:
        again = search_again(trace, step.index, trace.settings.replace(search="tree", nodes=12))
        if not step.lattice.k:
            continue
        assert len(again.search.tree) <= 12
        known = continuation(trace, step.index)
        nodes = list(again.verdict.nodes)
        assert again.search.tree.ids[nodes].tolist() == list(known[: len(nodes)])
        assert len(nodes) == again.verdict.accepted
        walked += len(nodes)
    assert walked > 20


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "elsewhere"}, "made by SmolLM2.*its n-gram is not here"),
        ({"ngram": NGRAM_EDITIONS["embedded"] + 1}, "edition 4 of the n-gram, which comes with a newer DiffuSpec"),
        ({"ngram": 2}, "edition 2 of the n-gram, which is no longer shipped"),
        ({"ngram": 1}, "edition 1 of the n-gram, which is no longer shipped"),
        ({"ngram": 0}, "made by SmolLM2.*its n-gram is not here"),
        ({"ngram": OWN_NGRAM}, "made by SmolLM2.*its n-gram is not here"),
    ],
)
def test_without_its_own_ngram_a_trace_is_judged_by_its_text(trace, change, told):
    other = dataclasses.replace(trace, pair=dataclasses.replace(trace.pair, **change))
    assert proxies(other) == ("context", "none")
    body = view.again(other, 0, view.opening_settings(other))
    assert re.search(told, body["missing"]) and body["proxies"] == ("context", "none")
    assert not view.again(trace, 0, trace.settings)["missing"]
    with pytest.raises(SettingsError, match=told):
        search_again(other, 0, trace.settings)
    assert len(search_again(other, 0, trace.settings.replace(proxy="context")).search) > 0


def test_a_trace_of_the_coder_is_judged_by_the_coders_ngram(trace):
    other = dataclasses.replace(trace, pair=dataclasses.replace(trace.pair, name="coder", ngram=1))
    assert proxies(other) == proxies(trace)
    by_own, by_another = (search_again(t, 0, trace.settings).search for t in (other, trace))
    assert not np.allclose(by_own.proxy_logp[0], by_another.proxy_logp[0], equal_nan=True)


def test_a_trace_is_searched_by_the_ngram_it_was_made_with(trace):
    found = search_again(trace, 0, trace.settings).search
    np.testing.assert_allclose(found.score, trace.steps[0].search.score, atol=1e-4)


def test_what_its_drafter_learned_is_not_here(trace):
    with pytest.raises(SettingsError, match="block drafter, and what it learned of the order of tokens is not here"):
        search_again(trace, 0, trace.settings.replace(proxy="markov"))


def test_old_traces_do_not_say_their_edition_which_is_the_first(trace):
    said = b',"ngram":%d' % trace.pair.ngram
    text = trace.dumps()
    assert text.count(said) == 1
    assert Trace.loads(text.replace(said, b"")).pair.ngram == 1


@pytest.mark.parametrize(
    ("change", "edition"),
    [
        ({"drafter_edition": "abc"}, "abc"),
        ({"name": "elsewhere", "drafter_edition": ""}, ""),
        ({"ngram": NGRAM_EDITIONS["embedded"], "drafter_edition": ""}, edition_of(assets.drafter())),
        ({"ngram": 2, "drafter_edition": ""}, "earlier"),
        ({"ngram": 1, "drafter_edition": ""}, "earlier"),
    ],
)
def test_a_trace_tells_which_drafter_made_it(trace, change, edition):
    other = dataclasses.replace(trace, pair=dataclasses.replace(trace.pair, **change))
    assert drafter_edition(Trace.loads(other.dumps())) == edition


def test_drafting_again_with_another_edition_is_refused_in_words(trace):
    made = dataclasses.replace(trace, pair=dataclasses.replace(trace.pair, drafter_edition="another"))

    def drafted_again(by):
        host = SimpleNamespace(pair_name="embedded", follow=lambda work: iter([SimpleNamespace(trace=by, status=None)]))
        asked = lambda work: work  # noqa: E731
        return [said for said, *_ in Lab(host)._redraft(trace, 0, trace.settings, {"k": 3}, [], asked)]

    with pytest.raises(SettingsError, match="another edition of the drafter"):
        drafted_again(made)
    assert "drafted again, k = 3" in drafted_again(trace)[-1]


def test_followers_come_from_the_ngram_of_the_trace(trace):
    settings = trace.settings.replace(search="tree", copy=0, nodes=32)
    found = {}
    for followers in (0, 4):
        trees = [
            search_again(trace, step.index, settings.replace(followers=followers)).search.tree for step in trace.steps
        ]
        found[followers] = sum(int((tree.rank == FOLLOWER).sum()) for tree in trees)
    assert found[0] == 0 and found[4] > len(trace.steps)


TOKENS = st.lists(st.integers(0, 3), max_size=6)


@given(TOKENS, TOKENS)
def test_judging_is_verifying_as_far_as_the_answer_goes(path, known):
    verdict, certain = judge(path, known, {0})

    def own(i):
        return known[i]

    try:
        expected = verify(np.array(path, np.int32), own, {0})
    except IndexError:
        assert not certain and verdict.accepted == len(known) and path[: len(known)] == known
        return
    assert certain and verdict == expected


@given(st.data())
def test_judging_a_tree_is_verifying_it(data):
    from diffuspec.method.tree import PrefixTree

    size = data.draw(st.integers(1, 8))
    parent, ids, depth = [], [], []
    for node in range(size):
        above = data.draw(st.integers(-1, node - 1))
        free = sorted(set(range(6)) - {ids[i] for i in range(node) if parent[i] == above})
        parent.append(above)
        ids.append(data.draw(st.sampled_from(free)) if free else 6 + node)
        depth.append(0 if above < 0 else depth[above] + 1)
    tree = PrefixTree(
        np.array(ids, np.int32),
        np.array(parent, np.int16),
        np.array(depth, np.int16),
        np.zeros(size, np.int16),
        np.zeros(size, np.float32),
    )
    known = data.draw(st.lists(st.integers(0, 5), max_size=6))
    verdict, certain = judge_tree(tree, known, {0})
    try:
        expected = verify_tree(tree, lambda row: known[0 if row == 0 else depth[row - 1] + 1], {0})
    except IndexError:
        assert not certain and verdict.accepted == len(known)
        return
    assert certain and verdict == expected
