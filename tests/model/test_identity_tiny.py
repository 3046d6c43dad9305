"""The promise: greedy output is the target's own, token by token, whatever the settings."""

from __future__ import annotations

import dataclasses

import pytest

from diffuspec import DiffuSpec, Settings
from diffuspec.errors import PromptError, SettingsError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.drafter import BlockDrafter
from diffuspec.models.target import Target
from tests.model.grid import cover

LONG = [62, 102]  # the tiny target's answer to it does not stop within 40 tokens

GRID = {
    "pair": ["standalone", "block", "peeking"],
    "prompt": [[70], [2, 70], list(range(40, 60)), [9] * 33, [5, 260, 17, 120, 44]],
    "budget": [1, 2, 3, 7, 16, 29],
    "search": ["cps", "argmax", "tree", "tree", "exact"],
    "nodes": [1, 4, 10, 40],
    "copy": [0, 1, 2, 4],
    "length": ["adl", "fixed", "throughput", "confidence"],
    "confidence": [0.001, 0.05, 0.3, 1.0],
    "k": [1, 2, 3, 5, 8, 16, 32],
    "bounds": [(1, 1), (1, 32), (2, 5), (8, 8), (20, 30)],
    "beam": [1, 3, 8],
    "tau": [0.05, 0.5, 0.8, 1.0],
    "m_max": [1, 4, 15, 40],
    "lam": [0.0, 0.5, 1.0],
    "passes": [1, 2, 3],
    "proxy": ["context", "none"],
    "delta": [0, 4, 10],
    "rho": [0.1, 0.5, 1.0],
}


def settings_of(choice) -> Settings:
    k_min, k_max = choice["bounds"]
    names = (
        "search",
        "nodes",
        "copy",
        "length",
        "confidence",
        "k",
        "beam",
        "tau",
        "m_max",
        "lam",
        "passes",
        "proxy",
        "delta",
        "rho",
    )
    return Settings(k_min=k_min, k_max=k_max, **{name: choice[name] for name in names})


@pytest.mark.parametrize("seed", range(4))
def test_greedy_output_is_what_transformers_generates(tiny_pairs, tiny_model, plain_greedy, seed):
    for choice in cover(GRID, 40, seed):
        pair, budget = tiny_pairs[choice["pair"]], choice["budget"]
        trace = DiffuSpec(pair, settings_of(choice)).run(ids=choice["prompt"], max_new_tokens=budget)
        assert list(trace.token_ids) == plain_greedy(tiny_model, choice["prompt"], budget), choice
        assert trace.new_tokens <= budget
        assert not set(trace.token_ids[:-1]) & set(trace.stop_ids)


@pytest.mark.parametrize("search", ["cps", "tree"])
def test_the_tiny_runs_meet_every_outcome(tiny_pairs, search):
    """Else the identity above would hold for want of anything to get wrong."""
    outcomes, reasons, accepted = set(), set(), {}
    for name, pair in tiny_pairs.items():
        engine = DiffuSpec(pair, Settings(k_min=2, k_max=6, proxy="context", search=search))
        traces = [engine.run(ids=[start, start + 40], max_new_tokens=16) for start in range(60, 74)]
        outcomes |= {(name, step.verification.kind) for trace in traces for step in trace.steps}
        reasons |= {trace.stop_reason for trace in traces}
        accepted[name] = sum(trace.accepted_per_step for trace in traces) / len(traces)
    assert reasons == {"stop token", "max tokens"}
    assert {(name, kind) for name in tiny_pairs for kind in ("correction", "bonus")} <= outcomes
    assert ("peeking", None) in outcomes, "no drafted stop token was ever accepted"
    assert min(accepted.values()) > 0.05, accepted


@pytest.mark.parametrize("name", ["standalone", "block", "peeking"])
def test_compare_with_ar_finds_no_difference(tiny_pairs, name):
    pair = tiny_pairs[name]
    trace = DiffuSpec(pair, Settings(proxy="context")).run("compare me", max_new_tokens=20)
    trace = trace.with_baseline(compare_with_ar(pair, trace))
    assert trace.identical_to_ar and trace.speedup > 0
    assert trace.baseline.token_ids == trace.token_ids and trace.baseline.compared == trace.new_tokens
    assert list(trace.baseline.times_ms) == sorted(trace.baseline.times_ms)
    assert len(trace.baseline.times_ms) == trace.new_tokens


def test_compare_with_ar_names_the_first_difference_and_its_gap(tiny_pairs):
    pair = tiny_pairs["peeking"]
    trace = DiffuSpec(pair, Settings(proxy="context", k_min=1, k_max=1)).run(ids=LONG, max_new_tokens=12)
    right = trace.token_ids
    step = trace.steps[2]
    wrong = dataclasses.replace(step, emitted=(*step.emitted[:-1], (step.emitted[-1] + 1) % 264))
    forged = dataclasses.replace(trace, steps=(*trace.steps[:2], wrong, *trace.steps[3:]))
    difference = compare_with_ar(pair, forged).difference
    assert difference.position == step.start + len(step.emitted) - 1
    assert (difference.expected, difference.got) == (right[difference.position], wrong.emitted[-1])
    assert difference.gap > 0


def test_compare_with_ar_sees_an_answer_that_is_too_short_or_too_long(tiny_pairs):
    pair = tiny_pairs["peeking"]
    trace = DiffuSpec(pair, Settings(proxy="none")).run(ids=LONG, max_new_tokens=12)
    short = dataclasses.replace(trace, steps=trace.steps[:1])
    assert compare_with_ar(pair, short).difference.got is None
    long = dataclasses.replace(trace, settings=trace.settings.replace(max_new_tokens=5))
    difference = compare_with_ar(pair, long).difference
    assert (difference.position, difference.expected, difference.gap) == (5, None, None)


def test_the_long_prompt_is_long(tiny_model, plain_greedy):
    assert len(plain_greedy(tiny_model, LONG, 40)) == 40


def test_a_stopped_run_keeps_its_steps_and_its_identity(tiny_pairs, tiny_model, plain_greedy):
    pair = tiny_pairs["block"]
    run = DiffuSpec(pair, Settings(proxy="context")).stream(ids=LONG, max_new_tokens=40)
    seen = [next(run), next(run)]
    assert run.trace.stop_reason == "running"
    run.stop()
    assert next(run, None) is None
    trace = run.trace
    assert trace.stop_reason == "stopped" and list(trace.steps) == seen
    assert list(trace.token_ids) == plain_greedy(tiny_model, LONG, 40)[: trace.new_tokens]
    assert compare_with_ar(pair, trace).difference is None


def test_stopping_before_the_first_step_gives_an_empty_trace(tiny_pair):
    run = DiffuSpec(tiny_pair, Settings(proxy="none")).stream("hello")
    run.stop()
    assert next(run, None) is None
    trace = run.trace
    assert (trace.steps, trace.text, trace.new_tokens, trace.tokens_per_step) == ((), "", 0, 0.0)


def test_a_prompt_is_put_into_the_chat_template(tiny_pair, tiny_model, plain_greedy):
    text = "<|im_start|>user\nhey ü<|im_end|>\n<|im_start|>assistant\n"
    ids = tiny_pair.tokenizer(text, add_special_tokens=False).input_ids
    for prompt in ("hey ü", [{"role": "user", "content": "hey ü"}]):
        trace = DiffuSpec(tiny_pair, Settings(proxy="context")).run(prompt, max_new_tokens=9)
        assert list(trace.prompt_ids) == ids and trace.prompt == "hey ü"
        assert list(trace.token_ids) == plain_greedy(tiny_model, ids, 9)


def test_a_conversation_keeps_its_turns(tiny_pair):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    decoded = tiny_pair.tokenizer.decode(tiny_pair.encode(turns))
    assert [decoded.index(f"\n{letter}<|im_end|>") for letter in "abc"] == sorted(
        decoded.index(f"\n{letter}<|im_end|>") for letter in "abc"
    )


@pytest.mark.parametrize("room", [1, 2, 5])
def test_a_full_context_ends_the_run(tiny_pair, tiny_model, plain_greedy, room):
    small = dataclasses.replace(tiny_pair, info=dataclasses.replace(tiny_pair.info, context=len(LONG) + room))
    trace = DiffuSpec(small, Settings(proxy="none", k_min=1, k_max=20)).run(ids=LONG, max_new_tokens=100)
    assert trace.stop_reason == "context"
    assert list(trace.token_ids) == plain_greedy(tiny_model, LONG, room)


def test_the_context_is_filled_to_the_last_position_of_the_target(tiny, tiny_pair, plain_greedy):
    """A target that really holds 48 tokens: neither model is asked for a position it does not have."""
    model, target = tiny.model(context=48), Target(tiny.model(context=48))
    info = dataclasses.replace(tiny_pair.info, context=48)
    drafter = BlockDrafter(*tiny.block_parts(model), target)
    pair = dataclasses.replace(tiny_pair, info=info, target=target, drafter=drafter)
    expected = plain_greedy(model, LONG, 46)
    trace = DiffuSpec(pair, Settings(proxy="context", k_min=8, k_max=32)).run(ids=LONG, max_new_tokens=4000)
    assert list(trace.token_ids) == expected
    assert trace.stop_reason == ("context" if len(expected) == 46 else "stop token")


@pytest.mark.parametrize(
    "bad",
    [
        dict(prompt=""),
        dict(prompt="  \n"),
        dict(prompt=[]),
        dict(ids=[]),
        dict(ids=[264]),
        dict(ids=[-1]),
        dict(),
        dict(prompt="a", ids=[1]),
        dict(ids=[5] * 512),
        dict(prompt="x" * 600),
    ],
)
def test_a_prompt_that_cannot_be_run_is_a_prompt_error(tiny_pair, bad):
    with pytest.raises(PromptError):
        DiffuSpec(tiny_pair, Settings(proxy="none")).stream(**bad)


def test_settings_the_pair_cannot_meet_are_a_settings_error(tiny_pair):
    for settings in (Settings(k_max=33), Settings(length="fixed", k=33)):
        with pytest.raises(SettingsError, match="32"):
            DiffuSpec(tiny_pair, settings)
    DiffuSpec(tiny_pair, Settings(k=100))  # k is not used by the adaptive length
    # Without a fitted n-gram the text so far judges, and the trace says so.
    assert DiffuSpec(tiny_pair, Settings(proxy="ngram")).run("hello", max_new_tokens=2).settings.proxy == "context"
    with pytest.raises(SettingsError, match="max_new_tokens"):
        DiffuSpec(tiny_pair, Settings(proxy="none")).run("hello", max_new_tokens=0)
