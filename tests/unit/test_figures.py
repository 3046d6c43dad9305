"""The player's figures and the lab's comparison, as pure functions of a trace."""

import pytest

from diffuspec.method.tree import COPIED
from diffuspec.trace.gallery import gallery
from diffuspec.ui.lab import view as lab
from diffuspec.ui.player.acceptance import acceptance_figure, reached
from diffuspec.ui.player.adl import adl_figure, decision
from diffuspec.ui.player.stages import STAGES, stages_figure
from diffuspec.ui.player.text import answer_units, token_label, visible
from diffuspec.ui.race.breakeven import OURS, Point, _beside
from tests.fakes.scripted import fake_trace


@pytest.fixture(scope="module")
def trace():
    return fake_trace(k_min=4, k_max=14, max_new_tokens=128)


def named(figure):
    return {part.name: part for part in figure.data}


def test_the_timeline_has_each_steps_lengths_and_what_decided(trace):
    parts = named(adl_figure(trace))
    assert list(parts["k"].y) == [step.draft_length for step in trace.steps]
    assert list(parts["L_gen"].y) == [step.length.generated for step in trace.steps]
    assert list(parts["L_acc"].y) == [step.length.accepted for step in trace.steps]
    marked = sum(len(part.x) for name, part in parts.items() if name.startswith("set by"))
    assert marked == len(trace.steps)
    for step, words in zip(trace.steps, parts["k"].customdata, strict=True):
        assert words == decision(step, trace.settings) and f"next k = {step.length.next_k}" in words


def test_a_fixed_length_has_no_averages_and_no_rails():
    figure = adl_figure(fake_trace(length="fixed", k=5, max_new_tokens=32))
    assert set(named(figure)) == {"L_gen", "L_acc", "k"} and not figure.layout.shapes


def test_acceptance_counts_the_steps_that_reach_a_position(trace):
    counts = reached(trace)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == sum(step.accepted >= 1 for step in trace.steps)
    assert sum(counts) == sum(step.accepted for step in trace.steps)
    (bar,) = acceptance_figure(trace).data
    assert list(bar.y) == pytest.approx([count / len(trace.steps) for count in counts])


def test_stages_are_the_steps_milliseconds(trace):
    parts = named(stages_figure(trace))
    assert tuple(parts) == STAGES
    for name in STAGES:
        assert list(parts[name].y) == [round(getattr(step.timing, f"{name}_ms"), 2) for step in trace.steps]


def test_the_answers_units_spell_the_answer(trace):
    assert "".join(unit.text for unit in answer_units(trace)) == trace.text
    for unit in answer_units(trace):
        assert "\ufffd" not in unit.text and len(unit.steps) == len(unit.origins) == len(unit.tokens)
    assert visible(" a\n\t\u200b") == "·a↵⇥⟨U+200B⟩"
    assert token_label(trace, 0) == "⟨im_end⟩"


def test_a_recorded_step_searched_again_by_its_own_settings_is_as_recorded():
    trace = gallery().trace("1-maths")
    settings = lab.opening_settings(trace)
    for index in range(0, len(trace.steps), 9):
        body = lab.again(trace, index, settings)
        assert body["after"]["path"] == body["before"]["path"] and body["certain"]
        assert body["after"]["seen"] == body["before"]["accepted"] <= body["after"]["oracle"]
    narrow = lab.again(trace, 5, settings.replace(tau=0.3))
    assert narrow["score"]["kept"] < narrow["before"]["kept"]


def test_every_token_of_a_step_searched_again_is_named():
    """Copies of the prompt by the trace itself, followers by the models, where there are any."""
    trace = gallery().trace("1-maths")
    settings = trace.settings.replace(search="tree", nodes=40, followers=8)
    asked = set()

    def spell(pair_name, tokens):
        assert pair_name == "embedded"
        asked.update(tokens)
        return {token: f"<{token}>" for token in tokens}

    copied = 0
    for index in range(len(trace.steps)):
        body = lab.again(trace, index, settings, spell)
        labels, tree = body["labels"], body["after"]["detail"]["tree"]
        assert set(tree["ids"]) <= labels.keys()
        for token, rank in zip(tree["ids"], tree["rank"], strict=True):
            assert labels[token] == (f"<{token}>" if token in asked else token_label(trace, token))
            copied += rank == COPIED and labels[token] != f"⟨{token}⟩"
    assert copied and asked and not asked & trace.pieces.keys()


def test_names_on_the_map_stay_inside_the_frame_and_apart():
    cheap, near = Point("cheap", 0.011, 0.34, 4, None, OURS), Point("near", 0.025, 0.36, 4, None, OURS)
    one, two = Point("one", 0.29, 0.39, 4, None, OURS), Point("two", 0.4, 0.34, 4, None, OURS)
    dear = Point("dear", 1.7, 0.37, 4, None, OURS)
    places = dict(zip("abcde", _beside([cheap, near, one, two, dear], [cheap, near, one, two, dear]), strict=True))
    assert "right" in places["a"] and "left" in places["e"] and places["e"].startswith("top")
    assert (places["c"], places["d"]) == ("middle left", "middle right")
