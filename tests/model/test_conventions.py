"""Standalone drafters: each family is read as its authors meant it, on tiny checkpoints saved here."""

from __future__ import annotations

import argparse
import json
import math
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from diffuspec import DiffuSpec, Settings, load_pair
from diffuspec.cli.options import add_pair, asked_pair
from diffuspec.errors import PairError, WeightsError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.drafter import MASKED, Convention, StandaloneDrafter
from diffuspec.models.pair import OWN_NGRAM
from diffuspec.training.ngram import fit

SHAPE = dict(
    vocab_size=272,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=96,
    tie_word_embeddings=False,
    initializer_range=0.25,
)
PREFIX = [20, 30, 40, 50, 60, 70, 80]
MASK = 270


def save(folder, network, config, model_type=None):
    torch.manual_seed(5)
    model = network(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(".bias"):
                tensor.normal_(0, 0.2)
    model.save_pretrained(folder)
    if model_type:
        path = folder / "config.json"
        changed = {
            **json.loads(path.read_text()),
            "model_type": model_type,
            "architectures": [model_type + "Model"],
            "auto_map": {"AutoModel": "modeling.Some"},
        }
        path.write_text(json.dumps(changed))
    return model


def by_hand(model, ids, see) -> torch.Tensor:
    """Llama, Qwen2 (biases) and Qwen3 (norms of each head) in plain arithmetic: logits [n, V]. see(i, j): whether row i
    may look at column j."""
    state, config = {k: v.detach() for k, v in model.state_dict().items()}, model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size, n = getattr(config, "head_dim", None) or config.hidden_size // heads, len(ids)
    theta = config.rope_parameters["rope_theta"]
    angles = torch.arange(n)[:, None] * theta ** (-torch.arange(0, size, 2) / size)[None]
    cos, sin = angles.cos(), angles.sin()

    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    def turn(x):
        a, b = x[:, : size // 2], x[:, size // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], 1)

    visible = torch.tensor([[see(i, j) for j in range(n)] for i in range(n)])
    x = state["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        h = norm(x, state[at + "input_layernorm.weight"])
        q, k, v = (
            h @ state[f"{at}self_attn.{p}_proj.weight"].T + state.get(f"{at}self_attn.{p}_proj.bias", 0.0)
            for p in "qkv"
        )
        norms = [state.get(f"{at}self_attn.{p}_norm.weight") for p in "qk"]

        def part(x, number, scale):
            mine = x[:, number * size : (number + 1) * size]
            return turn(mine if scale is None else norm(mine, scale))

        seen = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            query, key = part(q, head, norms[0]), part(k, group, norms[1])
            score = (query @ key.T / math.sqrt(size)).masked_fill(~visible, -torch.inf)
            seen.append(score.softmax(-1) @ v[:, group * size : (group + 1) * size])
        x = x + torch.cat(seen, 1) @ state[at + "self_attn.o_proj.weight"].T
        h = norm(x, state[at + "post_attention_layernorm.weight"])
        gate, up = h @ state[at + "mlp.gate_proj.weight"].T, h @ state[at + "mlp.up_proj.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ state[at + "mlp.down_proj.weight"].T
    return norm(x, state["model.norm.weight"]) @ state["lm_head.weight"].T


@pytest.fixture(scope="module")
def dream(tmp_path_factory):
    """Dream's disguise: Qwen2's weights, a model type that transformers does not know."""
    folder = tmp_path_factory.mktemp("dream")
    return folder, save(folder, Qwen2ForCausalLM, Qwen2Config(**SHAPE), model_type="Dream")


def load(tiny_folder, folder, convention):
    return load_pair(target=str(tiny_folder), drafter=str(folder), convention=convention)


@torch.inference_mode()
def drafted(pair, prefix, block):
    return pair.drafter.logits(prefix, block, None)


@pytest.mark.parametrize("block", [[MASKED] * 5, [MASKED, 33, MASKED, 44], [MASKED]])
@pytest.mark.parametrize("shifted", [True, False])
def test_dream_attends_both_ways_and_is_read_one_row_earlier(tiny_folder, dream, block, shifted):
    folder, model = dream
    pair = load(tiny_folder, folder, Convention(MASK, shifted=shifted, layout="qwen2"))
    ids = [*PREFIX, *(MASK if token == MASKED else token for token in block)]
    expected = by_hand(model, ids, see=lambda i, j: True)
    first = len(PREFIX) - shifted
    made = drafted(pair, PREFIX, block)
    assert made.shape == (len(block), 264), "the rows end with the target's vocabulary"
    torch.testing.assert_close(made, expected[first : first + len(block), :264], rtol=1e-3, atol=1e-3)


def test_block_causal_attention_is_as_by_hand(tiny_folder, dream):
    folder, model = dream
    convention = Convention(MASK, attention="block-causal", block=4, shifted=True, layout="qwen2")
    made = drafted(load(tiny_folder, folder, convention), PREFIX, [MASKED] * 6)
    expected = by_hand(model, [*PREFIX, *[MASK] * 6], see=lambda i, j: j // 4 <= i // 4)
    torch.testing.assert_close(made, expected[6:12, :264], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("changed_at", "rows_that_move"), [(9, {0, 1, 2, 3, 4, 5}), (4, {0, 1, 2, 3, 4, 5})])
def test_full_attention_reads_every_position(tiny_folder, dream, changed_at, rows_that_move):
    pair = load(tiny_folder, dream[0], Convention(MASK, layout="qwen2"))
    assert moved_rows(pair, changed_at) == rows_that_move


# Blocks of 4 from the start of the text: positions 7 | 8 .. 11 | 12 hold rows 0 | 1 .. 4 | 5 of the draft.
@pytest.mark.parametrize(("changed_at", "rows_that_move"), [(12, {5}), (9, {1, 2, 3, 4, 5}), (2, {0, 1, 2, 3, 4, 5})])
def test_a_later_block_is_not_seen_by_an_earlier_one(tiny_folder, dream, changed_at, rows_that_move):
    pair = load(tiny_folder, dream[0], Convention(MASK, attention="block-causal", block=4, layout="qwen2"))
    assert moved_rows(pair, changed_at) == rows_that_move


def moved_rows(pair, changed_at):
    prefix, block = list(PREFIX), [MASKED] * 6
    before = drafted(pair, prefix, block)
    if changed_at < len(prefix):
        prefix[changed_at] = 111
    else:
        block[changed_at - len(prefix)] = 111
    after = drafted(pair, prefix, block)
    return {i for i in range(6) if not torch.allclose(before[i], after[i], rtol=1e-5, atol=1e-5)}


FAMILIES = {
    # name: (network, its config's class, model_type of the checkpoint, what its config.json says, see, shifted)
    "dream": (Qwen2ForCausalLM, Qwen2Config, "Dream", {}, lambda i, j: True, True),
    "fast-dllm": (
        Qwen2ForCausalLM,
        Qwen2Config,
        "Fast_dLLM_Qwen",
        {"bd_size": 4},
        lambda i, j: j // 4 <= i // 4,
        True,
    ),
    "sdar": (Qwen3ForCausalLM, Qwen3Config, "sdar", {"block_size": 4}, lambda i, j: j // 4 <= i // 4, False),
    "mdlm": (Qwen3ForCausalLM, Qwen3Config, "a2d-qwen3", {}, lambda i, j: True, False),
}


@pytest.mark.parametrize("block", [[MASKED] * 6, [MASKED, 33, MASKED, 44, MASKED]])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_drafts_as_its_forward_written_out_says(tiny_folder, tmp_path, family, block):
    """Known by its config.json alone; DiffuCoder is a Dream."""
    network, config, kind, said, see, shifted = FAMILIES[family]
    more = {"head_dim": 8} if config is Qwen3Config else {}
    model = save(tmp_path, network, config(**SHAPE, **more), model_type=kind)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mask_token_id": MASK, **said}))
    made = drafted(load_pair(target=str(tiny_folder), drafter=str(tmp_path)), PREFIX, block)
    ids = [*PREFIX, *(MASK if token == MASKED else token for token in block)]
    expected = by_hand(model, ids, see)
    first = len(PREFIX) - shifted
    torch.testing.assert_close(made, expected[first : first + len(block), :264], rtol=1e-3, atol=1e-3)
    assert (made.argmax(1) == expected[first : first + len(block), :264].argmax(1)).all()


def test_sdar_is_read_as_its_own_loop_reads_it(tiny_folder, tmp_path):
    """Its loop puts whole blocks of the text into a cache, then denoises one block of masks after another, the first
    of which begins with what is left of the text: a later block sees the masks of the one before."""
    model = save(tmp_path, Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=8))
    pair = load(tiny_folder, tmp_path, Convention(MASK, attention="block-causal", block=4))
    ids = [*PREFIX, *[MASK] * 5]
    with torch.inference_mode():
        cache = model(torch.tensor([ids[:4]]), attention_mask=torch.zeros(1, 1, 4, 4)).past_key_values
        rows = []
        for start in (4, 8):
            out = model(
                torch.tensor([ids[start : start + 4]]),
                attention_mask=torch.zeros(1, 1, 4, start + 4),
                position_ids=torch.arange(start, start + 4)[None],
                past_key_values=cache,
            )
            rows.append(out.logits[0])
    torch.testing.assert_close(drafted(pair, PREFIX, [MASKED] * 5), torch.cat(rows)[3:, :264], rtol=1e-3, atol=1e-3)


def test_llada_like_models_are_not_shifted_and_load_by_their_own_type(tiny_folder, tmp_path):
    model = save(tmp_path, LlamaForCausalLM, LlamaConfig(**SHAPE, head_dim=8))
    made = drafted(load(tiny_folder, tmp_path, Convention(MASK)), PREFIX, [MASKED] * 4)
    expected = by_hand(model, [*PREFIX, *[MASK] * 4], see=lambda i, j: True)[7:11, :264]
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)
    assert (made.argmax(1) == expected.argmax(1)).all()


def test_the_mask_may_be_a_word_and_is_never_drafted(tiny_folder, tiny, tmp_path):
    save(tmp_path, Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=8), model_type="a2d-qwen3")
    tiny.tokenizer().save_pretrained(tmp_path)
    pair = load(tiny_folder, tmp_path, Convention("<mask>", layout="qwen3"))
    assert pair.drafter.mask_id == 4
    assert (drafted(pair, PREFIX, [MASKED] * 5)[:, 4] == -torch.inf).all()
    ids, logq = pair.drafter.draft(PREFIX, 5, width=200, passes=1, cache=None)
    assert 4 not in ids and ((logq <= 0) & (logq > -1e9)).all()


def test_a_long_text_is_cut_to_the_drafters_own_context(tiny_folder, dream):
    """The target holds 512 tokens, this drafter 96: it reads the newest."""
    pair = load(tiny_folder, dream[0], Convention(MASK, shifted=True, layout="qwen2", context=20))
    long = [*range(100, 140), *PREFIX]
    torch.testing.assert_close(drafted(pair, long, [MASKED] * 5), drafted(pair, long[-15:], [MASKED] * 5))


@pytest.mark.parametrize(
    "convention",
    [
        Convention(MASK, shifted=True, layout="qwen2"),
        Convention(MASK, layout="qwen2"),
        Convention(MASK, attention="block-causal", block=4, layout="qwen2"),
        Convention(MASK, shifted=True, layout="qwen2", context=16),
    ],
    ids=["shifted", "unshifted", "block-causal", "small context"],
)
def test_whatever_the_convention_the_answer_is_the_targets(tiny_folder, tiny_model, dream, plain_greedy, convention):
    pair = load(tiny_folder, dream[0], convention)
    trace = DiffuSpec(pair, Settings(proxy="context", passes=2)).run(ids=PREFIX, max_new_tokens=16)
    assert list(trace.token_ids) == plain_greedy(tiny_model, PREFIX, 16)
    assert compare_with_ar(pair, trace).difference is None
    assert trace.pair.drafter_kind == "standalone"


@pytest.mark.parametrize("mask", [272, -1, 10**9])
def test_a_mask_outside_the_vocabulary_is_a_pair_error(tiny_folder, dream, mask):
    with pytest.raises(PairError, match="outside the drafter's vocabulary of 272"):
        load(tiny_folder, dream[0], Convention(mask, layout="qwen2"))


def test_a_mask_word_the_tokenizer_lacks_is_a_pair_error(tiny_folder):
    with pytest.raises(PairError, match="no token '<nope>'"):
        load(tiny_folder, tiny_folder, Convention("<nope>"))


def test_a_known_family_in_a_folder_is_read_as_its_own_configuration_says(tiny_folder, dream):
    """Downloaded beforehand, or a fine-tune: no Hub id tells what it is."""
    path = dream[0] / "config.json"
    before = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(before), "mask_token_id": MASK}))
        pair = load_pair(target=str(tiny_folder), drafter=str(dream[0]))
    finally:
        path.write_text(before)
    assert pair.drafter.convention == Convention(MASK, shifted=True, layout="qwen2", context=2048)
    by_hand = load(tiny_folder, dream[0], Convention(MASK, shifted=True, layout="qwen2"))
    torch.testing.assert_close(drafted(pair, PREFIX, [MASKED] * 4), drafted(by_hand, PREFIX, [MASKED] * 4))
    assert load(tiny_folder, dream[0], Convention(MASK, shifted=True)).drafter.convention.layout == "qwen2"


def test_options_of_a_drafter_are_refused_with_the_embedded_pair():
    with pytest.raises(PairError, match="read in one way only"):
        load_pair(convention=Convention(MASK))


def test_what_is_not_known_is_a_pair_error(tiny_folder, tmp_path):
    folder = str(tiny_folder)
    strange = tmp_path / "strange"
    save(strange, Qwen2ForCausalLM, Qwen2Config(**SHAPE), "Strange")
    for arguments, said in (
        (dict(target=folder, drafter=folder), "How to read the drafter"),
        (dict(target=folder), "both a target and a drafter"),
        (dict(drafter=folder), "both a target and a drafter"),
        (dict(name="embedded", target=folder, drafter=folder), "either the name"),
        (dict(name="no-such-pair"), "Unknown pair 'no-such-pair'. Known pairs: embedded"),
        (dict(dtype="float16"), "Unknown dtype 'float16'"),
        (dict(device="toaster"), "Unknown device 'toaster'"),
        (dict(target=folder, drafter=str(strange), convention=Convention(MASK)), "unknown type 'Strange'.*--layout"),
        (dict(target=folder, drafter=folder, convention=Convention(4, attention="causal")), "Unknown attention"),
    ):
        with pytest.raises(PairError, match=said):
            load_pair(**arguments)


def test_a_target_without_a_tokenizer_is_refused_and_a_drafter_without_one_is_not(tiny_folder, tmp_path):
    """transformers makes an empty tokenizer of the model's type for a folder that holds none."""
    save(tmp_path, Qwen3ForCausalLM, Qwen3Config(**SHAPE, head_dim=8))
    assert load(tiny_folder, tmp_path, Convention(MASK)).drafter.max_block
    with pytest.raises(WeightsError, match="holds no tokenizer: put the files"):
        load_pair(target=str(tmp_path), drafter=str(tmp_path), convention=Convention(MASK))


def test_a_folder_that_is_not_there_is_told_as_that(tiny_folder):
    with pytest.raises(WeightsError, match="/no/such/place could not be loaded: it is no folder here and no Hub id"):
        load_pair(target="/no/such/place", drafter=str(tiny_folder), convention=Convention(4))


def test_a_folder_that_holds_no_model_is_a_weights_error(tiny_folder, tmp_path):
    for target, drafter in ((tmp_path, tiny_folder), (tiny_folder, tmp_path)):
        with pytest.raises(WeightsError, match="could not be loaded"):
            load_pair(target=str(target), drafter=str(drafter), convention=Convention(4))


def test_a_known_family_in_a_folder_needs_no_options(tiny_folder, dream, tmp_path):
    """Knowledge belongs to the checkpoint's config, wherever it lies; what is said comes before it."""
    folder = shutil.copytree(dream[0], tmp_path / "any-name")
    config = json.loads((folder / "config.json").read_text()) | {"mask_token_id": MASK}
    (folder / "config.json").write_text(json.dumps(config))
    known = load_pair(target=str(tiny_folder), drafter=str(folder)).drafter
    assert (known.mask_id, known.convention.shifted, known.convention.layout) == (MASK, True, "qwen2")
    said = load_pair(target=str(tiny_folder), drafter=str(folder), convention=dict(shifted=False, mask_token=9)).drafter
    assert (said.mask_id, said.convention.shifted, said.convention.layout) == (9, False, "qwen2")


def test_layout_is_an_option_of_the_command_line(tiny_folder, dream, tmp_path):
    folder = shutil.copytree(dream[0], tmp_path / "own")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "Own"}
    (folder / "config.json").write_text(json.dumps(config))
    parser = argparse.ArgumentParser()
    add_pair(parser)
    words = ["--target", str(tiny_folder), "--drafter", str(folder), "--mask-token", "9"]
    with pytest.raises(PairError, match="unknown type 'Own'.*--layout"):
        load_pair(**asked_pair(parser.parse_args(words)))
    pair = load_pair(**asked_pair(parser.parse_args([*words, "--layout", "qwen2", "--no-shifted"])))
    assert pair.drafter.convention == Convention(9, layout="qwen2")


@pytest.mark.parametrize("name", ["embedded", "coder"])
def test_options_of_other_pairs_are_not_ignored(name):
    with pytest.raises(PairError, match=f"The pair {name} is read in one way only"):
        load_pair(name, convention=dict(shifted=True))


def test_a_gguf_alone_takes_no_options_of_a_drafter():
    with pytest.raises(PairError, match="no drafter to be read"):
        load_pair(target="some.gguf", convention=dict(shifted=True))


def test_without_a_fitted_ngram_the_defaults_work_and_say_what_they_do(tiny_folder):
    pair = load_pair(target=str(tiny_folder), drafter=str(tiny_folder), convention=Convention("<mask>", shifted=True))
    for settings in (Settings(), Settings.paper()):
        engine = DiffuSpec(pair, settings)
        assert "no fitted n-gram" in engine.note and "--ngram" in engine.note
        trace = engine.run(ids=PREFIX, max_new_tokens=8)
        assert trace.settings.proxy == "context"
    assert DiffuSpec(pair, Settings(proxy="context")).note is None


def test_an_ngram_of_ones_own_is_attached(tiny_folder, tmp_path):
    pieces = [[20, 30, 40, 50] * 3 for _ in range(4)]
    fit(pieces, 264, (2, 3)).save(tmp_path / "own.npz")
    options = dict(target=str(tiny_folder), drafter=str(tiny_folder), convention=Convention("<mask>", shifted=True))
    pair = load_pair(**options, ngram=tmp_path / "own.npz")
    engine = DiffuSpec(pair, Settings())
    trace = engine.run(ids=PREFIX, max_new_tokens=8)
    assert engine.note is None and trace.settings.proxy == "ngram+context" and trace.pair.ngram == OWN_NGRAM
    fit([[20, 30]], 100, (2, 3)).save(tmp_path / "small.npz")
    with pytest.raises(PairError, match="made for 100 token ids, and .* has 264"):
        load_pair(**options, ngram=tmp_path / "small.npz")
    with pytest.raises(WeightsError, match="There is no n-gram table"):
        load_pair(**options, ngram=tmp_path / "nowhere.npz")


def test_the_drafter_needs_room_for_one_token_of_text(dream):
    assert StandaloneDrafter(dream[1], MASK, Convention(MASK, context=20), 264).max_block == 19
