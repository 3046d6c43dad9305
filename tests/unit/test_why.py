"""Why a run was faster than plain decoding, or not: the sentence and its numbers."""

import dataclasses
import re

import pytest

from diffuspec.ui.player.why import Account, of_lane, of_trace, words
from tests.fakes.scripted import fake_race, fake_trace

FAST = Account(
    tokens=120,
    steps=50,
    drafted=250,
    step_ms=15.0,
    draft_ms=3.0,
    verify_ms=11.0,
    plain_ms=10.0,
    prompt_ms=40.0,
    speedup=1.57,
)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+\.\d+", text)]


def test_faster_names_what_a_step_made_and_its_price():
    said = words(FAST)
    assert said.startswith("Faster: ") and "prompt" not in said and "Try" not in said
    made, price, draft, verify, rest = numbers(said)
    assert (made, price) == (2.4, 1.5) and (draft, verify, rest) == (0.3, 1.1, 0.1)
    assert draft + verify + rest == pytest.approx(price)


def test_slower_says_from_where_on_it_would_pay_and_what_to_try():
    slow = dataclasses.replace(FAST, tokens=60, speedup=0.79)
    said = words(slow)
    assert said.startswith("Slower: ") and "from 0.50 accepted tokens a step on; 0.20 were" in said
    assert "Try the length rule" in said and "smaller k" not in said
    wide = dataclasses.replace(slow, draft_ms=1.0, verify_ms=13.0)
    assert "Try a smaller k, or the length rule" in words(wide)
    assert "Try" not in words(wide, advice=False) and "0.50 accepted" in words(wide, advice=False)


def test_nearly_alike_is_called_neither():
    assert words(dataclasses.replace(FAST, tokens=75, speedup=1.01)).startswith("About as fast: ")


def test_a_heavy_prompt_is_named_with_the_speed_up_of_the_steps_alone():
    said = words(dataclasses.replace(FAST, prompt_ms=750.0, speedup=1.3))
    assert "was 50% of the run; without it the speed-up is 1.60" in said


def test_few_tokens_or_steps_are_too_few_to_tell():
    for few in ({"tokens": 15}, {"steps": 5, "tokens": 40}):
        said = words(dataclasses.replace(FAST, **few))
        assert said.startswith("Too short to tell") and not numbers(said)


def test_no_draft_at_all_was_plain_decoding():
    said = words(dataclasses.replace(FAST, tokens=50, drafted=0, draft_ms=0.0, speedup=0.98))
    assert "none was made" in said


def test_a_slow_prompt_is_not_laid_to_the_drafts():
    said = words(dataclasses.replace(FAST, speedup=0.9))
    assert said.startswith("Slower: ") and "The steps paid" in said and "Try" not in said


def test_the_account_of_a_trace_adds_up_to_its_seconds():
    trace = fake_trace(max_new_tokens=64)
    assert trace.baseline is not None
    account = of_trace(trace)
    assert account.steps * account.step_ms + account.prompt_ms == pytest.approx(trace.wall_s * 1e3)
    assert account.tokens == trace.new_tokens and account.made == pytest.approx(trace.tokens_per_step)
    assert account.speedup == trace.speedup
    assert of_trace(dataclasses.replace(trace, baseline=None)) is None


def test_every_drafting_lane_of_a_race_has_an_account_and_plain_decoding_none():
    race = fake_race()
    for lane in race.lanes:
        account = of_lane(race, lane)
        if lane is race.yardstick:
            assert account is None
        elif lane.verify_ms:
            assert account.steps * account.step_ms + account.prompt_ms == pytest.approx(lane.wall_ms)
            assert (account.made > account.price) == (account.made * account.plain_ms > account.step_ms)
            assert words(account)
    assert any(lane.verify_ms for lane in race.lanes)
