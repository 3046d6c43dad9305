"""Prompts about code, and the answers that a GGUF target gives to them."""

import ast
import json
import re

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType as Kind

from diffuspec import DiffuSpec, Settings, load_pair
from diffuspec.cli.main import main
from diffuspec.errors import DiffuSpecError
from diffuspec.measure.questions import read_questions
from diffuspec.method.proxy import NGram
from diffuspec.training.code import KINDS, pieces, questions
from diffuspec.training.data import DataFolder
from tests.fakes import gguf_files

FUNCTION = '''
def {name}(values, limit={i}):
    """Return the first value of {name} that is larger than the limit, or None where there is none."""
    for value in values:
        if value > limit and value != {i}:
            return value
    total = 0
    for value in values:
        total = total + value
        if total > 1000:
            return None
    return None
'''
MBPP = {"text": "Write a function to find the shared elements.", "test_list": ["assert similar((1, 2)) == (2,)"]}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code") / "package"
    (folder / "inner").mkdir(parents=True)
    code = "".join(FUNCTION.format(name=f"find_{i}", i=i) for i in range(400))
    (folder / "inner" / "one.py").write_text(code)
    (folder / "broken.py").write_text("def oops(:\n")
    (folder / "empty.py").write_text(f'def nothing():\n    """{"Says much and does nothing. " * 9}\n\n\n\n    """\n')
    (folder.parent / "mbpp.jsonl").write_text(json.dumps(MBPP) + "\n")
    return folder


def test_functions_become_prompts_of_every_kind_without_repeats(package):
    rows = questions([package], package.parent / "mbpp.jsonl", [], 1, 300)
    asked = [row["turns"][0] for row in rows]
    assert len(set(asked)) == len(asked) == 301
    assert not list(pieces(package / "empty.py"))  # there would be nothing to edit
    assert {row["category"] for row in rows} >= {f"code-{kind}" for kind in KINDS} | {"code-mbpp"}
    assert [row["question_id"] for row in rows] == list(range(301))
    assert questions([package], package.parent / "mbpp.jsonl", [], 1, 300) == rows
    for row in rows:
        if row["category"] in ("code-complete", "code-fix", "code-rename"):
            block = re.search(r"```python\n(.*?)\n```", row["turns"][0], re.S)[1]
            ast.parse(block)  # what is shown is code, also where an operator was exchanged


def test_what_is_like_a_question_that_measures_is_left_out(package):
    avoid = ["Return the first value of find_7 that is larger than the limit", MBPP["text"]]
    rows = questions([package], package.parent / "mbpp.jsonl", avoid, 1, 300)
    assert rows and not any("find_7 that" in row["turns"][0] for row in rows)
    assert "code-mbpp" not in {row["category"] for row in rows}
    with pytest.raises(DiffuSpecError, match="hold no Python functions"):
        questions([package / "nothing"], None, [], 1, 10)
    with pytest.raises(DiffuSpecError, match="does not hold MBPP's problems"):
        questions([package], package / "broken.py", [], 1, 10)


def test_a_gguf_target_answers_them_and_an_ngram_is_fitted(package, tmp_path, capsys):
    model, path = gguf_files.tiny("qwen2"), tmp_path / "tiny.gguf"
    gguf_files.write(path, model, {"ffn": Kind.Q4_0, "": Kind.Q8_0})
    (tmp_path / "avoid.jsonl").write_text('{"question_id": 1, "category": "qa", "turns": ["Why is it?"]}')

    def train(*arguments):
        assert main(["train", *map(str, arguments)]) == 0

    train("code", package, "--out", tmp_path / "questions.jsonl", "--avoid", tmp_path / "avoid.jsonl", "--count", 3)
    assert len(read_questions(tmp_path / "questions.jsonl").questions) == 3
    short = [{"question_id": i, "category": "code", "turns": [f"return {i}2"]} for i in range(3)]
    (tmp_path / "short.jsonl").write_text("\n".join(map(json.dumps, short)))
    train(
        "synthesise",
        "--target",
        path,
        "--questions",
        tmp_path / "short.jsonl",
        "--out",
        tmp_path / "data",
        "--slots",
        2,
        "--capacity",
        200,
    )
    found = sorted(DataFolder(tmp_path / "data").conversations(), key=lambda c: c.number)
    pair = load_pair(target=path)
    for conversation, row in zip(found, short, strict=True):
        plain = DiffuSpec(pair, Settings.without_drafter("context", copy=0)).run(row["turns"][0], max_new_tokens=128)
        assert conversation.answers == [list(plain.token_ids)]
    train("ngram", "--target", path, "--answers", tmp_path / "data", "--out", tmp_path / "table.npz")
    assert NGram.load(tmp_path / "table.npz").vocab_size == pair.target.vocab_size
    train("cache", tmp_path / "data", "--target", path, "--layers", "1")
    cached = DataFolder(tmp_path / "data").conversations()[0].cache
    assert cached.shape[1:] == (1, 2, 128) and np.isfinite(cached.astype(np.float32)).all()
