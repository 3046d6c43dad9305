"""Every stage from the command line, end to end, on a tiny target: text to a drafter that drafts."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from diffuspec import load_pair
from diffuspec.cli.main import main
from diffuspec.engine import DiffuSpec
from diffuspec.models.drafter import Convention, load_block_drafter
from diffuspec.models.target import load_target
from diffuspec.settings import Settings
from diffuspec.training.data import DataFolder
from diffuspec.training.synthesis import ChatFrame

SENTENCE = "The old harbour was closed for repairs, and the ships had to wait outside. "


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder):
    """(folder of a whole run, its commands' outputs)."""
    root = tmp_path_factory.mktemp("training")
    (root / "unpacked" / "book").mkdir(parents=True)
    (root / "unpacked" / "book" / "one.txt").write_text(SENTENCE * 12 + "\n\n" + SENTENCE * 3)
    train("text", root / "unpacked" / "book", "--out", root / "text.jsonl.gz")
    train(
        "synthesise",
        "--target",
        tiny_folder,
        "--text",
        root / "text.jsonl.gz",
        "--out",
        root / "data",
        "--tokens",
        1500,
        "--slots",
        8,
        "--capacity",
        400,
        "--layers",
        "0,2",
        "--shares",
        "mt=2,qa=2,math=1",
    )
    for kind in ("target-conditioned", "standalone"):
        train(
            "drafter",
            root / "data",
            "--target",
            tiny_folder,
            "--out",
            root / kind,
            "--kind",
            kind,
            "--layers",
            "0,2",
            "--vocabulary",
            200,
            "--steps",
            6,
            "--conversations",
            3,
            "--anchors",
            2,
            "--save-every",
            2,
            "--evaluate-every",
            6,
        )
    return root


def train(*arguments, status=0):
    assert main(["train", *map(str, arguments)]) == status


def test_the_target_conditioned_drafter_drafts(run, tiny_folder, tiny_pair, tmp_path):
    train("pack", run / "target-conditioned" / "drafter", "--out", tmp_path)
    target, _ = load_target(tiny_folder, dtype="float32", device="cpu")
    drafter = load_block_drafter(tmp_path, target)
    assert len(drafter.draft_vocab) <= 201 and drafter.config["target_layers"] == [0, 2]
    cache = target.new_cache()
    target.prefill(cache, [5, 6, 7])
    ids, logq = drafter.draft([5, 6, 7, 8], 6, width=4, passes=2, cache=cache)
    assert ids.shape == (6, 4) and (logq <= 0).all()


def test_a_drafter_is_packed_with_the_tokens_that_are_used(run, tiny_folder, tmp_path):
    whole = run / "target-conditioned" / "drafter"
    train("pack", whole, "--out", tmp_path, "--vocabulary", 30, "--data", run / "data", "--target", tiny_folder)
    kept, before = (load_file(folder / "model.safetensors")["draft_vocab"] for folder in (tmp_path, whole))
    assert 25 <= len(kept) <= 31 < len(before) and set(kept.tolist()) <= set(before.tolist())
    train("pack", whole, "--out", tmp_path, "--vocabulary", 30, status=1)


def test_the_standalone_drafter_is_loaded_as_any_other(run, tiny_folder):
    convention = Convention(mask_token=264, attention="causal-prefix", shifted=True)
    pair = load_pair(target=str(tiny_folder), drafter=str(run / "standalone" / "drafter"), convention=convention)
    trace = DiffuSpec(pair, Settings(proxy="none", k_min=4, k_max=8)).run("Hello", max_new_tokens=12)
    assert trace.pair.drafter_kind == "standalone" and 0 < trace.new_tokens <= 12


def test_a_finished_run_has_its_curve_and_goes_no_further(run, tiny_folder, capsys):
    lines = (run / "target-conditioned" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6]
    before = (run / "target-conditioned" / "checkpoint.pt").read_bytes()
    train(
        "drafter",
        run / "data",
        "--target",
        tiny_folder,
        "--out",
        run / "target-conditioned",
        "--layers",
        "0,2",
        "--vocabulary",
        200,
        "--steps",
        6,
        "--conversations",
        3,
        "--anchors",
        2,
    )
    assert "step 6" in capsys.readouterr().out
    assert (run / "target-conditioned" / "checkpoint.pt").read_bytes() == before


def test_caches_of_other_layers_are_refused(run, tiny_folder, capsys):
    train("drafter", run / "data", "--target", tiny_folder, "--out", run / "x", "--layers", "0,1", status=1)
    assert "train cache" in capsys.readouterr().err
    train("cache", run / "data", "--target", tiny_folder, "--layers", "0,1", status=1)
    assert "delete its cache" in capsys.readouterr().err


def test_turns_from_elsewhere_become_conversations(tiny, tiny_folder, tmp_path):
    (tmp_path / "turns.jsonl").write_text('{"u": [70, 71], "r": [5, 6, 3]}\n{"u": [72], "r": [9]}\n')
    ids, p = np.arange(32, dtype="<u2").reshape(4, 8), np.linspace(0.1, 0.9, 32, dtype="<f2").reshape(4, 8)
    blob = b"".join(part.tobytes() for part in (ids[:3], p[:3], ids[3:], p[3:]))
    (tmp_path / "top8.bin").write_bytes(blob)
    order = ("import", tmp_path / "turns.jsonl", "--top8", tmp_path / "top8.bin", "--target", tiny_folder, "--out")
    train(*order, tmp_path / "data")
    first, second = DataFolder(tmp_path / "data").conversations()
    frame = ChatFrame(tiny.tokenizer())
    assert first.ids.tolist() == [*frame.head, 70, 71, *frame.user_end, 5, 6, 3] and first.answers == [[5, 6, 3]]
    assert second.answers == [[9]] and second.top_ids.tolist() == ids[3:].tolist()
    assert np.array_equal(first.top_p, p[:3]) and first.family == "chat"
    train("cache", tmp_path / "data", "--target", tiny_folder, "--layers", "0,2")
    assert len(DataFolder(tmp_path / "data").conversations()[0].cache) == len(first.ids)
    (tmp_path / "top8.bin").write_bytes(blob[:-4])
    train(*order, tmp_path / "other", status=1)


def test_a_drafter_is_measured_on_a_question_file(run, tiny_folder, tmp_path, capsys):
    rows = [{"question_id": i, "category": c, "turns": ["Hello"]} for i, c in enumerate(("qa", "writing"))]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train(
        "synthesise",
        "--target",
        tiny_folder,
        "--questions",
        tmp_path / "q.jsonl",
        "--out",
        tmp_path / "asked",
        "--slots",
        2,
        "--capacity",
        400,
        "--layers",
        "0,2",
    )
    made = DataFolder(tmp_path / "asked").conversations()
    assert sorted(c.family for c in made) == ["mt", "qa"] and made[0].answers == made[1].answers
    drafter = run / "target-conditioned" / "drafter"
    train("evaluate", drafter, "--data", tmp_path / "asked", "--target", tiny_folder, "--k", 4)
    assert f"{drafter}: accepted" in capsys.readouterr().out


def test_overlap_with_questions_is_reported(run, tiny_folder, tmp_path, capsys):
    conversation = next(c for c in DataFolder(run / "data").conversations() if c.family == "math")
    _, tokenizer = load_target(tiny_folder, dtype="float32", device="cpu")
    before = tokenizer.decode(conversation.ids[: conversation.spans[0, 0]].tolist())
    asked = before.split("user\n")[1].split("<|im")[0]
    questions = tmp_path / "q.jsonl"
    row = {
        "question_id": 1,
        "category": "qa",
        "turns": ["Something that nobody asked about anywhere in the world"],
    }
    questions.write_text(json.dumps(row))
    train("overlap", run / "data", "--target", tiny_folder, "--questions", questions)
    questions.write_text(json.dumps(row | {"turns": [asked]}))
    train("overlap", run / "data", "--target", tiny_folder, "--questions", questions, "--words", 2, status=1)
    assert f"prompt {conversation.number} (math)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stage",
    [
        "questions {folder} --avoid {file} --out {file}",
        "code {folder} --avoid {other} {file} --out {file}",
        "ngram --answers {file} --out {file}",
    ],
)
def test_a_stage_does_not_write_over_what_it_reads(stage, tmp_path, capsys):
    file, other = tmp_path / "mine.jsonl", tmp_path / "other.jsonl"
    for path in (file, other):
        path.write_text('{"question_id": 1, "category": "qa", "turns": ["Why?"]}')
    before = file.read_bytes()
    train(*stage.format(folder=tmp_path, file=file, other=other).split(), status=1)
    assert file.read_bytes() == before
    assert "it is read or written already. Name another file." in capsys.readouterr().err
