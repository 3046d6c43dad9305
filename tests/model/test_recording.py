"""What a trace says about a real run is what the target says when asked afresh."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffuspec import DiffuSpec, Settings, Trace
from diffuspec.trace.recorder import IMPOSSIBLE


@torch.inference_mode()
def fresh_logp(model, ids, n, temperature=1.0):
    """log p [n, V] after each of the last n prefixes of ids, in one pass without a cache."""
    return (model(torch.tensor([ids]), use_cache=False).logits[0, -n:] / temperature).log_softmax(-1).numpy()


@pytest.mark.parametrize(
    "settings",
    [
        Settings(proxy="context", k_min=2, k_max=6),
        Settings(search="argmax", length="fixed", k=9),
        Settings(proxy="none", passes=3),
        Settings(proxy="context", temperature=0.7, seed=3),
        Settings(proxy="context", search="tree", nodes=12),
        Settings(search="tree", proxy="none", temperature=0.8, seed=3),
        Settings(proxy="context", temperature=0.9, rule="sampled-path"),
        Settings(proxy="context", temperature=0.9, rule="paper"),
        Settings(proxy="context", temperature=1.1, rule="sampled-search", seed=1),
    ],
)
@pytest.mark.parametrize("name", ["standalone", "block", "peeking"])
def test_every_recorded_probability_is_the_targets(tiny_pairs, tiny_model, name, settings):
    prompt = [62, 102]
    trace = DiffuSpec(tiny_pairs[name], settings).run(ids=prompt, max_new_tokens=20)
    text = list(prompt)
    for step in trace.steps:
        check, path, n = step.verification, list(step.path), len(step.path)
        logp = fresh_logp(tiny_model, text + path, n + 1, settings.temperature or 1.0)
        rows, close = np.arange(n), dict(rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(check.path_logp, logp[rows, path], **close)
        np.testing.assert_allclose(check.cell_logp, logp[rows[:, None], step.lattice.ids[:n]], **close)
        np.testing.assert_allclose(check.top_logp, -np.sort(-logp, 1)[:, :8], **close)
        np.testing.assert_allclose(check.top_logp, np.take_along_axis(logp, check.top_ids.astype(int), 1), **close)
        assert check.path_rank.tolist() == [int((logp[i] > logp[i, token]).sum()) for i, token in enumerate(path)]
        if not settings.temperature:
            assert list(check.draws) == logp.argmax(1)[: len(check.draws)].tolist()
        if step.search.tree is not None:
            check_tree(tiny_model, text, step, settings.temperature or 1.0)
        assert (step.start, step.anchor) == (len(text) - len(prompt), text[-1])
        own = [] if check.token is None else [check.token]
        assert list(step.emitted) == path[: check.accepted] + own
        assert list(check.draws) == list(step.emitted)
        text += step.emitted
    assert text[len(prompt) :] == list(trace.token_ids)


def check_tree(model, text, step, temperature):
    tree, check = step.search.tree, step.verification.tree
    for node, (above, token) in enumerate(zip(tree.parent.tolist(), tree.ids.tolist(), strict=True)):
        way = tree.ids[tree.path_through(node)][: tree.depth[node]].tolist()
        logp = fresh_logp(model, text + way, 1, temperature)[0]
        np.testing.assert_allclose(check.logp[node], logp[token], rtol=1e-3, atol=1e-3)
        assert check.own[above + 1] == logp.argmax()
    assert np.flatnonzero(check.accepted).tolist() == step.search.nodes[: step.verification.accepted].tolist()


@pytest.mark.parametrize("rule", ["sampled-path", "sampled-search", "paper"])
def test_a_decision_by_ratio_can_be_worked_out_from_the_trace(tiny_pairs, rule):
    settings = Settings(proxy="context", temperature=0.8, rule=rule, length="fixed", k=4, seed=2)
    trace = DiffuSpec(tiny_pairs["peeking"], settings).run(ids=[62, 102], max_new_tokens=60)
    decided = 0
    for step in trace.steps:
        check, search = step.verification, step.search
        assert len(check.uniforms) == len(check.ratios) == min(check.accepted + 1, len(search))
        for i, (uniform, ratio) in enumerate(zip(check.uniforms, check.ratios, strict=True)):
            cells = np.exp(step.lattice.logq) if rule == "paper" else search.proposal
            q = cells[i, search.ranks[i]]
            assert ratio == pytest.approx(min(1.0, np.exp(check.path_logp[i]) / q), rel=1e-3)
            assert (uniform < ratio) == (i < check.accepted)
            decided += ratio < 1
        if search.proposal is not None and len(search):
            np.testing.assert_allclose(search.proposal.sum(1), 1, atol=1e-5)
            assert not search.proposal[~step.lattice.kept[: len(search)]].any()
    assert decided > 3


def test_with_top_k_and_top_p_the_filtered_distribution_is_recorded(tiny_pairs):
    settings = Settings(proxy="context", temperature=1.0, top_k=20, top_p=0.8, search="tree")
    trace = DiffuSpec(tiny_pairs["peeking"], settings).run(ids=[62, 102], max_new_tokens=20)
    for step in trace.steps:
        p = np.exp(step.verification.top_logp)
        assert (step.verification.top_logp >= IMPOSSIBLE).all() and (p.sum(1) <= 1.001).all()
        for draw, row, top in zip(step.verification.draws, p, step.verification.top_ids, strict=False):
            assert draw not in top or row[top.tolist().index(draw)] > 0
    assert Trace.loads(trace.dumps()).dumps() == trace.dumps()


def test_the_lengths_recorded_are_those_used(tiny_pairs):
    settings = Settings(proxy="context", k_min=2, k_max=9)
    trace = DiffuSpec(tiny_pairs["peeking"], settings).run(ids=[62, 102], max_new_tokens=40)
    for before, after in zip(trace.steps, trace.steps[1:], strict=False):
        room = 40 - after.start - 1
        assert after.length.k == before.length.next_k and after.draft_length == min(after.length.k, room)
    assert trace.steps[0].length.k == 9


def test_times_add_up(tiny_trace):
    assert all(value >= 0 for step in tiny_trace.steps for value in vars(step.timing).values())
    total = tiny_trace.prefill_ms + sum(tiny_trace.stage_ms().values())
    assert tiny_trace.wall_s * 1e3 == pytest.approx(total)
    assert set(tiny_trace.stage_ms()) == {"draft", "search", "verify", "commit", "record"}


def test_the_provenance_and_the_pair_are_written_down(tiny_trace, tiny_pairs):
    assert tiny_trace.provenance.versions.keys() == {"diffuspec", "python", "torch", "transformers"}
    assert tiny_trace.pair == tiny_pairs["peeking"].info and tiny_trace.stop_ids == (1, 3)


def test_every_token_a_picture_may_show_has_a_piece(tiny_trace):
    shown = {*tiny_trace.prompt_ids, *tiny_trace.token_ids}
    for step in tiny_trace.steps:
        shown |= {*step.lattice.ids.ravel().tolist(), *step.verification.top_ids.ravel().tolist()}
        shown |= set(step.verification.draws)
    assert shown <= tiny_trace.pieces.keys()
    assert {t for t in tiny_trace.special} <= shown | set(tiny_trace.special)
