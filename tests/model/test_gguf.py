"""GGUF files: their numbers, models, tokenizers and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from diffuspec.errors import WeightsError
from diffuspec.models.gguf.blocks import KINDS, floats, pack
from diffuspec.models.gguf.decoder import decoder
from diffuspec.models.gguf.file import GGUF
from diffuspec.models.gguf.tokenizer import end_ids, tokenizer_of
from tests.model import gguf_files
from tests.model.test_int8 import unpacked


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_row_is_read_as_the_gguf_package_reads_it(kind):
    random = np.random.default_rng(1)
    rows = gguf_files.stored(random.normal(size=(9, 512)).astype(np.float32), kind, random)
    assert np.array_equal(floats(kind, rows), dequantize(rows, kind))


def logits(passes, ids):
    cache = passes.new_cache()
    passes.prefill(cache, ids[:-5])
    return passes.forward(cache, ids[-5:])


@pytest.mark.parametrize("architecture", gguf_files.MODELS)
@pytest.mark.parametrize(
    "kinds",
    [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0, Kind.F16,
     {"attn_v": Kind.Q6_K, "1.ffn_down": Kind.Q6_K, "0.attn_q": Kind.Q8_0, "token": Kind.Q6_K, "": Kind.Q4_K}],
    ids=lambda kinds: kinds.name if isinstance(kinds, Kind) else "mixed",
)  # fmt: skip
def test_a_file_computes_what_transformers_does_with_its_numbers(architecture, kinds, tmp_path):
    model = gguf_files.tiny(architecture, tied=architecture == "llama")
    gguf_files.write(tmp_path / "tiny.gguf", model, kinds)
    ids = np.random.default_rng(2).integers(4, 260, 40).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, -5:]
    made = logits(decoder(GGUF(tmp_path / "tiny.gguf")), ids)
    print(architecture, float((made - expected).norm() / expected.norm()))
    assert (made - expected).norm() < 0.06 * expected.norm()


@pytest.mark.parametrize(
    ("kind", "bits", "lost"),
    [(Kind.Q4_0, 4, 0), (Kind.Q4_1, 4, 0), (Kind.Q8_0, 8, 0), (Kind.Q4_K, 4, 0.001), (Kind.Q5_K, 8, 0.01),
     (Kind.Q6_K, 8, 0.01), (Kind.F16, 8, 0.01)],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)  # fmt: skip
def test_weights_are_kept_as_they_are_or_rounded_a_little(kind, bits, lost):
    """Lost: root mean square of what rounding changes, as a share of the weights' own."""
    random = np.random.default_rng(6)
    rows = [gguf_files.stored(random.normal(size=(n, 512)).astype(np.float32), kind, random) for n in (37, 19)]
    packed = pack(lambda part, first, last: rows[part][first:last], [kind] * 2, [(0, 37), (40, 19)], 512, bits)
    numbers, found = unpacked(packed, 59, 512)
    assert found == bits and not numbers[37:40].any()
    made, exact = np.delete(numbers, [37, 38, 39], 0), dequantize(np.concatenate(rows), kind)
    assert np.linalg.norm(made - exact) <= lost * np.linalg.norm(exact)


def test_a_row_has_the_same_bits_in_any_company(tmp_path):
    model = gguf_files.tiny("qwen3", tied=False)
    gguf_files.write(tmp_path / "tiny.gguf", model, {"ffn_down": Kind.Q6_K, "": Kind.Q4_K})
    passes = decoder(GGUF(tmp_path / "tiny.gguf"))
    ids = np.random.default_rng(4).integers(4, 260, 60).tolist()
    alone = passes.new_cache()
    one_by_one = torch.cat([passes.forward(alone, [token]) for token in ids])
    for size in (2, 9, 26, 60):
        cache = passes.new_cache()
        parts = [passes.forward(cache, ids[at : at + size]) for at in range(0, 60, size)]
        assert torch.equal(torch.cat(parts), one_by_one)


def test_text_becomes_the_files_own_tokens_and_the_template_is_kept(tmp_path):
    gguf_files.write(tmp_path / "tiny.gguf", gguf_files.tiny("qwen2"))
    file = GGUF(tmp_path / "tiny.gguf")
    tokenizer = tokenizer_of(file)
    text = "return 1234 {\n\n\tx['Ä'] = \U0001f600<|im_end|>  <|fim_prefix|>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces[:5] == ["ret", "u", "r", "n", "Ġ"]  # "return" is in the vocabulary, but nothing merges into it
    assert pieces.count("<|im_end|>") == pieces.count("<|fim_prefix|>") == 1 and "12" not in pieces  # digits stay alone
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "re"}], add_generation_prompt=True)
    assert tokenizer.decode(asked["input_ids"]) == "<|im_start|>user\nre<|im_end|>\n<|im_start|>assistant\n"
    assert end_ids(file) == {0, 2}  # of the metadata's one and the vocabulary's <|endoftext|>


def damaged(path, how):
    data = path.read_bytes()
    path.write_bytes(how(data))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (lambda data: b"no" + data[2:], "is no GGUF file"),
        (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "of another version"),
        (lambda data: data[:200], "is cut off"),
        (lambda data: data[:-200], "is cut off"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "is cut off"),
        (lambda data: data.replace(b"general.architecture", b"general.architectur\xff"), "not UTF-8"),
        (lambda data: b"", "is no GGUF file"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(how, says, tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_files.write(path, gguf_files.tiny("llama", layers=1))
    damaged(path, how)
    with pytest.raises(WeightsError, match=says) as refused:
        decoder(GGUF(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "gemma3"}, "architecture gemma3; known are llama"),
        ({"expert_count": 8}, "mixture of experts"),
        ({"rope.scaling.type": "yarn"}, "by yarn"),
        ({"rope.dimension_count": 32}, "a part of each head"),
        ({"block_count": 3}, "lacks the tensor blk.2"),
        ({"block_count": 1}, "has a tensor blk.1"),
        ({"attention.head_count_kv": 4}, "is expected"),
        ({"attention.head_count": 0}, "does not say"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_sentence(changes, says, tmp_path):
    gguf_files.write(tmp_path / "tiny.gguf", gguf_files.tiny("llama"), **changes)
    with pytest.raises(WeightsError, match=says) as refused:
        decoder(GGUF(tmp_path / "tiny.gguf"))
    assert "\n" not in str(refused.value)


def test_unknown_types_and_tokenizers_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_files.write(path, gguf_files.tiny("qwen2"), {"ffn_up": Kind.Q5_0, "": Kind.F16})
    with pytest.raises(WeightsError, match="stored as Q5_0; known are Q4_0"):
        decoder(GGUF(path))
    for changes, says in (
        ({"tokenizer_pre": "chameleon"}, "splits text in the way chameleon"),
        ({"tokenizer_model": "t5"}, "tokenizer of the kind t5"),
    ):
        gguf_files.write(path, gguf_files.tiny("qwen2"), **changes)
        with pytest.raises(WeightsError, match=says):
            tokenizer_of(GGUF(path))
    gguf_files.write(path, gguf_files.tiny("qwen2"), tokenizer=False)
    with pytest.raises(WeightsError, match="holds no tokenizer"):
        tokenizer_of(GGUF(path))
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        GGUF(tmp_path / "missing.gguf")
