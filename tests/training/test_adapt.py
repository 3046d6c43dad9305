"""The training loop on a tiny target: what it learns, what it writes, and that a kill changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from diffuspec.errors import DiffuSpecError, WeightsError
from diffuspec.models.drafter import MASKED, Convention, StandaloneDrafter, load_block_drafter, pack_folder
from diffuspec.models.target import Target
from diffuspec.training import adapt, blocks, caches
from diffuspec.training.data import Conversation, DataFolder
from diffuspec.training.network import DrafterNetwork, export, spread_layers
from diffuspec.training.prompts import Answer, Prompt, Say
from diffuspec.training.slots import StockSlots, grouped_attention
from diffuspec.training.synthesis import Synthesis
from tests.fakes.tiny import qwen

STOPS = frozenset((1, 3))
LAYERS = (0, 2)


@pytest.fixture(scope="module")
def conversations(tiny):
    prompts = [
        Prompt(i, ("mt", "qa")[i % 2], (Say("abcdef"[: 1 + i % 6] * (i % 3 + 1)), Answer(24))) for i in range(60)
    ]
    return list(Synthesis(StockSlots(tiny.model(), 8, 128), tiny.tokenizer(), STOPS, keep_layers=LAYERS).run(prompts))


def network(tiny, kind="target-conditioned"):
    return DrafterNetwork(tiny.model(), LAYERS, torch.arange(0, 264), kind)


RECIPE = adapt.Recipe(steps=12, conversations=4, anchors=2, warmup=2, lr=2e-3, seed=3)


def cut(conversations, **changes):
    options = {"blocks": 3, "length": 8, "stop_ids": STOPS, "eos": 3, "key_heads": 2} | changes
    return blocks.cut(conversations, np.random.default_rng(5), **options)


def test_rows_are_asked_for_the_tokens_that_follow(conversations):
    batch = cut(conversations[:6], filled=0.0)
    at = 0
    for c, conversation in enumerate(conversations[:6]):
        ids = conversation.ids.tolist()
        for row in range(24):
            anchor, i = int(batch.positions[c, row - row % 8]), row % 8
            assert int(batch.positions[c, row]) == anchor + i
            assert int(batch.inputs[c, row]) == (ids[anchor] if i == 0 else blocks.MASK)
            following = anchor + 1 + i
            answer = next((s, e) for s, e in conversation.spans if s <= anchor + 1 < e)
            if following < answer[1]:
                assert int(batch.targets[at]) == ids[following] == int(batch.soft_ids[at, 0])
            elif ids[answer[1] - 1] in STOPS:
                assert int(batch.targets[at]) == 3
            else:
                assert not batch.supervised[c, row]
                continue
            assert batch.supervised[c, row] and int(batch.depth[at]) == i
            at += 1
    assert at == len(batch.targets)


def test_no_row_is_asked_for_what_it_can_see(conversations):
    batch = cut(conversations[:8], filled=1.0)
    shown = (batch.inputs != blocks.MASK) & (torch.arange(24) % 8 != 0)
    assert shown.any()
    assert not batch.supervised[:, :-1][shown[:, 1:]].any()
    for c, row in shown.nonzero().tolist():
        assert int(batch.inputs[c, row]) == conversations[c].ids[int(batch.positions[c, row])]


@pytest.mark.parametrize("kind", ["target-conditioned", "standalone"])
def test_a_block_sees_its_own_prefix_and_itself_alone(tiny, conversations, kind):
    """Another token after the anchor, or in another block, changes nothing."""
    net = network(tiny, kind)
    two = conversations[:2]
    batch = cut(two, filled=0.0)
    logits = net(batch)
    changed = dataclasses.replace(
        batch, text=batch.text.clone(), prefix=batch.prefix.clone(), inputs=batch.inputs.clone()
    )
    anchor = int(batch.positions[0, 0])
    changed.text[0, anchor:] = 7
    changed.prefix[0, :, :, :, anchor:] = 9.0
    changed.inputs[0, 8:] = 5
    own = (batch.block == 0).nonzero()[:, 0]
    torch.testing.assert_close(net(changed)[own], logits[own])


@pytest.mark.parametrize("layout", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["target-conditioned", "standalone"])
@pytest.mark.parametrize("inner", [None, 20])
def test_the_trained_form_is_the_one_that_drafts(tiny, tmp_path, monkeypatch, layout, kind, inner):
    """The exported drafter gives in decoding what the network gave in training, in the same arithmetic."""
    monkeypatch.setattr("diffuspec.models.drafter.fastest_arithmetic", lambda device: "float32")
    model = tiny.model() if layout == "llama" else qwen(layout)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
            parameter.copy_(parameter.bfloat16())
    prompts = [Prompt(0, "mt", (Say("abc"), Answer(24)))]
    synthesis = Synthesis(StockSlots(model, 1, 128), tiny.tokenizer(), STOPS, keep_layers=LAYERS)
    (conversation,) = synthesis.run(prompts)
    net = DrafterNetwork(model, LAYERS, torch.arange(264), kind, inner)
    with torch.no_grad():
        net.mask_embedding.copy_(net.mask_embedding.bfloat16())
    batch = cut([conversation], blocks=1, filled=0.0)
    trained = net(batch)
    export(net, net.state_dict(), tmp_path, name="tiny", max_block=32, eos=3)
    model.set_attn_implementation("sdpa")
    target = Target(model)
    ids, anchor = conversation.ids.tolist(), int(batch.positions[0, 0])
    cache = target.new_cache()
    target.prefill(cache, ids[:anchor])
    if kind == "standalone":
        stored = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        convention = Convention(mask_token=264, attention="causal-prefix", shifted=True)
        drafter = StandaloneDrafter(stored, 264, convention, 264)
    else:
        drafter = load_block_drafter(tmp_path, target)
    drafted = drafter.logits(ids[: anchor + 1], [MASKED] * 8, cache)
    torch.testing.assert_close(trained, drafted[: len(trained)].float(), atol=0.01, rtol=1e-3)


def trained(tiny, conversations, folder, kind="target-conditioned", save_every=4, recipe=RECIPE, stop_at=None):
    trainer = adapt.Trainer(network(tiny, kind), conversations, STOPS, 3, recipe, folder)

    def progress(fraction, message):
        if stop_at is not None and fraction is not None and trainer.step == stop_at:
            raise KeyboardInterrupt

    trainer.run(save_every, 6, progress)
    return trainer


@pytest.mark.parametrize("kind", ["target-conditioned", "standalone"])
def test_a_killed_run_ends_with_the_same_weights(tiny, conversations, tmp_path, kind):
    whole = trained(tiny, conversations, tmp_path / "whole", kind)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, conversations, tmp_path / "killed", kind, stop_at=7)
    again = trained(tiny, conversations, tmp_path / "killed", kind)
    assert again.step == whole.step == RECIPE.steps and again.rows == whole.rows
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, again.average[name]), name
    assert not torch.equal(whole.average["mask_embedding"], network(tiny, kind).mask_embedding)


@pytest.mark.parametrize("bf16", [0, 1])
def test_training_raises_held_out_acceptance(tiny, conversations, tmp_path, bf16):
    recipe = dataclasses.replace(RECIPE, steps=60, average=0.9, bf16=bf16)
    trainer = adapt.Trainer(network(tiny), conversations, STOPS, 3, recipe, tmp_path)
    before = trainer.evaluate(k=8)
    trainer.run(60, 60, lambda *_: None)
    after = trainer.evaluate(k=8)
    assert after["accepted"] > before["accepted"] + 0.1
    assert len(after["right"]) == 8 and set(after["by_family"]) == {"mt", "qa"}


def test_attention_with_and_without_gradients_is_the_same():
    torch.manual_seed(4)
    query, key, value = torch.randn(2, 6, 5, 8, requires_grad=True), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    mask = torch.zeros(2, 1, 5, 9).masked_fill(torch.rand(2, 1, 5, 9) < 0.3, -torch.inf)
    asked, _ = grouped_attention(None, query, key, value, mask, scaling=0.3)
    with torch.no_grad():
        fused, _ = grouped_attention(None, query, key, value, mask, scaling=0.3)
    assert asked.requires_grad
    torch.testing.assert_close(asked.detach(), fused)


def test_a_part_of_a_step_is_of_like_lengths_and_the_longest_come_first(conversations):
    lengths = range(40, 1240, 40)
    many = [dataclasses.replace(c, ids=np.zeros(n)) for c, n in zip(conversations[:6] * 5, lengths, strict=True)]
    parts = adapt._parts(many)
    assert sorted(id(c) for part in parts for c in part) == sorted(map(id, many))
    made = [[len(c.ids) for c in part] for part in parts]
    assert [n for part in made for n in part] == sorted(lengths, reverse=True)
    assert all(len(part) <= adapt.PART and len(part) * part[0] <= adapt.PADDED for part in made)
    assert len(adapt._parts(many[:1] * 30)) == 3 and adapt._parts([dataclasses.replace(many[0], ids=np.zeros(9000))])


def test_products_in_bfloat16_give_the_gradients_of_float32_but_for_rounding(tiny, conversations, tmp_path):
    gradients = []
    for bf16 in (0, 1):
        recipe = dataclasses.replace(RECIPE, bf16=bf16)
        trainer = adapt.Trainer(network(tiny), conversations, STOPS, 3, recipe, tmp_path / str(bf16))
        gradients.append(torch.cat([g.float().flatten() for g in trainer._gradient(conversations[:4], (1, 2))[3]]))
    assert not torch.equal(*gradients)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.995
    assert float(gradients[1].norm()) == pytest.approx(float(gradients[0].norm()), rel=0.02)


class Foretold:
    """Stands for a drafter that is right in the first `right` rows of every block."""

    key_heads = 2
    draft_vocab = torch.arange(264)

    device = torch.device("cpu")

    def __init__(self, right):
        self.right = right

    def eval(self):
        pass

    def __call__(self, batch):
        named = torch.where(batch.depth < self.right, batch.targets, batch.targets + 1)
        return torch.nn.functional.one_hot(named, 264).float()


def test_what_is_foreseen_past_the_end_of_an_answer_is_no_token_accepted(conversations):
    """A verifier stops at the end of an answer, so that rows which rightly say "end" after it gain nothing."""
    k, ends = 8, 0
    found = adapt.acceptance(Foretold(k), conversations, STOPS, 3, k=k)
    parts = [conversations[first : first + 8] for first in range(0, len(conversations), 8)]
    left = {"mt": [], "qa": []}
    for number, part in enumerate(parts):
        options = {"blocks": 4, "length": k, "stop_ids": STOPS, "eos": 3, "key_heads": 2, "filled": 0.0}
        batch = blocks.cut(part, np.random.default_rng([7, number]), **options)
        for i, first in enumerate(batch.positions[:, ::k].flatten().tolist()):
            conversation = part[i // 4]
            end = next(int(e) for s, e in conversation.spans if s <= first + 1 < e)
            left[conversation.family].append(min(k, end - first - 1))
            ends += end - first - 1 < k
    assert ends > 5
    assert found["by_family"] == pytest.approx({name: np.mean(rows) for name, rows in left.items()})
    assert found["right"] == [1.0] * k


@pytest.mark.parametrize("right", [0, 1, 3, adapt.WALK])
def test_decoding_begins_a_draft_after_what_the_last_one_foresaw_and_a_token_of_the_target(conversations, right):
    for conversation in conversations[:9]:
        found = adapt.visited(Foretold(right), conversation, STOPS, 3)
        start, expected = 0, []
        for first, last in conversation.spans.tolist():
            expected += range(start, start + last - first, right + 1)
            start += last - first
        assert found.tolist() == expected


def test_a_run_may_draw_its_blocks_where_decoding_would_begin_drafts(tiny, conversations, tmp_path):
    recipe = dataclasses.replace(RECIPE, visited=1.0)
    whole = trained(tiny, conversations, tmp_path / "whole", recipe=recipe)
    train, _ = adapt.split(conversations)
    places = {id(one): set(adapt.visited(network(tiny), one, STOPS, 3).tolist()) for one in train}
    rng = np.random.default_rng(0)
    assert all({whole._choose(one, rng) for _ in range(60)} <= places[id(one)] for one in train)
    assert any(len(places[id(one)]) < len(one.top_p) for one in train)
    with pytest.raises(KeyboardInterrupt):
        trained(tiny, conversations, tmp_path / "killed", recipe=recipe, stop_at=7)
    again = trained(tiny, conversations, tmp_path / "killed", recipe=recipe)
    assert all(torch.equal(tensor, again.average[name]) for name, tensor in whole.average.items())
    (tmp_path / "killed" / adapt.VISITED).unlink()
    with pytest.raises(DiffuSpecError, match="new folder"):
        trained(tiny, conversations, tmp_path / "killed", recipe=recipe)


def test_another_recipe_does_not_go_on_from_a_checkpoint(tiny, conversations, tmp_path):
    trained(tiny, conversations, tmp_path)
    with pytest.raises(Exception, match="another lr"):
        adapt.Trainer(network(tiny), conversations, STOPS, 3, dataclasses.replace(RECIPE, lr=1e-5), tmp_path)


def test_a_drafter_can_start_from_a_packed_one(tiny, tmp_path):
    net = network(tiny)
    export(net, net.state_dict(), tmp_path / "a", name="tiny", max_block=32, eos=3)
    pack_folder(tmp_path / "a", tmp_path / "b")
    other = network(tiny)
    with torch.no_grad():
        other.mask_embedding.zero_()
    other.start_from(tmp_path / "b")
    stored = load_file(tmp_path / "a" / "model.safetensors")
    for name, tensor in other.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, stored[name].float(), atol=0.02, rtol=0.02)


def test_sampled_columns_stand_for_the_whole_vocabulary(tiny, conversations, tmp_path):
    """On average over samples the sum of exp(logits) is that over all; with all drawn, the loss is the exact one."""
    batch = cut(conversations[:4], filled=0.0)
    net = network(tiny)
    with torch.no_grad():
        exact = net(batch).exp().sum(1)
        sums = []
        trainer = adapt.Trainer(net, conversations, STOPS, 3, dataclasses.replace(RECIPE, negatives=60), tmp_path)
        for seed in range(200):
            columns, correction = trainer._sampled_columns(batch, np.random.default_rng(seed))
            assert len(set(columns.tolist())) == len(columns) < 264
            sums.append((net(batch, columns) + correction).exp().sum(1))
    torch.testing.assert_close(torch.stack(sums).mean(0), exact, rtol=0.05, atol=0)


def test_a_row_counts_as_far_as_those_before_it_are_likely(tiny, conversations, tmp_path):
    """With `reach` 1 the weights of a block are the running products of its own probabilities."""
    batch = cut(conversations[:4], filled=0.0)
    net, recipe = network(tiny), dataclasses.replace(RECIPE, reach=1.0)
    trainer = adapt.Trainer(net, conversations, STOPS, 3, recipe, tmp_path)
    with torch.no_grad():
        logits = net(batch)
    _, weight = trainer._loss(logits, torch.arange(264), batch)
    p = logits.softmax(-1).gather(1, batch.targets[:, None])[:, 0]
    expected = 0.0
    for block in batch.block.unique():
        expected += float(torch.cumprod(torch.cat([torch.ones(1), p[batch.block == block][:-1]]), 0).sum())
    assert float(weight) == pytest.approx(expected, rel=1e-4)


def test_workers_change_nothing_but_the_time(tiny, conversations, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=3, conversations=30)
    runs = []
    for name, at_once in (("alone", 1), ("together", 2)):
        runs.append(adapt.Trainer(network(tiny), conversations, STOPS, 3, recipe, tmp_path / name))
        runs[-1].run(10, 10, lambda *_: None, workers=at_once)
    for name, tensor in runs[0].average.items():
        torch.testing.assert_close(tensor, runs[1].average[name], rtol=0, atol=0, msg=name)


def test_draft_vocabulary_holds_the_most_frequent(conversations):
    vocab = adapt.draft_vocabulary(conversations, 20, always=(3, 9)).tolist()
    counts = np.bincount(np.concatenate([c.top_ids[:, :2].ravel() for c in conversations]), minlength=264)
    assert {3, 9} <= set(vocab) and vocab == sorted(vocab) and 20 <= len(vocab) <= 22
    assert min(counts[t] for t in vocab if t not in (3, 9)) >= max(np.delete(counts, vocab))


def test_the_channels_kept_of_a_feed_forward_are_those_with_the_largest_weights(tiny):
    model = tiny.model()
    mlp = model.model.layers[2].mlp
    with torch.no_grad():
        for channel in (3, 17):
            mlp.down_proj.weight[:, channel] *= 100
    net = DrafterNetwork(model, LAYERS, torch.arange(264), inner=2)
    kept = net.layers[1].mlp
    assert torch.equal(kept.up_proj.weight, mlp.up_proj.weight[[3, 17]])
    assert torch.equal(kept.gate_proj.weight, mlp.gate_proj.weight[[3, 17]])
    assert torch.equal(kept.down_proj.weight, mlp.down_proj.weight[:, [3, 17]])
    with pytest.raises(WeightsError, match="cannot be kept"):
        DrafterNetwork(model, LAYERS, torch.arange(264), inner=10_000)


def test_layers_are_spread_over_the_target():
    assert spread_layers(30, 6) == [0, 1, 8, 15, 22, 29]
    assert spread_layers(3, 3) == [0, 1, 2] and spread_layers(3, 1) == [2]


def test_held_out_conversations_are_not_trained_on(conversations):
    many = [dataclasses.replace(c, number=i) for i, c in enumerate(conversations * 2)]
    train, held = adapt.split(many)
    assert held and not {c.number for c in train} & {c.number for c in held}
    assert isinstance(held[0], Conversation)


def test_caches_computed_afterwards_are_those_that_synthesis_leaves(tiny, conversations, tmp_path):
    with DataFolder(tmp_path).writer() as writer:
        for conversation in conversations[:5]:
            writer.add(dataclasses.replace(conversation, cache=None))
    read = caches.fill(StockSlots(tiny.model(), 1, 200), DataFolder(tmp_path), LAYERS, lambda *_: None)
    assert read == sum(len(c.ids) for c in conversations[:5])
    for made, kept in zip(DataFolder(tmp_path).conversations(), conversations, strict=False):
        np.testing.assert_allclose(made.cache[:-1], kept.cache, atol=5e-3)
    assert caches.fill(StockSlots(tiny.model(), 1, 200), DataFolder(tmp_path), LAYERS, lambda *_: None) == 0
