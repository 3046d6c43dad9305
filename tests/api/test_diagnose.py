"""`diagnose` and `compare` as a user meets them."""

import json
import time

import pytest

from diffuspec.cli.main import main
from diffuspec.measure.diagnose.diagnosis import Diagnosis
from tests.api.test_cli import diffuspec
from tests.fakes.diagnosis import fake_diagnosis


def test_a_diagnosis_ends_within_its_minutes_and_says_what_it_found(tmp_path):
    """Of the embedded pair, from the command's start to its end; the files beside it."""
    began = time.monotonic()
    outputs = ["--json", tmp_path / "a.json", "--html", tmp_path / "a.html"]
    done = diffuspec("diagnose", "--minutes", 1.5, "--max-new-tokens", 24, *outputs, "--preset", "default")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 100  # and what the process itself takes to start and end
    found = Diagnosis.load(tmp_path / "a.json")
    assert found.took_s <= 90 and found.settings.max_new_tokens == 24 and found.settings.search == "cps"
    first, *rest = done.stdout.splitlines()
    assert first == json.loads((tmp_path / "a.json").read_text())["verdict"][0]
    assert any("MB of weights" in line for line in rest) and any("pays from" in line for line in rest)
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert all(r.identical for r in (*found.results, *found.pulled))
    assert len(done.stderr.splitlines()) < 60


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--minutes", "0"], "is not a number of minutes"),
        (["--minutes", "soon"], "is not a number of minutes"),
        (["--json", "none/a.json"], "there is no such folder"),
        (["--questions", "none.jsonl"], "Cannot read none.jsonl"),
        (["--calibration", "none.json"], "Cannot read none.json"),
        (["--k-max", "0"], "k_max"),
    ],
)
def test_bad_input_is_told_at_once(arguments, says, capsys):
    try:
        status = main(["diagnose", *arguments])
    except SystemExit as ended:
        status = ended.code
    assert status in (1, 2) and says in capsys.readouterr().err


def test_two_files_side_by_side(tmp_path, capsys):
    fake_diagnosis(faster=1.5).save(tmp_path / "here.json")
    fake_diagnosis(faster=0.8).save(tmp_path / "there.json")
    assert main(["compare", str(tmp_path / "here.json"), str(tmp_path / "there.json")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("here against there:") and "as set, speed-up" in said
    (tmp_path / "bad.json").write_text("{}")
    assert main(["compare", str(tmp_path / "here.json"), str(tmp_path / "bad.json")]) == 1
    assert "not a file of a DiffuSpec diagnosis" in capsys.readouterr().err
