"""Every study on a tiny pair: its rows, its words, its file; and files from strangers."""

import csv
import dataclasses
import io
import json
import math

import pytest

from diffuspec import Settings
from diffuspec.errors import ResultsError, SettingsError
from diffuspec.measure import paper
from diffuspec.measure.questions import QuestionFile, bundled_questions
from diffuspec.measure.studies import STUDIES, StudyResult, run_study, stream_study
from diffuspec.measure.studies.memory import memory
from diffuspec.measure.studies.methods import comparison
from diffuspec.measure.studies.sweep import sweep
from diffuspec.measure.tables import report, text_table

SETTINGS = Settings(proxy="context", k=4, k_min=2, k_max=6, max_new_tokens=12)


@pytest.fixture(scope="module")
def questions() -> QuestionFile:
    """A short one of each of three families."""
    return dataclasses.replace(
        bundled_questions(), questions=tuple(q for q in bundled_questions().questions if q.id in ("qa-3", "chat-1"))
    )


@pytest.fixture(scope="module")
def run(tiny_pairs, questions):
    """name -> its finished result; each study is run once."""
    known = {}

    def result(name) -> StudyResult:
        if name not in known:
            study = memory(60, 20) if name == "memory" else name
            known[name] = run_study(study, tiny_pairs["peeking"], SETTINGS, questions)
        return known[name]

    return result


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_ends_with_rows_words_and_a_file(run, tmp_path, name):
    result, study = run(name), STUDIES[name]
    assert result.complete and result.now == "" and result.rows and result.study == name
    keys = [column.key for column in study.columns]
    assert len(set(keys)) == len(keys) and all(set(row) == set(keys) for row in result.rows)
    measured = [c.key for c in study.columns if not c.paper and not c.bound and c.key not in ("k", "conditional")]
    assert all(row[key] is not None for row in result.rows for key in measured)
    assert any(character.isdigit() for character in result.remark)
    assert result.questions.count == (2 if study.variants else 0)
    assert StudyResult.loads(result.to_json()) == result
    result.save(tmp_path / "out.json")
    assert StudyResult.load(tmp_path / "out.json") == result
    result.save(tmp_path / "out.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert list(lines[0]) == keys and len(lines) == len(result.rows)
    for line, row in zip(lines, result.rows, strict=True):
        assert all(line[key] == ("" if row[key] is None else str(row[key])) for key in keys)
    assert result.remark in report(result) and text_table(result) in report(result)


def test_the_fastest_method_is_named_only_where_one_beats_plain_decoding():
    row = {"category": "mean", "identical": 1.0, "tokens_per_step": 1.7, "paper_accepted_per_step": 6.99}
    ours = [{"method": "ar", "speedup": 1.0} | row, {"method": "diffuspec", "speedup": 0.9, "paper_speedup": 3.0} | row]
    assert (
        STUDIES["methods"].remark(ours).startswith("None of these methods beats plain AR here. DiffuSpec reaches 0.90")
    )
    ours[1]["speedup"] = 1.25
    assert STUDIES["methods"].remark(ours).startswith("The fastest here is DiffuSpec, 1.25 times plain AR.")


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.variants])
def test_every_variant_is_held_against_plain_decoding(run, name):
    result = run(name)
    assert result.differences == ()
    assert all(row.get("identical", 1) == 1 for row in result.rows)
    variants = STUDIES[name].variants(SETTINGS, 40)
    assert variants[0].name == variants[0].method == "ar"
    assert result.total == result.done == 2 * len(variants)


def test_the_papers_values_stand_in_the_right_rows(run):
    ablation = {(r["variant"], r["category"]): r for r in run("ablation").rows}
    for name, switches in (
        ("CPS + ADL", (True, True)),
        ("CPS", (True, False)),
        ("ADL", (False, True)),
        ("neither", (False, False)),
    ):
        row = ablation[name, "mean"]
        assert (row["paper_accepted_per_step"], row["paper_speedup"]) == paper.ABLATION[switches]
        row = ablation[name, "qa"]
        assert (row["paper_accepted_per_step"], row["paper_speedup"]) == tuple(
            values[3] for values in paper.ABLATION_BY_TASK[switches]
        )
    lengths = {r["variant"]: r for r in run("fixed-k").rows}
    assert lengths["k = 10"]["paper_speedup"] == 2.74 and lengths["ADL"]["paper_accepted_per_step"] == 6.99
    assert lengths["k = 4"]["paper_speedup"] is None
    passes = {r["value"]: r for r in run("sweep").rows if r["knob"] == "passes"}
    assert passes[10]["paper_speedup"] == 0.93 and passes[2]["paper_speedup"] is None
    split = {(r["variant"], r["stage"]): r for r in run("time-split").rows}
    assert split["SPS", "draft"]["paper_seconds"] == 4.1
    assert split["DiffuSpec", "search"]["paper_share"] == pytest.approx(0.03 / (0.03 + 1.6 + 2.13))
    methods = {(r["method"], r["category"]): r for r in run("methods").rows}
    assert methods["diffuspec", "mt"]["paper_speedup"] == 3.09
    assert methods["ar-drafter", "mean"]["paper_accepted_per_step"] == 6.18


def test_the_ablation_turns_off_what_it_says(run):
    rows = {r["variant"]: r for r in run("ablation").rows if r["category"] == "mean"}
    by_name = {v.name: v for v in STUDIES["ablation"].variants(SETTINGS, 40)}
    assert {n: v.method for n, v in by_name.items()} == {
        "ar": "ar",
        "CPS + ADL": "diffuspec",
        "CPS": "cps",
        "ADL": "adl",
        "neither": "plain",
    }
    assert rows.keys() == by_name.keys() - {"ar"}


def test_shares_of_a_step_add_up(run):
    rows = run("time-split").rows
    for name in ("DiffuSpec", "SPS"):
        assert math.fsum(r["share"] for r in rows if r["variant"] == name) == pytest.approx(1)
        assert math.fsum(r["paper_share"] or 0 for r in rows if r["variant"] == name) == pytest.approx(1)


def test_lengths_count_whole_drafts_only(run):
    rows = run("lengths").rows
    assert [r["k"] for r in rows] == sorted(r["k"] for r in rows) and rows[0]["k"] == 2
    assert all(0 <= r["accepted"] <= r["generated"] <= r["k"] and r["steps"] > 0 for r in rows)


def test_acceptance_by_position_falls_along_the_draft(run):
    for name in ("argmax", "CPS", "token by token"):
        mine = [r for r in run("positions").rows if r["variant"] == name]
        assert [r["position"] for r in mine] == list(range(1, len(mine) + 1))
        assert mine[0]["offered"] == mine[0]["reached"]
        for before, after in zip(mine, mine[1:], strict=False):
            assert after["reached"] <= before["accepted"] and after["offered"] <= before["offered"]
        assert all(r["conditional"] == (r["accepted"] / r["reached"] if r["reached"] else None) for r in mine)


def test_a_sweep_holds_the_value_set_and_one_change_at_a_time():
    study = sweep({"beam": ["1", "3", 8], "tau": [0.5]})
    variants = study.variants(SETTINGS.replace(beam=2), 40)
    assert [v.name for v in variants] == ["ar", "as set", "beam = 1", "beam = 3", "beam = 8", "tau = 0.5"]
    assert [(v.settings.beam, v.settings.tau) for v in variants[1:]] == [
        (2, 0.8),
        (1, 0.8),
        (3, 0.8),
        (8, 0.8),
        (2, 0.5),
    ]
    with pytest.raises(SettingsError, match="no setting 'beem'"):
        sweep({"beem": [1]})
    with pytest.raises(SettingsError, match="out of bounds"):
        sweep({"beam": [99]}).variants(SETTINGS, 40)


def test_a_study_goes_on_where_it_stopped(tiny_pairs, questions, tmp_path):
    study, state = comparison(["ar", "plain"]), tmp_path / "state.jsonl"
    seen = []
    for result in stream_study(study, tiny_pairs["peeking"], SETTINGS, questions, state=state):
        seen.append(result)
        if result.done >= 2:
            break
    assert not seen[-1].complete and seen[-1].rows and {r["category"] for r in seen[-1].rows} == {"mt", "mean"}
    shown = []
    whole = run_study(study, tiny_pairs["peeking"], SETTINGS, questions, state=state, on_progress=shown.append)
    assert whole.complete and shown[0].done == 2 and shown[0].rows == seen[-1].rows
    assert [r for r in whole.rows if r["category"] == "mt"] == [r for r in seen[-1].rows if r["category"] == "mt"]
    with pytest.raises(ResultsError, match="max_new_tokens was 12, now it is 13"):
        run_study(study, tiny_pairs["peeking"], SETTINGS.replace(max_new_tokens=13), questions, state=state)


@pytest.mark.parametrize("name", ["ablation", "costs", "memory"])
def test_a_study_can_be_stopped(tiny_pairs, questions, name):
    asked = []

    def soon():
        asked.append(None)
        return len(asked) > 3

    result = run_study(name, tiny_pairs["peeking"], SETTINGS, questions, should_stop=soon)
    assert not result.complete and len(asked) < 8


def changed(result, path, value):
    document = json.loads(result.to_json())
    *way, last = path
    inner = document
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "path, value",
    [
        (["study"], "nonesuch"),
        (["study"], ["ablation"]),
        (["version"], 2),
        (["rows"], {}),
        (["rows"], ...),
        (["rows", 0], 3),
        (["rows", 0, "speedup"], []),
        (["rows", 0, "speedup"], "1" * 3000),
        (["rows", 0, "speedup"], ...),
        (["rows", 0, "extra"], 1),
        (["rows"], [{}] * 6000),
        (["settings"], None),
        (["settings", "beam"], 1000),
        (["settings", "beem"], 1),
        (["pair"], {}),
        (["pair", "context"], "many"),
        (["provenance", "versions"], {"torch": 2}),
        (["questions", "count"], True),
        (["done"], -1),
        (["done"], 10**6),
        (["remark"], None),
        (["remark"], "x" * 10**5),
        (["differences"], [{"a": 1}]),
        (["now"], 3),
        (["total"], 2.5),
    ],
)
def test_a_strangers_file_is_refused_with_one_clear_line(run, path, value):
    with pytest.raises(ResultsError) as error:
        StudyResult.loads(changed(run("ablation"), path, value))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"format": "diffuspec-results"}',
        b"[" * 10**6,
        b'{"format": NaN}',
        b'{"format": "diffuspec-results", "version": 1, "study": "ablation", "rows": [[1e999]]}',
        b" " * 9 * 2**20,
    ],
)
def test_what_is_no_results_file_is_refused(data):
    with pytest.raises(ResultsError):
        StudyResult.loads(data)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ResultsError, match="Cannot read"):
        StudyResult.load(tmp_path / "nowhere.json")


def test_the_table_has_the_papers_form(run):
    lines = text_table(run("methods")).splitlines()
    assert lines[0].split() == [
        "method",
        "MT",
        "QA",
        "accepted/step",
        "tokens/step",
        "tokens/s",
        "speed-up",
        "identical",
    ]
    assert lines[1].split()[:3] == ["ar", "1.00", "1.00"] and lines[1].endswith("2 of 2")
    assert any(line.startswith("diffuspec, paper") and "3.09" in line and "6.99" in line for line in lines)


def test_the_paper_says_what_it_says():
    """Each table's parts agree with its other parts."""
    assert (
        paper.METHODS["DiffuSpec"][1:] == paper.ABLATION[True, True] == paper.DRAFT_LENGTH[None] == paper.REFINEMENT[1]
    )
    for switches, (_, speedups) in paper.ABLATION_BY_TASK.items():
        assert sum(speedups) / 6 == pytest.approx(paper.ABLATION[switches][1], abs=0.35)
    assert all(len(by_task) == len(paper.TASKS) for by_task, _, _ in paper.METHODS.values())
