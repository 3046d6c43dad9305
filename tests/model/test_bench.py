"""Measuring on a tiny pair: the protocol, its memory, and what is made of the numbers."""

import dataclasses
import json

import pytest
import torch

from diffuspec import Settings
from diffuspec.errors import DiffuSpecError, PromptError, ResultsError
from diffuspec.measure.baselines import AutoregressiveRun
from diffuspec.measure.bench import key, measure
from diffuspec.measure.journal import Journal
from diffuspec.measure.methods import METHODS, Emission, Method, Variant
from diffuspec.measure.questions import Question, bundled_questions, read_questions
from diffuspec.measure.race import pass_costs
from diffuspec.measure.results import summarise

SETTINGS = Settings(proxy="context", k=4, k_min=2, k_max=6, max_new_tokens=10)
METHOD_NAMES = ("ar", "plain", "diffuspec")
VARIANTS = [Variant(name, name, SETTINGS) for name in METHOD_NAMES]
ROWS = (
    {"question_id": 1, "category": "writing", "turns": ["Hi.", "More!"]},
    {"question_id": 2, "category": "math_reasoning", "turns": ["1+1"]},
    {"question_id": 3, "category": "math", "turns": ["2+2"]},
    {"question_id": 4, "category": "rag", "turns": ["x" * 2000]},
)


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return read_questions(file)


def test_the_protocol(tiny_pairs, questions, monkeypatch):
    """Order, turns, warm-up, families, what does not fit the context, identity."""
    started = []

    def spy(name):
        method = METHODS[name]

        def start(pair, settings, ids, should_stop):
            started.append((name, len(ids), settings.max_new_tokens))
            return method.start(pair, settings, ids, should_stop)

        return dataclasses.replace(method, start=start)

    for name in METHOD_NAMES:
        monkeypatch.setitem(METHODS, name, spy(name))
    pair = tiny_pairs["peeking"]
    steps = list(measure(pair, questions.questions, VARIANTS))
    results = steps[-1].results
    first = len(pair.encode("Hi."))
    assert [s[0] for s in started[:3]] == list(METHOD_NAMES) and {s[1:] for s in started[:3]} == {(first, 16)}
    assert [s[0] for s in started[3:6]] == ["ar", "plain", "diffuspec"]
    assert {s[1] for s in started[6:9]} != {first}
    assert [s[0] for s in started[9:12]] == ["plain", "diffuspec", "ar"]
    assert [s[0] for s in started[12:]] == ["diffuspec", "ar", "plain"]
    assert [(r.question, r.category) for r in results[::3]] == [("1", "mt"), ("2", "math"), ("3", "mt"), ("4", "rag")]
    assert all(r.identical for r in results)
    assert [r.tokens for r in results[-3:]] == [0, 0, 0]
    by_name = {r.variant: r for r in results if r.question == "1"}
    assert by_name["ar"].steps == by_name["ar"].tokens == by_name["plain"].tokens <= 20
    assert by_name["plain"].steps < by_name["plain"].tokens
    assert all(r.seconds > 0 for r in results[:-3])
    assert (steps[-1].done, steps[-1].total, steps[-1].now) == (12, 12, "")
    done = [step.done for step in steps]
    assert done == sorted(done) and steps[0].now == "warming up ar"


def test_counts_by_position_and_length(tiny_pairs, questions):
    pair = tiny_pairs["peeking"]
    *_, last = measure(pair, questions.questions[:2], VARIANTS)
    plain = [r for r in last.results if r.variant == "plain"]
    for r in plain:
        assert sum(n[2] for n in r.positions) == sum(n[3] for n in r.lengths) >= r.accepted > 0
        assert r.positions[0][0] == r.positions[0][1] <= r.steps == sum(n[1] for n in r.lengths)
        assert all(offered >= reached >= accepted for offered, reached, accepted in r.positions)
        assert all(later[1] <= before[2] for before, later in zip(r.positions, r.positions[1:], strict=False))
        assert all(k <= 4 and generated <= k * steps for k, steps, generated, _ in r.lengths)


def test_an_answer_that_differs_is_found_out(tiny_pair, questions, monkeypatch):
    class Wrong:
        trace = None

        def __init__(self):
            self.passes = iter([Emission((200,), 0, 1.0), Emission((201,), 0, 1.0)])

        def __iter__(self):
            return self.passes

    monkeypatch.setitem(METHODS, "wrong", Method("wrong", "", "", lambda *a: Wrong()))
    variants = [VARIANTS[0], Variant("wrong", "wrong", SETTINGS)]
    *_, last = measure(tiny_pair, questions.questions[:1], variants)
    right, wrong = last.results
    assert right.identical and not wrong.identical
    assert [d.turn for d in wrong.differences] == [0, 1]
    assert all(d.position == 0 and d.got == 200 and d.gap > 0 for d in wrong.differences)
    row = next(row for row in summarise(last.results) if (row["method"], row["category"]) == ("wrong", "mean"))
    assert row["identical"] == row["identical_answers"] == 0
    assert row["tokens_per_second"] == pytest.approx(1000)


def test_speed_up_is_the_ratio_of_means_over_questions(tiny_pair, questions):
    *_, last = measure(tiny_pair, questions.questions[:1], VARIANTS[:1])
    base = last.results[0]

    def made(variant, question, category, tokens, seconds, steps):
        return dataclasses.replace(
            base,
            variant=variant,
            question=question,
            category=category,
            tokens=tokens,
            seconds=seconds,
            steps=steps,
            accepted=tokens - steps,
        )

    rows = summarise(
        [
            made("ar", "1", "mt", 10, 1.0, 10),
            made("x", "1", "mt", 10, 0.5, 4),
            made("ar", "2", "qa", 40, 1.0, 40),
            made("x", "2", "qa", 40, 1.0, 40),
            made("ar", "3", "qa", 10, 1.0, 10),
            made("x", "3", "qa", 10, 0.1, 5),
        ]
    )
    table = {(row["method"], row["category"]): row for row in rows}
    assert table["x", "mean"]["speedup"] == pytest.approx((20 + 40 + 100) / (10 + 40 + 10))
    assert table["x", "qa"]["speedup"] == pytest.approx((40 + 100) / (40 + 10))
    assert table["x", "qa"]["tokens_per_step"] == pytest.approx(50 / 45)
    assert table["x", "mean"]["tokens_per_step"] == pytest.approx((10 / 4 + 50 / 45) / 2)
    assert table["x", "mean"]["accepted_per_step"] == pytest.approx((6 / 4 + 5 / 45) / 2)
    assert table["x", "mean"]["questions"] == 3


def test_what_was_measured_is_not_measured_again(tiny_pair, questions, tmp_path):
    state = tmp_path / "state.jsonl"
    made_by = key("test", tiny_pair, VARIANTS, questions)
    with Journal(state, made_by) as journal:
        for step in measure(tiny_pair, questions.questions, VARIANTS, journal=journal):
            if step.done >= 4:
                break
    whole = state.read_bytes()
    assert len(whole.splitlines()) == 2
    state.write_bytes(whole + b'{"question": "2", "rows": [{"var')
    with Journal(state, made_by) as journal:
        assert list(journal.results) == ["1"]
        *_, last = measure(tiny_pair, questions.questions, VARIANTS, journal=journal)
    assert [r.question for r in last.results[::3]] == ["1", "2", "3", "4"]
    assert state.read_bytes().startswith(whole) and len(state.read_bytes().splitlines()) == 5
    with Journal(state, made_by) as journal:
        again = list(measure(tiny_pair, questions.questions, VARIANTS, journal=journal))
        assert len(again) == 1 and again[0].results == last.results
        with pytest.raises(ResultsError, match="Another process"):
            Journal(state, made_by)


def test_a_measurement_is_not_mixed_with_another(tiny_pairs, questions, tmp_path):
    pair, state = tiny_pairs["block"], tmp_path / "state.jsonl"
    Journal(state, key("test", pair, VARIANTS, questions)).close()
    before = state.read_bytes()
    changed = [dataclasses.replace(v, settings=v.settings.replace(beam=5)) for v in VARIANTS]
    other_file = dataclasses.replace(questions, sha256="0")
    for other, says in (
        (key("test", pair, changed, questions), r"variants\.ar\.beam was 3, now it is 5"),
        (key("test", pair, VARIANTS[:2], questions), "variants.diffuspec was"),
        (key("test", pair, VARIANTS, other_file), "questions was"),
        (key("test", tiny_pairs["peeking"], VARIANTS, questions), "pair.name was block"),
        (key("else", pair, VARIANTS, questions), "measurement was test"),
    ):
        with pytest.raises(ResultsError, match=says):
            Journal(state, other)
    assert state.read_bytes() == before
    for damage in (b"{}\n", b"[1]\n", b"\xff\n", before + b'{"question": 1, "rows": [{}]}\n', before + b"7\n"):
        state.write_bytes(damage)
        with pytest.raises(ResultsError):
            Journal(state, key("test", pair, VARIANTS, questions))
        assert state.read_bytes() == damage


def test_stopping_ends_within_an_answer_and_keeps_finished_questions(tiny_pair, questions):
    steps = []
    for step in measure(
        tiny_pair, questions.questions, VARIANTS, should_stop=lambda: bool(steps and steps[-1].done >= 4)
    ):
        steps.append(step)
    assert steps[-1].done < steps[-1].total
    assert {r.question for r in steps[-1].results} == {"1"}


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "holds no question"),
        ("{}", "line 1, is not a question: it must be an object"),
        ("[1]", "line 1, is not a question"),
        ("[" * 100_000, "line 1, is not a question: it is not JSON"),
        ('{"question_id": 1, "category": "qa", "turns": ["a"]}\n\n{', "line 3, is not a question: it is not JSON"),
        ('{"question_id": 1, "category": "qa", "turns": 3}', '"turns" must be a list of texts'),
        ('{"question_id": 1, "category": "qa", "turns": "Why?"}', '"turns" must be a list of texts'),
        ('{"question_id": 1, "category": "qa", "turns": []}', '"turns" must be a list of texts, at least one'),
        ('{"question_id": 1, "category": "qa", "turns": [{"role": "user"}]}', '"turns" must be a list of texts'),
        ('{"question_id": null, "category": "qa", "turns": ["a"]}', '"question_id" must be'),
        ('{"question_id": 1, "category": 2, "turns": ["a"]}', '"category" must be a text'),
        ('{"question_id": 1, "category": "qa", "turns": ["a"]}\n' * 2, "2 times"),
    ],
)
def test_bad_question_files_are_told_apart(tmp_path, text, says):
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    with pytest.raises(DiffuSpecError, match=says):
        read_questions(file)


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    """JSON may hold U+2028 and U+0085 unescaped, and some editors begin a file with a byte order mark."""
    turn = "one\u2028two\u0085three"
    row = json.dumps({"question_id": 7, "category": "rag", "turns": [turn]}, ensure_ascii=False)
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n")
    assert read_questions(file).questions == (Question("7", "rag", (turn,)),)


def test_a_question_that_cannot_be_asked_is_told_and_ends_nothing(tiny_pair, tmp_path):
    """The first question warms up, and a blank or too long one must not be it."""
    texts = {"long": ("x" * 5000,), "blank": (" ",), "good": ("hi",), "later": ("hi", "y" * 5000)}
    asked = [Question(name, "mt", turns) for name, turns in texts.items()]
    path, key = tmp_path / "state.jsonl", {"a": 1}
    with Journal(path, key) as journal:
        *_, last = measure(tiny_pair, asked, VARIANTS, journal=journal)
    why = dict(last.skipped)
    assert set(why) == {"long", "blank", "later"}
    assert "Shorten the prompt" in why["long"] and "empty" in why["blank"] and why["later"].startswith("from turn 2 on")
    tokens = {(r.variant, r.question): r.tokens for r in last.results}
    assert tokens["ar", "long"] == tokens["ar", "blank"] == 0 < min(tokens["ar", "good"], tokens["ar", "later"])
    with Journal(path, key) as journal:
        *_, again = measure(tiny_pair, asked, VARIANTS, journal=journal)
    assert again.skipped == last.skipped


def test_no_way_of_decoding_takes_a_prompt_that_leaves_no_room(tiny_pair):
    context = tiny_pair.info.context
    settings = Settings(max_new_tokens=4, k_max=4, k_min=2, k=4)
    for length in (context, context + 5):
        ids = [20] * length
        for name, method in METHODS.items():
            if name != "llama-cpp":
                with pytest.raises(PromptError, match="Shorten the prompt"):
                    list(method.start(tiny_pair, settings, ids, lambda: False))
        with pytest.raises(PromptError, match="Shorten the prompt"):
            pass_costs(tiny_pair, ids)
    assert [n for n, _ in pass_costs(tiny_pair, [20] * (context - 5))] == [1.0, 2.0, 4.0]
    target, cache = tiny_pair.target, tiny_pair.target.new_cache()
    assert target.prefill(cache, [20] * (context - 1))
    target.forward(cache, [20])
    with pytest.raises(PromptError, match="can hold"):
        target.forward(cache, [20])


def test_reading_a_prompt_can_be_stopped(tiny_pair, monkeypatch):
    monkeypatch.setattr("diffuspec.models.target.PREFILL_PART", 16)
    asked = []
    cache = tiny_pair.target.new_cache()
    assert not tiny_pair.target.prefill(cache, [20] * 64, lambda: asked.append(1) or len(asked) == 2)
    assert cache.get_seq_length() == 32
    run = AutoregressiveRun(tiny_pair, Settings(), [20] * 64, lambda: True)
    assert list(run) == []


def test_parts_of_a_prompt_are_the_whole(tiny_pairs, monkeypatch):
    text = [20 + 7 * i % 200 for i in range(50)]
    for pair in tiny_pairs.values():
        whole, parts = pair.target.new_cache(), pair.target.new_cache()
        pair.target.prefill(whole, text)
        monkeypatch.setattr("diffuspec.models.target.PREFILL_PART", 16)
        pair.target.prefill(parts, text)
        monkeypatch.undo()
        torch.testing.assert_close(
            pair.target.forward(parts, [30]), pair.target.forward(whole, [30]), rtol=0, atol=1e-4
        )


def test_the_bundled_questions_cover_the_six_families():
    questions = bundled_questions()
    families = [q.category for q in questions.questions]
    assert set(families) == {"mt", "translation", "summarization", "qa", "math", "rag"}
    assert min(families.count(f) for f in families) >= 2
    assert any(len(q.turns) > 1 for q in questions.questions)
    assert len(questions.chosen(stride=4, limit=3).questions) == 3
    assert questions.chosen(stride=4).questions[1] == questions.questions[4]
    for few in (6, 7, 12):
        spread = questions.spread(few).questions
        assert len(set(spread)) == few and {q.category for q in spread} == set(families)
    assert questions.spread(100).questions == questions.questions
