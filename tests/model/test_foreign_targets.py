"""Targets as other people have them: windows, ALiBi, eager attention alone, recurrent state, other tokenizers, NaN."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.errors import ModelError, PairError, SettingsError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.drafter import Convention
from diffuspec.models.target import load_target
from diffuspec.models.vocabulary import make_sure_they_share, stop_ids

VOCAB, MASK = 264, 263
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
    pad_token_id=None,
)
WINDOW = 24
MIXED = ["sliding_attention", "full_attention"]
TARGETS = {
    "Mistral": dict(head_dim=8, sliding_window=WINDOW),
    "Phi3": dict(sliding_window=WINDOW),
    "Gemma2": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW),
    "Gemma3": dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW, layer_types=MIXED),
    "Qwen2": dict(use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED),
    "Qwen3": dict(head_dim=8, use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED[::-1]),
}


def network(kind, seed=1, **more):
    torch.manual_seed(seed)
    text = "Text" if kind == "Gemma3" else ""
    config = getattr(transformers, f"{kind}{text}Config")(**{**SHAPE, **more})
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny):
    def save(model, tokenizer=None):
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        (tokenizer or tiny.tokenizer()).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="module")
def drafter(folders):
    return folders(network("Llama", seed=9, head_dim=8))


def open_pair(target, drafter, **more):
    return load_pair(target=target, drafter=drafter, convention=Convention(MASK), dtype="float32", device="cpu", **more)


def greedy(folder, ids, n, ends):
    """transformers' own greedy answer without a cache."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = list(ids)
    with torch.no_grad():
        while len(text) < len(ids) + n and text[-1] not in ends:
            text.append(int(model(torch.tensor([text]), use_cache=False).logits[0, -1].argmax()))
    return tuple(text[len(ids) :])


@pytest.mark.parametrize("kind", TARGETS)
def test_a_sliding_window_changes_no_answer(folders, drafter, kind):
    folder = folders(network(kind, **TARGETS[kind]))
    pair = open_pair(folder, drafter)
    for length in (10, 40):  # the window fills within the answer, and within the prompt
        ids = [20 + (7 * i) % 200 for i in range(length)]
        truth = greedy(folder, ids, 24, pair.stop_ids)
        for search in ("cps", "tree"):
            settings = Settings(search=search, length="fixed", k=5, copy=1)
            trace = DiffuSpec(pair, settings).run(ids=ids, max_new_tokens=24)
            assert trace.token_ids == truth
            assert compare_with_ar(pair, trace).difference is None


def test_a_tree_sees_the_window_and_no_more(folders, drafter):
    """A branch's row has the logits of the same text read from the start."""
    pair = open_pair(folders(network("Mistral", head_dim=8, sliding_window=8)), drafter)
    target, text = pair.target, [20 + (11 * i) % 200 for i in range(20)]
    cache = target.new_cache()
    target.prefill(cache, text)
    rows = target.forward_tree(cache, [30, 40, 50, 60], [-1, 0, 0, 2])
    for row, branch in enumerate(([30], [30, 40], [30, 50], [30, 50, 60])):
        fresh = target.new_cache()
        alone = target.forward(fresh, [*text, *branch])[-1]
        torch.testing.assert_close(rows[row], alone, rtol=0, atol=1e-5)


def test_a_target_that_is_spread_over_devices_is_the_same_target(folders):
    """On a machine without GPUs all of it lands on the CPU, by the same way of loading."""
    folder = folders(network("Qwen2"))
    spread, _ = load_target(folder, dtype="float32", device="cpu", spread=True)
    whole, _ = load_target(folder, dtype="float32", device="cpu")
    logits = [target.forward(target.new_cache(), [20, 30, 40]) for target in (spread, whole)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_alibi_decodes_chains_and_says_that_it_cannot_verify_trees(folders, drafter):
    config = transformers.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, eos_token_id=1)
    torch.manual_seed(1)
    folder = folders(transformers.BloomForCausalLM(config).eval())
    pair = open_pair(folder, drafter)
    trace = DiffuSpec(pair, Settings()).run(ids=[20, 30, 40], max_new_tokens=8)
    assert trace.token_ids == greedy(folder, [20, 30, 40], 8, pair.stop_ids)
    with pytest.raises(SettingsError, match="use search = cps"):
        DiffuSpec(pair, Settings(search="tree"))


def test_a_recurrent_state_is_refused_for_what_it_is(folders, drafter):
    config = transformers.MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(PairError, match="cannot be taken back"):
        open_pair(folders(transformers.MambaForCausalLM(config).eval()), drafter)


TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}SPACE<|endturn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("space", ["", "\n", " "])
def test_the_templates_end_of_turn_ends_an_answer(tiny, named, space):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(
        [transformers.AddedToken("<|turn|>", special=True), transformers.AddedToken("<|endturn|>", special=True)],
        special_tokens=named,
    )
    tokenizer.chat_template = TEMPLATE.replace("SPACE", space)
    end = tokenizer.convert_tokens_to_ids("<|endturn|>")
    model = network("Llama", head_dim=8)
    model.generation_config.eos_token_id = [1, 5]
    ends = stop_ids(model, tokenizer)
    assert {1, 5, end, tokenizer.eos_token_id} <= ends
    assert tokenizer.convert_tokens_to_ids("<|turn|>") not in ends
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end not in stop_ids(model, tokenizer)


def test_padding_is_no_difference_between_vocabularies():
    ours = {f"t{i}": i for i in range(10)}
    make_sure_they_share(ours, {**ours, "<mask>": 12}, 16)
    make_sure_they_share(ours, None, 10)


@pytest.mark.parametrize(
    "theirs, rows, says",
    [
        ({f"t{i}": i for i in range(8)}, 8, "token 8, 't8', is not"),
        (None, 9, "token 9, 't9', is not"),
        ({"t0": 0, "t1": 1, "other": 2, "more": 3}, 16, "token 2 is 't2' to the target and 'other' to the drafter"),
    ],
)
def test_unlike_vocabularies_are_refused_with_the_first_difference(theirs, rows, says):
    with pytest.raises(PairError, match=says):
        make_sure_they_share({f"t{i}": i for i in range(10)}, theirs, rows)


def test_a_target_with_more_padding_than_its_drafter_decodes(folders, drafter):
    model = network("Llama", head_dim=8, vocab_size=VOCAB + 16)
    with torch.no_grad():
        model.lm_head.weight[270] *= 6  # an id that the drafter has no row for is likely
    folder = folders(model)
    pair = open_pair(folder, drafter)
    for ids in ([20, 30, 40], [20, 270, 40]):
        truth = greedy(folder, ids, 8, pair.stop_ids)
        assert DiffuSpec(pair, Settings()).run(ids=ids, max_new_tokens=8).token_ids == truth


def test_another_tokenizer_is_refused_when_the_pair_is_loaded(folders, tiny):
    right = tiny.tokenizer()
    names = right.get_vocab()
    body = json.loads(right.backend_tokenizer.to_str())
    a, b = sorted((t for t in body["model"]["vocab"] if t not in right.all_special_tokens), key=names.get)[:2]
    body["model"]["vocab"][a], body["model"]["vocab"][b] = names[b], names[a]
    raw = Tokenizer.from_str(json.dumps(body))
    other = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=right.eos_token)
    with pytest.raises(PairError, match=f"token {names[a]} is"):
        open_pair(folders(network("Llama", head_dim=8)), folders(network("Llama", seed=9, head_dim=8), other))


def spoilt(model, rows, value):
    """The model with a bias on its output: NaN there makes NaN of the logits."""
    with torch.no_grad():
        head = model.get_output_embeddings()
        if head.bias is None:
            head.weight[rows] = value
        else:
            head.bias[rows] = value
    return model


def phi(seed=1):
    return network("Phi", seed=seed)


ALL, NAN, INF = slice(None), float("nan"), float("inf")
RUNS = [
    dict(),
    dict(search="tree", copy=1),
    dict(temperature=1.0),
    dict(temperature=1.0, rule="sampled-search"),
    dict(temperature=0.7, top_k=3, rule="paper"),
]


@pytest.mark.parametrize("spoil", [(ALL, NAN), (slice(40, 41), NAN), (slice(40, 41), INF), (ALL, -INF)])
@pytest.mark.parametrize("settings", RUNS)
def test_a_target_that_computes_no_numbers_ends_the_run_and_keeps_what_was_made(folders, drafter, spoil, settings):
    pair = open_pair(folders(spoilt(phi(), *spoil)), drafter)
    run = DiffuSpec(pair, Settings(**settings)).stream(ids=[20, 30, 40], max_new_tokens=6)
    with pytest.raises(ModelError, match="not numbers"):
        list(run)
    assert run.stop_reason == "failed" and run.trace.new_tokens == 0
    assert Trace.loads(run.trace.dumps()).stop_reason == "failed"


@pytest.mark.parametrize(
    "which, spoil",
    [
        ("target", (slice(200, None), -INF)),
        ("target", (slice(50, 60), 1e30)),
        ("drafter", (slice(200, None), -INF)),
        ("drafter", (slice(50, 60), 1e30)),
        ("drafter", (slice(50, 60), NAN)),
    ],
)
@pytest.mark.parametrize("settings", RUNS)
def test_every_trace_that_is_saved_can_be_loaded(folders, which, spoil, settings):
    models = {"target": phi(1), "drafter": phi(9)}
    spoilt(models[which], *spoil)
    pair = open_pair(folders(models["target"]), folders(models["drafter"]))
    trace = DiffuSpec(pair, Settings(**settings)).run(ids=[20, 30, 40], max_new_tokens=6)
    assert Trace.loads(trace.dumps()).token_ids == trace.token_ids
    if not settings.get("temperature"):
        assert compare_with_ar(pair, trace).difference is None


def test_the_papers_rule_bears_a_q_that_underflows(folders):
    drafter = spoilt(spoilt(spoilt(phi(9), ALL, -400.0), 50, 0.0), 1, -200.0)
    pair = open_pair(folders(phi(1)), folders(drafter))
    settings = Settings(proxy="context", lam=0.0, rule="paper", temperature=1.0, k=4, k_max=4)
    trace = DiffuSpec(pair, settings).run(ids=[30, 1, 30, 1, 30, 1, 30], max_new_tokens=6)
    assert Trace.loads(trace.dumps()).token_ids == trace.token_ids


def test_a_pair_without_an_n_gram_takes_the_defaults_and_the_trace_says_what_judged(folders, drafter):
    pair = open_pair(folders(phi()), drafter)
    for settings in (Settings(), Settings.paper()):
        trace = DiffuSpec(pair, settings).run(ids=[20, 30, 40], max_new_tokens=4)
        assert trace.settings.proxy == "context"
