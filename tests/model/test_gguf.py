"""GGUF files: their numbers, models, tokenizers and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from diffuspec import DiffuSpec, Settings, Trace, load_pair
from diffuspec.cli.main import main
from diffuspec.errors import PairError, SettingsError, WeightsError
from diffuspec.measure.baselines import compare_with_ar
from diffuspec.models.drafter import BlockDrafter, Convention
from diffuspec.models.gguf.blocks import KINDS, floats, pack
from diffuspec.models.gguf.decoder import decoder, shape_of
from diffuspec.models.gguf.file import GGUF
from diffuspec.models.gguf.tokenizer import end_ids, tokenizer_of
from diffuspec.models.target import Target
from diffuspec.trace.whatif import search_again
from tests.fakes import gguf_files
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
    [
        Kind.Q4_0,
        Kind.Q4_1,
        Kind.Q4_K,
        Kind.Q5_K,
        Kind.Q6_K,
        Kind.Q8_0,
        Kind.F16,
        {"attn_v": Kind.Q6_K, "1.ffn_down": Kind.Q6_K, "0.attn_q": Kind.Q8_0, "token": Kind.Q6_K, "": Kind.Q4_K},
    ],
    ids=lambda kinds: kinds.name if isinstance(kinds, Kind) else "mixed",
)
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
    [
        (Kind.Q4_0, 4, 0),
        (Kind.Q4_1, 4, 0),
        (Kind.Q8_0, 8, 0),
        (Kind.Q4_K, 4, 0.001),
        (Kind.Q5_K, 8, 0.01),
        (Kind.Q6_K, 8, 0.01),
        (Kind.F16, 8, 0.01),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)
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
        ({"attention.head_count_kv": 3}, "do not fit together"),
        ({"attention.key_length": 0}, "do not fit together"),
        ({"embedding_length": 0}, "do not fit together"),
        ({"block_count": 2**32 - 1}, "names 4294967295 layers"),
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


def test_a_damaged_tokenizer_is_refused_in_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    for merges, says in (["r x"], "The tokenizer of tiny.gguf is damaged"), (["re"], "is no pair of tokens"):
        monkeypatch.setattr(gguf_files, "MERGES", merges)
        gguf_files.write(path, gguf_files.tiny("qwen2", layers=1))
        with pytest.raises(WeightsError, match=says) as refused:
            tokenizer_of(GGUF(path))
        assert "\n" not in str(refused.value)


def test_a_context_without_end_is_cut(tmp_path):
    gguf_files.write(tmp_path / "tiny.gguf", gguf_files.tiny("qwen2", layers=1), context_length=2**31)
    assert shape_of(GGUF(tmp_path / "tiny.gguf")).max_position_embeddings == 131_072


@pytest.fixture(scope="module")
def file_pair(tmp_path_factory):
    """A GGUF file on its own: a pair without a drafter."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_files.write(path, gguf_files.tiny("qwen2"), Kind.Q4_K)
    return load_pair(target=path)


def test_a_file_is_a_pair_without_a_drafter_that_drafts_from_the_text(file_pair):
    assert file_pair.info.drafter_kind == "none" and file_pair.info.max_draft == 0 and file_pair.info.dtype == "int8"
    assert file_pair.stop_ids == {0, 2}
    engine = DiffuSpec(file_pair)
    assert (engine.settings.search, engine.settings.length, engine.settings.proxy) == ("tree", "throughput", "context")
    for settings in (engine.settings, engine.settings.replace(length="adl", nodes=12)):
        trace = DiffuSpec(file_pair, settings).run("return 12 return 12 return", max_new_tokens=60)
        baseline = compare_with_ar(file_pair, trace)
        assert trace.with_baseline(baseline).identical_to_ar
        assert {step.draft_length for step in trace.steps} == {0}
        assert any(step.accepted for step in trace.steps)  # random weights loop, and a loop can be copied
        assert {step.length.decided for step in trace.steps} == {"no draft"}


def test_a_trace_without_drafts_is_saved_read_and_searched_again(file_pair, tmp_path):
    trace = DiffuSpec(file_pair).run("return 12 return 12 return", max_new_tokens=40)
    trace.save(tmp_path / "run.jsonl.gz")
    read = Trace.load(tmp_path / "run.jsonl.gz")
    assert read.token_ids == trace.token_ids and read.pair == trace.pair
    step = next(step for step in read.steps if step.accepted)
    again = search_again(read, step.index, read.settings)
    assert again.verdict.accepted >= step.accepted


def test_what_only_a_drafter_can_do_is_refused_in_one_sentence(file_pair):
    with pytest.raises(SettingsError, match="has no diffusion drafter.*only search = tree"):
        DiffuSpec(file_pair, Settings(proxy="context"))
    for more, says in (({"dtype": "float32"}, "in int8 on a CPU"), ({"dtype": "bfloat16"}, "in int8 on a CPU")):
        with pytest.raises(PairError, match=says):
            load_pair(target=file_pair.target.source, **more)
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        load_pair(target="missing.gguf")


def test_a_file_opens_on_the_command_line(file_pair, capsys):
    path = str(file_pair.target.source)
    assert main(["run", "return 12 return 12", "--target", path, "--max-new-tokens", "12", "--json"]) == 0
    out, said = capsys.readouterr()
    report = json.loads(out)
    assert report["new_tokens"] <= 12 and "has no diffusion drafter: its drafts are copies" in said
    assert main(["run", "return 12", "--target", path, "--search", "cps"]) == 1
    assert "only search = tree" in capsys.readouterr().err


def test_a_standalone_drafter_drafts_for_a_file(file_pair, tmp_path):
    """Two that share token ids, of which one is a GGUF."""
    model = gguf_files.tiny("qwen2")
    model.save_pretrained(tmp_path / "drafter")
    convention = Convention(mask_token=4, shifted=True)
    pair = load_pair(target=file_pair.target.source, drafter=str(tmp_path / "drafter"), convention=convention)
    trace = DiffuSpec(pair, Settings(proxy="context")).run("return 12 return 12", max_new_tokens=20)
    assert trace.with_baseline(compare_with_ar(pair, trace)).identical_to_ar and trace.steps[0].draft_length > 0


def test_a_block_drafter_reads_the_embedding_of_a_file(tiny, tmp_path):
    """The same draft as over the model that transformers makes of the same numbers."""
    model = gguf_files.tiny("llama")
    gguf_files.write(tmp_path / "tiny.gguf", model, {"token_embd": Kind.F16, "": Kind.Q8_0})
    file = GGUF(tmp_path / "tiny.gguf")
    drafts = []
    for target in (Target(model, arithmetic="int8"), Target.compiled(decoder(file), shape_of(file), file.path)):
        drafter = BlockDrafter(*tiny.block_parts(model), target)
        cache = target.new_cache()
        target.prefill(cache, list(range(20, 40)))
        drafts.append(drafter.draft(list(range(20, 41)), 6, width=5, passes=1, cache=cache))
    assert np.array_equal(drafts[0][0], drafts[1][0])
    np.testing.assert_allclose(drafts[0][1], drafts[1][1], atol=0.02)
