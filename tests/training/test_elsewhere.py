"""A drafter is trained where files arrive in pieces: split, carried in two goes, joined, trained, brought back."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from diffuspec import DiffuSpec, Settings, load_pair
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.training.data import DataFolder
from scripts.train_elsewhere import LIST, PIECE, PiecesError, join, main, split


def whole(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_pieces_are_small_and_become_the_same_files(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "big.bin").write_bytes(bytes(range(256)) * 1000)
    (source / "even.bin").write_bytes(b"x" * 200_000)
    (source / "empty.bin").write_bytes(b"")
    made = split(source.iterdir(), tmp_path / "pieces", size=100_000)
    assert max(path.stat().st_size for path in made) <= 100_000
    assert len(made) == 1 + 3 + 2 + 1
    join(tmp_path / "pieces", tmp_path / "back")
    assert whole(tmp_path / "back") == whole(source)
    assert PIECE <= 60 * 10**6


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_joined(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"a" * 250)
    (tmp_path / "b.bin").write_bytes(b"b" * 250)
    split([tmp_path / "a.bin", tmp_path / "b.bin"], tmp_path / "pieces", size=100)
    first, second = tmp_path / "pieces" / "001-0001.bin", tmp_path / "pieces" / "001-0002.bin"
    kept = second.read_bytes()
    first.rename(tmp_path / "late.bin")
    second.write_bytes(b"?" * 50)
    with pytest.raises(PiecesError, match="2 pieces are missing or damaged: 001-0001.bin, 001-0002.bin"):
        join(tmp_path / "pieces", tmp_path / "back")
    assert sorted(whole(tmp_path / "back")) == ["a.bin"]
    (tmp_path / "late.bin").rename(first)
    second.write_bytes(kept)
    join(tmp_path / "pieces", tmp_path / "back")
    assert (tmp_path / "back" / "b.bin").read_bytes() == b"b" * 250


@pytest.mark.parametrize("listed", ["not json", json.dumps({"../out.bin": {"sha256": "", "pieces": []}})])
def test_a_bad_list_is_said_in_a_sentence(tmp_path, listed, capsys):
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    (pieces / LIST).write_text(listed)
    assert main(["join", str(pieces), "--out", str(tmp_path / "back")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.bin").exists()


def test_a_drafter_is_trained_there_and_drafts_here(tmp_path, tiny_folder):
    questions = tmp_path / "questions.jsonl"
    rows = [{"question_id": i, "category": "code", "turns": [f"Write the number {i} {i} times."]} for i in range(40)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    here, there = tmp_path / "here", tmp_path / "there"
    files = [path for path in tiny_folder.iterdir() if path.is_file()]
    split([*files, questions], here, size=20_000)
    shutil.copytree(here, there / "pieces", ignore=lambda _, names: [name for name in names if name > "001"])
    assert main(["join", str(there / "pieces"), "--out", str(there / "work")]) == 1  # the first go
    shutil.copytree(here, there / "pieces", dirs_exist_ok=True)
    assert main(["join", str(there / "pieces"), "--out", str(there / "work")]) == 0
    words = ["run", there / "work", "--target", ".", "--questions", "questions.jsonl", "--layers", "0,2"]
    words += ["--slots", 8, "--device", "cpu", "--out", there / "back", "--", "--steps", 4, "--vocabulary", 200]
    words += ["--conversations", 3, "--anchors", 2, "--save-every", 2, "--evaluate-every", 4]
    assert main(list(map(str, words))) == 0
    assert DataFolder(there / "work" / "answers").answer_tokens() > 40
    assert main(["join", str(there / "back"), "--out", str(tmp_path / "drafter")]) == 0
    assert json.loads((tmp_path / "drafter" / "curve.jsonl").read_text())["step"] == 4
    pair = load_pair(target=tiny_folder, drafter=tmp_path / "drafter", dtype="float32")
    assert pair.info.drafter_kind == pair.drafter.kind == "target-conditioned" and pair.info.drafter_edition
    trace = DiffuSpec(pair, Settings(max_new_tokens=16, proxy="none")).run("Write the number 3.")
    assert any(step.path for step in trace.steps)
    assert compare_with_ar(pair, trace).difference is None
