"""8-bit arithmetic and the Llama decoders: close to the model, and the same bits whatever shares the pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from diffuspec.errors import PairError
from diffuspec.models.int8.decoder import Int8Cache, Int8Stack, int8_fits, quantise
from diffuspec.models.int8.layout import BLOCK, LANES, LEVEL, SPAN, WAY, WIDTHS, record_bytes
from diffuspec.models.int8.product import dots
from diffuspec.models.ranking import RankedLogits
from diffuspec.models.target import Target

ROOT = Path(__file__).parents[2]


def test_this_machine_compiles_the_8_bit_kernels():
    """The default arithmetic of the embedded pair; without it float32 is used, and these tests say nothing."""
    assert int8_fits()


def head_of(weight, gain):
    """The last norm and the product with a vocabulary, behind no layer."""
    from diffuspec.models.int8.decoder import LayerWeights

    width = weight.shape[1]
    nothing = LayerWeights(
        *(torch.zeros(rows, columns) for rows, columns in ((24, width), (width, 8), (32, width), (width, 16))),
        torch.ones(width),
        torch.ones(width),
    )
    stack = Int8Stack([nothing], gain, weight, heads=1, kv_heads=1, head_dim=8, eps=1e-5, theta=1e4, positions=99)

    def head(rows):
        cache = Int8Cache(1, 1, 8)
        cache.reserve(len(rows))
        n = len(rows)
        return stack(rows.copy(), cache, np.zeros(1, np.int32), 0, np.zeros((n, n), bool), np.arange(n))[0]

    return head


def unpacked(records, out, width):
    """The numbers that `quantise` wrote down for one matrix, float64 [out, width]."""
    blocks = -(-width // BLOCK)
    records, lanes = records.reshape(len(records), blocks, -1), LANES
    bits = next(bits for bits in (4, 8) if record_bytes(bits)[1] == records.shape[2])
    codes, numbers = np.split(records, [record_bytes(bits)[0]], 2)
    numbers = numbers.copy().view(np.float16).astype(np.float64).reshape(len(records), blocks, -1, lanes)
    if bits == 4:
        codes = codes.reshape(len(records), blocks, 4, lanes, 4)
        codes = np.stack([codes & 15, codes >> 4], 3)
    codes = codes.reshape(len(records), blocks, 8, lanes, 4).transpose(0, 3, 1, 2, 4).reshape(-1, blocks, 32)
    scale = numbers[:, :, 0].transpose(0, 2, 1).reshape(-1, blocks, 1)
    least = numbers[:, :, 1].transpose(0, 2, 1).reshape(-1, blocks, 1) if bits == 4 else -128 * scale
    return (codes * scale + least).reshape(-1, blocks * 32)[:out, :width], bits


def in_4_bits(out, width, random):
    """A matrix as a 4-bit file gives it back: 16 evenly spaced values in each block of 32."""
    blocks = (out, -(-width // 32), 32)
    codes = torch.randint(0, 16, blocks, generator=random)
    codes[..., 0], codes[..., 1] = 0, 15
    scale, least = (torch.randn(*blocks[:2], 1, generator=random).half().float() for _ in range(2))
    return (codes * scale.abs() + least).flatten(1)[:, :width]


def test_weights_of_a_4_bit_file_are_kept_without_loss_in_4_bits_and_others_in_8():
    random = torch.Generator().manual_seed(1)
    halves = [in_4_bits(21, 96, random) for _ in range(2)]
    for matrix, records in zip(halves, quantise(halves), strict=True):
        numbers, bits = unpacked(records, 21, 96)
        assert bits == 4 and np.array_equal(numbers, matrix.double().numpy())
    scale = (torch.rand(21, 3, 1, generator=random) + 0.1).half().float()
    whole = torch.randint(-127, 128, (21, 3, 32), generator=random)
    whole[..., 5] = 127
    matrix = (whole * scale).flatten(1)
    numbers, bits = unpacked(quantise([matrix])[0], 21, 96)
    assert bits == 8 and np.array_equal(numbers, matrix.double().numpy())
    one_of_both = quantise([halves[0], matrix])
    assert {unpacked(records, 21, 96)[1] for records in one_of_both} == {8}
    rounded, bits = unpacked(quantise([matrix], bits=4)[0], 21, 96)
    assert bits == 4 and np.abs(rounded - matrix.numpy()).max() < 0.07 * matrix.abs().max()


@pytest.mark.parametrize(("bits", "width"), [(4, 96), (8, 70)])
def test_a_product_is_exact_in_the_rounded_numbers_and_near_the_plain_one(bits, width):
    random = torch.Generator().manual_seed(1)
    weight, gain = torch.randn(97, width, generator=random), torch.rand(width, generator=random) + 0.5
    if bits == 4:
        weight = in_4_bits(97, width, random)
    rows = torch.randn(33, width, generator=random)
    rows[:, 3] *= 60  # an outlier channel, as language models have them
    made = torch.from_numpy(head_of(weight, gain)(rows.numpy()))
    numbers, found = unpacked(quantise([weight])[0], 97, width)
    assert found == bits
    blocks = torch.nn.functional.pad(rows * gain, (0, 96 - width)).unflatten(1, (3, 32))
    step = blocks.abs().amax(-1, keepdim=True) / LEVEL
    rounded = ((blocks / step).round() * step).flatten(1)[:, :width].double() @ torch.from_numpy(numbers).T
    norm = torch.sqrt(rows.double().square().mean(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(made.double(), rounded / norm, rtol=1e-3, atol=1e-3)
    exact = (rows * gain / norm.float()) @ weight.T
    assert (made - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("bits", [4, 8])
def test_other_processors_come_to_the_same_bits(bits):
    random = torch.Generator().manual_seed(2)
    weight = torch.randn(32, 64, generator=random)
    a = torch.randint(-127, 128, (3 * 64,), generator=random, dtype=torch.int8).numpy()
    steps = torch.rand(6, 2, generator=random).numpy()
    made = []
    ways = ["plain"] + ["avx2"] * (WAY != "plain") + ["vnni"] * (WAY == "vnni")
    for way, lanes in [(way, WIDTHS[way]) for way in ways] + [("plain", 16)]:
        packed = quantise([weight], bits=bits, lanes=lanes)[0]
        products, out = dots(bits, 4, way, lanes), np.zeros((3, 32), np.float32)

        @numba.njit
        def all_groups(packed, a, steps, out, products=products, lanes=lanes):
            for group in range(len(packed)):
                products(packed, group, a, steps, 0, 3, 3, 2, out, 0, group * lanes, False)

        all_groups(packed, a, steps, out)
        made.append(out)
    assert all(np.array_equal(made[0], other) for other in made) and made[0].any()


def test_a_row_has_the_same_bits_alone_and_in_company():
    random = torch.Generator().manual_seed(1)
    head = head_of(torch.randn(96, 64, generator=random), torch.ones(64))
    rows = torch.randn(33, 64, generator=random).numpy()
    together = head(rows)
    for n in (1, 2, 5, 9, 16):
        assert np.array_equal(head(rows[:n]), together[:n])
        assert np.array_equal(head(rows[-n:]), together[-n:])


def test_rows_of_zeros_stay_zeros():
    assert not head_of(torch.eye(32), torch.ones(32))(np.zeros((2, 32), np.float32)).any()


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_chains_and_trees_agree_with_single_passes_to_the_last_bit(tiny, arithmetic):
    random = np.random.default_rng(4)
    target = Target(tiny.model(), arithmetic=arithmetic)
    ids = random.integers(5, 260, 60).tolist()
    cache = target.new_cache()
    target.prefill(cache, ids[:20])
    alone = torch.cat([target.forward(cache, [token]) for token in ids[20:]])
    for n in (2, 3, 7, 16, 40):
        cache = target.new_cache()
        target.prefill(cache, ids[:20])
        chained = torch.cat([target.forward(cache, ids[i : i + n]) for i in range(20, 60, n)])
        assert torch.equal(chained, alone)

    cache = target.new_cache()
    target.prefill(cache, ids[:20])
    tree, parents, way = [ids[20]], [-1], [0]
    for token in ids[21:32]:  # each true token has a false sibling before it
        tree += [int(random.integers(5, 260)), token]
        parents += [way[-1], way[-1]]
        way.append(len(tree) - 1)
    assert torch.equal(target.forward_tree(cache, tree, parents)[way], alone[:12])
    target.keep(cache, len(tree), way)
    assert torch.equal(target.forward(cache, ids[32:40]), alone[12:20])


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_a_pass_says_itself_what_is_likely(tiny, arithmetic):
    """Whoever looks, the pass's threads or we afterwards, sees the same."""
    target, ids, parents = Target(tiny.model(), arithmetic=arithmetic), [7, 8, 9, 10, 11], [-1, 0, 0, 2, 3]
    for tree in (None, parents):
        cache = target.new_cache()
        target.prefill(cache, [5, 6])
        found = target.ranked(cache, ids, tree)
        later = RankedLogits(found.values.clone())
        assert torch.equal(found.values.argmax(-1), torch.from_numpy(found.likeliest).long())
        for one, other in zip(found.top(np.arange(5)), later.top(np.arange(5)), strict=True):
            assert np.array_equal(one, other)
        cache.crop(-5)
        again = target.forward_tree(cache, ids, tree) if tree else target.forward(cache, ids)
        assert torch.equal(again, found.values)


def test_the_number_of_threads_changes_no_bit(tiny):
    target, made = Target(tiny.model(), arithmetic="int8"), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            cache = target.new_cache()
            made.append(target.forward(cache, list(range(5, 25))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


INTERRUPTED = """
import os, signal
import numba, torch
from transformers import LlamaConfig, LlamaForCausalLM
from diffuspec.models.target import Target

torch.set_num_threads(2)
torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=12, num_attention_heads=4, num_key_value_heads=2)
target = Target(LlamaForCausalLM(LlamaConfig(vocab_size=264, **shape)), arithmetic="int8")
ids = list(range(5, 45))

def logits():
    cache = target.new_cache()
    target.prefill(cache, ids)
    return target.forward(cache, ids)

def interrupt(*_):
    raise KeyboardInterrupt

before, caught = logits(), 0
signal.signal(signal.SIGALRM, interrupt)
while caught < 500:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.000004 * caught)
        while True:
            logits()
    except KeyboardInterrupt:
        caught += 1
assert torch.equal(logits(), before)
try:
    print(numba.threading_layer())
except ValueError:
    print("no threading layer")
"""


PASSES = """
import hashlib
import numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM
from diffuspec.models.int8.layout import WAY
from diffuspec.models.target import Target

torch.manual_seed(0)
shape = dict(hidden_size=192, intermediate_size=512, num_attention_heads=3, num_key_value_heads=1)
target = Target(LlamaForCausalLM(LlamaConfig(vocab_size=500, num_hidden_layers=3, **shape)), arithmetic="int8")
random, digest = np.random.default_rng(1), hashlib.sha256()
for n in (1, 5, 30, 64, 200, 333):
    cache = target.new_cache()
    target.prefill(cache, random.integers(0, 500, n).tolist())
    for rows, parents in ((1, None), (9, None), (8, [-1, 0, 0, 1, 1, 2, 3, 6]), (30, None)):
        ids = random.integers(0, 500, rows).tolist()
        logits = target.forward_tree(cache, ids, parents) if parents else target.forward(cache, ids)
        digest.update(logits.numpy().tobytes())
        target.keep(cache, rows, [0])
print(WAY, digest.hexdigest())
"""
HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2"}


def test_whole_passes_have_the_same_bits_on_a_processor_without_avx_512():
    """Attention, norms and the prompt too, not products alone; elsewhere than on x86 there is one way only."""

    def logits(**environment):
        command = [sys.executable, "-c", PASSES]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=400, cwd=ROOT, env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    own, made = logits()
    way, again = logits(**HASWELL if WAY != "plain" else {})
    assert own == WAY and way == "plain" and made == again


def test_interrupts_leave_no_pass_waiting_and_openmp_takes_no_part_in_one():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == "no threading layer", done.stderr


def test_int8_is_near_the_model(tiny, tiny_model):
    target = Target(tiny.model(), arithmetic="int8")
    cache, ids = target.new_cache(), list(range(40, 60))
    logits = target.forward(cache, ids)
    exact = tiny_model(torch.tensor([ids])).logits[0]
    assert torch.nn.functional.cosine_similarity(logits, exact).min() > 0.99


def test_a_cache_grows_moves_and_shows_its_layers():
    random, span, rows = np.random.default_rng(5), SPAN, [0, 1, 17, 19]
    cache = Int8Cache(2, 3, span + 8)
    cache.reserve(20)
    keys, values = random.random((2, 3, 20, span + 8)), random.random((2, 3, 20, span + 8))
    for t in range(20):
        cache.keys[:, :, t // span, :, t % span] = keys[:, :, t]
        cache.values[:, :, 0, t], cache.values[:, :, 1, t, :8] = values[:, :, t, :span], values[:, :, t, span:]
    cache.length = 20
    cache.reserve(1000)
    cache.keep(1, [0, 16, 18])
    assert cache.get_seq_length() == 4 and cache.keys.shape[2] * span == cache.values.shape[3] >= 1000 + span

    def shown():
        return [(layer.keys[0].numpy(), layer.values[0].numpy()) for layer in cache.layers]

    for i, (some_keys, some_values) in enumerate(shown()):
        np.testing.assert_allclose(some_keys, keys[i][:, rows], rtol=1e-6)
        np.testing.assert_allclose(some_values, values[i][:, rows], rtol=1e-6)
    before = shown()
    with cache.scratch(2, 6):
        cache.keys[:, :, 0, :, 2:8] = cache.values[:, :, :, 2:8] = 7
        assert (shown()[1][0][:, 2:] == 7).all()
    for made, kept in zip(shown(), before, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(made, kept, strict=True))
    assert cache.length == 4


def test_other_architectures_are_refused_with_a_way_out():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=64, n_positions=32))
    with pytest.raises(PairError, match="float32"):
        Target(model, arithmetic="int8")


def test_the_embedded_pair_in_int8_says_what_plain_decoding_says(embedded_int8):
    from diffuspec import DiffuSpec, Settings
    from diffuspec.measure.baselines import compare_with_ar

    choices = [{"search": "cps"}, {"search": "exact"}, {"search": "tree"}, {"search": "tree", "copy": 0}]
    choices += [{"search": "tree", "length": "throughput"}, {"search": "cps", "length": "confidence"}]
    for choice in choices:
        trace = DiffuSpec(embedded_int8, Settings(**choice)).run("Name three colours of a rainbow.", max_new_tokens=48)
        assert compare_with_ar(embedded_int8, trace).difference is None, choice


COMPILED_IN_A_STEP = """
import sys
from numba.core.dispatcher import Dispatcher
from diffuspec import DiffuSpec, Settings, load_pair
from diffuspec.compilation import SOURCES

def known():
    names = ["diffuspec." + source.removesuffix(".py").replace("/", ".") for source in SOURCES]
    loaded = [sys.modules[name] for name in names if name in sys.modules]
    return {f: len(f.signatures) for module in loaded for f in vars(module).values() if isinstance(f, Dispatcher)}

pair = load_pair("embedded")
for settings in (
    dict(), dict(search="tree", followers=4, nodes=16), dict(search="tree", length="throughput", followers=4),
    dict(search="exact", m_max=4), dict(search="argmax", proxy="none"),
):
    run = DiffuSpec(pair, Settings(max_new_tokens=24, **settings)).stream("Say a word again and again.")
    before = known()
    assert len(before) > 40
    for step in run:
        assert known() == before, {name: n for name, n in known().items() if n != before[name]}
"""


def test_nothing_is_compiled_while_a_run_is_timed():
    """A step that has to compile takes a second: all that steps need is compiled when models and searches load."""
    done = subprocess.run([sys.executable, "-c", COMPILED_IN_A_STEP], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
