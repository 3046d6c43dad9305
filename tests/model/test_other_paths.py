"""What the models say of another path, and of going on from a prefix."""

import pytest

from diffuspec import DiffuSpec
from diffuspec.trace.whatif import context, continuation, verify_path


@pytest.fixture(scope="module")
def pair(tiny_pairs):
    return tiny_pairs["peeking"]


def test_the_recorded_path_gets_the_recorded_verdict(pair, tiny_trace):
    for step in tiny_trace.steps:
        if not len(step.path):
            continue
        again = verify_path(pair, tiny_trace, step.index, step.search.ranks.tolist())
        assert again.verification.draws == step.verification.draws
        assert again.verification.path_logp == pytest.approx(step.verification.path_logp, abs=1e-4)


def test_another_path_is_accepted_as_far_as_it_is_the_answer(pair, tiny_trace):
    tried = 0
    for step in tiny_trace.steps:
        if not step.lattice.k:
            continue
        ranks = [1 if step.lattice.width > 1 else 0] * step.lattice.k
        again = verify_path(pair, tiny_trace, step.index, ranks)
        known = continuation(tiny_trace, step.index)
        agree = 0
        while agree < min(len(known), len(again.path)) and again.path[agree] == known[agree]:
            agree += 1
        if agree < len(known):
            assert again.verification.accepted == agree
            assert again.verification.token in (known[agree], None)
            tried += 1
    assert tried


def test_going_on_from_a_prefix_gives_the_same_answer(pair, tiny_trace):
    for index in (1, len(tiny_trace.steps) // 2):
        known = continuation(tiny_trace, index)
        run = DiffuSpec(pair, tiny_trace.settings).run(ids=context(tiny_trace, index), max_new_tokens=len(known))
        assert run.token_ids == known
        assert run.prompt is None
