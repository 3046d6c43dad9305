"""Every lesson loads, asks something that can be answered, and reveals what an independent computation also finds."""

from __future__ import annotations

import json
import re
import string

import numpy as np
import pytest

from diffuspec import Settings
from diffuspec.trace.gallery import gallery
from diffuspec.ui.learn import view as quiz
from diffuspec.ui.learn.glossary import glossary
from diffuspec.ui.learn.lessons import lesson, lessons
from diffuspec.ui.learn.lessons.puzzles import PUZZLES, solve
from diffuspec.ui.learn.pictures import PASSES
from diffuspec.ui.learn.terms import entries, glossary_page

NAMES = [entry.name for entry in lessons()]
PHASES = {"mask", "lattice", "search", "verify", "commit"}


@pytest.fixture(scope="module")
def recorded():
    return gallery()


@pytest.fixture(scope="module")
def outcomes(recorded):
    return {entry.name: solve(recorded, entry.compute) for entry in lessons()}


def braces(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(str(text)) if name}


def test_there_are_thirteen_and_each_computes_something_else():
    assert len(NAMES) == len(set(NAMES)) == 13
    assert {entry.compute for entry in lessons()} == set(PUZZLES)
    assert [entry.number for entry in lessons()] == list(range(1, len(NAMES) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_text_question_and_reveal_are_whole(name, outcomes):
    entry, outcome = lesson(name), outcomes[name]
    assert 80 < len(entry.body.split()) < 260, "two minutes to read"
    assert entry.body.count("$$") >= 2 and entry.body.count("$$") % 2 == 0
    for text in (entry.question, entry.reveal, entry.low, entry.high):
        assert braces(text) <= set(outcome.facts)
    # What is asked for must not stand in the question.
    if not entry.choices:
        assert not braces(entry.question) & (braces(entry.reveal) - braces(entry.question))
    else:
        assert outcome.answer in entry.choices


@pytest.mark.parametrize("name", NAMES)
def test_its_place_on_the_playground_exists(name, outcomes, recorded):
    entry, outcome = lesson(name), outcomes[name]
    if entry.settings is not None:
        values = Settings.paper() if entry.settings == "paper" else Settings.from_mapping(entry.settings)
        assert values != Settings()
    else:
        trace = recorded.trace(outcome.trace)
        assert 0 <= outcome.step < len(trace.steps)
        assert entry.phase in PHASES


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_within_reach_and_not_on_the_page(name, outcomes, recorded):
    entry, outcome = lesson(name), outcomes[name]
    asked = json.loads(quiz.question(recorded, name))
    assert set(asked) == {
        "lesson",
        "question",
        "choices",
        "unit",
        "step",
        "low",
        "high",
        "table",
        "inputs",
        "open",
        "colours",
        "next",
    }
    if not entry.choices:
        assert asked["low"] <= outcome.answer <= asked["high"]
    right = quiz.reveal(recorded, {"lesson": name, "guess": outcome.answer, "inputs": {}})
    assert right["right"] and right["verdict"].startswith("✓")
    wrong = next((key for key in entry.choices if key != outcome.answer), asked["high"] + 10)
    told = quiz.reveal(recorded, {"lesson": name, "guess": wrong, "inputs": {}})
    assert not told["right"] and told["verdict"].startswith("✗")
    assert "{" not in told["words"] and told["words"]


@pytest.mark.parametrize("name", [entry.name for entry in lessons() if entry.inputs])
def test_sliders_change_what_is_computed_and_bear_any_value(name, recorded):
    entry = lesson(name)
    usual = quiz.reveal(recorded, {"lesson": name, "guess": 0, "inputs": {}})
    ends = []
    for end in ("low", "high"):
        inputs = {key: bounds[end] for key, bounds in entry.inputs.items()}
        ends.append(quiz.reveal(recorded, {"lesson": name, "guess": 0, "inputs": inputs}))
    assert all("error" not in told and told["words"] for told in ends)
    assert any(told["figure"] != usual["figure"] for told in ends)
    beyond = quiz.reveal(recorded, {"lesson": name, "guess": 0, "inputs": dict.fromkeys(entry.inputs, 1e9)})
    assert "error" not in beyond


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"lesson": "nonesuch"},
        {"lesson": None},
        {"lesson": ["x"]},
        {"lesson": "break-even", "guess": None},
        {"lesson": "break-even", "guess": "much"},
        {"lesson": "break-even", "guess": 1, "inputs": {"alpha": "x"}},
        {"lesson": "break-even", "guess": 1, "inputs": {"alpha": float("nan")}},
        {"lesson": "break-even", "inputs": 3},
    ],
)
def test_nonsense_from_the_page_is_answered_with_an_error(asked, recorded):
    assert set(quiz.reveal(recorded, asked)) == {"error"}


# ---------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_stands_in_the_text_and_does_not_answer_the_question(name, recorded, outcomes):
    assert lesson(name).body.count(quiz.PICTURE) == 1
    before, after = quiz.article(name)
    assert before.startswith("# ") and len(after.split()) > 10 and quiz.PICTURE not in before + after
    drawn = json.loads(quiz.picture(recorded, name))
    assert drawn["caption"].endswith(".") and len(drawn["rows"]) >= 2
    assert all(row["tiles"] for row in drawn["rows"])
    asked = outcomes[name].table
    if asked and name in ("one-step", "lattice-and-pruning", "path-search"):
        texts = {row[1] for row in asked.rows}
        assert not any(texts <= {tile["text"] for tile in row["tiles"]} for row in drawn["rows"])


def test_masks_are_filled_by_confidence_and_stay_filled(recorded):
    """Eq. 5: after pass s of S, ceil(k s / S) masks are filled; in one pass all of them, neighbours alike."""
    passes = json.loads(PASSES.read_text(encoding="utf-8"))
    several, (empty, once) = passes["several"], passes["one"]
    k, count = len(empty), len(several) - 1
    assert empty == several[0] == [None] * k and None not in once
    for s, block in enumerate(several):
        assert sum(text is not None for text in block) == -(-k * s // count)
        assert all(new == old for old, new in zip(several[s - 1], block, strict=True) if s and old is not None)
    assert any(a == b for a, b in zip(once, once[1:], strict=False))
    rows = json.loads(quiz.picture(recorded, "from-masks-to-text"))["rows"]
    shown = [[tile["text"] for tile in row["tiles"][-k:]] for row in rows]
    assert shown[1] == once and shown[-1] == several[-1]
    assert [sum(tile["tone"] == "mask" for tile in row["tiles"]) for row in rows] == [k, 0, 4, 2, 0]


def test_the_pictures_of_steps_show_what_was_recorded(recorded):
    step_rows = {row["label"]: row for row in json.loads(quiz.picture(recorded, "one-step"))["rows"] if row["label"]}
    path = [tile["text"] for tile in step_rows["3 search"]["tiles"] if tile["tone"] == "path"]
    verified = [tile for tile in step_rows["4 verify"]["tiles"] if tile["tone"] != "none"]
    accepted = [tile["text"] for tile in verified if tile["tone"] == "accepted"]
    assert [tile["text"] for tile in verified] == path and path[: len(accepted)] == accepted
    committed = [tile["text"] for tile in step_rows["5 commit"]["tiles"]]
    own = step_rows["5 commit"]["tiles"][-1]
    assert (
        own["tone"] == "own" and committed[-1 - len(accepted) : -1] == accepted and own["text"] != path[len(accepted)]
    )
    kept = json.loads(quiz.picture(recorded, "lattice-and-pruning"))["rows"]
    for column in zip(*(row["tiles"] for row in kept), strict=True):
        tones = [tile["tone"] for tile in column]
        assert tones == sorted(tones, key=["draft", "faint"].index), "the kept ones are the likeliest"
        q = [float(tile["note"]) for tile in column]
        assert q == sorted(q, reverse=True)


# ------------------------------------------------------------------------- the truth, computed another way


def test_masks_at_once_counts_what_the_target_wrote(outcomes, recorded):
    outcome = outcomes["from-masks-to-text"]
    trace = recorded.trace(outcome.trace)
    step = trace.steps[outcome.step]
    wrote = trace.token_ids[step.start : step.start + step.draft_length]
    assert outcome.answer == sum(int(a) == b for a, b in zip(step.lattice.ids[:, 0], wrote, strict=True))
    assert 0 < outcome.answer < step.draft_length
    at = int(outcome.facts["first"]) - 1
    assert step.lattice.ids[at, 0] == step.lattice.ids[at + 1, 0] and wrote[at] != wrote[at + 1]


def test_one_step_counts_what_the_engine_emitted(outcomes, recorded):
    outcome = outcomes["one-step"]
    step = recorded.trace(outcome.trace).steps[outcome.step]
    assert outcome.answer == len(step.emitted) == step.accepted + 1
    drafted, own = ([row[i] for row in outcome.table.rows] for i in (1, 2))
    agree = next(i for i, (a, b) in enumerate(zip(drafted, own, strict=True)) if a != b)
    assert outcome.answer == agree + 1


def test_pruning_counts_by_hand(recorded):
    for tau, m_max in ((0.8, 15), (0.5, 15), (0.95, 15), (0.95, 2), (0.05, 15)):
        outcome = solve(recorded, "pruning", {"tau": tau, "m_max": m_max})
        step = recorded.trace(outcome.trace).steps[outcome.step]
        columns = [np.exp(row.astype(float)) for row in step.lattice.logq]
        shown = [f"{q:.2f}" for q in (float(row[2]) for row in outcome.table.rows)]
        q = next(q for q in columns if [f"{value:.2f}" for value in q[: len(shown)]] == shown)
        count = 1
        while q[:count].sum() < tau and count < m_max:
            count += 1
        assert outcome.answer == count


def test_path_search_agrees_with_the_recorded_acceptance(outcomes, recorded):
    outcome = outcomes["path-search"]
    step = recorded.trace(outcome.trace).steps[outcome.step]
    assert outcome.answer == "cps" and outcome.facts["cps_accepted"] == str(step.accepted)
    counts = [int(outcome.facts[key]) for key in ("cps_better", "argmax_better", "same")]
    assert sum(counts) == sum(len(s.path) > 1 for s in recorded.trace(outcome.trace).steps)


def test_every_refusal_has_one_reason(outcomes, recorded):
    outcome = outcomes["who-missed"]
    trace = recorded.trace(outcome.trace)
    refusals = [step for step in trace.steps if step.verification.kind == "correction" and step.draft_length]
    kinds = {kind: int(outcome.facts[kind]) for kind in ("drafter", "pruned", "search")}
    assert sum(kinds.values()) == len(refusals) == int(outcome.facts["refusals"])
    assert kinds[outcome.answer] == max(kinds.values())
    in_lattice = sum(s.verification.draws[-1] in s.lattice.ids[s.verification.accepted] for s in refusals)
    assert kinds["pruned"] + kinds["search"] == in_lattice


def test_a_random_drafter_changes_nothing_but_the_speed(outcomes, recorded):
    outcome = outcomes["lossless"]
    trace = recorded.trace(outcome.trace)
    assert outcome.answer == "same"
    assert outcome.facts["identical"] == outcome.facts["tokens"] == str(trace.new_tokens)
    assert int(outcome.facts["steps"]) > len(trace.steps)
    assert outcome.facts["forward"] != outcome.facts["backward"]


def test_break_even_is_where_the_speed_up_is_one(outcomes, recorded):
    outcome = outcomes["break-even"]
    trace = recorded.trace(outcome.trace)
    decoding_ms = trace.baseline.wall_s * 1e3 - trace.baseline.prefill_ms
    step_ms = sum(step.timing.total_ms for step in trace.steps) / len(trace.steps)
    assert outcome.answer * decoding_ms / len(trace.baseline.token_ids) == pytest.approx(step_ms, rel=0.02)
    rows = solve(recorded, "break_even", {"alpha": 0.05, "draft": 1.0, "token": 0.2}).figure.data[0].y
    assert max(rows) < 1, "a poor drafter never pays"


def test_the_next_length_is_the_one_the_run_used(outcomes, recorded):
    outcome = outcomes["adaptive-length"]
    step = recorded.trace(outcome.trace).steps[outcome.step]
    assert outcome.answer == step.length.next_k
    assert outcome.facts["new_gen"] == f"{step.length.ema_gen:.2f}"


def test_adl_at_the_papers_settings_stays_on_the_floor(outcomes, recorded):
    outcome = outcomes["adl-at-the-papers-settings"]
    assert outcome.answer == "20" and outcome.facts["first"].startswith("30, 20, 20")
    perfect = solve(recorded, "adl_replay", {"chance": 1.0})
    assert perfect.answer == "30", "only a drafter that is never wrong leaves the floor"


def test_the_paper_rule_is_biased_and_rule_a_is_not(recorded):
    outcome = solve(recorded, "biased_rule")
    assert outcome.answer == 0
    assert outcome.facts["biased"] == "(0.143, 0.857, 0)", "method.md's example"
    assert outcome.facts["exact"] == outcome.facts["p"] == "(0.5, 0.3, 0.2)"
    rng = np.random.default_rng(0)
    p, q, token, count = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.35, 0.25]), 1, 20_000
    left = np.maximum(p - q, 0)
    drawn = np.where(rng.random(count) < min(1, p[token] / q[token]), token, rng.choice(3, count, p=left / left.sum()))
    shares = np.bincount(drawn, minlength=3) / count
    assert np.abs(shares - outcome.figure.data[1].y).max() < 0.02


def test_a_larger_tree_never_accepts_less(recorded):
    rows = [float(share) for _, share in solve(recorded, "tree").after.rows]
    assert rows == sorted(rows) and rows[-1] > rows[0] > 0


# ------------------------------------------------------------------------------------------- the glossary


def test_links_into_the_glossary_resolve():
    known = set(glossary())
    for entry in lessons():
        assert set(re.findall(r"#term-([\w-]+)", entry.body)) <= known, entry.name
    for term in glossary().values():
        assert set(re.findall(r"\[\[([\w-]+)\]\]", term.text)) <= known, term.id
    assert set(re.findall(r"#term-([\w-]+)", glossary_page())) <= known


def test_links_from_the_glossary_name_lessons():
    assert {term.lesson for term in glossary().values() if term.lesson} <= set(NAMES)
    targets = {entry["href"] for entry in entries().values() if entry["href"]}
    assert targets == {f"#learn/{name}" for name in NAMES}, "each lesson explains some term"


def test_entries_link_the_papers_equations_by_number_and_title():
    by_id = entries()
    assert by_id["pruning"]["equations"] == [
        {
            "words": "Paper, Eq. 7: what pruning keeps of a column (section 3.2)",
            "href": "https://arxiv.org/html/2510.02358v1#S3.E7",
        }
    ]
    assert len(by_id["adl"]["equations"]) == 3
    assert glossary()["pruning-miss"].equations == (7,), "an equation that the text names is linked"
    assert glossary()["l_gen"].equations == (9,) and glossary()["token"].equations == ()
    assert "[Paper, Eq. 8: the score of a path" in glossary_page()


def test_an_entry_explains_each_choice_of_its_knob():
    by_knob = {term.knob: entries()[term.id] for term in glossary().values() if term.knob}
    for name, knob in Settings.knobs().items():
        if name in ("length", "search", "rule"):
            assert [choice for choice, does in by_knob[name]["choices"] if does] == list(knob.choices), name
    assert by_knob["tau"]["choices"] == []
    assert dict(by_knob["length"]["choices"])["adl"] == "adaptive draft length (Eqs. 9-11)"


def test_every_knob_has_an_entry():
    knobs = {term.knob for term in glossary().values() if term.knob}
    assert set(Settings.knobs()) - knobs == set()


def test_headings_of_the_app_name_terms_that_exist():
    from diffuspec import ui

    named = set()
    for path in ui.__path__:
        for suffix in ("html", "js"):
            for file in __import__("pathlib").Path(path).rglob(f"*.{suffix}"):
                named |= set(re.findall(r'data-(?:explain|term)="([\w-]+)"', file.read_text(encoding="utf-8")))
    assert named <= set(glossary())
