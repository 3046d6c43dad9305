"""transformers' `generate` with DiffuSpec behind its door: the same answers, whatever is asked of it."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TextIteratorStreamer,
    set_seed,
)

from diffuspec import Settings, Trace, diffuspec_generate
from diffuspec.errors import DiffuSpecError, PairError, PromptError, SettingsError
from diffuspec.hf import generate
from diffuspec.models.target import Target

VOCAB, WINDOW, NEW = 264, 24, 40
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.3,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
MIXED = ["sliding_attention", "full_attention"]
FAMILIES = {
    "Llama": dict(head_dim=8),
    "Qwen2": {},
    "Qwen3": dict(head_dim=8),
    "Gemma3": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, layer_types=MIXED),
    "Mistral": dict(head_dim=8, sliding_window=WINDOW),
    "Phi": {},
    "GPT2": {},
}


def network(kind, seed=1):
    torch.manual_seed(seed)
    if kind == "GPT2":
        config = transformers.GPT2Config(
            vocab_size=VOCAB,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=256,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
        return transformers.GPT2LMHeadModel(config).eval()
    config = getattr(transformers, f"{kind}{'Text' if kind == 'Gemma3' else ''}Config")(**{**SHAPE, **FAMILIES[kind]})
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


PROMPT = torch.tensor([[20 + (7 * i) % 40 for i in range(30)]])


def plain(model, ids=PROMPT, **asked):
    return model.generate(ids, **{"do_sample": False, "max_new_tokens": NEW, **asked})


def ours(model, ids=PROMPT, **asked):
    return model.generate(
        ids, custom_generate=diffuspec_generate, **{"do_sample": False, "max_new_tokens": NEW, **asked}
    )


@pytest.fixture(scope="module")
def model():
    return network("Llama")


@pytest.fixture(scope="module")
def peek(tiny, model):
    """A drafter that is often right, so that whole runs of tokens are accepted."""
    return tiny.PeekingDrafter(model, frozenset({1}))


CHAIN = Settings(length="fixed", k=6, proxy="context")
TREE = Settings(search="tree", length="fixed", k=6, proxy="context")


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("settings", [None, CHAIN, TREE], ids=["copies", "chain", "tree"])
def test_the_answer_is_generates_own(tiny, kind, settings):
    model = network(kind)
    drafter = settings and tiny.PeekingDrafter(model, frozenset({1}))
    steps = []
    out = ours(model, drafter=drafter, settings=settings, on_step=steps.append)
    assert out.tolist() == plain(model).tolist()
    assert settings is None or len(steps) < 0.8 * NEW  # drafts were accepted


@pytest.mark.parametrize(
    "asked",
    [
        dict(repetition_penalty=1.6),
        dict(no_repeat_ngram_size=2),
        dict(forced_eos_token_id=1),
        dict(bad_words_ids=[[30], [40, 41]]),
        dict(min_new_tokens=30, eos_token_id=[1, 50, 60, 70]),
        dict(eos_token_id=[50, 60, 70, 80, 90, 100]),
        dict(max_new_tokens=None, max_length=37),
        dict(max_new_tokens=1),
        dict(suppress_tokens=list(range(100, 200))),
        dict(renormalize_logits=True, exponential_decay_length_penalty=(3, 1.2)),
        dict(guidance_scale=1.5),
    ],
    ids=lambda asked: "-".join(asked),
)
@pytest.mark.parametrize("settings", [CHAIN, TREE], ids=["chain", "tree"])
def test_processors_ends_and_lengths_are_generates(model, peek, settings, asked):
    assert ours(model, drafter=peek, settings=settings, **asked).tolist() == plain(model, **asked).tolist()


class Alternating(LogitsProcessor):
    """As a grammar: after an even token an odd one and the other way round, and it is told of each token once."""

    def __init__(self):
        self.lengths = []

    def __call__(self, input_ids, scores):
        self.lengths.append(input_ids.shape[1])
        scores[:, int(input_ids[0, -1]) % 2 :: 2] = -torch.inf
        return scores


@pytest.mark.parametrize("settings", [CHAIN, TREE], ids=["chain", "tree"])
def test_a_grammar_is_asked_once_for_each_token_in_order(model, peek, settings):
    truth, mine = Alternating(), Alternating()
    expected = plain(model, logits_processor=LogitsProcessorList([truth]))
    got = ours(model, drafter=peek, settings=settings, logits_processor=LogitsProcessorList([mine]))
    assert got.tolist() == expected.tolist()
    assert mine.lengths == truth.lengths == list(range(30, 30 + len(truth.lengths)))


class Noted(StoppingCriteria):
    """Ends after the given number of tokens; notes when it is asked."""

    def __init__(self, at):
        self.at, self.lengths = at, []

    def __call__(self, input_ids, scores, **_):
        self.lengths.append(input_ids.shape[1])
        return torch.tensor([input_ids.shape[1] >= self.at])


@pytest.mark.parametrize("settings", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("at", range(31, 42))
def test_a_criterion_ends_the_answer_within_an_accepted_run(model, peek, settings, at):
    noted, steps = Noted(at), []
    out = ours(
        model,
        drafter=peek,
        settings=settings,
        stopping_criteria=StoppingCriteriaList([noted]),
        on_step=steps.append,
        return_dict_in_generate=True,
    )
    assert out.sequences.tolist() == plain(model)[:, :at].tolist()
    assert noted.lengths == list(range(31, at + 1))
    assert out.trace.stop_reason == "stopping criterion" and sum(len(s.emitted) for s in steps) == at - 30
    assert Trace.loads(out.trace.dumps()).token_ids == out.trace.token_ids


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny.tokenizer()


def test_stop_strings_end_where_plain_decoding_ends(model, peek, tokenizer):
    text = tokenizer.decode(plain(model)[0, 30:])
    for stop in (text[5:7], text[12:14]):
        expected = plain(model, stop_strings=[stop], tokenizer=tokenizer).tolist()
        asked = dict(do_sample=False, max_new_tokens=NEW, drafter=peek, settings=CHAIN, tokenizer=tokenizer)
        assert diffuspec_generate(model, PROMPT, stop_strings=[stop], **asked).tolist() == expected
        criteria = StoppingCriteriaList([StopStringCriteria(tokenizer, [stop])])
        assert ours(model, drafter=peek, settings=CHAIN, stopping_criteria=criteria).tolist() == expected
        assert len(expected[0]) < 30 + NEW
    with pytest.raises(SettingsError, match="tokenizer="):
        diffuspec_generate(model, PROMPT, stop_strings=["x"])


@pytest.mark.parametrize("asked", [dict(), dict(temperature=0.7, top_k=20), dict(top_p=0.8, repetition_penalty=1.2)])
@pytest.mark.parametrize("settings", [CHAIN, TREE], ids=["chain", "tree"])
def test_a_sample_is_generates_own_with_the_same_seed(model, peek, settings, asked):
    for seed in range(3):
        set_seed(seed)
        expected = plain(model, do_sample=True, max_new_tokens=16, **asked)
        set_seed(seed)
        more = dict(do_sample=True, return_dict_in_generate=True, max_new_tokens=16)
        out = ours(model, drafter=peek, settings=settings, **more, **asked)
        assert out.sequences.tolist() == expected.tolist()
        assert out.trace.settings.temperature == asked.get("temperature", 1.0)


def test_scores_logits_and_cache_are_those_of_plain_decoding(model, peek):
    asked = dict(return_dict_in_generate=True, output_scores=True, output_logits=True, repetition_penalty=1.3)
    truth, out = plain(model, **asked), ours(model, drafter=peek, settings=TREE, **asked)
    for ours_, theirs in ((out.scores, truth.scores), (out.logits, truth.logits)):
        torch.testing.assert_close(torch.cat(ours_), torch.cat(theirs), rtol=0, atol=1e-4)
    assert out.past_key_values.get_seq_length() == truth.past_key_values.get_seq_length()
    again = plain(model, out.sequences, past_key_values=out.past_key_values, max_new_tokens=5)
    assert again.tolist() == plain(model, out.sequences, max_new_tokens=5).tolist()


@pytest.mark.parametrize("by", ["generate", "call"])
def test_a_streamer_gets_every_token_and_an_end(model, peek, tokenizer, by):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    asked = dict(do_sample=False, max_new_tokens=NEW, drafter=peek, settings=CHAIN, streamer=streamer)
    if by == "generate":
        thread = threading.Thread(
            target=model.generate, args=[PROMPT], kwargs={"custom_generate": diffuspec_generate, **asked}
        )
    else:
        thread = threading.Thread(target=diffuspec_generate, args=[model, PROMPT], kwargs=asked)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(plain(model)[0, 30:])


def test_a_streamer_ends_with_the_run_also_where_it_fails(model, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    with pytest.raises(DiffuSpecError):
        ours(model, streamer=streamer, settings=Settings(temperature=1.0))
    assert "".join(streamer) == ""


def test_on_step_ends_a_run(model, peek):
    steps = []
    out = ours(model, drafter=peek, settings=CHAIN, on_step=lambda step: steps.append(step) or len(steps) == 2)
    assert len(steps) == 2 and out.shape[1] == 30 + sum(len(step.emitted) for step in steps)


def test_padding_on_the_left_changes_nothing(model, peek):
    ids, mask = torch.cat([torch.zeros(1, 5, dtype=torch.long), PROMPT], 1), torch.ones(1, 35, dtype=torch.long)
    mask[:, :5] = 0
    expected = plain(model, ids, attention_mask=mask)
    assert ours(model, ids, attention_mask=mask, drafter=peek, settings=CHAIN).tolist() == expected.tolist()
    mask[:, 10] = 0
    with pytest.raises(PromptError, match="only padding on its left"):
        ours(model, ids, attention_mask=mask)


def test_the_model_is_left_as_it_is(peek, model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    ours(model, drafter=peek)
    ours(model)
    assert [type(module) for module in model.modules()] == kinds and next(model.parameters()).requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_prompt_at_the_end_of_the_context_ends_there(model):
    ids = PROMPT.repeat(1, 9)[:, :250]
    assert ours(model, ids).tolist() == plain(model, ids, max_new_tokens=6).tolist()


@pytest.mark.parametrize(
    "asked, error, says",
    [
        (dict(ids=PROMPT.repeat(2, 1)), PromptError, "one text at a time, not 2"),
        (dict(num_return_sequences=2, do_sample=True), PromptError, "not 2"),
        (dict(num_beams=2), SettingsError, "num_beams"),
        (dict(output_attentions=True, return_dict_in_generate=True), SettingsError, "output_attentions"),
        (dict(prompt_lookup_num_tokens=3), SettingsError, "prompt_lookup_num_tokens"),
        (dict(settings=Settings(temperature=0.5)), SettingsError, "do_sample=True"),
        (dict(settings=Settings(rule="sampled-path"), do_sample=True), SettingsError, "rule"),
        (dict(settings=Settings(search="cps")), SettingsError, "no diffusion drafter"),
        (dict(inputs_embeds=torch.zeros(1, 4, 32)), PromptError, "inputs_embeds|token ids only|empty"),
        (dict(drafter="nowhere:Nothing"), PairError, "could not be imported"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(model, asked, error, says):
    with pytest.raises(error, match=says):
        ours(model, **asked)


def test_a_filled_cache_is_refused(model):
    cache = DynamicCache()
    model(PROMPT[:, :-1], past_key_values=cache)
    with pytest.raises(PromptError, match="past_key_values"):
        ours(model, past_key_values=cache)


def test_an_encoder_is_refused():
    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(PromptError, match="encoder"):
        ours(transformers.T5ForConditionalGeneration(config).eval(), decoder_start_token_id=0)


@pytest.mark.parametrize("kind", ["folder", "block"])
def test_a_named_drafter_is_loaded_once(tmp_path, tiny, tokenizer, kind, monkeypatch):
    model = tiny.model()
    if kind == "folder":
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        asked = dict(drafter=str(tmp_path), convention={"mask_token": "<mask>", "shifted": True})
    else:
        config, weights = tiny.block_parts(model)
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(weights, tmp_path / "model.safetensors")
        asked = dict(drafter=tmp_path)
    loads, load = [], generate.load_drafter
    monkeypatch.setattr(generate, "load_drafter", lambda *a: loads.append(a) or load(*a))
    for _ in range(2):
        out = ours(model, settings=CHAIN, text_tokenizer=tokenizer, return_dict_in_generate=True, **asked)
        assert out.sequences.tolist() == plain(model).tolist()
    assert len(loads) == 1
    assert out.trace.text == tokenizer.decode(
        [t for t in out.sequences[0, 30:].tolist() if t not in tokenizer.all_special_ids]
    )


def test_a_model_is_let_go(model):
    mine = network("Llama")
    for settings in (None, Settings(search="tree", length="throughput", proxy="context")):
        assert ours(mine, settings=settings, max_new_tokens=4).tolist() == plain(mine, max_new_tokens=4).tolist()
    gone = weakref.ref(mine)
    del mine
    gc.collect()
    assert gone() is None


def test_flash_attention_takes_no_trees(model):
    other = network("Llama")
    other.config._attn_implementation = "flash_attention_2"
    assert Target.untouched(model).trees and not Target.untouched(other).trees


def test_the_repository_folder_is_a_decoding_method(model, peek, tokenizer, monkeypatch):
    folder = str(Path(__file__).parents[2] / "hub")
    text = tokenizer.decode(plain(model)[0, 30:])
    asked = dict(do_sample=False, max_new_tokens=NEW, stop_strings=[text[12:14]], tokenizer=tokenizer)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    out = model.generate(
        PROMPT,
        custom_generate=folder,
        trust_remote_code=True,
        drafter=peek,
        settings=CHAIN,
        streamer=streamer,
        return_dict_in_generate=True,
        **asked,
    )
    assert out.sequences.tolist() == plain(model, **asked).tolist()
    assert out.trace.text and "".join(streamer) == out.trace.text
    by_name = model.generate(
        input_ids=PROMPT,
        attention_mask=torch.ones_like(PROMPT),
        custom_generate=folder,
        trust_remote_code=True,
        do_sample=False,
        max_new_tokens=NEW,
    )
    assert by_name.tolist() == plain(model).tolist()
    with pytest.raises(ValueError, match="trust_remote_code"):
        monkeypatch.setattr("builtins.input", lambda *_: "n")
        model.generate(PROMPT, custom_generate=folder, max_new_tokens=4)
