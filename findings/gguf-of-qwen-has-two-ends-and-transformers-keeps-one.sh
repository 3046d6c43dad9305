#!/usr/bin/env bash
# One GGUF file, two readers, two ideas of where an answer ends.
#
# Versions: transformers 5.23.0 (torch 2.13.0, gguf 0.19.0), xllamacpp 2026.10.11549 (llama.cpp's server).
# A GGUF file names one end token, `tokenizer.ggml.eos_token_id`; Qwen's instruct files name <|im_end|>. Qwen's own
# generation_config.json lists two ids, <|endoftext|> as well. llama.cpp adds to the named one every token whose
# *text* is a known end of generation, so that it stops at both. transformers, which reads the same file, keeps the one
# id in config, generation config and tokenizer, and generates on after <|endoftext|> to the token limit.
# The file below is a random tiny Qwen2 whose head always prefers <|endoftext|>.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 gguf==0.19.0 xllamacpp==2026.10.11549
cat > server.py <<'PY'
import os
import sys

import xllamacpp

wanted = xllamacpp.CommonParams()
wanted.model.path = "q.gguf"
wanted.n_ctx, wanted.n_parallel, wanted.fit_params, wanted.verbosity = 128, 1, False, 0
server = xllamacpp.Server(wanted)
print(f"\nlistening: {server.listening_address}", flush=True)
os.dup2(2, 1)
sys.stdin.read()
PY
env/bin/python - <<'PY'
import json
import subprocess
import sys
import urllib.request

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
h, inner, kv = 32, 64, 16
tokens = [chr(i) if 33 <= i <= 126 else f"<b{i}>" for i in range(256)] + ["ab"]
TEXT_END, START, TURN_END = 257, 258, 259
tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
file = gguf.GGUFWriter("q.gguf", "qwen2")
file.add_context_length(128)
file.add_embedding_length(h)
file.add_block_count(1)
file.add_feed_forward_length(inner)
file.add_head_count(4)
file.add_head_count_kv(2)
file.add_layer_norm_rms_eps(1e-6)
file.add_rope_freq_base(1e6)
file.add_file_type(0)
file.add_vocab_size(len(tokens))
file.add_tokenizer_model("gpt2")
file.add_tokenizer_pre("qwen2")
file.add_token_list(tokens)
file.add_token_types([1] * 257 + [3] * 3)
file.add_token_merges(["a b"])
file.add_eos_token_id(TURN_END)
file.add_pad_token_id(TEXT_END)
ones, zeros = np.ones(h, np.float32), np.zeros
head = zeros((len(tokens), h), np.float32)
head[TEXT_END] = 1  # the embedding is 1 everywhere and the layer adds nothing: this row wins
file.add_tensor("token_embd.weight", np.ones((len(tokens), h), np.float32))
file.add_tensor("output.weight", head)
file.add_tensor("output_norm.weight", ones)
shapes = {"attn_q": (h, h), "attn_k": (kv, h), "attn_v": (kv, h), "attn_output": (h, h)}
shapes |= {"ffn_gate": (inner, h), "ffn_up": (inner, h), "ffn_down": (h, inner)}
for name, shape in shapes.items():
    file.add_tensor(f"blk.0.{name}.weight", zeros(shape, np.float32))
for name, width in {"attn_q": h, "attn_k": kv, "attn_v": kv}.items():
    file.add_tensor(f"blk.0.{name}.bias", zeros(width, np.float32))
file.add_tensor("blk.0.attn_norm.weight", ones)
file.add_tensor("blk.0.ffn_norm.weight", ones)
file.write_header_to_file()
file.write_kv_data_to_file()
file.write_tensors_to_file()
file.close()

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="q.gguf", dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="q.gguf")
kept = model.config.eos_token_id, model.generation_config.eos_token_id, tokenizer.eos_token_id
ids = torch.tensor([[65, 66]])
by_transformers = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
by_transformers = by_transformers[0, 2:].tolist()

child = subprocess.Popen([sys.executable, "server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
try:
    address = next(line for line in child.stdout if line.startswith("listening:")).split()[-1]
    asked = {"prompt": [65, 66], "n_predict": 8, "temperature": 0, "return_tokens": True}
    request = urllib.request.Request(
        address + "/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    answer = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60))
finally:
    child.stdin.close()
    child.wait(30)
print("the ids that transformers kept:", kept)
print("transformers generates:", by_transformers)
print("llama.cpp generates:", answer["tokens"], "and stops for", answer["stop_type"])
assert kept == (TURN_END,) * 3 and by_transformers == [TEXT_END] * 8
assert answer["stop_type"] == "eos" and answer["tokens_predicted"] == 1
PY
