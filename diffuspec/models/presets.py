"""The pairs known by name. Every drafter here shares its target's token ids.

Only `embedded` ships with the project; the others are fetched from the Hugging Face Hub by whoever has the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffuspec.errors import PairError

ROOM = 1.15  # caches, activations and what a device keeps for itself, as a factor of the weights


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
SERVER = "server"  # the name of a pair whose target is one, see docs/servers.md
SERVER_KINDS = ("llama.cpp", "vllm", "sglang", "ray")
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
NAMES = (EMBEDDED, CODER, *PRESETS)


def is_gguf(source: object) -> bool:
    """Whether a target is named that is a GGUF file, by its ending."""
    return source is not None and str(source).lower().endswith(".gguf")


def check_asked(
    name: str | None,
    target: object,
    drafter: object,
    convention: object = None,
    target_url: object = None,
    server: object = None,
) -> None:
    """Refuse what is no pair by its words alone: an unknown name, half a pair, options where nothing takes them.

    Raises `PairError`.
    """
    if target_url:
        if name:
            raise PairError(f"A server is a target by itself: leave the pair {name} out, or the server's address.")
        if convention and not drafter:
            raise PairError("There is no drafter to be read in some way: leave its options out, or name one.")
        return
    if server:
        raise PairError(f"{server} is the kind of a server: give its address too (--target-url).")
    if target or drafter:
        if name or not (target and (drafter or is_gguf(target))):
            raise PairError(
                "Give either the name of a pair, or both a target and a drafter; a GGUF file may be a target alone."
            )
        if convention and not drafter:
            raise PairError(
                "A GGUF file alone has no drafter to be read in some way: leave its options out, or name one."
            )
        return
    name = name or EMBEDDED
    if name not in NAMES:
        raise PairError(f"Unknown pair {name!r}. Known pairs: {', '.join(NAMES)}.")
    if convention and name in (EMBEDDED, CODER):
        raise PairError(f"The pair {name} is read in one way only: leave the drafter's options out.")
