"""Two runs set side by side, and the list of a visitor's own."""

from __future__ import annotations

import dataclasses
import uuid

import orjson

from diffuspec.trace.comparison import compare
from diffuspec.ui.shell.mine import RecentRuns, entry
from diffuspec.ui.traces.view import beside, my_runs, settings_in_words
from tests.fakes.scripted import fake_trace


def test_a_run_beside_itself_differs_in_nothing():
    trace = fake_trace()
    found = compare(trace, trace)
    assert found.same_prompt and found.same_text and found.step is None and found.pairs is None
    assert found.settings == {} and found.tokens_alike == len(trace.token_ids)


def test_what_was_set_otherwise_and_where_steps_part():
    one, other = fake_trace(search="argmax", beam=3), fake_trace(beam=5)
    found = compare(one, other)
    assert found.settings == {"search": ("argmax", "cps"), "beam": (3, 5)}
    unlike = [i for i, (a, b) in enumerate(zip(one.steps, other.steps, strict=False)) if a.path != b.path]
    assert found.step is not None and found.step <= unlike[0]


def test_texts_that_part_say_where():
    trace = fake_trace()
    first = trace.steps[0]
    changed = dataclasses.replace(trace, steps=(first,))
    other = dataclasses.replace(trace, prompt_ids=(*trace.prompt_ids, 3), steps=trace.steps[1:])
    found = compare(changed, other)
    assert not found.same_prompt
    said = orjson.loads(beside(changed, other))["notes"]
    assert said[0] == "The prompts differ, so the texts say nothing about the settings."
    parted = compare(changed, dataclasses.replace(trace, steps=trace.steps[1:]))
    a, b = changed.token_ids, dataclasses.replace(trace, steps=trace.steps[1:]).token_ids
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert parted.tokens_alike == same and parted.same_text == (same == min(len(a), len(b)))


def test_the_table_has_both_speeds():
    trace = fake_trace()
    rows = {row[0]: row[1:] for row in orjson.loads(beside(trace, dataclasses.replace(trace, baseline=None)))["rows"]}
    assert rows["over plain AR, each in its own run"] == [f"{trace.speedup:.2f}×", "not measured"]
    assert rows["tokens/step"] == [f"{trace.tokens_per_step:.2f}"] * 2


def test_settings_are_told_by_the_nearest_preset():
    assert settings_in_words(fake_trace(max_new_tokens=32)) == "Default, max_new_tokens = 32"
    words = settings_in_words(fake_trace(search="argmax", length="fixed", k=5))
    assert words.startswith("Plain diffusion draft") and "k = 5" in words


def test_only_runs_that_are_still_kept_are_listed():
    runs, here, gone = RecentRuns(), uuid.uuid4().hex, uuid.uuid4().hex
    runs.keep(here, fake_trace())
    body = orjson.loads(my_runs([entry(gone, "gone"), entry(here, "here")], runs))
    (group,) = body["groups"]
    assert [card["name"] for card in group["cards"]] == [here]
    assert orjson.loads(my_runs([entry(gone, "gone")], runs)) == {"groups": []}
