"""The diagnosis on tiny pairs: replays that are the engine's own, losses that add up, predictions that hold."""

import pytest

from diffuspec import DiffuSpec, Settings
from diffuspec.measure.diagnose.losses import END, UNEXPLAINED, losses, rows_of
from diffuspec.measure.diagnose.machine import Costs, measure_machine, needed, roofline
from diffuspec.measure.diagnose.replay import replay, replay_all
from diffuspec.measure.diagnose.tape import record
from diffuspec.method.length import StepCost

COST = StepCost(draft=((1, 1.0), (8, 2.0)), verify=((1, 10.0), (4, 11.0), (8, 14.0), (16, 24.0)))
COSTS = Costs(COST, COST, level=1.5, host_ms=0.5)
PROMPT = "Tell me, tell me, tell me of the sea."
USUAL = dict(proxy="context", max_new_tokens=40, k=5, k_min=2, k_max=6)
SETTINGS = [
    dict(search="argmax", length="fixed"),
    dict(search="cps", length="adl"),
    dict(search="cps", length="confidence", confidence=0.3),
    dict(search="exact", length="fixed", m_max=4),
    dict(search="tree", length="adl", nodes=7, copy=0),
    dict(search="tree", length="fixed", nodes=12, copy=1),
]


def taped(pair, settings, ids):
    run = DiffuSpec(pair, settings).run
    trace = run(ids=ids)
    whose = dict(question="1", category="mt", turn=0)
    lengths = range(1, settings.k_max + 1)
    return trace, record(pair, ids, trace.token_ids, lengths, width=max(15, settings.m_max), **whose)


@pytest.mark.parametrize("name", ["peeking", "block", "standalone"])
@pytest.mark.parametrize("changes", SETTINGS, ids=lambda c: f"{c['search']}-{c['length']}")
def test_a_replay_makes_the_steps_of_the_run(tiny_pairs, name, changes):
    pair, settings = tiny_pairs[name], Settings(**USUAL, **changes)
    trace, tape = taped(pair, settings, pair.encode(PROMPT))
    made = replay(pair, settings, tape, COSTS)
    assert [(s.place, s.k, s.nodes, s.accepted, s.tokens, s.kind) for s in made] == [
        (s.start, s.draft_length, rows_of(s) - 1, s.accepted, len(s.emitted), s.verification.kind) for s in trace.steps
    ]
    assert sum(s.tokens for s in made) == len(tape.answer) == trace.new_tokens
    last = made[0]
    assert last.verify_ms == pytest.approx(1.5 * COST.verify_ms(256)[last.nodes]) and last.host_ms == 0.5
    if changes["search"] == "tree":
        for step, was in zip(made, trace.steps, strict=True):
            assert step.walked.tolist() == was.verification.tree.accepted.tolist()
            assert step.score == pytest.approx(was.search.tree.score)
