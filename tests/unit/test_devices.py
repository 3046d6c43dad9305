"""What a described machine makes of a pair: no GPU is at hand here, and none is needed."""

from __future__ import annotations

import pytest

from diffuspec.errors import PairError
from diffuspec.models import memory
from diffuspec.models.devices import Device, choose_dtype, dtypes_on, spread_over, this_device
from diffuspec.models.families import BD3LM_QWEN3, DREAM, FAST_DLLM, MDLM_QWEN3, SDAR, convention_of
from diffuspec.models.presets import PRESETS

GB = 10**9


def cpu(int8=True, free=8):
    return Device("cpu", "cpu", free * GB, free * GB, int8, False)


def gpu(*free, name="cuda", bfloat16=True):
    index = int(name.partition(":")[2] or 0)
    return Device(name, "cuda", free[index] * GB, sum(free) * GB, False, bfloat16)


@pytest.mark.parametrize(
    ("device", "quantised", "expected"),
    [
        (cpu(), True, "int8"),
        (cpu(), False, "float32"),
        (cpu(int8=False), True, "float32"),
        (cpu(int8=False), False, "float32"),
        (gpu(80), True, "bfloat16"),
        (gpu(80), False, "bfloat16"),
        (gpu(16, bfloat16=False), True, "float32"),
    ],
)
def test_the_default_arithmetic_is_one_the_device_has(device, quantised, expected):
    assert choose_dtype(None, device, quantised) == expected == dtypes_on(device, quantised)[0]
    assert all(choose_dtype(dtype, device, quantised) == dtype for dtype in dtypes_on(device, quantised))


@pytest.mark.parametrize("quantised", [True, False])
def test_int8_is_never_asked_of_a_gpu(quantised):
    assert "int8" not in dtypes_on(gpu(80), quantised)
    with pytest.raises(PairError, match="runs on a CPU, not on cuda: use --dtype bfloat16"):
        choose_dtype("int8", gpu(80), quantised)


@pytest.mark.parametrize(
    ("device", "spread"),
    [
        (gpu(80), False),
        (gpu(48, 48), True),
        (gpu(80, 10), False),
        (gpu(10, 80, name="cuda:1"), False),
    ],
)
def test_a_target_is_spread_only_where_one_gpu_is_too_small(device, spread):
    assert spread_over(66 * GB, device) is spread
    assert spread_over(None, device) is False


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (gpu(23), r"need about 75\.9 GB, and cuda has 23\.0 GB free, enough for 10\.0 billion parameters in bfloat16"),
        (gpu(23, 23), r"cuda has 46\.0 GB free, enough for 20\.0 billion"),
        (gpu(23, 80, name="cuda:0"), r"cuda:0 has 23\.0 GB free"),
        (cpu(), r"cpu has 8\.0 GB free"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(device, said):
    with pytest.raises(PairError, match=said):
        spread_over(66 * GB, device)


def test_presets_tell_the_memory_that_is_asked_for():
    for pair in PRESETS.values():
        told = float(pair.needs.split()[0])
        enough, little = (gpu(told + extra) for extra in (0.5, -1.5))
        assert spread_over(int(pair.needs_gb * GB), enough) is False
        with pytest.raises(PairError):
            spread_over(int(pair.needs_gb * GB), little)


def test_the_memory_of_a_container_is_its_bound(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 250\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert this_device("cpu").free == 2250
    (tmp_path / "memory.max").write_text("max\n")
    assert this_device("cpu").free > 2250
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    assert this_device("cpu").free > 2250


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        ({"model_type": "Dream"}, "anywhere", DREAM),
        ({"model_type": "a2d-qwen3"}, "x", MDLM_QWEN3),
        ({"model_type": "a2d-qwen3"}, "Qwen3-0.6B-diffusion-bd3lm-v0.1", BD3LM_QWEN3),
        ({"model_type": "Fast_dLLM_Qwen"}, "x", FAST_DLLM),
        ({"model_type": "sdar"}, "x", SDAR),
        ({"model_type": "qwen2"}, "Dream-org/Dream-v0-Base-7B", None),
    ],
)
def test_a_family_is_known_by_its_own_config(config, name, expected):
    assert convention_of(config, name) == expected


def test_the_config_tells_mask_and_block():
    made = convention_of({"model_type": "Fast_dLLM_Qwen", "mask_token_id": 7, "bd_size": 16})
    assert (made.mask_token, made.block) == (7, 16)
    made = convention_of({"model_type": "sdar", "mask_token_id": 9, "block_size": 8, "bd_size": 2})
    assert (made.mask_token, made.block, made.attention, made.shifted) == (9, 8, "block-causal", False)


@pytest.mark.parametrize("name", ["toaster", "meta"])
def test_a_device_that_is_not_here_is_named(name):
    with pytest.raises(PairError, match=name):
        this_device(name)
