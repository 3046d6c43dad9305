"""The pairs known by name, and how each diffusion model wants to be read.

Every drafter here shares its target's token ids. Only `embedded` ships with the project; the
others are fetched from the Hugging Face Hub by whoever has the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffuspec.models.drafter import Convention

DREAM = Convention(mask_token=151666, shifted=True, layout="qwen2", context=2048)
MDLM_QWEN3 = Convention(mask_token="<|mask|>", layout="qwen3")
BD3LM_QWEN3 = Convention(mask_token="<|mask|>", attention="block-causal", layout="qwen3")
FAST_DLLM = Convention(mask_token=151665, attention="block-causal", shifted=True, layout="qwen2")

CONVENTIONS = {
    "Dream-org/Dream-v0-Base-7B": DREAM,
    "Dream-org/Dream-v0-Instruct-7B": DREAM,
    "apple/DiffuCoder-7B-Instruct": DREAM,
    "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1": MDLM_QWEN3,
    "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1": BD3LM_QWEN3,
    "Efficient-Large-Model/Fast_dLLM_v2_1.5B": FAST_DLLM,
}


@dataclass(frozen=True)
class Preset:
    """target, drafter: Hub ids; needs: rough memory for both in bfloat16, to be told before a download."""

    target: str
    drafter: str
    needs: str


EMBEDDED = "embedded"
CODER = "coder"  # Qwen2.5-Coder-1.5B-Instruct from its 4-bit GGUF, see `gguf.fetch`
PRESETS = {
    "dream-qwen2.5-32b": Preset("Qwen/Qwen2.5-32B", "Dream-org/Dream-v0-Base-7B", "80 GB of GPU memory"),
    "dream-qwen2.5-7b": Preset("Qwen/Qwen2.5-7B-Instruct", "Dream-org/Dream-v0-Instruct-7B", "32 GB of GPU memory"),
    "diffucoder-qwen2.5-coder-7b": Preset(
        "Qwen/Qwen2.5-Coder-7B-Instruct", "apple/DiffuCoder-7B-Instruct", "32 GB of GPU memory"
    ),
    "mdlm-qwen3-8b": Preset("Qwen/Qwen3-8B", "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", "20 GB of GPU memory"),
    "bd3lm-qwen3-8b": Preset("Qwen/Qwen3-8B", "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", "20 GB of GPU memory"),
    "fast-dllm-qwen2.5-7b": Preset(
        "Qwen/Qwen2.5-7B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_1.5B", "20 GB of GPU memory"
    ),
}
