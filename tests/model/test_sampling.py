"""Above temperature 0 the output is a sample from the target, whatever was drafted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffuspec import DiffuSpec, Settings
from diffuspec.method.acceptance import verify
from diffuspec.models.drafter import DiffusionDrafter
from diffuspec.models.ranking import RankedLogits


@given(st.lists(st.integers(0, 2), max_size=3), st.integers(0, 2**31), st.sampled_from([(), (2,)]))
def test_the_point_mass_rule_is_exact_for_any_path(path, seed, stops):
    """Every outcome of every draw, weighed: the joint law of the first emitted tokens is the target's own."""
    random = np.random.default_rng(seed)
    p = {history: random.dirichlet(np.ones(3)) for history in histories(len(path))}
    emitted = {}
    for draws in histories(len(path) + 1, exactly=True):
        verdict = verify(np.array(path, np.int32), draws.__getitem__, stops)
        out = (*path[: verdict.accepted], *([] if verdict.token is None else [verdict.token]))
        assert out == draws[: len(out)]
        emitted[out] = float(np.prod([p[out[:i]][token] for i, token in enumerate(out)]))
    assert sum(emitted.values()) == pytest.approx(1.0)
    first = [sum(mass for out, mass in emitted.items() if out[0] == token) for token in range(3)]
    np.testing.assert_allclose(first, p[()])
    for out, mass in emitted.items():
        if len(out) > 1:
            beginning = sum(m for other, m in emitted.items() if other[: len(out) - 1] == out[:-1])
            assert mass / beginning == pytest.approx(p[out[:-1]][out[-1]])


def histories(longest, exactly=False):
    import itertools

    return [h for n in range(longest if exactly else 0, longest + 1) for h in itertools.product(range(3), repeat=n)]


class Stubborn(DiffusionDrafter):
    """Always drafts the same ranking: the path is fixed, as found by a search."""

    kind, max_block = "standalone", 8

    def __init__(self, vocab):
        self.row = torch.linspace(3, 0, vocab).roll(9)

    def logits(self, prefix, block, cache):
        return self.row.repeat(len(block), 1)

    def to_target_ids(self, columns):
        return columns


class TableTarget:
    """A target whose next token depends on the newest one only: thousands of runs take seconds."""

    vocab_size, device, remote = 16, torch.device("cpu"), False

    def __init__(self):
        self.table = 1.5 * torch.randn(16, 16, generator=torch.Generator().manual_seed(4))

    def start(self, prefix, settings, hidden=(), should_stop=None):
        return list(prefix[:-1])

    def forward(self, cache, ids):
        cache.extend(ids)
        return self.table[ids]

    def ranked(self, cache, ids, parents=None):
        return RankedLogits(self.forward(cache, ids))

    def keep(self, cache, total, rows):
        first = len(cache) - total
        cache[first:] = [cache[first + row] for row in rows]


@pytest.mark.parametrize("passes_over", [1, 2])
def test_two_tokens_are_distributed_as_direct_sampling_has_them(tiny_pair, passes_over):
    """Chi-square over all pairs of first tokens; the draft is sometimes accepted, sometimes not."""
    runs, temperature, target = 4000, 1.3, TableTarget()
    info = dataclasses.replace(tiny_pair.info, max_draft=8)
    pair = dataclasses.replace(tiny_pair, info=info, target=target, drafter=Stubborn(16), stop_ids=frozenset())
    p = (target.table / temperature).softmax(-1).double().numpy()
    expected = p[7][:, None] * p * runs
    counts, accepted = np.zeros((16, 16)), 0
    for seed in range(runs):
        settings = Settings(search="argmax", length="fixed", k=passes_over, temperature=temperature, seed=seed)
        run = DiffuSpec(pair, settings).stream(ids=[3, 7], max_new_tokens=1 + passes_over)
        tokens = [token for step in run for token in step.emitted]
        counts[tokens[0], tokens[1]] += 1
        accepted += run.recorder.steps[0].accepted > 0
    assert 0.02 * runs < accepted < 0.9 * runs, "the draft was never in question"
    often = expected >= 5
    pooled_counts = [*counts[often], counts[~often].sum()]
    pooled_expected = [*expected[often], expected[~often].sum()]
    chi_square = sum((c - e) ** 2 / e for c, e in zip(pooled_counts, pooled_expected, strict=True))
    freedom = len(pooled_counts) - 1
    # Mean `freedom`, variance 2 `freedom`; the seeds are fixed, so this either holds or does not.
    assert freedom > 30 and chi_square < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("name", ["standalone", "block", "peeking"])
def test_a_seed_fixes_the_answer_and_another_gives_another(tiny_pairs, name):
    def answer(seed):
        settings = Settings(proxy="context", temperature=1.0, seed=seed)
        return DiffuSpec(tiny_pairs[name], settings).run(ids=[62, 102], max_new_tokens=16).token_ids

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(6)}) > 1


def test_a_cold_sample_is_the_greedy_answer(tiny_pair, tiny_model, plain_greedy):
    """As T falls the point-mass rule becomes the greedy one."""
    settings = Settings(proxy="context", temperature=0.05)
    answer = DiffuSpec(tiny_pair, settings).run(ids=[62, 102], max_new_tokens=4).token_ids
    assert list(answer) == plain_greedy(tiny_model, [62, 102], 4)
