"""DFlash, DFlash 2 and DSpark: read as their authors meant them, against a forward written out here, and exact on every
search. `tests/peers/published.py` compares with the published packages themselves.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from diffuspec import DiffuSpec, load_pair
from diffuspec.errors import PairError, SettingsError, WeightsError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.dflash.drafter import HiddenStateDrafter, is_hidden_state_drafter, load_hidden_state_drafter
from diffuspec.models.dflash.formats import read_shape
from diffuspec.models.drafter import MASKED
from diffuspec.models.target import Target
from diffuspec.trace.model import Trace
from tests.conftest import one_thread
from tests.fakes import hidden_drafters as tiny_drafters
from tests.fakes.hidden_drafters import BLOCK, CONFIGS, IDS, MASK, VOCAB, deepspec, speculators, zlab

PREFIX = [5, 90, 17, 201, 33, 8, 120, 61, 77, 19, 250, 42]


@pytest.fixture(scope="module", autouse=True)
def one_core():
    with one_thread():
        yield


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def model(request):
    return tiny_drafters.target_model(request.param)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny):
    """Checkpoints of both targets and of all drafters."""
    root = tmp_path_factory.mktemp("drafters")
    for kind in ("qwen3", "llama"):
        tiny_drafters.target_model(kind).save_pretrained(root / kind)
        tiny.tokenizer().save_pretrained(root / kind)
    for name, config in CONFIGS.items():
        tiny_drafters.write(root / name, config, tiny_drafters.random_weights(config))
    return root


@pytest.fixture(scope="module")
def pairs(folders):
    """(kind of target, drafter) -> Pair, loaded once."""
    known = {}

    def pair(kind, name):
        if (kind, name) not in known:
            known[kind, name] = load_pair(target=str(folders / kind), drafter=str(folders / name))
        return known[kind, name]

    return pair


def reference(config, weights, model, prefix, k):
    """(hidden states [k, h], logits [k, draft vocabulary]) by the plainest way: everything anew, nothing cached."""
    outer = config.get("transformer_layer_config", config)
    own = {**config, **config.get("dflash_config", {})}
    entries = own.get("aux_hidden_state_layer_ids") or [i + 1 for i in own["target_layer_ids"]]
    shifted = "DSpark" in str(config["architectures"]) or config.get("speculators_model_type") == "dspark"
    heads, kv, d = outer["num_attention_heads"], outer["num_key_value_heads"], outer["head_dim"]

    def norm(x, name):
        return F.rms_norm(x, x.shape[-1:], weights[f"{name}.weight"], 1e-6)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T

    def turned(x, positions):
        cos, sin = Qwen3RotaryEmbedding(Qwen3Config(**outer))(x, positions[None])
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def mixed(x, at, side, kernels):
        size, group = config_of["conv_kernel_size"], config_of["conv_group_size"]
        out = torch.zeros_like(x)
        for t in range(len(x)):
            for j in range(min(size, t + 1)):
                kernel = weights[f"{at}.base_kernel"][side, j] + kernels[t, side, j].repeat_interleave(group)
                out[t] += kernel * x[t - j]
        return out

    config_of = own
    with torch.no_grad():
        states = model(torch.tensor([prefix[:-1]]), output_hidden_states=True).hidden_states
        ctx = norm(linear(torch.cat([states[e][0] for e in entries], -1), "fc"), "hidden_norm")
        past, n = len(ctx), k + (0 if shifted else 1)
        x = model.get_input_embeddings().weight[[prefix[-1], *[MASK] * (n - 1)]]
        for i in range(outer["num_hidden_layers"]):
            at, conv = f"layers.{i}", f"layers.{i}.attention_conv.base_kernel" in weights
            h = norm(x, f"{at}.input_layernorm")
            if conv:
                made = linear(h, f"{at}.attention_conv.kernel_projection").view(n, 2, own["conv_kernel_size"], -1)
                h = mixed(h, f"{at}.attention_conv", 0, made)
            seen = torch.cat([ctx, h])
            q = norm(linear(h, f"{at}.self_attn.q_proj").view(n, heads, d), f"{at}.self_attn.q_norm").transpose(0, 1)
            key = norm(linear(seen, f"{at}.self_attn.k_proj").view(past + n, kv, d), f"{at}.self_attn.k_norm")
            value = linear(seen, f"{at}.self_attn.v_proj").view(past + n, kv, d).transpose(0, 1)
            q = turned(q, torch.arange(past, past + n))
            key = turned(key.transpose(0, 1), torch.arange(past + n))
            key, value = (part.repeat_interleave(heads // kv, 0) for part in (key, value))
            scores = q @ key.transpose(1, 2) / d**0.5
            if own.get("layer_types", ["full_attention"] * 9)[i] == "sliding_attention":
                for row in range(n):
                    for column in range(past + n):
                        if not 0 <= past + row - column < own["sliding_window"]:
                            scores[:, row, column] = -torch.inf
            h = (scores.softmax(-1) @ value).transpose(0, 1).reshape(n, -1) @ weights[f"{at}.self_attn.o_proj.weight"].T
            x = x + (mixed(h, f"{at}.attention_conv", 1, made) if conv else h)
            h = norm(x, f"{at}.post_attention_layernorm")
            if conv:
                made = linear(h, f"{at}.mlp_conv.kernel_projection").view(n, 2, own["conv_kernel_size"], -1)
                h = mixed(h, f"{at}.mlp_conv", 0, made)
            h = linear(F.silu(linear(h, f"{at}.mlp.gate_proj")) * linear(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
            x = x + (mixed(h, f"{at}.mlp_conv", 1, made) if conv else h)
        hidden = norm(x, "norm")[0 if shifted else 1 :]
        head = weights.get("lm_head.weight", model.get_output_embeddings().weight)
        return hidden, hidden @ head.T


def drafter_of(name, model):
    config = CONFIGS[name]
    weights = tiny_drafters.random_weights(config)
    target = Target(_copy(model))
    return HiddenStateDrafter(read_shape(config, "tiny"), weights, target), weights, target


def _copy(model):
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def drafted(drafter, target, prefix, k, chunks=(5,)):
    cache = target.new_cache(drafter.hidden_entries)
    target.prefill(cache, prefix[: chunks[0]])
    for start, end in zip(chunks, [*chunks[1:], len(prefix) - 1], strict=True):
        target.forward(cache, prefix[start:end])
    with torch.inference_mode():
        return drafter.logits(prefix, [MASKED] * k, cache), cache


@pytest.mark.parametrize("name", CONFIGS)
def test_the_draft_is_that_of_the_forward_written_out(model, name):
    drafter, weights, target = drafter_of(name, model)
    for k in (drafter.max_block, 3):
        made, cache = drafted(drafter, target, PREFIX, k)
        hidden, expected = reference(CONFIGS[name], weights, model, PREFIX, k)
        shown = [i for i in range(expected.shape[1]) if expected.shape[1] < VOCAB or i != MASK]
        scale = float(expected.abs().max())
        torch.testing.assert_close(made[:, shown] / scale, expected[:, shown] / scale, rtol=0, atol=1e-5)
        assert made[:, shown].argmax(-1).tolist() == expected[:, shown].argmax(-1).tolist()
        kept = cache.hidden.derived[drafter, "draft"].rows
        torch.testing.assert_close(kept, hidden, rtol=1e-3, atol=1e-3)


GRID = [
    dict(search="cps", proxy="learned", beam=3),
    dict(search="tree", nodes=9, proxy="learned", copy=1),
    dict(search="exact", proxy="context"),
    dict(search="tree", length="throughput", nodes=12, proxy="context"),
    dict(search="argmax", length="fixed", k=4),
    dict(search="cps", proxy="learned", lam=0.0, beam=1, length="failfast"),
    dict(search="cps", proxy="none", passes=3),
    dict(search="exact", proxy="learned"),
    dict(search="tree", proxy="learned", length="predicted", confidence=0.4, nodes=6),
    dict(search="cps", proxy="learned", temperature=0.7, rule="sampled-search"),
]


def chosen(pair, asked):
    asked = dict(asked)
    if asked.get("proxy") == "learned":
        recurrent = pair.drafter.recurrent and asked["search"] == "exact"
        asked["proxy"] = "context" if recurrent else pair.drafter.following or "none"
    if asked.get("length") == "predicted" and not pair.drafter.predicts_acceptance:
        asked["length"] = "confidence"
    return pair.settings.replace(k_min=2, **asked)


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "qwen3") for name in CONFIGS), ("dflash-sliding", "llama"), ("dspark", "llama")]
)
def test_every_search_and_length_gives_the_targets_own_answer(pairs, name, kind):
    pair = pairs(kind, name)
    for i, asked in enumerate(GRID):
        settings = chosen(pair, asked)
        trace = DiffuSpec(pair, settings).run(ids=PREFIX[i % 3 :], max_new_tokens=9)
        if not settings.temperature:
            assert compare_with_ar(pair, trace).difference is None, asked
        assert trace.pair.drafter_kind == "hidden-state" and any(step.lattice.k for step in trace.steps)
        assert all(len(step.lattice.ids) <= pair.drafter.max_block for step in trace.steps)


def test_a_trace_of_learned_terms_is_saved_read_and_searched_again(pairs, tmp_path):
    from diffuspec.trace.whatif import proxies, search_again

    pair = pairs("qwen3", "dspark")
    trace = DiffuSpec(pair, pair.settings.replace(proxy="markov", length="predicted")).run(ids=PREFIX, max_new_tokens=8)
    trace.save(tmp_path / "run.json.gz")
    again = Trace.load(tmp_path / "run.json.gz")
    assert again.settings.proxy == "markov" and again.settings.length == "predicted"
    assert set(proxies(again)) == {"context", "none"}
    found = search_again(again, 0, again.settings.replace(proxy="none", search="exact"))
    assert len(found.search) == again.steps[0].lattice.k
    with pytest.raises(SettingsError, match="what it learned of the order of tokens is not here"):
        search_again(again, 0, again.settings)


@pytest.mark.parametrize("name", ["dflash2", "dspark", "dspark-gated", "dspark-rnn", "speculators-dspark"])
def test_a_greedy_search_by_the_learned_term_alone_is_the_drafters_own_walk(model, name):
    """With lam = 0 and one path kept, CPS walks as the packages do: the best of logits + term, token by token."""
    from diffuspec.method.lattice import prune
    from diffuspec.method.search import beam_search, exact_search, sample_path

    drafter, weights, target = drafter_of(name, model)
    k, width = drafter.max_block, 9
    cache = target.new_cache(drafter.hidden_entries)
    target.prefill(cache, PREFIX[:-1])
    ids, logq = drafter.draft(PREFIX, k, width=width, passes=1, cache=cache)
    walk, scores = own_walk(CONFIGS[name], weights, model, k, ids, drafter)
    proxy = drafter.follow(cache, PREFIX[-1], ids, logq)
    assert proxy.walk() == walk
    lattice = prune(ids, logq, tau=1.0, m_max=width, stop_ids=())
    found = beam_search(lattice, proxy, PREFIX, beam=1, lam=0.0, stop_ids=())
    assert found.ids.tolist() == walk
    for i, (path, expected) in enumerate(zip(found.ranks, scores, strict=True)):
        p = expected.softmax(-1)
        assert found.proxy_logp[i, path] == pytest.approx(float(p[path].log()), abs=1e-3)
    if not drafter.recurrent:
        best = exact_search(lattice, proxy, PREFIX, lam=0.5, stop_ids=())
        wide = beam_search(lattice, proxy, PREFIX, beam=200, lam=0.5, stop_ids=())
        assert best.score[-1] >= wide.score[-1] - 1e-4
    drawn = sample_path(lattice, proxy, PREFIX, lam=0.5, stop_ids=(), random=np.random.default_rng(0))
    assert len(drawn) == k and np.allclose(drawn.proposal.sum(1), 1.0, atol=1e-5)


def own_walk(config, weights, model, k, ids, drafter):
    """The path token by token over the lattice's cells, by the formulas of the heads; and the scores of each column."""
    hidden, logits = reference(config, weights, model, PREFIX, k)
    previous, walk, scores = PREFIX[-1], [], []
    rank = weights["markov_head.markov_w1.weight"].shape[1] if "markov_head.markov_w1.weight" in weights else 0
    state = torch.zeros(rank)
    for i in range(k):
        cells = torch.from_numpy(ids[i].astype(np.int64))
        if rank:
            offsets = weights.get("d2t", torch.zeros(VOCAB, dtype=torch.long))
            columns = [(torch.arange(len(offsets)) + offsets).tolist().index(token) for token in cells.tolist()]
            e = weights["markov_head.markov_w1.weight"][previous]
            kind = config["markov_head_type"]
            if kind == "gated":
                name = "markov_head.gate_proj"
                e = torch.sigmoid(weights[f"{name}.weight"] @ torch.cat([hidden[i], e]) + weights[f"{name}.bias"]) * e
            elif kind == "rnn":
                name = "markov_head.joint_proj"
                z = weights[f"{name}.weight"] @ torch.cat([state, e, hidden[i]]) + weights[f"{name}.bias"]
                gate, candidate, out = z[:rank], z[rank : 2 * rank], z[2 * rank :]
                state = gate.sigmoid() * state + (1 - gate.sigmoid()) * candidate.tanh()
                e = out.tanh()
            score = logits[i, columns] + weights["markov_head.markov_w2.weight"][columns] @ e
        else:
            at = "candidate_selector."
            before = weights[f"{at}predecessor_codebook.weight"][previous]
            here = weights[f"{at}hidden_projection.weight"] @ hidden[i]
            score = logits[i, cells] + weights[f"{at}successor_codebook.weight"][cells] @ (before * here)
        scores.append(score)
        previous = int(cells[score.argmax()])
        walk.append(previous)
    return walk, scores


def test_the_expected_acceptance_is_that_of_the_confidence_head(model):
    drafter, weights, target = drafter_of("dspark", model)
    cache = target.new_cache(drafter.hidden_entries)
    target.prefill(cache, PREFIX[:-1])
    ids, logq = drafter.draft(PREFIX, BLOCK, width=9, passes=1, cache=cache)
    walk, _ = own_walk(CONFIGS["dspark"], weights, model, BLOCK, ids, drafter)
    hidden, _ = reference(CONFIGS["dspark"], weights, model, PREFIX, BLOCK)
    before = weights["markov_head.markov_w1.weight"][[PREFIX[-1], *walk[:-1]]]
    expected = torch.cat([hidden, before], 1) @ weights["confidence_head.proj.weight"][0]
    expected = (expected + weights["confidence_head.proj.bias"]).sigmoid()
    assert drafter.acceptance(cache, PREFIX[-1], ids, logq) == pytest.approx(expected.numpy(), abs=1e-3)


def test_layers_of_zlab_and_entries_of_speculators_mean_the_same_states():
    """[1, 3, 6] of z-lab are [2, 4, 7] of speculators; a mix-up would only show as less acceptance."""
    assert read_shape(zlab(), "").entries == read_shape(speculators("dflash"), "").entries == (2, 4, 7)
    with_embedding = read_shape(deepspec(target_layer_ids=[-1, 3, 6]), "")
    assert with_embedding.entries == (0, 4, 7)
    named = zlab()
    del named["dflash_config"]["target_layer_ids"]
    assert read_shape({**named, "num_target_layers": 36, "num_hidden_layers": 5}, "").entries == (2, 10, 18, 26, 34)


# A published config.json of SpecForge for Qwen3-32B, its fields of the drafter kept; and z-lab's of Qwen3.5 and later.
def test_published_configs_are_read():
    published = {
        "architectures": ["DFlashDraftModel"],
        "block_size": 16,
        "head_dim": 128,
        "hidden_act": "silu",
        "dflash_config": {"mask_token_id": 151669, "target_layer_ids": [1, 8, 14, 21, 28, 34, 41, 48, 54, 61]},
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "layer_types": ["full_attention"] * 10,
        "max_position_embeddings": 40960,
        "model_type": "qwen3",
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "num_hidden_layers": 10,
        "num_target_layers": 64,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 151936,
    }
    shape = read_shape(published, "")
    assert (shape.kind, shape.max_block, shape.mask_id, shape.shifted) == ("dflash", 15, 151669, False)
    assert shape.entries[-1] == 62 and shape.stack["rope_theta"] == 1000000
    later = {**published, "dflash_config": {**published["dflash_config"], "block_size": 8}}
    del later["block_size"]
    assert read_shape(later, "").max_block == 7
    radix = {
        **published,
        "architectures": ["DSparkDraftModel"],
        "block_size": 7,
        "markov_rank": 256,
        "enable_confidence_head": True,
        "confidence_head_with_markov": True,
    }
    shape = read_shape(radix, "")
    assert (shape.kind, shape.max_block, shape.markov, shape.confidence) == ("dspark", 7, (256, "vanilla"), True)


def test_the_window_of_a_layer():
    from diffuspec.models.dflash.formats import LayerAttention
    from diffuspec.models.dflash.network import _visible

    assert _visible(LayerAttention(), 5, 3, "cpu") is None
    by_row = _visible(LayerAttention(True, 3), 5, 3, "cpu").int().tolist()
    assert by_row == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1]]
    from_anchor = _visible(LayerAttention(False, 3, True), 5, 3, "cpu").int().tolist()
    assert from_anchor == [[0, 0, 1, 1, 1, 1, 1, 1]] * 3


def test_a_folder_that_says_qwen3_is_never_loaded_as_a_causal_model(folders):
    assert json.loads((folders / "dflash" / "config.json").read_text())["model_type"] == "qwen3"
    assert is_hidden_state_drafter(folders / "dflash") and not is_hidden_state_drafter(folders / "qwen3")
    pair = load_pair(target=str(folders / "qwen3"), drafter=str(folders / "dflash"))
    assert isinstance(pair.drafter, HiddenStateDrafter) and pair.info.max_draft == BLOCK - 1
    assert pair.settings.k_max == BLOCK - 1


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        (zlab(), lambda w: w.pop("layers.1.mlp.up_proj.weight"), "lacks layers.1.mlp.up_proj.weight"),
        (
            zlab(),
            lambda w: w.update({"layers.9.x": torch.zeros(1), "y": torch.zeros(1)}),
            "also holds layers.9.*1 more",
        ),
        (
            zlab(),
            lambda w: w.update({"fc.weight": torch.zeros(32, 64)}),
            r"fc.weight of \[32, 64\].*asks for \[32, 96\]",
        ),
        (zlab("dflash2"), lambda w: w.pop("candidate_selector.hidden_projection.weight"), "lacks candidate_selector"),
        (deepspec(), lambda w: w.pop("confidence_head.proj.bias"), "lacks confidence_head.proj.bias"),
        (
            deepspec(enable_confidence_head=False),
            lambda w: w.update({"confidence_head.proj.bias": torch.zeros(1)}),
            "also holds",
        ),
        (zlab(num_target_layers=36), None, "made for a target of 36 layers; this one has 8"),
        (speculators("dflash", aux_hidden_state_layer_ids=[2, 4, 9]), None, "reads entry 9 .* 0 to 8"),
        (
            zlab(dflash_config={"mask_token_id": 9999, "target_layer_ids": IDS}),
            None,
            "mask id 9999 .* vocabulary of 264",
        ),
        (zlab(hidden_size=64), None, "hidden size 64; this one's is 32"),
        (zlab(block_size=1), None, "no position is left"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(folders, tmp_path, config, change, said):
    weights = tiny_drafters.random_weights(config)
    if change:
        change(weights)
    folder = tiny_drafters.write(tmp_path / "drafter", config, weights)
    with pytest.raises(PairError, match=said):
        load_hidden_state_drafter(folder, Target(tiny_drafters.target_model()))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (zlab(dflash_config={"target_layer_ids": IDS}), "no mask_token_id"),
        (speculators("dflash", aux_hidden_state_layer_ids=None), "no aux_hidden_state_layer_ids"),
        ({**speculators("dflash"), "speculators_model_type": "eagle3"}, "'eagle3', which does not fill masks"),
        (zlab(architectures=["Gemma4DSparkModel"]), "Gemma4DSparkModel, which is not supported"),
        (zlab(is_neox_style=False), "sets is_neox_style"),
        (zlab(hidden_act="gelu"), "'gelu': only silu"),
        ({"dflash_config": {"mask_token_id": 4}}, "incomplete or damaged: KeyError"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(config, said):
    with pytest.raises(PairError, match=said):
        read_shape(config, "some/drafter")


def test_a_folder_without_weights_is_a_weights_error(folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(zlab()))
    for damage in (None, b"no weights"):
        if damage:
            (tmp_path / "model.safetensors").write_bytes(damage)
        with pytest.raises(WeightsError, match="could not be loaded"):
            load_pair(target=str(folders / "qwen3"), drafter=str(tmp_path))


def test_learned_terms_that_a_drafter_lacks_are_refused(pairs):
    for name, changes, said in (
        ("dflash", dict(proxy="markov"), "proxy = markov is not possible .* learned none"),
        ("dflash2", dict(proxy="markov"), "choose selector"),
        ("dspark", dict(proxy="selector"), "choose markov"),
        ("dflash", dict(length="predicted"), "length = predicted is not possible"),
        ("dspark-rnn", dict(proxy="markov", search="exact"), "looks back over the whole draft"),
    ):
        pair = pairs("qwen3", name)
        with pytest.raises(SettingsError, match=said):
            DiffuSpec(pair, pair.settings.replace(**changes))
    DiffuSpec(pairs("qwen3", "dflash"), pairs("qwen3", "dflash").settings.replace(proxy="markov", search="argmax"))


def test_an_8_bit_target_is_refused(folders):
    with pytest.raises(PairError, match="choose the dtype float32 or bfloat16"):
        load_pair(target=str(folders / "llama"), drafter=str(folders / "dflash"), dtype="int8")


def test_two_runs_at_once_do_not_disturb_each_other(pairs):
    pair = pairs("qwen3", "dspark")
    settings = pair.settings.replace(proxy="markov")
    alone = [DiffuSpec(pair, settings).run(ids=ids, max_new_tokens=10).token_ids for ids in (PREFIX, PREFIX[3:])]
    runs = [DiffuSpec(pair, settings).stream(ids=ids, max_new_tokens=10) for ids in (PREFIX, PREFIX[3:])]
    for _ in range(20):
        for run in runs:
            next(run, None)
    assert [run.trace.token_ids for run in runs] == alone
