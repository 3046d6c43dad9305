"""The diagnosis on tiny pairs: replays that are the engine's own, losses that add up, predictions that hold."""

import dataclasses
import json

import numpy as np
import pytest

from diffuspec import DiffuSpec, Settings
from diffuspec.errors import PairError, ResultsError
from diffuspec.measure.baselines import AutoregressiveRun
from diffuspec.measure.diagnose.diagnosis import Diagnosis
from diffuspec.measure.diagnose.levers import to_pull, weigh
from diffuspec.measure.diagnose.losses import (
    END,
    NO_DRAFT,
    NOT_CHOSEN,
    PRUNED,
    TOO_DEAR,
    TOO_SHORT,
    TOO_SMALL,
    UNEXPLAINED,
    UNKNOWN_TOKEN,
    losses,
    reason,
    rows_of,
)
from diffuspec.measure.diagnose.machine import Costs, Machine, measure_machine, needed, roofline
from diffuspec.measure.diagnose.reliability import fitted
from diffuspec.measure.diagnose.replay import replay, replay_all
from diffuspec.measure.diagnose.run import Deadline, in_turns, stream_diagnosis
from diffuspec.measure.diagnose.tape import record
from diffuspec.measure.diagnose.verdict import compare, sentences
from diffuspec.measure.questions import bundled_questions
from diffuspec.method.acceptance import Verdict
from diffuspec.method.calibration import Calibration
from diffuspec.method.lattice import TokenLattice
from diffuspec.method.length import StepCost
from diffuspec.models.drafter import NoDrafter

ENDINGS = (UNKNOWN_TOKEN, PRUNED, NOT_CHOSEN, TOO_SMALL, TOO_DEAR, TOO_SHORT, NO_DRAFT, END)

COST = StepCost(draft=((1, 1.0), (8, 2.0)), verify=((1, 10.0), (4, 11.0), (8, 14.0), (16, 24.0)))
COSTS = Costs(COST, COST, levels=((1.0, 1.5),), draft_level=1.5, host_ms=0.5)
PROMPT = "Tell me, tell me, tell me of the sea."
USUAL = dict(proxy="context", max_new_tokens=24, k=5, k_min=2, k_max=6)
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
    used = {step.draft_length for step in trace.steps if step.draft_length}  # of all columns but with confidence
    lengths = range(1, settings.k_max + 1) if settings.length == "confidence" else sorted(used)
    return trace, record(pair, ids, trace.token_ids, lengths, width=max(15, settings.m_max), **whose)


@pytest.mark.parametrize("name", ["peeking", "block"])
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


def test_losses_add_up_to_what_was_spent(tiny_pairs):
    """Hand-made costs: a step's parts are the module's equation, and what a pass took beyond its size has no name."""
    pair, settings = tiny_pairs["peeking"], Settings(**USUAL, search="cps")
    trace, _ = taped(pair, settings, pair.encode(PROMPT))
    quick = StepCost(draft=((1, 1e-3), (8, 2e-3)), verify=((1, 0.010), (4, 0.011), (8, 0.014), (16, 0.024)))
    costs = Costs(quick, quick)
    told = losses([trace.steps], settings, costs)
    v = {n: costs.verify_ms(n) for n in range(1, 17)}
    assert told.bound_ms == min(v[n] / n for n in v) and v[told.oracle_rows] / told.oracle_rows == told.bound_ms
    assert told.reached_ms == pytest.approx(sum(s.timing.total_ms for s in trace.steps) / trace.new_tokens)
    assert sum(loss.ms_per_token for loss in told.losses) == pytest.approx(told.gap_ms)
    by_name = {loss.name: loss for loss in told.losses}
    left = sum(s.timing.verify_ms - v[rows_of(s)] for s in trace.steps) / trace.new_tokens
    assert by_name[UNEXPLAINED].ms_per_token == pytest.approx(left)
    assert told.explained == pytest.approx(1 - abs(left) / told.gap_ms)
    assert sum(loss.steps for loss in told.losses) == len(trace.steps) and by_name[END].steps == 1
    assert sum(loss.ms_per_token for loss in told.losses if loss.name in ENDINGS) == pytest.approx(
        sum(v[len(s.emitted)] - len(s.emitted) * told.bound_ms for s in trace.steps) / trace.new_tokens
    )


def lattice(*kept):
    """Columns of tokens 10 and 11, q 0.6 and 0.3, of which `kept` survive."""
    ids = np.array([[10, 11]] * len(kept), np.int32)
    return TokenLattice(ids, np.log(np.array([[0.6, 0.3]] * len(kept), np.float32)), np.array(kept))


@pytest.mark.parametrize(
    "why, changes, k, accepted, token, nodes, ended",
    [
        (UNKNOWN_TOKEN, {}, 2, 1, 99, 2, False),
        (PRUNED, {}, 2, 1, 11, 2, False),
        (NOT_CHOSEN, {}, 2, 0, 11, 2, False),
        (TOO_SHORT, {}, 2, 2, 10, 2, False),
        (NO_DRAFT, {"search": "tree"}, 0, 1, 10, 3, False),
        (TOO_SMALL, {"search": "tree", "nodes": 2}, 2, 0, 11, 2, False),
        (TOO_DEAR, {"search": "tree", "nodes": 3}, 2, 0, 11, 2, False),
        (END, {}, 2, 0, 11, 2, True),
        (END, {}, 2, 1, None, 2, False),
    ],
)
def test_why_a_step_gave_no_more(why, changes, k, accepted, token, nodes, ended):
    columns = lattice([True, True], [True, False]) if k else lattice()
    if not k:
        columns = TokenLattice(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32), np.zeros((0, 0), bool))
    verdict = Verdict(accepted, token, token and "correction", (), ())
    settings = Settings(**changes)
    assert reason(columns, nodes, verdict, settings, settings.search == "tree", ended) == why


def test_a_prediction_is_the_ratio_of_what_two_settings_take(tiny_pairs):
    """By hand: tokens, steps and costs of each replay."""
    pair, settings = tiny_pairs["peeking"], Settings(**USUAL, search="cps", length="fixed")
    tapes = []
    for i in range(6):
        ids = pair.encode(f"{PROMPT} {i}")
        trace = DiffuSpec(pair, settings).run(ids=ids, max_new_tokens=16)
        tapes.append(record(pair, ids, trace.token_ids, (5, 10), width=15, question=str(i), category="mt", turn=0))
    base = replay_all(pair, settings, tapes, COSTS)
    assert base.tokens.tolist() == [len(tape.answer) for tape in tapes]
    prompts = {str(i): 100.0 * i for i in range(6)}
    levers = {x.name: x for x in weigh(pair, settings, tapes, COSTS, prompts, base, lambda: False)}
    assert {"k = 7", "k = 10", "tau = 0.95", "search = tree", "length = throughput"} <= levers.keys()
    assert "followers = 4" not in levers and "proxy = ngram+context" not in levers  # there is no n-gram
    longer = replay_all(pair, settings.replace(k=10), tapes, COSTS)
    step_ms = 1.5 * (COST.draft_ms(10) + COST.verify_ms(256)[10]) + 0.5
    short = sum(1 for _, steps in longer.all for s in steps if s.nodes < 10)
    assert short < longer.steps.sum() and max(s.ms for _, steps in longer.all for s in steps) == pytest.approx(step_ms)
    speeds = [made.tokens / (made.ms / 1e3 + np.arange(6) / 10) for made in (longer, base)]
    assert levers["k = 10"].predicted.value == pytest.approx(speeds[0].mean() / speeds[1].mean())
    assert levers["k = 10"].settings == settings.replace(k=10, k_min=2)
    pulled = to_pull(list(levers.values()))
    assert len(pulled) == 5 == len({x.name.split(" = ")[0] for x in pulled})


def test_a_calibration_is_fitted_used_and_loses_nothing(tiny_pairs, tmp_path):
    pair, settings = tiny_pairs["peeking"], Settings(**USUAL, search="tree", nodes=8, length="throughput")
    tapes = []
    for i in range(4):
        ids = pair.encode(f"{PROMPT} {i}")
        answer = list(AutoregressiveRun(pair, settings, ids))
        tapes.append(record(pair, ids, answer, (6,), width=15, question=str(i), category="mt", turn=0))
    found = fitted(tapes, pair, settings.replace(length="fixed", k=6), COSTS)
    assert len(found.temperatures) == 6 and (np.diff(found.y) >= 0).all()
    (tmp_path / "c.json").write_bytes(found.to_json())
    mended = pair.calibrated(Calibration.load(tmp_path / "c.json"))
    assert mended.info.calibration == found.digest and pair.info.calibration == ""
    trace = DiffuSpec(mended, settings).run(ids=tapes[0].prompt_ids)
    assert trace.token_ids == tapes[0].answer and trace.pair.calibration == found.digest
    shown = next(step for step in trace.steps if step.lattice.k).lattice
    assert 0 < np.exp(shown.logq).sum(1).max() <= 1 + 1e-5
    with pytest.raises(PairError, match="was fitted on"):
        tiny_pairs["block"].calibrated(found)


def test_rates_of_the_machine_and_what_a_pass_needs(tiny_pair):
    machine = measure_machine(tiny_pair.target)
    assert machine.gigabytes_s > 0.1 and machine.giga_multiply_adds_s > 0.1
    weight_bytes, multiply_adds = needed(tiny_pair.target)
    # 3 layers of q 32x32, k and v 32x16, o 32x32, gate, up and down 32x48; the head 264x32; float32
    assert multiply_adds == 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 264 * 32
    assert weight_bytes == 4 * multiply_adds
    roof = roofline(Machine(10.0, 100.0), tiny_pair.target, pass_ms=1.0, alone_ms=0.5)
    assert roof.floor_ms == pytest.approx(weight_bytes / 1e7) and roof.reached == roof.floor_ms / 1.0


@pytest.fixture(scope="module")
def diagnosed(tiny_pairs):
    """A diagnosis of a tiny pair, on a few short questions."""
    questions = bundled_questions()
    short = tuple(q for q in questions.questions if len(q.turns[0]) < 120)[:6]
    settings = Settings(**{**USUAL, "max_new_tokens": 10}, search="tree", nodes=6)
    *steps, last = stream_diagnosis(
        tiny_pairs["block"], settings, dataclasses.replace(questions, questions=short), minutes=0.8
    )
    fractions = [at.fraction for at in steps]
    assert fractions == sorted(fractions) and all(at.result is None for at in steps)
    return last.result


def test_a_diagnosis_says_what_was_measured(diagnosed):
    found = diagnosed
    assert found.took_s <= 60 * found.minutes
    assert {"ar", "ar-again", "as set"} <= {r.variant for r in found.results}
    assert all(r.identical for r in (*found.results, *found.pulled))
    assert found.questions.count == len({r.question for r in found.results}) >= 1
    said = sentences(found)
    assert said[0].startswith(("Use it", "Worth it once tuned", "Not sure", "Do not use it here"))
    assert f"on {found.questions.count} question" in said[0] and any("pays from" in one for one in said)
    assert {s.by for s in found.splits} >= {"all", "task", "turn", "text", "entropy", "context", "repeated"}
    whole = next(s for s in found.splits if s.by == "all")
    base = [r for r in found.results if r.variant == "as set"]
    assert (whole.tokens, whole.steps) == (sum(r.tokens for r in base), sum(r.steps for r in base))
    for by in ("task", "turn", "text", "context", "entropy", "repeated"):
        assert sum(s.tokens for s in found.splits if s.by == by) <= whole.tokens
    assert found.budgets[0].tokens_per_step < found.budgets[-1].tokens_per_step
    assert {p.drafter for p in found.positions} >= {"diffusion, likeliest", "diffusion, CPS"}


def test_a_diagnosis_travels(diagnosed, tmp_path):
    diagnosed.save(tmp_path / "a.json")
    again = Diagnosis.load(tmp_path / "a.json")
    assert again == diagnosed and sentences(again) == sentences(diagnosed)
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["verdict"] == sentences(diagnosed)
    for damage in (
        {"format": "x"},
        {"version": 2},
        {"results": []},
        {"plain": {}},
        {"losses": 3},
        {"took_s": "long"},
        {"levers": [{"name": "x"}]},
        {"results": document["results"][:1]},
    ):
        with pytest.raises(ResultsError):
            Diagnosis.loads(json.dumps(document | damage).encode())
    for bad in (b"", b"[]", b"\xff", b"{" * 1000):
        with pytest.raises(ResultsError):
            Diagnosis.loads(bad)


def test_what_a_pass_takes_is_what_it_took_in_the_run():
    """Twice as long as alone for one row, three times for nine; halfway between for five, and so on beyond nine."""
    costs = Costs(COST, COST, levels=((1.0, 2.0), (9.0, 3.0)))
    alone = COST.verify_ms(256)
    assert [costs.verify_ms(n) / alone[n - 1] for n in (1, 5, 9, 12)] == pytest.approx([2, 2.5, 3, 3])
    falling = Costs(COST, COST, levels=((1.0, 2.0), (9.0, 1.0)))
    assert all(falling.verify_ms(n) <= falling.verify_ms(n + 1) for n in range(1, 30))


def test_two_diagnoses_side_by_side(diagnosed):
    slower = tuple(dataclasses.replace(r, seconds=2 * r.seconds) for r in diagnosed.results)
    other = dataclasses.replace(
        diagnosed,
        results=slower,
        settings=diagnosed.settings.replace(nodes=9),
        provenance=dataclasses.replace(diagnosed.provenance, machine="another"),
    )
    said = compare(diagnosed, other, ("here", "there"))
    assert "nodes: 6 / 9" in said and f"machine: {diagnosed.provenance.machine} / another" in said
    line = next(line for line in said.splitlines() if line.startswith("ar, tokens/s"))
    assert " 0.50" in line
    assert "same machine" in compare(diagnosed, diagnosed)


def test_no_question_in_time_is_said(tiny_pair, monkeypatch):
    monkeypatch.setattr(Deadline, "fraction", lambda self: 1.0)  # the minutes are over at once, however fast it is
    with pytest.raises(ResultsError, match="Not one question was answered in 0.2 minutes"):
        list(stream_diagnosis(tiny_pair, Settings(**USUAL), bundled_questions(), minutes=0.2))


def test_a_stop_ends_it_without_a_result(tiny_pair):
    steps = list(
        stream_diagnosis(tiny_pair, Settings(**USUAL), bundled_questions(), minutes=5, should_stop=lambda: True)
    )
    assert steps and all(at.result is None for at in steps)


def test_families_take_turns():
    asked = in_turns(bundled_questions()).questions
    assert len({q.category for q in asked[:6]}) == 6 and len(asked) == len(bundled_questions().questions)


def test_a_pair_without_a_drafter_is_diagnosed_too(tiny_pair):
    none = NoDrafter()
    info = dataclasses.replace(tiny_pair.info, drafter="none", drafter_kind="none", max_draft=0)
    bare = dataclasses.replace(tiny_pair, drafter=none, info=info)
    questions = dataclasses.replace(bundled_questions(), questions=bundled_questions().questions[:2])
    settings = Settings.without_drafter("context", max_new_tokens=10)
    *_, last = stream_diagnosis(bare, settings, questions, minutes=0.5)
    found = last.result
    assert not any(c.part == "draft" for c in found.costs) and {p.drafter for p in found.positions} == {"copies"}
    assert {"ar", "as set"} <= {r.variant for r in found.results} and "diffuspec" not in {
        r.variant for r in found.results
    }
    assert not any("a draft of" in one.lower() for one in sentences(found))
    assert any("pays from" in one for one in sentences(found))
