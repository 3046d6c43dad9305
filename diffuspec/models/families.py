"""How each family of diffusion models wants to be read, known by its config.json."""

from __future__ import annotations

import dataclasses

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
