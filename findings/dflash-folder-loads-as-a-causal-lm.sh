#!/usr/bin/env bash
# A published DFlash drafter's folder, opened with AutoModelForCausalLM, gives a working-looking Qwen3 model.
#
# Versions: transformers 5.23.0, torch 2.13.0, safetensors 0.8.0.
# A DFlash folder holds `model_type: qwen3`, layers named as Qwen3's, and neither an embedding nor a head, since the
# drafter borrows its target's. One would expect the load to fail, or the architecture "DFlashDraftModel" to matter.
# Seen: it succeeds as Qwen3ForCausalLM. The embedding and the head are drawn afresh at each load (a load report is
# logged, no error raised), so two loads of one folder give different logits; the fusing layer is dropped. Used as a
# drafter, it is lossless and never accepted, which looks like a bad drafter and not like a wrong load.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0
env/bin/python - <<'PY'
import json

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()
h, inner, heads, kv_heads, d, layers = 32, 64, 4, 2, 8, 2
config = {
    "architectures": ["DFlashDraftModel"],
    "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
    "model_type": "qwen3",
    "block_size": 16,
    "dflash_config": {"mask_token_id": 127, "target_layer_ids": [1, 3]},
    "num_target_layers": 4,
    "hidden_size": h,
    "intermediate_size": inner,
    "num_attention_heads": heads,
    "num_key_value_heads": kv_heads,
    "head_dim": d,
    "vocab_size": 128,
    "num_hidden_layers": layers,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
with open("config.json", "w") as file:
    json.dump(config, file)


def drawn(*shape):
    return torch.randn(*shape) * 0.02


weights = {"fc.weight": drawn(h, 2 * h), "hidden_norm.weight": torch.ones(h), "norm.weight": torch.ones(h)}
for i in range(layers):
    for name, shape in {
        "self_attn.q_proj": (heads * d, h),
        "self_attn.k_proj": (kv_heads * d, h),
        "self_attn.v_proj": (kv_heads * d, h),
        "self_attn.o_proj": (h, heads * d),
        "mlp.gate_proj": (inner, h),
        "mlp.up_proj": (inner, h),
        "mlp.down_proj": (h, inner),
    }.items():
        weights[f"layers.{i}.{name}.weight"] = drawn(*shape)
    for name, n in {"self_attn.q_norm": d, "self_attn.k_norm": d, "input_layernorm": h}.items():
        weights[f"layers.{i}.{name}.weight"] = torch.ones(n)
    weights[f"layers.{i}.post_attention_layernorm.weight"] = torch.ones(h)
save_file(weights, "model.safetensors", metadata={"format": "pt"})

model, report = AutoModelForCausalLM.from_pretrained(".", output_loading_info=True)
again = AutoModelForCausalLM.from_pretrained(".")
ids = torch.tensor([[1, 2, 3]])
same = torch.equal(model(ids).logits, again(ids).logits)
missing, left_over = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
print("loaded as", type(model).__name__)
print("missing, drawn afresh:", missing)
print("left over, dropped:", left_over)
print("two loads give the same logits:", same)
assert type(model).__name__ == "Qwen3ForCausalLM" and not same
assert missing == ["lm_head.weight", "model.embed_tokens.weight"]
assert left_over == ["fc.weight", "hidden_norm.weight"]
PY
