"""The pairs known by name, and how each diffusion model wants to be read.

Every drafter here shares its target's token ids. Only `embedded` ships with the project; the
others are fetched from the Hugging Face Hub by whoever has the hardware.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from diffuspec.models.devices import ROOM
from diffuspec.models.drafter import Convention

DREAM = Convention(mask_token=151666, shifted=True, layout="qwen2", context=2048)
MDLM_QWEN3 = Convention(mask_token="<|mask|>", layout="qwen3")
BD3LM_QWEN3 = Convention(mask_token="<|mask|>", attention="block-causal", layout="qwen3")
FAST_DLLM = Convention(mask_token=151665, attention="block-causal", shifted=True, layout="qwen2")
SDAR = Convention(mask_token=151669, attention="block-causal", block=4, layout="qwen3")

# What a checkpoint's own config.json says it is: a copy in a folder, or a fine-tune, is read as its family is.
MODEL_TYPES = {"Dream": DREAM, "a2d-qwen3": MDLM_QWEN3, "Fast_dLLM_Qwen": FAST_DLLM, "sdar": SDAR}
_BLOCK = {"Fast_dLLM_Qwen": "bd_size", "sdar": "block_size"}  # where a config.json says how long its blocks are


def convention_of(config: dict, source: str = "") -> Convention | None:
    """How a checkpoint of this config.json is read; None where its family is not known.

    source: its folder or Hub id. dllm's two kinds of Qwen3 have one model type: only their names tell them apart.
    """
    kind = config.get("model_type")
    family = MODEL_TYPES.get(kind)
    if family is MDLM_QWEN3 and "bd3lm" in source.lower():
        family = BD3LM_QWEN3
    told = {"mask_token": config.get("mask_token_id"), "block": config.get(_BLOCK.get(kind))}
    said = {name: value for name, value in told.items() if isinstance(value, int)}
    return dataclasses.replace(family, **said) if family else None


@dataclass(frozen=True)
class Preset:
    """A pair of published checkpoints: Hub ids, gigabytes of the weights of both in bfloat16, and the licences that
    their makers name, "" where their pages have to be read."""

    target: str
    drafter: str
    needs_gb: float
    licence: str = ""

    @property
    def needs(self) -> str:
        """The memory to have for both in bfloat16, in words."""
        return f"{self.needs_gb * ROOM:.0f} GB of memory in bfloat16"


EMBEDDED = "embedded"
CODER = "coder"  # Qwen2.5-Coder-1.5B-Instruct from its 4-bit GGUF, see `gguf.fetch`
NEEDS_GB = {EMBEDDED: 0.8, CODER: 1.3}  # of memory, measured in their usual arithmetic on a CPU
APACHE, LLAMA = "Apache-2.0", "Llama community licence"
PRESETS = {
    "dream-qwen2.5-32b": Preset("Qwen/Qwen2.5-32B", "Dream-org/Dream-v0-Base-7B", 80.8, APACHE),
    "dream-qwen2.5-7b": Preset("Qwen/Qwen2.5-7B-Instruct", "Dream-org/Dream-v0-Instruct-7B", 30.4, APACHE),
    "diffucoder-qwen2.5-coder-7b": Preset("Qwen/Qwen2.5-Coder-7B-Instruct", "apple/DiffuCoder-7B-Instruct", 30.4),
    "mdlm-qwen3-8b": Preset("Qwen/Qwen3-8B", "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", 17.6),
    "bd3lm-qwen3-8b": Preset("Qwen/Qwen3-8B", "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", 17.6),
    "fast-dllm-qwen2.5-7b": Preset("Qwen/Qwen2.5-7B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_1.5B", 18.3, APACHE),
    "dflash-qwen3-4b": Preset("Qwen/Qwen3-4B", "z-lab/Qwen3-4B-DFlash-b16", 9.1),
    "dflash-qwen3-8b": Preset("Qwen/Qwen3-8B", "z-lab/Qwen3-8B-DFlash-b16", 18.5),
    "dflash-llama3.1-8b": Preset(
        "meta-llama/Llama-3.1-8B-Instruct", "z-lab/LLaMA3.1-8B-Instruct-DFlash-UltraChat", 18.3, LLAMA
    ),
    "dspark-llama3.2-1b": Preset(
        "unsloth/Llama-3.2-1B-Instruct", "rasyosef/Llama-3.2-1B-Instruct-speculator.dspark", 3.2, LLAMA
    ),
}
