"""Prompts from BIG-bench's tasks, in the manner of Spec-Bench's families, without its questions."""

import json

import pytest

from diffuspec.cli.main import main
from diffuspec.measure.questions import read_questions
from diffuspec.training.bigbench import ARTICLE_WORDS, RAG_WORDS, questions
from diffuspec.training.overlap import Kept

GERMAN = "Die Stadt hat den alten Hafen im Herbst Nummer {} wieder geöffnet. Er war zu. "
PARAGRAPH = "Harbour number {0} was opened in spring and closed in autumn, as the harbours of that coast all are. " * 4
QUESTION = "who opened the harbour called number {} in the north"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder as the source package unpacks, with a few examples a task."""
    root = tmp_path_factory.mktemp("bigbench")
    base = root / "bigbench-1.0.0" / "bigbench" / "benchmark_tasks"

    def task(name, inputs):
        (base / name).mkdir(parents=True)
        text = json.dumps({"examples": [{"input": text, "target": "x"} for text in inputs]})
        (base / name / "task.json").write_text(text)

    task("gem/mlsum_de", [GERMAN.format(i) * 3 for i in range(5)])
    task("gem/xsum", [PARAGRAPH.format(i) * 40 for i in range(4)])
    task("gem/wikilingua_en", ["Too short."])
    task("strategyqa", [f"Could harbour {i} hold a whale?" for i in range(400)])
    task(
        "elementary_math_qa/question_only",
        [f"a man walks {i} miles in 3 hours , how far does he walk in 5 hours ?" for i in range(6)],
    )
    contexts = [f"\nQuestion: {QUESTION.format(i)}?\nContext: {PARAGRAPH.format(i)}" for i in range(9)]
    task("contextual_parametric_knowledge_conflicts", contexts)
    for name in ("subtask001_quoref_question_generation", "subtask026_drop_question_generation"):
        task(f"natural_instructions/{name}", [f"Passage: {PARAGRAPH.format(name) * 2}"])
    (base / "squad_shifts").mkdir()
    for name in ("new_wiki_v1.0", "squaddev_v1.1", "nyt_v1.0"):
        parts = [
            {"context": PARAGRAPH.format(f"{name} {i}"), "qas": [{"question": f"When was {name} {i} opened?"}]}
            for i in range(5)
        ]
        (base / "squad_shifts" / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": parts}]}))
    return root


def test_each_family_is_asked_as_spec_bench_asks_it(tasks):
    made = questions(tasks, seed=1)
    assert set(made) == {"translation", "summarization", "qa", "rag", "math_reasoning"} and all(made.values())
    assert all(prompt.startswith("Translate German to English: Die Stadt") for prompt in made["translation"])
    assert not any("Er war zu" in prompt for prompt in made["translation"]), "four words are no sentence to translate"
    assert all(prompt.startswith("Summarize: ") for prompt in made["summarization"])
    assert max(len(prompt.split()) for prompt in made["summarization"]) == ARTICLE_WORDS + 1
    assert "Too short." not in str(made["summarization"])
    assert all("\n" not in prompt and prompt[0].isupper() for prompt in made["qa"])
    for prompt in made["rag"]:
        text, question = prompt.split("\n")
        assert 60 < len(text.split()) <= RAG_WORDS and question.endswith("?")
    assert "A man walks 4 miles in 3 hours, how far does he walk in 5 hours?" in made["math_reasoning"]
    assert all(len(set(prompts)) == len(prompts) for prompts in made.values())


def test_a_seed_always_makes_the_same(tasks):
    assert questions(tasks, seed=1) == questions(tasks, seed=1) != questions(tasks, seed=2)


@pytest.mark.parametrize(
    "prompt, is_out",
    [
        ("Is it so that the keeper of the old harbour gate near Oslo was a spy?", True),  # eight words in a row
        ("Who was once the first keeper of the Oslo gate?", True),  # most of a question's words
        ("Harbours are closed.\nWho was once the first keeper of the Oslo gate?", True),
        ("Who was the last king of Norway?", False),
    ],
)
def test_what_is_like_a_question_that_measures_is_kept_out(prompt, is_out):
    kept = Kept(["Who was the first keeper of the gate?", "the keeper of the old harbour gate near Bergen retired"])
    assert kept.out(prompt) == is_out


def test_the_command_writes_questions_that_can_be_answered(tasks, tmp_path, capsys):
    avoid, out = tmp_path / "avoid.jsonl", tmp_path / "made.jsonl"
    avoid.write_text(json.dumps({"question_id": 1, "category": "qa", "turns": [QUESTION.format(3)]}))
    arguments = ["train", "questions", str(tasks), "--out", str(out), "--avoid", str(avoid)]
    assert main([*arguments, "--shares", "qa=5,rag=2"]) == 0
    made = read_questions(out).questions
    assert sum(q.category == "qa" for q in made) == 5 and sum(q.category == "rag" for q in made) == 2
    assert not any("number 3 in" in turn for q in made for turn in q.turns)
    assert "too like one in avoid.jsonl" in capsys.readouterr().out
    assert main([*arguments, "--shares", "poetry=1"]) == 1
    assert "the categories are" in capsys.readouterr().err


def test_a_folder_without_the_tasks_is_refused(tmp_path, capsys):
    avoid = tmp_path / "avoid.jsonl"
    avoid.write_text(json.dumps({"question_id": 1, "category": "qa", "turns": ["Why?"]}))
    assert main(["train", "questions", str(tmp_path), "--out", str(tmp_path / "x"), "--avoid", str(avoid)]) == 1
    assert "unpack the source package" in capsys.readouterr().err
