"""What the config.json of a DFlash, DFlash 2 or DSpark drafter says, whoever wrote it.

Three makers publish them. Read for this were the package dflash 0.1.0 (z-lab), DeepSpec afdfa7c (DeepSeek) and
speculators 0.9.0 (Red Hat), and two published DFlash configurations of the first form:

z-lab        "dflash_config" beside the fields of a Qwen3; `target_layer_ids` counts decoder layers
DeepSpec     the same names at the top level; -1 stands for the embedding
speculators  "speculators_model_type"; the layers' own fields under "transformer_layer_config";
             `aux_hidden_state_layer_ids` counts entries of `hidden_states`, of which 0 is the embedding
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffuspec.errors import PairError

KINDS = {"dflash": "DFlash", "dflash2": "DFlash 2", "dspark": "DSpark"}
_ARCHITECTURES = {
    "DFlashDraftModel": "dflash",
    "DFlash2DraftModel": "dflash2",
    "Qwen3DSparkModel": "dspark",
    "DSparkDraftModel": "dspark",
}
# Asked for by some checkpoints and computed otherwise than here: a draft would be wrong without a word.
_UNKNOWN = {
    "is_neox_style": True,
    "attention_sink_bias": None,
    "attention_value_scale": None,
    "mask_embedding": None,
}


@dataclass(frozen=True)
class LayerAttention:
    """What the rows of a block see in one layer: all of the text and of the block, or less.

    causal: no later row of the block; window: text positions at most, None is all of them; from_anchor: the window is
    counted from the anchor for all rows (speculators), not from each row (z-lab).
    """

    causal: bool = False
    window: int | None = None
    from_anchor: bool = False


@dataclass(frozen=True)
class DraftShape:
    """A drafter that reads hidden states.

    kind: a key of `KINDS`; block: rows of a pass, the anchor's among them; shifted: row i predicts the position after
    its own, so that the anchor's row counts too; entries: of the target's `hidden_states`; layers: the drafter's own;
    stack: the fields of a Qwen3Config; vocab: of the target; draft_vocab: of the drafter's output.
    """

    kind: str
    block: int
    mask_id: int
    shifted: bool
    entries: tuple[int, ...]
    layers: tuple[LayerAttention, ...]
    stack: dict[str, Any]
    vocab: int
    draft_vocab: int
    num_target_layers: int | None = None
    input_scale: float = 1.0
    output_scale: float = 1.0
    softcap: float | None = None
    conv: tuple[int, int] | None = None  # kernel size, channels of a group
    selector: tuple[int, int] | None = None  # rank, candidates
    markov: tuple[int, str] | None = None  # rank, type
    confidence: bool = False
    confidence_with_markov: bool = False
    verifier: str | None = field(default=None, compare=False)

    @property
    def max_block(self) -> int:
        return self.block if self.shifted else self.block - 1


def reads_hidden_states(config: dict[str, Any]) -> bool:
    """Whether this config.json is of a drafter of this family. Its model type may well say "qwen3": as such it would
    load, with freshly drawn embeddings, and never be accepted."""
    return (
        "dflash_config" in config
        or "speculators_model_type" in config
        or any(
            name in _ARCHITECTURES or "DSpark" in name or "DFlash" in name for name in config.get("architectures") or ()
        )
    )


def read_shape(config: dict[str, Any], source: str) -> DraftShape:
    """The drafter that a config.json describes; `PairError` says what is missing or not known."""
    try:
        return _speculators(config, source) if "speculators_model_type" in config else _plain(config, source)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PairError(f"The config.json of the drafter {source} is incomplete or damaged: {error!r}.") from error


def default_layer_ids(num_target_layers: int, layers: int) -> list[int]:
    """The decoder layers that z-lab's drafters read where their config names none."""
    if layers == 1:
        return [num_target_layers // 2]
    return [round(1 + i * (num_target_layers - 4) / (layers - 1)) for i in range(layers)]


def _plain(config, source) -> DraftShape:
    """Of z-lab, DeepSpec, and of trainers that write the same names."""
    own = config.get("dflash_config") or {}

    def value(name, default=None):
        found = own.get(name, config.get(name))
        return default if found is None else found

    names = config.get("architectures") or ["DFlashDraftModel"]
    kind = _ARCHITECTURES.get(names[0])
    if kind is None:
        raise PairError(
            f"The drafter {source} is a {names[0]}, which is not supported: {', '.join(_ARCHITECTURES)} are."
        )
    if kind == "dflash" and value("projector_type") == "dspark":
        kind = "dspark"
    for name, usual in _UNKNOWN.items():
        if value(name, usual) not in (usual, False if usual is None else usual):
            raise PairError(f"The drafter {source} sets {name}, which is not supported.")
    layers, depth = int(config["num_hidden_layers"]), value("num_target_layers")
    ids = value("target_layer_ids")
    if ids is None:
        if depth is None:
            raise PairError(
                f"The config.json of the drafter {source} names neither target_layer_ids nor num_target_layers."
            )
        ids = default_layer_ids(int(depth), layers)
    causal = value("is_causal", value("causal"))
    window = _window(config)
    attention = []
    for type_ in config.get("layer_types") or ["full_attention"] * layers:
        slides = type_ == "sliding_attention"
        attention.append(LayerAttention(slides if causal is None else bool(causal), window if slides else None))
    vocab = int(config["vocab_size"])
    rank = int(value("markov_rank", 0)) if kind == "dspark" else 0
    softcap = value("final_logit_softcapping")
    return DraftShape(
        kind=kind,
        block=int(value("block_size", 16)),
        mask_id=_mask(value("mask_token_id"), source),
        shifted=bool(value("sample_from_anchor", kind == "dspark")),
        entries=tuple(int(i) + 1 for i in ids),
        layers=tuple(attention),
        stack=_stack(config, source),
        vocab=vocab,
        draft_vocab=int(value("draft_vocab_size", vocab)),
        num_target_layers=None if depth is None else int(depth),
        input_scale=float(value("input_embedding_scale", 1.0)),
        output_scale=float(value("output_multiplier", 1.0)),
        softcap=float(softcap) if softcap and float(softcap) > 0 else None,
        conv=(int(value("conv_kernel_size")), int(value("conv_group_size"))) if kind == "dflash2" else None,
        selector=(int(value("selector_rank")), int(value("selector_top_k"))) if kind == "dflash2" else None,
        markov=(rank, str(value("markov_head_type", "vanilla"))) if rank else None,
        confidence=bool(value("enable_confidence_head", False)) and kind == "dspark",
        confidence_with_markov=bool(value("confidence_head_with_markov", False)),
    )


def _speculators(config, source) -> DraftShape:
    kind = config["speculators_model_type"]
    if kind not in KINDS:
        raise PairError(
            f"The drafter {source} is a speculator of type {kind!r}, which does not fill masks: use one of "
            f"{', '.join(KINDS)}."
        )
    stack = config["transformer_layer_config"]
    layers, vocab = int(stack["num_hidden_layers"]), int(stack["vocab_size"])
    ids = config.get("aux_hidden_state_layer_ids")
    if not ids:
        raise PairError(f"The config.json of the drafter {source} has no aux_hidden_state_layer_ids.")
    window = _window(stack)
    both_ways = bool(config.get("sliding_window_non_causal", kind == "dflash2"))
    attention = [
        LayerAttention(not both_ways, window, True) if type_ == "sliding_attention" and window else LayerAttention()
        for type_ in stack.get("layer_types") or ["full_attention"] * layers
    ]
    rank = int(config.get("markov_rank", 256)) if kind == "dspark" else 0
    verifier = (config.get("speculators_config") or {}).get("verifier") or {}
    return DraftShape(
        kind=kind,
        block=int(config.get("block_size", 8)),
        mask_id=_mask(config.get("mask_token_id"), source),
        shifted=bool(config.get("sample_from_anchor", kind == "dspark")),
        entries=tuple(int(i) for i in ids),
        layers=tuple(attention),
        stack=_stack(stack, source),
        vocab=vocab,
        draft_vocab=int(config.get("draft_vocab_size", vocab)),
        conv=(int(config.get("conv_kernel_size", 2)), int(config.get("conv_group_size", 16)))
        if kind == "dflash2"
        else None,
        selector=(int(config.get("selector_rank", 256)), int(config.get("selector_top_k", 16)))
        if kind == "dflash2"
        else None,
        markov=(rank, str(config.get("markov_head_type", "vanilla"))) if rank else None,
        confidence=bool(config.get("enable_confidence_head", True)) and kind == "dspark",
        confidence_with_markov=bool(config.get("confidence_head_with_markov", True)),
        verifier=verifier.get("name_or_path"),
    )


def _window(stack: dict[str, Any]) -> int | None:
    """A Qwen3Config forgets its window unless `use_sliding_window` is set, and so do all three makers."""
    return int(stack["sliding_window"]) if stack.get("use_sliding_window") and stack.get("sliding_window") else None


def _mask(found, source) -> int:
    if found is None:
        raise PairError(f"The config.json of the drafter {source} has no mask_token_id.")
    return int(found)


def _stack(config: dict[str, Any], source: str) -> dict[str, Any]:
    if config.get("hidden_act", "silu") != "silu":
        raise PairError(f"The drafter {source} uses the activation {config['hidden_act']!r}: only silu is supported.")
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "max_position_embeddings",
        "attention_bias",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "vocab_size",
    )
    stack = {name: config[name] for name in names if config.get(name) is not None}
    stack.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    stack.setdefault("rms_norm_eps", 1e-6)
    stack.setdefault("attention_bias", False)
    for name in ("intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        stack[name] = int(stack[name])
    return stack
