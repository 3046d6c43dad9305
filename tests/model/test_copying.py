"""What a tree holds beside the lattice, copies and followers: deeper than its columns, without any, recorded, saved
and drawn like the rest."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from diffuspec import DiffuSpec, Settings, Trace
from diffuspec.method.length import StepCost
from diffuspec.method.tree import COPIED, FOLLOWER
from diffuspec.trace.whatif import search_again
from diffuspec.training.ngram import fit
from diffuspec.ui.player.lattice import detail, tokens_shown

REPEATED = [9, 40, 41, 42, 43, 44, 45, 46] * 4
SETTINGS = dict(search="tree", proxy="context", nodes=12, lam=0.5)


@pytest.fixture(scope="module")
def shallow(tiny_pairs):
    """Two columns, and a text that goes on and on."""
    settings = Settings(length="fixed", k=2, **SETTINGS)
    return DiffuSpec(tiny_pairs["peeking"], settings).run(ids=REPEATED, max_new_tokens=24)


def test_a_copied_run_goes_deeper_than_the_lattice(shallow):
    deepest = max(int(step.search.tree.depth.max()) for step in shallow.steps if len(step.search.tree))
    assert deepest >= 2, "no copy went behind the last column"
    for step in shallow.steps:
        tree = step.search.tree
        copied = tree.rank == COPIED
        assert copied[tree.depth >= step.lattice.k].all()
        assert set(tree.ids[copied].tolist()) <= {*shallow.prompt_ids, *shallow.token_ids[: step.start]}
    first = shallow.steps[0].search.tree
    assert first.ids[(first.depth == 0) & (first.rank == COPIED)].tolist() in ([], [9])


def test_it_is_saved_and_read_again(shallow):
    assert Trace.loads(shallow.dumps()).dumps() == shallow.dumps()
    assert all(token in shallow.pieces for step in shallow.steps for token in step.search.tree.ids.tolist())


def test_a_node_behind_the_last_column_must_say_that_it_was_copied(shallow):
    from diffuspec.errors import TraceError

    place = next(step.index for step in shallow.steps if (step.search.tree.depth >= step.lattice.k).any())
    step = shallow.steps[place]
    wrong = dataclasses.replace(step.search.tree, rank=np.maximum(step.search.tree.rank, 0))
    steps = list(shallow.steps)
    steps[place] = dataclasses.replace(step, search=dataclasses.replace(step.search, tree=wrong))
    with pytest.raises(TraceError, match="contradicts itself"):
        Trace.loads(dataclasses.replace(shallow, steps=tuple(steps)).dumps())


def test_the_view_names_a_copied_token_for_each_position_that_has_one(shallow):
    for step in shallow.steps:
        tree, columns = step.search.tree, detail(step)["outside"]["-1"]
        for depth, token in enumerate(columns):
            here = tree.ids[(tree.depth == depth) & (tree.rank == COPIED)].tolist()
            assert token in here if here else token is None
        on_path = step.search.ranks == COPIED
        assert [columns[i] for i in np.flatnonzero(on_path)] == step.search.ids[on_path].tolist()
        assert set(tree.ids.tolist()) <= tokens_shown(step)


def test_a_step_searched_again_copies_the_same(shallow):
    for step in shallow.steps:
        again = search_again(shallow, step.index, shallow.settings).search
        assert np.array_equal(again.tree.ids, step.search.tree.ids)
        assert np.array_equal(again.tree.rank, step.search.tree.rank)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_a_draft_the_tree_is_copied_alone(tiny_pairs, plain_greedy, tiny_model, temperature):
    pair = dataclasses.replace(tiny_pairs["peeking"])
    dear = StepCost(draft=((1, 500.0), (32, 600.0)), verify=((1, 10.0), (8, 10.5)))
    pair.__dict__["step_cost"] = dear  # a draft that never pays, so that what is decided does not hang on the machine
    settings = Settings(length="throughput", temperature=temperature, **SETTINGS)
    trace = DiffuSpec(pair, settings).run(ids=REPEATED, max_new_tokens=24)
    undrafted = [step for step in trace.steps if not step.draft_length]
    assert len(undrafted) >= len(trace.steps) - 1
    assert trace.steps[0].length.decided == "no draft"
    assert Trace.loads(trace.dumps()).dumps() == trace.dumps()
    if not temperature:  # a sampled text of a random model repeats nothing
        assert any(len(step.path) for step in undrafted)
        assert list(trace.token_ids) == plain_greedy(tiny_model, REPEATED, 24)


@pytest.fixture(scope="module")
def following(tiny_pairs):
    """Two columns, and a 3-gram that knows how the text goes on."""
    pair = dataclasses.replace(
        tiny_pairs["peeking"], proxy=fit([REPEATED], tiny_pairs["peeking"].target.vocab_size, (5, 6))
    )
    settings = Settings(length="fixed", k=2, **SETTINGS | dict(proxy="ngram+context", copy=0, followers=3))
    return DiffuSpec(pair, settings).run(ids=REPEATED, max_new_tokens=24)


def test_followers_are_what_the_ngram_has_seen(following, tiny_model, plain_greedy):
    assert list(following.token_ids) == plain_greedy(tiny_model, REPEATED, 24)
    goes_on = dict(itertools.pairwise(REPEATED))
    deepest = 0
    for step in following.steps:
        tree = step.search.tree
        for node in np.flatnonzero(tree.rank == FOLLOWER):
            before = tree.ids[tree.parent[node]] if tree.parent[node] >= 0 else step.anchor
            assert tree.ids[node] == goes_on[before]
            deepest = max(deepest, int(tree.depth[node]))
        assert (tree.rank[tree.depth >= step.lattice.k] == FOLLOWER).all() and not (tree.rank == COPIED).any()
    assert deepest >= 2, "no follower stood behind the last column"


def test_followers_are_saved_named_and_checked(following):
    from diffuspec.errors import TraceError

    again = Trace.loads(following.dumps())
    assert again.dumps() == following.dumps()
    place = next(step.index for step in again.steps if (step.search.tree.rank == FOLLOWER).any())
    step = again.steps[place]
    tree, columns = step.search.tree, detail(step)["outside"]
    assert columns["-1"] == []
    assert {token for token in columns["-2"] if token is not None} <= set(tree.ids[tree.rank == FOLLOWER].tolist())
    wrong = dataclasses.replace(tree, rank=np.where(tree.rank == FOLLOWER, FOLLOWER - 1, tree.rank))
    steps = list(again.steps)
    steps[place] = dataclasses.replace(step, search=dataclasses.replace(step.search, tree=wrong))
    with pytest.raises(TraceError, match="contradicts itself"):
        Trace.loads(dataclasses.replace(again, steps=tuple(steps)).dumps())


def test_an_undrafted_step_verifies_the_tree_that_was_weighed(tiny_pairs):
    """The tree that made the policy choose no draft is the one of the next step, grown once."""
    pair = dataclasses.replace(tiny_pairs["peeking"])
    pair.__dict__["step_cost"] = StepCost(draft=((1, 500.0), (32, 600.0)), verify=((1, 10.0), (8, 10.5)))
    run = DiffuSpec(pair, Settings(length="throughput", **SETTINGS)).stream(ids=REPEATED, max_new_tokens=24)
    undrafted, ahead = 0, None
    for step in run:
        if undrafted and not step.draft_length:
            assert step.search.tree is ahead
        if run.pending_tree is not None:
            undrafted, ahead = undrafted + 1, run.pending_tree.tree
    assert undrafted > 1
