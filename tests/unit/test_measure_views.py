"""The Measure page's tables and figures, as pure functions of results."""

from types import SimpleNamespace

import orjson
import pytest

from diffuspec.assets import ASSETS
from diffuspec.errors import DiffuSpecError
from diffuspec.measure import paper
from diffuspec.measure.studies import STUDIES
from diffuspec.settings import Settings
from diffuspec.ui.diagnose.events import recorded as diagnosed
from diffuspec.ui.measure.events import MOST_QUESTION_BYTES, Studies, asked, recorded
from diffuspec.ui.measure.figures import FIGURES, study_chart
from diffuspec.ui.measure.view import results_payload, tables
from diffuspec.ui.player.merits import RECORDED
from tests.fakes.scripted import fake_result


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_table_and_a_picture(name):
    result = fake_result(name)
    body = orjson.loads(results_payload(name, result, RECORDED))
    for table in (body["summary"], body["whole"]):
        assert table["rows"] and all(len(row) == len(table["heads"]) for row in table["rows"])
    assert len(body["whole"]["rows"]) == len(result.rows)
    assert body["source"]["badge"].startswith("recorded 2026-11-23")
    picture = study_chart(result)
    assert picture["figure"]["data"], name
    assert len(picture["table"]["rows"]) == len(result.rows)


def test_a_few_questions_are_of_every_family():
    studies = Studies(None, [])
    work = studies._work("visitor", "methods", None, 6, Settings())
    studies.folders["visitor"].rmdir()
    assert {question.category for question in work.questions.questions} == set(paper.TASKS)


def test_a_closed_tab_leaves_no_folder_and_frees_its_study():
    studies, left, other = (
        Studies(None, []),
        SimpleNamespace(session_hash="left"),
        SimpleNamespace(session_hash="other"),
    )
    for visitor in (left, other):
        studies.works[visitor.session_hash] = studies._work(visitor.session_hash, "methods", None, 6, Settings())
        studies.works[visitor.session_hash].state.write_text("half a study")
    work, folder, kept = studies.works["left"], studies.folders["left"], studies.folders["other"]
    studies.leave(left)
    assert work.stopped.is_set() and not folder.exists()
    assert list(studies.works) == list(studies.folders) == ["other"] and len(list(kept.iterdir())) == 1
    studies.leave(left)  # twice does nothing
    studies.leave(other)
    assert not kept.exists()


def test_no_figure_is_left_over():
    assert set(FIGURES) == set(STUDIES)


def test_table_1_is_the_papers_form_with_its_rows_marked():
    summary, _ = tables(fake_result("methods", questions=6))
    heads = [label for label, _ in summary.heads]
    assert heads[1:7] == list(paper.TASKS.values())
    assert [summary.rows[i][0] for i in summary.paper_rows] == ["in the paper"] * len(summary.paper_rows)
    ours = next(i for i, row in enumerate(summary.rows) if row[0] == "DiffuSpec")
    theirs = summary.rows[ours + 1]
    speeds, mat, mean = paper.METHODS["DiffuSpec"]
    assert ours + 1 in summary.paper_rows
    assert theirs[1:9] == tuple(f"{x:.2f}" for x in (*speeds, mean, mat))


def test_the_papers_columns_are_marked_and_no_other():
    summary, _ = tables(fake_result("ablation"))
    marked = {label for label, theirs in summary.heads if theirs}
    assert marked == {"accepted/step", "speed-up"}
    assert sum(not theirs for label, theirs in summary.heads if label == "speed-up") == 1
    row = summary.rows[0]
    place = next(i for i, (label, theirs) in enumerate(summary.heads) if theirs and label == "speed-up")
    assert row[0] == "CPS + ADL" and row[place] == "3.08"


def test_a_study_not_measured_yet_says_so():
    body = orjson.loads(results_payload("sweep", None, RECORDED))
    assert "summary" not in body and body["where"] == "Figure 7"
    assert study_chart(fake_result("sweep", questions=0, asked=4)) is None


def test_results_that_come_along_are_read_and_a_damaged_file_is_passed_over(tmp_path):
    fake_result("ablation").save(tmp_path / "ablation.json")
    (tmp_path / "broken.json").write_text("{}")
    assert recorded(tmp_path) == {"ablation": (fake_result("ablation"), RECORDED)}
    assert recorded(tmp_path / "missing") == {}


def test_every_results_file_of_the_project_is_on_the_page():
    files = {path.stem for path in (ASSETS / "results").glob("*.json")}
    shelf = recorded(ASSETS / "results")
    assert shelf.keys() | {"diagnosis"} == files and len(shelf) >= 8
    assert diagnosed(ASSETS / "results" / "diagnosis.json"), "the page Diagnose opens with it"
    assert all(result.rows for result, _ in shelf.values())


@pytest.mark.parametrize(
    "content", [b"not json", b'{"question_id": 1}', b"", b'{"question_id":1,"category":"qa","turns":["a"]}\n' * 2]
)
def test_a_bad_question_file_is_refused(tmp_path, content):
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(DiffuSpecError):
        asked(str(tmp_path / "q.jsonl"))


def test_a_huge_question_file_is_refused_unread(tmp_path):
    with open(tmp_path / "q.jsonl", "wb") as file:
        file.truncate(MOST_QUESTION_BYTES + 1)
    with pytest.raises(DiffuSpecError, match="larger than"):
        asked(str(tmp_path / "q.jsonl"))
