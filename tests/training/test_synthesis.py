"""Continuous batching must say what plain decoding says, whatever shares the batch."""

import numpy as np
import pytest
import torch

from diffuspec.models.int8.decoder import Int8Decoder
from diffuspec.models.target import Target
from diffuspec.training.data import DataFolder
from diffuspec.training.prompts import Answer, Invent, Prompt, Say
from diffuspec.training.slots import CompiledSlots, StockSlots
from diffuspec.training.synthesis import Synthesis, synthesise
from tests.fakes.tiny import qwen

STOPS = (1, 3)


PROMPTS = [
    Prompt(i, "mt", parts)
    for i, parts in enumerate(
        [
            (Say("Hello"), Answer(9)),
            (Say("A longer question, to be read in one pass?"), Answer(14), Say("And?"), Answer(6)),
            (Invent("Who ", 12), Answer(7)),
            (Say("x"), Answer(3), Invent(limit=5), Answer(5)),
            (Invent(limit=8), Answer(11)),
        ]
    )
]


def answered(model, tokenizer, slots, kind=StockSlots):
    synthesis = Synthesis(kind(model, slots, 256), tokenizer, STOPS, keep_layers=(0, 2), seed=4)
    return {c.number: c for c in synthesis.run(PROMPTS)}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_answers_are_the_targets_greedy_ones(tiny, plain_greedy, kind):
    model, tokenizer = (tiny.model() if kind == "llama" else qwen(kind)), tiny.tokenizer()
    done = answered(model, tokenizer, slots=3)
    assert sorted(done) == [0, 1, 2, 3, 4]
    model.set_attn_implementation("sdpa")
    for conversation in done.values():
        for start, end in conversation.spans:
            ids = conversation.ids.tolist()
            expected = plain_greedy(model, ids[:start], int(end - start), STOPS)
            assert ids[start:end] == expected
        with torch.inference_mode():
            out = model(torch.tensor([conversation.ids[:-1].tolist()]), use_cache=True)
        places = np.concatenate([np.arange(a, b) for a, b in conversation.spans]) - 1
        p = out.logits[0].softmax(-1)[places]
        assert (conversation.top_ids[:, 0] == conversation.ids[places + 1]).all()
        named = p.gather(1, torch.from_numpy(conversation.top_ids.astype(np.int64))).numpy()
        np.testing.assert_allclose(named, conversation.top_p, atol=2e-3)
        for kept, layer in enumerate((0, 2)):
            keys = out.past_key_values.layers[layer].keys[0].transpose(0, 1).flatten(1).numpy()
            np.testing.assert_allclose(conversation.cache[:, kept, 0], keys, atol=5e-3)


def test_in_int8_answers_are_those_of_plain_int8_decoding_and_the_batch_changes_no_bit(tiny):
    model, tokenizer = tiny.model(), tiny.tokenizer()
    done, alone = (
        answered(model, tokenizer, slots, lambda m, *more: CompiledSlots(Int8Decoder(m), *more)) for slots in (3, 1)
    )
    target = Target(tiny.model(), arithmetic="int8")
    assert sorted(done) == [0, 1, 2, 3, 4]
    for number, conversation in done.items():
        ids, cache, logits = conversation.ids.tolist(), target.new_cache(), []
        for token in ids[:-1]:
            logits.append(target.forward(cache, [token])[0])
        places = np.concatenate([np.arange(a, b) for a, b in conversation.spans]) - 1
        said = torch.stack([logits[place] for place in places])
        assert said.argmax(-1).tolist() == conversation.ids[places + 1].tolist()
        named = said.softmax(-1).gather(1, torch.from_numpy(conversation.top_ids.astype(np.int64))).numpy()
        np.testing.assert_allclose(named, conversation.top_p, atol=1e-3)
        for kept, layer in enumerate((0, 2)):
            for part, stored in enumerate((cache.layers[layer].keys, cache.layers[layer].values)):
                plain = stored[0].transpose(0, 1).flatten(1).half().numpy()
                assert np.array_equal(conversation.cache[:, kept, part], plain)
        assert alone[number].ids.tolist() == ids and np.array_equal(alone[number].cache, conversation.cache)


def test_what_is_sampled_does_not_depend_on_the_batch(tiny):
    alone, together = (answered(tiny.model(), tiny.tokenizer(), slots) for slots in (1, 4))
    for number, conversation in alone.items():
        assert conversation.ids.tolist() == together[number].ids.tolist()


def test_the_conversation_is_the_chat_templates(tiny):
    tokenizer = tiny.tokenizer()
    ids = answered(tiny.model(), tokenizer, slots=2)[1].ids.tolist()
    text = tokenizer.decode(ids)
    assert text.startswith(
        "<|im_start|>user\nA longer question, to be read in one pass?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n" in text


class Endless:
    """Prompts of several lengths, by number."""

    def __getitem__(self, number):
        return Prompt(number, "mt", (Say("x" * (number % 7 + 1)), Answer(4 + number % 5)))


def test_synthesis_goes_on_after_an_interruption(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("diffuspec.training.data.SHARD_TOKENS", 60)
    model, tokenizer = tiny.model(), tiny.tokenizer()
    calls = []

    def interrupt(fraction, message):
        calls.append(message)
        if len(calls) == 9:
            raise KeyboardInterrupt

    new = lambda: Synthesis(StockSlots(model, 2, 64), tokenizer, STOPS, keep_layers=(1,))  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        synthesise(new(), Endless(), DataFolder(tmp_path / "d"), 120, interrupt)
    before = {shard: shard.read_bytes() for shard in DataFolder(tmp_path / "d").shards()}
    assert before
    synthesise(new(), Endless(), DataFolder(tmp_path / "d"), 120, lambda *_: None)
    folder = DataFolder(tmp_path / "d")
    numbers = [c.number for c in folder.conversations()]
    assert len(numbers) == len(set(numbers)) and folder.answer_tokens() >= 120
    assert all(shard.read_bytes() == content for shard, content in before.items())
    assert all(len(c.cache) == len(c.ids) for c in folder.conversations())
