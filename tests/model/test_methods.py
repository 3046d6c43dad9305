"""Each method alone: what it emits, that it stops, that it says what it lacks."""

import copy
import dataclasses
import functools
import json
import sys

import numpy as np
import pytest

from diffuspec import Settings
from diffuspec.errors import MethodError, SettingsError
from diffuspec.measure import rivals
from diffuspec.measure.baselines import AutoregressiveRun, PromptLookup, TokenByToken, first_difference
from diffuspec.measure.methods import METHODS, never, parse_methods
from diffuspec.models.drafter import MASKED

SETTINGS = Settings(proxy="context", k=4, k_min=2, k_max=6, max_new_tokens=40)
PROMPT = [62, 102, 70, 62, 102]
OURS = [name for name in METHODS if name != "llama-cpp"]


def decoded(name, pair, settings=SETTINGS, ids=PROMPT):
    return list(METHODS[name].start(pair, settings, ids, never))


@pytest.mark.parametrize("drafter", ["block", "peeking", "standalone"])
@pytest.mark.parametrize("name", OURS)
def test_every_method_gives_the_greedy_answer_pass_by_pass(tiny_pairs, tiny_model, plain_greedy, name, drafter):
    emissions = decoded(name, tiny_pairs[drafter])
    tokens = [token for emission in emissions for token in emission.tokens]
    expected = plain_greedy(tiny_model, PROMPT, 40)
    if name != "hf-generate-bf16":
        assert tokens == expected
    assert all(emission.ms > 0 for emission in emissions)
    assert all(0 <= len(e.tokens) - e.accepted <= 1 for e in emissions)


def test_speculation_needs_fewer_passes_than_tokens(tiny_pairs):
    pair = tiny_pairs["peeking"]
    passes = {name: len(decoded(name, pair)) for name in OURS}
    assert passes["ar"] == passes["hf-generate"] == sum(len(e.tokens) for e in decoded("ar", pair))
    for name in ("plain", "cps", "adl", "diffuspec", "ar-drafter"):
        assert passes[name] < passes["ar"], name


def test_only_our_speculative_methods_write_traces(tiny_pair):
    for name in OURS:
        decoding = METHODS[name].start(tiny_pair, SETTINGS, PROMPT, never)
        first = next(decoding)
        traced = name not in ("ar", "ar-again") and not name.startswith("hf-")
        assert (decoding.trace is not None) == (first.step is not None) == traced
        if traced:
            assert decoding.trace.token_ids == first.tokens
            rest = list(decoding)
            assert decoding.trace.wall_s * 1e3 == pytest.approx(first.ms + sum(e.ms for e in rest))


def test_generate_stops_when_told(tiny_pair):
    asked = []

    def after_three():
        asked.append(None)
        return len(asked) >= 3

    assert len(list(METHODS["hf-generate"].start(tiny_pair, SETTINGS, PROMPT, after_three))) == 3


@pytest.mark.parametrize(
    "own",
    [
        dict(repetition_penalty=1.7),
        dict(suppress_tokens=list(range(40, 200))),
        dict(num_beams=3),
        dict(do_sample=True, temperature=2.0, top_k=3),
        dict(no_repeat_ngram_size=1),
        dict(min_new_tokens=12),
    ],
)
def test_generate_decodes_plainly_whatever_the_checkpoint_would_have(tiny_pair, tiny_model, tmp_path, own):
    tiny_model.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    target = copy.copy(tiny_pair.target)
    target.source = tmp_path
    pair = dataclasses.replace(tiny_pair, target=target)
    settings, ids = Settings(max_new_tokens=12), [20, 30, 40]
    for name in ("hf-generate", "hf-prompt-lookup"):
        answer = [t for e in METHODS[name].start(pair, settings, ids, lambda: False) for t in e.tokens]
        assert answer == list(AutoregressiveRun(tiny_pair, settings, ids))


def test_a_dead_llama_server_is_replaced(monkeypatch):
    started = []

    class Server:
        def __init__(self):
            self.code = None
            started.append(self)

        def poll(self):
            return self.code

    cached = functools.lru_cache(1)(lambda gguf, context, threads: (Server(), f"http://{len(started)}"))
    monkeypatch.setattr(rivals, "_llama_server", cached)
    assert rivals._llama_address(None, 1, 1) == rivals._llama_address(None, 1, 1) == "http://1"
    started[0].code = -9
    assert rivals._llama_address(None, 1, 1) == "http://2"


def test_token_by_token_drafts_what_the_network_says_one_mask_at_a_time(tiny_pair):
    prefix, cache = [62, 102, 70, 90], tiny_pair.target.new_cache()
    tiny_pair.target.prefill(cache, prefix[:-1])
    ids, logq = TokenByToken(tiny_pair.drafter).draft(prefix, 5, width=3, passes=1, cache=cache)
    block = []
    for row, scores in zip(ids, logq, strict=True):
        logp = tiny_pair.drafter.logits(prefix, [*block, MASKED], cache)[-1].float().log_softmax(-1)
        best = logp.topk(3)
        assert row.tolist() == tiny_pair.drafter.to_target_ids(best.indices).tolist()
        np.testing.assert_allclose(scores, best.values.numpy(), atol=1e-5)
        block.append(int(row[0]))


@pytest.mark.parametrize(
    "text, found",
    [
        ([1, 2, 3, 9, 1, 2, 3], [9, 1, 2]),  # the longest match
        ([7, 3, 8, 5, 3, 9, 6, 3], [9, 6, 3]),  # the newest of two
        ([1, 2, 3], []),
        ([4, 4, 4], [4]),
        ([5], []),
    ],
)
def test_prompt_lookup_copies_what_followed(text, found):
    ids, logq = PromptLookup().draft(text, 3, width=15, passes=1, cache=None)
    assert ids[:, :1].ravel().tolist() == found and not logq.any()
    assert ids.shape == logq.shape == (len(found), 1)


def test_a_text_that_repeats_itself_is_looked_up(tiny_pairs, tiny_model, plain_greedy):
    answer = plain_greedy(tiny_model, PROMPT, 40)
    emissions = decoded("prompt-lookup", tiny_pairs["block"], ids=[*PROMPT, *answer[:-1], *PROMPT])
    assert sum(e.accepted for e in emissions) > 0
    assert max(len(e.step.path) for e in emissions) == 10


def test_llama_cpp_is_for_gguf_files_and_the_embedded_pair(tiny_pair):
    with pytest.raises(MethodError, match="embedded pair"):
        decoded("llama-cpp", tiny_pair)


def test_llama_cpp_says_what_to_install(tiny_pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    pair = dataclasses.replace(tiny_pair, info=dataclasses.replace(tiny_pair.info, name="embedded", context=77))
    with pytest.raises(MethodError, match="pip install xllamacpp"):
        decoded("llama-cpp", pair)


def test_method_names_are_parsed():
    assert parse_methods("diffuspec, plain,ar,plain") == ["ar", "diffuspec", "plain"]
    for text in ("magic", "", "ar,,nope"):
        with pytest.raises(SettingsError, match="Methods: ar, "):
            parse_methods(text)


def test_a_difference_is_found_with_its_gap(tiny_pair, tiny_model, plain_greedy):
    expected = plain_greedy(tiny_model, PROMPT, 40)
    assert first_difference(tiny_pair, PROMPT, expected, expected) is None
    other = next(t for t in range(100, 200) if t != expected[3])
    found = first_difference(tiny_pair, PROMPT, expected, [*expected[:3], other, 7])
    assert (found.position, found.expected, found.got) == (3, expected[3], other)
    assert found.gap > 0
    assert first_difference(tiny_pair, PROMPT, expected, expected[:2]).got is None
    assert first_difference(tiny_pair, PROMPT, expected[:2], expected[:3]).expected is None
